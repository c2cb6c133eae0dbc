"""Slots of DMA instructions, and where scale bytes lie in the register, against a walk over bytes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tilescore.rtl.dma.address import BeatCounter
from tilescore.rtl.dma.scale_walk import ScaleWalk
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.isa import Instruction, Load, ScaleLayout, Store
from tilescore.rtl.spec.scale_layout import scale_groups, scale_row_bytes

NANO = load_tile("nano")
SCALES = ("e8m0", "fp32")
TILES = {bus: dataclasses.replace(NANO, bus_bytes=bus, cols=cols, b_buffer_bytes=1 << 15, scales=SCALES)
         for bus, cols in ((8, 4), (16, 4), (64, 16))}
G1, G2, G4, G16, FP32 = list(ScaleLayout)[1:]


class Slot(NamedTuple):
    """row: of the slot; places: {group of the data beat: byte of the register}, None for a scale beat."""

    row: int
    places: dict[int, int] | None
    row_starts: bool
    done: bool


def expected_slots(i: Instruction, config: TileConfig) -> list[Slot]:
    """By definition: which register's worth of scale bytes a beat needs, and the order of the two."""
    bus, lanes = config.bus_bytes, config.lanes
    layout, store = ScaleLayout(i.scale), i.spec.name == "STORE"
    groups = scale_groups(layout, scale_row_bytes(i, config)).tolist() if layout else []
    slots: list[tuple[int, dict[int, int] | None]] = []
    held = None
    for row in range(i.rows):
        offset = 0 if store else row * i.scale_stride
        for beat in range(-(-i.row_bytes // bus)):
            first = beat * bus // lanes
            bytes_at = {g - first: offset + k for k, g in enumerate(groups) if first <= g < first + bus // lanes}
            needed = min(bytes_at.values()) // bus if bytes_at else None
            if needed is not None and held != needed:
                if not store or (held is not None and beat):
                    slots.append((row, None))
                held = needed
            slots.append((row, {g: byte % bus for g, byte in bytes_at.items()}))
        if store and layout:
            slots.append((row, None))
            held = None
    return [Slot(row, places, n == 0 or slots[n - 1][0] != row, n == len(slots) - 1)
            for n, (row, places) in enumerate(slots)]


def walk(instructions: list[Instruction], config: TileConfig, store: bool, count: int) -> list[Slot]:
    """What the hardware says in ``count`` slots, one instruction after another."""
    m = Module()
    m.submodules.beats = beats = BeatCounter(config)
    m.submodules.walk = dut = ScaleWalk(config, store=store)
    m.d.comb += [*dut.follow(beats), beats.step.eq(dut.step & ~dut.is_scale)]
    slots = []

    async def bench(ctx) -> None:
        waiting, row = list(instructions), 0
        for n in range(2 * count):
            i = waiting[0] if waiting else instructions[0]
            ctx.set(beats.extent, {"last_row": i.rows - 1, "last_byte": i.row_bytes - 1})
            ctx.set(dut.scales, {"scale": i.scale, "scale_stride": i.scale_stride})
            ctx.set(dut.step, n % 2)  # every slot waits a cycle
            if n % 2 == 0:
                await ctx.tick()
                continue
            scale = bool(ctx.get(dut.is_scale))
            starts, position, mask = ctx.get(dut.starts), ctx.get(dut.position), ctx.get(beats.mask)
            marked = [g for g in range(config.bus_bytes // config.lanes) if starts >> g & mask >> g * config.lanes & 1]
            places = {g: position + k for k, g in enumerate(marked)}
            slots.append(Slot(row, None if scale else places, bool(ctx.get(dut.row_starts)), bool(ctx.get(dut.done))))
            ends = ctx.get(dut.row_end) if store and i.scale and scale else ctx.get(dut.row_done) and not scale
            if ctx.get(dut.done):
                waiting, row = waiting[1:], 0
            elif ends and (scale or not (store and i.scale)):
                row += 1
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return slots


def random_instruction(rng: np.random.Generator, config: TileConfig, store: bool) -> Instruction:
    bus, layout = config.bus_bytes, ScaleLayout(int(rng.integers(0, 6)))
    i = (Store if store else Load)(rows=int(rng.integers(1, 6)), row_bytes=int(rng.integers(1, 4 * bus)))
    if layout:
        block = {G1: 1, G2: 2, G4: 4}.get(layout, 16) * config.lanes
        i.scale, i.row_bytes = layout, block * int(rng.integers(1, 3 * bus if rng.random() < 0.3 else 4))
        size = scale_row_bytes(i, config)
        strides = [stride for stride in (1, 2, 4, 8, 16, 32) if size <= stride < bus] + [-(-size // bus) * bus]
        i.scale_stride = int(rng.choice(strides + [0] * (not store and size <= bus)))
    return i


@pytest.mark.parametrize("store", [False, True])
@pytest.mark.parametrize("bus", TILES)
def test_slots(bus: int, store: bool, rng: np.random.Generator) -> None:
    config = TILES[bus]
    instructions = [random_instruction(rng, config, store) for _ in range(30)]
    expected = [slot for i in instructions for slot in expected_slots(i, config)]
    seen = walk(instructions, config, store, len(expected))
    wrong = [n for n, (a, b) in enumerate(zip(seen, expected, strict=True)) if a != b]
    assert not wrong, f"slot {wrong[0]}: {seen[wrong[0]]}, expected {expected[wrong[0]]}"


@pytest.mark.parametrize(("instruction", "slots"), [
    (Load(rows=3, row_bytes=32, scale=G4, scale_stride=0), "S DD DD DD"),
    (Load(rows=3, row_bytes=32, scale=G4, scale_stride=8), "S DD DD S DD"),
    (Load(rows=2, row_bytes=32, scale=G4, scale_stride=32), "S DD S DD"),
    (Load(rows=1, row_bytes=144, scale=G1, scale_stride=32), "S DDDDDDDD S D"),
    (Store(rows=3, row_bytes=32, scale=G4, scale_stride=8), "DD S DD S DD S"),
    (Store(rows=1, row_bytes=144, scale=G1, scale_stride=32), "DDDDDDDD S D S"),
    (Store(rows=2, row_bytes=32), "DD DD"),
])
def test_order_of_slots(instruction, slots: str) -> None:
    """With 16-byte beats of two groups."""
    order = slots.replace(" ", "")
    seen = walk([instruction], TILES[16], instruction.spec.name == "STORE", len(order))
    assert "".join("S" if slot.places is None else "D" for slot in seen) == order


def test_a_tile_without_scales_has_none() -> None:
    seen = walk([Load(rows=2, row_bytes=32)], NANO, False, 4)
    assert [slot.places for slot in seen] == [{}] * 4
    assert [slot.done for slot in seen] == [False, False, False, True]
