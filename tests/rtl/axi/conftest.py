"""For Amaranth test benches: an AXI4 memory that checks the master while it serves it, and an AXI4-Lite master."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest


class AxiMemory:
    """A slave on a port with the members of `read_members` and `write_members`: `drive` before, `sample` after.

    ``latency`` cycles from an address to its first data beat and from the last write beat to the response; a
    beat per cycle. With ``rng`` every READY is random and every answer is late at random. ``errors``: addresses
    of beats (reads) and of bursts (writes) that are answered with ``code``. While ``hung`` nothing moves; while
    ``in_reset`` besides nothing is checked. ``reads`` and ``writes`` list (cycle, address, beats) of the addresses
    taken, ``given`` counts write responses.

    Asserts that VALID and its payload are stable until READY, that bursts are legal and WLAST is right, and that
    no address is new after an error response until ``cleared`` is called.
    """

    def __init__(self, data: np.ndarray, *, bus_bytes: int, latency: int = 1,
                 rng: np.random.Generator | None = None, errors: frozenset[int] = frozenset(), code: int = 2) -> None:
        self.data, self.bus, self.latency, self.rng = data, bus_bytes, latency, rng
        self.errors, self.code = errors, code
        self.hung = self.in_reset = self.failed = False
        self.reads: list[tuple[int, int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self.given = 0
        self._beats: deque = deque()
        self._last_beat = 0
        self._addresses: deque = deque()
        self._write_data: list = []
        self._answers: deque = deque()
        self._last_answer = 0
        self._held: dict[str, tuple] = {}

    def cleared(self) -> None:
        self.failed = False

    @property
    def idle(self) -> bool:
        return not (self._beats or self._addresses or self._answers or self._write_data)

    def _go(self) -> bool:
        return not self.hung and (self.rng is None or self.rng.random() < 0.6)

    def _late(self) -> int:
        return 0 if self.rng is None or self.rng.random() < 0.7 else int(self.rng.integers(1, 25))

    def drive(self, ctx, axi, cycle: int) -> None:
        if hasattr(axi, "arready"):
            ctx.set(axi.arready, int(self._go()))
            self._offer(ctx, axi, "r", self._beats, cycle)
        if hasattr(axi, "awready"):
            ctx.set(axi.awready, int(self._go()))
            ctx.set(axi.wready, int(self._go()))
            self._offer(ctx, axi, "b", self._answers, cycle)

    def _offer(self, ctx, axi, channel: str, queue: deque, cycle: int) -> None:
        due = bool(queue) and queue[0][0] <= cycle and not self.hung
        ctx.set(getattr(axi, f"{channel}valid"), int(due))
        if due:
            _, response, address = queue[0]
            ctx.set(getattr(axi, f"{channel}resp"), response)
            if channel == "r":
                beat = self.data[address:address + self.bus]
                ctx.set(axi.rdata, int.from_bytes(beat.tobytes(), "little"))

    def sample(self, ctx, axi, cycle: int) -> None:
        if self.in_reset:
            return
        failed = self._errors_taken(ctx, axi)
        if hasattr(axi, "arready"):
            self._sample_read(ctx, axi, cycle)
        if hasattr(axi, "awready"):
            self._sample_write(ctx, axi, cycle)
        self.failed |= failed

    def _errors_taken(self, ctx, axi) -> bool:
        """Whether an error response is transferred in this cycle; an address of the same cycle is not after it."""
        return any(
            queue and queue[0][1] and all(ctx.get(getattr(axi, channel + pin)) for pin in ("valid", "ready"))
            for channel, queue in (("r", self._beats), ("b", self._answers)))

    def _handshake(self, ctx, axi, channel: str, names: tuple[str, ...]) -> tuple | None:
        """Payload of a transfer in this cycle, or None; stability and no news after an error."""
        valid, ready = ctx.get(getattr(axi, f"{channel}valid")), ctx.get(getattr(axi, f"{channel}ready"))
        payload = tuple(ctx.get(getattr(axi, f"{channel}{name}")) for name in names)
        if channel in self._held:
            assert valid and payload == self._held[channel], f"{channel}: not stable until READY"
        elif valid and channel != "w":
            assert not self.failed, f"{channel}: a new address after an error response"
        if valid and not ready:
            self._held[channel] = payload
        else:
            self._held.pop(channel, None)
        return payload if valid and ready else None

    def _check_burst(self, address: int, length: int, size: int, burst: int) -> None:
        assert burst == 1 and 1 << size == self.bus and address % self.bus == 0
        assert address // 4096 == (address + (length + 1) * self.bus - 1) // 4096, f"{address:#x} + {length}: 4 KiB"

    def _response(self, address: int) -> int:
        return self.code if address in self.errors else 0

    def _sample_read(self, ctx, axi, cycle: int) -> None:
        if self._beats and ctx.get(axi.rvalid) and ctx.get(axi.rready):
            self._beats.popleft()
        taken = self._handshake(ctx, axi, "ar", ("addr", "len", "size", "burst"))
        if taken:
            address, length = taken[:2]
            self._check_burst(*taken)
            self.reads.append((cycle, address, length + 1))
            for n in range(length + 1):
                self._last_beat = max(cycle + self.latency + n, self._last_beat + 1) + self._late()
                beat_address = address + n * self.bus
                self._beats.append((self._last_beat, self._response(beat_address), beat_address))

    def _sample_write(self, ctx, axi, cycle: int) -> None:
        if self._answers and ctx.get(axi.bvalid) and ctx.get(axi.bready):
            self._answers.popleft()
            self.given += 1
        taken = self._handshake(ctx, axi, "aw", ("addr", "len", "size", "burst"))
        if taken:
            self._check_burst(*taken)
            self.writes.append((cycle, taken[0], taken[1] + 1))
            self._addresses.append(taken[:2])
        taken = self._handshake(ctx, axi, "w", ("data", "strb", "last"))
        if taken:
            self._write_data.append(taken)
        while self._addresses and len(self._write_data) > self._addresses[0][1]:
            address, length = self._addresses.popleft()
            beats = [self._write_data.pop(0) for _ in range(length + 1)]
            assert [last for *_, last in beats] == [0] * length + [1], f"WLAST of the burst at {address:#x}"
            for n, (value, strobe, _) in enumerate(beats):
                self._store(address + n * self.bus, value, strobe)
            self._last_answer = max(cycle + self.latency, self._last_answer + 1) + self._late()
            self._answers.append((self._last_answer, self._response(address), address))

    def _store(self, address: int, value: int, strobe: int) -> None:
        beat = value.to_bytes(self.bus, "little")
        for k in range(self.bus):
            if strobe >> k & 1:
                self.data[address + k] = beat[k]


class LiteHost:
    """An AXI4-Lite master; with ``rng`` it delays everything at random. ``tick`` takes the place of ``ctx.tick``."""

    def __init__(self, ctx, axi, rng=None, tick=None) -> None:
        self.ctx, self.axi, self.rng, self.tick = ctx, axi, rng, tick or ctx.tick

    def _go(self) -> bool:
        return self.rng is None or self.rng.random() < 0.4

    async def transfer(self, sends: dict[str, dict], answer: str) -> dict:
        """Send on every channel of ``sends``, each with its own delay; take one response; return its payload."""
        ctx, axi = self.ctx, self.axi
        waiting, response, held = dict(sends), None, {}
        seen: dict = {}
        for _ in range(300):
            for channel, payload in waiting.items():
                if held.get(channel) or self._go():
                    held[channel] = True
                    ctx.set(getattr(axi, f"{channel}valid"), 1)
                    for name, value in payload.items():
                        ctx.set(getattr(axi, f"{channel}{name}"), value)
            ctx.set(getattr(axi, f"{answer}ready"), int(self._go()))
            fields = {name: ctx.get(getattr(axi, f"{answer}{name}"))
                      for name in ("resp", "data") if hasattr(axi, f"{answer}{name}")}
            if ctx.get(getattr(axi, f"{answer}valid")):
                assert not waiting, "response before the request was complete"
                assert not seen or seen == fields, "response changed before it was taken"
                seen = fields
                if ctx.get(getattr(axi, f"{answer}ready")):
                    response = fields
            else:
                assert not seen, "VALID fell before READY"
            taken = [channel for channel in waiting
                     if held.get(channel) and ctx.get(getattr(axi, f"{channel}ready"))]
            await self.tick()
            for channel in taken:
                del waiting[channel]
                ctx.set(getattr(axi, f"{channel}valid"), 0)
                for name in sends[channel]:
                    ctx.set(getattr(axi, f"{channel}{name}"), (1 << len(getattr(axi, f"{channel}{name}"))) - 1)
            if response is not None:
                ctx.set(getattr(axi, f"{answer}ready"), 0)
                return response
        raise AssertionError(f"no answer to {sends}")

    async def read(self, address: int) -> tuple[int, int]:
        got = await self.transfer({"ar": {"addr": address, "prot": 0}}, "r")
        return got["data"], got["resp"]

    async def write(self, address: int, data: int, strobe: int = 15) -> int:
        got = await self.transfer({"aw": {"addr": address, "prot": 0}, "w": {"data": data, "strb": strobe}}, "b")
        return got["resp"]


@pytest.fixture
def axi_memory() -> Callable[..., AxiMemory]:
    """The class `AxiMemory`."""
    return AxiMemory


@pytest.fixture
def lite_host() -> Callable[..., LiteHost]:
    """The class `LiteHost`."""
    return LiteHost
