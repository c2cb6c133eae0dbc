"""DRAM layouts of tensors: rows padded to the bus, data made when it is needed.

A tensor of codes or FP32 values becomes a `Matrix` whose rows start on a bus beat. The bytes come from a
function, so that a program of which only the time is wanted costs no memory; without a function the matrix
starts as zeros.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .builder import ProgramBuilder
from .tiles.buffers import align

MakeArray = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Matrix:
    """A DRAM matrix: ``rows`` rows of ``row_bytes`` bytes, ``stride`` bytes apart."""

    addr: int
    rows: int
    row_bytes: int
    stride: int

    def at(self, row: int = 0, byte: int = 0) -> int:
        """Address of a byte."""
        return self.addr + row * self.stride + byte


def code_matrix(builder: ProgramBuilder, name: str, rows: int, columns: int, make: MakeArray | None = None, *,
                pad_rows: int = 1) -> Matrix:
    """(rows, columns) bytes of codes, or fewer, padded with zeros: rows to the bus, the row count to ``pad_rows``."""
    stride = align(columns, builder.config.bus_bytes)
    total = align(rows, pad_rows)
    addr = builder.dram(name, total * stride, data=_padded(make, total, stride)).addr
    return Matrix(addr, total, stride, stride)


def float_matrix(builder: ProgramBuilder, name: str, rows: int, columns: int, make: MakeArray | None = None) -> Matrix:
    """(rows, columns) FP32 values; rows padded with zeros to the bus."""
    stride = align(4 * columns, builder.config.bus_bytes)

    def make_bytes() -> np.ndarray:
        assert make is not None
        values = np.ascontiguousarray(make(), dtype="<f4")
        return values.view(np.uint8).reshape(rows, 4 * columns)

    addr = builder.dram(name, rows * stride,
                        data=_padded(make_bytes if make else None, rows, stride)).addr
    return Matrix(addr, rows, 4 * columns, stride)


def index_list(builder: ProgramBuilder, name: str, values: np.ndarray) -> Matrix:
    """uint32 indices in one run."""
    data = np.ascontiguousarray(values, dtype="<u4").view(np.uint8)
    size = align(data.size, builder.config.bus_bytes)
    padded = np.zeros(size, np.uint8)
    padded[:data.size] = data
    return Matrix(builder.dram(name, size, data=padded).addr, 1, size, size)


def float_output(builder: ProgramBuilder, name: str, matrix: Matrix, rows: int, columns: int) -> None:
    """Declare an FP32 matrix as a result of the program."""
    builder.output(name, matrix.addr, (rows, columns), "float32", row_stride=matrix.stride)


def _padded(make: MakeArray | None, total: int, stride: int) -> MakeArray | None:
    if make is None:
        return None

    def fill() -> np.ndarray:
        data = make()
        if data.shape == (total, stride):
            return np.ascontiguousarray(data).reshape(-1)
        out = np.zeros((total, stride), np.uint8)
        out[:data.shape[0], :data.shape[1]] = data
        return out.reshape(-1)

    return fill
