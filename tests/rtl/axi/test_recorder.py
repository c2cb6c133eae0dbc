"""DmaRecorder and what `dma_times` makes of its entries."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.axi import recorder
from tilescore.rtl.axi.recorder import EVENTS, DmaRecorder
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.registers import mask
from tilescore.sim.host.recording import DmaTimes, dma_times


def record(events: dict[int, int], cycles: int, depth: int = 64) -> tuple[list[int], int]:
    """Entries and overflow after a run with those events; starts twice, so that old entries must be forgotten."""
    dut = DmaRecorder(depth=depth)
    words = []
    result = []

    async def bench(ctx) -> None:
        for begin in (0, 7):
            for cycle in range(begin, cycles if begin else 7):
                now = cycle - begin
                ctx.set(dut.start, int(now == 0))
                ctx.set(dut.events, 63 if not begin and now else events.get(now, 0))
                await ctx.tick()
        ctx.set(dut.events, 0)
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(3)
        result.append(ctx.get(dut.overflow))
        while ctx.get(dut.level):
            words.append(ctx.get(dut.data))
            ctx.set(dut.take, 1)
            await ctx.tick()
            ctx.set(dut.take, 0)
            await ctx.tick().repeat(2)
        assert ctx.get(dut.data) == 0

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return words, result[0]


def test_entries(rng) -> None:
    """An entry per cycle with events, in order; none else."""
    events = {int(c): int(rng.integers(1, 64)) for c in rng.choice(range(2, 200), 40, replace=False)}
    words, overflow = record(events, 230)
    assert words == [cycle << EVENTS | events[cycle] for cycle in sorted(events)]
    assert not overflow


def test_without_entries_all_are_lost() -> None:
    """A recorder that is not built says so, in a run that would have used it."""
    assert record({9: 1}, 20, depth=0) == ([], 1)
    assert record({}, 20, depth=0) == ([], 0)


def test_overflow_keeps_the_oldest() -> None:
    events = dict.fromkeys(range(5, 25), 1)
    words, overflow = record(events, 40, depth=8)
    assert overflow and words == [cycle << EVENTS | 1 for cycle in range(5, 5 + len(words))] and len(words) >= 8


def test_wrapping_time(monkeypatch) -> None:
    """Each wrap has an entry, so the cycles come out right however long nothing happens."""
    monkeypatch.setattr(recorder, "TIME_BITS", 5)
    cycles = {"ISSUE": 3, "RD": 32, "WR": 150}
    events = {c: mask("TRACE_DATA", f"LOAD_{kind}") for kind, c in cycles.items()}
    words, _ = record(events, 170)
    assert all(word < 1 << 5 + EVENTS for word in words)
    # The same entries with the real width: stretch the time so that it wraps at the same places.
    scale = 1 << recorder.field_of("TRACE_DATA", "TIME").bits - 5
    stretched = [(word >> EVENTS) * scale << EVENTS | word & 63 for word in words]
    assert dma_times(stretched) == {
        "load": [DmaTimes(*(c * scale for c in cycles.values()))], "store": []}


def test_incomplete_records_are_refused() -> None:
    with pytest.raises(SimulationError, match="store unit are not complete: 1 issues, 0 rd and 0 wr"):
        dma_times([5 << EVENTS | mask("TRACE_DATA", "STORE_ISSUE")])
