"""AxiLiteSlave with the registers behind it: every register, byte strobes, errors, back pressure, one at a time."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from tilescore.rtl.axi.lite import OKAY, SLVERR, AxiLiteSlave
from tilescore.rtl.axi.register_block import RegisterBlock
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.registers import REGISTERS, WRITABLE, Access, mask, offset, reset_value

NANO = load_tile("nano")


@pytest.fixture
def simulate(lite_host):
    """``simulate(body, rng)`` runs ``body(ctx, host, registers)`` on a slave and a register block."""
    return lambda body, rng=None: run(body, rng, lite_host)


def run(body, rng, lite_host) -> None:
    m = Module()
    m.submodules.slave = slave = AxiLiteSlave()
    m.submodules.registers = registers = RegisterBlock(NANO)
    connect(m, slave.bus, registers.bus)

    async def bench(ctx) -> None:
        await body(ctx, lite_host(ctx, slave.axi, rng), registers)

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("stalls", [False, True])
def test_every_register(stalls, rng, simulate) -> None:
    """Reset values, what is written to RW registers, what the hardware shows in the others; never a neighbour."""
    written_bits = {r.name: sum(((1 << f.bits) - 1) << f.low for f in r.fields) for r in REGISTERS}

    async def body(ctx, host, registers) -> None:
        expected = {}
        for r in REGISTERS:
            assert await host.read(r.offset) == (reset_value(r, NANO), OKAY), r.name
            value = int(rng.integers(0, 1 << 32)) & written_bits[r.name]
            if r.access in (Access.READ, Access.POP):
                for f in r.fields:
                    ctx.set(getattr(registers, r.signal(f)), (value >> f.low) & ((1 << f.bits) - 1))
                expected[r] = value
            else:
                expected[r] = 0 if r.access in (Access.PULSE, Access.CLEAR) else reset_value(r, NANO)
        for r in REGISTERS:
            value = int(rng.integers(0, 1 << 32))
            assert await host.write(r.offset, value) == (OKAY if r.access in WRITABLE else SLVERR), r.name
            if r.access is Access.READ_WRITE:
                expected[r] = value & written_bits[r.name]
                shown = sum(ctx.get(getattr(registers, r.signal(f))) << f.low for f in r.fields)
                assert shown == expected[r], r.name
        for r, value in expected.items():
            assert await host.read(r.offset) == (value, OKAY), r.name
            assert await host.read(r.offset + 3) == (value, OKAY), r.name

    simulate(body, rng if stalls else None)


def test_unmapped_addresses(rng, simulate) -> None:
    """SLVERR for both directions at every free word; a write there changes nothing."""
    taken = {r.offset for r in REGISTERS}
    free = [a for a in range(0, 4096, 4) if a not in taken]

    async def body(ctx, host, registers) -> None:
        for address in [free[0], 4092, *rng.choice(free, 20).tolist()]:
            assert await host.read(int(address)) == (0, SLVERR), hex(address)
            assert await host.write(int(address), 0xFFFFFFFF) == SLVERR, hex(address)
        for r in REGISTERS:
            assert await host.read(r.offset) == (reset_value(r, NANO), OKAY)

    simulate(body, rng)


def test_byte_strobes(rng, simulate) -> None:
    """Each byte of RW, PULSE and CLEAR registers is written only with its strobe."""
    async def body(ctx, host, registers) -> None:
        value = 0
        for strobe in [*range(16), *rng.integers(0, 16, 10).tolist()]:
            data = int(rng.integers(0, 1 << 32))
            bits = sum(0xFF << 8 * b for b in range(4) if strobe >> b & 1)
            assert await host.write(offset("PROGRAM_ADDR_LO"), data, strobe) == OKAY
            value = value & ~bits | data & bits
            assert await host.read(offset("PROGRAM_ADDR_LO")) == (value, OKAY)
        ctx.set(registers.interrupt_status_done_set, 1)
        await ctx.tick()
        ctx.set(registers.interrupt_status_done_set, 0)
        await host.write(offset("INTERRUPT_STATUS"), 0xFFFFFFFF, 0b1110)
        assert (await host.read(offset("INTERRUPT_STATUS")))[0] == 1
        await host.write(offset("INTERRUPT_STATUS"), 0xFFFFFFFF, 0b0001)
        assert (await host.read(offset("INTERRUPT_STATUS")))[0] == 0

    simulate(body)


def test_pulses_and_pops(rng, simulate) -> None:
    """A command is high for one cycle per write; a POP register is taken once per read, also under back pressure."""
    async def body(ctx, host, registers) -> None:
        counts = dict.fromkeys(("control_start", "control_soft_reset", "trace_data_taken"), 0)

        async def tick() -> None:
            for name in counts:
                counts[name] += ctx.get(getattr(registers, name))
            await ctx.tick()

        host.tick = tick
        for n in range(1, 6):
            await host.write(offset("CONTROL"), mask("CONTROL", "START"))
            assert (await host.read(offset("TRACE_DATA")))[1] == OKAY
            assert (await host.read(offset("TRACE_STATUS")))[1] == OKAY
            await tick()
            assert counts == {"control_start": n, "control_soft_reset": 0, "trace_data_taken": n}

    simulate(body, rng)


def test_setting_wins_over_clearing(simulate) -> None:
    """A cause that arrives in the cycle in which the host clears it is not lost."""
    async def body(ctx, host, registers) -> None:
        ctx.set(registers.interrupt_status_error_set, 1)
        assert await host.write(offset("INTERRUPT_STATUS"), 3) == OKAY
        assert ctx.get(registers.interrupt_status_error) == 1
        assert ctx.get(registers.interrupt_status_done) == 0

    simulate(body)


@pytest.mark.parametrize("first", ["aw", "w"])
def test_either_half_of_a_write_first(first: str, simulate) -> None:
    """The other half is waited for, however late; meanwhile nothing is written and no response given."""
    async def body(ctx, host, registers) -> None:
        axi = host.axi
        payload = {"aw": (axi.awaddr, offset("PROGRAM_ADDR_LO")), "w": (axi.wdata, 0x1234)}
        ctx.set(axi.wstrb, 15)
        ctx.set(axi.bready, 1)
        second = "w" if first == "aw" else "aw"
        for channel in (first, second):
            ctx.set(payload[channel][0], payload[channel][1])
            ctx.set(getattr(axi, f"{channel}valid"), 1)
            assert ctx.get(getattr(axi, f"{channel}ready"))
            await ctx.tick()
            ctx.set(getattr(axi, f"{channel}valid"), 0)
            if channel == first:
                for _ in range(10):
                    assert not ctx.get(getattr(axi, f"{first}ready")), "a second one before the response"
                    assert not ctx.get(axi.bvalid) and ctx.get(registers.program_addr_lo) == 0
                    await ctx.tick()
        await ctx.tick()
        assert ctx.get(axi.bvalid) and ctx.get(registers.program_addr_lo) == 0x1234
        await ctx.tick()
        assert not ctx.get(axi.bvalid)

    simulate(body)


def test_reads_and_writes_do_not_wait_for_each_other(rng, simulate) -> None:
    """A read completes while a write's response is not taken."""
    async def body(ctx, host, registers) -> None:
        axi = host.axi
        ctx.set(axi.awaddr, offset("TIMEOUT"))
        ctx.set(axi.wdata, 7)
        ctx.set(axi.wstrb, 15)
        for channel in ("aw", "w"):
            ctx.set(getattr(axi, f"{channel}valid"), 1)
        await ctx.tick()
        for channel in ("aw", "w"):
            ctx.set(getattr(axi, f"{channel}valid"), 0)
        await ctx.tick()
        assert await host.read(offset("TIMEOUT")) == (7, OKAY)
        assert ctx.get(axi.bvalid)

    simulate(body)


def test_random_traffic(rng: np.random.Generator, simulate) -> None:
    """A shadow of the RW registers after 150 random accesses of any kind."""
    shadow = {r.offset: r.reset for r in REGISTERS if r.access is Access.READ_WRITE}
    bits = {r.offset: sum(((1 << f.bits) - 1) << f.low for f in r.fields) for r in REGISTERS}

    async def body(ctx, host, registers) -> None:
        for _ in range(150):
            address = int(rng.choice(list(shadow)))
            if rng.random() < 0.5:
                data, strobe = int(rng.integers(0, 1 << 32)), int(rng.integers(0, 16))
                written = sum(0xFF << 8 * b for b in range(4) if strobe >> b & 1) & bits[address]
                assert await host.write(address, data, strobe) == OKAY
                shadow[address] = shadow[address] & ~written | data & written
            else:
                assert await host.read(address) == (shadow[address], OKAY)

    simulate(body, rng)
