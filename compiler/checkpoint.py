"""Weights of one layer from a Hugging Face checkpoint: safetensors files, with the names of each family.

A checkpoint is one ``.safetensors`` file or a directory (sharded: ``model.safetensors.index.json``). The
families differ in how they name and store experts; all layouts below are looked for, and what is missing is
named:

- one matrix per expert and projection: ``mlp.experts.E.{gate,up,down}_proj`` (Qwen3, OLMoE),
  ``block_sparse_moe.experts.E.{w1,w3,w2}`` (Mixtral);
- all experts in one tensor, gate above up: ``mlp.experts.gate_up_proj (E, 2f, d)`` with ``down_proj (E, d,
  f)`` (the in-memory layout of transformers 5), ``block_sparse_moe.input_linear`` with ``output_linear``
  (Granite).

Activations are rarely in a checkpoint. If the file holds ``x``, ``k_cache`` or ``v_cache`` they are used;
else they are the synthetic ones of ``tensors`` for the seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..rtl.errors import WorkloadError
from .layers import Workload
from .safetensors_file import SafetensorsFile
from .tensors import (
    AttentionTensors,
    ExpertWeights,
    LayerTensors,
    MoETensors,
    attention_shapes,
    synthetic_cache,
    synthetic_input,
)

INDEX_NAME = "model.safetensors.index.json"
PREFIXES = ("model.", "", "model.language_model.", "language_model.model.")
"""What stands before ``layers.N``: a causal LM, its bare base model, and the text part of a multimodal
model."""

ROUTER_NAMES = (
    "mlp.gate.weight",
    "block_sparse_moe.gate.weight",
    "block_sparse_moe.router.layer.weight",
    "block_sparse_moe.router.weight",
)
PER_EXPERT_NAMES = (
    ("mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight", "mlp.experts.{}.down_proj.weight"),
    (
        "block_sparse_moe.experts.{}.w1.weight",
        "block_sparse_moe.experts.{}.w3.weight",
        "block_sparse_moe.experts.{}.w2.weight",
    ),
)
FUSED_NAMES = (
    ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    ("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
    ("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
)


class Checkpoint:
    """All tensors under a path, by name, whichever file they are in."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, SafetensorsFile] = {}
        for file in self._list_files():
            opened = SafetensorsFile(file)
            self._files |= dict.fromkeys(opened.names, opened)

    def _list_files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise WorkloadError(f"{self.path}: no such file or directory; expected safetensors weights")
        index = self.path / INDEX_NAME
        if not index.is_file():
            found = sorted(self.path.glob("*.safetensors"))
            if not found:
                raise WorkloadError(f"{self.path}: expected {INDEX_NAME} or *.safetensors files, found none")
            return found
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return [self.path / name for name in sorted(names)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise WorkloadError(
                f'{index}: expected a JSON object with "weight_map": {{tensor: file}}'
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def prefix(self, layer_index: int) -> str:
        """``model.layers.N.`` with whatever stands before it in this checkpoint."""
        for start in PREFIXES:
            prefix = f"{start}layers.{layer_index}."
            if any(name.startswith(prefix) for name in self._files):
                return prefix
        raise WorkloadError(
            f"{self.path}: layer {layer_index}: expected tensors model.layers.{layer_index}.*, found none"
        )

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray:
        """As ``SafetensorsFile.read``, whichever file holds the tensor."""
        if name not in self._files:
            raise WorkloadError(f"{self.path}: {name}: missing; expected a tensor of shape {shape}")
        return self._files[name].read(name, shape, index=index)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise as ``read`` would for a missing tensor, its shape or dtype, without reading it."""
        if name not in self._files:
            raise WorkloadError(f"{self.path}: {name}: missing; expected a tensor of shape {shape}")
        self._files[name].check(name, shape)


def from_safetensors(
    path: str | Path, workload: Workload, *, layer_index: int = 0, seed: int = 0
) -> LayerTensors:
    """Tensors of decoder layer ``layer_index``; activations from the file or synthetic (module docstring).

    Raises WorkloadError that names file and tensor: missing, wrong shape or dtype, truncated, NaN or Inf. The
    names, shapes and dtypes of all experts are checked here, their values when each is loaded.
    """
    if isinstance(layer_index, bool) or not isinstance(layer_index, int) or layer_index < 0:
        raise WorkloadError(f"{path}: layer index: expected a non-negative integer, got {layer_index!r}")
    checkpoint = Checkpoint(path)
    prefix = checkpoint.prefix(layer_index)
    if workload.layer.kind == "moe":
        return _moe(checkpoint, prefix, workload, seed)
    return _attention(checkpoint, prefix, workload, seed)


def draws(path: str | Path, workload: Workload) -> bool:
    """Are some activations of ``workload`` synthetic, because the file at ``path`` does not hold them?"""
    checkpoint = Checkpoint(path)
    activations = ("x", "k_cache", "v_cache") if workload.cached and workload.layer.kind == "attention" else ("x",)
    return any(name not in checkpoint for name in activations)


def _input(checkpoint: Checkpoint, workload: Workload, seed: int) -> np.ndarray:
    if "x" in checkpoint:
        return checkpoint.read("x", (workload.rows, workload.layer.hidden))
    return synthetic_input(workload, seed)


def _attention(checkpoint: Checkpoint, prefix: str, workload: Workload, seed: int) -> AttentionTensors:
    shapes = attention_shapes(workload)
    tensors = {"x": _input(checkpoint, workload, seed)}
    for short in ("q", "k", "v", "o"):
        name = f"{prefix}self_attn.{short}_proj"
        if f"{name}.bias" in checkpoint:
            raise WorkloadError(
                f"{checkpoint.path}: {name}.bias: biases are not built yet; expected weights only"
            )
        tensors[f"w{short}"] = checkpoint.read(f"{name}.weight", shapes[f"w{short}"])
    for name in ("q_norm", "k_norm"):
        if name in shapes:
            tensors[name] = checkpoint.read(f"{prefix}self_attn.{name}.weight", shapes[name])
        elif f"{prefix}self_attn.{name}.weight" in checkpoint:
            raise WorkloadError(
                f"{checkpoint.path}: {prefix}self_attn.{name}.weight: the layer has no QK-norm"
            )
    for name in ("k_cache", "v_cache"):
        stored = name in checkpoint
        tensors[name] = (
            checkpoint.read(name, shapes[name]) if stored else synthetic_cache(workload, seed, name)
        )
    return AttentionTensors(workload=workload, **tensors)


def _moe(checkpoint: Checkpoint, prefix: str, workload: Workload, seed: int) -> MoETensors:
    moe = workload.moe
    router = next((name for name in ROUTER_NAMES if prefix + name in checkpoint), ROUTER_NAMES[0])
    return MoETensors(
        workload=workload,
        x=_input(checkpoint, workload, seed),
        router=checkpoint.read(prefix + router, (moe.experts, moe.hidden)),
        load_expert=_expert_loader(checkpoint, prefix, workload),
    )


def _expert_loader(checkpoint: Checkpoint, prefix: str, workload: Workload) -> Callable[[int], ExpertWeights]:
    moe = workload.moe
    count, f, d = moe.experts, moe.intermediate, moe.hidden
    for gate_up, down in FUSED_NAMES:
        if prefix + gate_up in checkpoint:
            checkpoint.check(prefix + gate_up, (count, 2 * f, d))
            checkpoint.check(prefix + down, (count, d, f))

            def load_fused(
                index: int, gate_up: str = prefix + gate_up, down: str = prefix + down
            ) -> ExpertWeights:
                both = checkpoint.read(gate_up, (count, 2 * f, d), index=index)
                return ExpertWeights(
                    gate=both[:f], up=both[f:], down=checkpoint.read(down, (count, d, f), index=index)
                )

            return load_fused
    layout = next(
        (names for names in PER_EXPERT_NAMES if prefix + names[0].format(0) in checkpoint),
        PER_EXPERT_NAMES[0],
    )
    gate, up, down = (prefix + name for name in layout)
    for index in range(count):
        for name, shape in ((gate, (f, d)), (up, (f, d)), (down, (d, f))):
            checkpoint.check(name.format(index), shape)
    if gate.format(count) in checkpoint:
        raise WorkloadError(f"{checkpoint.path}: {gate.format(count)}: expected {count} experts, found more")

    def load_expert(index: int) -> ExpertWeights:
        return ExpertWeights(
            gate=checkpoint.read(gate.format(index), (f, d)),
            up=checkpoint.read(up.format(index), (f, d)),
            down=checkpoint.read(down.format(index), (d, f)),
        )

    return load_expert
