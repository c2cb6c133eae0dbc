"""A record of when every DMA instruction was issued, had read and had finished, for the host to read.

On a board the durations of DMA are those of its memory. With them the timing model reproduces every other cycle
(recorded-latency mode). One 32-bit entry per cycle in which something happened: bits 5:0 what, bits 31:6 when.
"""

from typing import Any

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..spec.registers import field_of

TIME_BITS = field_of("TRACE_DATA", "TIME").bits
EVENTS = 32 - TIME_BITS


class DmaRecorder(wiring.Component):
    """Records from `start` on; the oldest entry is always visible.

    Members
    -------
    start : In(1)
        Cycle 0 of a run: forgets all entries.
    events : In(6)
        What happens in this cycle, in the order of the fields of TRACE_DATA.
    data : Out(32), level : Out(16)
        The oldest entry, 0 when there is none; how many there are. An entry is visible 2 cycles after its events.
    take : In(1)
        Drop the oldest entry.
    overflow : Out(1)
        An entry was lost since `start` because all `depth` were in use. With a `depth` of 0 every one is.
    """

    start: Signal
    events: Signal
    data: Signal
    level: Signal
    take: Signal
    overflow: Signal

    def __init__(self, *, depth: int) -> None:
        self.depth = depth
        super().__init__({
            "start": In(1), "events": In(EVENTS), "data": Out(32), "level": Out(16), "take": In(1),
            "overflow": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.depth:
            return self._without_entries(m)
        fifo: Any = SyncFIFOBuffered(width=32, depth=self.depth)
        m.submodules.fifo = ResetInserter(self.start)(fifo)
        time = Signal(TIME_BITS)
        wrapped = Signal()
        m.d.comb += [
            fifo.w_data.eq(Cat(self.events, time)), fifo.w_en.eq(self.events.any() | wrapped),
            fifo.r_en.eq(self.take), self.level.eq(fifo.level),
        ]
        with m.If(fifo.r_rdy):
            m.d.comb += self.data.eq(fifo.r_data)
        m.d.sync += [time.eq(time + 1), wrapped.eq(time.all())]
        with m.If(fifo.w_en & ~fifo.w_rdy):
            m.d.sync += self.overflow.eq(1)
        with m.If(self.start):
            m.d.sync += [time.eq(1), wrapped.eq(0), self.overflow.eq(0)]
        return m

    def _without_entries(self, m: Module) -> Module:
        with m.If(self.events.any()):
            m.d.sync += self.overflow.eq(1)
        with m.If(self.start):
            m.d.sync += self.overflow.eq(0)
        return m
