"""The accumulator buffer: all lanes, the row maximum, and the ports of the vector, load and store units."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..lib.cells import place
from ..lib.tree import tree_or
from ..spec.config import TileConfig
from .acc_lane import (
    ACC_LANE_KEY,
    READERS,
    WRITERS,
    AccLane,
    bank_choice_layout,
    bank_reads_layout,
    bank_writes_layout,
)
from .drain import FP32_MINUS_INF, STATUS, control_layout
from .pe import partial_layout
from .row_max import RowMaximum

_VECTOR_READERS = ("x", "y", "z", "w")


def drain_event_bits(config: TileConfig) -> dict[str, int]:
    """Width of each event output of the drain."""
    return {"ev_drain_rows": 1, "ev_statistic_reads": 1, "ev_statistic_writes": 1,
            "ev_acc_row_reads": config.acc_planes.bit_length(), "ev_acc_row_writes": config.acc_planes.bit_length()}


def acc_ports(config: TileConfig) -> dict:
    """Ports of the units other than the drain; rows of ``cols`` words have lane 0 lowest.

    x, y, z, w: {en, addr, data}: a row, one cycle after ``en``. x and y may read the same row.
    d: {en, addr, data}: writes a row. r: {en, addr, lane, data}: writes one word.
    load: {valid, addr, part, data, mask}: writes beat ``part`` of a row, words whose lowest mask bit is set.
    store: {en, addr, part, data}: beat ``part`` of a row, two cycles after ``en``.

    A write is visible to reads of the next cycle.
    """
    addr, bus = config.acc_addr_bits, config.bus_bytes
    part = max(1, ceil_log2(4 * config.cols // bus))
    row = 32 * config.cols
    read = In(Signature({"en": Out(1), "addr": Out(addr), "data": In(row)}))
    return dict.fromkeys(_VECTOR_READERS, read) | {
        "d": In(Signature({"en": Out(1), "addr": Out(addr), "data": Out(row)})),
        "r": In(Signature({"en": Out(1), "addr": Out(addr), "lane": Out(ceil_log2(config.cols)), "data": Out(32)})),
        "load": In(Signature({"valid": Out(1), "addr": Out(addr), "part": Out(part), "data": Out(8 * bus),
                              "mask": Out(bus)})),
        "store": In(Signature({"en": Out(1), "addr": Out(addr), "part": Out(part), "data": In(8 * bus)})),
    }


class AccBuffer(wiring.Component):
    """Members
    -------
    control : In(control_layout)
        Row control of the drain, stage 0 of lane 0.
    start, shift : Out(cols); column : In(partial_layout), one per column
        Drain control and ends of the array's columns.
    x, y, z, w, d, r, load, store
        See `acc_ports`.
    status : Out(STATUS)
        Of the results that some lane rounded, see `DrainLane`.
    conflict : Out(1)
        Two reads or two writes of this cycle are in the same bank; y may read the very row that x reads.
    ev_* : Out
        Events of the drain, counted at the last lane and behind it.
    """

    control: data.View
    start: Signal
    shift: Signal
    column: list
    x: Any
    y: Any
    d: Any
    r: Any
    load: Any
    store: Any
    status: data.View
    conflict: Signal
    ev_drain_rows: Signal
    ev_statistic_reads: Signal
    ev_statistic_writes: Signal
    ev_acc_row_reads: Signal
    ev_acc_row_writes: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.banks = config.acc_banks + config.stat_banks
        super().__init__({
            "control": In(control_layout(config)), "start": Out(config.cols), "shift": Out(config.cols),
            "column": In(partial_layout(config)).array(config.cols),
            **acc_ports(config), "status": Out(STATUS), "conflict": Out(1),
            **{name: Out(bits) for name, bits in drain_event_bits(config).items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.row_maximum = row_maximum = RowMaximum(self.config)
        lanes = [place(m, f"lane{c}", lambda: AccLane(self.config), ACC_LANE_KEY, platform)
                 for c in range(self.config.cols)]
        self._drain(m, lanes, row_maximum)
        self._requests(m, lanes, row_maximum)
        self._selected(m, lanes, row_maximum)
        self._words(m, lanes, row_maximum)
        self._events(m, lanes[-1].control_out, row_maximum)
        return m

    def _drain(self, m: Module, lanes: list, row_maximum: RowMaximum) -> None:
        control: Value | data.View = self.control
        maximum: Value | int = FP32_MINUS_INF
        for c, lane in enumerate(lanes):
            m.d.comb += [
                lane.control_in.eq(control), lane.maximum_in.eq(maximum), lane.column.eq(self.column[c]),
                self.start[c].eq(lane.start), self.shift[c].eq(lane.shift),
            ]
            control, maximum = lane.control_out, lane.maximum_out
        m.d.comb += Value.cast(self.status).eq(tree_or(Value.cast(lane.status) for lane in lanes))
        m.d.comb += [row_maximum.control.eq(control), row_maximum.maximum.eq(maximum)]

    def _requests(self, m: Module, lanes: list, row_maximum: RowMaximum) -> None:
        """Sort the requests by bank and send each bank's to all lanes."""
        offset = self.config.acc_offset_bits
        readers = {name: (port.en, port.addr) for name, port in (
            *((name, getattr(self, name)) for name in _VECTOR_READERS), ("store", self.store),
            ("stat", row_maximum.read))}
        writers = {"d": (self.d.en, self.d.addr), "r": (self.r.en, self.r.addr),
                   "load": (self.load.valid, self.load.addr),
                   "stat": (row_maximum.write.en, row_maximum.write.addr)}
        reads = Signal(bank_reads_layout(self.config))
        writes = Signal(bank_writes_layout(self.config))
        conflicts = [lane.conflict for lane in lanes]
        same = Signal(name="y_is_x")
        m.d.comb += same.eq(self.x.en & (self.x.addr == self.y.addr))
        apart = readers | {"y": (self.y.en & ~same, self.y.addr)}
        for b in range(self.banks):
            want = reads[b]
            hits, row = self._hits(m, f"bank{b}_readers", apart, b)
            m.d.comb += [want.row.eq(row), want.vector.eq(hits[:len(_VECTOR_READERS)].any()),
                         want.store.eq(hits[READERS.index("store")]), want.stat.eq(hits[READERS.index("stat")])]
            conflicts.append(_several(hits))

            want = writes[b]
            hits, row = self._hits(m, f"bank{b}_writers", writers, b)
            m.d.comb += want.row.eq(row)
            m.d.comb += [want[name].eq(hits[i]) for i, name in enumerate(WRITERS)]
            conflicts.append(_several(hits))

        m.d.comb += [lane.reads.eq(reads) for lane in lanes]
        m.d.comb += [lane.writes.eq(writes) for lane in lanes]
        m.d.comb += self.conflict.eq(Cat(conflicts).any())
        choice = Signal(bank_choice_layout(self.config), reset_less=True)
        for name, (en, addr) in readers.items():
            with m.If(en):
                m.d.sync += choice[name].eq(addr[offset:])
        m.d.comb += [lane.choice.eq(choice) for lane in lanes]

    def _hits(self, m: Module, name: str, ports: dict, b: int) -> tuple[Signal, Value]:
        """Which ports want bank ``b``, and the row that the first of them wants."""
        offset = self.config.acc_offset_bits
        hits = Signal(len(ports), name=name)
        row = Signal(offset, name=f"{name}_row")
        for i, (en, addr) in reversed(list(enumerate(ports.values()))):
            m.d.comb += hits[i].eq(en & (addr[offset:] == b))
            with m.If(hits[i]):
                m.d.comb += row.eq(addr[:offset])
        return hits, row

    def _selected(self, m: Module, lanes: list, row_maximum: RowMaximum) -> None:
        """Lanes concerned by requests for a word or a beat, and the words to write."""
        words = self.config.bus_bytes // 4
        d = self.d
        for c, lane in enumerate(lanes):
            part, word = divmod(c, words)
            m.d.comb += [
                lane.selected.store.eq(self.store.part == part),
                lane.selected.load.eq((self.load.part == part) & self.load.mask[4 * word]),
                lane.selected.r.eq(self.r.lane == c),
                lane.selected.stat_read.eq(row_maximum.read.en & (row_maximum.read.lane == c)),
                lane.selected.stat_write.eq(row_maximum.write.lane == c),
                lane.values.d.eq(d.data.word_select(c, 32)), lane.values.r.eq(self.r.data),
                lane.values.load.eq(self.load.data.word_select(word, 32)),
                lane.values.stat.eq(row_maximum.write.data),
            ]

    def _words(self, m: Module, lanes: list, row_maximum: RowMaximum) -> None:
        """What was read in the cycle before."""
        for name in _VECTOR_READERS:
            m.d.comb += getattr(self, name).data.eq(Cat(lane.words[name] for lane in lanes))
        m.d.comb += row_maximum.old.eq(tree_or(lane.words.stat for lane in lanes))
        enabled = Signal()
        part = Signal.like(self.store.part, reset_less=True)
        beat = Signal(8 * self.config.bus_bytes, reset_less=True)
        m.d.sync += enabled.eq(self.store.en)
        with m.If(self.store.en):
            m.d.sync += part.eq(self.store.part)
        stored = Cat(lane.words.store for lane in lanes)
        with m.If(enabled):
            m.d.sync += beat.eq(stored.word_select(part, len(beat)))
        m.d.comb += self.store.data.eq(beat)

    def _events(self, m: Module, control: data.View, row_maximum: RowMaximum) -> None:
        planes = self.config.acc_planes
        m.d.comb += [self.ev_drain_rows.eq(control.valid), self.ev_statistic_reads.eq(row_maximum.read.en),
                     self.ev_statistic_writes.eq(row_maximum.write.en)]
        with m.If(control.valid):
            with m.If(control.merge):
                m.d.comb += self.ev_acc_row_reads.eq(planes)
            with m.If(control.raw):
                m.d.comb += self.ev_acc_row_writes.eq(planes)
            with m.Else():
                m.d.comb += self.ev_acc_row_writes.eq(1)


def _several(hits: Value) -> Value:
    """Is more than one bit set?"""
    seen: Value | int = 0
    twice: list[Value] = []
    for i in range(len(hits)):
        if i:
            twice.append(hits[i] & seen)
        seen = hits[i] | seen
    return Cat(twice).any()
