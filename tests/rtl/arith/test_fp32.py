# amaranth: UnusedElaboratable=no
"""FP32 units in Amaranth's simulator against numpy's IEEE arithmetic; larger sets are in
test_verilated.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tilescore.rtl.arith.fixed import FIXED_BITS, FixedToFp32, Fp32ToFixed
from tilescore.rtl.arith.fp32_add import Fp32Add
from tilescore.rtl.arith.fp32_max import Fp32Max
from tilescore.rtl.arith.quantize import QuantizeE4M3, QuantizeFp8
from tilescore.rtl.arith.round_fp32 import RoundToFp32
from tilescore.rtl.arith.unpacked import UnpackFp32
from tilescore.rtl.spec.formats import E2M1, E5M2
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.arith.streams import (
    MultiplyFp32,
    float_key,
    hard_fp32,
    hard_fp32_pairs,
    quantizer_fp32,
    run_pipeline,
    unpacked_to_float,
)

INF, NAN, TINY = 0x7F800000, 0x7FC00000, 0x00000001
MAX, MIN_NORMAL, ONE = 0x7F7FFFFF, 0x00800000, 0x3F800000
NEGATIVE = 1 << 31


def floats(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    return words.view(np.float32)


def canonical_bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Bit patterns of numpy's results with its NaNs made the one of the contract."""
    return np.where(np.isnan(values), np.uint32(NAN), values.view(np.uint32))


def assert_same(got: list[int], expected: NDArray, *operands: NDArray) -> None:
    wrong = np.flatnonzero(np.array(got, np.uint64) != expected.astype(np.uint64))
    shown = [(hex(got[i]), hex(int(expected[i])), *[hex(int(o[i])) for o in operands]) for i in wrong[:5]]
    assert len(wrong) == 0, f"{len(wrong)} of {len(got)} differ: (got, expected, operands) = {shown}"


@pytest.mark.parametrize(
    ("component", "latency"),
    [
        (UnpackFp32, 1),
        (MultiplyFp32, 4),
        (Fp32Add, 4),
        (Fp32Max, 1),
        (QuantizeE4M3, 2),
        (QuantizeFp8, 2),
        (Fp32ToFixed, 2),
        (FixedToFp32, 4),
        (RoundToFp32, 4),
    ],
)
def test_latencies_that_the_time_contract_is_built_on(component: type, latency: int) -> None:
    assert component.LATENCY == latency  # noqa: SIM300


def test_multiply(rng: np.random.Generator) -> None:
    a, b = hard_fp32(rng, 8000), hard_fp32(rng, 8000)
    a[4000:] = (a[4000:] & np.uint32(0x807FFFFF)) | (rng.integers(50, 70, 4000) << 23).astype(np.uint32)
    b[4000:] = (b[4000:] & np.uint32(0x807FFFFF)) | (rng.integers(40, 80, 4000) << 23).astype(
        np.uint32
    )  # subnormal
    got = run_pipeline(MultiplyFp32(), {"a": a, "b": b}, ["result"], MultiplyFp32.LATENCY)["result"]
    with np.errstate(all="ignore"):
        assert_same(got, canonical_bits(floats(a) * floats(b)), a, b)


@pytest.mark.parametrize(
    ("a", "b", "product"),
    [
        (0, INF, NAN),
        (INF, NEGATIVE, NAN),
        (INF, INF | NEGATIVE, INF | NEGATIVE),
        (NAN | 1, ONE, NAN),
        (0xFF800001, 0, NAN),
        (NEGATIVE, ONE, NEGATIVE),
        (NEGATIVE, NEGATIVE | ONE, 0),
        (MAX, MAX, INF),
        (TINY, MAX, 0x34FFFFFF),  # 2**-149 * (2 - 2**-23) * 2**127
        (TINY, 0x3F000000, 0),
        (3, 0x3F000000, 2),
        (TINY, 0x3F000001, 1),
        (MIN_NORMAL, 0x3F7FFFFF, MIN_NORMAL),
    ],
)
def test_multiply_specials_and_ties(a: int, b: int, product: int) -> None:
    assert run_pipeline(MultiplyFp32(), {"a": [a], "b": [b]}, ["result"], MultiplyFp32.LATENCY)["result"] == [
        product
    ]


