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

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Combine
from ...rtl.spec.tensor_formats import TensorFormat
from ..dram import Matrix, float_matrix
from ..emitter import Emitter, acc, imm
from ..formats import LayerFormat
from ..gemm import Group, acc_regions, emit_gemm
from ..layers import Workload
from ..operands import WIDEST_BUS, Operand
from ..placement import AccPlacer, OperandPlacer, StatPlacer, align
from ..schedule import GemmSchedule
from .heads import mixed_head
from .inputs import AttentionMemory, AttentionScales, rotary_lanes
from .norm import QKNorm


def stage_pitch(emitter: Emitter, tiles: int) -> int:
    """Groups between panels of a staging region of ``tiles`` column tiles of codes."""
    config = emitter.config
    return align(tiles * config.cols, config.a_word_bytes) // config.lanes


def stage_regions(emitter: Emitter, placer: OperandPlacer, rows: int, tiles: int, banks: int) -> list[int]:
    """As many staging regions as ``banks`` banks hold, at least one."""
    panels = -(-rows // emitter.config.rows)
    groups = panels * stage_pitch(emitter, tiles)
    count = max(1, banks * placer.bank_groups // align(groups, placer.bank_groups))
    return [placer.take(groups, "staged results (stage_banks)") for _ in range(count)]


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
                 what: Rotated):
        layer, config = workload.attention, emitter.config
        self.emitter, self.workload, self.memory, self.schedule, self.what = emitter, workload, memory, schedule, what
        self.head_dim, self.width, self.cols = layer.head_dim, memory.rotated_head, config.cols
        self.wide = self.width > config.cols
        self.head_tiles, self.columns = max(1, self.width // config.cols), what.heads * self.width
        purpose = f"projection {what.name}"
        if schedule.group_tiles % self.head_tiles:
            raise CompileError(f"{purpose}: group_tiles = {schedule.group_tiles} must hold whole heads of "
                               f"{self.head_tiles} column tiles")
        self.rows = min(schedule.m_tile, workload.rows)
        self.acc, self.a = AccPlacer(config, purpose), OperandPlacer(config, "A", purpose)
        self.regions = acc_regions(self.acc, schedule, memory.x.k, self.rows, self.columns, config.cols)
        table_tiles = rotary_lanes(self.width, config.cols) // config.cols
        self.cos = self.acc.take(table_tiles * self.rows, what="cosines (m_tile rows)").addr
        self.sin = self.acc.take(table_tiles * self.rows, what="sines (m_tile rows)").addr
        self.temp = self.acc.take(table_tiles * self.rows, what="a rotated half (m_tile rows)").addr
        self.stage = stage_regions(emitter, self.a, self.rows, schedule.group_tiles, schedule.stage_banks)
        self.norm = self._norm(StatPlacer(config, purpose)) if what.norm is not None else None
        self._block = -1
        self._waiting: list[Group] = []
        self._raw: Matrix | None = None

    def _norm(self, stats: StatPlacer) -> QKNorm:
        layer, what = self.workload.attention, self.what
        assert what.norm is not None
        full = layer.qk_norm == "full"
        return QKNorm(self.emitter, stats, name=what.name, rows=self.rows, head_tiles=self.head_tiles,
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
        emit_gemm(self.emitter, self.schedule, name=self.what.name, a=self.memory.x, b=self.what.weight,
                  m=self.workload.rows, n=self.columns, layer_k=self.workload.layer.hidden, epilogue=self._finish,
                  regions=self.regions, a_placer=self.a)

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
        back = replace(group, index=number, addr=self.regions[number % len(self.regions)].addr)
        self.emitter.load_rows(self._raw, first_row=back.m0, rows=back.rows, first_byte=4 * back.n0,
                               row_bytes=4 * back.tiles * self.cols, addr=back.addr, pitch=back.pitch,
                               label=f"load {self.what.name} before norm")
        return back

    def _rotate_group(self, group: Group) -> None:
        stage = self.stage[group.index % len(self.stage)]
        pitch = stage_pitch(self.emitter, group.tiles)
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
        emitter, half = self.emitter, self.head_tiles // 2
        low, high = x, x + half * group.pitch
        fields: dict[str, Any] = {"rows": group.rows, "tiles": half, "pitch": group.pitch}
        w = imm(self._out_factor)
        step = half * self.cols // emitter.config.lanes
        emitter.vector(**fields, x=high, y=acc(self.sin), to_acc=self.temp, dst_pitch=group.pitch, label="high * sin")
        emitter.vector(**fields, x=low, y=acc(self.cos), combine=Combine.SUB, z=acc(self.temp), w=w, to_a=stage,
                       dst_pitch=pitch, quant=self.what.out_format.quant, label="low half")
        emitter.vector(**fields, x=low, y=acc(self.sin), to_acc=self.temp, dst_pitch=group.pitch, label="low * sin")
        emitter.vector(**fields, x=high, y=acc(self.cos), combine=Combine.ADD, z=acc(self.temp), w=w, to_a=stage + step,
                       dst_pitch=pitch, quant=self.what.out_format.quant, label="high half")

    def _rotate_swapped(self, x: int, group: Group, stage: int, tile: int, pitch: int) -> None:
        emitter, rows = self.emitter, group.rows
        swap = (self.width // 2).bit_length()
        emitter.vector(rows=rows, x=x, x_swap=swap, y=acc(self.sin), to_acc=self.temp, label="swapped * sin")
        byte = tile * self.cols
        if byte % emitter.config.lanes:
            raise CompileError(f"projection {self.what.name}: column tiles of {self.cols} bytes do not start on a "
                               f"group of {emitter.config.lanes} lanes; use group_tiles = 1")
        emitter.vector(rows=rows, x=x, y=acc(self.cos), combine=Combine.ADD, z=acc(self.temp), w=imm(self._out_factor),
                       to_a=stage + byte // emitter.config.lanes, dst_pitch=pitch,
                       quant=self.what.out_format.quant, label="rotate")

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


def emit_rotated(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: AttentionScales, name: str,
                 schedule: GemmSchedule, out_format: TensorFormat) -> None:
    """The q or the k projection."""
    layer = workload.attention
    query = name == "q"
    what = Rotated(name=name, weight=memory.wq if query else memory.wk, heads=layer.heads if query else layer.kv_heads,
                   out_format=out_format,
                   dequant=scales.x * (scales.wq if query else scales.wk), out_scale=scales.q if query else scales.k,
                   raw_amax=scales.q_raw_amax if query else scales.k_raw_amax,
                   norm=memory.q_norm if query else memory.k_norm)
    RotaryProjection(emitter, workload, memory, schedule, what).emit()


def emit_values(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: AttentionScales,
                schedule: GemmSchedule, out_format: TensorFormat) -> None:
    """v, transposed: rows are features, columns are tokens."""
    config, layer = emitter.config, workload.attention
    placer, a = AccPlacer(config, "projection v"), OperandPlacer(config, "A", "projection v")
    rows = min(schedule.m_tile, layer.kv_width)
    regions = acc_regions(placer, schedule, memory.x.k, rows, workload.rows, config.cols)
    stages = stage_regions(emitter, a, rows, schedule.group_tiles, schedule.stage_banks)
    factor = scales.x * scales.wv / scales.v

    def finish(group: Group) -> None:
        stage, pitch = stages[group.index % len(stages)], stage_pitch(emitter, group.tiles)
        emitter.vector(rows=group.rows, tiles=group.tiles, pitch=group.pitch, x=group.addr, w=imm(factor), to_a=stage,
                       dst_pitch=pitch, quant=out_format.quant, label="quantize v")
        columns = min(group.tiles * config.cols, workload.rows - group.n0)
        for sequence, token, at, count in row_segments(workload, group.n0, columns):
            emitter.store_codes(memory.v[sequence], first_row=group.m0, rows=group.rows,
                                first_byte=workload.cached + token, row_bytes=count, addr=stage, pitch=pitch,
                                src_byte=at, label="store v")

    x = replace(memory.x, scales=memory.x_scales_v)
    emit_gemm(emitter, schedule, name="v", a=memory.wv, b=x, m=layer.kv_width, n=workload.rows, layer_k=layer.hidden,
              epilogue=finish, regions=regions, a_placer=a)


def emit_output(emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: AttentionScales,
                schedule: GemmSchedule, formats: LayerFormat) -> None:
    """The output projection, FP32. The headroom of block scales is made for heads as far apart as on any tile."""
    config, layer = emitter.config, workload.attention
    placer, a = AccPlacer(config, "output projection"), OperandPlacer(config, "A", "output projection")
    rows = min(schedule.m_tile, workload.rows)
    regions = acc_regions(placer, schedule, memory.mixed.k, rows, layer.hidden, config.cols)

    def finish(group: Group) -> None:
        store_scaled(emitter, group, memory.out, layer.hidden, scales.mixed * scales.wo)

    emit_gemm(emitter, schedule, name="out", a=memory.mixed, b=memory.wo, m=workload.rows, n=layer.hidden,
              layer_k=layer.heads * mixed_head(layer.head_dim, WIDEST_BUS, formats), epilogue=finish, regions=regions,
              a_placer=a)


def store_scaled(emitter: Emitter, group: Group, target: Matrix, columns: int, factor: float) -> None:
    """Scale a group of FP32 results in place and store it."""
    emitter.vector(rows=group.rows, tiles=group.tiles, pitch=group.pitch, x=group.addr, w=imm(factor),
                   to_acc=group.addr, dst_pitch=group.pitch, label="scale")
    width = min(group.tiles * emitter.config.cols, columns - group.n0)
    emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0, row_bytes=4 * width,
                      addr=group.addr, pitch=group.pitch, label="store out")
