"""Projections of an attention layer: q and k with rotary embedding, v transposed, and the output.

q and k: the epilogue of each group (a head, or a column tile of several heads) dequantizes, applies the QK-norm
if the layer has one, rotates, quantizes into buffer A and stores. Rotation pairs feature i with i + head_dim/2.
When a head is wider than the array its halves lie in different column tiles of the same lanes; else they lie in
one tile and the vector unit reads x with its halves swapped (`heads.py`).

A QK-norm over the whole projection needs all groups of a row before it can normalize one. Groups wait in DRAM in
FP32, but for the last, and come back one by one.

v is produced transposed by exchanging the operands: the weight's rows are the result's rows, so that the second
matmul of the core finds its k (the keys) contiguous and no transposer is needed.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.tensor_formats import TensorFormat
from ..dram import Matrix, float_matrix
from ..emitter import Emitter
from ..gemm import GemmProblem, Group, emit_gemm
from ..graph.calibrate import Scales
from ..layers import Workload
from ..operands import Operand
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Codes, Elem, Shape
from .heads import rotated_head
from .inputs import AttentionMemory, rotary_lanes
from .norm import QKNorm, norm_buffers


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


def rotary_buffers(workload: Workload, config: TileConfig, problem: GemmProblem,
                   schedule: GemmSchedule) -> list[Buffer]:
    """Buffers of the q or the k projection: cosines, sines and a temporary of half a head, or one column tile."""
    layer, rows = workload.attention, problem.rows(schedule)
    width = rotated_head(layer, config)
    size = rotary_lanes(width, config.cols) // config.cols * rows
    epilogue = [Buffer(name=name, memory=Memory.ACC, sizes=(size,), keys="m_tile rows")
                for name in ("cosines", "sines", "a rotated half")]
    if layer.qk_norm != "none":
        full = layer.qk_norm == "full"
        weights = (problem.n if full else width) // config.cols
        epilogue += norm_buffers(config, rows, weights, full)
    return problem.buffers(schedule, config, [*epilogue, stage_buffer(config, problem, schedule)])


def value_buffers(config: TileConfig, problem: GemmProblem, schedule: GemmSchedule) -> list[Buffer]:
    """Buffers of the v projection."""
    return problem.buffers(schedule, config, [stage_buffer(config, problem, schedule)])


@dataclass(frozen=True, kw_only=True)
class Rotated:
    """What differs between the q and the k projection."""

    name: str
    weight: Operand
    heads: int
    out_format: TensorFormat
    dequant: float
    out_scale: float
    raw_amax: float
    norm: Matrix | None


class RotaryProjection:
    """q or k: GEMM, optional QK-norm, rotary embedding, quantize, store per head."""

    def __init__(self, emitter: Emitter, workload: Workload, memory: AttentionMemory, schedule: GemmSchedule,
                 what: Rotated, problem: GemmProblem):
        layer, config = workload.attention, emitter.config
        self.emitter, self.workload, self.memory, self.schedule, self.what = emitter, workload, memory, schedule, what
        self.head_dim, self.width, self.cols = layer.head_dim, memory.rotated_head, config.cols
        self.wide = self.width > config.cols
        self.head_tiles, self.columns = max(1, self.width // config.cols), what.heads * self.width
        purpose = f"projection {what.name}"
        if schedule.group_tiles % self.head_tiles:
            raise CompileError(f"{purpose}: group_tiles = {schedule.group_tiles} must hold whole heads of "
                               f"{self.head_tiles} column tiles")
        self.problem = problem
        self.place = place(rotary_buffers(workload, config, problem, schedule), config, purpose)
        (self.cos,), (self.sin,), (self.temp,) = (self.place[key] for key in ("cosines", "sines", "a rotated half"))
        self.stage = self.place["staged results"]
        self.norm = self._norm() if what.norm is not None else None
        self._block = -1
        self._waiting: list[Group] = []
        self._raw: Matrix | None = None

    def _norm(self) -> QKNorm:
        layer, what = self.workload.attention, self.what
        assert what.norm is not None
        full = layer.qk_norm == "full"
        return QKNorm(self.emitter, self.place, name=what.name, head_tiles=self.head_tiles,
                      weights=what.norm, full=full, head_dim=layer.head_dim,
                      features=layer.head_dim * (what.heads if full else 1), eps=layer.norm_eps, dequant=what.dequant,
                      raw_amax=what.raw_amax)

    def emit(self) -> None:
        """The whole projection."""
        if self.norm is not None:
            self.norm.start()
        if self.norm is not None and self.norm.full and self.columns > self.schedule.group_tiles * self.cols:
            self._raw = float_matrix(self.emitter.builder, f"{self.what.name} before norm", self.workload.rows,
                                     self.columns)
        emit_gemm(self.emitter, self.problem, self.schedule, self.memory.x, self.what.weight, self.place, self._finish)

    def _finish(self, group: Group) -> None:
        if group.m0 != self._block:
            self._block = group.m0
            for table, addr in ((self.memory.cos, self.cos), (self.memory.sin, self.sin)):
                self.emitter.load_rows(table, first_row=group.m0, rows=group.rows, addr=addr, pitch=group.rows,
                                       label="rotary table")
        if self.norm is None or not self.norm.full:
            self._rotate_group(group)
            return
        for first in range(0, group.tiles, self.head_tiles):
            self.norm.add_squares(group.addr + first * group.pitch, group, first=group.n0 + first == 0)
        if group.n0 + group.tiles * self.cols < self.columns:
            self._set_aside(group)
            return
        self.norm.finish_sums(group)
        self._rotate_group(group)
        for number, waiting in enumerate(self._waiting, group.index + 1):
            self._rotate_group(self._fetch(waiting, number))
        self._waiting.clear()

    def _set_aside(self, group: Group) -> None:
        """A group to DRAM, until the sums of its rows are known."""
        assert self._raw is not None
        self.emitter.store_acc(self._raw, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0,
                               row_bytes=4 * group.tiles * self.cols, addr=group.addr, pitch=group.pitch,
                               label=f"store {self.what.name} before norm")
        self._waiting.append(group)

    def _fetch(self, group: Group, number: int) -> Group:
        """A group that was set aside, back in an accumulator region, as the ``number``-th."""
        assert self._raw is not None
        regions = self.place[f"{self.what.name} result group"]
        back = replace(group, index=number, addr=regions[number % len(regions)])
        self.emitter.load_rows(self._raw, first_row=back.m0, rows=back.rows, first_byte=4 * back.n0,
                               row_bytes=4 * back.tiles * self.cols, addr=back.addr, pitch=back.pitch,
                               label=f"load {self.what.name} before norm")
        return back

    def _rotate_group(self, group: Group) -> None:
        stage = self.stage[group.index % len(self.stage)]
        pitch = stage_pitch(self.emitter.config, group.tiles)
        for first in range(0, group.tiles, self.head_tiles):
            x = group.addr + first * group.pitch
            if self.norm is not None:
                if not self.norm.full:
                    self.norm.add_squares(x, group)
                    self.norm.finish_sums(group)
                self.norm.apply(x, group, group.n0 // self.width + first // self.head_tiles)
            if self.wide:
                self._rotate_halves(x, group, stage + first * self.cols // self.emitter.config.lanes, pitch)
            else:
                self._rotate_swapped(x, group, stage, first, pitch)
        self._store(group, stage, pitch)

    @property
    def _out_factor(self) -> float:
        return (1.0 if self.what.norm is not None else self.what.dequant) / self.what.out_scale

    def _rotate_halves(self, x: int, group: Group, stage: int, pitch: int) -> None:
        half, quant = self.head_tiles // 2, self.what.out_format.quant
        low, high = Elem(x, "low"), Elem(x + half * group.pitch, "high")
        cos, sin = Elem(self.cos, "cos"), Elem(self.sin, "sin")
        step = half * self.cols // self.emitter.config.lanes
        self.emitter.compute(
            Shape(rows=group.rows, tiles=half, pitch=group.pitch),
            Assign(to=Codes(addr=stage, pitch=pitch, quant=quant), value=low * cos - high * sin,
                   scale=self._out_factor, label="low half"),
            Assign(to=Codes(addr=stage + step, pitch=pitch, quant=quant), value=high * cos + low * sin,
                   scale=self._out_factor, label="high half"),
            temporaries=[Elem(self.temp)])

    def _rotate_swapped(self, x: int, group: Group, stage: int, tile: int, pitch: int) -> None:
        byte, lanes = tile * self.cols, self.emitter.config.lanes
        if byte % lanes:
            raise CompileError(f"projection {self.what.name}: column tiles of {self.cols} bytes do not start on a "
                               f"group of {lanes} lanes; use group_tiles = 1")
        swapped = Elem(x, "swapped", swap=(self.width // 2).bit_length())
        codes = Codes(addr=stage + byte // lanes, pitch=pitch, quant=self.what.out_format.quant)
        self.emitter.compute(Shape(rows=group.rows), Assign(
            to=codes, value=Elem(x) * Elem(self.cos, "cos") + swapped * Elem(self.sin, "sin"), scale=self._out_factor,
            label="rotate"), temporaries=[Elem(self.temp)])

    def _store(self, group: Group, stage: int, pitch: int) -> None:
        """Every head of the group to q, or to the key caches of the sequences whose rows these are, without zeros."""
        first, half = group.n0 // self.width, self.head_dim // 2
        heads = min(group.tiles * self.cols // self.width, self.what.heads - first)
        spans = [(0, 0, half), (self.width // 2, half, half)]
        if self.width == self.head_dim:
            spans = [(0, 0, self.head_dim)]
        for head, (source, byte, size) in product(range(first, first + heads), spans):
            fields: dict[str, Any] = {"row_bytes": size, "addr": stage, "pitch": pitch,
                                      "src_byte": (head - first) * self.width + source}
            if self.what.name == "q":
                self.emitter.store_codes(self.memory.q, first_row=group.m0, rows=group.rows,
                                         first_byte=head * self.memory.head_bytes + byte, label="store q", **fields)
                continue
            for sequence, token, at, count in row_segments(self.workload, group.m0, group.rows):
                self.emitter.store_codes(self.memory.k[sequence][head], first_row=self.workload.cached + token,
                                         rows=count, first_byte=byte, from_row=at, label="store k", **fields)


def row_segments(workload: Workload, first: int, count: int) -> list[tuple[int, int, int, int]]:
    """Cut rows first .. first+count-1 by sequence: (sequence, first token, offset in the rows, number)."""
    segments, at = [], 0
    while at < count:
        sequence, token = divmod(first + at, workload.tokens)
        size = min(count - at, workload.tokens - token)
        segments.append((sequence, token, at, size))
        at += size
    return segments


def emit_rotated(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: Scales,
                 problem: GemmProblem, schedule: GemmSchedule, out_format: TensorFormat) -> None:
    """The q or the k projection."""
    layer, name = workload.attention, problem.name
    query = name == "q"
    what = Rotated(name=name, weight=memory.wq if query else memory.wk, heads=layer.heads if query else layer.kv_heads,
                   out_format=out_format, dequant=scales["x"] * scales[f"w{name}"], out_scale=scales[name],
                   raw_amax=scales[f"{name} projected"] if layer.qk_norm != "none" else 1.0,
                   norm=memory.q_norm if query else memory.k_norm)
    RotaryProjection(emitter, workload, memory, schedule, what, problem).emit()


def emit_values(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: Scales,
                problem: GemmProblem, schedule: GemmSchedule, out_format: TensorFormat) -> None:
    """v, transposed: rows are features, columns are tokens."""
    config = emitter.config
    regions = place(value_buffers(config, problem, schedule), config, "projection v")
    stages = regions["staged results"]
    factor = scales["x"] * scales["wv"] / scales["v"]

    def finish(group: Group) -> None:
        stage, pitch = stages[group.index % len(stages)], stage_pitch(config, group.tiles)
        emitter.compute(group.shape, Assign(to=Codes(addr=stage, pitch=pitch, quant=out_format.quant),
                                            value=Elem(group.addr), scale=factor, label="quantize v"))
        columns = min(group.tiles * config.cols, workload.rows - group.n0)
        for sequence, token, at, count in row_segments(workload, group.n0, columns):
            emitter.store_codes(memory.v[sequence], first_row=group.m0, rows=group.rows,
                                first_byte=workload.cached + token, row_bytes=count, addr=stage, pitch=pitch,
                                src_byte=at, label="store v")

    emit_gemm(emitter, problem, schedule, memory.wv, replace(memory.x, scales=memory.x_scales_v), regions, finish)


def emit_output(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: Scales,
                problem: GemmProblem, schedule: GemmSchedule) -> None:
    """The output projection, FP32."""
    regions = place(problem.buffers(schedule, emitter.config), emitter.config, "output projection")

    def finish(group: Group) -> None:
        store_scaled(emitter, group, memory.out, workload.attention.hidden, scales["mixed"] * scales["wo"])

    emit_gemm(emitter, problem, schedule, memory.mixed, memory.wo, regions, finish)


def store_scaled(emitter: Emitter, group: Group, target: Matrix, columns: int, factor: float) -> None:
    """Scale a group of FP32 results in place and store it."""
    emitter.compute(group.shape, Assign(to=Elem(group.addr), value=Elem(group.addr), scale=factor, label="scale"))
    width = min(group.tiles * emitter.config.cols, columns - group.n0)
    emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0, row_bytes=4 * width,
                      addr=group.addr, pitch=group.pitch, label="store out")
