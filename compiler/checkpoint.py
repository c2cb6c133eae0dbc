"""Weights of one layer from a Hugging Face checkpoint: safetensors files, with the names of each family.

The families, and the tools that convert between them, differ in how they name and store experts. All layouts of
``SPLIT`` and ``STACKED`` are looked for under ``mlp`` and ``block_sparse_moe``, and what is missing is named:

- a matrix per expert and projection (Qwen3, OLMoE: ``gate_proj``, ``up_proj``, ``down_proj``; Mixtral: ``w1``, ``w3``,
  ``w2``), or gate above up in one matrix per expert;
- all experts in one tensor: gate above up ``(E, 2f, d)`` with down ``(E, d, f)`` (Granite: ``input_linear``,
  ``output_linear``; transformers 5 in memory: ``gate_up_proj``, ``down_proj``), or a tensor per projection.

A tensor of the layer that is not read is an error: the layer would be another one (a bias, a shared expert, the scale
of a quantized weight).

Activations are rarely in a checkpoint. If the file holds ``x``, ``k_cache`` or ``v_cache`` they are used;
else they are the synthetic ones of ``tensors`` for the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..rtl.spec.errors import WorkloadError
from .checkpoint_files import Checkpoint
from .graph.ir import Role
from .graph.layers import layer_graph
from .layers import MoELayer, Workload
from .tensors import (
    AttentionTensors,
    ExpertWeights,
    LayerTensors,
    MoETensors,
    synthetic_cache,
    synthetic_input,
)

BLOCKS = ("mlp.", "block_sparse_moe.")
ROUTER_NAMES = ("gate.weight", "router.layer.weight", "router.weight")
_NOT_NEEDED = ("rotary_emb.inv_freq", "k_scale", "v_scale")
"""Ends of names that do not change the layer: frequencies that are computed, and scales of an FP8 KV cache."""


class ExpertLayout(NamedTuple):
    """Names of the matrices of expert ``{}``, or of all experts. ``gate`` equal to ``up``: both in one, gate first."""

    gate: str
    up: str
    down: str


SPLIT = (
    ExpertLayout("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight", "experts.{}.down_proj.weight"),
    ExpertLayout("experts.{}.w1.weight", "experts.{}.w3.weight", "experts.{}.w2.weight"),
    ExpertLayout("experts.{}.gate_up_proj.weight", "experts.{}.gate_up_proj.weight", "experts.{}.down_proj.weight"),
    ExpertLayout("experts.{}.input_linear.weight", "experts.{}.input_linear.weight", "experts.{}.output_linear.weight"),
    ExpertLayout("input_linear.{}.weight", "input_linear.{}.weight", "output_linear.{}.weight"),
)
STACKED = (
    ExpertLayout("experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"),
    ExpertLayout("experts.gate_up_proj.weight", "experts.gate_up_proj.weight", "experts.down_proj.weight"),
    ExpertLayout("input_linear.weight", "input_linear.weight", "output_linear.weight"),
    ExpertLayout("experts.gate_proj.weight", "experts.up_proj.weight", "experts.down_proj.weight"),
    ExpertLayout("switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight", "switch_mlp.down_proj.weight"),
)


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
    given = layer_graph(workload).given()
    weights = {name: value for name, value in given.items() if value.role is Role.WEIGHT}
    tensors = {"x": _input(checkpoint, workload, seed)}
    for name, value in weights.items():
        bias = prefix + value.stored.replace(".weight", ".bias")
        if bias in checkpoint:
            raise WorkloadError(f"{checkpoint.path}: {bias}: biases are not built yet; expected weights only")
        tensors[name] = checkpoint.read(prefix + value.stored, value.shape)
    for name in ("q_norm", "k_norm"):
        if name not in weights and f"{prefix}self_attn.{name}.weight" in checkpoint:
            raise WorkloadError(
                f"{checkpoint.path}: {prefix}self_attn.{name}.weight: the layer has no QK-norm"
            )
    _nothing_else(checkpoint, f"{prefix}self_attn.", {prefix + value.stored for value in weights.values()})
    for name in ("k_cache", "v_cache"):
        stored = name in checkpoint
        tensors[name] = (
            checkpoint.read(name, given[name].shape) if stored else synthetic_cache(workload, seed, name)
        )
    return AttentionTensors(workload=workload, **tensors)


def _nothing_else(checkpoint: Checkpoint, prefix: str, read: Collection[str]) -> None:
    for name in checkpoint.under(prefix):
        if name not in read and not name.endswith(_NOT_NEEDED):
            raise WorkloadError(f"{checkpoint.path}: {name}: the layer has no such tensor; expected none")


def _moe(checkpoint: Checkpoint, prefix: str, workload: Workload, seed: int) -> MoETensors:
    moe = workload.moe
    names = [f"{prefix}{block}{name}" for block in BLOCKS for name in ROUTER_NAMES]
    router = next((name for name in names if name in checkpoint), names[0])
    block = prefix + next(block for block in BLOCKS if router.startswith(prefix + block))
    layout, stacked = _expert_layout(checkpoint, block)
    _check_experts(checkpoint, layout, stacked, moe)
    experts = set(layout) if stacked else {name.format(index) for index in range(moe.experts) for name in layout}
    tensors = MoETensors(
        workload=workload,
        x=_input(checkpoint, workload, seed),
        router=checkpoint.read(router, (moe.experts, moe.hidden)),
        load_expert=_expert_loader(checkpoint, layout, stacked, moe),
    )
    _nothing_else(checkpoint, block, {router, *experts})
    return tensors


def _expert_layout(checkpoint: Checkpoint, block: str) -> tuple[ExpertLayout, bool]:
    """The layout of which most names are there, with ``block`` before them, and whether experts are stacked."""
    layouts = [(ExpertLayout(*(block + name for name in names)), kind is STACKED)
               for kind in (SPLIT, STACKED) for names in kind]
    return max(layouts, key=lambda item: sum(name.format(0) in checkpoint for name in set(item[0])))


def _shapes(layout: ExpertLayout, moe: MoELayer) -> dict[str, tuple[int, int]]:
    """Shape of one expert's part of each tensor, by name."""
    f, d = moe.intermediate, moe.hidden
    inner = 2 * f if layout.gate == layout.up else f
    return {layout.gate: (inner, d), layout.up: (inner, d), layout.down: (d, f)}


