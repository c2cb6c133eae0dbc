"""TileAxi: the nano tile behind its AXI ports, started and watched through its registers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.axi.top import TileAxi
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode_program, fp32_bits
from tilescore.rtl.spec.isa import Dest, Gather, Halt, Load, Matmul, Scatter, Space, Store, Unit, Vector
from tilescore.rtl.spec.ledger import COUNTER_NAMES
from tilescore.rtl.spec.registers import ERROR_MASK, mask, offset
from tilescore.rtl.tile import Tile
from tilescore.sim.host.recording import dma_times

NANO = load_tile("nano")
FOUR_BURSTS = replace(NANO, max_outstanding=4)
PROGRAM_AT, A_AT, B_AT, INDEX_AT, OUT_AT, DRAM_BYTES = 0, 4096, 8192 - 32, 12288, 16384, 32768
LATENCY = NANO.dram_latency - BUS_LATENCY
TRACES = ("dispatch", "issue", "rd", "wr")


def to(*units: Unit) -> int:
    return sum(1 << unit for unit in units)


PROGRAM = [
    Load(space=Space.INDEX, dram_addr=INDEX_AT, rows=1, row_bytes=32, signal_wr=to(Unit.LOAD, Unit.STORE)),
    Load(space=Space.A, dram_addr=A_AT, row_stride=48, rows=6, row_bytes=40, pitch=6),
    Gather(space=Space.A, dram_addr=A_AT, row_stride=64, rows=3, row_bytes=40, addr=NANO.a_bank_groups, pitch=6,
           index_addr=1, wait_wr=to(Unit.LOAD)),
    # Rows that touch and cross a 4 KiB boundary; one burst of five beats would, two do not.
    Load(space=Space.B, dram_addr=B_AT, row_stride=48, rows=4, row_bytes=40, signal_wr=to(Unit.MATRIX)),
    Matmul(a_addr=0, k_steps=5, m_rows=6, n_tiles=1, a_pitch=6, b_pitch=6, wait_wr=to(Unit.LOAD),
           signal_wr=to(Unit.VECTOR, Unit.STORE)),
    Vector(rows=6, tiles=1, x_addr=0, y=fp32_bits(0.5), w=fp32_bits(1.0), dest=Dest.A,
           dst_addr=2 * NANO.a_bank_groups, dst_pitch=2, wait_wr=to(Unit.MATRIX), signal_rd=to(Unit.STORE),
           signal_wr=to(Unit.STORE)),
    Store(space=Space.ACC, dram_addr=OUT_AT, row_stride=16, rows=6, row_bytes=16, wait_wr=to(Unit.MATRIX),
          wait_rd=to(Unit.VECTOR)),
    Store(space=Space.A, dram_addr=OUT_AT + 512 + 8, row_stride=16, rows=6, row_bytes=4, addr=2 * NANO.a_bank_groups,
          pitch=2, wait_wr=to(Unit.VECTOR)),
    Scatter(space=Space.A, dram_addr=OUT_AT + 4096 - 32, row_stride=48, rows=3, row_bytes=40, addr=0, pitch=6,
            index_addr=2, wait_wr=to(Unit.LOAD)),
    Halt(),
]


def image(rng: np.random.Generator, program: list | None = None) -> np.ndarray:
    dram = rng.integers(0, 256, DRAM_BYTES, dtype=np.uint8)
    dram[A_AT:INDEX_AT] = rng.integers(0x28, 0x48, INDEX_AT - A_AT)  # finite E4M3 codes
    dram[INDEX_AT:INDEX_AT + 32] = np.array([9, 4, 1, 7, 3, 0, 2, 5], "<u4").view(np.uint8)
    words = encode_program(PROGRAM if program is None else program).reshape(-1)
    dram[PROGRAM_AT:PROGRAM_AT + NANO.page_bytes] = 0
    dram[PROGRAM_AT:PROGRAM_AT + len(words)] = words
    return dram


def native(dram) -> dict:
    """The same program on the bare tile: its traces and cycles."""
    tile = Tile(NANO)

    class Port:
        def __init__(self, prefix: str) -> None:
            for name in ("req_valid", "req_addr", "req_data", "req_strb", "req_ready", "rsp_valid", "rsp_data"):
                setattr(self, name, getattr(tile, f"{prefix}_{name}", None))

    read, write = Port("rd"), Port("wr")
    log: dict = {name: [] for name in TRACES}

    async def bench(ctx) -> None:
        for cycle in range(3000):
            ctx.set(tile.start, int(cycle == 0))
            for kind, port in (("read", read), ("write", write)):
                getattr(dram, f"drive_{kind}")(ctx, port, cycle)
            for kind, port in (("read", read), ("write", write)):
                getattr(dram, f"sample_{kind}")(ctx, port, cycle)
            for name in TRACES:
                if value := ctx.get(getattr(tile, f"trace_{name}")):
                    log[name].append((cycle, value))
            done = ctx.get(tile.done)
            await ctx.tick()
            if done:
                break
        assert done and not ctx.get(tile.conflict), log
        log["cycles"] = cycle + 1
        log["counters"] = []
        for number in range(len(COUNTER_NAMES)):
            ctx.set(tile.counter_select, number)
            await ctx.tick()
            log["counters"].append(ctx.get(tile.counter_value))

    sim = Simulator(tile)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return log


class Pins:
    """The pins with a prefix, as a port."""

    def __init__(self, top: TileAxi, prefix: str) -> None:
        for name in top.signature.members:
            if name.startswith(prefix):
                setattr(self, name.removeprefix(prefix), getattr(top, name))


class Board:
    """A tile, a memory and a host in one simulation. Traces count from the last start."""

    def __init__(self, memory, lite_host, config: TileConfig = NANO) -> None:
        self.top = TileAxi(config)
        self.memory, self.lite_host = memory, lite_host
        self.cycle = self.started = 0
        self.traces: dict = {}

    def run(self, body) -> None:
        axi = Pins(self.top, "m_axi_")

        async def bench(ctx) -> None:
            async def tick() -> None:
                self.memory.drive(ctx, axi, self.cycle)
                if ctx.get(self.top.trace_start):
                    self.started, self.traces = self.cycle, {name: [] for name in TRACES}
                for name in self.traces:
                    if value := ctx.get(getattr(self.top, f"trace_{name}")):
                        self.traces[name].append((self.cycle - self.started, value))
                self.memory.sample(ctx, axi, self.cycle)
                await ctx.tick()
                self.cycle += 1

            self.ctx, self.tick = ctx, tick
            self.host = self.lite_host(ctx, Pins(self.top, "s_axi_"), None, tick)
            ctx.set(self.top.aresetn, 0)
            await ctx.tick()
            ctx.set(self.top.aresetn, 1)
            await body(self)

        sim = Simulator(self.top)
        sim.add_clock(1e-8)
        sim.add_testbench(bench)
        sim.run()

    async def read(self, name: str) -> int:
        data, response = await self.host.read(offset(name))
        assert response == 0
        return data

    async def write(self, name: str, value: int) -> None:
        assert await self.host.write(offset(name), value) == 0

    async def command(self, *fields: str) -> None:
        await self.write("CONTROL", mask("CONTROL", *fields))

    async def wait(self, cycles: int) -> None:
        for _ in range(cycles):
            await self.tick()

    async def interrupt(self, limit: int = 4000) -> None:
        for _ in range(limit):
            if self.ctx.get(self.top.interrupt):
                return
            await self.tick()
        raise AssertionError(f"no interrupt after {limit} cycles, STATUS {await self.read('STATUS'):#x}")

    async def clean(self) -> None:
        """After an error: wait until drained, clear errors and interrupts."""
        for _ in range(1000):
            if not await self.read("STATUS") & mask("STATUS", "DRAINING"):
                break
        self.memory.cleared()
        await self.command("CLEAR_ERROR")
        await self.write("INTERRUPT_STATUS", 3)
        assert await self.read("STATUS") & ERROR_MASK == 0

    async def run_program(self) -> None:
        """Start, wait for the interrupt, check that it is DONE and nothing else."""
        await self.command("START")
        await self.interrupt()
        assert await self.read("STATUS") == mask("STATUS", "DONE")
        assert await self.read("INTERRUPT_STATUS") == mask("INTERRUPT_STATUS", "DONE")
        await self.write("INTERRUPT_STATUS", 3)
        assert not self.ctx.get(self.top.interrupt)


@pytest.fixture(scope="module")
def reference(request, bench_dram):
    """(memory before, memory after, log) of `PROGRAM` on the bare tile."""
    before = image(np.random.default_rng(request.config.option.seed))
    dram = bench_dram(before.copy(), bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency)
    log = native(dram)
    assert (dram.data[OUT_AT:] != before[OUT_AT:]).any()
    return before, dram.data, log


def test_ideal_bus_equals_the_bare_tile(reference, axi_memory, lite_host) -> None:
    """Same results, every trace cycle, cycles and counters; a second run of the same program too."""
    before, after, log = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=LATENCY)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        for _ in range(2):
            memory.data[:] = before
            await board.run_program()
            assert board.traces == {name: log[name] for name in TRACES}
            assert (memory.data == after).all()
            assert await board.read("CYCLES_LO") == log["cycles"] and await board.read("CYCLES_HI") == 0
        for number, value in enumerate(log["counters"]):
            await board.write("COUNTER_SELECT", number)
            assert await board.read("COUNTER_LO") == value, COUNTER_NAMES[number]
        assert await board.read("RESULT_FLAGS") == 0

    Board(memory, lite_host).run(body)
    lengths = [n for _, _, n in memory.reads]
    assert max(lengths) == 16 and 12 not in lengths, "page loads in full bursts, the load of B cut at 4 KiB"


def test_result_flags_are_those_of_the_last_program(reference, axi_memory, lite_host) -> None:
    before, *_ = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=LATENCY)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        for code, flags in ((0x7F, mask("RESULT_FLAGS", "NAN")), (0x38, 0)):
            memory.data[A_AT] = code
            await board.run_program()
            assert await board.read("RESULT_FLAGS") == flags

    Board(memory, lite_host).run(body)


@pytest.mark.slow
def test_stalls_change_only_the_times(reference, rng, axi_memory, lite_host) -> None:
    """Same results on a memory that stalls at random; the recorder tells what the trace ports show."""
    before, after, _ = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=3, rng=rng)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        await board.run_program()
        words = [await board.read("TRACE_DATA") for _ in range(await board.read("TRACE_STATUS"))]
        assert await board.read("TRACE_STATUS") == 0 and await board.read("TRACE_DATA") == 0
        for unit, times in dma_times(words).items():
            bit = 1 << Unit[unit.upper()]
            for kind in ("issue", "rd", "wr"):
                assert [getattr(t, kind) for t in times] == [c for c, v in board.traces[kind] if v & bit]
            assert len(times) == (5 if unit == "load" else 3)  # the boot LOAD is one

    Board(memory, lite_host, FOUR_BURSTS).run(body)
    assert (memory.data == after).all()


@pytest.mark.slow
def test_base_moves_the_whole_memory(reference, axi_memory, lite_host) -> None:
    before, after, _ = reference
    memory = axi_memory(np.concatenate([np.zeros(8192, np.uint8), before]), bus_bytes=16, latency=1)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        await board.write("DRAM_BASE_LO", 8192)
        await board.run_program()

    Board(memory, lite_host).run(body)
    assert (memory.data[8192:] == after).all() and not memory.data[:8192].any()


@pytest.mark.slow
@pytest.mark.parametrize("cases", [
    pytest.param([("READ", B_AT + 32)], id="read"),
    pytest.param([("WRITE", OUT_AT + 512)], id="write"),
    pytest.param([("READ", PROGRAM_AT + 48), ("READ", B_AT + 32), ("WRITE", OUT_AT + 512)], id="in turn",
                 marks=pytest.mark.slow)])
def test_error_responses(cases, reference, rng, axi_memory, lite_host) -> None:
    """Reads and writes that fail: told, stopped (the memory asserts that no address follows),
    no DONE, START ignored until cleared; then the program runs as if nothing had been."""
    before, after, _ = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=5, rng=rng)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        for n, (kind, address) in enumerate(cases):
            memory.errors, memory.code = frozenset({address}), 2 + n % 2
            await board.command("START")
            await board.interrupt()
            status = await board.read("STATUS")
            assert status & ~mask("STATUS", "DRAINING") == mask("STATUS", f"{kind}_ERROR"), (kind, hex(status))
            assert await board.read("ERROR_RESPONSE") == memory.code
            assert await board.read("ERROR_ADDR_LO") == address and await board.read("ERROR_ADDR_HI") == 0
            assert await board.read("INTERRUPT_STATUS") == mask("INTERRUPT_STATUS", "ERROR")
            await board.command("START")
            await board.wait(60)
            assert await board.read("STATUS") & ~mask("STATUS", "DRAINING") == mask("STATUS", f"{kind}_ERROR")
            await board.clean()
            memory.errors = frozenset()
            memory.data[:] = before
            await board.run_program()
            assert (memory.data == after).all()

    Board(memory, lite_host, FOUR_BURSTS).run(body)


BOOTING, STORING = ("READ", PROGRAM_AT), ("WRITE", OUT_AT)


@pytest.mark.always("booting")
@pytest.mark.parametrize("hangs", [
    pytest.param([(BOOTING, True)], id="booting"), pytest.param([(STORING, False)], id="storing and abandoned"),
    pytest.param([(BOOTING, True), (BOOTING, False), (STORING, True), (STORING, False)], id="in turn",
                 marks=pytest.mark.slow)])
def test_hung_bus(hangs, reference, axi_memory, lite_host) -> None:
    """While booting and while storing: a time-out tells; the tile drains when the bus comes back, or by ABANDON
    while the memory is being reset; then the program runs."""
    before, after, log = reference
    stores = next(c for c, v in log["issue"] if v & to(Unit.STORE))

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        await board.write("TIMEOUT", 100)
        for (kind, address), revives in hangs:
            hang_after = 10 if kind == "READ" else stores
            memory = board.memory = axi_memory(before.copy(), bus_bytes=16, latency=LATENCY)
            await board.command("START")
            while board.cycle - board.started < hang_after:
                await board.tick()
            memory.hung = True
            await board.interrupt()
            status = await board.read("STATUS")
            assert status == mask("STATUS", "DRAINING", f"{kind}_TIMEOUT")
            assert await board.read("ERROR_ADDR_LO") == address
            await board.wait(200)
            assert await board.read("STATUS") == status
            assert await board.read("INTERRUPT_STATUS") == mask("INTERRUPT_STATUS", "ERROR")
            if revives:
                memory.hung = False
            else:
                memory.in_reset = True
                await board.command("ABANDON")
                assert await board.read("STATUS") == mask("STATUS", f"{kind}_TIMEOUT")
                board.memory = axi_memory(before.copy(), bus_bytes=16, latency=LATENCY)
            await board.clean()
            board.memory.data[:] = before
            await board.run_program()
            assert (board.memory.data == after).all()

    Board(axi_memory(before.copy(), bus_bytes=16), lite_host).run(body)


@pytest.mark.slow
@pytest.mark.parametrize("resets", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_soft_reset_anywhere(resets: int, reference, rng, axi_memory, lite_host) -> None:
    """At random cycles of a program on a memory that stalls: no error, no DONE, no interrupt, then a good run."""
    before, after, log = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=4, rng=rng)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", 3)
        for _ in range(resets):
            await board.command("START")
            await board.wait(int(rng.integers(0, log["cycles"])))
            await board.command("SOFT_RESET")
            for _ in range(1000):  # bursts of 64 beats may be under way, on a memory that takes some 5 cycles for each
                if await board.read("STATUS") == 0:
                    break
            assert await board.read("STATUS") == 0 and memory.idle
            assert await board.read("INTERRUPT_STATUS") == 0
            memory.data[:] = before
            await board.run_program()
            assert (memory.data == after).all()

    Board(memory, lite_host, FOUR_BURSTS).run(body)


def test_programs_that_are_none(rng, axi_memory, lite_host) -> None:
    """An unknown opcode behind loads under way: ILLEGAL, no DONE, and the next program runs."""
    good = [Load(space=Space.ACC, dram_addr=A_AT, rows=1, row_bytes=16, signal_wr=to(Unit.STORE)),
            Store(space=Space.ACC, dram_addr=OUT_AT, rows=1, row_bytes=16, wait_wr=to(Unit.LOAD)), Halt()]
    bad = image(rng, [Load(space=Space.A, dram_addr=A_AT, rows=1, row_bytes=512)] * 3)
    bad[PROGRAM_AT + 3 * 32] = 13
    memory = axi_memory(bad, bus_bytes=16, latency=9, rng=rng)

    async def body(board: Board) -> None:
        await board.write("INTERRUPT_ENABLE", mask("INTERRUPT_ENABLE", "ERROR"))
        await board.command("START")
        await board.interrupt()
        assert await board.read("STATUS") & ~mask("STATUS", "DRAINING") == mask("STATUS", "ILLEGAL")
        await board.clean()
        assert memory.idle
        memory.data[:] = image(rng, good)
        await board.write("INTERRUPT_ENABLE", 1)
        await board.run_program()
        assert (memory.data[OUT_AT:OUT_AT + 16] == memory.data[A_AT:A_AT + 16]).all()

    Board(memory, lite_host).run(body)


@pytest.mark.slow
def test_start_while_busy_and_interrupt_enable(reference, axi_memory, lite_host) -> None:
    """A second START changes nothing; without enable there is no interrupt, but its cause is kept."""
    before, after, log = reference
    memory = axi_memory(before.copy(), bus_bytes=16, latency=LATENCY)

    async def body(board: Board) -> None:
        await board.command("START")
        await board.wait(50)
        await board.write("PROGRAM_ADDR_LO", OUT_AT)
        await board.command("START")
        assert await board.read("STATUS") == mask("STATUS", "BUSY")
        await board.wait(log["cycles"])
        assert not board.ctx.get(board.top.interrupt)
        assert await board.read("STATUS") == mask("STATUS", "DONE")
        assert await board.read("CYCLES_LO") == log["cycles"]
        assert await board.read("INTERRUPT_STATUS") == mask("INTERRUPT_STATUS", "DONE")
        await board.write("INTERRUPT_ENABLE", mask("INTERRUPT_ENABLE", "DONE"))
        await board.wait(2)
        assert board.ctx.get(board.top.interrupt)

    Board(memory, lite_host).run(body)
    assert (memory.data == after).all()
