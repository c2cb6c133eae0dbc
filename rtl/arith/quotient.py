"""The element codes of a block: RNE_element(RNE32(x / D)), without an FP32 divider.

An element has at most three mantissa bits, so the quotient of the significands is needed to four fraction bits: a bit
for the integer part, three and a guard. The first rounding, to FP32, can only matter where it makes the quotient equal
to a multiple of 2**-4, the possible ties of the second: when the remainder R after four bits is so close to 0 or to D
that the distance is at most half a unit of the 24th bit, ``R * 2**20 <= D`` or ``(D - R) * 2**20 <= D``. (At equality
the multiple of 2**-4 is the even neighbour, so it wins there too.)
"""

from collections.abc import Iterable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import ELEMENTS, FormatSpec
from . import latency
from .fp32_div import quotient_step
from .pack import delay
from .unpacked import Unpacked

ELEMENT_BITS = 2

Divisor = data.StructLayout({"exponent": signed(10), "significand": 24})
"""``significand * 2**(exponent - 23)``; the significand has its top bit set."""

_MAX_DROP = 6
"""Shifted that far below its guard position, a quotient rounds to zero."""


class QuotientQuantizer(wiring.Component):
    """``x / divisor`` to the nearest `code` (8), ties to even, after rounding to FP32; saturating, sign kept.

    Parameters: ``elements``, the element formats that are built.

    Members
    -------
    x : In(Unpacked)
        Neither infinite nor NaN.
    divisor : In(Divisor)
    element : In(2)
        Index in `formats.ELEMENTS`.
    zero : In(1)
        The code is 0 whatever x is.
    code : Out(8)
        E2M1 codes have zeros above. LATENCY 6, one code per cycle.
    """

    LATENCY = latency.QUOTIENT

    x: data.View
    divisor: data.View
    element: Signal
    zero: Signal
    code: Signal

    def __init__(self, elements: Iterable[FormatSpec] = ELEMENTS) -> None:
        self.elements = [spec for spec in ELEMENTS if spec in set(elements)]
        if not self.elements:
            raise ValueError("elements must name at least one element format")
        super().__init__({
            "x": In(Unpacked), "divisor": In(Divisor), "element": In(ELEMENT_BITS), "zero": In(1), "code": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        exponent, quotient, sticky = self._quotient(m)
        before = 4
        element = delay(m, self.element, before, name="element")
        control = data.StructLayout({"sign": 1, "zero": 1})
        entered = Signal(control)
        m.d.comb += [entered.sign.eq(self.x.sign & ~self.zero), entered.zero.eq(self.x.is_zero | self.zero)]
        flags = data.View(control, delay(m, entered, before + 1, name="flags"))

        # 5: drop what the element cannot hold. `above` is the exponent field minus 1, if that is not negative.
        above = Signal(signed(13))
        extra = Signal(2)
        drop = Signal(range(_MAX_DROP + 1))
        field = Signal(5, reset_less=True)
        kept = Signal(5, reset_less=True)
        guard = Signal(reset_less=True)
        rest = Signal(reset_less=True)
        overflow = Signal(reset_less=True)
        shifted = Signal(6 + 1 + _MAX_DROP)
        element_late = delay(m, element, 1, name="element_late")
        m.d.comb += drop.eq(Mux(above >= 0, extra, Mux(above + _MAX_DROP < extra, _MAX_DROP, (extra - above)[:3])))
        m.d.comb += shifted.eq(Cat(Const(0, _MAX_DROP + 1), quotient) >> drop)
        with m.Switch(element):
            for spec in self.elements:
                with m.Case(ELEMENTS.index(spec)):
                    smallest = spec.lsb_exponent + spec.mantissa_bits
                    m.d.comb += [above.eq(exponent - smallest), extra.eq(3 - spec.mantissa_bits)]
                    m.d.sync += overflow.eq(exponent > spec.emax)
        m.d.sync += [
            field.eq(Mux(above >= 0, above, 0)),
            kept.eq(shifted[_MAX_DROP + 2:]),
            guard.eq(shifted[_MAX_DROP + 1]),
            rest.eq(shifted[:_MAX_DROP + 1].any() | sticky),
        ]

        # 6: round; the leading bit of what is kept adds 1 to the exponent field.
        magnitude = Signal(9)
        code = Signal(8, reset_less=True)
        round_up = guard & (rest | kept[0])
        with m.Switch(element_late):
            for spec in self.elements:
                with m.Case(ELEMENTS.index(spec)):
                    largest = _max_code(spec)
                    m.d.comb += magnitude.eq((field << spec.mantissa_bits) + kept + round_up)
                    saturated = Mux(overflow | (magnitude > largest), largest, magnitude)
                    m.d.sync += code.eq(Cat(Mux(flags.zero, 0, saturated)[:spec.bits - 1], flags.sign))
        m.d.comb += self.code.eq(code)
        return m

    def _quotient(self, m: Module) -> tuple[Value, Value, Value]:
        """Exponent, quotient of 6 bits with 4 below the point (16..32), sticky; four cycles later."""
        x, divisor = self.x.significand, self.divisor.significand
        # 1: normalise, so that the quotient is in [1, 2).
        first = Signal(26, name="first_difference")
        exponent = Signal(signed(13), name="exponent_1", reset_less=True)
        remainder = Signal(25, name="remainder_1", reset_less=True)
        d = Signal(24, name="d_1", reset_less=True)
        m.d.comb += first.eq(x - divisor)
        less = first[-1]
        m.d.sync += [
            exponent.eq(self.x.exponent - self.divisor.exponent - less),
            remainder.eq(Cat(Const(0, 1), Mux(less, (x << 1) - divisor, first))),
            d.eq(divisor),
        ]
        # 2, 3: two bits each.
        bits: Value = Const(0, 0)
        for stage in (2, 3):
            one, rest = quotient_step(m, remainder, d, name=f"step_{stage}_0")
            two, rest = quotient_step(m, rest, d, name=f"step_{stage}_1")
            later = [Signal.like(value, name=f"{name}_{stage}", reset_less=True)
                     for value, name in ((exponent, "exponent"), (remainder, "remainder"), (d, "d"))]
            found = Signal(len(bits) + 2, name=f"bits_{stage}", reset_less=True)
            m.d.sync += [later[0].eq(exponent), later[1].eq(rest), later[2].eq(d), found.eq(Cat(two, one, bits))]
            (exponent, remainder, d), bits = later, found
        # 4: the rounding to FP32.
        left = remainder[1:]
        near = d[20:]
        down = Signal(name="exact_below")
        up = Signal(name="exact_above")
        quotient = Signal(6, name="quotient", reset_less=True)
        sticky = Signal(name="sticky", reset_less=True)
        late = Signal.like(exponent, name="exponent_4", reset_less=True)
        m.d.comb += [down.eq(left <= near), up.eq(d - left <= near)]
        m.d.sync += [quotient.eq(Cat(bits, Const(1, 1)) + up), sticky.eq(~down & ~up), late.eq(exponent)]
        return late, quotient, sticky


def _max_code(spec: FormatSpec) -> int:
    """Magnitude code of the largest finite value."""
    top = (spec.emax - spec.lsb_exponent - spec.mantissa_bits + 1) << spec.mantissa_bits
    fraction = spec.max_finite / 2.0**spec.emax - 1
    return top | int(fraction * (1 << spec.mantissa_bits))
