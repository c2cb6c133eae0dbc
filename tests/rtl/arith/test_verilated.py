"""The Verilog of every unit on sets of a million operands, and on exhaustive sets, under Verilator.

Expected values come from outside where there is an outside: numpy's IEEE float32 operations, ml_dtypes,
float64 functions. Where there is none (fixed point, the exact bits of a function), the numpy twin is
expected, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tilescore.rtl.arith.functions import Function
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.arith import arith_bench
from tilescore.tests.rtl.arith.streams import (
    all_bf16,
    hard_fp32,
    hard_fp32_pairs,
    quantizer_fp32,
    unpacked_to_float,
)
from tilescore.tests.rtl.verilated import StreamProgram

MILLION = 1 << 20

pytestmark = pytest.mark.skipif(
    bool(missing_for_verilator()), reason=f"needs {', '.join(missing_for_verilator())}"
)

Run = Callable[..., dict[str, NDArray[np.uint64]]]


@pytest.fixture(scope="module")
def program() -> StreamProgram:
    return arith_bench.build()


@pytest.fixture
def run(program: StreamProgram, tmp_path: Path) -> Run:
    return partial(arith_bench.run, program, tmp_path)


def assert_same(got: NDArray[Any], expected: NDArray[Any], *operands: NDArray[Any]) -> None:
    wrong = np.flatnonzero(got != expected.astype(np.uint64))
    shown = [[hex(int(column[i])) for column in (got, expected, *operands)] for i in wrong[:5]]
    assert len(wrong) == 0, f"{len(wrong)} of {len(got)} differ: (got, expected, operands) = {shown}"


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Words of float32 values with numpy's NaNs made the one of the contract."""
    return np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))


