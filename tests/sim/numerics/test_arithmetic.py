"""The numpy arithmetic against outside oracles: exhaustive over bf16 for the functions, a million samples
elsewhere.

That it equals the hardware is tested in tests/rtl/arith/.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.function_codes import Function
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.arith.streams import all_bf16, hard_fp32, hard_fp32_pairs, quantizer_fp32

MILLION = 1_000_000
NAN = 0x7FC00000
F32 = NDArray[np.float32]


def words(values: F32) -> NDArray[np.uint32]:
    return np.ascontiguousarray(values).view(np.uint32)


def oracle_words(values: F32) -> NDArray[np.uint32]:
    return np.where(np.isnan(values), np.uint32(NAN), words(values))


# ---- FP32 ------------------------------------------


def test_add_and_multiply_round_once_and_make_one_nan(rng: np.random.Generator) -> None:
    a, b = (operand.view(np.float32) for operand in hard_fp32_pairs(rng, MILLION))
    with np.errstate(all="ignore"):
        assert (words(arithmetic.fp32_mul(a, b)) == oracle_words(a * b)).all()
        assert (words(arithmetic.fp32_add(a, b)) == oracle_words(a + b)).all()


def exact(value: np.float32) -> Fraction:
    return Fraction(float(value))


def nearest_even(value: Fraction) -> int:
    """FP32 word of a positive rational, by integers alone."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length()
    exponent -= value < Fraction(2) ** exponent
    unit = max(exponent - 23, -149)
    return min(round(value / Fraction(2) ** unit) + (unit + 149 << 23), 0x7F800000)


def test_add_and_multiply_against_rationals(rng: np.random.Generator) -> None:
    """numpy's own float32 operations, on which all else rests, do gradual underflow and ties to even here."""
    a, b = (operand.view(np.float32) for operand in hard_fp32_pairs(rng, 6000))
    finite = np.isfinite(a) & np.isfinite(b)
    for function, operator in ((arithmetic.fp32_add, Fraction.__add__), (arithmetic.fp32_mul, Fraction.__mul__)):
        for x, y, got in zip(a[finite], b[finite], words(function(a, b))[finite], strict=True):
            result = operator(exact(x), exact(y))
            if result == 0:
                assert got & 0x7FFFFFFF == 0
            else:
                assert got == nearest_even(abs(result)) | (result < 0) << 31, (x, y)


def test_maximum_orders_zeros_and_prefers_nan(rng: np.random.Generator) -> None:
    a, b = (operand.view(np.float32) for operand in hard_fp32_pairs(rng, MILLION))
    got = arithmetic.fp32_max(a, b)
    with np.errstate(all="ignore"):
        assert np.array_equal(got, np.maximum(a, b), equal_nan=True)
    assert (words(got)[np.isnan(got)] == NAN).all()
    zeros = arithmetic.fp32_max(np.float32([0, -0.0, -0.0]), np.float32([-0.0, 0, -0.0]))
    assert np.signbit(zeros).tolist() == [False, False, True]


def test_operations_broadcast() -> None:
    column, row = np.ones((3, 1), np.float32), np.arange(4, dtype=np.float32)
    for operation in (arithmetic.fp32_mul, arithmetic.fp32_add, arithmetic.fp32_max, arithmetic.mul_unpacked):
        assert operation(column, row).shape == (3, 4)
        assert operation(column, row).dtype == np.float32


def test_scalars_stay_scalars() -> None:
    one = np.float32(1)
    for operation in (arithmetic.fp32_mul, arithmetic.fp32_add, arithmetic.fp32_max, arithmetic.mul_unpacked):
        assert np.shape(operation(one, one)) == ()
    for operation in (arithmetic.quantize_e4m3, arithmetic.to_fixed, arithmetic.not_finite, arithmetic.fp32_bits):
        assert np.shape(operation(one)) == ()
    assert [float(arithmetic.special_function(f, one)) for f in Function][:3] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize("operation", [arithmetic.fp32_mul, arithmetic.fp32_add, arithmetic.fp32_max])
