"""FP32 to E4M3 or E5M2: align | round and saturate."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import E4M3, E4M3_NAN_CODE, FP32_INF, FormatSpec
from . import latency


class QuantizeFp8(wiring.Component):
    """FP32 `value` (32) to the nearest `code` (8) of an 8-bit format, ties to even, saturating.

    Beyond the largest finite value, infinities included, the code is that of this value; the sign of zero is kept; NaN
    gives 0x7F. LATENCY 2, one value per cycle. Parameters: ``spec``, `formats.E4M3` or `formats.E5M2`.
    """

    LATENCY = latency.QUANTIZE_FP8

    value: Signal
    code: Signal

    def __init__(self, spec: FormatSpec) -> None:
        if spec.bits != 8:
            raise ValueError(f"spec must be a format of 8 bits, not {spec.name}")
        self.spec = spec
        super().__init__({"value": In(32), "code": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        field, spec = self.value[23:31], self.spec
        bits = spec.mantissa_bits
        smallest = 127 + spec.lsb_exponent + bits  # FP32 field of the smallest normal value
        top = spec.emax - spec.lsb_exponent - bits + 1  # exponent field of the largest finite value
        max_code = top << bits | int((spec.max_finite / 2.0**spec.emax - 1) * (1 << bits))

        # 1: 23 - mantissa_bits fraction bits go for a normal result, up to mantissa_bits + 2 more for a
        # subnormal one.
        most = bits + 2
        drop = Signal(range(most + 1))
        aligned = Signal(24 + most)
        exponent = Signal(5, reset_less=True)
        quotient = Signal(bits + 1, reset_less=True)
        guard = Signal(reset_less=True)
        sticky = Signal(reset_less=True)
        sign = Signal(reset_less=True)
        saturate = Signal(reset_less=True)
        nan = Signal(reset_less=True)
        above = Signal(signed(9))  # exponent field of the result minus 1, if not negative
        below = 23 - bits + most  # position of the result's last bit
        m.d.comb += [
            above.eq(field - smallest),
            drop.eq(Mux(above >= 0, 0, Mux(above < -most, most, -above))),
            aligned.eq((Cat(self.value[:23], field.any()) << most) >> drop),
        ]
        m.d.sync += [
            exponent.eq(Mux(above >= 0, above, 0)),
            quotient.eq(aligned[below:]),
            guard.eq(aligned[below - 1]),
            sticky.eq(aligned[:below - 1].any()),
            sign.eq(self.value[31]),
            saturate.eq(above > top - 1),
            nan.eq(self.value[:31] > FP32_INF),
        ]

        # 2: round; the leading bit of the quotient adds 1 to the exponent field.
        rounded = Signal(8)
        code = Signal(8, reset_less=True)
        m.d.comb += rounded.eq((exponent << bits) + quotient + (guard & (sticky | quotient[0])))
        with m.If(nan):
            m.d.sync += code.eq(E4M3_NAN_CODE)
        with m.Elif(saturate | (rounded > max_code)):
            m.d.sync += code.eq(Cat(Const(max_code, 7), sign))
        with m.Else():
            m.d.sync += code.eq(Cat(rounded[:7], sign))
        m.d.comb += self.code.eq(code)
        return m


class QuantizeE4M3(QuantizeFp8):
    """`QuantizeFp8` for E4M3: +-448 and beyond give 0x7E."""

    def __init__(self) -> None:
        super().__init__(E4M3)
