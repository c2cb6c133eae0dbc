"""Decoder for element codes; the formats' constants and sources are in `rtl/spec/formats.py`."""

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import FormatSpec


class DecodedElement:
    """Expressions for the fields of a code: value = (-1)**sign * significand * 2**(shift + lsb_exponent).

    nan and infinite are constant 0 in formats without them. The significand and shift of such a code are what
    its bits say; users must look at nan and infinite.
    """

    def __init__(self, code: Value, spec: FormatSpec) -> None:
        low = spec.mantissa_bits
        mantissa, exponent = code[:low], code[low:low + spec.exponent_bits]
        normal = exponent.any()
        self.sign: Value = code[spec.bits - 1]
        self.significand: Value = Cat(mantissa, normal)
        self.shift: Value = (exponent - normal)[:spec.max_shift.bit_length()]
        self.nan: Value = Const(0, 1)
        self.infinite: Value = Const(0, 1)
        if spec.has_infinity:
            self.nan = exponent.all() & mantissa.any()
            self.infinite = exponent.all() & ~mantissa.any()
        elif spec.nan_codes:
            self.nan = code[:spec.bits - 1].all()


class DecodeElement(wiring.Component):
    """Combinational decoder of one format: ``code`` to the fields of `DecodedElement`."""

    LATENCY = 0

    code: Signal
    sign: Signal
    significand: Signal
    shift: Signal
    nan: Signal
    infinite: Signal

    def __init__(self, spec: FormatSpec) -> None:
        self.spec = spec
        super().__init__({
            "code": In(spec.bits), "sign": Out(1), "significand": Out(spec.significand_bits),
            "shift": Out(spec.max_shift.bit_length()), "nan": Out(1), "infinite": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        decoded = DecodedElement(self.code, self.spec)
        m.d.comb += [
            getattr(self, name).eq(getattr(decoded, name))
            for name in ("sign", "significand", "shift", "nan", "infinite")]
        return m
