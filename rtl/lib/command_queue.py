"""A registered first-in first-out queue whose head is visible the cycle after a push.

The instruction queues, the descriptors of DMA instructions in flight and the store unit's output all are
this one. `amaranth.lib.fifo.SyncFIFOBuffered` was rejected because its head appears two cycles after the
push, which would cost a cycle per dependent instruction.
"""

from amaranth.hdl import Module, Mux, Shape, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out


class CommandQueue(wiring.Component):
    """First-in first-out queue of `depth` entries of `layout`.

    Members
    -------
    push : In(1)
        Append `push_data` at the end of this cycle. Must be low while `full` is high.
    pop : In(1)
        Drop the head at the end of this cycle. Must be low while `valid` is low.
    valid, head : Out
        An entry pushed at cycle t is visible from t + 1.
    full : Out(1)
        Registered: a pop at cycle t lowers it at t + 1, so a slot is free for a push at t + 1.
    clear : In(1)
        Empty the queue at the end of this cycle.

    Raises `ValueError` when `depth` is less than 1.
    """

    push: Signal
    push_data: data.View
    pop: Signal
    valid: Signal
    head: data.View
    full: Signal
    clear: Signal

    def __init__(self, *, layout: data.StructLayout, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        self.layout = layout
        self.depth = depth
        super().__init__({
            "push": In(1), "push_data": In(layout), "pop": In(1), "valid": Out(1), "head": Out(layout),
            "full": Out(1), "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = entries = memory.Memory(
            shape=Shape(self.layout.size), depth=self.depth, init=[])
        write = entries.write_port()
        read = entries.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        tail = Signal(range(self.depth))
        first = Signal(range(self.depth))
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(tail),
            write.data.eq(Value.cast(self.push_data)),
            read.addr.eq(first),
            Value.cast(self.head).eq(read.data),
            self.valid.eq(level != 0),
            self.full.eq(level == self.depth),
        ]
        m.d.sync += level.eq(level + self.push - self.pop)
        for pointer, moved in ((tail, self.push), (first, self.pop)):
            with m.If(moved):
                m.d.sync += pointer.eq(Mux(pointer == self.depth - 1, 0, pointer + 1))
        with m.If(self.clear):
            m.d.sync += [level.eq(0), tail.eq(0), first.eq(0)]
        return m

