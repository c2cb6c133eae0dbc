"""Store unit: rows of A or ACC to DRAM, 2-D strided or scattered by an index list.

A beat is read on chip (two cycles), rotated to its place in the bus word, and queued for the write port.
Reads start only while the queue has room for everything on its way to it, so the port may be not ready at
any time and the pipeline never stalls. The address of a scattered row is computed beside the data and is
never later, so a scatter takes no longer than a store.

Scale bytes arrive with the beats that they belong to and are collected in a register, which goes down the same pipeline
as a beat of its own (`ScaleWalk`). Writing each scale byte with a strobed beat was rejected: up to `lanes` times the
beats.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..lib.command_queue import CommandQueue
from ..lib.unit_port import command_layout, unit_signature
from ..spec.config import TileConfig
from ..spec.isa import SPEC_BY_NAME, STRIDE_UNIT, Space
from .address import EXTENT, PLACE, BeatCounter, ChipWalk, DramWalk, RowAddress, extent_of, place_of
from .index_memory import index_read_signature
from .pace import Pace
from .run_ahead import MORE_BITS, RunAhead
from .scale_register import ScaleCollector
from .scale_walk import SCALES, ScaleWalk, beat_groups, scales_of

STORE_COMMAND = command_layout("STORE", "SCATTER")

OUTPUT_DEPTH = 8
"""Beats between on-chip read and write port; without back pressure 5 are on their way at any time."""

DESCRIPTOR = data.StructLayout({"extent": EXTENT, "scales": SCALES, "signal_wr": 5})
"""What the response count needs of an instruction in flight."""


def write_port_signature(config: TileConfig) -> wiring.Signature:
    """DRAM write port seen from the tile: bus-aligned byte addresses; one response per request, in order.

    With a request come at least ``req_more`` requests for the addresses that follow, at once or a little later.
    """
    return wiring.Signature({
        "req_valid": Out(1), "req_addr": Out(40), "req_more": Out(MORE_BITS), "req_data": Out(8 * config.bus_bytes),
        "req_strb": Out(config.bus_bytes), "req_ready": In(1), "rsp_valid": In(1)})


def operand_read_signature(config: TileConfig) -> wiring.Signature:
    """Read port of A: `en`, `slice` and `addr` (group, on a beat) at t, beat and scale bytes of its groups at t + 2."""
    return wiring.Signature({
        "en": Out(1), "slice": Out(8), "addr": Out(config.a_addr_bits), "data": In(8 * config.bus_bytes),
        "scales": In(8 * beat_groups(config))})


def acc_read_signature(config: TileConfig) -> wiring.Signature:
    """Read port of ACC: `en`, `addr` (row) and `part` (beat of the row) at t, the beat at t + 2."""
    return wiring.Signature({
        "en": Out(1), "addr": Out(config.acc_addr_bits), "part": Out(6), "data": In(8 * config.bus_bytes)})


class StoreUnit(wiring.Component):
    """Executes STORE and SCATTER, one beat per cycle.

    Members
    -------
    unit : unit_signature(STORE_COMMAND)
        With the reference DRAM, occupancy is the time of the beats, rd comes one cycle after the occupancy,
        wr one cycle after the last response.
    limited : Out(1)
        Only the limit of instructions in flight keeps `unit.ready` low.
    dram : write_port_signature
        With unit.start at I, a ready port and a DRAM as fast, beat b is requested at I + 5 + b; scale beats
        count, one comes after the last data beat of a row and whenever bus_bytes scale bytes are collected. Bytes
        without strobe have no meaning.
    index : index_read_signature
        Reads one index per scattered row.
    a, acc : Out
        Read ports of the buffers; beat b is read 4 cycles before its request, when `Pace` lets it go.
    ev_scale_beats : Out(1)
        A scale beat left for the output queue.
    """

    unit: Any
    limited: Signal
    dram: Any
    index: Any
    a: Any
    acc: Any
    ev_scale_beats: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.stage = data.StructLayout({
            "valid": 1, "acc": 1, "rotate": config.bus_bytes.bit_length() - 1, "strb": config.bus_bytes,
            "more": MORE_BITS, "is_scale": 1, "scale": 3, "position": config.bus_bytes.bit_length() - 1,
            "starts": beat_groups(config)})
        self.request = data.StructLayout({
            "addr": 40, "data": 8 * config.bus_bytes, "strb": config.bus_bytes, "more": MORE_BITS})
        super().__init__({
            "unit": Out(unit_signature(STORE_COMMAND)), "limited": Out(1),
            "dram": Out(write_port_signature(config)), "index": Out(index_read_signature()),
            "a": Out(operand_read_signature(config)), "acc": Out(acc_read_signature(config)),
            "ev_scale_beats": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        free = Signal()
        full = Signal()
        in_flight = Signal(range(config.dma_outstanding + 1))
        m.d.comb += [
            full.eq(in_flight == config.dma_outstanding),
            self.unit.ready.eq(free & ~full),
            self.limited.eq(free & full),
        ]
        m.d.sync += in_flight.eq(in_flight + self.unit.start - self.unit.wr)
        m.submodules.row_address = row_address = RowAddress()
        m.submodules.output = output = CommandQueue(layout=self.request, depth=OUTPUT_DEPTH)
        room = Signal()
        first = self._reads(m, free, room, row_address)
        self._data(m, first, row_address, output)
        self._responses(m)
        # Beats between their read and the write port; a read needs a free place for its beat.
        under_way = Signal(range(OUTPUT_DEPTH + 1))
        m.d.comb += room.eq(under_way != OUTPUT_DEPTH)
        m.d.sync += under_way.eq(under_way + first.valid - output.pop)
        m.d.comb += [
            output.pop.eq(output.valid & self.dram.req_ready),
            self.dram.req_valid.eq(output.valid), self.dram.req_addr.eq(output.head.addr),
            self.dram.req_data.eq(output.head.data), self.dram.req_strb.eq(output.head.strb),
            self.dram.req_more.eq(output.head.more),
        ]
        return m

    def _reads(self, m: Module, free: Signal, room: Signal, row_address: RowAddress) -> data.View:
        """Walk over rows and beats: on-chip reads, index reads and addresses. Returns stage 0."""
        command = self.unit.command
        bus_bits = self.config.bus_bytes.bit_length() - 1
        m.submodules.chip = chip = ChipWalk(self.config)
        m.submodules.slots = slots = ScaleWalk(self.config, store=True)
        extent = Signal(EXTENT)
        place = Signal(PLACE)
        scales = Signal(SCALES)
        shift = Signal(bus_bits)
        rotate = Signal(bus_bits)
        step = self._steps(m, slots, free, room)
        with m.If(self.unit.start):
            m.d.sync += [shift.eq(command.dram_addr), rotate.eq(command.dram_addr - command.src_byte)]
            m.d.sync += [extent[name].eq(value) for name, value in extent_of(command).items()]
            m.d.sync += [place[name].eq(value) for name, value in place_of(command).items()]
            m.d.sync += [scales[name].eq(value) for name, value in scales_of(command).items()]
        data_step = step & ~slots.is_scale
        stage = Signal(self.stage, name="stage0")
        m.d.comb += [
            slots.scales.eq(scales), slots.step.eq(step), *slots.follow(chip),
            chip.extent.eq(extent), chip.place.eq(place), chip.step.eq(data_step),
            self.a.en.eq(data_step & (place.space == Space.A)),
            self.a.slice.eq(chip.slice), self.a.addr.eq(chip.group),
            self.acc.en.eq(data_step & (place.space == Space.ACC)),
            self.acc.addr.eq(chip.row), self.acc.part.eq(chip.part),
            stage.valid.eq(step), stage.acc.eq(place.space == Space.ACC), stage.rotate.eq(rotate),
            stage.strb.eq(chip.mask << shift), stage.more.eq(self._addresses(m, slots, chip, extent, row_address)),
        ]
        if self.config.scales:
            groups = Cat(chip.mask[byte] for byte in range(0, self.config.bus_bytes, self.config.lanes))
            m.d.comb += [stage.is_scale.eq(slots.is_scale), stage.scale.eq(scales.scale),
                         stage.position.eq(slots.position), stage.starts.eq(slots.starts & groups)]
        return stage

    def _steps(self, m: Module, slots: ScaleWalk, free: Signal, room: Signal) -> Signal:
        """When slots are taken, and the pulse after the last. Returns the step of this cycle."""
        active = Signal()
        step = Signal()
        finish = Signal()
        signal_rd = Signal(5)
        m.submodules.pace = pace = Pace(self.config)
        m.d.comb += [pace.valid.eq(active), pace.taken.eq(step), pace.last.eq(finish)]
        m.d.comb += [step.eq(active & room & pace.go), finish.eq(step & slots.done), free.eq(~active | finish)]
        m.d.sync += [self.unit.rd.eq(finish), self.unit.rd_mask.eq(signal_rd)]
        with m.If(finish):
            m.d.sync += active.eq(0)
        with m.If(self.unit.start):
            m.d.sync += [active.eq(1), signal_rd.eq(self.unit.command.signal_rd)]
        return step

    def _addresses(self, m: Module, slots: ScaleWalk, chip: ChipWalk, extent: data.View,
                   row_address: RowAddress) -> Value:
        """DRAM address of the next slot, of a scattered row through the index memory. Returns its `req_more`."""
        command, bus_bits = self.unit.command, self.config.bus_bytes.bit_length() - 1
        m.submodules.walk = walk = DramWalk(self.config)
        m.submodules.run_ahead = run_ahead = RunAhead(self.config)
        scatter = Signal()
        stride = Signal(32)
        index_addr = Signal(16)
        with m.If(self.index.en):
            m.d.sync += index_addr.eq(index_addr + 1)
        with m.If(self.unit.start):
            m.d.sync += [scatter.eq(command.opcode == SPEC_BY_NAME["SCATTER"].opcode),
                         stride.eq(command.row_stride * STRIDE_UNIT), index_addr.eq(command.index_addr)]
        m.d.comb += [
            walk.load.eq(self.unit.start), walk.start.eq(Cat(Const(0, bus_bits), command.dram_addr[bus_bits:])),
            walk.stride.eq(Mux(scatter, 0, stride)), walk.step.eq(chip.step), walk.row_done.eq(chip.row_done),
            row_address.advance.eq(1), row_address.base.eq(walk.address), row_address.stride.eq(stride),
            row_address.indexed.eq(scatter), row_address.index.eq(self.index.data),
            self.index.en.eq(slots.step & scatter & slots.row_starts), self.index.addr.eq(index_addr),
            run_ahead.extent.eq(extent), run_ahead.stride.eq(stride), run_ahead.indexed.eq(scatter),
            run_ahead.beats_left.eq(slots.run_beats), run_ahead.rows_left.eq(slots.run_rows),
        ]
        if not self.config.scales:
            return run_ahead.more
        scale_stride = slots.scales.scale_stride
        m.submodules.scale_walk = scale_walk = DramWalk(self.config)
        m.d.comb += [
            scale_walk.load.eq(self.unit.start), scale_walk.start.eq(command.scale_addr),
            scale_walk.stride.eq(Mux(scatter, 0, scale_stride)), scale_walk.step.eq(slots.step & slots.is_scale),
            scale_walk.row_done.eq(slots.row_end),
        ]
        with m.If(slots.is_scale):
            m.d.comb += [row_address.base.eq(scale_walk.address), row_address.stride.eq(scale_stride)]
        return Mux(slots.is_scale, 0, run_ahead.more)

    def _data(self, m: Module, stage0: data.View, row_address: RowAddress, output: CommandQueue) -> None:
        """Stages 1 to 3: the beat arrives at stage 2, is rotated on its way to stage 3 and queued."""
        bus_bits = self.config.bus_bytes.bit_length() - 1
        stage1, stage2, stage3 = (Signal(self.stage, name=f"stage{n}") for n in (1, 2, 3))
        beat2 = Signal(8 * self.config.bus_bytes)
        beat3 = Signal(8 * self.config.bus_bytes)
        rotate2 = Signal(bus_bits)
        m.d.comb += [beat2.eq(Mux(stage2.acc, self.acc.data, self.a.data)), rotate2.eq(stage2.rotate)]
        m.d.sync += [stage1.eq(stage0), stage2.eq(stage1), stage3.eq(stage2),
                     beat3.eq(_rotate_bytes_up(m, beat2, rotate2))]
        if self.config.scales:
            self._collected(m, stage2, stage3, beat2, rotate2, row_address.low[:bus_bits])
        m.d.comb += [
            self.ev_scale_beats.eq(stage3.valid & stage3.is_scale),
            output.push.eq(stage3.valid),
            output.push_data.addr.eq(Cat(Const(0, bus_bits), row_address.address[bus_bits:])),
            output.push_data.data.eq(beat3), output.push_data.strb.eq(stage3.strb),
            output.push_data.more.eq(stage3.more),
        ]

    def _collected(self, m: Module, stage2: data.View, stage3: data.View, beat2: Signal, rotate2: Signal,
                   start: Value) -> None:
        """Scale bytes join the register as their beat passes; a scale slot takes it, moved to byte `start`."""
        m.submodules.collector = collector = ScaleCollector(self.config)
        taken = Signal()
        m.d.comb += [
            taken.eq(stage2.valid & stage2.is_scale),
            collector.take.eq(stage2.valid & ~stage2.is_scale), collector.scale.eq(stage2.scale),
            collector.position.eq(stage2.position), collector.starts.eq(stage2.starts),
            collector.groups.eq(self.a.scales), collector.clear.eq(taken),
        ]
        with m.If(taken):
            m.d.comb += [beat2.eq(collector.beat), rotate2.eq(start)]
            m.d.sync += stage3.strb.eq(collector.valid << start)

    def _responses(self, m: Module) -> None:
        """Count responses; the last of an instruction gives its wr tokens."""
        m.submodules.descriptors = descriptors = CommandQueue(
            layout=DESCRIPTOR, depth=self.config.dma_outstanding)
        m.submodules.response_beats = beats = BeatCounter(self.config)
        m.submodules.response_slots = slots = ScaleWalk(self.config, store=True)
        last = Signal()
        m.d.comb += [
            descriptors.push.eq(self.unit.start),
            descriptors.push_data.signal_wr.eq(self.unit.command.signal_wr),
            descriptors.pop.eq(last), last.eq(slots.step & slots.done),
            slots.scales.eq(descriptors.head.scales), slots.step.eq(self.dram.rsp_valid), *slots.follow(beats),
            beats.extent.eq(descriptors.head.extent), beats.step.eq(slots.step & ~slots.is_scale),
        ]
        m.d.comb += [descriptors.push_data.scales[name].eq(value)
                     for name, value in scales_of(self.unit.command).items()]
        m.d.comb += [descriptors.push_data.extent[name].eq(value)
                     for name, value in extent_of(self.unit.command).items()]
        m.d.sync += [self.unit.wr.eq(last), self.unit.wr_mask.eq(descriptors.head.signal_wr)]


def _rotate_bytes_up(m: Module, beat: Value, amount: Value) -> Value:
    """`beat` with byte i moved to byte (i + amount) mod bytes, one multiplexer per bit of `amount`."""
    for bit in range(len(amount)):
        step = 8 << bit
        rotated = Signal.like(beat, name=f"rotated{bit}")
        m.d.comb += rotated.eq(Mux(amount[bit], Cat(beat[-step:], beat[:-step]), beat))
        beat = rotated
    return beat
