"""ReadMaster and WriteMaster on a memory that stalls, fails and hangs; latency on one that does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.axi.master_read import ReadMaster
from tilescore.rtl.axi.master_write import WriteMaster
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError

WIDE = dataclasses.replace(load_tile("nano"), name="wide", cols=16, lanes=4)
WIDTHS = [dataclasses.replace(WIDE, name=f"bus{8 * n}", bus_bytes=n) for n in (4, 16, 64)]
MEMORY_BYTES = 1 << 16


def rows(rng: np.random.Generator, config: TileConfig, count: int) -> list[tuple[int, int]]:
    """(address, beats) of rows anywhere, short and long, some right at a 4 KiB boundary."""
    bus, result = config.bus_bytes, []
    for _ in range(count):
        beats = int(rng.choice([1, 1, 2, 3, 16, 17, 40]))
        address = bus * int(rng.integers(0, (MEMORY_BYTES - 64 * bus) // bus))
        if rng.random() < 0.4:
            page = int(rng.integers(1, MEMORY_BYTES // 4096 - 1))
            address = max(0, 4096 * page - bus * int(rng.integers(0, beats + 1)))
        result.append((address, beats))
    return result


def requests(row_list: list, config: TileConfig) -> list[tuple[int, int]]:
    """(address, more) of every beat."""
    return [(address + b * config.bus_bytes, min(255, beats - 1 - b))
            for address, beats in row_list for b in range(beats)]


class Bench:
    """A master between a stream of requests and a memory; subclasses know the direction."""

    def __init__(self, dut, memory, stream, rng=None) -> None:
        self.dut, self.memory, self.stream, self.rng = dut, memory, list(stream), rng
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.position = 0

    def step_inputs(self, ctx, cycle: int) -> None:
        raise NotImplementedError

    async def cycle(self, ctx, cycle: int) -> None:
        port = self.dut.dram
        self.memory.drive(ctx, self.dut.axi, cycle)
        self.step_inputs(ctx, cycle)
        if ctx.get(port.req_valid) and ctx.get(port.req_ready):
            self.asked.append(cycle)
            self.position += 1
        if ctx.get(port.rsp_valid):
            self.answered.append(cycle)
            self.take(ctx)
        self.memory.sample(ctx, self.dut.axi, cycle)
        await ctx.tick()

    def take(self, ctx) -> None:
        pass

    def run(self, body) -> None:
        sim = Simulator(self.dut)
        sim.add_clock(1e-8)
        sim.add_testbench(body)
        sim.run()


class ReadBench(Bench):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.data: list[int] = []

    def step_inputs(self, ctx, cycle: int) -> None:
        """Requests without pause: a load unit does not pause within a row."""
        port = self.dut.dram
        ctx.set(port.req_valid, int(self.position < len(self.stream)))
        if self.position < len(self.stream):
            address, more = self.stream[self.position]
            ctx.set(port.req_addr, address)
            ctx.set(port.req_more, more)

    def take(self, ctx) -> None:
        assert len(self.answered) <= len(self.asked) and self.answered[-1] > self.asked[len(self.answered) - 1]
        self.data.append(ctx.get(self.dut.dram.rsp_data))


class WriteBench(Bench):
    def __init__(self, *args, beats, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.beats = beats

    def step_inputs(self, ctx, cycle: int) -> None:
        """Requests with random pauses when the memory has stalls, also within a burst."""
        port = self.dut.dram
        pause = self.rng is not None and self.rng.random() < 0.3
        valid = self.position < len(self.stream) and not pause
        ctx.set(port.req_valid, int(valid))
        if valid:
            address, more = self.stream[self.position]
            data, strobe = self.beats[self.position]
            ctx.set(port.req_addr, address)
            ctx.set(port.req_more, more)
            ctx.set(port.req_data, data)
            ctx.set(port.req_strb, strobe)


def beats_for(rng, stream: list, config: TileConfig) -> list[tuple[int, int]]:
    bus = config.bus_bytes
    full = (1 << bus) - 1
    return [(int.from_bytes(rng.bytes(bus), "little"),
             full if rng.random() < 0.7 else int.from_bytes(rng.bytes(bus), "little") & full) for _ in stream]


def apply(data: np.ndarray, stream: list, beats: list, bus: int) -> np.ndarray:
    result = data.copy()
    for (address, _), (value, strobe) in zip(stream, beats, strict=False):
        for k in range(bus):
            if strobe >> k & 1:
                result[address + k] = value >> 8 * k & 255
    return result


def image(rng) -> np.ndarray:
    return rng.integers(0, 256, MEMORY_BYTES, dtype=np.uint8)


@pytest.mark.parametrize("max_burst", [1, 16, "4 KiB"])
@pytest.mark.parametrize("config", WIDTHS, ids=lambda c: c.name)
def test_reads_under_stalls(config, max_burst, rng, axi_memory) -> None:
    """Every beat in order with the right data; bursts no longer than allowed and not needlessly many."""
    max_burst = min(256, 4096 // config.bus_bytes) if max_burst == "4 KiB" else max_burst
    config = dataclasses.replace(config, max_burst=max_burst, max_outstanding=4)
    row_list = rows(rng, config, 20)
    stream = requests(row_list, config)
    memory = axi_memory(image(rng), bus_bytes=config.bus_bytes, latency=3, rng=rng)
    bench = ReadBench(ReadMaster(config), memory, stream)

    async def body(ctx) -> None:
        cycle = 0
        while len(bench.data) < len(stream):
            assert cycle < 40 * len(stream), "not finished"
            await bench.cycle(ctx, cycle)
            cycle += 1
        assert ctx.get(bench.dut.idle) and memory.idle

    bench.run(body)
    bus = config.bus_bytes
    assert bench.data == [int.from_bytes(memory.data[a:a + bus].tobytes(), "little") for a, _ in stream]
    assert [(a, n) for _, a, n in memory.reads] == cut(row_list, bus, max_burst)


def cut(row_list: list, bus: int, max_burst: int) -> list[tuple[int, int]]:
    """Bursts of the rows: cut at multiples of ``max_burst`` beats."""
    bursts = []
    for address, beats in row_list:
        while beats:
            n = min(beats, max_burst - address // bus % max_burst)
            bursts.append((address, n))
            address, beats = address + n * bus, beats - n
    return bursts


@pytest.mark.parametrize("max_burst", [1, 16, "4 KiB"])
@pytest.mark.parametrize("config", WIDTHS, ids=lambda c: c.name)
def test_writes_under_stalls(config, max_burst, rng, axi_memory) -> None:
    """The bytes with strobes and no others; one answer per beat, never before the burst's own when it is the last."""
    max_burst = min(256, 4096 // config.bus_bytes) if max_burst == "4 KiB" else max_burst
    config = dataclasses.replace(config, max_burst=max_burst, max_outstanding=4)
    row_list = rows(rng, config, 20)
    stream = requests(row_list, config)
    beats = beats_for(rng, stream, config)
    before = image(rng)
    memory = axi_memory(before.copy(), bus_bytes=config.bus_bytes, latency=3, rng=rng)
    bench = WriteBench(WriteMaster(config), memory, stream, rng, beats=beats)
    bursts = cut(row_list, config.bus_bytes, max_burst)
    ends = np.cumsum([n for _, n in bursts])

    async def body(ctx) -> None:
        cycle = 0
        while len(bench.answered) < len(stream):
            assert cycle < 60 * len(stream), "not finished"
            given = memory.given
            await bench.cycle(ctx, cycle)
            finished = int(np.searchsorted(ends, len(bench.answered), side="right"))
            assert finished <= given, "a burst's last beat was answered before the bus did"
            cycle += 1
        for _ in range(5):
            await bench.cycle(ctx, cycle)
            cycle += 1
        assert ctx.get(bench.dut.idle) and memory.idle and len(bench.answered) == len(stream)

    bench.run(body)
    assert (memory.data == apply(before, stream, beats, config.bus_bytes)).all()
    assert [(a, n) for _, a, n in memory.writes] == bursts


@pytest.mark.parametrize("latency", [1, 2, 7, 18])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_constant_latency(kind: str, latency: int, rng, axi_memory) -> None:
    """On a bus without stalls every request is taken at once and answered BUS_LATENCY + latency later.

    Of a write burst only the last beat is; the others are answered no later than that, the row's last with it.
    """
    config = dataclasses.replace(WIDTHS[1], dram_latency=latency + BUS_LATENCY)
    assert config.max_outstanding == 0, "as many bursts as this latency needs"
    row_list = rows(rng, config, 30) + [(16 * n, 1) for n in range(0, 120, 2)]
    stream = requests(row_list, config)
    memory = axi_memory(image(rng), bus_bytes=config.bus_bytes, latency=latency)
    if kind == "read":
        bench: Bench = ReadBench(ReadMaster(config), memory, stream)
    else:
        bench = WriteBench(WriteMaster(config), memory, stream, beats=beats_for(rng, stream, config))

    async def body(ctx) -> None:
        for cycle in range(len(stream) + latency + 5):
            await bench.cycle(ctx, cycle)

    bench.run(body)
    assert bench.asked == list(range(len(stream)))
    due = [t + BUS_LATENCY + latency for t in bench.asked]
    if kind == "write":
        ends = np.cumsum([beats for _, beats in cut(row_list, 16, 16)]) - 1
        assert all(t <= d for t, d in zip(bench.answered, due, strict=True))
        assert [bench.answered[n] for n in ends] == [due[n] for n in ends]
    else:
        assert bench.answered == due


def test_base_is_added(rng, axi_memory) -> None:
    """Pages above the request's address, modulo 2**40; low bits of an unaligned request are dropped."""
    for request, base, expected in ((0x12345678, 0x3, 0x12348670), (0xFFFFFFF010, 0x2, 0x0000001010)):
        dut = ReadMaster(WIDTHS[1])
        seen = []

        async def body(ctx, dut=dut, request=request, base=base, seen=seen) -> None:
            ctx.set(dut.base, base)
            ctx.set(dut.dram.req_addr, request)
            ctx.set(dut.dram.req_valid, 1)
            await ctx.tick()
            seen.append(ctx.get(dut.axi.araddr))

        Bench(dut, None, []).run(body)
        assert seen == [expected]


@pytest.mark.parametrize("kind", ["read", "write"])
def test_error_is_reported_and_halt_holds_the_next_address(kind, rng, axi_memory) -> None:
    """`error` in the cycle of the response, with address and code; with it on `halt` no address follows (the memory
    asserts that); the bursts under way end."""
    config = WIDTHS[1]
    row_list = [(16 * n * 8, 5) for n in range(40)]
    stream = requests(row_list, config)
    bad = row_list[17][0] + (3 * 16 if kind == "read" else 0)
    memory = axi_memory(image(rng), bus_bytes=16, latency=4, rng=rng, errors=frozenset({bad}), code=3)
    master = ReadMaster if kind == "read" else WriteMaster
    dut = master(dataclasses.replace(config, max_outstanding=4))
    bench = ReadBench(dut, memory, stream) if kind == "read" else \
        WriteBench(dut, memory, stream, rng, beats=beats_for(rng, stream, config))
    seen = []

    async def body(ctx) -> None:
        stopped = 0
        for cycle in range(4000):
            ctx.set(dut.halt, int(bool(seen)))
            memory.drive(ctx, dut.axi, cycle)
            if ctx.get(dut.error):
                seen.append((ctx.get(dut.response), ctx.get(dut.error_addr)))
                ctx.set(dut.halt, 1)
            bench.step_inputs(ctx, cycle)
            bench.position += ctx.get(dut.dram.req_valid) & ctx.get(dut.dram.req_ready)
            memory.sample(ctx, dut.axi, cycle)
            await ctx.tick()
            stopped += bool(seen)
            if stopped > 400:
                break
        assert seen == [(3, bad)]
        assert ctx.get(dut.idle) and memory.idle

    bench.run(body)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_drain_ends_what_is_under_way(kind, rng, axi_memory) -> None:
    """20 drains at random cycles: bursts under way end lawfully, owed beats change no byte, no answer reaches the
    tile, and afterwards the master serves a new stream as if fresh."""
    config = WIDTHS[1]
    memory = axi_memory(image(rng), bus_bytes=16, latency=6, rng=rng)
    dut = (ReadMaster if kind == "read" else WriteMaster)(dataclasses.replace(config, max_outstanding=4))

    async def body(ctx) -> None:
        cycle = 0
        for _ in range(20):
            stream = requests(rows(rng, config, 6), config)
            beats = beats_for(rng, stream, config)
            before = memory.data.copy()
            bench = ReadBench(dut, memory, stream) if kind == "read" else \
                WriteBench(dut, memory, stream, rng, beats=beats)
            for _ in range(int(rng.integers(1, 60))):
                await bench.cycle(ctx, cycle)
                cycle += 1
            ctx.set(dut.drain, 1)
            ctx.set(dut.dram.req_valid, 1)
            for n in range(500):
                memory.drive(ctx, dut.axi, cycle)
                assert not ctx.get(dut.dram.req_ready)
                if n > 1:
                    assert not ctx.get(dut.dram.rsp_valid)
                memory.sample(ctx, dut.axi, cycle)
                done = ctx.get(dut.idle)
                await ctx.tick()
                cycle += 1
                if done:
                    break
            assert done and memory.idle
            ctx.set(dut.drain, 0)
            if kind == "write":
                written = stream[:bench.position]
                assert (memory.data == apply(before, written, beats, 16)).all()
            stream = requests(rows(rng, config, 3), config)
            beats = beats_for(rng, stream, config)
            before = memory.data.copy()
            bench = ReadBench(dut, memory, stream) if kind == "read" else \
                WriteBench(dut, memory, stream, rng, beats=beats)
            while len(bench.answered) < len(stream):
                await bench.cycle(ctx, cycle)
                cycle += 1
                assert cycle < 60000
            if kind == "read":
                assert bench.data == [int.from_bytes(memory.data[a:a + 16].tobytes(), "little") for a, _ in stream]
            else:
                assert (memory.data == apply(before, stream, beats, 16)).all()

    bench = Bench(dut, memory, [])
    bench.run(body)


@pytest.mark.parametrize("kind", ["read", "write"])
def test_hung_bus_shows_no_progress_and_abandon_forgets(kind, rng, axi_memory) -> None:
    config = WIDTHS[1]
    stream = requests([(0, 8), (512, 8), (1024, 8)], config)
    memory = axi_memory(image(rng), bus_bytes=16, latency=5)
    dut = (ReadMaster if kind == "read" else WriteMaster)(dataclasses.replace(config, max_outstanding=4))
    bench = ReadBench(dut, memory, stream) if kind == "read" else \
        WriteBench(dut, memory, stream, beats=beats_for(rng, stream, config))

    async def body(ctx) -> None:
        for cycle in range(5):
            await bench.cycle(ctx, cycle)
        memory.hung = True
        for cycle in range(5, 30):
            await bench.cycle(ctx, cycle)
        for cycle in range(30, 40):
            memory.drive(ctx, dut.axi, cycle)
            assert not ctx.get(dut.progress) and not ctx.get(dut.idle)
            assert ctx.get(dut.oldest_addr) == 0
            await ctx.tick()
        ctx.set(dut.drain, 1)
        ctx.set(dut.abandon, 1)
        await ctx.tick()
        ctx.set(dut.abandon, 0)
        assert ctx.get(dut.idle)
        ctx.set(dut.drain, 0)
        fresh = axi_memory(memory.data, bus_bytes=16, latency=5)
        again = ReadBench(dut, fresh, stream) if kind == "read" else \
            WriteBench(dut, fresh, stream, beats=bench.beats)
        for cycle in range(60):
            await again.cycle(ctx, cycle)
        assert len(again.answered) == len(stream)
        if kind == "read":
            assert again.data == [int.from_bytes(memory.data[a:a + 16].tobytes(), "little") for a, _ in stream]

    bench.run(body)


def test_wrong_parameters() -> None:
    for config, key, value, allowed in (
            (WIDTHS[2], "max_burst", 128, r"at most 64 \(4096 bytes of 64 per beat\)"),
            (WIDTHS[0], "max_burst", 12, "a power of two"), (WIDTHS[0], "max_burst", 512, r"1\.\.256"),
            (WIDTHS[0], "max_burst", 0, r"1\.\.256"), (WIDTHS[0], "max_outstanding", 1025, r"0\.\.1024"),
            (WIDTHS[0], "recorder_depth", 32769, r"0\.\.32768"), (WIDTHS[0], "counters", "some", "one of all, none")):
        with pytest.raises(ConfigError, match=f"tile {config.name}: {key} must be {allowed}, got {value!r}"):
            dataclasses.replace(config, **{key: value})
    dataclasses.replace(WIDTHS[2], max_burst=64, max_outstanding=1, recorder_depth=0, counters="none")
