# amaranth: UnusedElaboratable=no
"""The queue of fixed delay."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.lib import data
from amaranth.sim import Simulator

from tilescore.rtl.lib.delayed_queue import DelayedQueue

LAYOUT = data.StructLayout({"tag": 8})


@pytest.mark.parametrize(("delay", "gap", "message"), [(0, 4, "delay must be at least 1, not 0"),
                                                       (3, 0, "gap must be at least 1, not 0")])
def test_delay_and_gap_are_positive(delay: int, gap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DelayedQueue(layout=LAYOUT, delay=delay, gap=gap)


@pytest.mark.parametrize(("delay", "gap"), [(1, 1), (1, 4), (4, 4), (7, 1), (13, 4), (23, 5), (3, 8)])
def test_a_record_comes_out_after_the_delay(delay: int, gap: int, rng: np.random.Generator) -> None:
    dut = DelayedQueue(layout=LAYOUT, delay=delay, gap=gap)
    assert dut.depth == -(-delay // gap)
    pushes, cycle = {}, 0
    for tag in range(40):
        pushes[cycle] = tag
        cycle += gap + (int(rng.integers(0, 9)) if rng.random() < 0.3 else 0)
    seen = {}

    async def testbench(ctx) -> None:
        for now in range(cycle + delay):
            ctx.set(dut.push, int(now in pushes))
            ctx.set(dut.push_data.tag, pushes.get(now, 255))
            if ctx.get(dut.valid):
                seen[now] = ctx.get(dut.popped.tag)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert seen == {push + delay: tag for push, tag in pushes.items()}
