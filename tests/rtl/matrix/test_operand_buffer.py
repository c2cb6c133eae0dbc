# amaranth: UnusedElaboratable=no
"""Operand buffers: bytes in through each port, groups out with the array's skew, beats out, conflicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.matrix.operand_buffer import OperandBuffer
from tilescore.rtl.matrix.operand_slice import OperandSlice
from tilescore.rtl.matrix.timing import OPERAND_READ
from tilescore.rtl.spec.config import TileConfig
from tilescore.tests.rtl.matrix.bench import CONFIGS, FORMATS, NANO

STORED = CONFIGS | {"formats": FORMATS, "wide rows": replace(
    FORMATS, name="wide rows", cols=32, b_buffer_bytes=32 * 4 * 64, a_buffer_bytes=4 * 4 * 256)}
"""With scale bytes: rows of codes of half a group and of four groups."""


class SliceModel:
    """``codes`` (slices, banks, bytes of a bank), ``scales`` (slices, banks, groups of a bank)."""

    def __init__(self, config: TileConfig, buffer: str) -> None:
        self.config, self.buffer = config, buffer
        self.slices = config.rows if buffer == "a" else config.cols
        self.banks = getattr(config, f"{buffer}_banks")
        self.bank_groups = getattr(config, f"{buffer}_bank_groups")
        self.offset_bits = getattr(config, f"{buffer}_offset_bits")
        self.codes = np.zeros((self.slices, self.banks, self.bank_groups * config.lanes), np.uint8)
        self.scales = np.zeros((self.slices, self.banks, self.bank_groups), np.uint8)

    def group_addr(self, bank: int, byte: int) -> int:
        return (bank << self.offset_bits) + byte // self.config.lanes

    def bytes_at(self, s: int, addr: int, count: int) -> bytes:
        byte = (addr & ((1 << self.offset_bits) - 1)) * self.config.lanes
        return self.codes[s, addr >> self.offset_bits, byte:byte + count].tobytes()

    def scales_at(self, s: int, addr: int, count: int) -> bytes:
        """Zero without block scales, whatever was written."""
        offset = addr & ((1 << self.offset_bits) - 1)
        scales = self.scales[s, addr >> self.offset_bits, offset:offset + count]
        return (scales if self.config.scales else 0 * scales).tobytes()

    def write(self, ctx, port, s: int, bank: int, byte: int, data: np.ndarray, rng: np.random.Generator) -> None:
        """Present ``data`` with random masks and random scale bytes; update the model."""
        lanes = self.config.lanes
        mask = rng.random(len(data)) < 0.7
        groups = max(1, len(data) // lanes)
        scales, scale_mask = rng.integers(0, 256, groups).astype(np.uint8), rng.random(groups) < 0.5
        for name, value in (("data", data), ("scales", scales)):
            ctx.set(getattr(port, name), int.from_bytes(value.tobytes(), "little"))
        for name, bits in (("mask", mask), ("scale_mask", scale_mask)):
            ctx.set(getattr(port, name), sum(int(bit) << i for i, bit in enumerate(bits)))
        ctx.set(port.valid, 1)
        ctx.set(port.slice, s)
        ctx.set(port.addr, self.group_addr(bank, byte))
        self.codes[s, bank, byte:byte + len(data)][mask] = data[mask]
        group = byte // lanes
        self.scales[s, bank, group:group + groups][scale_mask] = scales[scale_mask]


def simulate(dut, testbench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def start_beats(ctx, dut: OperandBuffer, model: SliceModel, rng: np.random.Generator) -> None:
    """Present a random masked beat, and in A a random row of codes in another bank; update the model."""
    config = model.config
    s, bank = int(rng.integers(model.slices)), int(rng.integers(model.banks))
    byte = int(rng.integers(model.codes.shape[2] // config.bus_bytes)) * config.bus_bytes
    model.write(ctx, dut.load, s, bank, byte, rng.integers(0, 256, config.bus_bytes).astype(np.uint8), rng)
    if model.buffer == "b":
        return
    s, bank = int(rng.integers(model.slices)), (bank + 1) % model.banks
    byte = int(rng.integers(model.codes.shape[2] // config.cols)) * config.cols
    ctx.set(dut.vec.sub, byte % config.lanes)
    model.write(ctx, dut.vec, s, bank, byte, rng.integers(0, 256, config.cols).astype(np.uint8), rng)


def stop_beats(ctx, dut: OperandBuffer, buffer: str) -> None:
    ctx.set(dut.load.valid, 0)
    if buffer == "a":
        ctx.set(dut.vec.valid, 0)


def test_the_buffer_is_a_or_b() -> None:
    for component in (OperandBuffer, OperandSlice):
        with pytest.raises(ValueError, match="buffer must be 'a' or 'b', not 'c'"):
            component(NANO, buffer="c")


@pytest.mark.parametrize("buffer", ["a", "b"])
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_read_what_was_written_skewed_by_slice(name: str, buffer: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    dut, model = OperandBuffer(config, buffer=buffer), SliceModel(config, buffer)
    lanes = config.lanes
    cycles = 60
    steps = []
    for _ in range(cycles):
        addr = (int(rng.integers(model.banks)) << model.offset_bits) + int(rng.integers(model.bank_groups))
        steps.append((int(rng.integers(model.slices + 1)) if rng.random() < 0.8 else 0, addr, *rng.integers(0, 2, 2)))

    async def testbench(ctx) -> None:
        for _ in range(300):
            start_beats(ctx, dut, model, rng)
            assert not ctx.get(dut.conflict)
            await ctx.tick()
        stop_beats(ctx, dut, buffer)
        reads = 0
        for t in range(cycles + model.slices + OPERAND_READ):
            rows, addr, first, last = steps[t] if t < cycles else (0, 0, 0, 0)
            ctx.set(dut.step.addr, addr)
            if buffer == "a":
                ctx.set(dut.step.rows, rows)
                ctx.set(dut.step.first, int(first))
                ctx.set(dut.step.last, int(last))
            else:
                ctx.set(dut.step.valid, int(rows > 0))
            reads += ctx.get(dut.ev_group_reads)
            for s in range(model.slices):
                at = t - s - OPERAND_READ
                rows, addr, first, last = steps[at] if 0 <= at < cycles else (0, 0, 0, 0)
                valid = rows > s if buffer == "a" else rows > 0
                if buffer == "a":
                    assert ctx.get(dut.operand[s].tags.valid) == valid
                    if valid:
                        assert ctx.get(dut.operand[s].tags.as_value()) == 1 | first << 1 | last << 2
                if valid:
                    group = dut.operand[s].data if buffer == "a" else dut.operand[s]
                    expected = model.bytes_at(s, addr, lanes)
                    assert ctx.get(group).to_bytes(lanes, "little") == expected, (t, s)
            await ctx.tick()
        await ctx.tick()
        reads += ctx.get(dut.ev_group_reads)
        assert reads == sum(rows if buffer == "a" else model.slices * (rows > 0) for rows, *_ in steps)

    simulate(dut, testbench)


@pytest.mark.parametrize("name", STORED)
def test_stores_read_beats_two_cycles_later(name: str, rng: np.random.Generator) -> None:
    config = STORED[name]
    dut, model = OperandBuffer(config, buffer="a"), SliceModel(config, "a")

    async def testbench(ctx) -> None:
        for _ in range(200):
            start_beats(ctx, dut, model, rng)
            await ctx.tick()
        stop_beats(ctx, dut, "a")
        requests, scaled = [], 0
        for t in range(100):
            s, bank = int(rng.integers(model.slices)), int(rng.integers(model.banks))
            byte = int(rng.integers(model.codes.shape[2] // config.bus_bytes)) * config.bus_bytes
            requests.append((int(rng.integers(2)), s, model.group_addr(bank, byte)))
            ctx.set(dut.store.en, requests[t][0])
            ctx.set(dut.store.slice, s)
            ctx.set(dut.store.addr, requests[t][2])
            if t >= 2 and requests[t - 2][0]:
                expected = model.bytes_at(*requests[t - 2][1:], config.bus_bytes)
                assert ctx.get(dut.store.data).to_bytes(config.bus_bytes, "little") == expected
                expected = model.scales_at(*requests[t - 2][1:], config.bus_bytes // config.lanes)
                assert ctx.get(dut.store.scales).to_bytes(len(expected), "little") == expected
                scaled += any(expected)
            await ctx.tick()
        assert (scaled > 0) == bool(config.scales)

    simulate(dut, testbench)


def test_rows_of_codes_are_written_whole_unless_a_mask_says_otherwise() -> None:
    """Nothing drives the mask of a vector unit that always writes whole rows."""
    dut = OperandBuffer(NANO, buffer="a")

    async def testbench(ctx) -> None:
        ctx.set(dut.vec.valid, 1)
        ctx.set(dut.vec.data, 0x44332211)
        ctx.set(dut.store.en, 1)
        for _ in range(3):
            await ctx.tick()
        assert ctx.get(dut.store.data) == 0x44332211

    simulate(dut, testbench)


def test_a_write_is_visible_to_a_read_of_the_next_cycle_only() -> None:
    dut = OperandBuffer(NANO, buffer="a")

    async def testbench(ctx) -> None:
        ctx.set(dut.load.valid, 1)
        ctx.set(dut.load.data, 0x11)
        ctx.set(dut.load.mask, 1)
        ctx.set(dut.store.en, 1)
        await ctx.tick()
        ctx.set(dut.load.valid, 0)
        await ctx.tick()
        assert ctx.get(dut.store.data) == 0
        await ctx.tick()
        assert ctx.get(dut.store.data) == 0x11

    simulate(dut, testbench)


def test_conflicts_are_two_reads_or_two_writes_of_a_bank_of_a_slice() -> None:
    dut = OperandBuffer(NANO, buffer="a")
    bank = 1 << NANO.a_offset_bits

    async def testbench(ctx) -> None:
        async def conflict(step: int | None, store: tuple[int, int] | None, load=None, vec=None) -> int:
            ctx.set(dut.step.rows, int(step is not None))
            ctx.set(dut.step.addr, step or 0)
            for port, enable, at in ((dut.store, "en", store), (dut.load, "valid", load), (dut.vec, "valid", vec)):
                ctx.set(getattr(port, enable), int(at is not None))
                ctx.set(port.slice, at[0] if at else 0)
                ctx.set(port.addr, at[1] if at else 0)
            seen = ctx.get(dut.conflict)
            await ctx.tick()
            return seen

        assert await conflict(bank, (0, bank + 2))
        assert not await conflict(bank, (0, 2 * bank))
        assert not await conflict(bank, (1, bank))
        assert await conflict(None, None, (2, 3 * bank), (2, 3 * bank + 4))
        assert not await conflict(None, None, (2, 3 * bank), (3, 3 * bank))
        assert not await conflict(bank, None, (0, bank), None)
        assert not await conflict(bank, (0, 2 * bank), (0, bank), (0, 2 * bank))

    simulate(dut, testbench)
