"""Matmul operands in DRAM: codes, block scales, and how a piece of them is loaded.

An operand's rows run along k. Codes are row-major. Block scales lie apart, cut by chunks of k as the schedule loads
them: chunk c, row r at ``addr + c*chunk_stride + r*stride``. *Packed* scale rows share bus beats (a divisor of the bus
apart), which weights use; other rows start on beats, as gathers and stores need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd, lcm

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.tensor_formats import TensorFormat
from .builder import ProgramBuilder
from .dram import Matrix, code_matrix
from .quantize import StoredTensor
from .tiles.buffers import align

MakeStored = Callable[[], StoredTensor]


def k_unit(config: TileConfig, *formats: TensorFormat) -> int:
    """Elements of k that fill whole bus beats and blocks of every format."""
    return max(max(8 * config.bus_bytes // f.bits, f.block) for f in formats)


def stream_unit(config: TileConfig, *formats: TensorFormat) -> int:
    """As `k_unit`, of rows that are loaded in chunks but whose block scales lie in one piece: those of a chunk start on
    a bus beat too."""
    unit = k_unit(config, *formats)
    return lcm(unit, *(config.bus_bytes // gcd(config.bus_bytes, f.scale_bytes) * f.block for f in formats if f.scaled))


def padded_k(k: int, config: TileConfig, *formats: TensorFormat) -> int:
    """``k`` rounded up to the `k_unit` of the formats."""
    return align(k, k_unit(config, *formats))


WIDEST_BUS, WIDEST_UNIT = 64, 256
"""Largest ``bus_bytes`` of any tile; elements that any tile pads k to a multiple of: its columns, bus and blocks."""


def widest_k(k: int) -> int:
    """``k`` padded as far as any tile pads it. The headroom of block scales is made for so many elements, since it
    decides which bits a term may lose."""
    return align(k, WIDEST_UNIT)


@dataclass(frozen=True)
class ScaleTable:
    """Block scales in DRAM (module docstring). chunk: elements of k per chunk."""

    addr: int
    chunk: int
    chunk_stride: int
    stride: int

    def at(self, row: int, k0: int) -> int:
        """Address of a row's scale bytes for the chunk that starts at element ``k0``."""
        return self.addr + k0 // self.chunk * self.chunk_stride + row * self.stride


@dataclass(frozen=True)
class Operand:
    """``k`` elements per row, in ``format``; scales is None for per-tensor formats."""

    matrix: Matrix
    k: int
    format: TensorFormat
    scales: ScaleTable | None = None

    @property
    def rows(self) -> int:
        return self.matrix.rows

    def anchors(self, row: int, k0: int) -> list[int]:
        """Addresses of element ``k0`` of a row and of its block scales (`ProgramBuilder.repeat`)."""
        found = [self.matrix.at(row, self.format.bytes_of(k0))]
        if self.scales is not None:
            found.append(self.scales.at(row, 0) + self.format.scale_bytes_of(k0))
        return found

    def dma_fields(self, row: int, k0: int, size: int, config: TileConfig) -> dict[str, int]:
        """Fields of a LOAD or GATHER of ``size`` elements from element ``k0`` of rows from ``row`` on."""
        fields = {"dram_addr": self.matrix.at(row, self.format.bytes_of(k0)), "row_stride": self.matrix.stride,
                  "row_bytes": self.format.bytes_of(size)}
        if self.scales is not None:
            inside = self.format.scale_bytes_of(k0 % self.scales.chunk)
            fields |= {"scale": self.format.layout(config.lanes), "scale_addr": self.scales.at(row, k0) + inside,
                       "scale_stride": self.scales.stride}
        return fields


def scale_stride(config: TileConfig, size: int, packed: bool) -> int:
    """Bytes between rows of ``size`` scale bytes.

    Packed rows are a divisor of the bus apart, and ``cols`` of them fill whole beats, so that every column tile
    starts on one.
    """
    bus = config.bus_bytes
    if not packed or size > bus:
        return align(size, bus)
    stride = max(1, bus // config.cols)
    while stride < size:
        stride *= 2
    return stride


def place_operand(builder: ProgramBuilder, name: str, rows: int, k: int, tensor_format: TensorFormat,
                  make: MakeStored | None, *, chunk: int | None = None, packed: bool = False,
                  pad_rows: int = 1) -> Operand:
    """Allocate an operand of ``k`` (padded) elements per row; ``make`` gives its (rows, up to k) contents.

    chunk: elements of k per load, default all. pad_rows: the row count is rounded up to it with zero rows.
    """
    stored = cache(make) if make else None
    matrix = code_matrix(builder, name, rows, tensor_format.bytes_of(k), (lambda: stored().codes) if stored else None,
                         pad_rows=pad_rows)
    if not tensor_format.scaled:
        return Operand(matrix, k, tensor_format)
    return Operand(matrix, k, tensor_format, place_scales(
        builder, name, matrix.rows, k, tensor_format, (lambda: stored().scales) if stored else None, chunk=chunk,
        packed=packed))


def place_scales(builder: ProgramBuilder, name: str, rows: int, k: int, tensor_format: TensorFormat,
                 make: Callable[[], np.ndarray] | None, *, chunk: int | None = None,
                 packed: bool = False) -> ScaleTable:
    """Allocate the block scales of an operand. ``make`` gives (rows, bytes) uint8, all of k, unpadded or padded."""
    config = builder.config
    chunk = min(chunk or k, k)
    stride = scale_stride(config, tensor_format.scale_bytes_of(chunk), packed)
    chunk_stride = align(rows * stride, config.bus_bytes)
    chunks = -(-k // chunk)

    def fill() -> np.ndarray:
        assert make is not None
        data = make()
        out = np.zeros((chunks, chunk_stride), np.uint8)
        step = tensor_format.scale_bytes_of(chunk)
        for c in range(chunks):
            part = data[:, c * step:(c + 1) * step]
            table = out[c, :rows * stride].reshape(rows, stride)
            table[:part.shape[0], :part.shape[1]] = part
        return out.reshape(-1)

    addr = builder.dram(f"{name} scales", chunks * chunk_stride, data=fill if make else None).addr
    return ScaleTable(addr, chunk, chunk_stride, stride)
