"""The register of scale bytes: every layout, from DRAM order to groups and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.dma.scale_register import ScaleCollector, ScaleReader
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.isa import ScaleLayout
from tilescore.rtl.spec.scale_layout import scale_groups

NANO = load_tile("nano")
TILES = {bus: dataclasses.replace(NANO, bus_bytes=bus, cols=cols, b_buffer_bytes=1 << 15, scales=("e8m0", "fp32"))
         for bus, cols in ((8, 4), (16, 4), (64, 16))}
LAYOUTS = list(ScaleLayout)[1:]


def beats(layout: ScaleLayout, config: TileConfig) -> list[tuple[int, dict[int, int]]]:
    """(position, {group: byte}) of the data beats whose scale bytes fill a register."""
    count, result = config.bus_bytes // config.lanes, []
    groups = scale_groups(layout, config.bus_bytes).tolist()
    for first in range(0, groups[-1] + 1, count):
        places = {g - first: byte for byte, g in enumerate(groups) if first <= g < first + count}
        result.append((min(places.values(), default=0), places))
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bus", TILES)
def test_a_beat_is_dealt_out_and_collected_again(bus: int, layout: ScaleLayout, rng: np.random.Generator) -> None:
    config = TILES[bus]
    data = rng.integers(0, 256, bus).astype(np.uint8).tobytes()
    reader, collector = ScaleReader(config), ScaleCollector(config)
    garbage = int.from_bytes(b"\xee" * (bus // config.lanes), "little")

    async def read(ctx) -> None:
        ctx.set(reader.scale, layout)
        ctx.set(reader.beat, int.from_bytes(data, "little"))
        ctx.set(reader.fill, 1)
        await ctx.tick()
        ctx.set(reader.beat, 0)
        ctx.set(reader.fill, 0)
        for position, places in beats(layout, config):
            ctx.set(reader.position, position)
            await ctx.tick()
            seen = ctx.get(reader.groups).to_bytes(bus // config.lanes, "little")
            assert {g: seen[g] for g in places} == {g: data[byte] for g, byte in places.items()}

    async def collect(ctx) -> None:
        ctx.set(collector.scale, layout)
        ctx.set(collector.take, 1)
        known = 0
        for position, places in beats(layout, config):
            ctx.set(collector.position, position)
            ctx.set(collector.starts, sum(1 << g for g in places))
            groups = bytearray(garbage.to_bytes(bus // config.lanes, "little"))
            for g, byte in places.items():
                groups[g] = data[byte]
                known |= 1 << byte
            ctx.set(collector.groups, int.from_bytes(groups, "little"))
            await ctx.tick()
            assert ctx.get(collector.valid) == known
        ctx.set(collector.take, 0)
        assert ctx.get(collector.beat) == int.from_bytes(data, "little")
        ctx.set(collector.clear, 1)
        await ctx.tick()
        assert ctx.get(collector.valid) == 0

    for dut, bench in ((reader, read), (collector, collect)):
        sim = Simulator(dut)
        sim.add_clock(1e-8)
        sim.add_testbench(bench)
        sim.run()


def test_rows_of_one_group_are_packed_closer_than_a_beat() -> None:
    """The reader need not find the first byte at a multiple of a beat's scale bytes."""
    config = TILES[64]
    reader = ScaleReader(config)

    async def bench(ctx) -> None:
        ctx.set(reader.scale, ScaleLayout.G1)
        ctx.set(reader.beat, int.from_bytes(range(64), "little"))
        ctx.set(reader.fill, 1)
        await ctx.tick()
        for position in (0, 1, 5, 63):
            ctx.set(reader.position, position)
            await ctx.tick()
            assert ctx.get(reader.groups) & 0xFF == position

    sim = Simulator(reader)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
