"""The epilogue of projections that make heads: optional bias, norm and rotary embedding, quantize, store per head.

Of each group (a head, or a column tile of several heads) it dequantizes, normalizes, rotates, quantizes into buffer A
and stores. Rotation pairs feature i with i + head_dim/2. When a head is wider than the array its halves lie in
different column tiles of the same lanes; else they lie in one tile and the vector unit reads x with its halves
swapped.

A norm over the whole projection needs all groups of a row before it can normalize one. Groups wait in DRAM in
FP32, but for the last, and come back one by one.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Quant
from ..dram import Matrix, float_matrix
from ..emitter import Emitter
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer, Memory, align
from ..tiles.expr import Assign, Codes, Elem, Shape
from .bias import ColumnBias, RowBias, column_bias_buffer, row_bias_buffer
from .gemm import GemmProblem, Group
from .norm import HeadNorm, norm_buffers

FACTORS = "factors of rows"


def stage_pitch(config: TileConfig, tiles: int) -> int:
    """Groups between panels of a staging region of ``tiles`` column tiles of codes."""
    return align(tiles * config.cols, config.a_word_bytes) // config.lanes


def stage_banks(config: TileConfig, rows: int, tiles: int) -> int:
    """Banks of buffer A that one staging region takes."""
    return max(1, -(-(-(-rows // config.rows) * stage_pitch(config, tiles)) // config.a_bank_groups))


def stage_buffer(config: TileConfig, problem: GemmProblem, schedule: GemmSchedule) -> Buffer:
    """As many staging regions for a group of results as ``stage_banks`` banks hold, at least one."""
    groups = -(-problem.rows(schedule) // config.rows) * stage_pitch(config, schedule.group_tiles)
    copies = max(1, schedule.stage_banks // -(-groups // config.a_bank_groups))
    return Buffer(name="staged results", memory=Memory.A, sizes=(groups,), least=copies, most=copies,
                  keys="stage_banks")


def rotary_lanes(width: int, cols: int) -> int:
    """Columns of a rotary table's row: half of a head of ``width`` columns when its halves lie in different column
    tiles, else all."""
    return width // 2 if width > cols else cols


@dataclass(frozen=True, kw_only=True)
class Heads:
    """count: of heads of ``size`` features, ``width`` columns each. norm: the mean over one head ("head"), over all
    ("full"), or none; rotated: by position; biased: before all that; scaled: rows have factors of their own."""

    count: int
    size: int
    width: int
    norm: str = "none"
    rotated: bool = True
    biased: bool = False
    scaled: bool = False

    def tiles(self, config: TileConfig) -> int:
        """Column tiles of a head, or of several that share one."""
        return max(1, self.width // config.cols)

    def buffers(self, config: TileConfig, problem: GemmProblem, schedule: GemmSchedule) -> list[Buffer]:
        """Cosines, sines and a temporary of half a head, or one column tile; those of the norm; staged results."""
        rows, buffers = problem.rows(schedule), []
        if self.rotated:
            size = rotary_lanes(self.width, config.cols) // config.cols * rows
            results = f"{problem.name} result group"
            buffers = [Buffer(name=name, memory=Memory.ACC, sizes=(size,), keys="m_tile rows", beside=frozenset(beside))
                       for name, *beside in (("cosines", results, "a rotated half"), ("sines", results),
                                             ("a rotated half", results))]
        if self.norm != "none":
            weights = (problem.n if self.norm == "full" else self.width) // config.cols
            buffers += norm_buffers(config, rows, weights, self.norm == "full")
        if self.biased:
            buffers.append(column_bias_buffer(config, problem, schedule))
        if self.scaled:
            buffers.append(row_bias_buffer(config, rows, FACTORS))
        return [*buffers, stage_buffer(config, problem, schedule)]


@dataclass(frozen=True, kw_only=True)
class HeadsData:
    """Values of one program. dequant: a result times it is the projection's; out_scale: of the codes in ``quant``;
    raw_amax: largest magnitude before the norm. rotary: tables of cosines and sines, a row per row of x. norm: FP32
    weights, a row per column tile of a head, or of all heads; eps: of the norm. bias: FP32, a row per column tile of
    all heads. factors: of rows (`bias.row_vectors`)."""

    dequant: float
    out_scale: float
    quant: Quant
    raw_amax: float = 1.0
    rotary: tuple[Matrix, Matrix] | None = None
    norm: Matrix | None = None
    eps: float = 0.0
    bias: Matrix | None = None
    factors: Matrix | None = None


Store = Callable[[Group, int, int, dict[str, int]], None]
"""(group, head, its first byte, fields of what lies in buffer A): stores a part of a head of the group's rows."""