def low_bits(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return values & ((1 << width) - 1)


@pytest.mark.sampled
def test_fp32_units_on_a_million_pairs(run: Run, rng: np.random.Generator) -> None:
    a, b = hard_fp32_pairs(rng, MILLION)
    results = run(a=a, b=b)
    x, y = a.view(np.float32), b.view(np.float32)
    with np.errstate(all="ignore"):
        assert_same(results["product"], bits(x * y), a, b)
        assert_same(results["total"], bits(x + y), a, b)
        larger = np.where(x == y, np.where(a >> 31, y, x), np.maximum(x, y))
        assert_same(results["maximum"], bits(larger), a, b)
    finite = np.isfinite(x)
    assert_same(results["not_finite"], ~finite)
    assert_same(results["fixed"], low_bits(arithmetic.to_fixed(x), 48), a)


def test_multiply_a_million_pairs_around_the_subnormal_range(run: Run, rng: np.random.Generator) -> None:
    a = hard_fp32(rng, MILLION)
    sum_of_fields = rng.integers(127 - 26, 127 + 3, MILLION)  # products from below 2**-150 to above 2**-126
    field_a = rng.integers(0, 128, MILLION)
    a = (a & np.uint32(0x807FFFFF)) | (field_a << 23).astype(np.uint32)
    b = (hard_fp32(rng, MILLION) & np.uint32(0x807FFFFF)) | (
        np.clip(sum_of_fields - field_a, 0, 254) << 23
    ).astype(np.uint32)
    with np.errstate(all="ignore"):
        assert_same(run(a=a, b=b)["product"], bits(a.view(np.float32) * b.view(np.float32)), a, b)


def test_round_a_million_accumulators(run: Run, rng: np.random.Generator) -> None:
    wide = rng.integers(-(1 << 63), 1 << 63, MILLION) >> rng.integers(0, 64, MILLION)
    ties = rng.random(MILLION) < 0.3  # a one below 24 leading bits, and zeros below it
    drop = np.maximum(np.frexp(np.abs(wide).astype(float))[1] - 25, 0).astype(np.int64)
    wide = np.where(ties, (wide >> drop | 1) << drop, wide)
    results = run(wide=wide, lsb=np.full(MILLION, -18))
    assert_same(results["rounded"], (wide.astype(np.float32) * np.float32(2.0**-18)).view(np.uint32))
    fixed = arithmetic.wrap(wide, 48)
    assert_same(results["from_fixed"], (fixed.astype(np.float32) * np.float32(2.0**-24)).view(np.uint32))


def test_round_to_any_exponent_like_the_twin(run: Run, rng: np.random.Generator) -> None:
    wide = rng.integers(-(1 << 63), 1 << 63, MILLION) >> rng.integers(0, 64, MILLION)
    exponents = rng.permutation(np.arange(-512, 512))[:128]
    exponents[:64] = np.arange(-216, -152 + 63, 2)[:64]
    lsb = np.repeat(exponents, MILLION // 128)
    flags = np.where(rng.random(MILLION) < 0.05, rng.integers(0, 16, MILLION), 0)
    expected = np.concatenate([
        arithmetic.fp32_bits(arithmetic.round_acc_to_fp32(w, int(e), f))
        for w, e, f in zip(wide.reshape(128, -1), exponents, flags.reshape(128, -1), strict=True)
    ])  # fmt: skip
    assert_same(run(wide=wide, lsb=lsb, flags=flags)["rounded"], expected, wide, lsb + 512, flags)


@pytest.mark.parametrize("kind", ["every bf16 with 16 low halves", "random around ties"])
def test_quantize_a_million_values(kind: str, run: Run, rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of E4M3")
    low = np.array([0, 1, 2, 0xFF, 0x100, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF], np.uint32)
    low = np.concatenate([low, rng.integers(0, 1 << 16, 5).astype(np.uint32)])
    words = (all_bf16()[:, None] | low).ravel() if kind.startswith("every") else quantizer_fp32(rng, MILLION)
    values = words.view(np.float32)
    with np.errstate(all="ignore"):
        codes = np.clip(values, np.float32(-448), np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    expected = np.where(np.isnan(values), 0x7F, codes.view(np.uint8))
    assert_same(run(a=words)["code"], expected, words)
    assert (arithmetic.quantize_e4m3(values) == expected).all()


def test_all_pairs_of_codes_in_every_lane(run: Run) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of E4M3")
    pairs = np.arange(1 << 16)
    a, b = (pairs >> 8).astype(np.uint8), (pairs & 0xFF).astype(np.uint8)
    product = a.view(ml_dtypes.float8_e4m3fn).astype(float) * b.view(ml_dtypes.float8_e4m3fn).astype(float)
    nan = np.isnan(product)
    expected = low_bits(np.where(nan, 0, product * 2.0**18).astype(np.int64), 40)
    for lane in range(8):
        results = run(lanes_a=a.astype(np.int64) << 8 * lane, lanes_b=b.astype(np.int64) << 8 * lane)
        assert_same(results["dot_nan"], nan, a, b)
        assert_same(results["dot"], expected, a, b)


def test_sums_of_a_million_random_lanes_like_the_twin(run: Run, rng: np.random.Generator) -> None:
    a, b = (rng.integers(0, 256, (MILLION, 8)).astype(np.uint8) for _ in range(2))
    quiet = rng.random((MILLION, 8)) < 0.9  # most codes that could be NaN become others
    a[quiet & (a & 0x7F == 0x7F)] ^= 1
    results = run(lanes_a=a.view("<i8")[:, 0], lanes_b=b.view("<i8")[:, 0])
    products, nan = arithmetic.e4m3_products(a, b)
    assert_same(results["dot"], low_bits(products.sum(axis=1), 40))
    assert_same(results["dot_nan"], nan.any(axis=1))


def function_operands(rng: np.random.Generator) -> NDArray[np.uint32]:
    """Every bf16 value, and a million FP32 values of which most are in the range where the functions vary."""
    words = hard_fp32(rng, MILLION)
    varied = (words & np.uint32(0x807FFFFF)) | (rng.integers(98, 138, MILLION) << 23).astype(np.uint32)
    return np.concatenate([all_bf16(), np.where(rng.random(MILLION) < 0.8, varied, words)])


@pytest.mark.parametrize("function", list(Function), ids=lambda function: function.name.lower())
def test_functions_like_the_twin_on_all_bf16_and_a_million_fp32(
    function: Function, run: Run, rng: np.random.Generator
) -> None:
    u, factor = function_operands(rng), hard_fp32(rng, MILLION + (1 << 16))
    results = run(a=u, b=factor, func=np.full(len(u), function.value))
    twin = arithmetic.special_function(function, u.view(np.float32))
    expected = arithmetic.mul_unpacked(twin, factor.view(np.float32))
    assert_same(results["scaled"], arithmetic.fp32_bits(expected), u, factor)
    shown = slice(0, 1 << 16)  # unpacking words one by one is slow
    got = unpacked_to_float(results["special"][shown])
    assert np.array_equal(got, twin[shown], equal_nan=True)
    assert (np.signbit(got) == np.signbit(twin[shown]))[~np.isnan(got)].all()
