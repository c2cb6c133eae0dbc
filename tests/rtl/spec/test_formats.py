"""Operand formats against two outside oracles."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.rtl.spec.element_values import (
    decode,
    decode_e4m3,
    decode_e4m3_float,
    decode_float,
    infinite_codes,
    integers_of,
)
from tilescore.rtl.spec.formats import (
    E2M1,
    E4M3,
    E4M3_MAX_CODE,
    E4M3_NAN_CODE,
    E5M2,
    PAIRS,
    PRODUCT_LSB_EXPONENT,
    FormatSpec,
    exact_elements,
    headroom,
    result_lsb,
)
from tilescore.rtl.spec.isa import Pair, Scale

CODES = np.arange(256, dtype=np.uint8)


def spec(**changes: object) -> FormatSpec:
    e5m2 = {"name": "e5m2", "exponent_bits": 5, "mantissa_bits": 2, "bias": 15, "signed": True,
            "max_finite": 57344.0, "lsb_exponent": -16, "emax": 15, "has_infinity": True,
            "nan_codes": (0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF)}  # fmt: skip
    return FormatSpec(**(e5m2 | changes))  # type: ignore[arg-type]


def test_the_descriptor_covers_the_formats_to_come() -> None:
    assert (spec().bits, spec().significand_bits, spec().max_shift) == (8, 3, 30)
    e2m1 = spec(name="e2m1", exponent_bits=2, mantissa_bits=1, bias=1, max_finite=6.0, nan_codes=())
    assert (e2m1.bits, e2m1.significand_bits, e2m1.max_shift) == (4, 2, 2)
    e8m0 = spec(name="e8m0", exponent_bits=8, mantissa_bits=0, signed=False, nan_codes=(0xFF,))
    assert (e8m0.bits, e8m0.significand_bits) == (8, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exponent_bits": 0}, "exponent_bits >= 1"),
        ({"mantissa_bits": -1}, "mantissa_bits >= 0"),
        ({"mantissa_bits": 3}, "1 to 8 bits, got 9"),
        ({"nan_codes": (0x100,)}, "NaN codes below 256, got 0x100"),
        ({"nan_codes": (-1,)}, "NaN codes below 256"),
    ],
)
def test_a_contradictory_descriptor_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(**changes)


def test_descriptor_of_e4m3_agrees_with_its_values() -> None:
    values = decode_e4m3_float(CODES)
    finite = values[~np.isnan(values)]
    assert finite.max() == E4M3.max_finite == decode_e4m3_float(np.array([E4M3_MAX_CODE], np.uint8))[0]
    assert np.abs(finite[finite != 0]).min() == 2.0**E4M3.lsb_exponent
    assert np.floor(np.log2(finite.max())) == E4M3.emax
    assert CODES[np.isnan(values)].tolist() == list(E4M3.nan_codes)
    assert E4M3_NAN_CODE in E4M3.nan_codes
    assert PRODUCT_LSB_EXPONENT == -18
    assert (E4M3.bits, E4M3.significand_bits, E4M3.max_shift, E4M3.bias) == (8, 4, 14, 7)


def test_fields_compose_to_the_value() -> None:
    sign, significand, shift, nan = decode_e4m3(CODES)
    composed = np.where(sign, -1.0, 1.0) * np.ldexp(significand.astype(float), shift.astype(int) - 9)
    value = decode_e4m3_float(CODES)
    assert (composed == value)[~nan].all()
    assert (np.isnan(value) == nan).all()
    assert (shift.max(), significand.max()) == (14, 15)


def test_all_codes_against_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="an outside oracle of E4M3")
    expected = CODES.view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert np.array_equal(decode_e4m3_float(CODES), expected, equal_nan=True)
    assert (np.signbit(decode_e4m3_float(CODES)) == np.signbit(expected))[~np.isnan(expected)].all()


def test_all_codes_against_gfloat() -> None:
    gfloat = pytest.importorskip("gfloat", reason="an outside oracle of E4M3")
    formats = pytest.importorskip("gfloat.formats")
    expected = [gfloat.decode_float(formats.format_info_ocp_e4m3, int(code)).fval for code in CODES]
    assert np.array_equal(decode_e4m3_float(CODES), expected, equal_nan=True)


@pytest.mark.parametrize(("spec_", "dtype", "info"), [
    (E5M2, "float8_e5m2", "format_info_ocp_e5m2"), (E2M1, "float4_e2m1fn", "format_info_ocp_e2m1")])
def test_all_codes_of_the_other_formats(spec_: FormatSpec, dtype: str, info: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="an outside oracle of the formats")
    gfloat = pytest.importorskip("gfloat", reason="an outside oracle of the formats")
    formats = pytest.importorskip("gfloat.formats")
    codes = np.arange(2**spec_.bits, dtype=np.uint8)
    values = decode_float(codes, spec_)
    assert np.array_equal(values, codes.view(getattr(ml_dtypes, dtype)).astype(np.float64), equal_nan=True)
    assert np.array_equal(values, [gfloat.decode_float(getattr(formats, info), c).fval for c in codes.tolist()],
                          equal_nan=True)
    finite = np.isfinite(values)
    assert values[finite].max() == spec_.max_finite == spec_.max_integer * 2.0**spec_.lsb_exponent
    assert (integers_of(spec_)[finite] == values[finite] * 2.0**-spec_.lsb_exponent).all()
    assert not integers_of(spec_)[~finite].any()
    assert (infinite_codes(spec_) == np.isinf(values)).all()
    assert decode(codes, spec_)[2][finite].max() == spec_.max_finite_shift


@pytest.mark.parametrize(("pair", "lsb", "product", "sum16", "sum32", "sum128"), [
    (Pair.E4M3, -18, 37, 41, 42, 44), (Pair.E5M2, -32, 65, 69, 70, 72), (Pair.E4M3_E5M2, -25, 51, 55, 56, 58),
    (Pair.E5M2_E4M3, -25, 51, 55, 56, 58), (Pair.E2M1, -2, 9, 13, 14, 16), (Pair.E4M3_E2M1, -10, 23, 27, 28, 30)])
def test_widths_of_products_and_sums(pair: Pair, lsb: int, product: int, sum16: int, sum32: int, sum128: int) -> None:
    """Each is enough for the largest sum, and one bit less is not."""
    spec_ = PAIRS[pair]
    assert (spec_.lsb_exponent, spec_.product_bits) == (lsb, product)
    for elements, bits in ((1, product), (16, sum16), (32, sum32), (128, sum128)):
        assert spec_.sum_bits(elements) == bits
        assert 1 << (bits - 2) < elements * spec_.max_product < 1 << (bits - 1)


@pytest.mark.parametrize(("pair", "elements", "magnitude"), [
    (Pair.E4M3, 32, 41), (Pair.E4M3, 128, 43), (Pair.E5M2, 32, 69), (Pair.E4M3_E5M2, 32, 55), (Pair.E2M1, 32, 13),
    (Pair.E4M3_E2M1, 32, 27)])
def test_headroom_leaves_room_for_every_block(pair: Pair, elements: int, magnitude: int) -> None:
    for blocks in (1, 2, 3, 128):
        room = headroom(pair, Scale.E8M0, elements, blocks, 96)
        assert room == 96 - magnitude - int(np.ceil(np.log2(blocks))) - 1
        assert blocks * elements * PAIRS[pair].max_product << room < 1 << 95


def test_headroom_of_fp32_scales_counts_their_product() -> None:
    """Two scales below 2 make a factor below 4."""
    room = headroom(Pair.E4M3, Scale.FP32, 128, 64, 64)
    assert room == headroom(Pair.E4M3, Scale.E8M0, 128, 64, 64) - 2
    assert 64 * 128 * PAIRS[Pair.E4M3].max_product * 4 << room < 1 << 63
    assert headroom(Pair.E2M1, Scale.E4M3, 16, 1 << 12, 64) == 0


def test_too_narrow_an_accumulator_is_named() -> None:
    with pytest.raises(ValueError, match="2048 blocks of 32 e5m2 products with E8M0 scales need 81 accumulator bits"):
        headroom(Pair.E5M2, Scale.E8M0, 32, 2048, 80)
    with pytest.raises(ValueError, match="scale must be NONE or E4M3, not E8M0"):
        exact_elements(Pair.E4M3, Scale.E8M0, 64)


def test_the_lowest_bit_of_a_result() -> None:
    assert result_lsb(Pair.E4M3, Scale.NONE, 0, 0, 0) == -18
    assert result_lsb(Pair.E2M1, Scale.E4M3, 1, 1, 0) == -20
    assert result_lsb(Pair.E4M3_E2M1, Scale.E4M3, 0, 1, 0) == -19
    assert result_lsb(Pair.E4M3, Scale.E8M0, 1, 1, 11) == -29


def test_shape_is_kept() -> None:
    codes = CODES.reshape(4, 8, 8)
    assert decode_e4m3_float(codes).shape == (4, 8, 8)
    assert all(field.shape == (4, 8, 8) for field in decode_e4m3(codes))


@pytest.mark.parametrize(
    "codes", [np.zeros(3, np.int64), np.zeros(3, np.float32), [1, 2], np.zeros(2, np.int8)]
)
def test_codes_are_bytes(codes: object) -> None:
    with pytest.raises(TypeError, match="must be an array of uint8"):
        decode_e4m3(codes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be an array of uint8"):
        decode_e4m3_float(codes)  # type: ignore[arg-type]
