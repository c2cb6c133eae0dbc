"""Every pair of codes and every scale code through a processing element, against two outside libraries.

The Verilog of one element with its edges, streamed under Verilator: tables of what ml_dtypes and gfloat say, and a
million random steps per back end against the numpy twin.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tilescore.rtl.spec.array_formats import built_pairs, built_scales
from tilescore.rtl.spec.formats import PAIRS, headroom
from tilescore.rtl.spec.isa import Pair, Scale
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.reference.matmul_terms import TermFormat, matmul_terms
from tilescore.tests.rtl.matrix.bench import DSP, EVERYTHING, NVFP4
from tilescore.tests.rtl.matrix.pe_bench import LANES, Element, build_element, plain
from tilescore.tests.sim.reference.matmul_oracle import all_formats, format_name
from tilescore.tests.sim.reference.test_matmul_terms import operands

pytestmark = pytest.mark.skipif(bool(missing_for_verilator()),
                                reason="Verilator level: missing " + ", ".join(missing_for_verilator()))

NAN, PINF, NINF = 1, 2, 4
LIBRARIES = ("ml_dtypes", "gfloat")


@pytest.fixture(scope="module")
def everything() -> Element:
    return build_element(EVERYTHING)


@pytest.fixture(scope="module")
def dsp() -> Element:
    return build_element(DSP)


@pytest.fixture(scope="module")
def nvfp4() -> Element:
    return build_element(NVFP4)


def oracle(library: str, name: str) -> np.ndarray:
    """Value of every code of an element or scale format, float64."""
    count = 16 if name == "e2m1" else 256
    if library == "ml_dtypes":
        ml_dtypes = pytest.importorskip("ml_dtypes", reason="an outside oracle of the formats")
        kinds = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m1": ml_dtypes.float4_e2m1fn,
                 "e8m0": ml_dtypes.float8_e8m0fnu}
        return np.arange(count, dtype=np.uint8).view(kinds[name]).astype(np.float64)
    gfloat = pytest.importorskip("gfloat", reason="an outside oracle of the formats")
    formats = pytest.importorskip("gfloat.formats")
    info = {"e4m3": formats.format_info_ocp_e4m3, "e5m2": formats.format_info_ocp_e5m2,
            "e2m1": formats.format_info_ocp_e2m1, "e8m0": formats.format_info_ocp_e8m0}[name]
    return np.array([gfloat.decode_float(info, code).fval for code in range(count)])


def integers(values: np.ndarray, lsb: int) -> np.ndarray:
    """Finite multiples of 2**lsb as Python integers; everything else 0."""
    return np.array([int(Fraction(v) / Fraction(2) ** lsb) if np.isfinite(v) else 0 for v in values.tolist()], object)


def expected_flags(products: np.ndarray) -> np.ndarray:
    return np.isnan(products) * NAN + np.isposinf(products) * PINF + np.isneginf(products) * NINF


def in_lane(codes: np.ndarray, bits: int, position: np.ndarray) -> np.ndarray:
    """(n, LANES) bytes with one code of ``bits`` bits each at a position counted in codes, the rest 0."""
    groups = np.zeros((len(codes), LANES), np.uint8)
    per_byte = 8 // bits
    groups[np.arange(len(codes)), position // per_byte] = codes << bits * (position % per_byte)
    return groups


@pytest.mark.sampled
def test_all_pairs_of_fp8_codes(everything: Element, tmp_path: Path) -> None:
    """65,536 pairs for each combination, each in one of the eight lanes."""
    pairs = np.arange(1 << 16)
    a, b = (pairs >> 8).astype(np.uint8), (pairs & 0xFF).astype(np.uint8)
    lane = (pairs % 8 + pairs // 256) % 8
    for pair in (Pair.E4M3, Pair.E5M2, Pair.E4M3_E5M2, Pair.E5M2_E4M3):
        spec = PAIRS[pair]
        total, flags = everything.dots(tmp_path, plain(pair), in_lane(a, 8, lane), in_lane(b, 8, lane))
        for library in LIBRARIES:
            with np.errstate(invalid="ignore"):
                products = oracle(library, spec.a.name)[a] * oracle(library, spec.b.name)[b]
            assert (flags == expected_flags(products)).all(), (pair, library)
            assert (total == integers(products, spec.lsb_exponent)).all(), (pair, library)


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", ["everything", "dsp", "nvfp4"])
def test_all_pairs_of_fp4_codes_in_every_place(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    element: Element = request.getfixturevalue(name)
    pairs = np.tile(np.arange(256), 16)
    position = np.repeat(np.arange(16), 256)
    a, b = (pairs >> 4).astype(np.uint8), (pairs & 15).astype(np.uint8)
    total, flags = element.dots(tmp_path, plain(Pair.E2M1), in_lane(a, 4, position), in_lane(b, 4, position))
    assert not flags.any()
    for library in LIBRARIES:
        value = oracle(library, "e2m1")
        assert (total == integers(value[a] * value[b], -2)).all(), library


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", ["everything", "dsp"])
def test_all_pairs_of_fp8_and_fp4_codes_in_every_lane_and_half(name: str, request: pytest.FixtureRequest,
                                                               tmp_path: Path) -> None:
    """4,096 pairs, eight lanes, two steps of a group of B; the other step has zeros in A."""
    element: Element = request.getfixturevalue(name)
    pairs = np.tile(np.arange(1 << 12), 16)
    position = np.repeat(np.arange(16), 1 << 12)
    a, b = (pairs >> 4).astype(np.uint8), (pairs & 15).astype(np.uint8)
    steps = np.zeros((len(pairs), 2 * LANES), np.uint8)
    steps[np.arange(len(pairs)), position] = a
    total, flags = element.dots(tmp_path, plain(Pair.E4M3_E2M1), steps, in_lane(b, 4, position))
    for library in LIBRARIES:
        products = oracle(library, "e4m3")[a] * oracle(library, "e2m1")[b]
        assert (flags == expected_flags(products)).all(), library
        assert (total == integers(products, -10)).all(), library


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", ["everything", "dsp", "nvfp4"])
def test_all_pairs_of_nvfp4_scales(name: str, request: pytest.FixtureRequest, tmp_path: Path,
                                   rng: np.random.Generator) -> None:
    """65,536 pairs of E4M3 scales, subnormal, zero, negative and NaN codes included, and 256 for one scaled side."""
    element: Element = request.getfixturevalue(name)
    pairs = np.arange(1 << 16)
    blocks = [rng.integers(0, 256, (len(pairs), LANES)).astype(np.uint8) for _ in range(2)]
    blocks[0][:512], blocks[1][:512] = 0x77, rng.choice([0x77, 0xFF], (512, 1))  # the largest sums of either sign
    sums, _ = element.dots(tmp_path, plain(Pair.E2M1), *blocks)
    scales = [(pairs >> 8).astype(np.uint8)[:, None], (pairs & 0xFF).astype(np.uint8)[:, None]]
    for a_scaled, b_scaled in ((True, True), (True, False), (False, True)):
        fmt = TermFormat(pair=Pair.E2M1, scale=Scale.E4M3, a_scaled=a_scaled, b_scaled=b_scaled)
        total, flags = element.dots(tmp_path, fmt, *blocks, *scales)
        for library in LIBRARIES:
            value = np.abs(oracle(library, "e4m3"))
            factors = [integers(value, -9)[codes[:, 0]] if scaled else 1
                       for codes, scaled in zip(scales, (a_scaled, b_scaled), strict=True)]
            nan = [np.isnan(value)[codes[:, 0]] & scaled
                   for codes, scaled in zip(scales, (a_scaled, b_scaled), strict=True)]
            assert (total == sums * factors[0] * factors[1]).all(), library
            assert (flags == (nan[0] | nan[1]) * NAN).all(), library


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", ["everything", "dsp"])
def test_all_pairs_of_e8m0_scales(name: str, request: pytest.FixtureRequest, tmp_path: Path,
                                  rng: np.random.Generator) -> None:
    """65,536 pairs of distances below the anchor, as ratios of standard E8M0 codes to the largest, 2**127."""
    element: Element = request.getfixturevalue(name)
    pairs = np.arange(1 << 16)
    blocks = [rng.integers(0, 256, (len(pairs), 2 * LANES)).astype(np.uint8) for _ in range(2)]
    blocks[0][::7, 1:] = 0  # few bits: ties
    fmt = TermFormat(pair=Pair.E2M1, scale=Scale.E8M0, a_scaled=True, b_scaled=True, block=1,
                     headroom=headroom(Pair.E2M1, Scale.E8M0, 32, 1, element.config.acc_bits))
    sums = matmul_sums(blocks)
    scales = [np.stack([codes.astype(np.uint8), rng.integers(0, 256, len(pairs)).astype(np.uint8)], axis=1)
              for codes in (pairs >> 8, pairs & 0xFF)]
    total, flags = element.dots(tmp_path, fmt, *blocks, *scales)
    for library in LIBRARIES:
        standard = oracle(library, "e8m0")
        # A distance d is the standard code 254 - d below an anchor of code 254; 255 is NaN in both.
        ratio = np.where(np.arange(256) == 255, np.nan, standard[(254 - np.arange(256)) % 256] / standard[254])
        bad = np.isnan(ratio)[pairs >> 8] | np.isnan(ratio)[pairs & 0xFF]
        orders = np.where(np.isnan(ratio), 0, -np.log2(np.where(np.isnan(ratio), 1, ratio))).astype(int)
        down = orders[pairs >> 8] + orders[pairs & 0xFF] - fmt.headroom
        expected = [0 if nan else round(Fraction(int(s)) / Fraction(2) ** int(d))
                    for s, d, nan in zip(sums, down, bad, strict=True)]
        exact = [nan or Fraction(int(s)) / Fraction(2) ** int(d) == e
                 for s, d, nan, e in zip(sums, down, bad, expected, strict=True)]
        assert (total == np.array(expected, object)).all(), library
        assert (flags == bad * NAN + ~np.array(exact) * 8).all(), library


def matmul_sums(blocks: list[np.ndarray]) -> np.ndarray:
    """Sums of E2M1 products of each row, in units of 2**-2, from a table of an outside library."""
    value = (oracle("ml_dtypes", "e2m1") * 2).astype(np.int64)
    low, high = ([value[b & 15] for b in blocks], [value[b >> 4] for b in blocks])
    return (low[0] * low[1] + high[0] * high[1]).sum(axis=1)


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", ["everything", "dsp", "nvfp4"])
def test_random_dots_like_the_twin(name: str, request: pytest.FixtureRequest, tmp_path: Path,
                                   rng: np.random.Generator) -> None:
    """Every format that the element builds: up to six blocks, specials among codes and scales."""
    element: Element = request.getfixturevalue(name)
    config, steps_done = element.config, 0
    for fmt in all_formats(config.acc_bits):
        if fmt.pair not in built_pairs(config) or fmt.scale not in (Scale.NONE, *built_scales(config)):
            continue
        for specials in (0.0, 0.01):
            steps = (1 << fmt.block) * int(rng.integers(1, 7))
            count = 12000 // steps
            arrays = operands(rng, fmt, count, count, steps, specials)
            total, flags = element.dots(tmp_path, fmt, *arrays)
            expected, expected_flags_ = twin_dots(fmt, arrays, config.acc_bits)
            assert (flags == expected_flags_).all(), format_name(fmt)
            assert (total == expected).all(), format_name(fmt)
            steps_done += count * steps
    assert steps_done > 50_000


def twin_dots(fmt: TermFormat, arrays: tuple, acc_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Dot products of row i of A with row i of B, through the twin in slabs."""
    sums, flags = [], []
    for start in range(0, len(arrays[0]), 64):
        total, flag = matmul_terms(*(x[start:start + 64] for x in arrays), fmt, lanes=LANES, acc_bits=acc_bits)
        sums += np.diagonal(total).tolist()
        flags.append(np.diagonal(flag))
    return np.array(sums, object), np.concatenate(flags)


