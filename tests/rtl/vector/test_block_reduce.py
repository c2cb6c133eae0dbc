# amaranth: UnusedElaboratable=no
"""Reductions over blocks of changing size, and the delay line, against numpy."""

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.vector.block_latency import reduce_latency
from tilescore.rtl.vector.block_reduce import BlockReduction, segment_lanes
from tilescore.rtl.vector.delay_line import DelayLine
from tilescore.tests.rtl.arith.streams import run_pipeline


def test_wrong_sizes():
    for sizes in ([], [32, 16], [16, 16], [16, 24]):
        with pytest.raises(ValueError, match="ascending powers of two"):
            BlockReduction(4, sizes)
    with pytest.raises(ValueError, match="cycles must not be negative, got -1"):
        DelayLine(8, -1)


@pytest.mark.parametrize("cycles", [0, 1, 3, 4, 5, 31])
def test_delay_line(cycles, rng):
    values = rng.integers(0, 1 << 16, 100)
    dut = DelayLine(16, cycles)
    if not cycles:
        return
    assert run_pipeline(dut, {"input": values}, ["output"], cycles)["output"] == values.tolist()


@pytest.mark.parametrize("total", [False, True], ids=["maximum", "sum"])
@pytest.mark.parametrize(
    ("cols", "sizes"),
    [(4, (16, 32, 128)), (4, (16,)), (16, (16, 32, 128)), (16, (32,)), (64, (16, 32, 128)), (128, (16, 128)),
     (8, (8,))],
)
def test_blocks_of_changing_size(cols, sizes, total, rng):
    dut = BlockReduction(cols, sizes, total=total)
    segment = segment_lanes(cols, sizes)
    feed, expected = [], []
    for _ in range(30):
        index = int(rng.integers(len(sizes)))
        tiles = max(1, sizes[index] // cols)
        values = rng.integers(0, 1 << (20 if total else 31), (tiles, cols))
        blocks = values.reshape(-1, sizes[index])
        results = blocks.sum(axis=1) if total else blocks.max(axis=1)
        per_segment = results.repeat(sizes[index] // segment).reshape(tiles, -1)
        for tile in range(tiles):
            feed.append((values[tile], index, tile == 0))
            expected.append(per_segment[tile].tolist())
    got = []

    async def testbench(ctx):
        for cycle in range(len(feed) + dut.LATENCY):
            if cycle < len(feed):
                values, index, first = feed[cycle]
                ctx.set(dut.values.as_value(), sum(int(v) << 31 * c for c, v in enumerate(values)))
                ctx.set(dut.size, index)
                ctx.set(dut.first, first)
            else:
                ctx.set(dut.first, 1)
            await ctx.tick()
            if cycle >= dut.LATENCY - 1 and len(got) < len(feed):
                word = ctx.get(dut.results.as_value())
                got.append([word >> 31 * s & 0x7FFFFFFF for s in range(cols // segment)])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert got == expected


def test_latency_by_hand():
    assert reduce_latency(4, (16,)) == 2 + (1 + 1) + (2 + 1) + 1
    assert reduce_latency(16, (16,)) == 4 + 1
    assert reduce_latency(16, (32,)) == 4 + (1 + 1) + 1
    assert reduce_latency(64, (16, 32)) == 6 + 1
