"""The norm of a projection's heads: x * weight / rms(x), the mean over one head or over the whole projection.

A row sum of the vector unit is exact on a grid of 2**-24 and holds up to 2**23. The squares of a head are scaled so
that they add up to 2**22 if all have the largest magnitude; heads 2**-16 times as large then have their norm to 1e-3.
Over a whole projection, the sums of the heads are added in FP32, head by head, so that no grouping changes a bit.
"""

from collections.abc import Mapping

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import Reduce
from ..dram import Matrix
from ..emitter import Emitter
from ..tiles.buffers import Buffer, Memory
from ..tiles.expr import Assign, Col, Elem, Reduction, Row, Shape, rsqrt
from .gemm import Group


def norm_buffers(config: TileConfig, rows: int, weight_rows: int, full: bool) -> list[Buffer]:
    """Statistics of blocks of ``rows`` rows. Weights stay on chip if a bank holds all ``weight_rows`` of them, else
    two banks take turns."""
    words, piece = -(-rows // config.cols), config.stat_bank_rows
    copies = 1 if weight_rows <= piece else 2

    def statistics(name: str, words: int, *beside: str, copies: int = 1) -> Buffer:
        return Buffer(name=name, memory=Memory.STATISTICS, sizes=(words,), least=copies, most=copies,
                      beside=frozenset(beside))

    buffers = [statistics("sums of squares", words), statistics("norms", words),
               statistics("norm weights", min(weight_rows, piece), "norms", copies=copies)]
    if full:
        buffers.append(statistics("sums of squares of all heads", words, "sums of squares"))
    return buffers


class HeadNorm:
    """Statistics regions of one projection's norm, and what is emitted per head.

    place: addresses of `norm_buffers`; head_tiles: column tiles of a head; weights: a row per column tile, of one head
    or, if ``full``, of all; features: over how many the mean goes; dequant: x times it is the projection's result,
    whose largest magnitude is ``raw_amax``.
    """

    def __init__(self, emitter: Emitter, place: Mapping[str, list[int]], *, name: str, head_tiles: int,
                 weights: Matrix, full: bool, head_dim: int, features: int, eps: float, dequant: float,
                 raw_amax: float):
        self._emitter, self._name, self._head_tiles, self._matrix = emitter, name, head_tiles, weights
        self.full, self._piece = full, emitter.config.stat_bank_rows
        (self._squares,), (self._rstd,), self._weights = (place[key] for key in ("sums of squares", "norms",
                                                                                 "norm weights"))
        self._resident, self._loads = len(self._weights) == 1, 0
        self._total = place["sums of squares of all heads"][0] if full else self._squares
        gain = 2.0 ** ((22 - (head_dim - 1).bit_length()) // 2)
        self._unit, self._mean = dequant / raw_amax * gain, (raw_amax / gain) ** 2 / features
        self._eps, self._dequant = eps, dequant

    def start(self) -> None:
        """Load weights that stay."""
        if self._resident:
            self._load(0, self._matrix.rows)

    def _load(self, first: int, rows: int) -> int:
        addr = self._weights[self._loads % len(self._weights)]
        self._loads += 1
        self._emitter.load_rows(self._matrix, first_row=first, rows=rows, addr=addr,
                                label=f"{self._name} norm weights")
        return addr

    def _words(self, group: Group) -> Shape:
        return Shape(rows=-(-group.rows // self._emitter.config.cols))

    def add_squares(self, x: int, group: Group, *, first: bool = True) -> None:
        """The squares of the head at ``x`` into the rows' sums; ``first``: instead of what these are."""
        sums = Reduction(Reduce.SUM, self._total if first else self._squares)
        self._emitter.compute(Shape(rows=group.rows, tiles=self._head_tiles, pitch=group.pitch), Assign(
            value=Elem(x) * Elem(x), scale=self._unit * self._unit, reduce=sums, label="sum of squares"))
        if not first:
            total = Elem(self._total)
            self._emitter.compute(self._words(group), Assign(to=total, value=total + Elem(self._squares),
                                                             label="sum of all heads"))

    def finish_sums(self, group: Group) -> None:
        """1 / rms of every row."""
        self._emitter.compute(self._words(group), Assign(
            to=Elem(self._rstd), value=rsqrt(Elem(self._total) * self._mean + self._eps), scale=self._dequant,
            label="1 / rms"))

    def apply(self, x: int, group: Group, head: int) -> None:
        """x <- x * dequant * weight / rms, in place."""
        own = head * self._head_tiles if self.full else 0
        weights = self._weights[0] + own
        for tile in range(self._head_tiles):
            if not self._resident and tile % self._piece == 0:
                weights = self._load(own + tile, min(self._piece, self._head_tiles - tile)) - tile
            part = Elem(x + tile * group.pitch)
            self._emitter.compute(Shape(rows=group.rows), Assign(
                to=part, value=part * Row(self._rstd) * Col(weights + tile), label="normalize"))
