"""RunAhead against a walk over the addresses, and `req_more` of both DMA units."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from tilescore.rtl.dma.index_memory import IndexMemory
from tilescore.rtl.dma.load_unit import LOAD_COMMAND, LoadUnit
from tilescore.rtl.dma.run_ahead import RunAhead
from tilescore.rtl.dma.store_unit import STORE_COMMAND, StoreUnit
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Gather, Load, ScaleLayout, Scatter, Space, Store

NANO = load_tile("nano")
NARROW = dataclasses.replace(NANO, name="narrow", lanes=4, bus_bytes=4)


def followers(addresses: list[int], bus: int) -> list[int]:
    """For each address: how many of the next are consecutive."""
    counts = [0] * len(addresses)
    for n in range(len(addresses) - 2, -1, -1):
        counts[n] = counts[n + 1] + 1 if addresses[n + 1] == addresses[n] + bus else 0
    return counts


@pytest.mark.parametrize("config", [NANO, NARROW], ids=lambda c: c.name)
def test_bound(config, rng) -> None:
    """Never more than the truth; all of a row; at least 15 of touching rows; touching only by accident of indices."""
    dut = RunAhead(config)
    bus = config.bus_bytes
    cases = [(rows, beats, touching, indexed)
             for rows in (1, 2, 16, 17, 40) for beats in (1, 2, 3, 15, 16, 17, 300)
             for touching in (True, False) for indexed in (True, False)]

    async def bench(ctx) -> None:
        for rows, beats, touching, indexed in cases:
            row_bytes = beats * bus - int(rng.integers(0, bus))
            stride = beats * bus if touching else (beats + 1 + int(rng.integers(0, 4))) * bus
            truth = followers([i * stride + b * bus for i in range(rows) for b in range(beats)], bus)
            ctx.set(dut.extent, {"last_row": rows - 1, "last_byte": row_bytes - 1})
            ctx.set(dut.stride, stride)
            ctx.set(dut.indexed, int(indexed))
            for n in sorted({0, beats - 1, len(truth) - 1, *rng.integers(0, len(truth), 20).tolist()}):
                row, beat = divmod(int(n), beats)
                ctx.set(dut.beats_left, beats - 1 - beat)
                ctx.set(dut.rows_left, rows - 1 - row)
                await ctx.delay(1e-9)
                more, in_row = ctx.get(dut.more), beats - 1 - beat
                assert min(in_row, 255) <= more <= truth[n], (rows, beats, touching, indexed, n)
                if touching and not indexed:
                    assert more >= min(15, truth[n])
                else:
                    assert more == min(in_row, 255)

    sim = Simulator(dut)
    sim.add_testbench(bench)
    sim.run()


def run_unit(kind: str, config, instructions: list, bench_dram, stall_rng) -> list[tuple[int, int]]:
    """(address, more) of every request of a load or store unit; index entry i is i."""
    unit_class, layout = (LoadUnit, LOAD_COMMAND) if kind == "load" else (StoreUnit, STORE_COMMAND)
    m = Module()
    m.submodules.unit = unit = unit_class(config)
    m.submodules.indices = memory = IndexMemory(config)
    source = memory.load if kind == "load" else memory.store
    m.d.comb += [source.en.eq(unit.index.en), source.addr.eq(unit.index.addr), unit.index.data.eq(source.data)]
    dram = bench_dram(np.zeros(1 << 17, np.uint8), bus_bytes=config.bus_bytes, latency=5, rng=stall_rng)
    port = "read" if kind == "load" else "write"
    drive, sample = getattr(dram, f"drive_{port}"), getattr(dram, f"sample_{port}")
    requests: list[tuple[int, int]] = []

    async def bench(ctx) -> None:
        for beat in range(8):
            words = np.arange(beat * 4, beat * 4 + 4, dtype="<u4")
            ctx.set(memory.write.valid, 1)
            ctx.set(memory.write.mask, 0xFFFF)
            ctx.set(memory.write.beat, beat)
            ctx.set(memory.write.data, int.from_bytes(words.tobytes(), "little"))
            await ctx.tick()
        ctx.set(memory.write.valid, 0)
        waiting = list(instructions)
        for cycle in range(3500 if stall_rng else 1500):
            drive(ctx, unit.dram, cycle)
            start = bool(waiting) and ctx.get(unit.unit.ready)
            ctx.set(unit.unit.start, int(start))
            if start:
                ctx.set(unit.unit.command.as_value(), encode(waiting.pop(0)) & ((1 << layout.size) - 1))
            if ctx.get(unit.dram.req_valid) and ctx.get(unit.dram.req_ready):
                requests.append((ctx.get(unit.dram.req_addr), ctx.get(unit.dram.req_more)))
            sample(ctx, unit.dram, cycle)
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return requests


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("kind", ["load", "store"])
def test_units_announce_what_they_request(kind: str, stalls: bool, rng, bench_dram) -> None:
    """`req_more` requests follow at consecutive addresses, within the instruction; a row is announced at once."""
    config, bus = NANO, NANO.bus_bytes
    plain, indexed = (Load, Gather) if kind == "load" else (Store, Scatter)
    instructions, row_starts = [], set()
    for n in range(14):
        beats, rows = int(rng.integers(1, 20)), int(rng.integers(1, 5))
        fields = {"space": Space.A, "rows": rows, "row_bytes": beats * bus - n % 7, "addr": 0,
                  "row_stride": (beats + n % 2) * bus, "dram_addr": n * 4096, "pitch": 4}
        use_index = n % 5 == 4
        instructions.append(indexed(**fields, index_addr=n) if use_index else plain(**fields))
        row_starts |= {(n, n * 4096 + (n + i if use_index else i) * fields["row_stride"]) for i in range(rows)}
    requests = run_unit(kind, config, instructions, bench_dram, rng if stalls else None)
    assert len(requests) == sum(i.rows * -(-i.row_bytes // bus) for i in instructions)
    truth = followers([address for address, _ in requests], bus)
    position = 0
    for n, instruction in enumerate(instructions):
        beats = -(-instruction.row_bytes // bus)
        total = instruction.rows * beats
        for k in range(total):
            address, more = requests[position + k]
            assert beats - 1 - k % beats <= more <= min(truth[position + k], total - 1 - k), (n, k)
            if k % beats == 0:
                assert (n, address) in row_starts
        position += total


FAR = 1 << 16
G1, G4 = ScaleLayout.G1, ScaleLayout.G4


@pytest.mark.parametrize(("kind", "fields", "expected"), [
    # One scale beat, then four rows of two beats that touch: 7 follow the first.
    ("load", {"scale": G4, "scale_stride": 0, "rows": 4, "row_bytes": 32}, [0, 7, 6, 5, 4, 3, 2, 1, 0]),
    # Packed 8 bytes apart: a scale beat every two rows.
    ("load", {"scale": G4, "scale_stride": 8, "rows": 3, "row_bytes": 32}, [0, 3, 2, 1, 0, 0, 1, 0]),
    # A scale beat per row.
    ("load", {"scale": G4, "scale_stride": 16, "rows": 2, "row_bytes": 32}, [0, 1, 0, 0, 1, 0]),
    # 20 scale bytes: the first 16 last for 8 beats.
    ("load", {"scale": G1, "scale_stride": 32, "rows": 1, "row_bytes": 160}, [0, 7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 0]),
    ("store", {"scale": G4, "scale_stride": 8, "rows": 2, "row_bytes": 32}, [1, 0, 0, 1, 0, 0]),
    ("store", {"scale": G1, "scale_stride": 32, "rows": 1, "row_bytes": 160}, [7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 0, 0]),
])
def test_scale_beats_end_what_is_announced(kind: str, fields: dict, expected: list[int], bench_dram) -> None:
    config = dataclasses.replace(NANO, scales=("e8m0",))
    plain, indexed = (Load, Gather) if kind == "load" else (Store, Scatter)
    fields = {"space": Space.A, "row_stride": fields["row_bytes"], "scale_addr": FAR, "pitch": 1 << 6, **fields}
    requests = run_unit(kind, config, [plain(**fields)], bench_dram, None)
    assert [more for _, more in requests] == expected
    if fields["scale_stride"] % 16 == 0 < fields["scale_stride"]:
        again = run_unit(kind, config, [indexed(**fields)], bench_dram, None)
        assert again == requests  # the index memory holds 0, 1, 2, ...
