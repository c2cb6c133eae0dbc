"""Weights of one layer from a Hugging Face checkpoint: what its graph names, wherever `graph.stored` says it may stand.

What is missing is named. A tensor of the layer that is not read is an error: the layer would be another one (a bias, a
shared expert, the scale of a quantized weight).

Activations are rarely in a checkpoint. If the file holds ``x``, ``k_cache`` or ``v_cache`` they are used;
else they are the synthetic ones of ``tensors`` for the seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..rtl.spec.errors import WorkloadError
from .checkpoint_files import Checkpoint
from .checkpoint_quantized import QuantizedCheckpoint
from .graph.ir import Graph, Role, Value
from .graph.layers import layer_graph
from .graph.stored import Place
from .layers import OUTER, Workload
from .stored_weight import StoredWeight
from .tensors import ExpertWeights, LayerTensors, synthetic_value

_NOT_NEEDED = ("rotary_emb.inv_freq", "k_scale", "v_scale")
"""Ends of names that do not change the layer: frequencies that are computed, and scales of an FP8 KV cache."""


class TensorSource(Protocol):
    """An open checkpoint: tensors by name, as `checkpoint_files.Checkpoint` gives them."""

    path: Path

    def __contains__(self, name: str) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...] | None: ...

    def under(self, prefix: str) -> list[str]: ...

    def prefix(self, layer_index: int) -> str: ...

    def outer(self, name: str) -> str: ...

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray: ...

    def check(self, name: str, shape: tuple[int, ...]) -> None: ...

    def stored(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> StoredWeight | None: ...


def from_safetensors(
    path: str | Path, workload: Workload, *, layer_index: int = 0, seed: int = 0
) -> LayerTensors:
    """Tensors of decoder layer ``layer_index``; activations from the file or synthetic (module docstring).

    Raises WorkloadError that names file and tensor: missing, wrong shape or dtype, truncated, NaN or Inf. The
    names, shapes and dtypes of all experts are checked here, their values when each is loaded.
    """
    if isinstance(layer_index, bool) or not isinstance(layer_index, int) or layer_index < 0:
        raise WorkloadError(f"{path}: layer index: expected a non-negative integer, got {layer_index!r}")
    return layer_tensors(QuantizedCheckpoint(Checkpoint(path)), workload, layer_index=layer_index, seed=seed)


def layer_tensors(checkpoint: TensorSource, workload: Workload, *, layer_index: int = 0, seed: int = 0,
                  given: Mapping[str, np.ndarray] | None = None) -> LayerTensors:
    """As `from_safetensors`, of an open checkpoint of any kind. given: activations by name, instead of stored or
    synthetic ones."""
    prefix = "" if workload.layer.kind in OUTER else checkpoint.prefix(layer_index)
    layer = _StoredLayer(checkpoint, prefix, layer_graph(workload))
    arrays, held = {}, {}
    for name, value in layer.graph.given().items():
        if given is not None and name in given:
            arrays[name] = given[name]
        elif value.role is not Role.WEIGHT:
            stored = name in checkpoint
            arrays[name] = checkpoint.read(name, value.shape) if stored else synthetic_value(workload, name, seed)
        elif value.one_by_one:
            layer.check_experts(value)
        else:
            arrays[name] = layer.read(value)
            if (stored := layer.stored(value)) is not None:
                held[name] = stored
    layer.check_nothing_else()
    return LayerTensors(workload=workload, load_expert=layer.expert, held=held, **arrays)


def draws(path: str | Path, workload: Workload) -> bool:
    """Are some activations of ``workload`` synthetic, because the file at ``path`` does not hold them?"""
    checkpoint = Checkpoint(path)
    return any(name not in checkpoint for name, value in layer_graph(workload).given().items()
               if value.role is not Role.WEIGHT and np.prod(value.shape))


class _StoredLayer:
    """One layer of a checkpoint: each weight of ``graph`` in the place where it stands, below ``prefix``."""

    def __init__(self, checkpoint: TensorSource, prefix: str, graph: Graph):
        self.checkpoint, self.prefix, self.graph = checkpoint, prefix, graph
        self.places: dict[str, Place] = {}
        for node in graph.nodes:
            self.places |= self._choose([graph.values[name] for name in node.inputs if name in graph.weights()])

    def _choose(self, weights: list[Value]) -> dict[str, Place]:
        """Of the places where the weights of a node may stand, those with most tensors; of these, with most of the
        right shape; where there is none, in a block that there is."""
        def found(number: int) -> tuple[int, int, bool]:
            names = {self._full(value.places[number]) for value in weights}
            return (sum(name in self.checkpoint for name in names),
                    sum(self.checkpoint.shape(self._full(value.places[number])) ==
                        _stored_shape(value, value.places[number]) for value in weights),
                    any(self.checkpoint.under(f"{self.prefix}{name.removeprefix(self.prefix).partition('.')[0]}.")
                        for name in names))

        best = max(range(min((len(value.places) for value in weights), default=0)), key=found, default=0)
        return {value.name: value.places[best] for value in weights}

    def _name(self, value: Value, expert: int = 0) -> str:
        return self._full(self.places[value.name], expert)

    def _full(self, place: Place, expert: int = 0) -> str:
        """The name in the checkpoint."""
        return self.checkpoint.outer(place.name) if place.outer else self.prefix + place.name.format(expert)

    def _own(self, value: Value, both: np.ndarray) -> np.ndarray:
        """What belongs to a value of the matrix in its place."""
        place = self.places[value.name]
        rows = both.T if place.transposed else both
        if place.interleaved:
            return np.ascontiguousarray(rows[place.part::place.parts])
        parts = rows.reshape(place.groups, place.parts, -1, *rows.shape[1:])
        own = parts[:, place.part:place.part + place.share].reshape(-1, *rows.shape[1:])
        return np.ascontiguousarray(own)

    def read(self, value: Value) -> np.ndarray:
        """A weight, float32."""
        stored = _stored_shape(value, self.places[value.name])
        return self._own(value, self.checkpoint.read(self._name(value), stored))

    def stored(self, value: Value, expert: int | None = None) -> StoredWeight | None:
        """A weight, or that of one expert, as it is stored; None where that is no format of the tile."""
        place, shape = self.places[value.name], _stored_shape(value, self.places[value.name])
        both = self.checkpoint.stored(self._name(value, expert or 0), shape,
                                      index=None if place.split or not value.one_by_one else expert)
        if both is None:
            return None
        size = len(both.codes) // place.parts
        return both.part(slice(place.part, None, place.parts) if place.interleaved else
                         slice(place.part * size, (place.part + 1) * size))

    def check_experts(self, value: Value) -> None:
        """Names, shapes and dtypes of a weight of all experts."""
        experts, shape = value.shape[0], _stored_shape(value, self.places[value.name])
        if not self.places[value.name].split:
            self.checkpoint.check(self._name(value), shape)
            return
        for index in range(experts):
            self.checkpoint.check(self._name(value, index), shape)
        if (more := self._name(value, experts)) in self.checkpoint:
            raise WorkloadError(f"{self.checkpoint.path}: {more}: expected {experts} experts, found more")

    def expert(self, index: int) -> ExpertWeights:
        """The weights of one expert, float32."""
        @cache
        def read(name: str, shape: tuple[int, ...], split: bool) -> np.ndarray:
            return self.checkpoint.read(name, shape, index=None if split else index)

        found, held = {}, {}
        for value in self.graph.weights().values():
            if value.one_by_one:
                if (stored := self.stored(value, index)) is not None:
                    held[value.name] = stored
                place = self.places[value.name]
                found[value.name] = self._own(value, read(self._name(value, index), _stored_shape(value, place),
                                                          place.split))
        return ExpertWeights(**found, stored=held)

    def _names(self, value: Value) -> Iterator[str]:
        for index in range(value.shape[0] if self.places[value.name].split else 1):
            yield self._name(value, index)

    def check_nothing_else(self) -> None:
        """Raise where the checkpoint has more in the modules whose weights are read."""
        names = {name for value in self.graph.weights().values() for name in self._names(value)}
        modules = {f"{self.prefix}{name.removeprefix(self.prefix).partition('.')[0]}." if self.prefix else
                   f"{name.rpartition('.')[0]}." for name in names}
        for name in (name for module in sorted(modules) for name in self.checkpoint.under(module)):
            if name in names or name.endswith(_NOT_NEEDED):
                continue
            what = "biases are not built yet" if name.endswith(".bias") else "the layer has no such tensor"
            raise WorkloadError(f"{self.checkpoint.path}: {name}: {what}; expected none")


def _stored_shape(value: Value, place: Place) -> tuple[int, ...]:
    """Of the tensor in a place where a value may stand, with all that stands in it: an expert's where each has one."""
    experts, matrix = (value.shape[:1], value.shape[1:]) if value.one_by_one else ((), value.shape)
    rows, *others = matrix
    matrix = (rows * place.parts // place.share, *others)
    return (*(() if place.split else experts), *(matrix[::-1] if place.transposed else matrix))
