"""Dispatcher and instruction memory alone: boot, fetch, blocking, pages, HALT, illegal opcodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.control.dispatcher import Dispatcher
from tilescore.rtl.plan import BOOT_DISPATCH, REFETCH
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Halt, Load, Matmul, Space, Store, Sync, Unit, Vector
from tilescore.rtl.spec.ledger import ledger_causes

NANO = load_tile("nano")
WIDE_BUS = dataclasses.replace(NANO, name="wide-bus", cols=16, bus_bytes=64, imem_page=8,
                               b_buffer_bytes=32768)
TOKEN = 12
"""Cycle from which the boot token is there."""


def run(config: TileConfig, words: list[int], *, tokens: Callable[[int], int] = lambda t: t >= TOKEN,
        full: Callable[[int], int] = lambda t: 0, drained: Callable[[int], int] = lambda t: 1,
        late: dict[int, int] | None = None, cycles: int = 60) -> dict:
    """Run from cycle 0 and return what happened. ``words`` are in the memory from the start; ``late``,
    {slot: word}, is written a beat per cycle after the boot token."""
    dut = Dispatcher(config)
    log: dict = {"push": [], "take": [], "dispatched": [], "done": [], "busy": [], "causes": [], "begin": []}
    bus = config.bus_bytes

    def beats(slots: dict[int, int]) -> list[tuple[int, int]]:
        image: dict[int, int] = {}
        for slot, word in slots.items():
            for k, byte in enumerate(word.to_bytes(32, "little")):
                image[32 * slot + k] = byte
        numbers = sorted({place // bus for place in image})
        return [(n, int.from_bytes(bytes(image.get(n * bus + k, 0) for k in range(bus)), "little"))
                for n in numbers]

    def write(ctx, beat: tuple[int, int] | None) -> None:
        ctx.set(dut.program.valid, int(beat is not None))
        if beat is not None:
            ctx.set(dut.program.beat, beat[0])
            ctx.set(dut.program.data, beat[1])
            ctx.set(dut.program.mask, (1 << bus) - 1)

    async def bench(ctx) -> None:
        for beat in beats(dict(enumerate(words))):
            write(ctx, beat)
            await ctx.tick()
        write(ctx, None)
        late_beats = beats(late or {})
        for cycle in range(cycles):
            write(ctx, late_beats.pop(0) if late_beats and cycle > TOKEN else None)
            ctx.set(dut.start, int(cycle == 0))
            ctx.set(dut.program_addr, 0x12345 * bus if cycle == 0 else 0)
            ctx.set(dut.tokens_present, int(tokens(cycle)))
            ctx.set(dut.full, full(cycle))
            ctx.set(dut.drained, int(drained(cycle)))
            if ctx.get(dut.push):
                log["push"].append((cycle, ctx.get(dut.push).bit_length() - 1, ctx.get(dut.word)))
                assert not ctx.get(dut.push) & full(cycle), "pushed into a full queue"
            if ctx.get(dut.take):
                log["take"].append((cycle, ctx.get(dut.wait_rd), ctx.get(dut.wait_wr)))
            for name in ("dispatched", "done", "busy", "begin"):
                if ctx.get(getattr(dut, name)):
                    log[name].append(cycle)
            log["causes"].append(ctx.get(dut.causes))
            await ctx.tick()
        log["illegal"] = ctx.get(dut.illegal)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return log


def causes_of(log: dict) -> list[str]:
    """The name of the one cause of each cycle up to done."""
    names = ledger_causes("dispatch")
    masks = log["causes"][:log["done"][0] + 1]
    assert all(mask.bit_count() == 1 for mask in masks), "not exactly one cause in every cycle"
    assert not any(log["causes"][log["done"][0] + 1:])
    return [names[mask.bit_length() - 1] for mask in masks]


@pytest.mark.parametrize("config", [NANO, WIDE_BUS], ids=lambda c: c.name)
def test_boot_and_straight_run(config) -> None:
    """BOOT_DISPATCH, REFETCH after the token, then one instruction per cycle, then HALT."""
    program = [Load(rows=3, addr=1), Store(rows=2), Matmul(k_steps=9), Vector(rows=5),
               Load(rows=7, signal_wr=31), Halt()]
    log = run(config, [encode(i) for i in program])
    boot = Load(space=Space.PROGRAM, dram_addr=0x12345 * config.bus_bytes, rows=1,
                row_bytes=config.page_bytes, signal_wr=1 << Unit.DISPATCH)
    first = TOKEN + REFETCH
    assert log["push"] == [(BOOT_DISPATCH, Unit.LOAD, encode(boot))] + [
        (first + n, i.spec.unit, encode(i)) for n, i in enumerate(program[:-1])]
    assert log["take"] == [(TOKEN, 0, 1 << Unit.LOAD)]
    assert log["begin"] == [0]
    halt = first + len(program) - 1
    assert log["dispatched"] == [BOOT_DISPATCH, *range(first, halt + 1)]
    assert log["done"] == list(range(halt, 60))
    assert log["busy"] == list(range(1, halt + 1))
    assert not log["illegal"]
    assert causes_of(log) == (["sync", "dispatch"] + ["sync"] * (TOKEN - 1) + ["fetch"] * (REFETCH - 1)
                              + ["dispatch"] * len(program))


def test_blocked_by_a_full_queue_of_its_own_unit() -> None:
    program = [Store(), Matmul(), Halt()]
    blocked = range(TOKEN + REFETCH + 1, 25)
    log = run(NANO, [encode(i) for i in program], full=lambda t: (1 << Unit.MATRIX) * (t in blocked) | 8)
    assert [(cycle, unit) for cycle, unit, _ in log["push"][1:]] == [
        (TOKEN + REFETCH, Unit.STORE), (25, Unit.MATRIX)]
    assert causes_of(log).count("queue_full") == len(blocked)


def test_sync_takes_its_tokens_and_fetches_afresh() -> None:
    """The word behind a SYNC is read only after the token: page 1 may be written while SYNC waits."""
    page = NANO.imem_page
    sync = Sync(wait_rd=0b0110, wait_wr=0b1001)
    fill = [Matmul(k_steps=n + 1) for n in range(page - 1)]
    stale = [encode(i) for i in [*fill, sync]] + [encode(Vector(rows=99))] * page
    late = {page + n: encode(i) for n, i in enumerate([Store(rows=4), Halt()])}
    arrival = TOKEN + REFETCH + page + 5
    log = run(NANO, stale, tokens=lambda t: t == TOKEN or t >= arrival, late=late, cycles=80)
    assert log["take"][1:] == [(arrival, 0b0110, 0b1001)]
    assert log["push"][-1] == (arrival + REFETCH, Unit.STORE, encode(Store(rows=4)))
    assert log["done"][0] == arrival + REFETCH + 1
    assert arrival in log["dispatched"]


def test_counter_wraps_over_both_pages() -> None:
    """Slot 2*page - 1 is followed by slot 0."""
    slots = 2 * NANO.imem_page
    words = [encode(Matmul(k_steps=n + 1)) for n in range(slots)]
    log = run(NANO, words, cycles=TOKEN + REFETCH + slots + 3)
    assert [word for _, _, word in log["push"][1:]] == words + words[:3]


def test_halt_waits_for_the_last_retirement() -> None:
    ready = 33
    log = run(NANO, [encode(Halt())], drained=lambda t: t >= ready)
    assert log["done"][0] == log["dispatched"][-1] == ready
    assert causes_of(log)[TOKEN + REFETCH:] == ["halt"] * (ready - TOKEN - REFETCH) + ["dispatch"]


@pytest.mark.parametrize("opcode", [0, 9, 15])
def test_illegal_opcode_ends_the_program(opcode: int) -> None:
    """Nothing is pushed, done rises and illegal stays, even when units still work."""
    log = run(NANO, [encode(Store()), opcode], drained=lambda t: 0)
    assert log["done"][0] == TOKEN + REFETCH + 1
    assert log["illegal"]
    assert len(log["push"]) == 2
    causes_of(log)


def test_start_again_after_done_and_not_before() -> None:
    """A start while busy is ignored; one after done begins a new run and lowers done in its cycle 0."""
    dut = Dispatcher(NANO)
    seen = []

    async def bench(ctx) -> None:
        word = encode(Halt())
        for half in range(2):
            ctx.set(dut.program.valid, 1)
            ctx.set(dut.program.beat, half)
            ctx.set(dut.program.data, (word >> 128 * half) & ((1 << 128) - 1))
            await ctx.tick()
        ctx.set(dut.program.valid, 0)
        ctx.set(dut.tokens_present, 1)
        for cycle in range(20):
            ctx.set(dut.start, int(cycle in (0, 2, 10)))
            ctx.set(dut.drained, int(cycle != 3))
            seen.append((ctx.get(dut.begin), ctx.get(dut.done)))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    halt = 2 + REFETCH
    assert [t for t, (begin, _) in enumerate(seen) if begin] == [0, 10]
    assert [t for t, (_, done) in enumerate(seen) if done] == [*range(halt, 10), *range(10 + halt, 20)]
