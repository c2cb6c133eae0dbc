"""Sums of every element pair with every block scale against exact fractions; order and exactness."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.rtl.spec.formats import PAIRS
from tilescore.rtl.spec.isa import Scale
from tilescore.sim.reference.matmul_terms import TermFormat, matmul_terms
from tilescore.tests.sim.reference.matmul_oracle import all_formats, dot, format_name, wrapped

LANES = 8


def operands(rng: np.random.Generator, fmt: TermFormat, m: int, n: int, steps: int, specials: float = 0.0):
    """Bytes and scale bytes of both sides; NaN and infinities, among elements and scales, at rate ``specials``."""
    sides = []
    for rows, spec, groups, scaled in ((m, PAIRS[fmt.pair].a, steps, fmt.a_scaled),
                                       (n, PAIRS[fmt.pair].b, fmt.b_groups(steps), fmt.b_scaled)):
        codes = rng.integers(0, 256, (rows, groups * LANES)).astype(np.uint8)
        if spec.bits == 8:
            rare = codes & 0x7F >= (0x7C if spec.has_infinity else 0x7F)
            codes[rare & (rng.random(codes.shape) >= specials)] ^= 0x40
            codes[rng.random(codes.shape) < 0.1] = 0
        sides += [codes, scale_bytes(rng, fmt, rows, groups, specials) if scaled else
                  rng.integers(0, 256, (rows, groups)).astype(np.uint8)]
    return sides[0], sides[2], sides[1], sides[3]


def scale_bytes(rng: np.random.Generator, fmt: TermFormat, rows: int, groups: int, specials: float) -> np.ndarray:
    """Scale bytes of every group, plausible in each block's first groups, arbitrary in the others."""
    shape = rows, groups
    if fmt.scale == Scale.E8M0:
        near = rng.choice([2, 12, 30])
        return np.where(rng.random(shape) < specials, rng.choice([254, 255], shape),
                        rng.integers(0, near, shape)).astype(np.uint8)
    if fmt.scale == Scale.E4M3:
        codes = rng.integers(0, 256, shape).astype(np.uint8)
        codes[rng.random(shape) < 0.2] &= 0x87  # subnormal and zero scales
        codes[(codes & 0x7F == 0x7F) & (rng.random(shape) >= specials)] ^= 1
        return codes
    fp32 = np.exp2(-rng.random((rows, -(-groups // 16))) * rng.choice([1, 20, 60])).astype(np.float32)
    fp32 *= rng.choice(np.array([1, -1, 1.5, 1.9999999], np.float32), fp32.shape)
    odd = rng.random(fp32.shape) < 4 * specials
    fp32 = np.where(odd, rng.choice(np.array([np.nan, np.inf, 2.0, 1e-40, 0.0], np.float32), fp32.shape), fp32)
    scales = rng.integers(0, 256, (rows, fp32.shape[1], 16)).astype(np.uint8)
    scales[:, :, :4] = fp32[:, :, None].view(np.uint8)
    return scales.reshape(rows, -1)[:, :groups]


CASES = [pytest.param(fmt, bits, id=f"{format_name(fmt)}-{bits}") for bits in (64, 80) for fmt in all_formats(bits)]


@pytest.mark.parametrize(("fmt", "acc_bits"), CASES)
def test_sums_and_flags_by_definition(fmt: TermFormat, acc_bits: int, rng: np.random.Generator) -> None:
    seen = False
    for specials in (0.0, 0.0, 0.01):  # small scales may leave nothing of one draw
        steps = (1 << fmt.block) * int(rng.integers(1, 4)) if fmt.scale != Scale.NONE else int(rng.integers(1, 9))
        arrays = operands(rng, fmt, 4, 3, steps, specials)
        total, flags = matmul_terms(*arrays, fmt, lanes=LANES, acc_bits=acc_bits)
        for m in range(4):
            for n in range(3):
                exact, expected_flags = dot(arrays[0][m], arrays[1][n], arrays[2][m], arrays[3][n], fmt, LANES)
                assert int(total[m, n]) == wrapped(exact, acc_bits), (m, n)
                assert flags[m, n] == expected_flags, (m, n)
        seen |= bool(total.any())
    assert seen
