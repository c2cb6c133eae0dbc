"""The array: skewed operands in, columns of exact dot products out, tile after tile."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.matrix.array import SystolicArray
from tilescore.rtl.matrix.timing import pe_latency
from tilescore.rtl.spec.config import TileConfig
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.matrix.bench import CONFIGS, random_codes


def steps_of_tiles(config: TileConfig, k_steps: list[int]) -> list[tuple[int, int] | None]:
    """(tile, k step) of each cycle; idle cycles come first in a slot of at least ``rows`` cycles."""
    steps: list[tuple[int, int] | None] = []
    for tile, k in enumerate(k_steps):
        steps += [None] * max(0, config.rows - k) + [(tile, step) for step in range(k)]
    return steps


@pytest.mark.parametrize("name", ["shallow", "tall", "wide"])
def test_tiles_back_to_back(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    rows, cols, lanes = config.rows, config.cols, config.lanes
    k_steps = [rows, 1, rows, rows, rows + 3, 2, rows + 1]
    steps = steps_of_tiles(config, k_steps)
    a = [random_codes(rng, (rows, k, lanes), 0.002) for k in k_steps]
    b = [random_codes(rng, (cols, k, lanes), 0.002) for k in k_steps]
    # Column c's first value is at the bottom rows - 1 + c cycles and the PE's latency after the tile's last step.
    last = [t for t, step in enumerate(steps) if step and step[1] == k_steps[step[0]] - 1]
    drains = [t + rows - 1 + pe_latency(config) for t in last]
    dut = SystolicArray(config)
    seen = np.zeros((len(k_steps), rows, cols), object)
    nan = np.zeros((len(k_steps), rows, cols), bool)

    def step_at(t: int) -> tuple[int, int] | None:
        return steps[t] if 0 <= t < len(steps) else None

    async def testbench(ctx) -> None:
        for t in range(drains[-1] + rows + cols):
            for r in range(rows):
                step = step_at(t - r)
                ctx.set(dut.a[r].tags.valid, int(step is not None))
                if step:
                    tile, k = step
                    ctx.set(dut.a[r].data, int.from_bytes(a[tile][r, k].tobytes(), "little"))
                    ctx.set(dut.a[r].tags.first, int(k == 0))
                    ctx.set(dut.a[r].tags.last, int(k == k_steps[tile] - 1))
            for c in range(cols):
                step = step_at(t - c)
                if step:
                    ctx.set(dut.b[c], int.from_bytes(b[step[0]][c, step[1]].tobytes(), "little"))
            start = shift = 0
            for c in range(cols):
                for tile, first in enumerate(drains):
                    if 0 <= t - first - c < rows:
                        start |= int(t - first - c == 0) << c
                        shift |= 1 << c
                        row = rows - 1 - (t - first - c)
                        seen[tile, row, c] = ctx.get(dut.drain[c].value)
                        nan[tile, row, c] = ctx.get(dut.drain[c].flags.nan)
            ctx.set(dut.start, start)
            ctx.set(dut.shift, shift)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    for tile in range(len(k_steps)):
        sums, flags = arithmetic.exact_matmul_e4m3(a[tile].reshape(rows, -1), b[tile].reshape(cols, -1))
        assert (seen[tile] == sums).all(), f"tile {tile}"
        assert (nan[tile] == flags).all(), f"tile {tile}"
