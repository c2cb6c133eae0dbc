# amaranth: UnusedElaboratable=no
"""Special functions in Amaranth's simulator against the twin; accuracy is in tests/sim/numerics/test_arithmetic.py."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from tilescore.rtl.arith.functions import SpecialFunction
from tilescore.rtl.arith.interpolate import QuadraticInterpolator
from tilescore.rtl.spec import function_tables as tables
from tilescore.rtl.spec.function_codes import Function
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.arith.streams import float_key, hard_fp32, run_pipeline, unpacked_to_float


def segment(c0: int, c1: int, c2: int) -> tables.Segment:
    return tables.Segment(c0=c0, c1=c1, c2=c2)


def test_latency_of_every_function() -> None:
    assert SpecialFunction.LATENCY == 11
    assert QuadraticInterpolator.LATENCY == 4


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_a_table_is_a_power_of_two(count: int) -> None:
    with pytest.raises(ValueError, match=f"power of two of them, not {count}"):
        QuadraticInterpolator(segments=(segment(0, 0, 0),) * count, x_bits=4, offset_bits=2)


@pytest.mark.parametrize("coefficient", ["c0", "c1", "c2"])
def test_coefficients_fit_their_fields(coefficient: str) -> None:
    bits = {"c0": tables.C0_BITS, "c1": tables.C1_BITS, "c2": tables.C2_BITS}[coefficient]
    zeros = dict.fromkeys(("c0", "c1", "c2"), 0)
    tables.Segment(**(zeros | {coefficient: (1 << bits - 1) - 1}))
    tables.Segment(**(zeros | {coefficient: -(1 << bits - 1)}))
    for value in (1 << bits - 1, -(1 << bits - 1) - 1):
        with pytest.raises(ValueError, match=f"coefficient {coefficient} must fit in {bits}"):
            tables.Segment(**(zeros | {coefficient: value}))


def test_interpolator_evaluates_every_coefficient_sign(rng: np.random.Generator) -> None:
    segments = tuple(
        segment(*(int(rng.integers(-(1 << bits - 1), 1 << bits - 1)) for bits in (30, 23, 17)))
        for _ in range(64)
    )
    address, x = rng.integers(0, 64, 2000), rng.integers(0, 1 << 17, 2000)
    offset = rng.integers(-(1 << 33), 1 << 33, 2000)
    x[:2], offset[:2] = [0, (1 << 17) - 1], [-(1 << 33), (1 << 33) - 1]
    dut = QuadraticInterpolator(segments=segments, x_bits=17, offset_bits=34)
    inputs = {"address": address, "x": x, "offset": offset}
    got = run_pipeline(dut, inputs, ["value"], dut.LATENCY)["value"]
    for index in range(2000):  # Python's >> rounds towards minus infinity at any size
        s, position = segments[address[index]], int(x[index])
        expected = int(offset[index]) + s.c0 + ((s.c1 + (s.c2 * position >> 17)) * position >> 17)
        assert got[index] == expected & (1 << 35) - 1


@pytest.mark.parametrize("function", list(Function), ids=lambda function: function.name.lower())
def test_function_equals_the_twin(function: Function, rng: np.random.Generator) -> None:
    words = hard_fp32(rng, 4000)
    varied = (words & np.uint32(0x807FFFFF)) | (rng.integers(98, 138, 4000) << 23).astype(np.uint32)
    words[1000:] = varied[1000:]
    got = run_pipeline(
        SpecialFunction(), {"u": words, "func": [function.value] * 4000}, ["result"], SpecialFunction.LATENCY
    )["result"]
    expected = arithmetic.special_function(function, words.view(np.float32))
    wrong = np.flatnonzero(float_key(unpacked_to_float(got)) != float_key(expected))
    assert [(hex(words[i]), expected[i]) for i in wrong] == []


def test_functions_may_change_in_every_cycle(rng: np.random.Generator) -> None:
    words = (rng.normal(size=1000) * 8).astype(np.float32).view(np.uint32)
    func = rng.integers(0, len(Function), 1000)
    got = run_pipeline(SpecialFunction(), {"u": words, "func": func}, ["result"], SpecialFunction.LATENCY)[
        "result"
    ]
    each = np.stack([arithmetic.special_function(function, words.view(np.float32)) for function in Function])
    assert (float_key(unpacked_to_float(got)) == float_key(each[func, np.arange(1000)])).all()


@pytest.mark.parametrize(
    ("function", "u", "result"),
    [
        (Function.NONE, -0.0, -0.0),
        (Function.NONE, 2.0**-149, 2.0**-149),
        (Function.EXP2, -np.inf, 0.0),
        (Function.EXP2, np.inf, np.inf),
        (Function.EXP2, -0.0, 1.0),
        (Function.EXP2, 0.0, 1.0),
        (Function.EXP2, -149.0, 2.0**-149),
        (Function.EXP2, 127.0, 2.0**127),
        (Function.EXP2, 511.0, 2.0**511),
        (Function.EXP2, 512.0, np.inf),
        (Function.EXP2, -512.0, 0.0),
        (Function.RECIPROCAL, 0.0, np.inf),
        (Function.RECIPROCAL, -0.0, -np.inf),
        (Function.RECIPROCAL, np.inf, 0.0),
        (Function.RECIPROCAL, -np.inf, -0.0),
        (Function.RECIPROCAL, 1.0, 1.0),
        (Function.RECIPROCAL, -0.125, -8.0),
        (Function.RECIPROCAL, 2.0**-149, 2.0**149),
        (Function.SIGMOID, 0.0, 0.5),
        (Function.SIGMOID, -0.0, 0.5),
        (Function.SIGMOID, np.inf, 1.0),
        (Function.SIGMOID, -np.inf, 0.0),
        (Function.SIGMOID, 600.0, 1.0),
        (Function.SIGMOID, -600.0, 0.0),
        (Function.SIGMOID, 40.0, 1.0),
        (Function.RSQRT, 0.0, np.inf),
        (Function.RSQRT, -0.0, -np.inf),
        (Function.RSQRT, np.inf, 0.0),
        (Function.RSQRT, -np.inf, np.nan),
        (Function.RSQRT, -(2.0**-149), np.nan),
        (Function.RSQRT, -4.0, np.nan),
        (Function.RSQRT, 1.0, 1.0),
        (Function.RSQRT, 0.25, 2.0),
        (Function.RSQRT, 2.0**126, 2.0**-63),
        (Function.RSQRT, 2.0**-148, 2.0**74),
        *[(function, np.nan, np.nan) for function in Function],
    ],
)
def test_special_values(function: Function, u: float, result: float) -> None:
    word = [int(np.float32(u).view(np.uint32))]
    got = run_pipeline(
        SpecialFunction(), {"u": word, "func": [function.value]}, ["result"], SpecialFunction.LATENCY
    )
    expected = np.array([result])
    assert float_key(unpacked_to_float(got["result"])) == float_key(expected)
    twin = arithmetic.special_function(function, np.array([u], np.float32))
    assert float_key(twin) == float_key(expected)


def test_table_values_at_segment_ends() -> None:
    """Nodes of each table against square roots and logarithms taken another way."""
    main, softplus = tables.main_table(), tables.softplus_table()
    with localcontext() as context:
        context.prec = 60
        step = Decimal(2)
        for _ in range(7):
            step = step.sqrt()  # 2 ** (1/128)
        for index in range(128):
            assert abs(main[index].c0 - 8 - step**index * 2**27) <= Decimal("0.5")
            assert abs(main[128 + index].c0 - 8 - 256 * 2**27 / Decimal(128 + index)) <= Decimal("0.5")
            for entry, numerator in ((256, 128), (384, 64)):  # m = (128 + index) / numerator
                twice = math.isqrt(2**58 * numerator // (128 + index))  # floor(2**28 * 2/sqrt(m))
                assert main[entry + index].c0 - 8 == twice + 1 >> 1
        for index in range(0, 128, 16):  # t = 0, 1, 2, ... 7
            exact = -(1 + Decimal(2) ** -(index // 16)).log10() / Decimal(2).log10()
            assert abs(softplus[index].c0 - 4 - exact * 2**27) <= Decimal("0.5")
    assert (len(main), len(softplus)) == (512, 256)
    assert all(entry == tables.ZERO_SEGMENT for entry in softplus[224:])
    assert softplus[tables.SOFTPLUS_ZERO_ENTRY] == tables.ZERO_SEGMENT


def test_table_bits_are_the_same_on_every_platform() -> None:
    """A digest of all memory words, as first generated: the tables are part of the numeric contract."""
    words = [entry.packed() for table in (tables.main_table(), tables.softplus_table()) for entry in table]
    digest = 0
    for word in words:
        digest = (digest * 1000003 + word) % ((1 << 61) - 1)
    assert digest == 190861120504460280
    assert tables.log2e() == 6196328019  # 0x171547653: log2(e) = 1.71547652B82FE... in hexadecimal
