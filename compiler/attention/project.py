"""Projections of an attention layer: q and k with rotary embedding, v transposed, and the output.

q and k: the epilogue of each group (a head, or a column tile of several heads) dequantizes, applies the QK-norm
if the layer has one, rotates, quantizes into buffer A and stores. Rotation pairs feature i with i + head_dim/2.
When a head is wider than the array its halves lie in different column tiles of the same lanes; else they lie in
one tile and the vector unit reads x with its halves swapped.

v is produced transposed by exchanging the operands: the weight's rows are the result's rows, so that the second
matmul of the core finds its k (the keys) contiguous and no transposer is needed.
"""

from dataclasses import dataclass, replace
from typing import Any

from ...rtl.errors import CompileError
from ...rtl.isa import Combine, Func, Reduce
from ..emitter import Emitter, Matrix, acc, column, imm, row
from ..formats import LayerFormat, TensorFormat
from ..gemm import Group, acc_regions, emit_gemm
from ..layers import Workload
from ..operands import WIDEST_BUS, Operand
from ..placement import AccPlacer, OperandPlacer, StatPlacer, align
from ..schedule import GemmSchedule
from .heads import mixed_head
from .inputs import AttentionMemory, AttentionScales, rotary_lanes


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
        self.head_dim, self.cols = layer.head_dim, config.cols
        self.wide = layer.head_dim > config.cols
        if schedule.group_tiles % max(1, layer.head_dim // config.cols):
            raise CompileError(f"projection {what.name}: group_tiles = {schedule.group_tiles} must hold whole heads of "
                               f"{layer.head_dim // config.cols} column tiles")
        self.head_tiles = max(1, layer.head_dim // config.cols)
        self.rows = min(schedule.m_tile, workload.rows)
        purpose = f"projection {what.name}"
        self.acc, stats = AccPlacer(config, purpose), StatPlacer(config, purpose)
        self.a = OperandPlacer(config, "A", purpose)
        n = what.heads * layer.head_dim
        self.regions = acc_regions(self.acc, schedule, memory.x.k, self.rows, n, config.cols)
        table_tiles = rotary_lanes(layer.head_dim, config.cols) // config.cols
        self.cos = self.acc.take(table_tiles * self.rows, what="cosines (m_tile rows)").addr
        self.sin = self.acc.take(table_tiles * self.rows, what="sines (m_tile rows)").addr
        self.temp = self.acc.take(table_tiles * self.rows, what="a rotated half (m_tile rows)").addr
        self.stage = stage_regions(emitter, self.a, self.rows, schedule.group_tiles, schedule.stage_banks)
        if what.norm is not None:
            words = -(-self.rows // config.cols)
            self.squares, self.rstd = stats.take(words, "sums of squares"), stats.take(words, "norms")
            self.weights = stats.take(self.head_tiles, "norm weights")
        self._block = -1

    def emit(self) -> None:
        """The whole projection."""
        if self.what.norm is not None:
            self.emitter.load_rows(self.what.norm, first_row=0, rows=self.head_tiles, addr=self.weights,
                                   label=f"{self.what.name} norm weights")
        emit_gemm(self.emitter, self.schedule, name=self.what.name, a=self.memory.x, b=self.what.weight,
                  m=self.workload.rows, n=self.what.heads * self.head_dim,
                  layer_k=self.workload.layer.hidden, epilogue=self._finish, regions=self.regions,
                  a_placer=self.a)

    def _finish(self, group: Group) -> None:
        if group.m0 != self._block:
            self._block = group.m0
            for table, addr in ((self.memory.cos, self.cos), (self.memory.sin, self.sin)):
                self.emitter.load_rows(table, first_row=group.m0, rows=group.rows, addr=addr, pitch=group.rows,
                                       label="rotary table")
        stage = self.stage[group.index % len(self.stage)]
        pitch = stage_pitch(self.emitter, group.tiles)
        for first in range(0, group.tiles, self.head_tiles):
            x = group.addr + first * group.pitch
            if self.what.norm is not None:
                self._normalize(x, group)
            if self.wide:
                self._rotate_halves(x, group, stage + first * self.cols // self.emitter.config.lanes, pitch)
            else:
                self._rotate_swapped(x, group, stage, first, pitch)
        self._store(group, stage, pitch)

    def _normalize(self, x: int, group: Group) -> None:
        """x <- x * dequant * weight / rms(x), in place.

        A row sum is exact on a grid of 2**-24 and holds up to 2**23. The squares of a head are scaled so that they
        add up to 2**22 if all have the largest magnitude; heads 2**-16 times as large then have their norm to 1e-3.
        """
        emitter, what, rows = self.emitter, self.what, group.rows
        gain = 2.0 ** ((22 - (self.head_dim - 1).bit_length()) // 2)
        unit = what.dequant / what.raw_amax * gain
        emitter.vector(rows=rows, tiles=self.head_tiles, pitch=group.pitch, x=x, y=acc(x), w=imm(unit * unit),
                       reduce=Reduce.SUM, reduce_addr=self.squares, label="sum of squares")
        mean = (what.raw_amax / gain) ** 2 / self.head_dim
        emitter.vector(rows=-(-rows // self.cols), x=self.squares, y=imm(mean), combine=Combine.ADD,
                       z=imm(self.workload.attention.norm_eps), func=Func.RSQRT, w=imm(what.dequant),
                       to_acc=self.rstd, label="1 / rms")
        for tile in range(self.head_tiles):
            at = x + tile * group.pitch
            emitter.vector(rows=rows, x=at, y=row(self.rstd), w=column(self.weights + tile), to_acc=at,
                           label="normalize")

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
        swap = (self.head_dim // 2).bit_length()
        emitter.vector(rows=rows, x=x, x_swap=swap, y=acc(self.sin), to_acc=self.temp, label="swapped * sin")
        byte = tile * self.cols
        if byte % emitter.config.lanes:
            raise CompileError(f"projection {self.what.name}: column tiles of {self.cols} bytes do not start on a "
                               f"group of {emitter.config.lanes} lanes; use group_tiles = 1")
        emitter.vector(rows=rows, x=x, y=acc(self.cos), combine=Combine.ADD, z=acc(self.temp), w=imm(self._out_factor),
                       to_a=stage + byte // emitter.config.lanes, dst_pitch=pitch,
                       quant=self.what.out_format.quant, label="rotate")

    def _store(self, group: Group, stage: int, pitch: int) -> None:
        """Every head of the group to q, or to the key caches of the sequences whose rows these are."""
        first = group.n0 // self.head_dim
        heads = min(group.tiles * self.cols // self.head_dim, self.what.heads - first)
        for head in range(first, first + heads):
            src = (head - first) * self.head_dim
            if self.what.name == "q":
                self.emitter.store_codes(self.memory.q, first_row=group.m0, rows=group.rows,
                                         first_byte=head * self.memory.head_bytes, row_bytes=self.head_dim, addr=stage,
                                         pitch=pitch, src_byte=src, label="store q")
                continue
            for sequence, token, at, count in row_segments(self.workload, group.m0, group.rows):
                self.emitter.store_codes(self.memory.k[sequence][head], first_row=self.workload.cached + token,
                                         rows=count, first_byte=0, row_bytes=self.head_dim, addr=stage, pitch=pitch,
                                         src_byte=src, from_row=at, label="store k")


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
    """The output projection, FP32."""
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
