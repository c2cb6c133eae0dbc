"""One lane of the accumulator buffer: the memories beside one column of the array, and its drain pipe.

Every bank is its own memory with one read and one write port. Requests of units that address all lanes in the
same cycle are resolved once for the whole buffer and arrive here bank by bank (`bank_reads_layout`,
`bank_writes_layout`); only the drain's, which reach each lane in a cycle of its own, are resolved here.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import ACC_FLAG_BITS, TileConfig
from .drain import STATUS, DrainLane, control_layout
from .pe import partial_layout

ACC_LANE_KEY = "tilescore_acc_lane"
"""Name of the lane's module in the Verilog."""

READERS = ("x", "y", "z", "w", "store", "stat")
"""Units that read: operands of the vector unit, the store unit, the row maximum."""

WRITERS = ("d", "r", "load", "stat")
"""Units that write: results and reductions of the vector unit, the load unit, the row maximum."""

LANE_SELECTED = data.StructLayout({"store": 1, "stat_read": 1, "r": 1, "load": 1, "stat_write": 1})
"""Does the request that a port makes in this cycle concern this lane? The other ports always mean all lanes.
"""

LANE_VALUES = data.StructLayout(dict.fromkeys(WRITERS, 32))
"""Words to write."""

LANE_WORDS = data.StructLayout(dict.fromkeys(READERS, 32))
"""Words read."""


def bank_reads_layout(config: TileConfig) -> data.ArrayLayout:
    """What is wanted from each bank: by the vector unit (all lanes), the store unit, the row maximum (one
    lane).
    """
    layout = data.StructLayout({"row": config.acc_offset_bits, "vector": 1, "store": 1, "stat": 1})
    return data.ArrayLayout(layout, config.acc_banks + config.stat_banks)


def bank_writes_layout(config: TileConfig) -> data.ArrayLayout:
    """Who writes to each bank, and where."""
    layout = data.StructLayout({"row": config.acc_offset_bits} | dict.fromkeys(WRITERS, 1))
    return data.ArrayLayout(layout, config.acc_banks + config.stat_banks)


def bank_choice_layout(config: TileConfig) -> data.StructLayout:
    """For each reader, the bank that it read in the cycle before."""
    return data.StructLayout({name: range(config.acc_banks + config.stat_banks) for name in READERS})


