"""The unpacked operand of the multiplier: FP32 values with a normalised significand and a wide exponent."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from . import latency
from .pack import count_leading_zeros

Unpacked = data.StructLayout({
    "sign": 1, "exponent": signed(12), "significand": 24, "is_zero": 1, "is_inf": 1, "is_nan": 1})
"""``(-1)**sign * significand * 2**(exponent - 23)``; the significand has its top bit set.

If one of the three class bits is set, it decides and exponent and significand mean nothing. The exponent may
lie outside the range of FP32.
"""


class UnpackFp32(wiring.Component):
    """FP32 `value` (32) to `unpacked` (Unpacked); subnormals are normalised. LATENCY 1, one value per
    cycle."""

    LATENCY = latency.UNPACK_FP32

    value: Signal
    unpacked: data.View

    def __init__(self) -> None:
        super().__init__({"value": In(32), "unpacked": Out(Unpacked)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fraction, field = self.value[:23], self.value[23:31]
        significand = Signal(24)
        zeros = Signal(range(24))
        unpacked = Signal(Unpacked, reset_less=True)
        m.d.comb += [
            significand.eq(Cat(fraction, field.any())),
            zeros.eq(count_leading_zeros(m, significand)),
        ]
        m.d.sync += [
            unpacked.sign.eq(self.value[31]),
            unpacked.exponent.eq(Mux(field.any(), field, 1) - 127 - zeros),
            unpacked.significand.eq(significand << zeros),
            unpacked.is_zero.eq(~self.value[:31].any()),
            unpacked.is_inf.eq(field.all() & ~fraction.any()),
            unpacked.is_nan.eq(field.all() & fraction.any()),
        ]
        m.d.comb += self.unpacked.eq(unpacked)
        return m
