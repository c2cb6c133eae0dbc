"""A delay of many cycles in a memory, for data that waits until the scale of its block is known."""

from amaranth.hdl import Module, Mux, Shape, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..arith.pack import delay

_SHORTEST = 4
"""Below it registers are smaller than a memory with its counter."""


class DelayLine(wiring.Component):
    """``output`` is ``input`` (``width`` bits), ``cycles`` clock cycles later. What it holds survives a reset."""

    input: Signal
    output: Signal

    def __init__(self, width: int, cycles: int) -> None:
        if cycles < 0:
            raise ValueError(f"cycles must not be negative, got {cycles}")
        self.cycles = cycles
        super().__init__({"input": In(width), "output": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.cycles < _SHORTEST:
            m.d.comb += self.output.eq(delay(m, self.input, self.cycles, name="stage"))
            return m
        m.submodules.words = words = memory.Memory(shape=Shape(len(self.input)), depth=self.cycles, init=[])
        write = words.write_port()
        read = words.read_port()
        place = Signal(range(self.cycles))
        following = Signal(range(self.cycles))
        m.d.comb += following.eq(Mux(place == self.cycles - 1, 0, place + 1))
        m.d.sync += place.eq(following)
        # The word at the next place is the oldest; it is read in the cycle before it is written.
        m.d.comb += [
            write.addr.eq(place), write.data.eq(self.input), write.en.eq(1), read.addr.eq(following), read.en.eq(1),
            self.output.eq(read.data),
        ]
        return m


def delay_line(m: Module, value, cycles: int, *, name: str):
    """`DelayLine` as submodule ``name`` of ``m``; the delayed value, of the same width."""
    line = DelayLine(len(value), cycles)
    m.submodules[name] = line
    m.d.comb += line.input.eq(value)
    return line.output
