"""One rounding of a wide integer to FP32: absolute value | leading zeros | shift | round.

Subnormal results need no second shifter: a marker bit at the position of weight 2**-126 stops the
leading-zero count, so that the one left shift puts the value on the right grid in both cases.
"""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from . import latency
from .pack import count_leading_zeros, round_magnitude, select_special

AccumulatorFlags = data.StructLayout({"nan": 1, "pinf": 1, "ninf": 1, "inexact": 1})
"""Sticky, order-free flags beside an accumulator (design: numeric contract, rule 9)."""

_GUARD_BITS = 25
"""Room below the integer for a result that is subnormal even at its highest bit: a full significand and one
more."""


class RoundToFp32(wiring.Component):
    """``value * 2**lsb`` rounded once to FP32: nearest even, gradual underflow, overflow to infinity, zero is
    +0.

    Parameters
    ----------
    width : int
        Width of the two's complement `value`, 2 to 512.

    Members
    -------
    value : In(signed(width))
    lsb : In(signed(10))
        Exponent of the least significant bit; -18 for sums of E4M3 products.
    flags : In(AccumulatorFlags)
        nan, or pinf and ninf together: the result is 0x7FC00000; pinf or ninf alone: that infinity. `inexact`
        has no effect on the result.
    result : Out(32)

    LATENCY 4, one value per cycle.
    """

    LATENCY = latency.ROUND_FP32

    value: Signal
    lsb: Signal
    flags: data.View
    result: Signal

    def __init__(self, *, width: int) -> None:
        if not isinstance(width, int) or isinstance(width, bool):
            raise TypeError(f"width must be an integer, not {width!r}")
        if not 2 <= width <= 512:
            raise ValueError(f"width must be in 2..512, not {width}")
        self.width = width
        super().__init__({
            "value": In(signed(width)), "lsb": In(signed(10)), "flags": In(AccumulatorFlags),
            "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.width

        # 1: magnitude, and the marker at the bit of weight 2**-126 if there is one.
        magnitude = Signal(width, reset_less=True)
        marker = Signal(width, reset_less=True)
        marker_index = Signal(signed(12))
        room = Signal(signed(12), reset_less=True)  # left shift that reaches 2**-126
        signs = [Signal(name=f"sign_{stage}", reset_less=True) for stage in range(1, 4)]
        flags = [Signal(AccumulatorFlags, name=f"flags_{stage}", reset_less=True) for stage in range(1, 4)]
        m.d.comb += marker_index.eq(-126 - self.lsb)
        m.d.sync += [
            magnitude.eq(Mux(self.value < 0, -self.value, self.value)),
            room.eq(self.lsb + (width - 1 + 126)),
            signs[0].eq(self.value < 0),
            flags[0].eq(self.flags),
        ]
        index_bits = ceil_log2(width)
        with m.If(marker_index[index_bits:].any()):
            m.d.sync += marker.eq(0)
        with m.Else():
            m.d.sync += marker.eq(Const(1, 1) << marker_index[:index_bits])

        # 2: shift amount and exponent.
        magnitude_2 = Signal(width, reset_less=True)
        amount = Signal(range(width + _GUARD_BITS), reset_less=True)
        exponent_2 = Signal(len(room) - 1, reset_less=True)
        zeros = count_leading_zeros(m, magnitude | marker)
        m.d.sync += magnitude_2.eq(magnitude)
        with m.If(room < 0):
            m.d.sync += [amount.eq(Mux(room < -_GUARD_BITS, 0, room + _GUARD_BITS)), exponent_2.eq(0)]
        with m.Else():
            m.d.sync += [amount.eq(zeros + _GUARD_BITS), exponent_2.eq(Mux(magnitude.any(), room - zeros, 0))]

        # 3: align.
        aligned = Signal(width + _GUARD_BITS, reset_less=True)
        exponent_3 = Signal.like(exponent_2, reset_less=True)
        m.d.sync += [aligned.eq(magnitude_2 << amount), exponent_3.eq(exponent_2)]
        for stage in range(2):
            m.d.sync += [signs[stage + 1].eq(signs[stage]), flags[stage + 1].eq(flags[stage])]

        # 4: round and pack.
        last = flags[2]
        rounded = round_magnitude(m, exponent_3, aligned[-24:], aligned[-25], aligned[:-25].any())
        nan = last.nan | (last.pinf & last.ninf)
        infinite = last.pinf | last.ninf
        result = Signal(32, reset_less=True)
        sign = Mux(infinite, last.ninf, signs[2])
        m.d.sync += result.eq(select_special(rounded, sign, nan=nan, infinite=infinite))
        m.d.comb += self.result.eq(result)
        return m