class HeadsEpilogue:
    """Of one projection on one tile: called with every group of its GEMM."""

    def __init__(self, emitter: Emitter, problem: GemmProblem, schedule: GemmSchedule, heads: Heads, data: HeadsData,
                 regions: Mapping[str, list[int]], store: Store):
        self.emitter, self.problem, self.heads, self.data, self.store = emitter, problem, heads, data, store
        self.cols, self.lanes = emitter.config.cols, emitter.config.lanes
        self.head_tiles, self.columns = heads.tiles(emitter.config), heads.count * heads.width
        if schedule.group_tiles % self.head_tiles:
            raise CompileError(f"projection {problem.name}: group_tiles = {schedule.group_tiles} must hold whole heads "
                               f"of {self.head_tiles} column tiles")
        if heads.rotated:
            (self.cos,), (self.sin,), (self.temp,) = (regions[key] for key in ("cosines", "sines", "a rotated half"))
        self.stage, self.results = regions["staged results"], regions[f"{problem.name} result group"]
        self.norm: HeadNorm | None = None
        self._block = -1
        self._waiting: list[Group] = []
        self._raw: Matrix | None = None
        full, dequant = heads.norm == "full", data.dequant
        self.bias = ColumnBias(emitter, regions, data.bias, problem.name) if data.bias is not None else None
        self.factors = RowBias(emitter, regions, data.factors, f"{problem.name} factors", problem.rows(schedule),
                               FACTORS) if data.factors is not None else None
        if self.bias is not None:
            dequant = 1.0
        if data.norm is not None:
            self.norm = HeadNorm(emitter, regions, name=problem.name, head_tiles=self.head_tiles, weights=data.norm,
                                 full=full, head_dim=heads.size, features=heads.size * (heads.count if full else 1),
                                 eps=data.eps, dequant=dequant, raw_amax=data.raw_amax)
            self.norm.start()
        if full and self.columns > schedule.group_tiles * self.cols:
            self._raw = float_matrix(emitter.builder, f"{problem.name} before norm", problem.m, self.columns)
        self._factor = (1.0 if data.norm is not None else dequant) / data.out_scale

    def __call__(self, group: Group) -> None:
        if group.m0 != self._block and self.data.rotary is not None:
            self._block = group.m0
            for table, addr in zip(self.data.rotary, (self.cos, self.sin), strict=True):
                self.emitter.load_rows(table, first_row=group.m0, rows=group.rows, addr=addr, pitch=group.rows,
                                       label="rotary table")
        if self.bias is not None:
            self.bias.add(group, self.data.dequant)
        if self.factors is not None:
            self._row_factors = self.factors.load(group)
        if self.norm is None or not self.norm.full:
            self._finish(group)
            return
        for first in range(0, group.tiles, self.head_tiles):
            self.norm.add_squares(group.addr + first * group.pitch, group, first=group.n0 + first == 0)
        if group.n0 + group.tiles * self.cols < self.columns:
            self._set_aside(group)
            return
        self.norm.finish_sums(group)
        self._finish(group)
        for number, waiting in enumerate(self._waiting, group.index + 1):
            self._finish(self._fetch(waiting, number))
        self._waiting.clear()

    def moves(self, group: Group, where: Callable[[int, int], tuple[Hashable, list[int]]]) -> tuple[
            Hashable, list[int]] | None:
        """As `gemm.Moves`; where: of the heads from one on, so many. The first group of a block has tables loaded."""
        if group.n0 == 0 or self.norm is not None:
            return None
        first = group.n0 // self.heads.width
        count = min(group.tiles * self.cols // self.heads.width, self.heads.count - first)
        key, anchors = where(first, count)
        if self.bias is not None:
            turn, added = self.bias.moves(group)
            key, anchors = (key, turn), [*anchors, *added]
        if self.factors is not None:
            turn, added = self.factors.moves(group)
            key, anchors = (key, turn), [*anchors, *added]
        return (group.index % len(self.stage), count, key), anchors

    def _set_aside(self, group: Group) -> None:
        """A group to DRAM, until the sums of its rows are known."""
        assert self._raw is not None
        self.emitter.store_acc(self._raw, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0,
                               row_bytes=4 * group.tiles * self.cols, addr=group.addr, pitch=group.pitch,
                               label=f"store {self.problem.name} before norm")
        self._waiting.append(group)

    def _fetch(self, group: Group, number: int) -> Group:
        """A group that was set aside, back in an accumulator region, as the ``number``-th."""
        assert self._raw is not None
        back = replace(group, index=number, addr=self.results[number % len(self.results)])
        self.emitter.load_rows(self._raw, first_row=back.m0, rows=back.rows, first_byte=4 * back.n0,
                               row_bytes=4 * back.tiles * self.cols, addr=back.addr, pitch=back.pitch,
                               label=f"load {self.problem.name} before norm")
        return back

    def _finish(self, group: Group) -> None:
        stage = self.stage[group.index % len(self.stage)]
        pitch = stage_pitch(self.emitter.config, group.tiles)
        for first in range(0, group.tiles, self.head_tiles):
            x = group.addr + first * group.pitch
            if self.norm is not None:
                if not self.norm.full:
                    self.norm.add_squares(x, group)
                    self.norm.finish_sums(group)
                self.norm.apply(x, group, group.n0 // self.heads.width + first // self.head_tiles)
            if self.factors is not None:
                shape = Shape(rows=group.rows, tiles=self.head_tiles, pitch=group.pitch)
                self.emitter.compute(shape, Assign(to=Elem(x), value=Elem(x) * self._row_factors, label="temperature"))
            if not self.heads.rotated:
                self._quantize(x, group, self._codes(stage, first, pitch))
            elif self.heads.width > self.cols:
                self._rotate_halves(x, group, self._codes(stage, first, pitch))
            else:
                self._rotate_swapped(x, group, self._codes(stage, first, pitch))
        self._store(group, stage, pitch)

    def _codes(self, stage: int, tile: int, pitch: int) -> Codes:
        """Where the codes from column tile ``tile`` of a group on go."""
        byte = tile * self.cols
        if byte % self.lanes:
            raise CompileError(f"projection {self.problem.name}: column tiles of {self.cols} bytes do not start on a "
                               f"group of {self.lanes} lanes; use group_tiles = 1")
        return Codes(addr=stage + byte // self.lanes, pitch=pitch, quant=self.data.quant)

    def _quantize(self, x: int, group: Group, codes: Codes) -> None:
        self.emitter.compute(Shape(rows=group.rows, tiles=self.head_tiles, pitch=group.pitch),
                             Assign(to=codes, value=Elem(x), scale=self._factor, label="quantize"))

    def _rotate_halves(self, x: int, group: Group, codes: Codes) -> None:
        half = self.head_tiles // 2
        low, high = Elem(x, "low"), Elem(x + half * group.pitch, "high")
        cos, sin = Elem(self.cos, "cos"), Elem(self.sin, "sin")
        behind = replace(codes, addr=codes.addr + half * self.cols // self.lanes)
        self.emitter.compute(
            Shape(rows=group.rows, tiles=half, pitch=group.pitch),
            Assign(to=codes, value=low * cos - high * sin, scale=self._factor, label="low half"),
            Assign(to=behind, value=high * cos + low * sin, scale=self._factor, label="high half"),
            temporaries=[Elem(self.temp)])

    def _rotate_swapped(self, x: int, group: Group, codes: Codes) -> None:
        swapped = Elem(x, "swapped", swap=(self.heads.width // 2).bit_length())
        self.emitter.compute(Shape(rows=group.rows), Assign(
            to=codes, value=Elem(x) * Elem(self.cos, "cos") + swapped * Elem(self.sin, "sin"), scale=self._factor,
            label="rotate"), temporaries=[Elem(self.temp)])

    def _store(self, group: Group, stage: int, pitch: int) -> None:
        """Every head of the group, without zeros."""
        first, half, width = group.n0 // self.heads.width, self.heads.size // 2, self.heads.width
        heads = min(group.tiles * self.cols // width, self.heads.count - first)
        spans = [(0, 0, half), (width // 2, half, half)]
        if width == self.heads.size:
            spans = [(0, 0, self.heads.size)]
        for head, (source, byte, size) in product(range(first, first + heads), spans):
            self.store(group, head, byte, {"row_bytes": size, "addr": stage, "pitch": pitch,
                                           "src_byte": (head - first) * width + source})
