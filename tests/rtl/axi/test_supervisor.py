"""Supervisor alone: when a start counts, how a program ends, which error is told; HangTimer."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.axi.supervisor import ERRORS, HangTimer, Supervisor


def simulate(dut, bench) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


def bits(*names: str) -> int:
    return sum(1 << ERRORS.index(name) for name in names)


async def quiet(ctx, dut: Supervisor) -> None:
    for master in (dut.read, dut.write):
        ctx.set(master.idle, 1)
    await ctx.tick()


async def begin(ctx, dut: Supervisor) -> None:
    """Start a program; ends in its cycle 1."""
    ctx.set(dut.start, 1)
    assert ctx.get(dut.tile_start)
    await ctx.tick()
    ctx.set(dut.start, 0)
    ctx.set(dut.tile_busy, 1)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_program_that_ends(length: int) -> None:
    """DONE and its event once, a cycle after HALT; the cycles of START to HALT."""
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        for _ in range(2):
            await begin(ctx, dut)
            events = 0
            for cycle in range(1, length + 6):
                ctx.set(dut.tile_busy, int(cycle <= length))
                ctx.set(dut.tile_done, int(cycle >= length))
                assert ctx.get(dut.busy) == (cycle <= length)
                assert ctx.get(dut.done_event) == (cycle == length + 1)
                assert ctx.get(dut.done) == (cycle > length + 1)
                events += ctx.get(dut.done_event)
                await ctx.tick()
            ctx.set(dut.tile_done, 0)
            assert events == 1 and ctx.get(dut.cycles) == length + 1

    simulate(dut, bench)


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("name", ["conflict", "illegal"])
def test_error_of_the_last_cycle_is_not_done(name: str, late: int) -> None:
    """The tile shows an error of its HALT cycle one cycle later: an error event, no done event, and a reset."""
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        await begin(ctx, dut)
        await ctx.tick()
        done = errors = resets = 0
        for cycle in range(8):
            ctx.set(dut.tile_busy, int(cycle == 0))
            ctx.set(dut.tile_done, int(not resets))
            ctx.set(getattr(dut, f"tile_{name}"), int(cycle >= late and not resets))
            done += ctx.get(dut.done_event)
            errors += ctx.get(dut.error_event)
            await ctx.tick()
            resets += ctx.get(dut.draining)
        assert (done, errors, resets) == (0, 1, 1)
        assert ctx.get(dut.errors) == bits(name) and not ctx.get(dut.done)

    simulate(dut, bench)


def test_when_a_start_counts() -> None:
    """Not while busy, draining or in error, nor together with a reset; after clearing it does."""
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        ctx.set(dut.start, 1)
        ctx.set(dut.soft_reset, 1)
        assert not ctx.get(dut.tile_start)
        ctx.set(dut.soft_reset, 0)
        ctx.set(dut.tile_busy, 1)
        assert not ctx.get(dut.tile_start)
        ctx.set(dut.tile_busy, 0)
        ctx.set(dut.write.idle, 0)
        ctx.set(dut.write.error, 1)
        assert not ctx.get(dut.tile_start) and ctx.get(dut.halt)
        await ctx.tick()
        ctx.set(dut.write.error, 0)
        for _ in range(5):
            assert not ctx.get(dut.tile_start) and ctx.get(dut.draining)
            assert ctx.get(dut.drain) and ctx.get(dut.halt)
            await ctx.tick()
        ctx.set(dut.write.idle, 1)
        await ctx.tick()
        assert not ctx.get(dut.draining) and not ctx.get(dut.tile_start) and ctx.get(dut.halt)
        ctx.set(dut.start, 0)
        ctx.set(dut.clear_error, 1)
        await ctx.tick()
        ctx.set(dut.clear_error, 0)
        ctx.set(dut.start, 1)
        assert ctx.get(dut.tile_start) and not ctx.get(dut.halt)

    simulate(dut, bench)


def test_first_error_is_told() -> None:
    """Bits accumulate; code and address are the first error's until the errors are cleared."""
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        for port, response, address in ((dut.write, 3, 0xAB00), (dut.read, 2, 0x1230)):
            ctx.set(port.error, 1)
            ctx.set(port.response, response)
            ctx.set(port.error_addr, address)
            assert ctx.get(dut.error_event)
            await ctx.tick()
            ctx.set(port.error, 0)
            await ctx.tick()
        assert ctx.get(dut.errors) == bits("read_error", "write_error")
        assert (ctx.get(dut.error_response), ctx.get(dut.error_addr)) == (3, 0xAB00)
        # Cleared in the very cycle of another: the new one stays and is told.
        ctx.set(dut.clear_error, 1)
        ctx.set(dut.read.error, 1)
        await ctx.tick()
        ctx.set(dut.clear_error, 0)
        ctx.set(dut.read.error, 0)
        assert ctx.get(dut.errors) == bits("read_error")
        assert (ctx.get(dut.error_response), ctx.get(dut.error_addr)) == (2, 0x1230)

    simulate(dut, bench)


