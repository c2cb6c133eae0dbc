"""Memory of the 32-bit DRAM row numbers that gather and scatter follow.

A gather and a scatter may run at the same time, and no instruction's time may depend on another unit's, so
there are two read ports (on an FPGA: two copies of a block RAM) and not one shared by arbitration.
"""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig


def index_read_signature() -> wiring.Signature:
    """A read port seen from the reader: `en`, `addr` (entry) at t, `data` from t + 1 until the next `en`."""
    return wiring.Signature({"en": Out(1), "addr": Out(16), "data": In(32)})


class IndexMemory(wiring.Component):
    """`index_entries` words of 32 bits, written a bus beat at a time.

    Members
    -------
    write : In {valid, beat, data, mask}
        Entries beat * bus_bytes/4 and up; an entry whose four mask bits are set is written. Visible to
        reads from the next cycle on.
    load, store : index_read_signature()
        Read ports of the load and the store unit. LATENCY 1.
    """

    LATENCY = 1

    write: Any
    load: Any
    store: Any

    def __init__(self, config: TileConfig) -> None:
        self.entries = config.index_entries
        self.per_beat = config.bus_bytes // 4
        write = wiring.Signature({
            "valid": Out(1), "beat": Out(20), "data": Out(8 * config.bus_bytes),
            "mask": Out(config.bus_bytes)})
        super().__init__({
            "write": In(write), "load": In(index_read_signature()), "store": In(index_read_signature())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = entries = memory.Memory(
            shape=32 * self.per_beat, depth=self.entries // self.per_beat, init=[])
        write = entries.write_port(granularity=32)
        m.d.comb += [write.addr.eq(self.write.beat), write.data.eq(self.write.data)]
        for entry in range(self.per_beat):
            m.d.comb += write.en[entry].eq(self.write.valid & self.write.mask[4 * entry])
        sub_bits = self.per_beat.bit_length() - 1
        for port in (self.load, self.store):
            read = entries.read_port()
            sub = Signal(range(self.per_beat))
            with m.If(port.en):
                m.d.sync += sub.eq(port.addr[:sub_bits])
            m.d.comb += [
                read.en.eq(port.en),
                read.addr.eq(port.addr[sub_bits:]),
                port.data.eq(read.data.word_select(sub, 32)),
            ]
        return m
