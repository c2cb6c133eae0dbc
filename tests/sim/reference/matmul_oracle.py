"""A MATMUL's sums by their definition: exact fractions, one term at a time, values from an outside library."""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from tilescore.rtl.spec.formats import PAIRS, headroom
from tilescore.rtl.spec.isa import Pair, Scale
from tilescore.sim.reference.matmul_terms import TermFormat

NAN, PINF, NINF, INEXACT = 1, 2, 4, 8

BLOCK_STEPS = {
    (Pair.E2M1, Scale.E4M3): (0,), (Pair.E4M3_E2M1, Scale.E4M3): (1,),
    (Pair.E2M1, Scale.E8M0): (1, 3), (Pair.E4M3, Scale.FP32): (4,),
}
"""log2 of the steps per block with 8 lanes, where it is not that of 32 and 128 elements at 8 per step."""


def block_steps(pair: Pair, scale: Scale) -> tuple[int, ...]:
    """Legal values of the field ``block`` with 8 lanes."""
    return (0,) if scale == Scale.NONE else BLOCK_STEPS.get((pair, scale), (2, 4))


def all_formats(acc_bits: int, blocks: int = 8) -> list[TermFormat]:
    """Every legal combination of pair, scale, block and scaled sides; headroom for ``blocks`` blocks."""
    formats = []
    for pair in PAIRS:
        if pair == Pair.E5M2 and acc_bits < 80:
            continue
        formats.append(TermFormat(pair=pair))
        for scale, pairs in ((Scale.E4M3, (Pair.E2M1, Pair.E4M3_E2M1)), (Scale.E8M0, tuple(PAIRS)),
                             (Scale.FP32, (Pair.E4M3,))):
            if pair not in pairs:
                continue
            for block in block_steps(pair, scale):
                elements = PAIRS[pair].products_per_step(8) << block
                room = headroom(pair, scale, elements, blocks, acc_bits)
                formats += [TermFormat(pair=pair, scale=scale, a_scaled=x, b_scaled=y, block=block, headroom=room)
                            for x, y in ((True, True), (True, False), (False, True))]
    return formats


def format_name(fmt: TermFormat) -> str:
    """For test ids."""
    sides = "a" * fmt.a_scaled + "b" * fmt.b_scaled
    return f"{fmt.pair.name}-{fmt.scale.name}-{sides}-{1 << fmt.block}".lower()


@cache
def values(name: str) -> list[float]:
    """Value of every byte (E2M1: of every code) by ml_dtypes."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of the element formats")
    kinds = {"e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2, "e2m1": ml_dtypes.float4_e2m1fn}
    count = 16 if name == "e2m1" else 256
    return np.arange(count, dtype=np.uint8).view(kinds[name]).astype(np.float64).tolist()


def elements(codes: np.ndarray, name: str, k: int) -> list[float]:
    """Values of a row of bytes."""
    if name == "e2m1":
        return [values(name)[nibble] for byte in codes.tolist() for nibble in (byte & 15, byte >> 4)][:k]
    return [values(name)[byte] for byte in codes.tolist()]


def scale_value(scales: np.ndarray, scale: Scale) -> Fraction | None:
    """Value of the scale bytes of a block (those of all its groups), None for NaN."""
    if scale == Scale.E4M3:
        value = abs(values("e4m3")[int(scales[0])])
    elif scale == Scale.E8M0:
        return None if scales[0] == 255 else Fraction(1, 1 << int(scales[0]))
    else:
        value = abs(float(np.frombuffer(scales[:4].tobytes(), "<f4")[0]))
        value = value if value < 2 else float("nan")
    return None if value != value else Fraction(value)


def to_24_bits(x: Fraction) -> Fraction:
    """Nearest, ties to even, without limits of the exponent."""
    if x == 0:
        return x
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    unit = Fraction(2) ** (exponent - 24)
    unit *= 2 if x / unit >= 1 << 24 else 1
    return round(x / unit) * unit


def dot(a: np.ndarray, b: np.ndarray, a_scales: np.ndarray, b_scales: np.ndarray, fmt: TermFormat,
        lanes: int) -> tuple[int, int]:
    """(sum in units of 2**lsb, flags) of one row of A and one of B; the sum is not wrapped."""
    pair = PAIRS[fmt.pair]
    steps = len(a) // lanes
    step = pair.products_per_step(lanes)
    x = elements(a, pair.a.name, steps * step)
    y = elements(b, pair.b.name, steps * step)
    total, flags = 0, 0
    span = 1 << fmt.block if fmt.scale != Scale.NONE else steps
    for start in range(0, steps, span):
        block_sum = Fraction(0)
        for p, q in zip(x[start * step:(start + span) * step], y[start * step:(start + span) * step], strict=True):
            product = p * q
            if product != product:
                flags |= NAN
            elif product in (float("inf"), float("-inf")):
                flags |= PINF if product > 0 else NINF
            else:
                block_sum += Fraction(p) * Fraction(q)
        factor = Fraction(1)
        if fmt.scale != Scale.NONE:
            sides = (a_scales, fmt.a_scaled, 1), (b_scales, fmt.b_scaled, pair.b_steps)
            factors = [scale_value(scales[start // every:], fmt.scale) if scaled else Fraction(1)
                       for scales, scaled, every in sides]
            if None in factors:
                flags |= NAN
                continue
            factor = factors[0] * factors[1]
            factor = to_24_bits(factor) if fmt.scale == Scale.FP32 else factor
        term = block_sum * factor / Fraction(2) ** fmt.lsb
        total += round(term)
        flags |= 0 if round(term) == term else INEXACT
    return total, flags


def wrapped(total: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (total + half) % (2 * half) - half