@pytest.mark.parametrize("limit", [1, 5, 40])
def test_hang_timer(limit: int) -> None:
    """Once per hang, after `limit` cycles in a row without progress; not when idle, not when 0 is the limit."""
    dut = HangTimer()

    async def bench(ctx) -> None:
        async def run(cycles: int, **inputs) -> list[int]:
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            seen = []
            for cycle in range(cycles):
                if ctx.get(dut.hung):
                    seen.append(cycle)
                await ctx.tick()
            return seen

        assert await run(60, limit=limit, idle=1, progress=0) == []
        assert await run(100, idle=0) == [limit]
        assert await run(1, progress=1) == []
        assert await run(limit, progress=0) == []
        assert await run(1, progress=1) == [0], "full at the end of the cycle before"
        assert await run(limit - 1, progress=0) == []
        assert await run(1, idle=1) == []
        assert await run(100, limit=0, idle=0) == []

    simulate(dut, bench)


def test_clearing_keeps_programs_out_until_the_sweep_is_over() -> None:
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        ctx.set(dut.clear_memory, 1)
        ctx.set(dut.start, 1)
        assert not ctx.get(dut.tile_start)  # clearing wins
        await ctx.tick()
        ctx.set(dut.clear_memory, 0)
        for cycle in range(5):
            assert ctx.get(dut.clearing) and ctx.get(dut.tile_clear) and not ctx.get(dut.tile_start)
            ctx.set(dut.tile_cleared, int(cycle == 4))
            await ctx.tick()
        ctx.set(dut.tile_cleared, 0)
        assert not ctx.get(dut.clearing) and not ctx.get(dut.tile_clear) and ctx.get(dut.tile_start)

    simulate(dut, bench)


def test_a_running_program_is_not_cleared_and_a_reset_does_not_end_the_sweep() -> None:
    dut = Supervisor()

    async def bench(ctx) -> None:
        await quiet(ctx, dut)
        await begin(ctx, dut)
        ctx.set(dut.clear_memory, 1)
        await ctx.tick()
        ctx.set(dut.clear_memory, 0)
        assert not ctx.get(dut.clearing)
        # After an error too; while the tile is held in reset the sweep waits.
        ctx.set(dut.soft_reset, 1)
        ctx.set(dut.read.idle, 0)
        await ctx.tick()
        ctx.set(dut.soft_reset, 0)
        ctx.set(dut.tile_busy, 0)
        ctx.set(dut.clear_memory, 1)
        await ctx.tick()
        ctx.set(dut.clear_memory, 0)
        assert ctx.get(dut.draining) and ctx.get(dut.clearing) and not ctx.get(dut.tile_clear)
        ctx.set(dut.read.idle, 1)
        await ctx.tick()
        assert not ctx.get(dut.draining) and ctx.get(dut.tile_clear)
        ctx.set(dut.soft_reset, 1)
        await ctx.tick()
        ctx.set(dut.soft_reset, 0)
        assert ctx.get(dut.draining) and ctx.get(dut.clearing) and not ctx.get(dut.tile_clear)
        await ctx.tick()
        assert ctx.get(dut.tile_clear)

    simulate(dut, bench)
