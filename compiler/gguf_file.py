"""A model in one GGUF file: its configuration as a ``config.json`` would say it, and its tensors by the names and in
the layouts of ``transformers``, which is what everything else here reads.

The package ``gguf`` parses the file and dequantizes its blocks to float32; that is the model, whatever the blocks cost.
The architecture ``llama`` is read: RMS norms, grouped heads, gated MLP. ``llama.cpp`` keeps the rows of q and k of a
head such that the pairs that are rotated stand side by side (2i, 2i + 1); here a pair is (i, i + size / 2).
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..rtl.spec.errors import ConfigError, ToolError, WorkloadError
from .models import ModelConfig, parse_config

ARCHITECTURE = "llama"
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
          "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_TURNED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
"""Tensors whose rows are in another order, and the key with the number of their heads."""


def load_package(name: str, needed_for: str) -> Any:
    """An optional package. Raises `ToolError` that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolError(f"{needed_for} needs the Python package {name}, which cannot be imported ({error}); "
                        "pip install 'tilescore[lm]'") from None


class GgufFile:
    """One GGUF file. ``fields``: its metadata by key; ``config``: the model; tensors as from `checkpoint_files`.

    Raises `ToolError` without the package ``gguf``, `WorkloadError` for a file that it cannot read, `ConfigError` for
    an architecture or a tensor that is not read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._gguf = load_package("gguf", f"{self.path}: a GGUF file")
        try:
            reader = self._gguf.GGUFReader(self.path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise WorkloadError(f"{self.path}: cannot be read as GGUF: {error}") from None
        self.fields = {name: field.contents() for name, field in reader.fields.items()}
        self._stored = {tensor.name: tensor for tensor in reader.tensors}
        self.raw = self._config()
        self.config: ModelConfig = parse_config(self.raw, name=str(self.fields.get("general.name", self.path.stem)),
                                                source=str(self.path))
        self._tensors = {self._name(name): name for name in self._stored}

    def _config(self) -> dict[str, Any]:
        """The metadata as fields of a ``config.json``."""
        found = self.fields.get("general.architecture")
        if found != ARCHITECTURE:
            raise ConfigError(f"{self.path}: general.architecture: expected {ARCHITECTURE}, got {found!r}")
        heads = self._field("attention.head_count")
        hidden = self._field("embedding_length")
        size = self._field("attention.key_length", hidden // heads)
        allowed = {"rope.scaling.type": ("none",), "rope.dimension_count": (size,), "expert_count": (0,),
                   "attention.value_length": (size,)}
        for key, values in allowed.items():
            if (value := self._field(key, values[0])) not in values:
                raise ConfigError(f"{self.path}: {ARCHITECTURE}.{key}: expected {values[0]!r}, got {value!r}")
        tokens = self.fields.get("tokenizer.ggml.tokens", ())
        return {
            "model_type": "llama", "hidden_size": hidden, "num_attention_heads": heads, "head_dim": size,
            "num_key_value_heads": self._field("attention.head_count_kv", heads), "hidden_act": "silu",
            "num_hidden_layers": self._field("block_count"), "intermediate_size": self._field("feed_forward_length"),
            "rms_norm_eps": self._field("attention.layer_norm_rms_epsilon"),
            "rope_theta": self._field("rope.freq_base", 10000.0), "vocab_size": self._field("vocab_size", len(tokens)),
            "max_position_embeddings": self._field("context_length"), "attention_bias": False, "mlp_bias": False,
            "tie_word_embeddings": "output.weight" not in self._stored}

    def _field(self, key: str, default: Any = None) -> Any:
        value = self.fields.get(f"{ARCHITECTURE}.{key}", default)
        if value is None:
            raise ConfigError(f"{self.path}: {ARCHITECTURE}.{key}: missing")
        return value

    def _name(self, stored: str) -> str:
        """What `transformers` calls a tensor."""
        module, _, part = stored.rpartition(".")
        block, number, inner = ([*module.split("."), "", ""])[:3]
        if part == "weight" and block == "blk" and inner in _LAYER:
            return f"model.layers.{number}.{_LAYER[inner]}.{part}"
        if part == "weight" and module in _OUTER:
            return f"{_OUTER[module]}.{part}"
        raise ConfigError(f"{self.path}: {stored}: expected only tensors {', '.join(_OUTER)} and blk.N.* of "
                          f"{', '.join(_LAYER)}, each .weight")

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor, None for one that is not there."""
        if name not in self:
            return None
        return tuple(int(size) for size in reversed(self._stored[self._tensors[name]].shape))

    def under(self, prefix: str) -> list[str]:
        """Names of the tensors that start with ``prefix``."""
        return [name for name in self._tensors if name.startswith(prefix)]

    def prefix(self, layer_index: int) -> str:
        """``model.layers.N.``"""
        prefix = f"model.layers.{layer_index}."
        if not self.under(prefix):
            raise WorkloadError(f"{self.path}: layer {layer_index}: expected tensors blk.{layer_index}.*, found none")
        return prefix

    def outer(self, name: str) -> str:
        """The full name of a tensor that is part of no decoder layer; ``name`` where there is none."""
        return next((full for full in (f"model.{name}", name) if full in self), name)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise as ``read`` would for a missing tensor or its shape."""
        if name not in self:
            raise WorkloadError(f"{self.path}: {name}: missing; expected a tensor of shape {shape}")
        if self.shape(name) != shape:
            raise WorkloadError(f"{self.path}: {name}: shape: expected {shape}, got {self.shape(name)}")

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray:
        """A tensor as float32; ``index``: only that slice of its first axis. Raises WorkloadError for a missing one,
        another shape, a type of blocks that ``gguf`` does not dequantize, NaN and Inf."""
        self.check(name, shape)
        values = self._values(name)
        return values if index is None else values[index]

    @cache  # noqa: B019
    def _values(self, name: str) -> np.ndarray:
        """A tensor in its shape. It is kept: models that are small enough to be played are."""
        stored, shape = self._stored[self._tensors[name]], self.shape(name)
        assert shape is not None
        try:
            values = self._gguf.dequantize(stored.data, stored.tensor_type).astype(np.float32).reshape(shape)
        except NotImplementedError:
            raise WorkloadError(f"{self.path}: {stored.name}: type {stored.tensor_type.name}: cannot be "
                                "dequantized") from None
        if not np.isfinite(values).all():
            raise WorkloadError(f"{self.path}: {stored.name}: expected finite numbers, got NaN or Inf")
        return self._unturned(stored.name, values)

    def stored(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> None:
        """No type of blocks is a format of the tile: weights are values, and quantized anew."""

    def _unturned(self, stored: str, values: np.ndarray) -> np.ndarray:
        """Rows of q and k in the order of ``transformers`` (module docstring)."""
        key = _TURNED.get(stored.split(".")[-2])
        if key is None:
            return values
        heads, rows = self.raw[key], len(values)
        pairs = values.reshape(heads, rows // heads // 2, 2, -1)
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
