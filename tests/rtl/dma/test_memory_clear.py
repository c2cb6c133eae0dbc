"""The sweep alone: every address of every memory once at least, zeros and all masks set, and how long it takes."""

from __future__ import annotations

import dataclasses

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.dma.memory_clear import MemoryClear, clear_bits
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.isa import INSTRUCTION_BYTES
from tilescore.tests.odd_tiles import ODD_TILES

NANO = load_tile("nano")
TILES = {
    "nano": dataclasses.replace(NANO, name="small nano", a_buffer_bytes=4 * 2 * 16 * 5, a_banks=2,
                                b_buffer_bytes=4 * 2 * 16 * 5, b_banks=2),
} | ODD_TILES


@pytest.mark.parametrize("config", TILES.values(), ids=TILES)
def test_every_address_once_per_sweep(config: TileConfig) -> None:
    dut = MemoryClear(config)
    ports = {name: getattr(dut, name) for name in clear_bits(config)}
    written: dict[str, set] = {name: set() for name in ports}
    cycles = 1 << max(clear_bits(config).values())

    async def bench(ctx) -> None:
        for _ in range(3):
            await ctx.tick()
            assert not any(ctx.get(port.valid) for port in ports.values()) and not ctx.get(dut.cleared)
        for sweep in range(2):
            ctx.set(dut.clear, 1)
            if sweep == 1:  # one that is broken off starts anew
                for _ in range(5):
                    await ctx.tick()
                ctx.set(dut.clear, 0)
                await ctx.tick()
                ctx.set(dut.clear, 1)
            for cycle in range(cycles):
                for name, port in ports.items():
                    assert ctx.get(port.valid) and ctx.get(port.data) == 0
                    assert ctx.get(port.mask) == (1 << config.bus_bytes) - 1
                    fields = [f for f in ("slice", "addr", "part", "beat") if f in port.signature.members]
                    if sweep == 0:
                        written[name].add(tuple(ctx.get(getattr(port, f)) for f in fields))
                assert ctx.get(dut.cleared) == (cycle == cycles - 1)
                await ctx.tick()
            ctx.set(dut.clear, 0)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    beat = config.bus_bytes // config.lanes
    for name, slices, banks, groups, bits in (
            ("a", config.rows, config.a_banks, config.a_bank_groups, config.a_offset_bits),
            ("b", config.cols, config.b_banks, config.b_bank_groups, config.b_offset_bits)):
        assert written[name] >= {(s, bank << bits | group) for s in range(slices) for bank in range(banks)
                                 for group in range(0, groups, beat)}
    assert written["acc"] >= {(config.acc_addr(bank, row), part)
                              for bank in range(config.acc_banks + config.stat_banks)
                              for row in range(config.acc_bank_depth(bank))
                              for part in range(4 * config.cols // config.bus_bytes)}
    assert written["indices"] >= {(beat,) for beat in range(4 * config.index_entries // config.bus_bytes)}
    assert written["program"] == {(beat,) for beat in range(2 * config.imem_page * INSTRUCTION_BYTES
                                                           // config.bus_bytes)}


def test_scale_bytes_are_cleared_with_their_groups() -> None:
    config = dataclasses.replace(TILES["nano"], scales=("e8m0",))
    dut = MemoryClear(config)

    async def bench(ctx) -> None:
        ctx.set(dut.clear, 1)
        for _ in range(4):
            for port in (dut.a, dut.b):
                assert ctx.get(port.scales) == 0
                assert ctx.get(port.scale_mask) == (1 << config.bus_bytes // config.lanes) - 1
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
