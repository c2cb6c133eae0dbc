"""QK-norm of the q or the k projection: x * weight / rms(x), the mean over one head or over the whole projection.

A row sum of the vector unit is exact on a grid of 2**-24 and holds up to 2**23. The squares of a head are scaled so
that they add up to 2**22 if all have the largest magnitude; heads 2**-16 times as large then have their norm to 1e-3.
Over a whole projection, the sums of the heads are added in FP32, head by head, so that no grouping changes a bit.
"""

from ...rtl.spec.isa import Combine, Func, Reduce
from ..dram import Matrix
from ..emitter import Emitter, acc, column, imm, row
from ..gemm import Group
from ..placement import StatPlacer


class QKNorm:
    """Statistics regions of one projection's norm, and what is emitted per head.

    rows: of a block, at most; head_tiles: column tiles of a head; weights: a row per column tile, of one head or, if
    ``full``, of all; features: over how many the mean goes; dequant: x times it is the projection's result, whose
    largest magnitude is ``raw_amax``. Weights stay in a statistics bank if it holds them all, else they are loaded
    head by head, in pieces of a bank.
    """

    def __init__(self, emitter: Emitter, stats: StatPlacer, *, name: str, rows: int, head_tiles: int, weights: Matrix,
                 full: bool, head_dim: int, features: int, eps: float, dequant: float, raw_amax: float):
        self._emitter, self._name, self._head_tiles, self._matrix = emitter, name, head_tiles, weights
        self.full = full
        words = -(-rows // emitter.config.cols)
        self._squares, self._rstd = stats.take(words, "sums of squares"), stats.take(words, "norms")
        self._piece = emitter.config.stat_bank_rows
        self._resident = weights.rows <= self._piece
        self._weights = [stats.take(min(weights.rows, self._piece), "norm weights")
                         for _ in range(1 if self._resident else 2)]
        self._loads = 0
        self._total = stats.take(words, "sums of squares of all heads") if self.full else self._squares
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

    def _words(self, group: Group) -> int:
        return -(-group.rows // self._emitter.config.cols)

    def add_squares(self, x: int, group: Group, *, first: bool = True) -> None:
        """The squares of the head at ``x`` into the rows' sums; ``first``: instead of what these are."""
        emitter = self._emitter
        emitter.vector(rows=group.rows, tiles=self._head_tiles, pitch=group.pitch, x=x, y=acc(x),
                       w=imm(self._unit * self._unit), reduce=Reduce.SUM,
                       reduce_addr=self._total if first else self._squares, label="sum of squares")
        if not first:
            emitter.vector(rows=self._words(group), x=self._total, combine=Combine.ADD, z=acc(self._squares),
                           to_acc=self._total, label="sum of all heads")

    def finish_sums(self, group: Group) -> None:
        """1 / rms of every row."""
        self._emitter.vector(rows=self._words(group), x=self._total, y=imm(self._mean), combine=Combine.ADD,
                             z=imm(self._eps), func=Func.RSQRT, w=imm(self._dequant), to_acc=self._rstd,
                             label="1 / rms")

    def apply(self, x: int, group: Group, head: int) -> None:
        """x <- x * dequant * weight / rms, in place."""
        own = head * self._head_tiles if self.full else 0
        weights = self._weights[0] + own
        for tile in range(self._head_tiles):
            if not self._resident and tile % self._piece == 0:
                weights = self._load(own + tile, min(self._piece, self._head_tiles - tile)) - tile
            at = x + tile * group.pitch
            self._emitter.vector(rows=group.rows, x=at, y=row(self._rstd), w=column(weights + tile), to_acc=at,
                                 label="normalize")
