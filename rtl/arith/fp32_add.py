"""FP32 adder: order by magnitude | align and add | normalise | round.

Three bits below the significand (guard, round, sticky) suffice: after a far alignment at most one leading bit
is lost, and after a near one the difference is exact. As in `round_fp32`, a marker bit stops the
normalisation at the subnormal grid.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import FP32_INF
from . import latency
from .pack import count_leading_zeros, round_magnitude, select_special

_MAX_ALIGN = 27
"""Aligned that far, an operand leaves only its sticky bit."""

_Special = data.StructLayout({"sign": 1, "subtract": 1, "inf": 1, "nan": 1})


class Fp32Add(wiring.Component):
    """``a + b`` of FP32 words (32), rounded once to `result` (32).

    Nearest even, gradual underflow, overflow to infinity; x + (-x) = +0 and (-0) + (-0) = -0; a NaN, or
    infinities of opposite sign, give 0x7FC00000. LATENCY 4, one sum per cycle.
    """

    LATENCY = latency.FP32_ADD

    a: Signal
    b: Signal
    result: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        special = [Signal(_Special, name=f"special_{stage}", reset_less=True) for stage in (1, 2, 3)]

        # 1: the larger magnitude first. A subnormal has exponent field 1 and no leading bit.
        large_first = Signal()
        large = Signal(31)
        small = Signal(31)
        large_significand = Signal(24, reset_less=True)
        small_significand = Signal(24, reset_less=True)
        exponent_1 = Signal(8, reset_less=True)
        large_field = Signal(8)
        small_field = Signal(8)
        distance = Signal(8)
        align = Signal(range(_MAX_ALIGN + 1), reset_less=True)
        m.d.comb += [
            large_first.eq(self.a[:31] >= self.b[:31]),
            large.eq(Mux(large_first, self.a, self.b)),
            small.eq(Mux(large_first, self.b, self.a)),
            large_field.eq(Mux(large[23:].any(), large[23:], 1)),
            small_field.eq(Mux(small[23:].any(), small[23:], 1)),
            distance.eq(large_field - small_field),
        ]
        m.d.sync += [
            large_significand.eq(Cat(large[:23], large[23:].any())),
            small_significand.eq(Cat(small[:23], small[23:].any())),
            exponent_1.eq(large_field),
            align.eq(Mux(distance > _MAX_ALIGN, _MAX_ALIGN, distance)),
            special[0].sign.eq(Mux(large_first, self.a[31], self.b[31])),
            special[0].subtract.eq(self.a[31] ^ self.b[31]),
            special[0].inf.eq(large == FP32_INF),
            special[0].nan.eq((large > FP32_INF) | ((small == FP32_INF) & (self.a[31] ^ self.b[31]))),
            special[1].eq(special[0]),
            special[2].eq(special[1]),
        ]

        # 2: align, add; bit 27 of `total` is the carry, bit 26 the leading bit of the larger operand.
        far = Signal(24 + _MAX_ALIGN)
        addend = Signal(27)
        total = Signal(28, reset_less=True)
        marker = Signal(28, reset_less=True)
        exponent_2 = Signal(8, reset_less=True)
        m.d.comb += [
            far.eq(Cat(Const(0, _MAX_ALIGN), small_significand) >> align),
            addend.eq(Cat(far[:_MAX_ALIGN - 2].any(), far[_MAX_ALIGN - 2:])),
        ]
        large_extended = Cat(Const(0, 3), large_significand)
        m.d.sync += [
            total.eq(Mux(special[0].subtract, large_extended - addend, large_extended + addend)),
            exponent_2.eq(exponent_1),
        ]
        m.d.sync += marker.eq(Mux(exponent_1 > 27, 0, Const(1, 1) << (27 - exponent_1)[:5]))

        # 3: normalise, by no more than the exponent allows.
        normalised = Signal(28, reset_less=True)
        exponent_3 = Signal(9, reset_less=True)
        cancelled = Signal(reset_less=True)
        zeros = count_leading_zeros(m, total | marker)
        m.d.sync += [
            normalised.eq(total << zeros),
            exponent_3.eq(exponent_2 - zeros),
            cancelled.eq(~total.any()),
        ]

        # 4: round and pack. An exact zero from a subtraction is +0.
        last = special[2]
        rounded = round_magnitude(
            m, Mux(cancelled, 0, exponent_3), normalised[4:], normalised[3], normalised[:3].any())
        sign = last.sign & ~(cancelled & last.subtract)
        result = Signal(32, reset_less=True)
        m.d.sync += result.eq(select_special(rounded, sign, nan=last.nan, infinite=last.inf))
        m.d.comb += self.result.eq(result)
        return m
