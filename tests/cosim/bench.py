"""Runs inside of the simulator: one cocotb test that plays a body of `bodies.py` on the exported Verilog.

The memory and the register master are cocotbext-axi's. The job comes in a JSON file that TILESCORE_COSIM_JOB names:
{"body", "programs": [files], "memory_bytes", "memory_base", ...keyword arguments of the body}; what the body returns
goes into the same file with the suffix .result, what the monitor saw into one with the suffix .violations.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from tilescore.sim.host.cocotb_bus import CocotbBus
from tilescore.sim.host.tile import Tile
from tilescore.sim.program import Program
from tilescore.tests.cosim import bodies
from tilescore.tests.cosim.axi_rules import AxiRules

CLOCK_NS = 10
LATENCY = 2
"""Of `AxiRam` without pauses: it samples a request at one clock edge and drives the answer at the next."""


class FaultyMemory:
    """What `AxiRam` reads and writes: an exception makes it answer SLVERR."""

    def __init__(self, base: int, size: int) -> None:
        self.base, self.data = base, bytearray(size)
        self.faults: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 1 << 40

    def _place(self, where: slice) -> slice:
        low, high = where.start - self.base, where.stop - self.base
        if low < 0 or high > len(self.data) or any(a < high and low < b for a, b in self.faults):
            raise IndexError(f"memory bytes {where.start}..{where.stop - 1}")
        return slice(low, high)

    def __getitem__(self, where: slice) -> bytes:
        return bytes(self.data[self._place(where)])

    def __setitem__(self, where: slice, value: bytes) -> None:
        self.data[self._place(where)] = value


class HostView:
    """The same bytes, as the host sees them: always."""

    def __init__(self, memory: FaultyMemory) -> None:
        self._memory = memory

    def read(self, address: int, length: int) -> bytes:
        low = address - self._memory.base
        return bytes(self._memory.data[low:low + length])

    def write(self, address: int, data: bytes) -> None:
        low = address - self._memory.base
        self._memory.data[low:low + len(data)] = data


class CocotbBoard:
    """A `bodies.Board`."""

    latency = LATENCY

    def __init__(self, dut: Any, memory_bytes: int, memory_base: int) -> None:
        reset = {"reset": dut.aresetn, "reset_active_level": False}
        bus_bytes = len(dut.m_axi_wstrb)
        self._memory = FaultyMemory(memory_base, -(-memory_bytes // bus_bytes) * bus_bytes)
        self._ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, mem=self._memory, **reset)
        master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, **reset)
        bus = CocotbBus(dut, master, HostView(self._memory), memory_bytes=memory_bytes, memory_base=memory_base)
        self.tile = Tile(bus)
        read, write = self._ram.read_if, self._ram.write_if
        self._memory_channels = (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel)
        host_read, host_write = master.read_if, master.write_if
        self._channels = (*self._memory_channels, host_read.ar_channel, host_read.r_channel, host_write.aw_channel,
                          host_write.w_channel, host_write.b_channel)
        self._seed: int | None = None
        self._watch = _Watch(dut, AxiRules(bus_bytes))

    def stall(self, seed: int | None) -> None:
        self._seed = seed
        for number, channel in enumerate(self._channels):
            channel.set_pause_generator(None)
            channel.pause = False
            if seed is not None:
                longest = 20 if channel in self._memory_channels else 2
                channel.set_pause_generator(_pauses(seed * len(self._channels) + number, longest))

    def fail(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._memory.faults = list(ranges)

    def hang(self, hung: bool) -> None:
        self.stall(self._seed)
        if hung:
            for channel in self._memory_channels:
                channel.set_pause_generator(None)
                channel.pause = True

    def reset_memory(self) -> None:
        for part in (self._ram.read_if, self._ram.write_if, *self._memory_channels):
            part.assert_reset()
        self._watch.rules.forget()

    def trace(self) -> tuple[np.ndarray, int]:
        return np.array(self._watch.trace, np.int64).reshape(-1, 2), self._watch.cycles

    def violations(self) -> list[str]:
        return [str(violation) for violation in self._watch.rules.violations]


def _pauses(seed: int, most: int) -> Iterator[bool]:
    """A channel with a pace of its own: without pauses, with single cycles, with waits of up to ``most`` cycles."""
    rng = random.Random(seed)
    chance, longest = rng.choice((0.0, 0.1, 0.3, 0.6)), min(most, rng.choice((1, 1, 3, 20)))
    while True:
        for _ in range(rng.randint(1, longest) if rng.random() < chance else 0):
            yield True
        yield False


class _Watch:
    """Looks at the pins at every clock edge: rules, and what the trace ports show since the last start."""

    def __init__(self, dut: Any, rules: AxiRules) -> None:
        self.rules = rules
        self.trace: list[tuple[int, int]] = []
        self.cycles = self._started = 0
        self._pins = {name: getattr(dut, name) for name in _WATCHED}
        cocotb.start_soon(self._run(dut))

    async def _run(self, dut: Any) -> None:
        edge, get = RisingEdge(dut.aclk), self._get
        while not dut.aresetn.value.is_resolvable or int(dut.aresetn.value):
            await edge
        while True:
            await edge
            self.rules.clock(get)
            self._traces(get, self.rules.cycle)

    def _get(self, name: str) -> int:
        value = self._pins[name].value
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{name} is {value}") from None

    def _traces(self, get: Callable[[str], int], cycle: int) -> None:
        if get("trace_start"):
            self.trace, self.cycles, self._started = [], 0, cycle
        bits = get("trace_dispatch") | get("trace_issue") << 1 | get("trace_rd") << 5 | get("trace_wr") << 9
        if bits:
            self.trace.append((cycle - self._started, bits))
        if not self.cycles and get("trace_done"):
            self.cycles = cycle - self._started + 1


_HANDSHAKES = [f"{channel}{name}" for channel in (
    *(f"m_axi_{c}" for c in ("ar", "r", "aw", "w", "b")), *(f"s_axi_{c}" for c in ("ar", "r", "aw", "w", "b")))
    for name in ("valid", "ready")]
_WATCHED = (
    "aresetn", *_HANDSHAKES, *(f"m_axi_{c}{name}" for c in ("ar", "aw") for name in ("addr", "len", "size", "burst")),
    "m_axi_wdata", "m_axi_wstrb", "m_axi_wlast", "m_axi_rresp", "m_axi_rlast", "m_axi_bresp", "s_axi_bresp",
    "s_axi_rresp", "s_axi_rdata", "s_axi_awaddr", "s_axi_wdata", "s_axi_wstrb", "trace_start", "trace_done",
    "trace_dispatch", "trace_issue", "trace_rd", "trace_wr")


@cocotb.test
async def job(dut: Any) -> None:
    """The job. No rule of AXI is broken, besides what the body checks; with planted bugs the body tells itself."""
    path = Path(os.environ["TILESCORE_COSIM_JOB"])
    arguments = json.loads(path.read_text())
    name, files = arguments.pop("body"), arguments.pop("programs")
    cocotb.start_soon(Clock(dut.aclk, CLOCK_NS, unit="ns").start())
    board = CocotbBoard(dut, arguments.pop("memory_bytes"), arguments.pop("memory_base"))
    await board.tile.reset(hardware=True)
    cases = [bodies.Case(Program.load(file)) for file in files]
    try:
        result = await getattr(bodies, name)(board, cases if name in bodies.OF_MANY else cases[0], **arguments)
    finally:
        path.with_suffix(".violations").write_text(json.dumps(board.violations()))
    assert name == "planted" or not board.violations(), "\n".join(board.violations()[:5])
    path.with_suffix(".result").write_text(json.dumps(result))
