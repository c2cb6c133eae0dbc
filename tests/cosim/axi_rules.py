"""A monitor of the AXI rules that the third-party models do not check, on both ports of the tile.

It looks at the pins in every cycle and needs no simulator, so that every rule can be shown to find a violation in a
trace written by hand. Sources: AMBA AXI protocol specification, sections A3.1.2 (reset), A3.2.1 (handshake), A3.3
(dependencies), A3.4.1 (bursts); the last rule is the tile's own.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tilescore.rtl.spec.registers import mask, offset

Get = Callable[[str], int]


class Rule(enum.Enum):
    """What is checked; the value says it."""

    VALID = "VALID stays high until READY"
    PAYLOAD = "the payload does not change between VALID and READY"
    SHAPE = "bursts are INCR, as wide as the bus, aligned and at most 16 beats long"
    BOUNDARY = "no burst crosses a 4 KiB boundary"
    WLAST = "WLAST comes with the last beat of a burst and no other"
    ORDER = "a response follows its request, one each, in order"
    AFTER_ERROR = "no new address after an error response until the host clears it"
    RESET = "VALID is low in reset"
    UNKNOWN = "control signals are 0 or 1"


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, in which cycle, and how."""

    rule: Rule
    cycle: int
    text: str

    def __str__(self) -> str:
        return f"cycle {self.cycle}: {self.text}: {self.rule.value}"


_ADDRESS = ("addr", "len", "size", "burst")
DRIVEN = {
    "m_axi_ar": _ADDRESS, "m_axi_aw": _ADDRESS, "m_axi_w": ("data", "strb", "last"),
    "s_axi_b": ("resp",), "s_axi_r": ("resp", "data")}
"""Channels whose source is the tile, and their payload."""

TAKEN = ("m_axi_r", "m_axi_b", "s_axi_aw", "s_axi_w", "s_axi_ar")
"""Channels whose source is the test bench."""

MAX_BEATS = 16
PAGE = 4096
RESET_LATENCY = 2
"""Cycles with ARESETn low in which the tile's pins may still be what they were."""

ABANDON_CYCLES = 4
"""After the command ABANDON, in which the master port may drop its VALIDs: the memory is held in reset."""


