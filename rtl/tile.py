"""The tile: dispatcher, issue logic, the four units, their memories, counters.

::

    DRAM read ----> LoadUnit ---> A, B, ACC (MatrixUnit), IndexMemory, instruction memory (Dispatcher)
    DRAM write <--- StoreUnit <-- A, ACC
    Dispatcher ---> Issue ---> LoadUnit, StoreUnit, MatrixUnit, VectorUnit
    VectorUnit <--> ACC, ---> A

No logic of its own beyond wires: a unit's behaviour is in its module, the cycle numbers are in `plan.py`.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .control.counters import COUNTER_BITS, Counters
from .control.dispatcher import Dispatcher
from .control.issue import Issue
from .dma.index_memory import IndexMemory
from .dma.load_unit import LoadUnit
from .dma.memory_clear import MemoryClear
from .dma.run_ahead import MORE_BITS
from .dma.store_unit import StoreUnit
from .matrix.drain import STATUS
from .matrix.unit import MatrixUnit
from .spec.config import TileConfig
from .spec.events import EVENT_NAMES, STEP_EVENTS
from .spec.isa import QUEUE_UNITS
from .vector.unit import VectorUnit


class Tile(wiring.Component):
    """A complete tile; one clock, synchronous reset.

    Members
    -------
    start : In(1), program_addr : In(40)
        Run the program whose first page is at `program_addr`, a multiple of bus_bytes. Ignored while
        `busy`.
    busy : Out(1)
        From the cycle after `start` to the HALT cycle.
    done : Out(1)
        From the HALT cycle to the next start.
    conflict, illegal : Out(1)
        Sticky until the next start: two accesses to one bank in one cycle (registered); an unknown opcode,
        which also ends the program. Neither happens with a verified program; after one the tile must be
        reset.
    clear : In(1), cleared : Out(1)
        While high, and never while `busy` or with `start`: zeros are written to every memory, `cleared` is high in
        the last cycle. See `MemoryClear`.
    status_inexact, status_overflow, status_nan, status_inf : Out(1)
        Sticky until the next start: an FP32 result of a MATMUL has met a block term below its grid, a finite value too
        large for FP32, a NaN, an infinity among the operands. See `drain.STATUS`.
    rd_req_valid, rd_req_addr, rd_req_more, rd_req_ready, rd_rsp_valid, rd_rsp_data
        DRAM read port: bus-aligned byte addresses of 40 bits; responses in order, at least one cycle after
        their request was accepted, always taken.
    wr_req_valid, wr_req_addr, wr_req_more, wr_req_data, wr_req_strb, wr_req_ready, wr_rsp_valid
        DRAM write port; a response per request, in order.

        With a request come at least `*_req_more` requests for the addresses that follow (`run_ahead.py`).
    trace_dispatch : Out(1); trace_issue, trace_rd, trace_wr : Out(4), bit = unit
        High in the cycles D, I, I + rd and I + wr of every instruction, the boot LOAD included.
    counter_select : In(8), counter_value : Out(48)
        Counter number `counter_select` of `ledger.COUNTER_NAMES`, a cycle later; 0 without ``counters``.
    """

    start: Signal
    program_addr: Signal
    busy: Signal
    done: Signal
    conflict: Signal
    illegal: Signal
    clear: Signal
    cleared: Signal
    status_inexact: Signal
    status_overflow: Signal
    status_nan: Signal
    status_inf: Signal
    rd_req_valid: Signal
    rd_req_addr: Signal
    rd_req_more: Signal
    rd_req_ready: Signal
    rd_rsp_valid: Signal
    rd_rsp_data: Signal
    wr_req_valid: Signal
    wr_req_addr: Signal
    wr_req_more: Signal
    wr_req_data: Signal
    wr_req_strb: Signal
    wr_req_ready: Signal
    wr_rsp_valid: Signal
    trace_dispatch: Signal
    trace_issue: Signal
    trace_rd: Signal
    trace_wr: Signal
    counter_select: Signal
    counter_value: Signal

    def __init__(self, config: TileConfig, *, counters: bool = True) -> None:
        self.config, self.counters = config, counters
        beat, units = 8 * config.bus_bytes, len(QUEUE_UNITS)
        super().__init__({
            "start": In(1), "program_addr": In(40), "busy": Out(1), "done": Out(1), "conflict": Out(1),
            "illegal": Out(1), "clear": In(1), "cleared": Out(1), **{f"status_{name}": Out(1) for name, _ in STATUS},
            "rd_req_valid": Out(1), "rd_req_addr": Out(40), "rd_req_more": Out(MORE_BITS), "rd_req_ready": In(1),
            "rd_rsp_valid": In(1), "rd_rsp_data": In(beat),
            "wr_req_valid": Out(1), "wr_req_addr": Out(40), "wr_req_more": Out(MORE_BITS), "wr_req_data": Out(beat),
            "wr_req_strb": Out(config.bus_bytes), "wr_req_ready": In(1), "wr_rsp_valid": In(1),
            "trace_dispatch": Out(1), "trace_issue": Out(units), "trace_rd": Out(units), "trace_wr": Out(units),
            "counter_select": In(8), "counter_value": Out(COUNTER_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.dispatcher = dispatcher = Dispatcher(config)
        m.submodules.issue = issue = Issue(config)
        m.submodules.load_unit = load = LoadUnit(config)
        m.submodules.store_unit = store = StoreUnit(config)
        m.submodules.matrix = matrix = MatrixUnit(config)
        m.submodules.vector = vector = VectorUnit(config)
        m.submodules.indices = indices = IndexMemory(config)
        self._control(m, dispatcher, issue, matrix)
        for port, unit in ((issue.load, load), (issue.store, store), (issue.matrix, matrix), (issue.vector, vector)):
            wiring.connect(m, port, unit.unit)
        m.d.comb += [issue.load_limited.eq(load.limited), issue.store_limited.eq(store.limited),
                     issue.matrix_compute.eq(matrix.ev_compute)]
        self._memories(m, dispatcher, load, store, matrix, vector, indices)
        self._clear(m, dispatcher, matrix, indices)
        self._dram(m, load, store)
        if self.counters:
            self._counters(m, dispatcher, issue, load, store, matrix, vector)
        return m

    def _control(self, m: Module, dispatcher: Dispatcher, issue: Issue, matrix: MatrixUnit) -> None:
        m.d.comb += [
            dispatcher.start.eq(self.start), dispatcher.program_addr.eq(self.program_addr),
            self.busy.eq(dispatcher.busy), self.done.eq(dispatcher.done), self.illegal.eq(dispatcher.illegal),
            issue.clear.eq(dispatcher.begin), issue.push.eq(dispatcher.push), issue.word.eq(dispatcher.word),
            dispatcher.full.eq(issue.full), dispatcher.drained.eq(issue.drained),
            issue.wait_rd.eq(dispatcher.wait_rd), issue.wait_wr.eq(dispatcher.wait_wr),
            issue.take.eq(dispatcher.take), dispatcher.tokens_present.eq(issue.tokens_present),
            self.trace_dispatch.eq(dispatcher.dispatched), self.trace_issue.eq(issue.issued),
            self.trace_rd.eq(issue.read), self.trace_wr.eq(issue.retired),
        ]
        for name, _ in STATUS:
            sticky, met = (getattr(owner, f"status_{name}") for owner in (self, matrix))
            m.d.sync += sticky.eq(~dispatcher.begin & sticky | met)
        m.d.sync += self.conflict.eq(~dispatcher.begin & self.conflict | matrix.conflict)

    def _memories(self, m: Module, dispatcher: Dispatcher, load: LoadUnit, store: StoreUnit, matrix: Any,
                  vector: VectorUnit, indices: IndexMemory) -> None:
        """Every port of a unit to its memory; both sides name their fields alike."""
        for source, target in (
                (load.a, matrix.a_load), (load.b, matrix.b_load), (load.acc, matrix.acc_load),
                (load.indices, indices.write), (load.program, dispatcher.program),
                (vector.acc_d, matrix.acc_d), (vector.acc_r, matrix.acc_r), (vector.a_vec, matrix.a_vec)):
            _drive(m, source, target)
        for source, target in (
                (load.index, indices.load), (store.index, indices.store),
                (store.a, matrix.a_store), (store.acc, matrix.acc_store), (vector.acc_x, matrix.acc_x),
                (vector.acc_y, matrix.acc_y), (vector.acc_z, matrix.acc_z), (vector.acc_w, matrix.acc_w)):
            _drive(m, source, target)
            m.d.comb += source.data.eq(target.data)
        m.d.comb += store.a.scales.eq(matrix.a_store.scales)

    def _clear(self, m: Module, dispatcher: Dispatcher, matrix: Any, indices: IndexMemory) -> None:
        """Takes the load unit's ports; after `_memories`."""
        m.submodules.memory_clear = clear = MemoryClear(self.config)
        m.d.comb += [clear.clear.eq(self.clear), self.cleared.eq(clear.cleared)]
        with m.If(self.clear):
            for source, target in ((clear.a, matrix.a_load), (clear.b, matrix.b_load), (clear.acc, matrix.acc_load),
                                   (clear.indices, indices.write), (clear.program, dispatcher.program)):
                _drive(m, source, target)

    def _dram(self, m: Module, load: LoadUnit, store: StoreUnit) -> None:
        for prefix, port in (("rd", load.dram), ("wr", store.dram)):
            for name, member in port.signature.members.items():
                mine, theirs = getattr(self, f"{prefix}_{name}"), getattr(port, name)
                m.d.comb += mine.eq(theirs) if member.flow == Out else theirs.eq(mine)

    def _counters(self, m: Module, dispatcher: Dispatcher, issue: Issue, load: LoadUnit, store: StoreUnit,
                  matrix: MatrixUnit, vector: VectorUnit) -> None:
        m.submodules.counters = counters = Counters(self.config)
        events: dict[str, Value] = {
            "acc_beat_writes": load.acc.valid, "a_beat_writes": load.a.valid, "b_beat_writes": load.b.valid,
            "index_beat_writes": load.indices.valid, "program_beat_writes": load.program.valid,
            "acc_beat_reads": store.acc.en, "a_beat_reads": store.a.en,
            "index_reads": load.index.en + store.index.en, "instructions": dispatcher.dispatched,
            "scale_beats": load.ev_scale_beats + store.ev_scale_beats,
            "dram_read_beats": load.dram.req_valid & load.dram.req_ready,
            "dram_write_beats": store.dram.req_valid & store.dram.req_ready,
        }
        # Of the element pairs and scales that this tile is built without.
        events |= {name: Const(0) for name in STEP_EVENTS if f"ev_{name}" not in matrix.signature.members}
        for name in EVENT_NAMES:
            for unit in (matrix, vector):
                if (pulse := getattr(unit, f"ev_{name}", None)) is not None:
                    events[name] = events[name] + pulse if name in events else pulse
            m.d.comb += getattr(counters, f"event_{name}").eq(events[name])
        m.d.comb += [
            counters.begin.eq(dispatcher.begin), counters.busy.eq(dispatcher.busy),
            counters.causes.eq(Cat(issue.load_causes, issue.store_causes, issue.matrix_causes,
                                   issue.vector_causes, dispatcher.causes)),
            counters.select.eq(self.counter_select), self.counter_value.eq(counters.value),
        ]


def _drive(m: Module, source: Any, target: Any) -> None:
    """Connect the outputs of `source` to the inputs of the same name of `target`, which may be narrower."""
    for name, member in source.signature.members.items():
        if member.flow == Out:
            m.d.comb += getattr(target, name).eq(getattr(source, name))
