"""LoadUnit against the layout rules of the buffers, and its cycles against plan.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tilescore.rtl.dma.address import RowAddress
from tilescore.rtl.dma.index_memory import IndexMemory
from tilescore.rtl.dma.load_unit import LOAD_COMMAND, LoadUnit
from tilescore.rtl.plan import GATHER_SETUP, duration
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Gather, Load, ScaleLayout, Space
from tilescore.rtl.spec.scale_layout import scale_beats

NANO = load_tile("nano")
WIDE = dataclasses.replace(NANO, name="wide", rows=8, cols=16, bus_bytes=64, lanes=4, a_buffer_bytes=32768,
                           b_buffer_bytes=65536, imem_page=16, dma_outstanding=1, dram_latency=3)
SCALES = ("e8m0", "fp32")
# Buses of 1, 2 and 8 groups.
SCALED = [dataclasses.replace(NANO, name=f"scaled{bus}", bus_bytes=bus, cols=cols, b_buffer_bytes=1 << 15,
                              scales=SCALES) for bus, cols in ((8, 4), (16, 4), (64, 16))]


def expected_writes(instruction, config: TileConfig, dram: np.ndarray, indices: np.ndarray) -> dict:
    """{place: byte} by definition.

    Places are ("a" or "b", slice, byte), ("a scale" or "b scale", slice, group), ("acc", row, byte), (space, byte).
    """
    bytes_at = {}
    for i in range(instruction.rows):
        row = int(indices[instruction.index_addr + i]) if isinstance(instruction, Gather) else i
        source = instruction.dram_addr + row * instruction.row_stride
        if instruction.scale:
            slices = config.rows if instruction.space == Space.A else config.cols
            panel, number = divmod(instruction.row_offset + i, slices)
            first = instruction.addr + panel * instruction.pitch
            space = "a scale" if instruction.space == Space.A else "b scale"
            start = instruction.scale_addr + row * instruction.scale_stride
            for k, group in enumerate(scaled_groups(instruction, config)):
                bytes_at[(space, number, first + group)] = int(dram[start + k])
        for k in range(instruction.row_bytes):
            match Space(instruction.space):
                case Space.A | Space.B:
                    slices = config.rows if instruction.space == Space.A else config.cols
                    panel, number = divmod(instruction.row_offset + i, slices)
                    group = instruction.addr + panel * instruction.pitch
                    place = ("a" if instruction.space == Space.A else "b", number, group * config.lanes + k)
                case Space.ACC:
                    chunk, byte = divmod(k, 4 * config.cols)
                    place = ("acc", instruction.addr + i + chunk * instruction.pitch, byte)
                case Space.INDEX:
                    place = ("index", 4 * instruction.addr + k)
                case Space.PROGRAM:
                    place = ("program", 32 * instruction.addr + k)
            bytes_at[place] = int(dram[source + k])
    return bytes_at


def scaled_groups(instruction, config: TileConfig) -> list[int]:
    """Groups of a row that have a scale byte, in the order of the bytes."""
    groups = range(-(-instruction.row_bytes // config.lanes))
    every = {ScaleLayout.G1: 1, ScaleLayout.G2: 2, ScaleLayout.G4: 4, ScaleLayout.G16: 16}
    if instruction.scale == ScaleLayout.FP32:
        return [g for g in groups if g % 16 < 4]
    return [g for g in groups if g % every[ScaleLayout(instruction.scale)] == 0]


def run_loads(config: TileConfig, instructions: list, dram, indices: np.ndarray, cycles: int) -> dict:
    """Issue each instruction as soon as the unit is ready; what was written and when everything happened."""
    m = Module()
    m.submodules.unit = unit = LoadUnit(config)
    m.submodules.indices = memory = IndexMemory(config)
    for name in ("en", "addr"):
        m.d.comb += getattr(memory.load, name).eq(getattr(unit.index, name))
    m.d.comb += unit.index.data.eq(memory.load.data)
    log = {"start": [], "rd": [], "wr": [], "limited": [], "index_reads": 0, "scale_beats": 0, "bytes": {}}
    bus = config.bus_bytes

    def collect(ctx, port, name: str, base) -> None:
        if ctx.get(port.valid):
            mask, data = ctx.get(port.mask), ctx.get(port.data).to_bytes(bus, "little")
            prefix, first = base(ctx, port)
            for byte in range(bus):
                if mask >> byte & 1:
                    log["bytes"][(name, *prefix, first + byte)] = data[byte]
            if name in ("a", "b"):
                scale_mask = ctx.get(port.scale_mask)
                scales = ctx.get(port.scales).to_bytes(bus // config.lanes, "little")
                for group in range(bus // config.lanes):
                    if scale_mask >> group & 1:
                        log["bytes"][(f"{name} scale", *prefix, first // config.lanes + group)] = scales[group]

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
        waiting = list(instructions)
        for cycle in range(cycles):
            dram.drive_read(ctx, unit.dram, cycle)
            start = bool(waiting) and ctx.get(unit.unit.ready)
            ctx.set(unit.unit.start, int(start))
            if start:
                word = encode(waiting.pop(0)) & ((1 << LOAD_COMMAND.size) - 1)
                ctx.set(unit.unit.command.as_value(), word)
                log["start"].append(cycle)
            dram.sample_read(ctx, unit.dram, cycle)
            for kind, mask in (("rd", unit.unit.rd_mask), ("wr", unit.unit.wr_mask)):
                if ctx.get(getattr(unit.unit, kind)):
                    log[kind].append((cycle, ctx.get(mask)))
            if ctx.get(unit.limited):
                log["limited"].append(cycle)
            log["index_reads"] += ctx.get(unit.index.en)
            log["scale_beats"] += ctx.get(unit.ev_scale_beats)
            for name, port in (("a", unit.a), ("b", unit.b)):
                collect(ctx, port, name, lambda c, p: ((c.get(p.slice),), c.get(p.addr) * config.lanes))
            collect(ctx, unit.acc, "acc", lambda c, p: ((c.get(p.addr),), c.get(p.part) * bus))
            collect(ctx, unit.indices, "index", lambda c, p: ((), c.get(p.beat) * bus))
            collect(ctx, unit.program, "program", lambda c, p: ((), c.get(p.beat) * bus))
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert len(log["start"]) == len(instructions), "some instructions were never accepted"
    return log


def random_loads(rng: np.random.Generator, config: TileConfig, count: int) -> list:
    """Instructions over every space, with destinations that do not overlap."""
    bus, result = config.bus_bytes, []
    per_beat = bus // config.lanes
    for n in range(count):
        space = Space(int(rng.choice(len(Space), p=[0.3, 0.3, 0.3, 0.05, 0.05])))
        fields = {"space": space, "dram_addr": bus * int(rng.integers(0, 16)),
                  "row_stride": bus * int(rng.integers(1, 8)),
                  "signal_rd": n & 31, "signal_wr": (n * 7 + 3) & 31}
        if space in (Space.INDEX, Space.PROGRAM):
            unit = 4 if space == Space.INDEX else 32
            step = max(1, bus // unit)
            fields |= {"rows": 1, "row_bytes": unit * int(rng.integers(1, 3 * step)), "addr": 3 * step * n}
            result.append(Load(**fields))
            continue
        slices = config.rows if space == Space.A else config.cols
        fields |= {"rows": int(rng.integers(1, 12)), "row_bytes": int(rng.integers(1, 3 * bus)),
                   "addr": n << 9, "pitch": 4 * per_beat, "row_offset": int(rng.integers(0, slices))}
        if space == Space.ACC:
            fields |= {"addr": 64 * n, "pitch": 16, "row_offset": 0,
                       "row_bytes": 4 * int(rng.integers(1, 3 * config.cols))}
        if rng.random() < 0.4:
            result.append(Gather(**fields, index_addr=int(rng.integers(0, config.index_entries - 16))))
        else:
            result.append(Load(**fields))
        if config.scales and space != Space.ACC and rng.random() < 0.9:
            add_scales(rng, result[-1], config)
    return result


def add_scales(rng: np.random.Generator, instruction, config: TileConfig) -> None:
    """A layout and a legal stride: shared, packed, or on beats; long rows have several scale beats."""
    bus = config.bus_bytes
    layout = ScaleLayout(int(rng.integers(1, 6)))
    block = {ScaleLayout.G1: 1, ScaleLayout.G2: 2, ScaleLayout.G4: 4}.get(layout, 16) * config.lanes
    long = rng.random() < 0.3 and layout <= ScaleLayout.G4
    instruction.scale, instruction.row_bytes = layout, block * int(rng.integers(1, 3 * bus if long else 4))
    instruction.pitch = 1 << 10
    size = len(scaled_groups(instruction, config))
    strides = [-(-size // bus) * bus + bus * int(rng.integers(0, 2))]
    if isinstance(instruction, Load):
        strides += [stride for stride in (1, 2, 4, 8, 16, 32, 64) if size <= stride <= bus] * 2
        strides += [0, 0] if size <= bus else []
    instruction.scale_stride = int(rng.choice(strides))
    instruction.scale_addr = bus * int(rng.integers(0, 16))


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("config", [NANO, WIDE, *SCALED], ids=lambda c: c.name)
def test_places_and_pulses(config, stalls, rng, bench_dram) -> None:
    """Every byte lands where the layout says; without stalls every pulse is where plan.py says."""
    data = rng.integers(0, 256, 1 << 17, dtype=np.uint8)
    indices = rng.integers(0, 40, config.index_entries)
    wide = dataclasses.replace(config, acc_bank_rows=1024, acc_banks=16)
    instructions = random_loads(rng, config, 20 if config.scales else 12)
    dram = bench_dram(data, bus_bytes=config.bus_bytes, latency=config.dram_latency,
                      rng=rng if stalls else None)
    # Addresses beyond the buffers are fine here: only the ports are watched, so make them wide enough.
    config = dataclasses.replace(wide, a_buffer_bytes=1 << 22, b_buffer_bytes=1 << 22)
    cycles = sum(duration(i, config).occupancy for i in instructions) + 30 * len(instructions)
    log = run_loads(config, instructions, dram, indices, 100 + 3 * cycles if stalls else 100 + cycles)
    expected = {}
    for instruction in instructions:
        expected |= expected_writes(instruction, config, data, indices)
    assert log["bytes"] == expected
    assert [mask for _, mask in log["rd"]] == [i.signal_rd for i in instructions]
    assert [mask for _, mask in log["wr"]] == [i.signal_wr for i in instructions]
    assert log["index_reads"] == sum(i.rows for i in instructions if isinstance(i, Gather))
    assert log["scale_beats"] == sum(scale_beats(i, config) for i in instructions)
    if not stalls:
        issue = 0
        retired: list[int] = []
        for n, instruction in enumerate(instructions):
            span = duration(instruction, config)
            if n >= config.dma_outstanding:
                issue = max(issue, retired[n - config.dma_outstanding] + 1)
            assert log["start"][n] == issue, f"instruction {n} issued"
            assert log["rd"][n][0] == issue + span.rd, f"instruction {n} rd"
            assert log["wr"][n][0] == issue + span.wr, f"instruction {n} wr"
            retired.append(issue + span.wr)
            issue += span.occupancy


def test_request_cycles(bench_dram, rng) -> None:
    """Beat b of a LOAD is requested at I + 1 + b, of a GATHER GATHER_SETUP later; no bubbles between rows."""
    assert GATHER_SETUP == RowAddress.LATENCY + 1
    data = rng.integers(0, 256, 1 << 15, dtype=np.uint8)
    indices = rng.integers(0, 100, NANO.index_entries)
    common = {"space": Space.A, "rows": 3, "row_bytes": 20, "row_stride": 64, "pitch": 8}
    dram = bench_dram(data, bus_bytes=16, latency=20)
    log = run_loads(NANO, [Load(**common), Gather(**common, index_addr=5), Load(**common)], dram, indices, 80)
    first, second, third = log["start"]
    assert (second, third) == (first + 6, second + 6 + GATHER_SETUP)
    rows = [64 * int(i) for i in indices[5:8]]
    assert dram.reads == (
        [(first + 1 + b, 64 * (b // 2) + 16 * (b % 2)) for b in range(6)]
        + [(second + 1 + GATHER_SETUP + b, rows[b // 2] + 16 * (b % 2)) for b in range(6)]
        + [(third + 1 + b, 64 * (b // 2) + 16 * (b % 2)) for b in range(6)])


def test_limit_in_flight(bench_dram) -> None:
    """At most dma_outstanding instructions in flight; `limited` marks the cycles it holds back."""
    data = np.zeros(4096, np.uint8)
    loads = [Load(space=Space.B, rows=1, row_bytes=16, row_stride=16) for _ in range(6)]
    log = run_loads(NANO, loads, bench_dram(data, bus_bytes=16, latency=20), np.zeros(128, np.int64), 80)
    first = log["start"][0]
    retired = first + duration(loads[0], NANO).wr
    assert log["start"] == [first, first + 1, first + 2, first + 3, retired + 1, retired + 2]
    assert set(range(first + 4, retired + 1)) <= set(log["limited"])
    assert not set(log["start"]) & set(log["limited"])


@pytest.mark.parametrize("index, stride, base", [
    (0xFFFFFFFF, 0xFFFFFFF0, 0x123456789A), (0x12345678, 0x9ABCDEF0, 0xFFFFFFFFF0), (7, 96, 64), (5, 0, 16)])
def test_row_address_is_exact(index: int, stride: int, base: int) -> None:
    """base + index * stride modulo 2**40, three advances later, at the edges of the operand widths."""
    dut = RowAddress()
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.advance, 1)
        ctx.set(dut.base, base)
        ctx.set(dut.stride, stride)
        ctx.set(dut.indexed, 1)
        await ctx.tick()
        ctx.set(dut.base, 0)
        ctx.set(dut.stride, 0)
        ctx.set(dut.indexed, 0)
        ctx.set(dut.index, index)
        await ctx.tick()
        ctx.set(dut.index, 0)
        await ctx.tick()
        seen.append(ctx.get(dut.address))

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert seen == [(base + index * stride) % (1 << 40)]