def _check_experts(checkpoint: Checkpoint, layout: ExpertLayout, stacked: bool, moe: MoELayer) -> None:
    """Names, shapes and dtypes of all experts."""
    for name, shape in _shapes(layout, moe).items():
        if stacked:
            checkpoint.check(name, (moe.experts, *shape))
            continue
        for index in range(moe.experts):
            checkpoint.check(name.format(index), shape)
        if (more := name.format(moe.experts)) in checkpoint:
            raise WorkloadError(f"{checkpoint.path}: {more}: expected {moe.experts} experts, found more")


def _expert_loader(
    checkpoint: Checkpoint, layout: ExpertLayout, stacked: bool, moe: MoELayer
) -> Callable[[int], ExpertWeights]:
    shapes, f = _shapes(layout, moe), moe.intermediate

    def read(name: str, index: int) -> np.ndarray:
        if stacked:
            return checkpoint.read(name, (moe.experts, *shapes[name]), index=index)
        return checkpoint.read(name.format(index), shapes[name])

    def load(index: int) -> ExpertWeights:
        down = read(layout.down, index)
        if layout.gate != layout.up:
            return ExpertWeights(gate=read(layout.gate, index), up=read(layout.up, index), down=down)
        both = read(layout.gate, index)
        return ExpertWeights(gate=both[:f], up=both[f:], down=down)

    return load
