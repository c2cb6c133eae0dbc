"""Load unit: DRAM rows to the on-chip memories, 2-D strided or gathered by an index list.

Two walks over the same instructions. The *request* walk sends one read per cycle, or as many as the DRAM serves
(`pace`); the *response* walk
follows the answers, which come in order, for the instruction at the head of a queue of at most
``dma_outstanding`` in flight. Nothing waits in between: a response is written one register later, and the
DRAM may delay requests and responses as it likes.

A gather's row address needs `GATHER_SETUP` cycles (index read, product, sum). They are added to the
*occupancy* of a gather instead of the latency of every load: the next load's requests may then not overtake
the gather's, and plain loads, of which there are many more, stay as short as they can be.

Scale bytes come in beats of their own, which both walks know from `ScaleWalk`; they are held in a register and written
together with the data that they belong to. A tile without scales has none of this.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..lib.command_queue import CommandQueue
from ..lib.unit_port import command_layout, unit_signature
from ..plan import GATHER_SETUP
from ..spec.config import TileConfig
from ..spec.isa import SPEC_BY_NAME, STRIDE_UNIT, Space
from .address import EXTENT, PLACE, BeatCounter, ChipWalk, DramWalk, RowAddress, extent_of, place_of
from .index_memory import index_read_signature
from .pace import Pace
from .run_ahead import MORE_BITS, RunAhead, burst_length
from .scale_register import ScaleReader
from .scale_walk import SCALES, ScaleWalk, beat_groups, scales_of

LOAD_COMMAND = command_layout("LOAD", "GATHER")

DESCRIPTOR = data.StructLayout({"extent": EXTENT, "place": PLACE, "scales": SCALES, "signal_wr": 5})
"""What the response walk needs of an instruction in flight."""


def read_port_signature(config: TileConfig) -> wiring.Signature:
    """DRAM read port seen from the tile: bus-aligned byte addresses; responses in order, always accepted.

    With a request come at least ``req_more`` requests for the addresses that follow, without a pause but for
    ``req_ready``.
    """
    return wiring.Signature({
        "req_valid": Out(1), "req_addr": Out(40), "req_more": Out(MORE_BITS), "req_ready": In(1),
        "rsp_valid": In(1), "rsp_data": In(8 * config.bus_bytes)})


def operand_write_signature(config: TileConfig, addr_bits: int) -> wiring.Signature:
    """A beat for an operand buffer: the bytes of `mask` go to group `addr` of `slice`.

    The groups of `scale_mask` get their scale bytes too, one byte of `scales` per group.
    """
    groups = beat_groups(config)
    return wiring.Signature({
        "valid": Out(1), "slice": Out(8), "addr": Out(addr_bits), "data": Out(8 * config.bus_bytes),
        "mask": Out(config.bus_bytes), "scales": Out(8 * groups), "scale_mask": Out(groups)})


def acc_write_signature(config: TileConfig) -> wiring.Signature:
    """A beat for ACC: the bytes of `mask` go to beat `part` of row `addr`."""
    return wiring.Signature({
        "valid": Out(1), "addr": Out(config.acc_addr_bits), "part": Out(6), "data": Out(8 * config.bus_bytes),
        "mask": Out(config.bus_bytes)})


def beat_write_signature(config: TileConfig) -> wiring.Signature:
    """A beat for the index or the instruction memory, `beat` counted from its start."""
    return wiring.Signature({
        "valid": Out(1), "beat": Out(20), "data": Out(8 * config.bus_bytes), "mask": Out(config.bus_bytes)})


class LoadUnit(wiring.Component):
    """Executes LOAD and GATHER, one beat per cycle.

    Members
    -------
    unit : unit_signature(LOAD_COMMAND)
        With the reference DRAM, occupancy is the time of the beats (GATHER: plus GATHER_SETUP), rd comes one
        cycle after the occupancy, wr in the cycle in which the last beat is presented to its memory.
    limited : Out(1)
        Only the limit of instructions in flight keeps `unit.ready` low.
    dram : read_port_signature
        With unit.start at I, a ready port and a DRAM as fast, beat b is requested at I + 1 + b (GATHER: plus
        GATHER_SETUP), else when `Pace` lets it go;
        scale beats count, each comes right before the first data beat that needs it.
        A response must come at least one cycle after its request was accepted.
    index : index_read_signature
        Reads one index per gathered row.
    a, b, acc, indices, program : Out
        Write ports, presented one cycle after the response.
    ev_scale_beats : Out(1)
        A scale beat arrived in the cycle before.
    """

    unit: Any
    limited: Signal
    dram: Any
    index: Any
    a: Any
    b: Any
    acc: Any
    indices: Any
    program: Any
    ev_scale_beats: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "unit": Out(unit_signature(LOAD_COMMAND)), "limited": Out(1),
            "dram": Out(read_port_signature(config)), "index": Out(index_read_signature()),
            "a": Out(operand_write_signature(config, config.a_addr_bits)),
            "b": Out(operand_write_signature(config, config.b_addr_bits)),
            "acc": Out(acc_write_signature(config)),
            "indices": Out(beat_write_signature(config)), "program": Out(beat_write_signature(config)),
            "ev_scale_beats": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = Signal()
        in_flight = Signal(range(self.config.dma_outstanding + 1))
        full = Signal()
        m.d.comb += [
            full.eq(in_flight == self.config.dma_outstanding),
            self.unit.ready.eq(free & ~full),
            self.limited.eq(free & full),
        ]
        m.d.sync += in_flight.eq(in_flight + self.unit.start - self.unit.wr)
        self._requests(m, free)
        self._responses(m)
        return m

    def _requests(self, m: Module, free: Signal) -> None:
        """Request walk, from the cycle after start to the last accepted request."""
        command = self.unit.command
        m.submodules.request_beats = beats = BeatCounter(self.config)
        m.submodules.walk = walk = DramWalk(self.config)
        m.submodules.run_ahead = run_ahead = RunAhead(self.config)
        m.submodules.slots = slots = ScaleWalk(self.config, store=False)
        gather = Signal()
        stride = Signal(32)
        extent = Signal(EXTENT)
        scales = Signal(SCALES)
        with m.If(self.unit.start):
            m.d.sync += [gather.eq(command.opcode == SPEC_BY_NAME["GATHER"].opcode),
                         stride.eq(command.row_stride * STRIDE_UNIT)]
            m.d.sync += [scales[name].eq(value) for name, value in scales_of(command).items()]
            m.d.sync += [extent[name].eq(value) for name, value in extent_of(command).items()]
        data_step = slots.step & ~slots.is_scale
        m.d.comb += [
            slots.scales.eq(scales), *slots.follow(beats), beats.extent.eq(extent), beats.step.eq(data_step),
            walk.load.eq(self.unit.start), walk.start.eq(command.dram_addr), walk.stride.eq(Mux(gather, 0, stride)),
            walk.step.eq(data_step), walk.row_done.eq(beats.row_done),
            run_ahead.extent.eq(extent), run_ahead.stride.eq(stride), run_ahead.indexed.eq(gather),
            run_ahead.beats_left.eq(slots.run_beats), run_ahead.rows_left.eq(slots.run_rows),
        ]
        address, row_stride, more = walk.address, stride, run_ahead.more
        if self.config.scales:
            scale_walk = self._scale_walk(m, slots, scales.scale_stride, gather)
            address = Mux(slots.is_scale, scale_walk.address, address)
            row_stride = Mux(slots.is_scale, scales.scale_stride, stride)
            more = Mux(slots.is_scale, 0, more)
        self._ask(m, slots, gather, address, row_stride, more, free)

    def _ask(self, m: Module, slots: ScaleWalk, gather: Signal, address: Value, stride: Value, more: Value,
             free: Signal) -> None:
        """Send the request of the next slot: at once, or for a gather through the address pipeline."""
        m.submodules.row_address = row_address = RowAddress()
        active = Signal()
        busy = Signal()
        index_addr = Signal(16)
        signal_rd = Signal(5)
        advance = Signal()
        step = Signal()
        finish = Signal()
        # stages[n] tells whether stage n + 1 of the address pipeline holds a beat, and the last one.
        stages = [Signal(data.StructLayout({"valid": 1, "last": 1, "more": MORE_BITS}), name=f"stage{n + 1}")
                  for n in range(GATHER_SETUP)]
        gathered = Signal(40)
        waiting = Signal()
        m.submodules.pace = pace = Pace(self.config)
        m.d.comb += [
            waiting.eq(active & ~gather | stages[-1].valid), self.dram.req_valid.eq(waiting & pace.go),
            pace.valid.eq(waiting), pace.more.eq(burst_length(self.dram.req_addr, self.dram.req_more, self.config)),
            pace.taken.eq(self.dram.req_valid & self.dram.req_ready), pace.last.eq(finish),
            advance.eq(pace.taken | ~waiting), step.eq(active & advance), slots.step.eq(step),
            row_address.advance.eq(advance), row_address.base.eq(address), row_address.stride.eq(stride),
            row_address.indexed.eq(gather), row_address.index.eq(self.index.data),
            self.index.en.eq(step & gather & slots.row_starts), self.index.addr.eq(index_addr),
            self.dram.req_addr.eq(Mux(gather, gathered, address)),
            self.dram.req_more.eq(Mux(gather, stages[-1].more, more)),
            finish.eq(advance & (step & slots.done & ~gather | stages[-1].valid & stages[-1].last)),
            free.eq(finish | ~busy),
        ]
        # Stage 1: the index memory is read; 2 and 3: index times stride; 4: sum, a register of its own. All stages move
        # together, so a request that the port does not take yet holds the whole pipeline.
        with m.If(advance):
            m.d.sync += [gathered.eq(row_address.address), stages[0].valid.eq(step & gather),
                         stages[0].last.eq(slots.done), stages[0].more.eq(more)]
            m.d.sync += [after.eq(before) for before, after in pairwise(stages)]
        m.d.sync += [self.unit.rd.eq(finish), self.unit.rd_mask.eq(signal_rd)]
        with m.If(self.index.en):
            m.d.sync += index_addr.eq(index_addr + 1)
        with m.If(step & slots.done):
            m.d.sync += active.eq(0)
        with m.If(finish):
            m.d.sync += busy.eq(0)
        with m.If(self.unit.start):
            m.d.sync += [active.eq(1), busy.eq(1), index_addr.eq(self.unit.command.index_addr),
                         signal_rd.eq(self.unit.command.signal_rd)]

    def _scale_walk(self, m: Module, slots: ScaleWalk, stride: Value, gather: Signal) -> DramWalk:
        """Addresses of the scale beats: one after another within a row and over packed rows."""
        m.submodules.scale_walk = walk = DramWalk(self.config)
        m.d.comb += [
            walk.load.eq(self.unit.start), walk.start.eq(self.unit.command.scale_addr),
            walk.stride.eq(Mux(gather, 0, stride)), walk.step.eq(slots.step & slots.is_scale),
            walk.row_done.eq(slots.row_end),
        ]
        return walk

    def _responses(self, m: Module) -> None:
        """Response walk: one register between the DRAM's answer and the write ports."""
        command = self.unit.command
        m.submodules.descriptors = descriptors = CommandQueue(
            layout=DESCRIPTOR, depth=self.config.dma_outstanding)
        m.submodules.chip = chip = ChipWalk(self.config)
        m.submodules.response_slots = slots = ScaleWalk(self.config, store=False)
        head = descriptors.head
        arrived = Signal()
        last = Signal()
        m.d.comb += [
            descriptors.push.eq(self.unit.start), descriptors.push_data.signal_wr.eq(command.signal_wr),
            slots.scales.eq(head.scales), slots.step.eq(self.dram.rsp_valid), *slots.follow(chip),
            arrived.eq(self.dram.rsp_valid & ~slots.is_scale),
            descriptors.pop.eq(last), last.eq(arrived & chip.done),
            chip.extent.eq(head.extent), chip.place.eq(head.place), chip.step.eq(arrived),
        ]
        entry = descriptors.push_data
        m.d.comb += [entry.extent[name].eq(value) for name, value in extent_of(command).items()]
        m.d.comb += [entry.place[name].eq(value) for name, value in place_of(command).items()]
        m.d.comb += [entry.scales[name].eq(value) for name, value in scales_of(command).items()]
        for space, port in ((Space.A, self.a), (Space.B, self.b), (Space.ACC, self.acc),
                            (Space.INDEX, self.indices), (Space.PROGRAM, self.program)):
            m.d.sync += port.valid.eq(arrived & (head.place.space == space))
        beat = Signal.like(self.dram.rsp_data)
        mask = Signal.like(chip.mask)
        group = Signal.like(chip.group)
        row = Signal.like(chip.row)
        linear = Signal.like(chip.linear)
        slice_number = Signal.like(chip.slice)
        part = Signal.like(chip.part)
        m.d.sync += [
            beat.eq(self.dram.rsp_data), mask.eq(chip.mask), group.eq(chip.group), row.eq(chip.row),
            linear.eq(chip.linear), slice_number.eq(chip.slice), part.eq(chip.part),
            self.unit.wr.eq(last), self.unit.wr_mask.eq(head.signal_wr),
            self.ev_scale_beats.eq(slots.step & slots.is_scale),
        ]
        if self.config.scales:
            self._scales(m, slots, chip.mask)
        for port in (self.a, self.b, self.acc, self.indices, self.program):
            m.d.comb += [port.data.eq(beat), port.mask.eq(mask)]
        m.d.comb += [
            self.a.slice.eq(slice_number), self.b.slice.eq(slice_number),
            self.a.addr.eq(group), self.b.addr.eq(group),
            self.acc.addr.eq(row), self.acc.part.eq(part),
            self.indices.beat.eq(linear), self.program.beat.eq(linear),
        ]

    def _scales(self, m: Module, slots: ScaleWalk, mask: Value) -> None:
        """Scale bytes beside the data beat that arrives; a group without data gets none."""
        m.submodules.scale_reader = reader = ScaleReader(self.config)
        m.d.comb += [
            reader.fill.eq(slots.step & slots.is_scale), reader.beat.eq(self.dram.rsp_data),
            reader.scale.eq(slots.scales.scale), reader.position.eq(slots.position),
        ]
        scales = Signal.like(reader.groups)
        scale_mask = Signal.like(slots.starts)
        used = Cat(mask[g * self.config.lanes] for g in range(len(scale_mask)))
        m.d.sync += [scales.eq(reader.groups), scale_mask.eq(slots.starts & used)]
        for port in (self.a, self.b):
            m.d.comb += [port.scales.eq(scales), port.scale_mask.eq(scale_mask)]
