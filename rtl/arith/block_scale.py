"""The power-of-two scale of a block, from the FP32 word of its largest magnitude."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from ..spec.formats import FP32_INF, FP32_NAN, FormatSpec
from ..spec.isa import Quant, Scale, ScaleRule
from ..spec.tensor_formats import QUANT_FORMATS

FP32_MIN_NORMAL_WORD = 0x00800000
"""2**-126: the smallest FP32 block scale."""

E8M0_MIN_WORD = 0x00400000
"""2**-127, a subnormal in FP32: the smallest E8M0 block scale."""


def _fp32_fraction(spec: FormatSpec) -> int:
    """FP32 mantissa field of the largest finite value of an element format."""
    return int((spec.max_finite / 2.0**spec.emax - 1) * (1 << 23))


def scale_field(m: Module, magnitude: Value, quant: Value, rule: Value, *, built: tuple[Quant, ...], name: str
                ) -> Value:
    """Exponent field (biased by 127) of a power-of-two scale, signed and not limited below; combinational.

    magnitude: 31 bits of an FP32 word, whose NaNs and infinities give no meaning. quant, rule: `isa.Quant` among
    ``built`` and `isa.ScaleRule`. For `Quant.BLOCK128` the scale amax / 448 rounded down to a power of two.
    """
    fraction, field = magnitude[:23], magnitude[23:31]
    emax = Signal(range(16), name=f"{name}_emax")
    bump = Signal(signed(2), name=f"{name}_bump")
    with m.Switch(quant):
        for kind in built:
            fmt = QUANT_FORMATS[kind]
            spec = fmt.element
            with m.Case(kind):
                m.d.comb += emax.eq(spec.emax)
                if fmt.scale == Scale.FP32:
                    m.d.comb += bump.eq(-(fraction < _fp32_fraction(spec)))
                else:
                    even = (1 << 23) - (1 << 22 - spec.mantissa_bits)
                    m.d.comb += bump.eq(Mux(rule == ScaleRule.RCEIL, fraction > _fp32_fraction(spec),
                                            (rule == ScaleRule.EVEN) & (fraction >= even)))
    result = Signal(signed(10), name=f"{name}_field")
    m.d.comb += result.eq(field - emax + bump)
    return result


def anchor_word(m: Module, word: Value, quant: Value, rule: Value, *, built: tuple[Quant, ...]) -> Value:
    """FP32 word of the anchor that a row with this largest magnitude gets (`isa.Func.ANCHOR`); combinational.

    The sign does not matter. At least 2**-127, or 2**-126 for `Quant.BLOCK128`; NaN for a NaN or an infinity.
    """
    field = scale_field(m, word[:31], quant, rule, built=built, name="anchor")
    lowest = Mux(quant == Quant.BLOCK128, FP32_MIN_NORMAL_WORD, E8M0_MIN_WORD)
    finite = Mux(field > 0, Cat(Const(0, 23), field[:8]), lowest)
    result = Signal(32, name="anchor_word")
    m.d.comb += result.eq(Mux(word[:31] >= FP32_INF, FP32_NAN, finite))
    return result