def test_add(rng: np.random.Generator) -> None:
    a, b = hard_fp32_pairs(rng, 16000)
    got = run_pipeline(Fp32Add(), {"a": a, "b": b}, ["result"], Fp32Add.LATENCY)["result"]
    with np.errstate(all="ignore"):
        assert_same(got, canonical_bits(floats(a) + floats(b)), a, b)


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        (ONE, ONE | NEGATIVE, 0),
        (NEGATIVE, NEGATIVE, NEGATIVE),
        (0, NEGATIVE, 0),
        (NEGATIVE, 0, 0),
        (INF, INF | NEGATIVE, NAN),
        (INF, INF, INF),
        (INF | NEGATIVE, MAX, INF | NEGATIVE),
        (NAN, INF, NAN),
        (MAX, MAX, INF),
        (MAX, 0x73000000, INF),
        (MAX, 0x72FFFFFF, MAX),
        (0x007FFFFF, TINY, MIN_NORMAL),
        (MIN_NORMAL, TINY | NEGATIVE, 0x007FFFFF),
        (TINY, TINY | NEGATIVE, 0),
        (ONE, 0x33800000, ONE),
        (ONE | 1, 0x33800000, ONE + 2),
        (ONE, 0x33800001, ONE + 1),
    ],
)
def test_add_specials_and_ties(a: int, b: int, total: int) -> None:
    assert run_pipeline(Fp32Add(), {"a": [a], "b": [b]}, ["result"], Fp32Add.LATENCY)["result"] == [total]


def test_maximum(rng: np.random.Generator) -> None:
    a, b = hard_fp32_pairs(rng, 4000)
    got = run_pipeline(Fp32Max(), {"a": a, "b": b}, ["result"], Fp32Max.LATENCY)["result"]
    with np.errstate(all="ignore"):
        expected = canonical_bits(np.maximum(floats(a), floats(b)))
    equal = floats(a) == floats(b)  # numpy may return either zero
    expected = np.where(equal, np.where(a >> 31, b, a), expected)
    assert_same(got, expected, a, b)


@pytest.mark.parametrize(
    ("a", "b", "maximum"),
    [
        (0, NEGATIVE, 0),
        (NEGATIVE, 0, 0),
        (NEGATIVE, NEGATIVE, NEGATIVE),
        (INF | NEGATIVE, NEGATIVE | MAX, NEGATIVE | MAX),
        (INF, NAN, NAN),
        (0xFFFFFFFF, ONE, NAN),
        (INF | NEGATIVE, INF | NEGATIVE, INF | NEGATIVE),
        (TINY | NEGATIVE, 0, 0),
    ],
)
def test_maximum_specials(a: int, b: int, maximum: int) -> None:
    assert run_pipeline(Fp32Max(), {"a": [a], "b": [b]}, ["result"], 1)["result"] == [maximum]


def test_unpack_is_exact_and_normalised(rng: np.random.Generator) -> None:
    words = hard_fp32(rng, 3000)
    words[:24] = 1 << np.arange(24)  # every subnormal leading bit
    got = run_pipeline(UnpackFp32(), {"value": words}, ["unpacked"], UnpackFp32.LATENCY)["unpacked"]
    with np.errstate(all="ignore"):
        expected = floats(words).astype(np.float64)
    assert (float_key(unpacked_to_float(got)) == float_key(expected)).all()


@pytest.mark.parametrize("width", [1, 0, 513])
def test_rounder_width_is_limited(width: int) -> None:
    with pytest.raises(ValueError, match="width must be in"):
        RoundToFp32(width=width)


def exact_round(value: int, lsb: int) -> int:
    """``value * 2**lsb`` as an FP32 word, by integers of unlimited size: nothing shared with the twin."""
    magnitude, sign = abs(value), int(value < 0)
    drop = max(magnitude.bit_length() - 24, -149 - lsb)
    if drop > 0:
        quotient, rest = divmod(magnitude, 1 << drop)
        quotient += rest * 2 > 1 << drop or (rest * 2 == 1 << drop and quotient & 1)
    else:
        quotient = magnitude << -drop
    # In units of 2**(drop + lsb), at least 2**-149: packing adds the leading bit to the exponent field.
    if quotient == 0:
        return sign << 31 if magnitude else 0
    word = quotient + (drop + lsb + 149 << 23)
    return sign << 31 | min(word, INF)


@pytest.mark.parametrize("width", [2, 25, 48, 64, 96])
def test_round_is_exact_at_any_exponent(width: int, rng: np.random.Generator) -> None:
    values = [
        int.from_bytes(rng.bytes(12), "little") - (1 << 95) >> int(rng.integers(96 - width, 96))
        for _ in range(1500)
    ]
    values[:6] = [0, 1, -1, 1 << width - 2, -(1 << width - 1), (1 << width - 1) - 1]
    near_subnormal = rng.integers(-152 - width, -120, 500)
    lsb = np.concatenate([np.full(500, -18), near_subnormal, rng.integers(-512, 512, 500)]).tolist()
    dut = RoundToFp32(width=width)
    got = run_pipeline(dut, {"value": values, "lsb": lsb}, ["result"], dut.LATENCY)["result"]
    expected = np.array(
        [exact_round(value, exponent) for value, exponent in zip(values, lsb, strict=True)], np.uint64
    )
    assert_same(got, expected, np.array(lsb) + 1000)


