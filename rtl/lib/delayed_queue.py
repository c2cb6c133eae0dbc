"""A fixed delay for things that are rare.

A record that passes at most once in `gap` cycles needs one bit of shift register per cycle of delay and a
small memory, instead of a shift register as wide as the record. In `server`, the wr tokens of the matrix unit
wait 174 cycles: 182 registers and 11 memory words of 5 bits replace 1,044 registers.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out


class DelayedQueue(wiring.Component):
    """Shows what was pushed at cycle t at cycle t + ``delay``, for one cycle.

    Parameters
    ----------
    layout : StructLayout
    delay, gap : int
        Both at least 1. Two pushes must be at least ``gap`` cycles apart.

    Members
    -------
    push : In(1), push_data : In(layout)
    valid : Out(1), popped : Out(layout)
        ``popped`` has no meaning while ``valid`` is low.
    """

    push: Signal
    push_data: data.View
    valid: Signal
    popped: data.View

    def __init__(self, *, layout: data.StructLayout, delay: int, gap: int) -> None:
        for name, value in (("delay", delay), ("gap", gap)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.delay = delay
        self.depth = -(-delay // gap)
        self.layout = layout
        super().__init__({
            "push": In(1), "push_data": In(layout), "valid": Out(1), "popped": Out(layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # At least two words: an address of no bits becomes a vector [-1:0] of two bits in Verilog.
        words = max(2, self.depth)
        m.submodules.entries = entries = memory.Memory(shape=Shape(self.layout.size), depth=words, init=[])
        write = entries.write_port()
        read = entries.read_port(domain="comb")
        first = Signal(range(words))
        tail = Signal(range(words))
        waiting = Signal(self.delay)
        m.d.sync += waiting.eq(Cat(self.push, waiting))
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(tail),
            write.data.eq(Value.cast(self.push_data)),
            read.addr.eq(first),
            Value.cast(self.popped).eq(read.data),
            self.valid.eq(waiting[-1]),
        ]
        for pointer, moved in ((tail, self.push), (first, self.valid)):
            with m.If(moved):
                m.d.sync += pointer.eq(Mux(pointer == self.depth - 1, 0, pointer + 1))
        return m
