"""Casts to element formats: exhaustive tables against ml_dtypes and gfloat, random values against ml_dtypes."""

import numpy as np
import pytest

from tilescore.rtl.spec.formats import ELEMENTS
from tilescore.sim.numerics import arithmetic
from tilescore.sim.numerics.element_codes import cast, code_values, decode, max_code, pack, unpack

ML_NAMES = {"e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2", "e2m1": "float4_e2m1fn"}
GFLOAT_NAMES = {"e4m3": "format_info_ocp_e4m3", "e5m2": "format_info_ocp_e5m2", "e2m1": "format_info_ocp_e2m1"}
BY_NAME = {spec.name: spec for spec in ELEMENTS}
INFINITE = np.array([np.inf, -np.inf], np.float32)


def ml_dtype(element: str):
    return np.dtype(getattr(pytest.importorskip("ml_dtypes", reason="ml_dtypes: extra test"), ML_NAMES[element]))


def random_floats(rng: np.random.Generator, count: int) -> np.ndarray:
    """A third anything, two thirds within the range of the elements, some of them at ties."""
    words = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    near = (words & 0x807FFFFF) | (rng.integers(105, 146, count).astype(np.uint32) << 23)
    ties = near & np.uint32(0xFFF00000) | np.uint32(1 << 19)
    values = np.select([words % 3 == 0, words % 3 == 1], [words, near], ties).astype(np.uint32).view(np.float32)
    return values[np.isfinite(values)]


def test_an_element_has_a_name():
    with pytest.raises(KeyError):
        cast(np.ones(3, np.float32), "e3m4")


def test_only_float32_is_cast():
    with pytest.raises(TypeError, match="expected an array of float32, not float64"):
        cast(np.ones(3), "e4m3")
    with pytest.raises(TypeError, match="expected codes of uint8, not int64"):
        decode(np.arange(3), "e4m3")


@pytest.mark.parametrize("element", BY_NAME)
def test_every_code_against_ml_dtypes(element):
    codes = np.arange(1 << BY_NAME[element].bits, dtype=np.uint8)
    expected = codes.view(ml_dtype(element)).astype(np.float32)
    np.testing.assert_array_equal(code_values(element), expected)
    assert (np.signbit(code_values(element)) == np.signbit(expected))[~np.isnan(expected)].all()


@pytest.mark.parametrize("element", BY_NAME)
def test_every_code_against_gfloat(element):
    formats = pytest.importorskip("gfloat.formats", reason="gfloat: extra test")
    gfloat = pytest.importorskip("gfloat")
    spec = getattr(formats, GFLOAT_NAMES[element])
    expected = [gfloat.decode_float(spec, code).fval for code in range(1 << BY_NAME[element].bits)]
    np.testing.assert_array_equal(code_values(element), np.array(expected, np.float32))


@pytest.mark.parametrize("element", BY_NAME)
def test_a_cast_is_the_nearest_code_and_saturates(element, rng):
    dtype, limit = ml_dtype(element), np.float32(BY_NAME[element].max_finite)
    values = random_floats(rng, 300_000)
    expected = np.clip(values, -limit, limit).astype(dtype).view(np.uint8)
    np.testing.assert_array_equal(cast(values, element), expected)


@pytest.mark.parametrize("element", BY_NAME)
def test_special_values(element):
    bits, largest = BY_NAME[element].bits, max_code(BY_NAME[element])
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1e-40, -1e-40], np.float32)
    sign, nan = 1 << bits - 1, 0 if element == "e2m1" else 0x7F
    assert cast(values, element).tolist() == [0, sign, largest, sign | largest, nan, nan, 0, sign]


def test_e4m3_equals_the_twin_of_the_hardware(rng):
    values = random_floats(rng, 100_000)
    np.testing.assert_array_equal(cast(values, "e4m3"), arithmetic.quantize_e4m3(values))


@pytest.mark.parametrize("element", BY_NAME)
def test_codes_are_fixed_points_of_the_cast(element):
    codes = np.arange(1 << BY_NAME[element].bits, dtype=np.uint8)
    finite = np.isfinite(decode(codes, element))
    np.testing.assert_array_equal(cast(decode(codes, element), element)[finite], codes[finite])


def test_the_even_code_is_in_the_low_nibble(rng):
    codes = rng.integers(0, 16, (5, 6), dtype=np.uint8)
    packed = pack(codes, "e2m1")
    assert packed.shape == (5, 3)
    assert packed[2, 1] == codes[2, 2] | codes[2, 3] << 4
    np.testing.assert_array_equal(unpack(packed, "e2m1"), codes)
    assert pack(codes, "e4m3") is codes
    with pytest.raises(ValueError, match="even number of e2m1 codes per row, got 5"):
        pack(codes[:, :5], "e2m1")
