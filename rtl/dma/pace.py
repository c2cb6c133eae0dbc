"""The pace of a DMA unit whose DRAM is slower than its port.

The DRAM takes `TileConfig.beat_cycles` = p / q per beat, 1 or more, from the first cycle in which the instruction has a
beat for it, and an instruction ends with its last beat's time. So n beats take ceil(n * p / q) cycles, whatever came
before: the time of an instruction stays a function of the instruction (`plan.py`). A pace of the memory alone, which
goes on from one instruction to the next, was rejected for that reason; it would save less than a cycle for each.

An accumulator counts q per cycle and p per beat. The beats of an AXI burst of k come without a pause, because the bus
delivers them like that, so a burst begins when it can end in time: its last beat leaves where it would have left alone.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig
from .run_ahead import MORE_BITS


class Pace(wiring.Component):
    """Says in which cycles a beat may leave. LATENCY 0 from `more` to `go`.

    Members
    -------
    valid : In(1)
        The instruction has a beat to send.
    more : In(8)
        Of a beat that begins a burst: how many are in it after this one. 0 for beats that need not be together.
    taken, last : In(1)
        The beat is sent in this cycle, never without `go`; it is the instruction's last.
    go : Out(1)
        Beat b of an instruction may leave at cycle ceil((b + 1) * p / q) - 1, counted from 0 while `valid` and not
        held up by anything but `go`; a beat of a burst as much earlier as there are beats of it after this one.
    """

    valid: Signal
    more: Signal
    taken: Signal
    last: Signal
    go: Signal

    def __init__(self, config: TileConfig) -> None:
        self.beat, self.cycle = config.beat_cycles.numerator, config.beat_cycles.denominator
        super().__init__({"valid": In(1), "more": In(MORE_BITS), "taken": In(1), "last": In(1), "go": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.beat == self.cycle:
            m.d.comb += self.go.eq(1)
            return m
        early = self.beat - self.cycle
        credit = Signal(range(self.beat + early * (1 << MORE_BITS)))
        left = Signal(MORE_BITS)
        m.d.comb += self.go.eq((left != 0) | (credit + self.cycle >= self.beat + self.more * early))
        with m.If(self.taken):
            m.d.sync += [credit.eq(Mux(self.last, 0, credit - early)), left.eq(Mux(left != 0, left - 1, self.more))]
        with m.Elif(self.valid & ~self.go):
            m.d.sync += credit.eq(credit + self.cycle)
        return m