def test_the_order_of_blocks_changes_no_bit(everything: Element, tmp_path: Path, rng: np.random.Generator) -> None:
    """300 dot products of 12 blocks per format in hardware, then the same with their blocks shuffled."""
    for fmt in all_formats(EVERYTHING.acc_bits):
        unit = max(1 << fmt.block, PAIRS[fmt.pair].b_steps)
        arrays = operands(rng, fmt, 300, 300, 12 * unit, 0.0005)
        order = rng.permutation(12)
        shuffled = [x.reshape(300, 12, -1)[:, order].reshape(300, -1) for x in arrays]
        first, second = everything.dots(tmp_path, fmt, *arrays), everything.dots(tmp_path, fmt, *shuffled)
        assert (first[0] == second[0]).all() and (first[1] == second[1]).all(), format_name(fmt)


@pytest.mark.sampled
def test_back_ends_have_equal_bits(everything: Element, dsp: Element, tmp_path: Path,
                                   rng: np.random.Generator) -> None:
    """The same steps through shift-and-add and through multipliers; sums of both fit 64 bits."""
    for fmt in all_formats(64):
        if fmt.pair not in built_pairs(DSP):
            continue
        steps = 2 << fmt.block
        arrays = operands(rng, fmt, 8000 // steps, 8000 // steps, steps, 0.002)
        fabric, with_dsp = (element.dots(tmp_path, fmt, *arrays) for element in (everything, dsp))
        assert (fabric[0] == with_dsp[0]).all() and (fabric[1] == with_dsp[1]).all(), format_name(fmt)
