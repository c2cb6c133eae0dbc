"""A sum does not depend on the order of its blocks, nor on how k is split; and where W bits stop being enough."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import BLOCK_ELEMENTS, PAIRS, exact_elements, headroom
from tilescore.rtl.spec.isa import Pair, Scale
from tilescore.sim.numerics.accumulators import merged, planes_of
from tilescore.sim.reference.matmul_terms import TermFormat, matmul_terms
from tilescore.tests.sim.reference.matmul_oracle import block_steps, dot, format_name
from tilescore.tests.sim.reference.test_matmul_terms import LANES, operands

NANO = load_tile("nano")
LONGEST_K = 1 << 16
SIDE = 16
"""Rows of A and B: a product is 256 dot products, four of them are over a thousand."""


def scaled(pair: Pair, scale: Scale, elements: int, *, a: bool = True, acc_bits: int = 64) -> TermFormat:
    """A format with scales on B, and on A unless ``a`` is False, for sums of up to `LONGEST_K` elements."""
    step = PAIRS[pair].products_per_step(LANES)
    return TermFormat(pair=pair, scale=scale, a_scaled=a, b_scaled=True, block=(elements // step).bit_length() - 1,
                      headroom=headroom(pair, scale, elements, LONGEST_K // elements, acc_bits))


FORMATS = [(TermFormat(pair=pair), 80 if pair == Pair.E5M2 else 64) for pair in PAIRS] + [
    (scaled(Pair.E2M1, Scale.E4M3, 16), 64), (scaled(Pair.E4M3_E2M1, Scale.E4M3, 16, a=False), 64),
    (scaled(Pair.E4M3, Scale.E8M0, 32), 64), (scaled(Pair.E2M1, Scale.E8M0, 32), 64),
    (scaled(Pair.E4M3_E2M1, Scale.E8M0, 32), 64), (scaled(Pair.E4M3, Scale.E8M0, 128), 64),
    (scaled(Pair.E5M2, Scale.E8M0, 32, acc_bits=96), 96), (scaled(Pair.E4M3, Scale.FP32, 128), 64)]


def steps_of(fmt: TermFormat, k: int) -> int:
    return k // PAIRS[fmt.pair].products_per_step(LANES)


def in_order(arrays: tuple, fmt: TermFormat, order: np.ndarray) -> tuple:
    """The operands with their blocks (without scales: pairs of steps) in another order."""
    span = max(1 << fmt.block, PAIRS[fmt.pair].b_steps)
    result = []
    for values, unit in zip(arrays, (LANES, LANES, 1, 1), strict=True):
        of_b = values is arrays[1] or values is arrays[3]
        size = span // (PAIRS[fmt.pair].b_steps if of_b else 1) * unit
        result.append(values.reshape(len(values), -1, size)[:, order].reshape(len(values), -1))
    return tuple(result)


def part(arrays: tuple, fmt: TermFormat, low: int, high: int) -> tuple:
    """Steps low .. high-1."""
    every = PAIRS[fmt.pair].b_steps
    a, b, a_scales, b_scales = arrays
    return (a[:, low * LANES:high * LANES], b[:, low // every * LANES:high // every * LANES], a_scales[:, low:high],
            b_scales[:, low // every:high // every])


def split_sum(arrays: tuple, fmt: TermFormat, cuts: list[int], config: TileConfig) -> tuple[np.ndarray, np.ndarray]:
    """Each part's sum is spilled to ACC as raw planes and merged there with the next, as MATMUL does it."""
    acc = np.zeros((1 << config.acc_addr_bits, SIDE), np.uint32)
    upper = np.zeros(acc.shape, np.uint8)
    rows = np.arange(SIDE)
    total, flags = np.zeros(0), np.zeros(0)
    for number, (low, high) in enumerate(pairwise(cuts)):
        total, flags = matmul_terms(*part(arrays, fmt, low, high), fmt, lanes=LANES, acc_bits=config.acc_bits)
        if number:
            total, flags = merged(total, flags, acc, upper, rows, config)
        for plane, (words, bits) in enumerate(planes_of(total, flags, config)):
            row = rows + plane * config.acc_addr(config.acc_plane_banks)
            acc[row], upper[row] = words, bits
    return total, flags


