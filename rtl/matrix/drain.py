"""Draining result tiles: row control, and the pipe of one lane from exact value to what is written.

The control of a result row enters lane 0 and moves one lane per cycle, as the columns of the array are one
cycle apart. So do the row maximum, which each lane raises by its own value, and the mask: of a row its first n
lanes are kept, but for the first s, and every lane passes n - 1 and s - 1 on. All lanes are therefore equal.

A raw partial row can be merged again ``rows`` cycles later, by the next result tile. Its write comes in stage
`STAGE_WRITE`, in line with rounded results, which is too late when the array has only four rows. Then the sum
is forwarded from the pipe; the distance is found once, at the head, and travels with the control. Writing raw
rows early was rejected: they would meet rounded rows of the instruction before at the same bank.
"""

from typing import Any

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..arith.fp32_max import Fp32Max
from ..arith.round_fp32 import RoundToFp32
from ..spec.array_formats import built_pairs, has_one_lsb
from ..spec.config import TileConfig
from ..spec.formats import FP32_INF, PAIRS
from ..spec.isa import SPEC_BY_NAME
from .pe import partial_layout
from .timing import STAGE_MERGE, STAGE_ROUND, STAGE_SELECT, STAGE_WRITE, forward_distances

FP32_MINUS_INF = FP32_INF | 1 << 31

_BITS = {field.name: field.bits for field in SPEC_BY_NAME["MATMUL"].fields}

LIMIT_BITS = 1 + max(_BITS["mask_base"], _BITS["m_rows"] + 1, _BITS["n_tiles"] + 9) + 1
"""Holds mask_base + row - column + 1, and as much of the lower limit; a column tile has at most 2**8 columns."""


LSB_BITS = 9
"""Holds every `formats.result_lsb`: at least -32 - 127."""

_ALWAYS = ("shift", "start", "valid")
"""Fields of a row's control that move on in every cycle; the others only of valid rows."""

STATUS = data.StructLayout({"inexact": 1, "overflow": 1, "nan": 1, "inf": 1})
"""What a rounded result has met: a term below the grid, a finite value too large for FP32, NaN, an infinite operand.

An accumulator of at most 96 bits whose lowest bit weighs at most 2**-2 always fits FP32, so ``overflow`` stays low for
every element pair and scale there is.
"""


def tile_layout(config: TileConfig) -> data.StructLayout:
    """What a result tile's drain needs to know.

    rows: valid rows. addr: ACC row of row 0. limit: lanes that row 0 keeps under the mask; low: how many of them, the
    first, the lower limit masks; both may be negative or too large. row: number of row 0 in the result. rowmax_init:
    this column tile starts the maximum. lsb: weight of the accumulators' lowest bit, only if it is not the same in
    every instruction.
    """
    return data.StructLayout({
        "rows": range(config.rows + 1), "addr": config.acc_addr_bits, "merge": 1, "raw": 1,
        "mask": 1, "mask_step": 1, "limit": signed(LIMIT_BITS),
        "mask_low": 1, "mask_low_step": 1, "low": signed(LIMIT_BITS),
        "rowmax": 1, "rowmax_init": 1, "rowmax_addr": config.acc_addr_bits, "row": _BITS["m_rows"],
        **_lsb_field(config),
    })


def _lsb_field(config: TileConfig) -> dict:
    return {} if has_one_lsb(config) else {"lsb": signed(LSB_BITS)}


def control_layout(config: TileConfig) -> data.StructLayout:
    """What a row's drain needs to know in every lane.

    shift, start: see `ProcessingElement`; high also for rows that are not valid. forward: one bit for each of
    `forward_distances`. keep: lanes, from this one on, that the upper limit leaves; skip: those that the lower one
    masks. stat_addr, stat_lane: place of
    the row's maximum.
    """
    return data.StructLayout({
        "shift": 1, "start": 1, "valid": 1, "merge": 1, "raw": 1, "forward": len(forward_distances(config)),
        "addr": config.acc_addr_bits, "keep": range(config.cols + 1), "skip": range(config.cols + 1),
        "rowmax": 1, "rowmax_init": 1, "stat_addr": config.acc_addr_bits, "stat_lane": ceil_log2(config.cols),
        **_lsb_field(config),
    })


