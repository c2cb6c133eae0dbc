# amaranth: UnusedElaboratable=no
"""Row reductions against `vector_model.reduce_rows`, with the stated latency."""

import numpy as np
import pytest
from amaranth.hdl import Const, Module
from amaranth.sim import Simulator

from tilescore.rtl.arith.fixed import Fp32ToFixed
from tilescore.rtl.spec.isa import Reduce
from tilescore.rtl.vector.reduce import RowReduction, order_key, word_of_key
from tilescore.sim.numerics import arithmetic
from tilescore.sim.reference.vector_model import reduce_rows
from tilescore.tests.rtl.vector.bench import random_words


@pytest.mark.parametrize("cols", [0, 1, 6])
def test_cols_must_be_a_power_of_two(cols):
    with pytest.raises(ValueError, match=f"power of two from 2 up, not {cols}"):
        RowReduction(cols)


def test_keys_are_in_the_order_of_the_values():
    words = [
        0xFF800000,
        0xFF7FFFFF,
        0xBF800000,
        0x80000001,
        0x80000000,
        0,
        1,
        0x3F800000,
        0x7F7FFFFF,
        0x7F800000,
        0x7FC00000,
    ]
    m = Module()

    async def testbench(ctx):
        keys = [ctx.get(order_key(Const(word, 32))) for word in words]
        assert keys == sorted(set(keys))
        assert [ctx.get(word_of_key(Const(key, 32))) for key in keys] == words

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()


def reduce_in_hardware(cols: int, rows: list[tuple[Reduce, np.ndarray]]) -> list[int]:
    """Results of consecutive rows, each (kind, (tiles, cols) float32), fed one tile per cycle."""
    dut = RowReduction(cols)
    feed = [
        (tile, index == 0, kind, index == len(values) - 1)
        for kind, values in rows
        for index, tile in enumerate(values)
    ]
    results = []

    def packed(values, bits):
        return sum((int(v) & ((1 << bits) - 1)) << (bits * c) for c, v in enumerate(values))

    async def testbench(ctx):
        for cycle in range(len(feed) + dut.LATENCY):
            if cycle < len(feed):
                values, first, kind, _ = feed[cycle]
                ctx.set(dut.written.as_value(), packed(arithmetic.fp32_bits(values), 32))
                ctx.set(dut.first, first)
                ctx.set(dut.sum, kind is Reduce.SUM)
                ctx.set(dut.magnitude, kind is Reduce.ABSMAX)
            if 0 <= cycle - Fp32ToFixed.LATENCY < len(feed):
                values = feed[cycle - Fp32ToFixed.LATENCY][0]
                ctx.set(dut.fixed.as_value(), packed(arithmetic.to_fixed(values), 48))
                ctx.set(dut.special, packed(arithmetic.not_finite(values), 1))
            if cycle >= dut.LATENCY and feed[cycle - dut.LATENCY][3]:
                results.append(ctx.get(dut.result))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


@pytest.mark.parametrize("cols", [4, 8, 16])
def test_rows_of_changing_length(cols, rng):
    """Maxima and sums without gaps; special values are rare enough to leave finite results."""
    rows = []
    for _ in range(60):
        tiles = int(rng.integers(1, 5))
        values = (rng.standard_normal((tiles, cols)) * 100).astype(np.float32)
        if rng.integers(0, 3) == 0:
            values[:, 0] = arithmetic.canonical(random_words(rng, (tiles,)).view(np.float32))
        rows.append((Reduce(int(rng.integers(1, 4))), values))
    expected = [int(arithmetic.fp32_bits(reduce_rows(kind, values[None]))[0]) for kind, values in rows]
    assert reduce_in_hardware(cols, rows) == expected


def test_sum_wraps_and_does_not_depend_on_the_order(rng):
    """2**22 three times is beyond 2**23; what is subtracted afterwards brings the exact sum back."""
    values = np.array(
        [2.0**22, 2.0**22, 2.0**22, -(2.0**22), -(2.0**22), 2.0**-24, 1.5, -(2.0**22)], np.float32
    )
    for _ in range(4):
        order = rng.permutation(values)
        result = reduce_in_hardware(4, [(Reduce.SUM, order.reshape(2, 4))])
        assert result == [int(np.float32(1.5 + 2.0**-24).view(np.uint32))]
