"""Biases of a projection: FP32 vectors, in statistics banks, added to a group of results before anything else.

Along columns, where a group's part is loaded with each group; along rows, where the operands are exchanged, with each
block of rows. It is read once per block of rows either way, beside ``n * k`` weights.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from ...rtl.spec.config import TileConfig
from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..emitter import Emitter
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer, Memory, align
from ..tiles.expr import Assign, Col, Elem, Row, Shape
from .gemm import GemmProblem, Group

NAME = "biases"


def column_bias_buffer(config: TileConfig, problem: GemmProblem, schedule: GemmSchedule, name: str = NAME) -> Buffer:
    """Values of the column tiles of a group, or of as many as a bank holds, twice."""
    tiles = min(schedule.group_tiles, -(-problem.n // config.cols), config.stat_bank_rows)
    return Buffer(name=name, memory=Memory.STATISTICS, sizes=(tiles,), most=2)


def row_bias_buffer(config: TileConfig, rows: int, name: str = NAME) -> Buffer:
    """Values of a block of ``rows`` rows, twice."""
    return Buffer(name=name, memory=Memory.STATISTICS, sizes=(-(-rows // config.cols),), most=2, keys="m_tile rows")


def row_vectors(builder: ProgramBuilder, name: str, values: np.ndarray | int, rows: int) -> Matrix:
    """A value per row of a result, for `RowBias`: a row of the matrix per block of ``rows`` rows. values: their number
    where they are not known."""
    count = values if isinstance(values, int) else len(values)
    blocks, width = -(-count // rows), align(rows, builder.config.cols)

    def fill() -> np.ndarray:
        padded = np.pad(np.asarray(values, np.float32), (0, blocks * rows - count)).reshape(blocks, rows)
        return np.pad(padded, ((0, 0), (0, width - rows)))

    return float_matrix(builder, name, blocks, width, None if isinstance(values, int) else fill)


class ColumnBias:
    """bias: a row per column tile. buffer: where its values go."""

    def __init__(self, emitter: Emitter, place: Mapping[str, Sequence[int]], bias: Matrix, name: str,
                 buffer: str = NAME):
        self._emitter, self._regions, self._bias, self._name = emitter, place[buffer], bias, name

    def add(self, group: Group, *factors: float) -> None:
        """x <- x * factor + bias, of all columns; of several factors column tiles have one in turn."""
        cols, piece = self._emitter.config.cols, self._emitter.config.stat_bank_rows
        for number, first in enumerate(range(0, group.tiles, piece), group.index):
            addr, tiles = self._regions[number % len(self._regions)], min(piece, group.tiles - first)
            self._emitter.load_rows(self._bias, first_row=group.n0 // cols + first, rows=tiles, addr=addr,
                                    label=f"{self._name} bias")
            for tile in range(tiles):
                part = Elem(group.addr + (first + tile) * group.pitch)
                factor = factors[(first + tile) % len(factors)]
                self._emitter.compute(Shape(rows=group.rows), Assign(
                    to=part, value=part * factor + Col(addr + tile, "bias"), label="add bias"))

    def moves(self, group: Group) -> tuple[Hashable, list[int]]:
        """As `gemm.Moves`."""
        return group.index % len(self._regions), [self._bias.at(group.n0 // self._emitter.config.cols)]


class RowBias:
    """bias: a row per block of ``m_tile`` rows (`row_vectors`). buffer: where its values go."""

    def __init__(self, emitter: Emitter, place: Mapping[str, Sequence[int]], bias: Matrix, name: str, m_tile: int,
                 buffer: str = NAME):
        self._emitter, self._regions, self._bias, self._name = emitter, place[buffer], bias, name
        self._rows = m_tile

    def _region(self, group: Group) -> int:
        return self._regions[group.m0 // self._rows % len(self._regions)]

    def load(self, group: Group) -> Row:
        """The values of the group's rows, loaded with the first group of a block."""
        if group.n0 == 0:
            words = -(-group.rows // self._emitter.config.cols)
            self._emitter.load_rows(self._bias, first_row=group.m0 // self._rows, rows=1, addr=self._region(group),
                                    row_bytes=4 * words * self._emitter.config.cols, pitch=1,
                                    label=f"{self._name} bias")
        return Row(self._region(group), "bias")

    def moves(self, group: Group) -> tuple[Hashable, list[int]]:
        """As `gemm.Moves`."""
        loads = group.n0 == 0
        return (self._region(group), loads), [self._bias.at(group.m0 // self._rows)] if loads else []