class AccLane(wiring.Component):
    """Members
    -------
    control_in, control_out, start, shift, column, maximum_in, maximum_out, status
        See `DrainLane`.
    reads : In(bank_reads_layout), writes : In(bank_writes_layout)
    selected : In(LANE_SELECTED), values : In(LANE_VALUES)
    choice : In(bank_choice_layout)
    words : Out(LANE_WORDS)
        One cycle after the read; ``stat`` is 0 unless it was read in this lane, so that lanes can be or-ed.
    conflict : Out(1)
        The drain and another unit read, or write, the same bank in this cycle.
    """

    control_in: data.View
    control_out: data.View
    start: Signal
    shift: Signal
    column: data.View
    maximum_in: Signal
    maximum_out: Signal
    status: data.View
    reads: data.View
    writes: data.View
    selected: data.View
    values: data.View
    choice: data.View
    words: data.View
    conflict: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.banks = config.acc_banks + config.stat_banks
        control = control_layout(config)
        super().__init__({
            "control_in": In(control), "control_out": Out(control), "start": Out(1), "shift": Out(1),
            "column": In(partial_layout(config)), "maximum_in": In(32), "maximum_out": Out(32), "status": Out(STATUS),
            "reads": In(bank_reads_layout(config)), "writes": In(bank_writes_layout(config)),
            "selected": In(LANE_SELECTED), "values": In(LANE_VALUES), "choice": In(bank_choice_layout(config)),
            "words": Out(LANE_WORDS), "conflict": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.drain = drain = DrainLane(self.config)
        m.d.comb += [
            drain.control_in.eq(self.control_in), self.control_out.eq(drain.control_out),
            self.start.eq(drain.start), self.shift.eq(drain.shift), drain.column.eq(self.column),
            drain.maximum_in.eq(self.maximum_in), self.maximum_out.eq(drain.maximum_out),
            self.status.eq(drain.status),
        ]
        planes = self._planes(drain)
        words, conflicts = [], []
        for b in range(self.banks):
            word, conflict = self._bank(m, b, drain, planes)
            words.append(word)
            conflicts.append(conflict)
        m.d.comb += self.conflict.eq(Cat(conflicts).any())
        self._words(m, words)
        self._partial(m, drain, words)
        return m

    def _planes(self, drain: DrainLane) -> list[Value]:
        """Memory words of a raw accumulator: 32 bits of the value and this plane's share of the flags each.
        """
        planes, share = self.config.acc_planes, self.config.acc_word_bits - 32
        flags = drain.write.sum.flags.as_value()
        value = Cat(drain.write.sum.value, drain.write.sum.value[-1].replicate(32 * planes - self.config.acc_bits))
        return [Cat(value[32 * p:32 * p + 32], flags[share * p:share * p + share]) for p in range(planes)]

    def _bank(self, m: Module, b: int, drain: DrainLane, planes: list[Value]) -> tuple[Value, Value]:
        """Build bank ``b``; return its read data and whether the drain meets another unit there."""
        config = self.config
        bank = memory.Memory(
            shape=Shape(config.acc_word_bits), depth=max(2, config.acc_bank_depth(b)), init=[])
        m.submodules[f"bank{b}"] = bank
        read = bank.read_port()
        write = bank.write_port()
        offset = config.acc_offset_bits
        plane, base = (b // config.acc_plane_banks, b % config.acc_plane_banks) if b < config.acc_banks else (0, b)
        raw_here = b < config.acc_banks

        want, port = self.reads[b], drain.read
        merging = Signal(name=f"bank{b}_merging")
        reading = Signal(name=f"bank{b}_reading")
        m.d.comb += [
            merging.eq(port.en & (port.addr[offset:] == base) if raw_here else 0),
            reading.eq(want.vector | want.store & self.selected.store | want.stat & self.selected.stat_read),
            read.en.eq(merging | reading),
            read.addr.eq(Mux(merging, port.addr[:offset], want.row)),
        ]

        want, port = self.writes[b], drain.write
        draining = Signal(name=f"bank{b}_draining")
        writing = Signal(name=f"bank{b}_writing")
        target = Mux(port.raw, base, b) if raw_here else b
        m.d.comb += [
            draining.eq(port.en & (port.addr[offset:] == target) & (~port.raw if not raw_here else 1)),
            writing.eq(want.d | want.r & self.selected.r | want.load & self.selected.load
                       | want.stat & self.selected.stat_write),
            write.en.eq(draining | writing),
            write.addr.eq(Mux(draining, port.addr[:offset], want.row)),
            write.data.eq(Mux(want.d, self.values.d, Mux(want.r, self.values.r, Mux(
                want.load, self.values.load, self.values.stat)))),
        ]
        with m.If(draining):
            m.d.comb += write.data.eq(Mux(port.raw, planes[plane], port.word))
        return read.data, merging & reading | draining & writing

    def _words(self, m: Module, words: list[Value]) -> None:
        stat_here = Signal()
        m.d.sync += stat_here.eq(self.selected.stat_read)
        for name in READERS:
            word = Signal(32, name=f"{name}_word")
            with m.Switch(self.choice[name]):
                for b, bank_word in enumerate(words):
                    with m.Case(b):
                        m.d.comb += word.eq(bank_word)
            m.d.comb += self.words[name].eq(Mux(stat_here, word, 0) if name == "stat" else word)

    def _partial(self, m: Module, drain: DrainLane, words: list[Value]) -> None:
        """Assemble the raw partial from its planes, one cycle after the drain's read."""
        config = self.config
        bank = Signal(range(max(2, config.acc_plane_banks)), reset_less=True)
        with m.If(drain.read.en):
            m.d.sync += bank.eq(drain.read.addr[config.acc_offset_bits:])
        planes = []
        for p in range(config.acc_planes):
            word = Signal(config.acc_word_bits, name=f"plane_{p}")
            with m.Switch(bank):
                for b in range(config.acc_plane_banks):
                    with m.Case(b):
                        m.d.comb += word.eq(words[p * config.acc_plane_banks + b])
            planes.append(word)
        flags = Cat(word[32:] for word in planes)[:ACC_FLAG_BITS]
        m.d.comb += [
            drain.partial.value.eq(Cat(word[:32] for word in planes)[:config.acc_bits].as_signed()),
            drain.partial.flags.eq(flags),
        ]
