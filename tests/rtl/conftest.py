"""The DRAM that unit and tile tests share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest


class BenchDram:
    """A DRAM for Amaranth testbenches: `drive_*` before and `sample_*` after the inputs of a cycle.

    ``latency`` cycles from an accepted request to its response; with ``rng`` ready is random and responses
    are delayed by a random extra time, in order. ``reads`` and ``writes`` list (cycle, address) of accepted
    requests. What a request announces in ``req_more``, where the port has it, must come: the next requests go to
    the addresses that follow.
    """

    def __init__(self, data: np.ndarray, *, bus_bytes: int, latency: int,
                 rng: np.random.Generator | None = None) -> None:
        self.data, self.bus_bytes, self.latency, self.rng = data, bus_bytes, latency, rng
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self._read_due: deque[tuple[int, int]] = deque()
        self._write_due: deque[int] = deque()
        self._announced: dict[str, tuple[int, int]] = {}

    def _check_announced(self, ctx, port, kind: str, address: int) -> None:
        expected, count = self._announced.get(kind, (address, 0))
        assert address == expected or not count, f"{kind} of {address:#x}, after {expected:#x} was announced"
        if (more := getattr(port, "req_more", None)) is not None:
            self._announced[kind] = address + self.bus_bytes, max(count - 1, ctx.get(more))

    def _due(self, cycle: int, last: int) -> int:
        extra = 0 if self.rng is None else int(self.rng.integers(0, 12)) * int(self.rng.random() < 0.2)
        return max(cycle + self.latency + extra, last + 1)

    def drive_read(self, ctx, port, cycle: int) -> None:
        ctx.set(port.req_ready, 1 if self.rng is None else int(self.rng.random() < 0.6))
        due = bool(self._read_due) and self._read_due[0][0] <= cycle
        ctx.set(port.rsp_valid, int(due))
        if due:
            address = self._read_due.popleft()[1]
            beat = self.data[address:address + self.bus_bytes]
            ctx.set(port.rsp_data, int.from_bytes(beat.tobytes(), "little"))

    def sample_read(self, ctx, port, cycle: int) -> None:
        if ctx.get(port.req_valid) and ctx.get(port.req_ready):
            address = ctx.get(port.req_addr)
            assert address % self.bus_bytes == 0 and address + self.bus_bytes <= len(self.data), hex(address)
            self._check_announced(ctx, port, "read", address)
            self.reads.append((cycle, address))
            self._read_due.append((self._due(cycle, self._read_due[-1][0] if self._read_due else 0), address))

    def drive_write(self, ctx, port, cycle: int) -> None:
        ctx.set(port.req_ready, 1 if self.rng is None else int(self.rng.random() < 0.6))
        due = bool(self._write_due) and self._write_due[0] <= cycle
        ctx.set(port.rsp_valid, int(due))
        if due:
            self._write_due.popleft()

    def sample_write(self, ctx, port, cycle: int) -> None:
        if ctx.get(port.req_valid) and ctx.get(port.req_ready):
            address, strobe = ctx.get(port.req_addr), ctx.get(port.req_strb)
            assert address % self.bus_bytes == 0 and address + self.bus_bytes <= len(self.data), hex(address)
            beat = ctx.get(port.req_data).to_bytes(self.bus_bytes, "little")
            for byte in range(self.bus_bytes):
                if strobe >> byte & 1:
                    self.data[address + byte] = beat[byte]
            self._check_announced(ctx, port, "write", address)
            self.writes.append((cycle, address))
            self._write_due.append(self._due(cycle, self._write_due[-1] if self._write_due else 0))


@pytest.fixture(scope="session")
def bench_dram() -> Callable[..., BenchDram]:
    """The class `BenchDram`."""
    return BenchDram
