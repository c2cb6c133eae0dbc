"""Which beats of a DMA instruction carry scale bytes, and where each data beat's scale bytes lie in them.

Scale bytes pass through a register of one bus beat. A load fills it with a beat of its own before the first data beat
whose scale bytes are not in it; a store writes it out when the next data beat's bytes no longer fit, and at the end of
every row. So beats of an instruction are *slots*, each a data beat or a scale beat, and the order is a function of the
instruction alone: requests, responses and on-chip reads each have their walk and need not tell each other.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..spec.config import TileConfig
from ..spec.scale_layout import SCALE_BLOCKS, built_layouts

STRIDE_BITS = 12

SCALES = data.StructLayout({"scale": 3, "scale_stride": STRIDE_BITS})
"""The fields of that name."""


def scales_of(command: data.View) -> dict[str, Value]:
    """Values of a `SCALES` from the fields of the command."""
    return {name: command[name] for name in SCALES.members}


def beat_groups(config: TileConfig) -> int:
    """Groups, and so at most scale bytes, of a data beat."""
    return config.bus_bytes // config.lanes


class ScaleWalk(wiring.Component):
    """Slots of one instruction after another, beside a `BeatCounter` that counts the data beats.

    Parameters: ``config``, and ``store``: scale beats follow their data beats instead of leading them. In a tile
    without scales all slots are data beats.

    Members
    -------
    scales : In(SCALES)
        Of the instruction whose slot is next; may change after a step with `done`.
    step : In(1)
        The next slot is taken at the end of this cycle.
    row_first, row_done, last, beats_left, rows_left : In
        Of the next data beat: ``row_first``, ``row_done``, ``done`` and what is left from the `BeatCounter`, which
        must take a step with every data slot.
    is_scale : Out(1)
        The next slot is a scale beat.
    row_starts : Out(1)
        The next slot is the first of its row.
    done : Out(1)
        The next slot is the last of the instruction.
    position : Out(range(bus_bytes))
        Byte of the register that belongs to the first scale byte of the next data beat.
    starts : Out(beat_groups)
        Groups of the next data beat that have a scale byte, if they have data.
    row_end : Out(1)
        Of a scale slot: it is the last of its row, and the next one's address follows from the row's.
    run_beats, run_rows : Out
        Data slots that follow the next one in its row, and rows that follow it, without a scale slot in between;
        rows are not counted when a scale slot may come within a row.
    """

    scales: data.View
    step: Signal
    row_first: Signal
    row_done: Signal
    last: Signal
    beats_left: Signal
    rows_left: Signal
    is_scale: Signal
    row_starts: Signal
    done: Signal
    position: Signal
    starts: Signal
    row_end: Signal
    run_beats: Signal
    run_rows: Signal

    def __init__(self, config: TileConfig, *, store: bool) -> None:
        self.store = store
        self.bus_bits = ceil_log2(config.bus_bytes)
        self.groups = beat_groups(config)
        # Per layout its block, and the number of data beats whose scale bytes fill the register.
        self.layouts = {code: (SCALE_BLOCKS[code], config.lanes * SCALE_BLOCKS[code].groups_per_byte)
                        for code in built_layouts(config)}
        super().__init__({
            "scales": In(SCALES), "step": In(1), "row_first": In(1), "row_done": In(1), "last": In(1),
            "beats_left": In(20 - self.bus_bits), "rows_left": In(16),
            "is_scale": Out(1), "row_starts": Out(1), "done": Out(1), "position": Out(self.bus_bits),
            "starts": Out(self.groups), "row_end": Out(1), "run_beats": Out(20 - self.bus_bits), "run_rows": Out(16)})

    def follow(self, counter: Any) -> list:
        """Connections from a `BeatCounter` or `ChipWalk`."""
        return [self.row_first.eq(counter.row_first), self.row_done.eq(counter.row_done), self.last.eq(counter.done),
                self.beats_left.eq(counter.beats_left), self.rows_left.eq(counter.rows_left)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.layouts:
            m.d.comb += [self.row_starts.eq(self.row_first), self.done.eq(self.last),
                         self.run_beats.eq(self.beats_left), self.run_rows.eq(self.rows_left)]
            return m
        periods = [period for _, period in self.layouts.values()]
        # `group` counts the groups of the row before the next data beat, as far as positions depend on it.
        block_bits = ceil_log2(max(block.groups for block, _ in self.layouts.values())) + self.bus_bits
        beat = Signal(block_bits - ceil_log2(self.groups))
        group = Signal(block_bits)
        mask = Signal(block_bits)
        first_byte = Signal(self.bus_bits)
        row_byte = Signal(self.bus_bits)
        period_left = Signal(range(max(periods)))
        any_scales = Signal()
        m.d.comb += group.eq(beat << ceil_log2(self.groups))
        with m.Switch(self.scales.scale):
            for code, (block, period) in self.layouts.items():
                with m.Case(code):
                    m.d.comb += [
                        any_scales.eq(1), mask.eq(block.group_mask), period_left.eq((~beat)[:ceil_log2(period)]),
                        first_byte.eq(Cat(group[:ceil_log2(block.size)], group[ceil_log2(block.groups):])),
                    ]
        wanted = Signal()
        fetched = Signal()
        data_step = Signal()
        row_fits = Signal()
        m.d.comb += [
            self.position.eq(row_byte + first_byte),
            self.starts.eq(Cat(any_scales & ((group | g) & mask == 0) for g in range(self.groups))),
            wanted.eq(self.starts.any() & (self.position == 0) & ~fetched),
            data_step.eq(self.step & ~self.is_scale),
            row_fits.eq(self.beats_left <= period_left),
            self.run_beats.eq(Mux(any_scales & ~row_fits, period_left, self.beats_left)),
        ]
        with m.If(self.step):
            m.d.sync += fetched.eq(self.is_scale)
        with m.If(data_step):
            m.d.sync += beat.eq(Mux(self.row_done, 0, beat + 1))
        if self.store:
            self._store_order(m, any_scales, wanted, data_step)
        else:
            self._load_order(m, any_scales, wanted, fetched, data_step, row_byte, row_fits)
        return m

    def _load_order(self, m: Module, any_scales: Signal, wanted: Signal, fetched: Signal, data_step: Signal,
                    row_byte: Signal, row_fits: Signal) -> None:
        """A scale beat leads; rows that are packed into beats, or share one, find their bytes in the register."""
        stride = self.scales.scale_stride
        first_row = Signal(init=1)
        packed = Signal()
        m.d.comb += [
            packed.eq(stride >> self.bus_bits == 0),
            self.is_scale.eq(wanted & (first_row | (stride != 0))),
            self.row_starts.eq(self.row_first & (self.is_scale | ~fetched)),
            self.done.eq(self.last & ~self.is_scale), self.row_end.eq(row_fits & ~packed),
        ]
        with m.If(data_step & self.row_done):
            m.d.sync += [first_row.eq(self.last), row_byte.eq(Mux(self.last, 0, row_byte + stride))]
        # Rows after this one whose bytes are in the register: those that fit from here to its end.
        rows_held = Signal(self.bus_bits)
        with m.Switch(stride):
            for shift in range(self.bus_bits):
                with m.Case(1 << shift):
                    m.d.comb += rows_held.eq((~row_byte)[:self.bus_bits] >> shift)
        m.d.comb += self.run_rows.eq(self.rows_left)
        with m.If(any_scales & (~packed | (stride != 0) & (rows_held < self.rows_left))):
            m.d.comb += self.run_rows.eq(Mux(packed, rows_held, 0))

    def _store_order(self, m: Module, any_scales: Signal, wanted: Signal, data_step: Signal) -> None:
        """A scale beat ends every row; within a row one comes before the register would be filled anew."""
        row_ended = Signal()
        ended = Signal()
        m.d.comb += [
            self.is_scale.eq(row_ended | wanted & ~self.row_first), self.row_end.eq(row_ended),
            self.row_starts.eq(self.row_first & ~row_ended),
            self.done.eq(Mux(any_scales, row_ended & ended, self.last)),
            self.run_rows.eq(Mux(any_scales, 0, self.rows_left)),
        ]
        with m.If(self.step):
            m.d.sync += [row_ended.eq(data_step & self.row_done & any_scales), ended.eq(self.last)]