def test_round_ties_and_carries() -> None:
    values = [
        (1 << 24) + 1,
        (1 << 24) + 3,
        (1 << 25) - 1,
        -(1 << 24) - 1,
        (1 << 60) + (1 << 36),
        (1 << 60) + (1 << 36) + 1,
    ]
    dut = RoundToFp32(width=64)
    got = run_pipeline(dut, {"value": values, "lsb": [0] * len(values)}, ["result"], dut.LATENCY)["result"]
    assert_same(got, np.array(values, np.int64).astype(np.float32).view(np.uint32))


def test_round_flags() -> None:
    flags = list(range(16))
    dut = RoundToFp32(width=64)
    inputs = {"value": [-5] * 16, "lsb": [-18] * 16, "flags": flags}
    got = run_pipeline(dut, inputs, ["result"], dut.LATENCY)["result"]
    plain = exact_round(-5, -18)
    one_of = {0: plain, 1: NAN, 2: INF, 3: NAN, 4: INF | NEGATIVE, 5: NAN, 6: NAN, 7: NAN}
    assert got == [one_of[flag & 7] for flag in flags]


def test_only_formats_of_eight_bits_are_cast() -> None:
    with pytest.raises(ValueError, match="a format of 8 bits, not e2m1"):
        QuantizeFp8(E2M1)


@pytest.mark.parametrize(
    ("component", "limit", "dtype"),
    [(QuantizeE4M3(), 448, "float8_e4m3fn"), (QuantizeFp8(E5M2), 57344, "float8_e5m2")],
)
def test_quantize_against_ml_dtypes(component: QuantizeFp8, limit: float, dtype: str, rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of FP8")
    words = np.concatenate([quantizer_fp32(rng, 12000), hard_fp32(rng, 4000)])
    around = rng.integers(108, 146, 6000).astype(np.uint32) << np.uint32(23)  # the range of E5M2, half of it ties
    fraction = rng.integers(0, 1 << 23, 6000, dtype=np.uint32)
    ties = fraction & np.uint32(0x600000) | np.uint32(0x100000)
    words = np.concatenate([words, around | fraction, around | ties, around | ties + np.uint32(1)])
    got = run_pipeline(component, {"value": words}, ["code"], component.LATENCY)["code"]
    with np.errstate(all="ignore"):
        clamped = np.clip(floats(words), np.float32(-limit), np.float32(limit))
        codes = clamped.astype(np.dtype(getattr(ml_dtypes, dtype))).view(np.uint8)
    assert_same(got, np.where(np.isnan(floats(words)), 0x7F, codes), words)


def test_fp32_to_fixed(rng: np.random.Generator) -> None:
    words = hard_fp32(rng, 6000)
    words[2000:] = (words[2000:] & np.uint32(0x807FFFFF)) | (rng.integers(98, 178, 4000) << 23).astype(
        np.uint32
    )
    dut = Fp32ToFixed()
    got = run_pipeline(dut, {"value": words}, ["fixed", "nan"], dut.LATENCY)
    finite = np.isfinite(floats(words))
    assert (np.array(got["nan"]) == ~finite).all()
    # round() of a Python float is exact: nearest, ties to even.
    exact = [
        round(float(value) * 2.0**24) if ok else 0 for value, ok in zip(floats(words), finite, strict=True)
    ]
    assert_same(got["fixed"], np.array([value & (1 << FIXED_BITS) - 1 for value in exact], np.uint64), words)


def test_fixed_to_fp32(rng: np.random.Generator) -> None:
    fixed = rng.integers(-1 << 47, 1 << 47, 3000) >> rng.integers(0, 48, 3000)
    fixed[:4] = [0, -(1 << 47), (1 << 47) - 1, -1]
    nan = rng.random(3000) < 0.05
    dut = FixedToFp32()
    got = run_pipeline(dut, {"fixed": fixed, "nan": nan}, ["result"], dut.LATENCY)["result"]
    # 48 bits are exact in float64, and one conversion rounds once.
    expected = (fixed.astype(np.float64) * 2.0**-24).astype(np.float32).view(np.uint32)
    assert_same(got, np.where(nan, NAN, expected), fixed & (1 << 48) - 1)


def test_fixed_point_round_trip_of_softmax_weights(rng: np.random.Generator) -> None:
    """Weights in [0, 1] with 24 fraction bits survive, so a row sum does not depend on its order."""
    weights = (rng.integers(0, 1 << 24, 2000) * 2.0**-24).astype(np.float32)
    assert (arithmetic.fixed_to_fp32(arithmetic.to_fixed(weights)) == weights).all()
