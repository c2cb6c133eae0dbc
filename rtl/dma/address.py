"""Walks of the DMA units over the rows and beats of an instruction, in DRAM and on chip.

Every walk is a set of small counters that step once per beat; nothing is multiplied but the index of a
gather or scatter (`RowAddress`). A row always starts a new bus beat.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig
from ..spec.isa import Space

DRAM_ADDR_BITS = 40
CHIP_ADDR_BITS = 20

EXTENT = data.StructLayout({"last_row": 16, "last_byte": 20})
"""Rows and bytes per row of an instruction, each minus one."""

PLACE = data.StructLayout({"space": 3, "addr": CHIP_ADDR_BITS, "row_offset": 8, "pitch": CHIP_ADDR_BITS})
"""On-chip side of an instruction: the fields of that name."""


def extent_of(command: data.View) -> dict[str, Value]:
    """Values of an `EXTENT` from the command's ``rows`` and ``row_bytes``."""
    return {"last_row": (command.rows - 1)[:16], "last_byte": (command.row_bytes - 1)[:20]}


def place_of(command: data.View) -> dict[str, Value]:
    """Values of a `PLACE` from the fields of the command."""
    return {name: command[name] for name in PLACE.members}


class BeatCounter(wiring.Component):
    """Counts the beats of one instruction after another.

    Members
    -------
    extent : In(EXTENT)
        Of the instruction whose beat is next; may change after a step with `done`.
    step : In(1)
        The next beat is taken at the end of this cycle.
    row_first, row_done, done : Out(1)
        The next beat is the first of its row, the last of its row, the last of the instruction.
    mask : Out(bus_bytes)
        Valid bytes of the next beat, from byte 0 up.
    beats_left, rows_left : Out
        Beats of this row after the next beat, rows after this row.
    """

    extent: data.View
    step: Signal
    row_first: Signal
    row_done: Signal
    done: Signal
    mask: Signal
    beats_left: Signal
    rows_left: Signal

    def __init__(self, config: TileConfig) -> None:
        self.bus_bytes = config.bus_bytes
        super().__init__({
            "extent": In(EXTENT), "step": In(1), "row_first": Out(1), "row_done": Out(1), "done": Out(1),
            "mask": Out(config.bus_bytes), "beats_left": Out(21 - config.bus_bytes.bit_length()),
            "rows_left": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bits = self.bus_bytes.bit_length() - 1
        row = Signal(16)
        beat = Signal(20 - bus_bits)
        full = (1 << self.bus_bytes) - 1
        missing = (~self.extent.last_byte[:bus_bits])[:bus_bits]
        m.d.comb += [
            self.row_first.eq(beat == 0),
            self.row_done.eq(beat == self.extent.last_byte[bus_bits:]),
            self.done.eq(self.row_done & (row == self.extent.last_row)),
            self.mask.eq(Mux(self.row_done, Const(full) >> missing, full)),
            self.beats_left.eq(self.extent.last_byte[bus_bits:] - beat),
            self.rows_left.eq(self.extent.last_row - row),
        ]
        with m.If(self.step):
            m.d.sync += beat.eq(Mux(self.row_done, 0, beat + 1))
            with m.If(self.row_done):
                m.d.sync += row.eq(Mux(self.done, 0, row + 1))
        return m


class ChipWalk(wiring.Component):
    """On-chip address of each beat of one instruction after another; wraps a `BeatCounter`.

    Members
    -------
    extent, place : In(EXTENT), In(PLACE)
        Of the instruction whose beat is next. ``row_offset`` must be less than the slices of the buffer.
    step, row_first, row_done, done, mask, beats_left, rows_left :
        As in `BeatCounter`.
    slice : Out(8)
        A, B: slice (row_offset + i) mod slices of row i.
    group : Out(20)
        A, B: address + panel*pitch + beat*bus_bytes/lanes.
    row, part : Out(16), Out(6)
        ACC: row address + i + chunk*pitch and the beat within this chunk of 4*cols bytes.
    linear : Out(20)
        INDEX, PROGRAM (instructions of one row): beats from the start of the memory.
    """

    extent: data.View
    place: data.View
    step: Signal
    row_first: Signal
    row_done: Signal
    done: Signal
    mask: Signal
    beats_left: Signal
    rows_left: Signal
    slice: Signal
    group: Signal
    row: Signal
    part: Signal
    linear: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "extent": In(EXTENT), "place": In(PLACE), "step": In(1),
            "row_first": Out(1), "row_done": Out(1), "done": Out(1), "mask": Out(config.bus_bytes),
            "beats_left": Out(21 - config.bus_bytes.bit_length()), "rows_left": Out(16),
            "slice": Out(8), "group": Out(CHIP_ADDR_BITS), "row": Out(16), "part": Out(6),
            "linear": Out(CHIP_ADDR_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.beats = beats = BeatCounter(config)
        m.d.comb += [
            beats.extent.eq(self.extent), beats.step.eq(self.step), self.row_first.eq(beats.row_first),
            self.row_done.eq(beats.row_done), self.done.eq(beats.done), self.mask.eq(beats.mask),
            self.beats_left.eq(beats.beats_left), self.rows_left.eq(beats.rows_left),
        ]
        beat = Signal(CHIP_ADDR_BITS)
        with m.If(self.step):
            m.d.sync += beat.eq(Mux(self.row_done, 0, beat + 1))
        m.d.comb += self.linear.eq(_linear_start(self.place, config) + beat)
        self._operand(m, beat)
        self._accumulator(m)
        return m

    def _fresh(self, m: Module) -> Signal:
        fresh = Signal(init=1)
        with m.If(self.step):
            m.d.sync += fresh.eq(self.done)
        return fresh

    def _operand(self, m: Module, beat: Signal) -> None:
        config = self.config
        fresh = self._fresh(m)
        next_slice = Signal(8)
        next_base = Signal(CHIP_ADDR_BITS)
        base = Signal(CHIP_ADDR_BITS)
        last_slice = Mux(self.place.space == Space.A, config.rows - 1, config.cols - 1)
        m.d.comb += [
            self.slice.eq(Mux(fresh, self.place.row_offset, next_slice)),
            base.eq(Mux(fresh, self.place.addr, next_base)),
            self.group.eq(base + beat * (config.bus_bytes // config.lanes)),
        ]
        with m.If(self.step):
            m.d.sync += [next_slice.eq(self.slice), next_base.eq(base)]
            with m.If(self.row_done):
                m.d.sync += next_slice.eq(self.slice + 1)
                with m.If(self.slice == last_slice):
                    m.d.sync += [next_slice.eq(0), next_base.eq(base + self.place.pitch)]

    def _accumulator(self, m: Module) -> None:
        config = self.config
        fresh = self._fresh(m)
        next_row = Signal(16)
        next_chunk = Signal(16)
        base = Signal(16)
        parts = 4 * config.cols // config.bus_bytes
        part = Signal(range(parts))
        chunk = Signal(16)
        m.d.comb += [
            base.eq(Mux(fresh, self.place.addr, next_row)),
            chunk.eq(Mux(self.row_first, 0, next_chunk)),
            self.row.eq(base + chunk),
            self.part.eq(part),
        ]
        with m.If(self.step):
            m.d.sync += [next_row.eq(base), next_chunk.eq(chunk), part.eq(part + 1)]
            with m.If(part == parts - 1):
                m.d.sync += [next_chunk.eq(chunk + self.place.pitch), part.eq(0)]
            with m.If(self.row_done):
                m.d.sync += [next_row.eq(base + 1), part.eq(0)]


def _linear_start(place: data.View, config: TileConfig) -> Value:
    """Beat at an INDEX (4-byte entries) or PROGRAM (32-byte slots) address, which is on a beat."""
    entry_shift = (config.bus_bytes // 4).bit_length() - 1
    slot = place.addr << 5
    return Mux(place.space == Space.INDEX, place.addr >> entry_shift,
               slot >> (config.bus_bytes.bit_length() - 1))


class DramWalk(wiring.Component):
    """DRAM byte address of each beat of one instruction: rows `stride` bytes apart, beats bus_bytes apart.

    Members
    -------
    load : In(1)
        Start again at `start` at the end of this cycle.
    start, stride : In(40), In(32)
        Of row 0; bytes between rows, 0 for gather and scatter (`RowAddress` adds the row). `stride` must
        hold its value from the cycle after `load` on.
    step, row_done : In(1)
        The beat is taken at the end of this cycle; it is the last of its row.
    address : Out(40)
    """

    load: Signal
    start: Signal
    stride: Signal
    step: Signal
    row_done: Signal
    address: Signal

    def __init__(self, config: TileConfig) -> None:
        self.bus_bytes = config.bus_bytes
        super().__init__({
            "load": In(1), "start": In(DRAM_ADDR_BITS), "stride": In(32), "step": In(1), "row_done": In(1),
            "address": Out(DRAM_ADDR_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base = Signal(DRAM_ADDR_BITS)
        with m.If(self.step):
            m.d.sync += self.address.eq(self.address + self.bus_bytes)
            with m.If(self.row_done):
                m.d.sync += [self.address.eq(base + self.stride), base.eq(base + self.stride)]
        with m.If(self.load):
            m.d.sync += [self.address.eq(self.start), base.eq(self.start)]
        return m


class RowAddress(wiring.Component):
    """`base` plus index * `stride` modulo 2**40, pipelined: the DRAM address of a gathered row.

    The 32 x 32-bit product is taken as two 32 x 16-bit ones, each with a register before and after.

    Members
    -------
    advance : In(1)
        The pipeline moves at the end of this cycle; else it holds.
    base, stride, indexed : In(40), In(32), In(1)
        At stage 0, of one beat; `indexed` 0 makes the index count as 0.
    index : In(32)
        One advance later than `base` (the output of the index memory).
    address : Out(40)
        Combinational from stage 3.
    low : Out(6)
        The lowest bits of `address` one advance earlier, combinational from stage 2.

    LATENCY is 3 advances from `base` to `address`, throughput one beat per advance.
    """

    LATENCY = 3

    advance: Signal
    base: Signal
    stride: Signal
    indexed: Signal
    index: Signal
    address: Signal
    low: Signal

    def __init__(self) -> None:
        super().__init__({
            "advance": In(1), "base": In(DRAM_ADDR_BITS), "stride": In(32), "indexed": In(1), "index": In(32),
            "address": Out(DRAM_ADDR_BITS), "low": Out(6)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        base1, base2, base3 = (Signal(DRAM_ADDR_BITS, name=f"base{n}") for n in (1, 2, 3))
        stride1 = Signal(32)
        stride2 = Signal(32)
        indexed1 = Signal()
        index2 = Signal(32)
        low = Signal(48)
        high = Signal(24)
        with m.If(self.advance):
            m.d.sync += [
                base1.eq(self.base), stride1.eq(self.stride), indexed1.eq(self.indexed),
                base2.eq(base1), stride2.eq(stride1), index2.eq(Mux(indexed1, self.index, 0)),
                base3.eq(base2), low.eq(index2[:16] * stride2), high.eq(index2[16:] * stride2[:24]),
            ]
        m.d.comb += [self.address.eq(base3 + low + (high << 16)),
                     self.low.eq(base2[:6] + index2[:6] * stride2[:6])]
        return m