@pytest.mark.parametrize(("fmt", "acc_bits"), FORMATS, ids=lambda value: format_name(value) if isinstance(
    value, TermFormat) else str(value))
def test_order_and_splits_do_not_change_a_bit(fmt: TermFormat, acc_bits: int, rng: np.random.Generator) -> None:
    """1,024 dot products, 256 of them with 65,536 elements: blocks shuffled, k cut at random places."""
    config = TileConfig(**NANO.to_dict() | {"acc_bits": acc_bits, "acc_banks": 12, "acc_bank_rows": SIDE, "cols": SIDE,
                                            "b_buffer_bytes": 1 << 16, "formats": ("e4m3",), "scales": ()})
    unit = max(1 << fmt.block, PAIRS[fmt.pair].b_steps)
    inexact = False
    for number in range(4):
        steps = steps_of(fmt, LONGEST_K) if number == 0 else unit * int(rng.integers(5, 120))
        arrays = operands(rng, fmt, SIDE, SIDE, steps, 1e-5 if number else 0.0)
        if fmt.scale == Scale.E8M0:
            arrays[2][::4, ::unit] = 50  # below the grid
        total, flags = matmul_terms(*arrays, fmt, lanes=LANES, acc_bits=acc_bits)
        shuffled = in_order(arrays, fmt, rng.permutation(steps // unit))
        again, again_flags = matmul_terms(*shuffled, fmt, lanes=LANES, acc_bits=acc_bits)
        assert (total == again).all() and (flags == again_flags).all()
        cuts = sorted({0, steps, *(unit * rng.integers(1, steps // unit, 3)).tolist()})
        parts, part_flags = split_sum(shuffled, fmt, cuts, config)
        assert (total == parts).all() and (flags == part_flags).all()
        inexact |= bool((flags & 8).any())
    assert inexact == (fmt.scale in (Scale.E8M0, Scale.FP32))


# ---- Limits of exactness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pair", "scale", "order"), [
    (Pair.E4M3, Scale.NONE, 27), (Pair.E4M3_E5M2, Scale.NONE, 13), (Pair.E2M1, Scale.E4M3, 20)])
def test_documented_limits_at_64_bits(pair: Pair, scale: Scale, order: int) -> None:
    """design: numeric contract, rule 7: the largest power of two of elements that cannot leave 64 bits."""
    assert 1 << order <= exact_elements(pair, scale, 64) < 2 << order


def test_e5m2_squared_needs_80_bits() -> None:
    assert exact_elements(Pair.E5M2, Scale.NONE, 64) == 0
    assert exact_elements(Pair.E5M2, Scale.NONE, 80) >= 1 << 15


@pytest.mark.parametrize(("pair", "scale"), [
    (Pair.E4M3_E5M2, Scale.NONE), (Pair.E5M2_E4M3, Scale.NONE), (Pair.E2M1, Scale.E4M3), (Pair.E4M3, Scale.NONE)])
def test_one_element_past_the_limit_wraps(pair: Pair, scale: Scale) -> None:
    """Largest codes everywhere: exact up to the limit, the next largest sum is negative.

    Sums of long k are put together from parts, which is what the tile does with them.
    """
    spec = PAIRS[pair]
    limit = exact_elements(pair, scale, 64)
    block = BLOCK_ELEMENTS[scale][0] if scale != Scale.NONE else 1
    largest = {"e4m3": 0x7E, "e5m2": 0x7B, "e2m1": 0x77}
    fmt = TermFormat(pair=pair, scale=scale, a_scaled=scale != Scale.NONE, b_scaled=scale != Scale.NONE)
    unit = spec.max_product * (229376**2 if scale == Scale.E4M3 else 1)
    total, count = 0, limit // block * block
    step = spec.products_per_step(LANES)
    for elements in (count, block):
        total += dot_of_largest(largest[spec.a.name], largest[spec.b.name], elements, step, fmt)
        if elements == count:
            assert np.int64(total) == count * unit
    with np.errstate(over="ignore"):
        wrapped = (total + (1 << 63)) % (1 << 64) - (1 << 63)
    assert wrapped < 0
    assert total == (count + block) * unit > (1 << 63) - 1


def dot_of_largest(a: int, b: int, elements: int, step: int, fmt: TermFormat) -> int:
    """Sum of ``elements`` equal products, from sums of at most 2**16 steps by the twin, as an exact integer."""
    total = 0
    chunk = min(elements // step, 1 << 16) if elements >= step else 0
    parts = [(chunk * step, elements // (chunk * step))] if chunk else []
    rest = elements - sum(size * times for size, times in parts)
    for size, times in [*parts, (rest, 1)]:
        if not size:
            continue
        whole = -(-size // step)
        x, y = (np.zeros((1, whole * LANES), np.uint8) for _ in range(2))
        packed = step // LANES
        x[0, :size // packed], y[0, :size // packed] = a, b
        scales = np.full((1, whole), 0x7E, np.uint8)
        sums, flags = matmul_terms(x, y, scales, scales, fmt, lanes=LANES, acc_bits=64)
        assert not flags.any()
        total += int(sums[0, 0]) * times
    return total


@pytest.mark.parametrize(("pair", "spread"), [(Pair.E2M1, 39), (Pair.E4M3, 11)])
@pytest.mark.parametrize("beyond", [0, 1])
def test_spread_of_e8m0_scales_at_64_bits(pair: Pair, spread: int, beyond: int) -> None:
    """design: numeric contract, rule 7: MXFP4 is exact for a spread up to 39 at K = 2**16, MXFP8 up to 11."""
    fmt = scaled(pair, Scale.E8M0, 32)
    assert fmt.headroom == spread
    steps = 1 << fmt.block
    largest, smallest = (0x77, 0x01) if pair == Pair.E2M1 else (0x7E, 0x01)
    a, b = (np.full((1, 2 * steps * LANES), largest, np.uint8) for _ in range(2))
    a[0, steps * LANES:], b[0, steps * LANES:] = 0, 0
    a[0, -1] = b[0, -1] = smallest  # the smallest product, in a block that lies ``spread`` orders lower
    a_scales, b_scales = (np.zeros((1, 2 * steps), np.uint8) for _ in range(2))
    a_scales[0, steps:], b_scales[0, steps:] = spread // 2, spread - spread // 2 + beyond
    total, flags = matmul_terms(a, b, a_scales, b_scales, fmt, lanes=LANES, acc_bits=64)
    exact, expected = dot(a[0], b[0], a_scales[0], b_scales[0], fmt, LANES)
    assert int(total[0, 0]) == exact and flags[0, 0] == expected
    assert bool(flags[0, 0] & 8) == bool(beyond)


def test_the_longest_mxfp4_and_mxfp8_sums_just_fit() -> None:
    """65,536 largest elements with scales at the anchor do not wrap; with one order more of headroom they do."""
    for pair, largest in ((Pair.E2M1, 0x77), (Pair.E4M3, 0x7E)):
        fmt = scaled(pair, Scale.E8M0, 32)
        steps = steps_of(fmt, LONGEST_K)
        codes, scales = np.full((1, steps * LANES), largest, np.uint8), np.zeros((1, steps), np.uint8)
        exact = LONGEST_K * PAIRS[pair].max_product
        for more, fits in ((0, True), (1, False)):
            shifted = TermFormat(pair=pair, scale=Scale.E8M0, a_scaled=True, b_scaled=True, block=fmt.block,
                                 headroom=fmt.headroom + more)
            total, _ = matmul_terms(codes, codes, scales, scales, shifted, lanes=LANES, acc_bits=64)
            assert (exact << shifted.headroom < 1 << 63) == fits
            assert (int(total[0, 0]) == exact << shifted.headroom) == fits


def test_every_block_size_is_tried() -> None:
    assert {1 << block for pair in PAIRS for block in block_steps(pair, Scale.E8M0)} == {2, 4, 8, 16}
