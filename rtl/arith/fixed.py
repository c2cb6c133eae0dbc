"""FP32 to 48-bit fixed point and back: sums on this grid do not depend on their order.

A softmax row sum adds values in [0, 1]; on a grid of 2**-24, 48 bits hold 2**23 of them exactly.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from . import latency
from .round_fp32 import RoundToFp32

FIXED_BITS = 48
FIXED_FRACTION_BITS = 24

_ROUND_BITS = 25
"""Bits below the grid that are kept: a value so small that it leaves none of them rounds to zero."""


class Fp32ToFixed(wiring.Component):
    """FP32 `value` (32) to `fixed` (signed(48)) in units of 2**-24, nearest even; `nan` (1) is set for NaN
    and infinity.

    A value of magnitude 2**23 or more wraps: the low 48 bits of the exact integer. NaN and infinity give 0.
    LATENCY 2, one value per cycle.
    """

    LATENCY = latency.FP32_TO_FIXED

    value: Signal
    fixed: Signal
    nan: Signal

    def __init__(self) -> None:
        super().__init__({"value": In(32), "fixed": Out(signed(FIXED_BITS)), "nan": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        field = self.value[23:31]

        # 1: align. At field 126 the significand's own units are those of the grid.
        limit = FIXED_BITS + _ROUND_BITS
        scale = Signal(signed(10))
        amount = Signal(range(limit + 1))
        aligned = Signal(limit, reset_less=True)
        sign = Signal(reset_less=True)
        special = Signal(reset_less=True)
        m.d.comb += [
            scale.eq(Mux(field.any(), field, 1) - (126 - _ROUND_BITS)),
            amount.eq(Mux(scale < 0, 0, Mux(scale > limit, limit, scale))),
        ]
        m.d.sync += [
            aligned.eq(Cat(self.value[:23], field.any()) << amount),
            sign.eq(self.value[31]),
            special.eq(field.all()),
        ]

        # 2: round and negate in one addition: -(x + r) = ~x + (1 - r).
        magnitude = aligned[_ROUND_BITS:]
        increment = aligned[_ROUND_BITS - 1] & (aligned[:_ROUND_BITS - 1].any() | magnitude[0])
        fixed = Signal(signed(FIXED_BITS), reset_less=True)
        nan = Signal(reset_less=True)
        rounded = (magnitude ^ sign.replicate(FIXED_BITS)) + (increment ^ sign)
        m.d.sync += [fixed.eq(Mux(special, 0, rounded)), nan.eq(special)]
        m.d.comb += [self.fixed.eq(fixed), self.nan.eq(nan)]
        return m


class FixedToFp32(wiring.Component):
    """`fixed` (signed(48), units of 2**-24) to FP32 `result` (32), rounded once; `nan` (1) gives 0x7FC00000.

    LATENCY 4, one value per cycle.
    """

    LATENCY = latency.FIXED_TO_FP32

    fixed: Signal
    nan: Signal
    result: Signal

    def __init__(self) -> None:
        super().__init__({"fixed": In(signed(FIXED_BITS)), "nan": In(1), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rounder = rounder = RoundToFp32(width=FIXED_BITS)
        m.d.comb += [
            rounder.value.eq(self.fixed),
            rounder.lsb.eq(Const(-FIXED_FRACTION_BITS, signed(10))),
            rounder.flags.nan.eq(self.nan),
            self.result.eq(rounder.result),
        ]
        return m
