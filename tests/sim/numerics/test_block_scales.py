"""Block scales: rules by their definitions in real arithmetic, conversion of stored scales."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tilescore.rtl.spec.formats import E2M1, E4M3, E5M2
from tilescore.rtl.spec.isa import Quant, Scale, ScaleRule
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.numerics.block_scales import (
    anchor_exponent,
    block_amax,
    e8m0_from_deltas,
    e8m0_to_deltas,
    fp32_to_relative,
    scale_exponent,
    scale_values,
)


def log2_floor(value: Fraction) -> int:
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    while Fraction(2) ** exponent > value:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= value:
        exponent += 1
    return exponent


def exponent_by_definition(amax: Fraction, element, rule: ScaleRule) -> int:
    if amax == 0:
        return -127
    if rule == ScaleRule.RCEIL:
        quotient = amax / Fraction(element.max_finite)
        exponent = log2_floor(quotient)
        return max(exponent + (quotient > Fraction(2) ** exponent), -127)
    exponent = log2_floor(amax)
    if rule == ScaleRule.EVEN:
        ulp = Fraction(2) ** (exponent - element.mantissa_bits)
        exponent = log2_floor(round(amax / ulp) * ulp)  # Python rounds halves to even
    return max(exponent - element.emax, -127)


@pytest.mark.parametrize("rule", list(ScaleRule), ids=lambda rule: rule.name.lower())
@pytest.mark.parametrize("element", [E4M3, E5M2, E2M1], ids=lambda element: element.name)
def test_scale_rules_by_their_definition(element, rule, rng):
    boundaries = [int(np.float32(m).view(np.uint32)) + d for m in (1.0, 1.5, 1.75, 1.875, 1.9375) for d in (-1, 0, 1)]
    words = np.array([0, 1, 2, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, *boundaries,
                      *(b - (60 << 23) for b in boundaries), *rng.integers(0, 0x7F800000, 200)], np.uint32)
    found = scale_exponent(words, element, rule)
    expected = [exponent_by_definition(Fraction(float(v)), element, rule) for v in words.view(np.float32)]
    assert found.tolist() == expected


def test_anchor_of_fp32_scales_is_the_scale_rounded_down(rng):
    fmt = QUANT_FORMATS[Quant.BLOCK128]
    amax = np.concatenate([rng.integers(0, 0x7F800000, 500, dtype=np.uint32),
                           (np.float32(448) * np.exp2(np.arange(-20, 20, dtype=np.float32))).view(np.uint32)])
    for delta in (-1, 0, 1):
        bits = (amax.astype(np.int64) + delta).clip(0).astype(np.uint32)
        scale = np.maximum(bits.view(np.float32) / np.float32(448), np.float32(2.0**-126))
        assert anchor_exponent(bits, fmt, ScaleRule.FLOOR).tolist() == [math.frexp(s)[1] - 1 for s in scale.tolist()]


def test_amax_sees_signs_and_special_values():
    x = np.zeros((4, 24), np.float32)
    x[0, 3], x[1, 23], x[2, 7], x[3, 0] = -5.0, 2.0**-149, -np.inf, np.nan
    amax = block_amax(x)
    assert amax[:2].view(np.float32).tolist() == [5.0, 2.0**-149]
    assert amax[2] == 0x7F800000 and amax[3] > 0x7F800000


def test_e8m0_conversion_is_lossless(rng):
    codes = rng.integers(0, 256, (300, 9), dtype=np.uint8)
    codes[0], codes[1, :] = 255, 0
    codes[2], codes[2, 3] = 0, 254
    anchors, deltas = e8m0_to_deltas(codes)
    np.testing.assert_array_equal(e8m0_from_deltas(anchors, deltas), codes)
    assert deltas[2].tolist() == [254] * 3 + [0] + [254] * 5
    assert anchors[:2].tolist() == [2.0**-127] * 2
    assert ((deltas == 255) == (codes == 255)).all()
    values = scale_values(deltas, QUANT_FORMATS[Quant.MXFP8]) * anchors.astype(np.float64)[:, None]
    np.testing.assert_array_equal(values, np.where(codes == 255, np.nan, np.exp2(codes.astype(np.float64) - 127)))


def test_e8m0_conversion_rejects_what_it_cannot_mean():
    with pytest.raises(ValueError, match="expected powers of two"):
        e8m0_from_deltas(np.array([3.0], np.float32), np.zeros((1, 2), np.uint8))
    with pytest.raises(ValueError, match="below 2"):
        e8m0_from_deltas(np.array([2.0**-120], np.float32), np.full((1, 2), 8, np.uint8))
    with pytest.raises(ValueError, match=r"\(rows, blocks\) uint8, got int64"):
        e8m0_to_deltas(np.zeros((1, 2), np.int64))


def test_fp32_scales_are_relative_to_the_largest(rng):
    scales = np.exp2(rng.uniform(-60, 60, (50, 7))).astype(np.float32)
    scales[0, 2], scales[1] = np.nan, 0
    anchors, stored = fp32_to_relative(scales)
    relative = scale_values(stored, QUANT_FORMATS[Quant.BLOCK128])
    np.testing.assert_array_equal(relative * anchors[:, None], scales)
    top = np.nanmax(relative[2:], axis=1)
    assert ((top >= 1) & (top < 2)).all()
    with pytest.raises(ValueError, match="no negative block scale"):
        fp32_to_relative(np.array([[-1.0]], np.float32))


def test_every_quantizer_of_the_instruction_has_a_format():
    assert set(QUANT_FORMATS) == set(Quant)
    assert {f.scale for f in QUANT_FORMATS.values() if not f.block} == {Scale.NONE}
