"""The sequencer: k steps and result tiles of random instructions, in the cycles that it states."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl import plan
from tilescore.rtl.matrix.sequencer import MatrixSequencer
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.isa import Matmul
from tilescore.tests.rtl.matrix.bench import CONFIGS, random_matmul


def expected_steps(config: TileConfig, i: Matmul, issued: int) -> dict[int, tuple]:
    """cycle -> (rows, first, last, A group, B group) of the k steps."""
    steps, cycle = {}, issued + 2
    for j in range(i.n_tiles):
        for panel in range(-(-i.m_rows // config.rows)):
            cycle += plan.matmul_slot(i.k_steps, config)
            for k in range(i.k_steps):
                steps[cycle - i.k_steps + k] = (
                    min(config.rows, i.m_rows - panel * config.rows), int(k == 0), int(k == i.k_steps - 1),
                    i.a_addr + panel * i.a_pitch + k, i.b_addr + j * i.b_pitch + k)
    return steps


def expected_tiles(config: TileConfig, i: Matmul, issued: int) -> dict[int, dict[str, int]]:
    """cycle -> fields of the result tiles."""
    tiles, cycle = {}, issued + 2
    for j in range(i.n_tiles):
        for row in range(0, i.m_rows, config.rows):
            cycle += plan.matmul_slot(i.k_steps, config)
            tiles[cycle - 1] = {
                "rows": min(config.rows, i.m_rows - row), "addr": i.acc_addr + row + j * i.acc_pitch,
                "limit": i.mask_base + i.mask_step * row - j * config.cols + 1, "row": row,
                "low": i.mask_low_base + i.mask_low_step * row - j * config.cols,
                "rowmax_init": int(i.rowmax_init and j == 0),
                **{name: getattr(i, name) for name in ("merge", "raw", "mask", "mask_step", "mask_low", "mask_low_step",
                                                       "rowmax", "rowmax_addr")}}
    return tiles


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_and_tiles_of_random_instructions(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    dut = MatrixSequencer(config)
    steps, tiles = {}, {}
    seen_steps, seen_tiles = {}, {}

    async def testbench(ctx) -> None:
        cycle, todo, idle = 0, 25, 0
        while idle < 4:
            ctx.set(dut.unit.start, 0)
            idle = idle + 1 if ctx.get(dut.unit.ready) and not todo else 0
            if todo and ctx.get(dut.unit.ready) and rng.random() < 0.7:
                instruction = random_matmul(config, rng)
                for f in instruction.spec.fields:
                    ctx.set(getattr(dut.unit.command, f.name), getattr(instruction, f.name))
                ctx.set(dut.unit.start, 1)
                steps.update(expected_steps(config, instruction, cycle))
                tiles.update(expected_tiles(config, instruction, cycle))
                todo, idle = todo - 1, 0
            if ctx.get(dut.b_step.valid):
                step = dut.a_step
                seen_steps[cycle] = tuple(ctx.get(v) for v in (
                    step.rows, step.first, step.last, step.addr, dut.b_step.addr))
            else:
                assert ctx.get(dut.a_step.rows) == 0
            if ctx.get(dut.tile_done):
                seen_tiles[cycle] = {field: ctx.get(dut.tile[field]) for field in dut.tile.shape().members}
            await ctx.tick()
            cycle += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert seen_steps == steps
    assert seen_tiles == tiles
