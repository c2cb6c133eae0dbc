"""The accumulator buffer's ports: rows, words and beats in and out, in random mixtures; conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.matrix.acc_buffer import AccBuffer
from tilescore.rtl.spec.config import TileConfig
from tilescore.tests.rtl.matrix.bench import CONFIGS, NANO

ROW_READERS = ("x", "y", "z", "w")


def simulate(dut, testbench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def drive(ctx, port, **values: int) -> None:
    for name, value in values.items():
        ctx.set(getattr(port, name), value)


def packed(words: np.ndarray) -> int:
    return int.from_bytes(words.astype("<u4").tobytes(), "little")


class Traffic:
    """Random requests of all ports in one cycle, each in a bank of its own."""

    def __init__(self, config: TileConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self.acc = np.zeros((1 << config.acc_addr_bits, config.cols), np.uint32)
        self.words = config.bus_bytes // 4
        self.parts = config.cols // self.words

    def addresses(self, count: int) -> list[int]:
        config = self.config
        banks = self.rng.permutation(config.acc_banks + config.stat_banks)[:count]
        return [config.acc_addr(int(b), int(self.rng.integers(config.acc_bank_depth(int(b))))) for b in banks]

    def write(self, ctx, dut: AccBuffer) -> None:
        config, rng = self.config, self.rng
        d, r, load = self.addresses(3)
        on = rng.random(3) < 0.8
        row = rng.integers(0, 1 << 32, config.cols).astype(np.uint32)
        drive(ctx, dut.d, en=int(on[0]), addr=d, data=packed(row))
        if on[0]:
            self.acc[d] = row
        lane, word = int(rng.integers(config.cols)), int(rng.integers(1 << 32))
        drive(ctx, dut.r, en=int(on[1]), addr=r, lane=lane, data=word)
        if on[1]:
            self.acc[r, lane] = word
        part, valid = int(rng.integers(self.parts)), rng.random(self.words) < 0.6
        beat = rng.integers(0, 1 << 32, self.words).astype(np.uint32)
        drive(ctx, dut.load, valid=int(on[2]), addr=load, part=part, data=packed(beat),
              mask=sum(15 << 4 * i for i, v in enumerate(valid) if v))
        if on[2]:
            self.acc[load, part * self.words:(part + 1) * self.words][valid] = beat[valid]

    def read(self, ctx, dut: AccBuffer) -> dict[str, int]:
        """Present reads; return what each enabled port must show."""
        rng = self.rng
        expected = {}
        for name, addr in zip((*ROW_READERS, "store"), self.addresses(5), strict=True):
            on, part = int(rng.random() < 0.8), int(rng.integers(self.parts))
            if name == "store":
                ctx.set(dut.store.part, part)
                value = packed(self.acc[addr, part * self.words:(part + 1) * self.words])
            else:
                value = packed(self.acc[addr])
            drive(ctx, getattr(dut, name), en=on, addr=addr)
            if on:
                expected[name] = value
        return expected


@pytest.mark.always("shallow", "tall")
@pytest.mark.parametrize("name", CONFIGS)
def test_random_traffic_on_every_port(name: str, rng: np.random.Generator) -> None:
    """Reads of a cycle see the writes of all cycles before, not those of the same cycle."""
    config = CONFIGS[name]
    dut, traffic = AccBuffer(config), Traffic(config, rng)
    checked = dict.fromkeys((*ROW_READERS, "store"), 0)

    async def testbench(ctx) -> None:
        due: list[dict[str, int]] = [{}, {}]
        for _ in range(250):
            due.append(traffic.read(ctx, dut))
            traffic.write(ctx, dut)
            assert not ctx.get(dut.conflict)
            await ctx.tick()
            for port, value in due[-1].items():
                if port != "store":
                    assert ctx.get(getattr(dut, port).data) == value, port
                    checked[port] += 1
            if "store" in due[-2]:
                assert ctx.get(dut.store.data) == due[-2]["store"]
                checked["store"] += 1

    simulate(dut, testbench)
    assert min(checked.values()) > 100


def test_two_readers_or_two_writers_of_a_bank_conflict() -> None:
    dut = AccBuffer(NANO)
    ports = {"read": ("x", "y", "z", "w", "store"), "write": ("d", "r", "load")}

    async def testbench(ctx) -> None:
        for names in ports.values():
            for first in names:
                for second in names:
                    if first == second:
                        continue
                    seen = []
                    for bank in (3, 4):
                        for name, addr in ((first, NANO.acc_addr(3, 1)), (second, NANO.acc_addr(bank, 2))):
                            port = getattr(dut, name)
                            ctx.set(port.valid if name == "load" else port.en, 1)
                            ctx.set(port.addr, addr)
                        seen.append(ctx.get(dut.conflict))
                    assert seen == [1, 0], (first, second)
                    for name in (first, second):
                        port = getattr(dut, name)
                        ctx.set(port.valid if name == "load" else port.en, 0)

    simulate(dut, testbench)


def test_x_and_y_may_read_the_same_row() -> None:
    dut = AccBuffer(NANO)
    addr = NANO.acc_addr(5, 7)

    async def testbench(ctx) -> None:
        drive(ctx, dut.d, en=1, addr=addr, data=0x40400000)
        await ctx.tick()
        ctx.set(dut.d.en, 0)
        for name in "xy":
            drive(ctx, getattr(dut, name), en=1, addr=addr)
        assert not ctx.get(dut.conflict)
        await ctx.tick()
        assert ctx.get(dut.x.data) == ctx.get(dut.y.data) == 0x40400000
        drive(ctx, dut.x, en=0, addr=0)
        await ctx.tick()
        assert ctx.get(dut.y.data) == 0x40400000

    simulate(dut, testbench)