def test_operands_are_float32(operation) -> None:
    with pytest.raises(TypeError, match="expected an array of float32, not float64"):
        operation(np.ones(2), np.ones(2, np.float32))
    with pytest.raises(TypeError, match="expected an array of float32, not float64"):
        arithmetic.quantize_e4m3(np.ones(2))
    with pytest.raises(TypeError, match="expected an array of float32, not float64"):
        arithmetic.special_function(Function.EXP2, np.ones(2))


# ---- E4M3 ------------------------------------------


def ml_dtypes_codes(values: F32) -> NDArray[np.uint8]:
    """Clamped before the cast, since the cast itself makes NaN of an overflow; NaN apart."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of E4M3")
    with np.errstate(all="ignore"):
        clamped = np.clip(values, np.float32(-448), np.float32(448))
        return np.where(np.isnan(values), 0x7F, clamped.astype(ml_dtypes.float8_e4m3fn).view(np.uint8))


def test_quantizer_on_millions_of_samples(rng: np.random.Generator) -> None:
    values = np.concatenate([quantizer_fp32(rng, MILLION), hard_fp32(rng, MILLION), all_bf16()]).view(
        np.float32
    )
    got, expected = arithmetic.quantize_e4m3(values), ml_dtypes_codes(values)
    assert got.dtype == np.uint8
    wrong = np.flatnonzero(got != expected)
    assert [(values[i], got[i], expected[i]) for i in wrong[:5]] == []
    codes, counts = np.unique(got, return_counts=True)
    assert set(codes) == set(range(256)) - {0xFF}
    assert counts.min() > 100


def test_quantizer_inverts_the_decoder() -> None:
    codes = np.arange(256, dtype=np.uint8)
    again = arithmetic.quantize_e4m3(decode_e4m3_float(codes).astype(np.float32))
    assert (again == np.where(codes == 0xFF, 0x7F, codes)).all()


def test_exact_matmul_against_python_integers(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (5, 37)).astype(np.uint8), rng.integers(0, 256, (7, 37)).astype(np.uint8)
    a[a & 0x7F == 0x7F] = 0x7E
    b[b & 0x7F == 0x7F] = 0xFE
    a[1, 3], b[2, 5] = 0x7F, 0xFF
    total, nan = arithmetic.exact_matmul_e4m3(a, b)
    assert total.dtype == np.int64
    for m in range(5):
        for n in range(7):
            products, product_nan = arithmetic.e4m3_products(a[m], b[n])
            assert total[m, n] == sum(int(product) for product in products)
            assert nan[m, n] == product_nan.any() == (m == 1 or n == 2)


def test_exact_matmul_of_the_largest_values_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a = np.full((1, 1000), 0x7E, np.uint8)
    whole, _ = arithmetic.exact_matmul_e4m3(a, a)
    assert whole[0, 0] == 1000 * 448 * 448 << 18
    monkeypatch.setattr(arithmetic, "_EXACT_CHUNK", 64)
    assert arithmetic.exact_matmul_e4m3(a, a)[0] == whole


def test_exact_matmul_beyond_the_mantissa_of_a_float64() -> None:
    """K = 2**18 + 1 terms of 448 * 448 and one of the smallest size: the sum needs 54 bits and its last
    bit."""
    a = np.full((1, (1 << 18) + 2), 0x7E, np.uint8)
    a[0, -1] = 0x01
    total, _ = arithmetic.exact_matmul_e4m3(a, a)
    assert total[0, 0] == ((1 << 18) + 1) * (448 * 448 << 18) + 1


def test_exact_matmul_does_not_depend_on_order(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (4, 300)).astype(np.uint8), rng.integers(0, 256, (4, 300)).astype(np.uint8)
    order = rng.permutation(300)
    whole = arithmetic.exact_matmul_e4m3(a, b)
    shuffled = arithmetic.exact_matmul_e4m3(a[:, order], b[:, order])
    parts = [arithmetic.exact_matmul_e4m3(a[:, part], b[:, part]) for part in (slice(0, 113), slice(113, 300))]
    assert (whole[0] == shuffled[0]).all()
    assert (whole[1] == shuffled[1]).all()
    assert (whole[0] == parts[0][0] + parts[1][0]).all()
    assert (whole[1] == parts[0][1] | parts[1][1]).all()


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (2, 3)), ((1, 2, 3), (2, 3))])
def test_exact_matmul_names_the_shapes_it_got(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(ValueError, match=r"expected codes of shapes \(m, k\) and \(n, k\), got"):
        arithmetic.exact_matmul_e4m3(a, b)


@pytest.mark.parametrize("function", [arithmetic.e4m3_products, arithmetic.exact_matmul_e4m3])
def test_codes_are_bytes(function) -> None:
    with pytest.raises(TypeError, match="E4M3 codes must be an array of uint8, not int64"):
        function(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8))


# ---- integers and fixed point ------------------------------------------


def test_rounding_of_accumulators(rng: np.random.Generator) -> None:
    acc = rng.integers(-(1 << 63), 1 << 63, 3000) >> rng.integers(0, 64, 3000)
    acc[:3] = [-(1 << 63), (1 << 63) - 1, 0]
    for lsb in (-18, -126, -127, -150, -173, -212, -213, 60, 65, 100, -512, 511):
        got = words(arithmetic.round_acc_to_fp32(acc, lsb))
        for value, word in zip(acc[:400].tolist(), got, strict=False):
            magnitude = nearest_even(Fraction(abs(value)) * Fraction(2) ** lsb) if value else 0
            assert word == magnitude | (value < 0) << 31, (value, lsb)


@pytest.mark.parametrize("lsb", [-513, 512])
def test_rounding_takes_a_ten_bit_exponent(lsb: int) -> None:
    with pytest.raises(ValueError, match="10-bit signed exponent"):
        arithmetic.round_acc_to_fp32(np.zeros(1, np.int64), lsb)


def test_flags_override_the_accumulator() -> None:
    flags = np.arange(16)
    got = arithmetic.round_acc_to_fp32(np.full(16, 3), -18, flags)
    plain, inf = 3 * 2.0**-18, np.inf
    expected = [plain, np.nan, inf, np.nan, -inf, np.nan, np.nan, np.nan] * 2
    assert np.array_equal(got, np.float32(expected), equal_nan=True)
    assert (words(got)[np.isnan(got)] == NAN).all()
    assert np.isnan(arithmetic.round_acc_to_fp32(np.array([3, 4]), -18, np.array([False, True]))).tolist() == [
        False,
        True,
    ]


def test_fixed_point_against_exact_rounding(rng: np.random.Generator) -> None:
    values = hard_fp32(rng, 20000)
    values[5000:] = (values[5000:] & np.uint32(0x807FFFFF)) | (rng.integers(98, 178, 15000) << 23).astype(
        np.uint32
    )
    values = values.view(np.float32)
    got = arithmetic.to_fixed(values)
    for value, fixed in zip(values, got.tolist(), strict=True):
        exact_integer = round(float(value) * 2.0**24) if np.isfinite(value) else 0  # round() is to even
        assert (fixed - exact_integer) % (1 << 48) == 0
        assert -(1 << 47) <= fixed < 1 << 47
    assert (arithmetic.not_finite(values) == ~np.isfinite(values)).all()


def test_fixed_point_back_to_fp32(rng: np.random.Generator) -> None:
    fixed = rng.integers(-(1 << 47), 1 << 47, MILLION) >> rng.integers(0, 48, MILLION)
    assert (words(arithmetic.fixed_to_fp32(fixed)) == words((fixed * 2.0**-24).astype(np.float32))).all()
    assert arithmetic.fixed_to_fp32(np.int64([1 << 47])) == -(2.0**23)  # wraps
    assert np.isnan(arithmetic.fixed_to_fp32(np.int64([5]), np.array([True])))


def test_wrap() -> None:
    assert arithmetic.wrap(np.int64([127, 128, 255, 256, -129]), 8).tolist() == [127, -128, -1, 0, 127]
    assert arithmetic.wrap(np.int64([-(1 << 63)]), 64).tolist() == [-(1 << 63)]
    for bits in (0, 65):
        with pytest.raises(ValueError, match=f"bits must be in 1..64, not {bits}"):
            arithmetic.wrap(np.int64([1]), bits)


# ---- special functions ------------------------------------------


def bf16() -> F32:
    """All finite bf16 values."""
    values = all_bf16().view(np.float32)
    return values[np.isfinite(values)]


def silu(values: F32) -> NDArray[np.float64]:
    """float64 oracle without overflow: x * e**x / (1 + e**x) below zero."""
    x = values.astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(x))
        return np.where(x < 0, x * e / (1 + e), x / (1 + e))


def reference(name: str, values: F32) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        x = values.astype(np.float64)
        return {
            "exp2": lambda: np.exp2(x),
            "reciprocal": lambda: 1 / x,
            "silu": lambda: silu(values),
            "rsqrt": lambda: 1 / np.sqrt(x),
        }[name]()


def rounded(name: str, values: F32) -> F32:
    """What the vector unit writes: the function, then one multiplication."""
    function = Function.SIGMOID if name == "silu" else Function[name.upper()]
    factor = values if name == "silu" else np.ones_like(values)
    return arithmetic.mul_unpacked(arithmetic.special_function(function, values), factor)


FUNCTIONS = ["exp2", "reciprocal", "silu", "rsqrt"]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("inputs", ["all bf16", "a million fp32"])
def test_error_after_the_final_rounding(name: str, inputs: str, rng: np.random.Generator) -> None:
    """Relative error at most 2**-20 where the result is normal (2**-16 is demanded).

    A subnormal result adds half a unit of 2**-149 to 2**-21; a result above FP32 is infinite.
    """
    values = bf16()
    if inputs != "all bf16":
        values = (rng.normal(size=MILLION) * 10.0 ** rng.uniform(-3, 2, MILLION)).astype(np.float32)
    got, expected = rounded(name, values), reference(name, values)
    with np.errstate(invalid="ignore"):
        error, size = np.abs(got.astype(np.float64) - expected), np.abs(expected)
    normal, subnormal, huge = (size >= 2.0**-126) & (size < 2.0**128), size < 2.0**-126, size >= 2.0**128
    assert (error[normal] <= size[normal] * 2.0**-20).all(), values[normal][
        np.argmax(error[normal] / size[normal])
    ]
    assert (
        error[subnormal] <= 2.0**-150 + size[subnormal] * 2.0**-21
    ).all()  # half a unit, and the function's
    assert np.isinf(got[huge]).all()
    nan = np.isnan(expected)  # rsqrt below zero
    assert (np.isnan(got) == nan).all()
    assert (np.signbit(got) == np.signbit(expected))[~nan].all()
    assert normal.sum() > 30000


def test_sigmoid_keeps_its_relative_accuracy_far_below_fp32() -> None:
    values = bf16()
    values = values[(values > -350) & (values < 1000)]
    got = arithmetic.special_function(Function.SIGMOID, values)
    with np.errstate(all="ignore"):
        e = np.exp(-np.abs(values.astype(np.float64)))
    expected = np.where(values < 0, e, 1) / (1 + e)
    assert np.abs(got / expected - 1).max() <= 2.0**-20
    assert got.min() < 2.0**-500


def test_rsqrt_of_every_significand() -> None:
    """All of [1, 4), which stands for every number: a step of 2 in the exponent is exact.

    The result never grows. The bound is half a unit of 2**-23 for the rounding, and 2**-26 for the table.
    """
    first, last = 0x3F800000, 0x40800000
    before = np.inf
    for start in range(first, last, 1 << 21):
        u = arithmetic.fp32_from_bits(np.arange(start, start + (1 << 21) + 1))
        got = arithmetic.special_function(Function.RSQRT, u)
        assert np.abs(got * np.sqrt(u.astype(np.float64)) - 1).max() <= 2.0**-24 * (5 / 4)
        assert got[0] <= before
        assert (np.diff(got) <= 0).all()
        before = got[-1]
    assert before == 0.5


def test_rsqrt_of_random_words_subnormal_ones_too(rng: np.random.Generator) -> None:
    bits = rng.integers(1, 0x7F800000, MILLION)
    bits[: MILLION // 8] = 1 + (bits[: MILLION // 8] >> 8)
    u = arithmetic.fp32_from_bits(bits)
    got = arithmetic.special_function(Function.RSQRT, u)
    assert np.abs(got * np.sqrt(u.astype(np.float64)) - 1).max() <= 2.0**-24 * (5 / 4)
    assert (u < 2.0**-126).sum() >= MILLION // 8
    negative = arithmetic.special_function(Function.RSQRT, -u)
    assert np.isnan(negative).all()
    assert (words(arithmetic.mul_unpacked(negative, u)) == 0x7FC00000).all()


def test_function_results_have_a_24_bit_significand() -> None:
    for function in Function:
        got = arithmetic.special_function(function, all_bf16().view(np.float32))
        mantissa = np.frexp(got[np.isfinite(got)])[0] * 2**24
        assert (mantissa == np.floor(mantissa)).all()


def test_exp2_is_monotone_over_every_fraction() -> None:
    """The fixed-point exponent has 24 fraction bits: all of [0, 1] is 2**24 + 1 inputs, exact in FP32."""
    last = 0.0
    for start in range(0, 1 << 24, 1 << 21):
        u = (np.arange(start, start + (1 << 21) + 1) * 2.0**-24).astype(np.float32)
        got = arithmetic.special_function(Function.EXP2, u)
        assert got[0] >= last
        assert (np.diff(got) >= 0).all()
        last = got[-1]
    assert last == 2.0


def test_exp2_is_monotone_over_bf16_and_random_fp32(rng: np.random.Generator) -> None:
    for values in (bf16(), (rng.normal(size=MILLION) * 40).astype(np.float32)):
        got = arithmetic.special_function(Function.EXP2, np.sort(values))
        assert (got[1:] >= got[:-1]).all()


def test_exact_results() -> None:
    integers = np.arange(-511, 512, dtype=np.float32)
    assert (arithmetic.special_function(Function.EXP2, integers) == np.exp2(integers.astype(float))).all()
    powers = np.ldexp(np.float32(1), np.arange(-149, 128))
    assert (arithmetic.special_function(Function.RECIPROCAL, powers) == 1 / powers.astype(float)).all()
    fours = np.ldexp(np.float32(1), np.arange(-148, 128, 2))
    assert (arithmetic.special_function(Function.RSQRT, fours) == 1 / np.sqrt(fours.astype(float))).all()
    assert arithmetic.special_function(Function.SIGMOID, np.zeros(1, np.float32)) == 0.5


def test_mul_unpacked_rounds_once(rng: np.random.Generator) -> None:
    """A subnormal product: rounding the function to FP32 first would give another result in many cases."""
    u = rng.uniform(-160, -120, 4000).astype(np.float32)
    factor = rng.uniform(0.5, 1e6, 4000).astype(np.float32)
    value = arithmetic.special_function(Function.EXP2, u)
    got = words(arithmetic.mul_unpacked(value, factor))
    expected = [nearest_even(Fraction(v) * exact(f)) for v, f in zip(value.tolist(), factor, strict=True)]
    assert got.tolist() == expected
    twice = words(arithmetic.fp32_mul(value.astype(np.float32), factor))
    assert (twice != got).sum() > 100
