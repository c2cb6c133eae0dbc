"""The model of VECTOR against loops in Python with exact arithmetic, and against hand-made layouts."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.isa import Combine, Dest, Func, Halt, Reduce, Source, Vector
from tilescore.sim.numerics.arithmetic import quantize_e4m3
from tilescore.sim.reference.vector_model import compute, reduce_rows, run_vector

ONE = fp32_bits(1.0)
NAN = 0x7FC00000


@pytest.fixture
def config():
    return load_tile("nano")


def memories(config, rng):
    acc = (
        (rng.standard_normal((1 << config.acc_addr_bits, config.cols)) * 4).astype(np.float32).view(np.uint32)
    )
    return acc, rng.integers(0, 256, (config.rows, (1 << config.a_addr_bits) * config.lanes)).astype(np.uint8)


def rounded(value: Fraction | float) -> float:
    """A finite number to FP32, nearest even: of this size, it is exact in float64 or far from a tie."""
    return float(np.float32(float(value)))


def test_other_instructions_and_wrong_memories_are_refused(config, rng):
    acc, a = memories(config, rng)
    with pytest.raises(ValueError, match="expected a VECTOR instruction, got HALT"):
        run_vector(Halt(), config, acc, a)
    vector = Vector(rows=1, tiles=1)
    with pytest.raises(ValueError, match=r"acc: expected uint32 of shape \(512, 4\)"):
        run_vector(vector, config, acc[:5], a)
    with pytest.raises(ValueError, match="a: expected uint8"):
        run_vector(vector, config, acc, a.astype(np.int8))
    with pytest.raises(ValueError, match="flags: expected uint8"):
        run_vector(vector, config, acc, a, acc)


def operand(config, acc, i, name, row, tile, lane):
    """One element, as the field's description says."""
    kind, value = Source(getattr(i, f"{name}_kind")), getattr(i, name)
    if kind is Source.IMM:
        return float(np.uint32(value).view(np.float32))
    address, lane = {
        Source.ACC: (value + row + tile * i.pitch, lane),
        Source.ROW: (value + row // config.cols, row % config.cols),
        Source.COLUMN: (value + tile * i.pitch, lane),
    }[kind]
    return float(acc[address, lane].view(np.float32))


@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("kind", list(Source))
def test_every_operand_kind_element_by_element(config, rng, combine, kind):
    acc, a = memories(config, rng)
    i = Vector(
        rows=6,
        tiles=3,
        x_addr=7,
        pitch=11,
        combine=int(combine),
        dest=int(Dest.ACC),
        dst_addr=300,
        dst_pitch=9,
    )
    for name, base in (("y", 60), ("z", 120), ("w", 180)):
        setattr(i, f"{name}_kind", int(kind))
        setattr(i, name, fp32_bits(base / 70) if kind is Source.IMM else base)
    before = acc.copy()
    flags = np.full(acc.shape, 3, np.uint8)
    run_vector(i, config, acc, a, flags)
    for row in range(6):
        for tile in range(3):
            for lane in range(4):
                x = float(before[7 + row + 11 * tile, lane].view(np.float32))
                y, z, w = (operand(config, before, i, name, row, tile, lane) for name in "yzw")
                t = rounded(Fraction(x) * Fraction(y))
                u = {
                    Combine.NONE: t,
                    Combine.ADD: rounded(Fraction(t) + Fraction(z)),
                    Combine.SUB: rounded(Fraction(t) - Fraction(z)),
                    Combine.RSUB: rounded(Fraction(z) - Fraction(t)),
                    Combine.MAX: max(t, z),
                }[combine]
                assert acc[300 + row + 9 * tile, lane] == fp32_bits(rounded(Fraction(u) * Fraction(w)))
                assert flags[300 + row + 9 * tile, lane] == 0
    written = np.zeros(len(acc), bool)
    written[[300 + row + 9 * tile for row in range(6) for tile in range(3)]] = True
    assert (acc[~written] == before[~written]).all() and (flags[~written] == 3).all()


@pytest.mark.parametrize(
    ("func", "function"),
    [
        (Func.NONE, lambda u: u),
        (Func.EXP2, lambda u: 2.0**u),
        (Func.RECIPROCAL, lambda u: 1 / u),
        (Func.SIGMOID, lambda u: 1 / (1 + math.exp(-u))),
        (Func.SILU, lambda u: u / (1 + math.exp(-u))),
        (Func.RSQRT, lambda u: 1 / math.sqrt(u) if u > 0 else math.nan),
    ],
)
def test_functions(config, rng, func, function):
    """Relative error of the functions: 2**-20 (`rtl/arith/functions.py`)."""
    acc, _ = memories(config, rng)
    i = Vector(rows=16, tiles=2, x_addr=0, pitch=16, y=ONE, w=fp32_bits(3.0), func=int(func))
    factor = 1.0 if func is Func.SILU else 3.0
    u = np.stack([acc[:16], acc[16:32]], axis=1).view(np.float32).astype(np.float64)
    expected = np.vectorize(function)(u) * factor
    np.testing.assert_allclose(compute(i, config, acc), expected, rtol=2.0**-20)


def test_written_values_of_codes_are_reduced(config):
    """1.03 and 200.3 round to 1 and 208, 1000 saturates to 448: maximum 448, sum 1 + 208 + 448 + 0."""
    acc = np.zeros((1 << config.acc_addr_bits, 4), np.uint32)
    a = np.zeros((config.rows, (1 << config.a_addr_bits) * config.lanes), np.uint8)
    acc[0] = np.array([1.03, 200.3, 1000, 0], np.float32).view(np.uint32)
    shared = {"rows": 1, "tiles": 1, "y": ONE, "w": ONE, "dest": int(Dest.A), "dst_addr": 2}
    run_vector(Vector(**shared, reduce=int(Reduce.MAX), reduce_addr=40), config, acc, a)
    run_vector(Vector(**shared, reduce=int(Reduce.SUM), reduce_addr=41), config, acc, a)
    assert a[0, 16:20].tolist() == [0x38, 0x75, 0x7E, 0]
    assert acc[40:42, 0].tolist() == [fp32_bits(448.0), fp32_bits(657.0)]


def test_rows_of_codes_go_around_the_slices(config, rng):
    """nano: 4 slices, groups of 8 bytes, tiles of 4: row 5 is slice 1, panel 1; tile 3 is half of group 1."""
    acc, a = memories(config, rng)
    before = a.copy()
    i = Vector(rows=6, tiles=4, x_addr=0, pitch=8, y=ONE, w=ONE, dest=int(Dest.A), dst_addr=10, dst_pitch=3)
    run_vector(i, config, acc, a)
    assert (
        a[1, (10 + 3 + 1) * 8 + 4 : (10 + 3 + 2) * 8] == quantize_e4m3(acc[5 + 3 * 8].view(np.float32))
    ).all()
    assert (a[3, 80:84] == quantize_e4m3(acc[3].view(np.float32))).all()
    changed = np.zeros(a.shape, bool)
    changed[:4, 80:96] = True
    changed[:2, 104:120] = True
    assert (a[~changed] == before[~changed]).all()


def test_special_values(config):
    """inf * 0 and inf - inf are the one NaN; NaN wins a maximum, -0 is below +0; an infinity spoils a sum."""
    acc = np.zeros((1 << config.acc_addr_bits, 4), np.uint32)
    a = np.zeros((config.rows, (1 << config.a_addr_bits) * config.lanes), np.uint8)
    acc[0] = [0x7F800000, 0xFFC00123, 0x80000000, 0x00000001]
    shared = {"rows": 1, "tiles": 1, "x_addr": 0, "w": ONE, "dest": int(Dest.ACC)}
    run_vector(Vector(**shared, y=0, dst_addr=8, reduce=int(Reduce.MAX), reduce_addr=12), config, acc, a)
    run_vector(
        Vector(**shared, y=ONE, combine=int(Combine.SUB), z_kind=int(Source.ACC), z=0, dst_addr=9),
        config,
        acc,
        a,
    )
    run_vector(
        Vector(
            **shared,
            y=ONE,
            combine=int(Combine.MAX),
            z=0,
            dst_addr=10,
            reduce=int(Reduce.SUM),
            reduce_addr=13,
        ),
        config,
        acc,
        a,
    )
    assert acc[8].tolist() == [NAN, NAN, 0x80000000, 0]
    assert acc[9].tolist() == [NAN, NAN, 0, 0]
    assert acc[10].tolist() == [0x7F800000, NAN, 0, 1]
    assert (acc[12, 0], acc[13, 0]) == (NAN, NAN)


@pytest.mark.parametrize(("swap", "lanes"), [(0, [0, 1, 2, 3]), (1, [1, 0, 3, 2]), (2, [2, 3, 0, 1])])
def test_swapped_lanes(config, rng, swap, lanes):
    acc, _ = memories(config, rng)
    x = acc[5:8].view(np.float32)
    shared = {"rows": 3, "tiles": 1, "x_addr": 5, "x_swap": swap, "w": ONE}
    out = compute(Vector(**shared, y=ONE), config, acc)
    assert (out[:, 0] == x[:, lanes]).all()
    out = compute(Vector(**shared, y_kind=int(Source.ACC), y=5), config, acc)
    assert (out[:, 0] == x[:, lanes] * x).all()


def test_swap_of_more_lanes_than_there_are(config, rng):
    with pytest.raises(ValueError, match="expected x_swap up to 2, got 3"):
        compute(Vector(rows=1, tiles=1, x_swap=3), config, memories(config, rng)[0])


def test_reduce_rows_is_exact(rng):
    values = (rng.standard_normal((50, 3, 7)) * 1000).astype(np.float32)
    sums = reduce_rows(Reduce.SUM, values)
    for row, result in zip(values, sums, strict=True):
        grid = sum(round(Fraction(float(v)) * 2**24) for v in row.ravel())
        assert result == rounded(Fraction(grid, 2**24))
    assert (reduce_rows(Reduce.MAX, values) == values.reshape(50, -1).max(axis=1)).all()
    zeros = np.array([[-0.0, 0.0, -0.0], [-0.0, -0.0, -0.0]], np.float32)
    assert np.signbit(reduce_rows(Reduce.MAX, zeros)).tolist() == [False, True]