class DrainHead(wiring.Component):
    """Makes ``rows`` row controls of a tile, bottom row first, one per cycle.

    Members
    -------
    start : In(1), tile : In(tile_layout)
        Starts at cycle t; row ``rows - 1`` is at ``control`` at t + `timing.DRAIN_HEAD`. Two starts
        are at least ``rows`` cycles apart.
    control : Out(control_layout)
    """

    start: Signal
    tile: data.View
    control: data.View

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "start": In(1), "tile": In(tile_layout(config)), "control": Out(control_layout(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bottom = self.config.rows - 1
        active = Signal()
        left = Signal(range(self.config.rows))
        row = Signal(tile_layout(self.config), reset_less=True)
        with m.If(self.start):
            m.d.sync += [
                active.eq(1), left.eq(bottom), row.eq(self.tile),
                row.addr.eq(self.tile.addr + bottom),
                row.row.eq(self.tile.row + bottom),
                row.limit.eq(self.tile.limit + Mux(self.tile.mask_step, bottom, 0)),
                row.low.eq(self.tile.low + Mux(self.tile.mask_low_step, bottom, 0)),
            ]
        with m.Elif(active):
            m.d.sync += [
                active.eq(left != 0), left.eq(left - 1),
                row.addr.eq(row.addr - 1), row.row.eq(row.row - 1), row.limit.eq(row.limit - row.mask_step),
                row.low.eq(row.low - row.mask_low_step),
            ]
        control = self.control
        lane_bits = len(control.stat_lane)
        m.d.comb += [
            control.shift.eq(active),
            control.start.eq(active & (left == bottom)),
            control.valid.eq(active & (left < row.rows)),
            control.merge.eq(row.merge), control.raw.eq(row.raw), control.addr.eq(row.addr),
            control.keep.eq(Mux(row.mask, self._lanes(row.limit), self.config.cols)),
            control.skip.eq(Mux(row.mask_low, self._lanes(row.low), 0)),
            control.rowmax.eq(row.rowmax), control.rowmax_init.eq(row.rowmax_init),
            control.stat_addr.eq(row.rowmax_addr + (row.row >> lane_bits)),
            control.stat_lane.eq(row.row[:lane_bits]),
        ]
        m.d.comb += [control[name].eq(row[name]) for name in _lsb_field(self.config)]
        self._forward(m)
        return m

    def _lanes(self, limit: Value) -> Value:
        """``limit`` as a number of lanes."""
        cols = self.config.cols
        return Mux(limit < 0, 0, Mux(limit > cols, cols, limit.as_unsigned()))

    def _forward(self, m: Module) -> None:
        """Mark the nearest raw row still in the pipe that has this row's address."""
        distances = forward_distances(self.config)
        raw, addr = self.control.valid & self.control.raw, self.control.addr
        nearer: Value | int = 0
        for distance in range(1, distances.stop):
            raw_before = Signal(name=f"raw_{distance}")
            addr_before = Signal.like(self.control.addr, name=f"addr_{distance}", reset_less=True)
            m.d.sync += raw_before.eq(raw)
            with m.If(raw):
                m.d.sync += addr_before.eq(addr)
            raw, addr = raw_before, addr_before
            if distance in distances:
                hit = Signal(name=f"hit_{distance}")
                m.d.comb += [
                    hit.eq(raw & (addr == self.control.addr) & ~nearer),
                    self.control.forward[distance - distances.start].eq(hit),
                ]
                nearer = nearer | hit


class DrainLane(wiring.Component):
    """Merge -> round -> mask -> row maximum, for one column.

    Members; stages are those of `timing`
    -------
    control_in, control_out : control_layout
        Stage 0 of this lane and of the next.
    start, shift : Out(1), column : In(partial_layout)
        Drain control and end of the array's column, in `STAGE_MERGE`.
    read : {en, addr}
        Raw row wanted, in stage 0; its data at ``partial`` : In(partial_layout) one cycle later.
    write : {en, raw, addr, word, sum}
        In `STAGE_WRITE`: ``word`` is the FP32 result, ``sum`` (partial_layout) the raw one.
    maximum_in : In(32), maximum_out : Out(32)
        Row maximum of the lanes before, in `STAGE_WRITE`, and including this one, a cycle later.
    status : Out(STATUS)
        Of the rounded result, if it is valid and not masked, a cycle after `STAGE_WRITE`.
    """

    control_in: data.View
    control_out: data.View
    start: Signal
    shift: Signal
    column: data.View
    read: Any
    partial: data.View
    write: Any
    maximum_in: Signal
    maximum_out: Signal
    status: data.View

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        control, partial = control_layout(config), partial_layout(config)
        addr = config.acc_addr_bits
        super().__init__({
            "control_in": In(control), "control_out": Out(control), "start": Out(1), "shift": Out(1),
            "column": In(partial), "read": Out(Signature({"en": Out(1), "addr": Out(addr)})), "partial": In(partial),
            "write": Out(Signature({"en": Out(1), "raw": Out(1), "addr": Out(addr), "word": Out(32),
                                    "sum": Out(partial)})),
            "maximum_in": In(32), "maximum_out": Out(32), "status": Out(STATUS),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control_in
        m.d.sync += [self.control_out[name].eq(control[name]) for name in _ALWAYS]
        with m.If(control.valid):
            m.d.sync += [self.control_out[name].eq(control[name]) for name, _ in control.shape() if name not in _ALWAYS]
            m.d.sync += [self.control_out[name].eq(Mux(control[name] == 0, 0, control[name] - 1))
                         for name in ("keep", "skip")]
        stages = self._stages(m)
        m.d.comb += [
            self.read.en.eq(control.valid & control.merge), self.read.addr.eq(control.addr),
            self.start.eq(stages[STAGE_MERGE].start), self.shift.eq(stages[STAGE_MERGE].shift),
        ]
        sums = self._merge(m, stages)
        rounding = RoundToFp32(width=self.config.acc_bits)
        maximum = Fp32Max()
        last = stages[STAGE_WRITE]
        m.submodules.rounding = EnableInserter(Cat(s.valid for s in stages[STAGE_ROUND:STAGE_WRITE]).any())(rounding)
        m.submodules.maximum = EnableInserter(last.valid)(maximum)
        m.d.comb += [
            rounding.value.eq(sums[STAGE_ROUND].value),
            rounding.flags.eq(sums[STAGE_ROUND].flags),
            rounding.lsb.eq(PAIRS[built_pairs(self.config)[0]].lsb_exponent if has_one_lsb(self.config)
                            else stages[STAGE_ROUND].lsb),
            self.write.en.eq(last.valid), self.write.raw.eq(last.raw), self.write.addr.eq(last.addr),
            self.write.word.eq(Mux(last.masked, FP32_MINUS_INF, rounding.result)),
            self.write.sum.eq(sums[STAGE_WRITE]),
            maximum.a.eq(self.maximum_in), maximum.b.eq(self.write.word),
            self.maximum_out.eq(maximum.result),
        ]
        self._status(m, last, rounding.result, sums[STAGE_WRITE].flags)
        return m

    def _status(self, m: Module, last: data.View, result: Value, flags: data.View) -> None:
        nan = flags.nan | (flags.pinf & flags.ninf)
        infinite = flags.pinf | flags.ninf
        with m.If(last.valid & ~last.raw & ~last.masked):
            m.d.sync += [
                self.status.inexact.eq(flags.inexact), self.status.nan.eq(nan), self.status.inf.eq(infinite & ~nan),
                self.status.overflow.eq(result[23:31].all() & ~nan & ~infinite)]
        with m.Else():
            m.d.sync += self.status.eq(0)

    def _stages(self, m: Module) -> list:
        """The control of each stage up to the write, as far as this lane uses it."""
        names = ("start", "shift", "valid", "merge", "raw", "forward", "addr", *_lsb_field(self.config))
        layout = data.StructLayout({name: self.control_in.shape()[name].shape for name in names} | {"masked": 1})
        stages = [Signal(layout, name="stage_0")]
        m.d.comb += [stages[0][name].eq(self.control_in[name]) for name in names]
        m.d.comb += stages[0].masked.eq((self.control_in.keep == 0) | (self.control_in.skip != 0))
        for stage in range(1, STAGE_WRITE + 1):
            stages.append(Signal(layout, name=f"stage_{stage}"))
            before = stages[stage - 1]
            m.d.sync += [stages[stage][name].eq(before[name]) for name in _ALWAYS]
            with m.If(before.valid):
                m.d.sync += [stages[stage][name].eq(before[name]) for name, _ in layout if name not in _ALWAYS]
        return stages

    def _merge(self, m: Module, stages: list) -> dict[int, data.View]:
        """The sum as it is in each stage from `STAGE_ROUND` on."""
        layout = partial_layout(self.config)
        select, merge = stages[STAGE_SELECT], stages[STAGE_MERGE]
        distances = forward_distances(self.config)
        sums: dict[int, data.View] = {}
        for stage in range(STAGE_ROUND, max(STAGE_WRITE, STAGE_SELECT + distances.stop - 1) + 1):
            sums[stage] = Signal(layout, name=f"sum_{stage}", reset_less=True)
            if stage > STAGE_ROUND:
                with m.If(stages[stage - 1].valid):
                    m.d.sync += sums[stage].eq(sums[stage - 1])

        partial = Signal(layout, reset_less=True)
        with m.If(select.valid & select.merge):
            m.d.sync += partial.eq(self.partial)
            for i, distance in enumerate(distances):
                with m.If(select.forward[i]):
                    m.d.sync += partial.eq(sums[STAGE_SELECT + distance])
        with m.If(merge.valid):
            m.d.sync += [
                sums[STAGE_ROUND].value.eq(self.column.value + Mux(merge.merge, partial.value, 0)),
                sums[STAGE_ROUND].flags.eq(self.column.flags.as_value()
                                           | Mux(merge.merge, partial.flags.as_value(), 0)),
            ]
        return sums
