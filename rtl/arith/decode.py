"""Decoder for element codes; the formats' constants and sources are in `rtl/spec/formats.py`."""

from amaranth.hdl import Cat, Const, Value

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
