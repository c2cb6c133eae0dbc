"""Weights that a checkpoint holds in a format of the tile: they go there as they are stored, not quantized again.

Codes are those of the file. Block scales are too, but where the tile holds them relative to the tensor's largest one
(E8M0, FP32: docs/decisions/0008-anchors.md): that is an exact shift by a power of two. A weight is laid out anew where
the tile wants it otherwise, heads apart or padded; where a block of scales would then hold elements of two, the values
are quantized again instead.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..rtl.spec.isa import ScaleRule
from ..rtl.spec.tensor_formats import TensorFormat
from ..sim.numerics.block_scales import scale_values
from ..sim.numerics.element_codes import decode, pack, unpack
from .graph.ir import Slot
from .graph.layers import layer_graph
from .graph.slots import SQUARE, slot_format
from .numerics import Numerics
from .quantize import StoredTensor, store

if TYPE_CHECKING:
    from .tensors import GraphTensors, LayerTensors


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredWeight:
    """(rows, k) values: code * block scale * factor. codes: (rows, bytes of k); scales: (rows, bytes of its blocks), no
    columns without blocks."""

    format: TensorFormat
    k: int
    codes: np.ndarray
    scales: np.ndarray
    factor: float

    def values(self) -> np.ndarray:
        """Rounded once, to float32."""
        values = decode(unpack(self.codes, self.format.element.name), self.format.element.name).astype(np.float64)
        if self.format.block:
            scales = scale_values(self.scales, self.format).astype(np.float64)
            values = values * np.repeat(scales, self.format.block, axis=1)[:, :values.shape[1]]
        return (values * self.factor).astype(np.float32)

    def part(self, rows: slice) -> StoredWeight:
        """Some of the rows."""
        return StoredWeight(format=self.format, k=self.k, codes=self.codes[rows], scales=self.scales[rows],
                            factor=self.factor)

    def laid(self, columns: np.ndarray) -> StoredTensor | None:
        """With column ``columns[i]`` at i, zeros where that is negative; None where a block would mix two."""
        if np.array_equal(columns, np.arange(self.k)):
            return StoredTensor(self.codes, self.scales)
        fmt, used = self.format, columns >= 0
        elements = unpack(self.codes, fmt.element.name)
        codes = pack(np.where(used, elements[:, np.maximum(columns, 0)], 0).astype(np.uint8), fmt.element.name)
        if not fmt.block:
            return StoredTensor(codes, self.scales)
        padding = -len(columns) % fmt.block
        source = np.pad(np.where(used, columns // fmt.block, -1), (0, padding), constant_values=-1)
        blocks = source.reshape(-1, fmt.block)
        first = blocks.max(axis=1)
        if ((blocks >= 0) & (blocks != first[:, None])).any():
            return None
        by_block = self.scales.reshape(len(self.scales), -1, fmt.scale_bytes)[:, np.maximum(first, 0)]
        return StoredTensor(codes, by_block.reshape(len(codes), -1))


def weight_tensor(tensors: GraphTensors, key: Hashable, tensor_format: TensorFormat, factor: float, rule: ScaleRule, *,
                  rows: int | None = None, columns: np.ndarray | None = None) -> StoredTensor:
    """The bytes of a weight, by its name or (expert, name): those of the checkpoint where it has this format.

    columns: as `StoredWeight.laid`; rows: with rows of zeros up to that number.
    """
    held, found = tensors.stored(key), None
    if held is not None and held.format == tensor_format:
        found = held.laid(np.arange(held.k) if columns is None else columns)
    if found is None:
        values = tensors.weight(key)
        if columns is not None and not np.array_equal(columns, np.arange(values.shape[1])):
            values = np.where(columns >= 0, values[:, np.maximum(columns, 0)], np.float32(0))
        found = store(values, tensor_format, factor, rule, square=True)
    missing = (rows or 0) - len(found.codes)
    if missing <= 0:
        return found
    return StoredTensor(*(np.pad(part, ((0, missing), (0, 0))) for part in (found.codes, found.scales)))


def first_columns(k: int, size: int) -> np.ndarray:
    """``size`` columns, of which the first ``k`` are a weight's."""
    return np.where(np.arange(size) < k, np.arange(size), -1)


def as_stored(tensors: LayerTensors, numerics: Numerics) -> tuple[str, ...]:
    """Names of the weights that a checkpoint holds in their format; of experts, if the first one's are."""
    graph = layer_graph(tensors.workload)
    experts = any(value.one_by_one for value in graph.weights().values())
    held = dict(tensors.held) | (dict(tensors.expert(0).stored) if experts else {})
    slots = {value.name: slot for value, slot, _ in graph.uses() if slot in SQUARE}
    formats = {name: slot_format(slots.get(name, Slot.WEIGHTS), numerics.formats) for name in held}
    return tuple(name for name, weight in held.items() if weight.format == formats[name])
