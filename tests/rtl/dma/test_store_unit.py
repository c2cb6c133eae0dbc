"""StoreUnit: bytes in DRAM and cycles of STORE and SCATTER, with and without back pressure."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tilescore.rtl.dma.index_memory import IndexMemory
from tilescore.rtl.dma.store_unit import STORE_COMMAND, StoreUnit
from tilescore.rtl.plan import duration
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import ScaleLayout, Scatter, Space, Store
from tilescore.rtl.spec.scale_layout import scale_beats

NANO = load_tile("nano")
WIDE = dataclasses.replace(NANO, name="wide", rows=8, cols=16, bus_bytes=64, lanes=4, a_buffer_bytes=32768,
                           b_buffer_bytes=65536, imem_page=16, dma_outstanding=2, dram_latency=3)
# Buses of 1, 2 and 8 groups.
SCALED = [dataclasses.replace(NANO, name=f"scaled{bus}", bus_bytes=bus, cols=cols, a_buffer_bytes=1 << 20,
                              b_buffer_bytes=1 << 15, scales=("e8m0", "fp32"))
          for bus, cols in ((8, 4), (16, 4), (64, 16))]

AREA = 1 << 17
"""Bytes of DRAM that one instruction, or its scale bytes, may write."""


class Chip:
    """On-chip bytes as functions of their place, read with two cycles of latency."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config

    def a(self, slice_number: int, byte: int) -> int:
        return (slice_number * 37 + byte * 5 + (byte >> 8)) % 251

    def scale(self, slice_number: int, group: int) -> int:
        return (slice_number * 17 + group * 7 + (group >> 6) + 3) % 241

    def acc(self, row: int, byte: int) -> int:
        return (row * 61 + byte * 3 + 7) % 253

    def beat(self, ctx, unit: StoreUnit) -> tuple[int, int] | None:
        """Data and scale bytes that the ports return two cycles from now; None where nothing is read."""
        bus, lanes = self.config.bus_bytes, self.config.lanes
        beat, scales = None, b""
        if ctx.get(unit.a.en):
            first = ctx.get(unit.a.addr) * self.config.lanes
            beat = bytes(self.a(ctx.get(unit.a.slice), first + k) for k in range(bus))
            scales = bytes(self.scale(ctx.get(unit.a.slice), ctx.get(unit.a.addr) + g) for g in range(bus // lanes))
        if ctx.get(unit.acc.en):
            assert beat is None, "A and ACC read in the same cycle"
            first = ctx.get(unit.acc.part) * bus
            beat = bytes(self.acc(ctx.get(unit.acc.addr), first + k) for k in range(bus))
        return None if beat is None else (int.from_bytes(beat, "little"), int.from_bytes(scales, "little"))


def expected_dram(instruction, chip: Chip, dram: np.ndarray, indices: np.ndarray) -> None:
    """Apply one instruction to ``dram`` by definition."""
    config = chip.config
    for i in range(instruction.rows):
        row = int(indices[instruction.index_addr + i]) if isinstance(instruction, Scatter) else i
        target = instruction.dram_addr + row * instruction.row_stride
        for k in range(instruction.row_bytes):
            source = instruction.src_byte + k
            if instruction.space == Space.A:
                panel, number = divmod(instruction.row_offset + i, config.rows)
                value = chip.a(number, (instruction.addr + panel * instruction.pitch) * config.lanes + source)
            else:
                chunk, byte = divmod(source, 4 * config.cols)
                value = chip.acc(instruction.addr + i + chunk * instruction.pitch, byte)
            dram[target + k] = value
        for k, group in enumerate(scaled_groups(instruction, config)):
            panel, number = divmod(instruction.row_offset + i, config.rows)
            dram[instruction.scale_addr + row * instruction.scale_stride + k] = chip.scale(
                number, instruction.addr + panel * instruction.pitch + group)


def scaled_groups(instruction, config: TileConfig) -> list[int]:
    """Groups of a row that have a scale byte, in the order of the bytes."""
    groups = range(-(-instruction.row_bytes // config.lanes))
    if instruction.scale == ScaleLayout.FP32:
        return [g for g in groups if g % 16 < 4]
    every = {ScaleLayout.NONE: 1 << 20, ScaleLayout.G1: 1, ScaleLayout.G2: 2, ScaleLayout.G4: 4, ScaleLayout.G16: 16}
    return [g for g in groups if instruction.scale and g % every[ScaleLayout(instruction.scale)] == 0]


def run_stores(config: TileConfig, instructions: list, dram, indices: np.ndarray, cycles: int) -> dict:
    """Issue each instruction as soon as the unit is ready; the cycles of everything."""
    m = Module()
    m.submodules.unit = unit = StoreUnit(config)
    m.submodules.indices = memory = IndexMemory(config)
    for name in ("en", "addr"):
        m.d.comb += getattr(memory.store, name).eq(getattr(unit.index, name))
    m.d.comb += unit.index.data.eq(memory.store.data)
    log = {"start": [], "rd": [], "wr": [], "limited": [], "index_reads": 0, "scale_beats": 0}
    chip, bus = Chip(config), config.bus_bytes
    garbage = int.from_bytes(b"\xee" * bus, "little")

    async def bench(ctx) -> None:
        per_beat = bus // 4
        for beat in range(config.index_entries // per_beat):
            ctx.set(memory.write.valid, 1)
            ctx.set(memory.write.mask, (1 << bus) - 1)
            ctx.set(memory.write.beat, beat)
            words = indices[beat * per_beat:(beat + 1) * per_beat].astype("<u4")
            ctx.set(memory.write.data, int.from_bytes(words.tobytes(), "little"))
            await ctx.tick()
        ctx.set(memory.write.valid, 0)
        waiting, arriving = list(instructions), [None, None]
        for cycle in range(cycles):
            beat = arriving.pop(0)
            for port in (unit.a, unit.acc):
                ctx.set(port.data, garbage if beat is None else beat[0])
            ctx.set(unit.a.scales, garbage & (1 << len(unit.a.scales)) - 1 if beat is None else beat[1])
            dram.drive_write(ctx, unit.dram, cycle)
            start = bool(waiting) and ctx.get(unit.unit.ready)
            ctx.set(unit.unit.start, int(start))
            if start:
                word = encode(waiting.pop(0)) & ((1 << STORE_COMMAND.size) - 1)
                ctx.set(unit.unit.command.as_value(), word)
                log["start"].append(cycle)
            dram.sample_write(ctx, unit.dram, cycle)
            arriving.append(chip.beat(ctx, unit))
            for kind, mask in (("rd", unit.unit.rd_mask), ("wr", unit.unit.wr_mask)):
                if ctx.get(getattr(unit.unit, kind)):
                    log[kind].append((cycle, ctx.get(mask)))
            if ctx.get(unit.limited):
                log["limited"].append(cycle)
            log["index_reads"] += ctx.get(unit.index.en)
            log["scale_beats"] += ctx.get(unit.ev_scale_beats)
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert len(log["start"]) == len(instructions), "some instructions were never accepted"
    return log


def random_stores(rng: np.random.Generator, config: TileConfig, count: int) -> list:
    """Stores and scatters to areas of their own: rows of any length, and parts of a beat at any byte."""
    bus, result = config.bus_bytes, []
    per_beat = bus // config.lanes
    for n in range(count):
        space = Space.A if rng.random() < 0.5 else Space.ACC
        fields = {"space": space, "dram_addr": AREA * n, "row_stride": 4 * bus,
                  "rows": int(rng.integers(1, 12)), "row_bytes": int(rng.integers(1, 4 * bus)),
                  "signal_rd": n & 31, "signal_wr": (n * 7 + 3) & 31,
                  "addr": per_beat * int(rng.integers(0, 8)), "pitch": 4 * per_beat}
        if space == Space.A:
            fields["row_offset"] = int(rng.integers(0, config.rows))
        if rng.random() < 0.5:
            source, target = (int(v) for v in rng.integers(0, bus, 2))
            fields["src_byte"] = source
            fields["dram_addr"] += target
            fields["row_bytes"] = int(rng.integers(1, bus - max(source, target) + 1))
        if rng.random() < 0.4:
            result.append(Scatter(**fields, index_addr=int(rng.integers(0, 100))))
        else:
            result.append(Store(**fields))
        if config.scales and space == Space.A and rng.random() < 0.9:
            add_scales(rng, result[-1], config, AREA * (count + n))
    return result


def add_scales(rng: np.random.Generator, instruction, config: TileConfig, area: int) -> None:
    """A layout, a legal stride and a start that need not be on a beat; long rows have several scale beats."""
    bus = config.bus_bytes
    layout = ScaleLayout(int(rng.integers(1, 6)))
    block = {ScaleLayout.G1: 1, ScaleLayout.G2: 2, ScaleLayout.G4: 4}.get(layout, 16) * config.lanes
    long = rng.random() < 0.3 and layout <= ScaleLayout.G2
    instruction.scale, instruction.row_bytes = layout, block * int(rng.integers(1, 3 * bus if long else 4))
    instruction.pitch, instruction.src_byte = 1 << 9, 0
    instruction.row_stride = -(-instruction.row_bytes // bus) * bus
    instruction.dram_addr -= instruction.dram_addr % bus
    size = len(scaled_groups(instruction, config))
    strides = [stride for stride in (1, 2, 4, 8, 16, 32, 64) if size <= stride <= bus]
    strides.append(-(-size // bus) * bus)
    stride = instruction.scale_stride = int(rng.choice(strides))
    cell = min(stride, bus)
    instruction.scale_addr = area + cell * int(rng.integers(0, 3)) + (
        int(rng.integers(0, cell - size + 1)) if size <= cell else 0)


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("config", [NANO, WIDE, *SCALED], ids=lambda c: c.name)
def test_bytes_and_pulses(config, stalls, rng, bench_dram) -> None:
    """DRAM holds exactly the bytes of the definition; without stalls every pulse is where plan.py says."""
    instructions = random_stores(rng, config, 16)
    indices = rng.permutation(config.index_entries) % (8192 // (4 * config.bus_bytes))
    before = rng.integers(0, 256, AREA * 32, dtype=np.uint8)
    expected = before.copy()
    for instruction in instructions:
        expected_dram(instruction, Chip(config), expected, indices)
    dram = bench_dram(before, bus_bytes=config.bus_bytes, latency=config.dram_latency,
                      rng=rng if stalls else None)
    cycles = sum(duration(i, config).occupancy for i in instructions) + 30 * len(instructions)
    log = run_stores(config, instructions, dram, indices, 100 + 3 * cycles if stalls else 100 + cycles)
    wrong = np.flatnonzero(dram.data != expected)
    assert not len(wrong), f"byte {wrong[0]}, of {instructions[wrong[0] // AREA % 16]}"
    assert [mask for _, mask in log["rd"]] == [i.signal_rd for i in instructions]
    assert [mask for _, mask in log["wr"]] == [i.signal_wr for i in instructions]
    assert log["index_reads"] == sum(i.rows for i in instructions if isinstance(i, Scatter))
    assert log["scale_beats"] == sum(scale_beats(i, config) for i in instructions)
    if stalls:
        return
    issue, retired = 0, []
    for n, instruction in enumerate(instructions):
        span = duration(instruction, config)
        if n >= config.dma_outstanding:
            issue = max(issue, retired[n - config.dma_outstanding] + 1)
        assert log["start"][n] == issue, f"instruction {n} issued"
        assert log["rd"][n][0] == issue + span.rd, f"instruction {n} rd"
        assert log["wr"][n][0] == issue + span.wr, f"instruction {n} wr"
        retired.append(issue + span.wr)
        issue += span.occupancy


def test_request_cycles(bench_dram) -> None:
    """Beat b of a STORE or SCATTER is requested at I + 5 + b, one per cycle across rows and instructions."""
    indices = np.arange(NANO.index_entries) * 3 % 50
    common = {"space": Space.A, "rows": 3, "row_bytes": 20, "row_stride": 32, "pitch": 8}
    dram = bench_dram(np.zeros(4096, np.uint8), bus_bytes=16, latency=20)
    log = run_stores(NANO, [Scatter(**common, index_addr=5), Store(**common)], dram, indices, 60)
    first, second = log["start"]
    assert second == first + 6
    scattered = [32 * int(indices[5 + b // 2]) + 16 * (b % 2) for b in range(6)]
    assert dram.writes == ([(first + 5 + b, scattered[b]) for b in range(6)]
                           + [(second + 5 + b, 32 * (b // 2) + 16 * (b % 2)) for b in range(6)])


def test_port_never_ready_loses_nothing(bench_dram) -> None:
    """With a port that is not ready for long, reads stop, and the unit goes on where it stopped."""
    store = Store(space=Space.ACC, rows=1, row_bytes=16 * 30, pitch=1)
    dram = bench_dram(np.zeros(1024, np.uint8), bus_bytes=16, latency=1)
    drive, held = dram.drive_write, range(10, 100)

    def drive_held(ctx, port, cycle: int) -> None:
        drive(ctx, port, cycle)
        if cycle in held:
            ctx.set(port.req_ready, 0)

    dram.drive_write = drive_held
    log = run_stores(NANO, [store], dram, np.zeros(128, np.int64), 160)
    assert [cycle for cycle, _ in dram.writes] == [*range(5, 10), *range(100, 125)]
    expected = np.zeros(1024, np.uint8)
    expected_dram(store, Chip(NANO), expected, np.zeros(128, np.int64))
    assert np.array_equal(dram.data, expected)
    assert log["wr"] == [(126, 0)]