class AxiRules:
    """Feed every rising clock edge to `clock`; `violations` collects what was wrong."""

    def __init__(self, bus_bytes: int) -> None:
        self.bus_bytes = bus_bytes
        self.violations: list[Violation] = []
        self.cycle = 0
        self._reset_cycles = RESET_LATENCY
        self._start()

    def _start(self) -> None:
        self._held: dict[str, tuple] = {}
        self._failed = False
        self._abandon = 0
        self._control: dict[str, deque] = {"aw": deque(), "w": deque()}
        self._host_reads = self._host_writes = 0
        self.forget()

    def forget(self) -> None:
        """The memory was reset: what it owed is gone."""
        self._bursts: deque[int] = deque()
        self._lasts: deque[bool] = deque()
        self._beat = 0
        self._reads: deque[int] = deque()
        self._answers = 0

    def clock(self, get: Get) -> None:
        """One rising edge; ``get`` gives the value of a pin just before it and raises `ValueError` if it is unknown."""
        self.cycle += 1
        try:
            if not get("aresetn"):
                self._reset(get)
                return
            self._reset_cycles = 0
            self._handshakes(get)
        except ValueError as error:
            self._report(Rule.UNKNOWN, str(error))

    def _reset(self, get: Get) -> None:
        """The first two cycles of a registered, synchronous reset still show what was before."""
        self._reset_cycles += 1
        if self._reset_cycles > RESET_LATENCY:
            for channel in DRIVEN:
                if get(f"{channel}valid"):
                    self._report(Rule.RESET, f"{channel}valid")
        elif self._reset_cycles == 1:
            self._start()

    def _handshakes(self, get: Get) -> None:
        self._abandon = max(0, self._abandon - 1)
        done = {channel: self._driven(get, channel, fields) for channel, fields in DRIVEN.items()}
        for channel in TAKEN:
            done[channel] = bool(get(f"{channel}valid")) and bool(get(f"{channel}ready"))
        for channel in ("m_axi_ar", "m_axi_aw"):
            if done[channel]:
                self._address(get, channel)
        if done["m_axi_w"]:
            self._lasts.append(bool(get("m_axi_wlast")))
        self._match_beats()
        self._responses(get, done)
        self._host(get, done)

    def _driven(self, get: Get, channel: str, fields: tuple[str, ...]) -> bool:
        """Whether a transfer is in this cycle; stability, and nothing new after an error."""
        valid, held = get(f"{channel}valid"), self._held.pop(channel, None)
        if not valid:
            if held is not None and not (self._abandon and channel.startswith("m_axi")):
                self._report(Rule.VALID, f"{channel}valid fell")
            return False
        ready, payload = get(f"{channel}ready"), tuple(get(channel + field) for field in fields)
        if held is not None and payload != held:
            changed = [field for field, old, new in zip(fields, held, payload, strict=True) if old != new]
            self._report(Rule.PAYLOAD, " and ".join(channel + field for field in changed))
        if held is None and self._failed and channel in ("m_axi_ar", "m_axi_aw"):
            self._report(Rule.AFTER_ERROR, f"{channel}addr 0x{payload[0]:X}")
        if not ready:
            self._held[channel] = payload
        return bool(ready)

    def _address(self, get: Get, channel: str) -> None:
        address, length, size, burst = (get(channel + field) for field in _ADDRESS)
        name = f"{channel}: {length + 1} beats at 0x{address:X}"
        if burst != 1 or 1 << size != self.bus_bytes or address % self.bus_bytes or length >= MAX_BEATS:
            self._report(Rule.SHAPE, name)
        if address // PAGE != (address + (length + 1) * self.bus_bytes - 1) // PAGE:
            self._report(Rule.BOUNDARY, name)
        (self._reads if channel == "m_axi_ar" else self._bursts).append(length + 1)

    def _match_beats(self) -> None:
        """Write data against their addresses; data may come first."""
        while self._bursts and self._lasts:
            self._beat += 1
            last = self._beat == self._bursts[0]
            if self._lasts.popleft() != last:
                self._report(Rule.WLAST, f"beat {self._beat} of {self._bursts[0]}")
            if last:
                self._beat = 0
                self._bursts.popleft()
                self._answers += 1

    def _responses(self, get: Get, done: dict[str, bool]) -> None:
        """Of the memory: they belong to something, and may be errors."""
        if done["m_axi_r"]:
            self._failed |= get("m_axi_rresp") > 1
            if not self._reads:
                self._report(Rule.ORDER, "m_axi_r without an address")
            else:
                self._reads[0] -= 1
                if bool(get("m_axi_rlast")) != (self._reads[0] == 0):
                    self._report(Rule.ORDER, "m_axi_rlast")
                if not self._reads[0]:
                    self._reads.popleft()
        if done["m_axi_b"]:
            self._failed |= get("m_axi_bresp") > 1
            self._answers -= 1
            if self._answers < 0:
                self._answers = 0
                self._report(Rule.ORDER, "m_axi_b before its burst is complete")

    def _host(self, get: Get, done: dict[str, bool]) -> None:
        """Of the registers: a response to each access, and not before it; notices the commands that matter here."""
        if get("s_axi_rvalid") and not self._host_reads:
            self._report(Rule.ORDER, "s_axi_r without an address")
        if get("s_axi_bvalid") and not self._host_writes:
            self._report(Rule.ORDER, "s_axi_b before address and data")
        self._host_reads = max(0, self._host_reads + done["s_axi_ar"] - done["s_axi_r"])
        self._host_writes = max(0, self._host_writes - done["s_axi_b"])
        if done["s_axi_aw"]:
            self._control["aw"].append(get("s_axi_awaddr"))
        if done["s_axi_w"]:
            self._control["w"].append(get("s_axi_wdata") if get("s_axi_wstrb") & 1 else 0)
        while self._control["aw"] and self._control["w"]:
            address, value = self._control["aw"].popleft(), self._control["w"].popleft()
            self._host_writes += 1
            if address == offset("CONTROL"):
                self._failed &= not value & mask("CONTROL", "CLEAR_ERROR")
                self._abandon = ABANDON_CYCLES * bool(value & mask("CONTROL", "ABANDON"))

    def _report(self, rule: Rule, text: str) -> None:
        self.violations.append(Violation(rule, self.cycle, text))
