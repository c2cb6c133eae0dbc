"""FP32 dividers on unpacked operands: two quotient bits per stage, or a constant divisor | align | round.

The restoring recurrence yields the 26 quotient bits 2**0 .. 2**-25 of the significands' ratio, which lies between 1/2
and 2; what remains is sticky. So the result is rounded once, like a product in `Fp32Mul`. It serves a whole block of
elements: the lanes themselves divide with `QuotientQuantizer`, a fifth of the size. Division by 3 and 7 is exact by a
multiplication: floor(n / 3) = n * ceil(2**29 / 3) >> 29 for n < 2**29, floor(n / 7) = n * ceil(2**31 / 7) >> 31 for
n < 2**28 (Granlund and Montgomery, PLDI 1994).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import latency
from .pack import delay, round_magnitude, select_special
from .unpacked import Unpacked

_QUOTIENT_BITS = 26
_STAGES = latency.FP32_DIV_STAGES
_BITS_PER_STAGE = _QUOTIENT_BITS // _STAGES
_MAX_SHIFT = 26
"""Shifted that far to the right, a quotient leaves only sticky bits."""

_Special = data.StructLayout({"sign": 1, "zero": 1, "inf": 1, "nan": 1, "exponent": signed(13)})


def quotient_step(m: Module, remainder: Value, divisor: Value, *, name: str) -> tuple[Value, Value]:
    """One bit of the restoring recurrence: (remainder >= divisor, twice what is left), combinational."""
    difference = Signal(len(divisor) + 2, name=f"{name}_difference")
    left = Signal(len(divisor), name=f"{name}_left")
    m.d.comb += [
        difference.eq(remainder - divisor),
        left.eq(Mux(difference[-1], remainder, difference)),
    ]
    return ~difference[-1], Cat(Const(0, 1), left)


class Fp32Div(wiring.Component):
    """``a / b`` rounded once to FP32 `result` (32): nearest even, gradual underflow, overflow to infinity.

    Operands are `Unpacked` and may have exponents outside the FP32 range. x / 0 is infinite; a NaN, 0 / 0 and inf / inf
    give 0x7FC00000. LATENCY 15, one quotient per cycle.
    """

    LATENCY = latency.FP32_DIV

    a: data.View
    b: data.View
    result: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(Unpacked), "b": In(Unpacked), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        special = Signal(_Special)
        m.d.comb += [
            special.sign.eq(a.sign ^ b.sign),
            special.zero.eq(a.is_zero | b.is_inf),
            special.inf.eq(a.is_inf | b.is_zero),
            special.nan.eq(a.is_nan | b.is_nan | (a.is_zero & b.is_zero) | (a.is_inf & b.is_inf)),
            special.exponent.eq(a.exponent - b.exponent),
        ]
        last = data.View(_Special, delay(m, special, _STAGES, name="special"))
        quotient, rest = self._quotient(m, a.significand, b.significand)
        m.d.comb += self.result.eq(_rounded(m, quotient, rest, last))
        return m

    @staticmethod
    def _quotient(m: Module, dividend: Value, divisor: Value) -> tuple[Value, Value]:
        """Quotient bits (leading one at 25 or 24) and whether a remainder is left, `_STAGES` cycles later."""
        remainder: Value = dividend
        quotient: Value = Const(0, 0)
        for stage in range(_STAGES):
            bits = []
            for bit in range(_BITS_PER_STAGE):
                one, remainder = quotient_step(m, remainder, divisor, name=f"step_{stage}_{bit}")
                bits.insert(0, one)
            registers = [Signal(length, name=f"{name}_{stage}", reset_less=True) for name, length in (
                ("remainder", 25), ("divisor", 24), ("quotient", _BITS_PER_STAGE * (stage + 1)))]
            for register, value in zip(registers, (remainder, divisor, Cat(*bits, quotient)), strict=True):
                m.d.sync += register.eq(value)
            remainder, divisor, quotient = registers
        return quotient, remainder.any()


class Fp32DivConstant(wiring.Component):
    """``a / 6`` or ``a / 448``, the largest E2M1 and E4M3 values, rounded once to FP32 `result` (32).

    ``by_448`` (1) chooses. Parameters: ``divisors``, those that are built. LATENCY 3, one quotient per cycle.
    """

    LATENCY = latency.FP32_DIV_CONSTANT

    a: data.View
    by_448: Signal
    result: Signal

    def __init__(self, divisors: tuple[int, ...] = (6, 448)) -> None:
        if not divisors or not set(divisors) <= set(_CONSTANTS):
            raise ValueError(f"divisors must be some of {', '.join(map(str, _CONSTANTS))}, not {divisors}")
        self.divisors = divisors
        super().__init__({"a": In(Unpacked), "by_448": In(1), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        special = Signal(_Special, reset_less=True)
        quotient = Signal(_QUOTIENT_BITS, reset_less=True)
        rest = Signal(reset_less=True)
        m.d.sync += [
            special.sign.eq(self.a.sign), special.zero.eq(self.a.is_zero), special.inf.eq(self.a.is_inf),
            special.nan.eq(self.a.is_nan),
        ]
        for divisor in self.divisors:
            odd, shift, scaled, exponent = _CONSTANTS[divisor]
            dividend = Cat(Const(0, scaled), self.a.significand)
            found = Signal(_QUOTIENT_BITS, name=f"quotient_{divisor}")
            m.d.comb += found.eq(dividend * -(-(1 << shift) // odd) >> shift)
            low = odd.bit_length()  # bits that hold any remainder
            chosen = self.by_448 == (divisor == 448) if len(self.divisors) > 1 else Const(1, 1)
            with m.If(chosen):
                m.d.sync += [
                    quotient.eq(found),
                    rest.eq((dividend[:low] - found[:low] * odd)[:low].any()),
                    special.exponent.eq(self.a.exponent - exponent),
                ]
        m.d.comb += self.result.eq(_rounded(m, quotient, rest, special))
        return m


_CONSTANTS = {6: (3, 29, 3, 2), 448: (7, 31, 4, 8)}
"""Odd part, shift of the multiplication, zeros below the significand so that the quotient has 25 or 26 bits, and how
far the weight of quotient bit 25 lies below the exponent."""


def _rounded(m: Module, quotient: Value, rest: Value, last: data.View) -> Value:
    """FP32 word of a quotient of 26 bits (leading one at 25 or 24) with bit 25 at ``2**last.exponent``; two cycles."""
    # Align, so that the leading bit, or 2**-126 if that is larger, is the highest of `aligned`.
    below = Signal(signed(14))  # how far 2**-126 lies above the weight of bit 24
    amount = Signal(range(_MAX_SHIFT + 1))
    aligned = Signal(_QUOTIENT_BITS + _MAX_SHIFT, reset_less=True)
    exponent = Signal(13, reset_less=True)
    sticky = Signal(reset_less=True)
    m.d.comb += [
        below.eq(-125 - last.exponent),
        amount.eq(Mux(below - 1 > _MAX_SHIFT, _MAX_SHIFT, below - 1)),
    ]
    wide = Cat(Const(0, _MAX_SHIFT), quotient)
    with m.If(below >= 1):
        m.d.sync += [aligned.eq(wide >> amount), exponent.eq(0)]
    with m.Else():
        m.d.sync += [aligned.eq(Mux(quotient[-1], wide, wide << 1)), exponent.eq(quotient[-1] - below)]
    m.d.sync += sticky.eq(rest)
    final = Signal(_Special, reset_less=True)
    m.d.sync += final.eq(last)

    # Round and pack.
    rounded = round_magnitude(m, exponent, aligned[-24:], aligned[-25], aligned[:-25].any() | sticky)
    result = Signal(32, reset_less=True)
    m.d.sync += result.eq(
        select_special(Mux(final.zero, 0, rounded), final.sign, nan=final.nan, infinite=final.inf))
    return result
