"""FP32 multiplier on unpacked operands: multiply | align | round.

The product of the significands has its leading bit at position 47 or 46. A result below 2**-126 is shifted
right, any other left by at most one; the first amount depends only on the exponents and is ready before the
product is.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import latency
from .pack import round_magnitude, select_special
from .unpacked import Unpacked, UnpackFp32

__all__ = ["Fp32Mul", "UnpackFp32", "Unpacked"]

_MAX_SHIFT = 27
"""Shifted that far to the right, a product of 49 bits leaves only sticky bits."""

_Special = data.StructLayout({"sign": 1, "zero": 1, "inf": 1, "nan": 1})


class Fp32Mul(wiring.Component):
    """``a * b`` rounded once to FP32 `result` (32): nearest even, gradual underflow, overflow to infinity.

    Operands are `Unpacked` and may have exponents outside the FP32 range. A NaN, or zero times infinity,
    gives 0x7FC00000. LATENCY 3, one product per cycle.
    """

    LATENCY = latency.FP32_MUL

    a: data.View
    b: data.View
    result: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(Unpacked), "b": In(Unpacked), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b

        # 1: product; `below` is how far 2**-126 lies above the weight of product bit 46.
        product = Signal(48, reset_less=True)
        below = Signal(signed(14), reset_less=True)
        special = [Signal(_Special, name=f"special_{stage}", reset_less=True) for stage in (1, 2)]
        m.d.sync += [
            product.eq(a.significand * b.significand),
            below.eq(-126 - (a.exponent + b.exponent)),
            special[0].sign.eq(a.sign ^ b.sign),
            special[0].zero.eq(a.is_zero | b.is_zero),
            special[0].inf.eq(a.is_inf | b.is_inf),
            special[0].nan.eq(a.is_nan | b.is_nan | (a.is_zero & b.is_inf) | (a.is_inf & b.is_zero)),
            special[1].eq(special[0]),
        ]

        # 2: align, so that bit -1 of `aligned` has the weight of the leading bit, or 2**-126 if that is
        # larger.
        aligned = Signal(48 + _MAX_SHIFT, reset_less=True)
        exponent = Signal(13, reset_less=True)
        amount = Signal(range(_MAX_SHIFT + 1))
        m.d.comb += amount.eq(Mux(below > _MAX_SHIFT, _MAX_SHIFT, below))
        with m.If(below >= 1):
            m.d.sync += [aligned.eq(Cat(Const(0, _MAX_SHIFT + 1), product) >> amount), exponent.eq(0)]
        with m.Else():
            m.d.sync += [
                aligned.eq(Cat(Const(0, _MAX_SHIFT), Mux(product[47], product, product << 1))),
                exponent.eq(product[47] - below),
            ]

        # 3: round and pack.
        rounded = round_magnitude(m, exponent, aligned[-24:], aligned[-25], aligned[:-25].any())
        last = special[1]
        result = Signal(32, reset_less=True)
        m.d.sync += result.eq(
            select_special(Mux(last.zero, 0, rounded), last.sign, nan=last.nan, infinite=last.inf))
        m.d.comb += self.result.eq(result)
        return m
