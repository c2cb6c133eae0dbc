"""FP32 maximum by integer comparison."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import FP32_INF, FP32_NAN
from . import latency


class Fp32Max(wiring.Component):
    """Larger of two FP32 words `a`, `b` (32) in the total order, -0 below +0; a NaN operand gives 0x7FC00000.

    `result` (32). LATENCY 1, one maximum per cycle.
    """

    LATENCY = latency.FP32_MAX

    a: Signal
    b: Signal
    result: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        def key(word: Value) -> Value:
            """Unsigned key in the order of the values: negative words complemented, others above them."""
            return Mux(word[31], ~word, Cat(word[:31], Const(1, 1)))

        nan = (self.a[:31] > FP32_INF) | (self.b[:31] > FP32_INF)
        result = Signal(32, reset_less=True)
        m.d.sync += result.eq(Mux(nan, FP32_NAN, Mux(key(self.a) >= key(self.b), self.a, self.b)))
        m.d.comb += self.result.eq(result)
        return m
