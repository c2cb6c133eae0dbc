"""The `rtl` level in Amaranth's own simulator: needs no compiler, and is some thousand times slower.

The bench is the twin of `driver/main.cpp`, cycle by cycle; see there for the behaviour of the DRAM. Only the random
numbers of the stalls differ.
"""

from collections import deque

import numpy as np
from amaranth.sim import Simulator  # pyright: ignore[reportMissingImports]

from ...rtl.matrix.drain import STATUS
from ...rtl.spec.ledger import COUNTER_NAMES
from ...rtl.tile import Tile
from ..program import Program
from .run import DramModel, RawRun, RtlRun, interpret


def run_amaranth(program: Program, max_cycles: int, dram: DramModel | None = None) -> RtlRun:
    """Run ``program`` on the tile itself, without Verilog. Raises as `run.interpret` does."""
    tile = Tile(program.config)
    bench = _Bench(tile, program, max_cycles, dram or DramModel())
    simulator = Simulator(tile)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.run)
    simulator.run()
    return interpret(program, bench.result())


class _Bench:
    """Drives the tile's ports; a loop iteration is a cycle: set inputs, sample settled outputs, clock."""

    def __init__(self, tile: Tile, program: Program, max_cycles: int, dram: DramModel) -> None:
        self._tile, self._program, self._max_cycles = tile, program, max_cycles
        self._bus, self._latency = program.config.bus_bytes, program.config.dram_latency
        self._stall, self._rng = dram.stall_per_mille, np.random.default_rng(dram.seed)
        self._memory = program.initial_dram()
        self._reads: deque[tuple[int, int]] = deque()
        self._writes: deque[int] = deque()
        self._trace: list[tuple[int, int]] = []
        self._error, self._finished, self._cycles = "", False, 0
        self._counters: list[int] = []
        self._flags = (False, False)
        self._status = 0

    async def run(self, ctx) -> None:
        tile = self._tile
        ctx.set(tile.program_addr, self._program.program_addr)
        while self._cycles < self._max_cycles and not self._finished and not self._error:
            ctx.set(tile.start, int(self._cycles == 0))
            self._drive(ctx)
            self._sample(ctx)
            self._cycles += 1
            await ctx.tick()
        ctx.set(tile.start, 0)
        self._flags = (bool(ctx.get(tile.conflict)), bool(ctx.get(tile.illegal)))
        self._status = sum(ctx.get(getattr(tile, f"status_{name}")) << bit for bit, (name, _) in enumerate(STATUS))
        for number in range(len(COUNTER_NAMES)):
            ctx.set(tile.counter_select, number)
            for _ in range(3):
                await ctx.tick()
            self._counters.append(ctx.get(tile.counter_value))

    def _go(self) -> bool:
        return not self._stall or int(self._rng.integers(1000)) >= self._stall

    def _drive(self, ctx) -> None:
        tile = self._tile
        ctx.set(tile.rd_req_ready, int(self._go()))
        ctx.set(tile.wr_req_ready, int(self._go()))
        read = bool(self._reads) and self._reads[0][0] <= self._cycles and self._go()
        ctx.set(tile.rd_rsp_valid, int(read))
        if read:
            ctx.set(tile.rd_rsp_data, self._reads.popleft()[1])
        written = bool(self._writes) and self._writes[0] <= self._cycles and self._go()
        ctx.set(tile.wr_rsp_valid, int(written))
        if written:
            self._writes.popleft()

    def _sample(self, ctx) -> None:
        tile, t = self._tile, self._cycles
        if ctx.get(tile.rd_req_valid) and ctx.get(tile.rd_req_ready):
            address = ctx.get(tile.rd_req_addr)
            if self._in_range("read", address):
                self._reads.append((t + self._latency, int.from_bytes(self._beat(address), "little")))
        if ctx.get(tile.wr_req_valid) and ctx.get(tile.wr_req_ready):
            address = ctx.get(tile.wr_req_addr)
            if self._in_range("write", address):
                self._write(address, ctx.get(tile.wr_req_data), ctx.get(tile.wr_req_strb))
                self._writes.append(t + self._latency)
        bits = (ctx.get(tile.trace_dispatch) | ctx.get(tile.trace_issue) << 1 | ctx.get(tile.trace_rd) << 5
                | ctx.get(tile.trace_wr) << 9)
        if bits:
            self._trace.append((t, bits))
        self._finished = bool(ctx.get(tile.done))

    def _beat(self, address: int) -> bytes:
        return self._memory[address:address + self._bus].tobytes().ljust(self._bus, b"\0")

    def _write(self, address: int, data: int, strobe: int) -> None:
        for i in range(self._bus):
            if strobe >> i & 1 and self._in_range("write", address + i, 1):
                self._memory[address + i] = data >> 8 * i & 0xFF

    def _in_range(self, kind: str, address: int, alignment: int | None = None) -> bool:
        if address % (alignment or self._bus) == 0 and address < self._memory.size:
            return True
        self._error = f"{kind} address {address}"
        return False

    def result(self) -> RawRun:
        return RawRun(finished=self._finished, cycles=self._cycles,
                      trace=np.array(self._trace, np.int64).reshape(-1, 2), counters=self._counters,
                      conflict=self._flags[0], illegal=self._flags[1], error=self._error, dram=self._memory,
                      status=self._status)
