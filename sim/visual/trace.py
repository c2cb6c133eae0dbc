"""A timed program as a Perfetto trace (ui.perfetto.dev opens it); a cycle is shown as a nanosecond.

Tracks: one per unit with a slice per instruction, for the cycles in which it occupies the unit, and one per stall
before it, named by its cause; the dispatcher's with SYNC, HALT and its stalls. Per memory a track with the bytes in
use, and one per bank with the spans in which it holds a value that is still to be read. Counters: bytes per cycle and
bytes in all of each DRAM port. Flows: every token, from the instruction that gives it to the one that takes it.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from ...rtl.plan import BOOT_DISPATCH
from ...rtl.spec.assembly import disassemble_one
from ...rtl.spec.events import EVENT_NAMES
from ...rtl.spec.isa import QUEUE_UNITS, Instruction, Unit
from ..program import Program
from ..timing import BOOT, STALL_CAUSES, Timing
from .fields import field_columns
from .occupancy import Values, bank_bits, occupancy_of, values_of
from .records import macs_of
from .segments import unit_rows, units_of
from .trace_packets import Packets

_ROOT, _UNITS, _COUNTERS, _MEMORIES = 1, 2, 16, 32
_BANKS = 1 << 16
_UNIT_CAUSES = STALL_CAUSES.index("queue_full")
_QUEUE_FULL, _SYNC, _FETCH, _HALT = range(_UNIT_CAUSES, len(STALL_CAUSES))


def trace(program: Program, timing: Timing, name: str, number: int = 1) -> bytes:
    """A whole trace file. name: of the process that is shown; number: from 1, other for traces to be joined."""
    packets = Packets(number)
    packets.process(_ROOT, number, f"{name}, 1 ns = 1 cycle")
    _units(packets, program, timing)
    _dram(packets, program, timing)
    _memories(packets, program, timing)
    return bytes(packets)


def tokens(program: Program) -> Iterator[tuple[int, int]]:
    """(giver, taker) of every token, as indices of instructions, in the order in which they are taken.

    The n-th wait takes the n-th token of its semaphore. The boot LOAD's token is taken by no instruction.
    """
    given: dict[tuple[int, int, int], deque[int]] = {}
    for index, instruction in enumerate(program.instructions):
        unit = instruction.spec.unit
        for kind, (waits, signals) in enumerate(((instruction.wait_rd, instruction.signal_rd),
                                                 (instruction.wait_wr, instruction.signal_wr))):
            for producer in QUEUE_UNITS:
                if waits >> producer & 1:
                    yield given[producer, kind, unit].popleft(), index
            for consumer in Unit:
                if signals >> consumer & 1:
                    given.setdefault((unit, kind, consumer), deque()).append(index)


def _units(packets: Packets, program: Program, timing: Timing) -> None:
    gives: dict[int, list[int]] = {}
    takes: dict[int, list[int]] = {}
    for flow, (giver, taker) in enumerate(tokens(program)):
        gives.setdefault(giver, []).append(flow)
        takes.setdefault(taker, []).append(flow)
    stalls: dict[int, list[tuple[int, int]]] = {}
    for index, cause, cycles in timing.stalls.tolist():
        stalls.setdefault(index, []).append((cause, cycles))
    about = _About(program, timing)
    units = units_of(program)
    for unit in QUEUE_UNITS:
        packets.track(_UNITS + unit, _ROOT, unit.name.lower())
        rows = unit_rows(program, timing, unit, units)
        for index, issue, occupancy in zip(rows.index.tolist(), rows.issue.tolist(), rows.occupancy.tolist(),
                                           strict=True):
            own = [(cause, cycles) for cause, cycles in stalls.get(index, []) if cause < _UNIT_CAUSES]
            at = issue - sum(cycles for _, cycles in own)
            for cause, cycles in own:
                packets.slice(_UNITS + unit, at, at + cycles, STALL_CAUSES[cause], "stall", {"for": index})
                at += cycles
            packets.slice(_UNITS + unit, issue, issue + occupancy, about.name(index), "instruction",
                          about.arguments(index), gives.get(index, ()), takes.get(index, ()))
    _dispatcher(packets, program, timing, stalls, takes)


def _dispatcher(packets: Packets, program: Program, timing: Timing, stalls: dict[int, list[tuple[int, int]]],
                takes: dict[int, list[int]]) -> None:
    track = _UNITS + Unit.DISPATCH
    packets.track(track, _ROOT, Unit.DISPATCH.name.lower())

    def stall(cause: int, start: int, cycles: int, index: int) -> None:
        if cycles:
            packets.slice(track, start, start + cycles, STALL_CAUSES[cause], "stall", {"for": index})

    boot = dict(stalls[BOOT])
    stall(_SYNC, 0, BOOT_DISPATCH, BOOT)
    packets.slice(track, BOOT_DISPATCH, BOOT_DISPATCH + 1, "boot", "instruction", {"index": BOOT})
    stall(_SYNC, BOOT_DISPATCH + 1, boot[_SYNC] - BOOT_DISPATCH, BOOT)
    stall(_FETCH, boot[_SYNC] + 1, boot[_FETCH], BOOT)
    for index, (instruction, at) in enumerate(zip(program.instructions, timing.dispatch.tolist(), strict=True)):
        found = dict(stalls.get(index, ()))
        for cause in (_QUEUE_FULL, _SYNC, _HALT):
            stall(cause, at - found.get(cause, 0), found.get(cause, 0), index)
        if instruction.spec.unit == Unit.DISPATCH:
            packets.slice(track, at, at + 1, instruction.spec.name, "instruction", {"index": index}, (),
                          takes.get(index, ()))
        stall(_FETCH, at + 1, found.get(_FETCH, 0), index)


class _About:
    """What is written beside an instruction."""

    def __init__(self, program: Program, timing: Timing) -> None:
        self._program, self._timing = program, timing
        bus, events = program.config.bus_bytes, timing.shape_events[timing.shape]
        self._bytes = (events[:, _READ_BEATS] * bus + events[:, _WRITE_BEATS] * bus).tolist()
        self._macs = macs_of(events, program.config).tolist()

    def name(self, index: int) -> str:
        if index == BOOT:
            return "boot LOAD"
        program = self._program
        label = program.labels[index] if program.labels else ""
        return f"{program.instructions[index].spec.name} {label}".strip()

    def arguments(self, index: int) -> dict[str, int | str]:
        if index == BOOT:
            return {"index": BOOT, "retire": self._timing.boot[3],
                    "assembler": disassemble_one(self._program.boot_load()),
                    "dram_bytes": self._program.config.page_bytes}
        timing, instruction = self._timing, self._program.instructions[index]
        found: dict[str, int | str] = {
            "index": index, "dispatch": int(timing.dispatch[index]), "rd": int(timing.rd[index]),
            "retire": int(timing.retire[index]), "assembler": disassemble_one(instruction)}
        if self._program.phases and self._program.phases[index]:
            found["phase"] = self._program.phases[index]
        if self._bytes[index]:
            found["dram_bytes"] = self._bytes[index]
        if self._macs[index]:
            found["macs"] = self._macs[index]
        return found


_READ_BEATS, _WRITE_BEATS = EVENT_NAMES.index("dram_read_beats"), EVENT_NAMES.index("dram_write_beats")


def _dram(packets: Packets, program: Program, timing: Timing) -> None:
    """Per port the rate, constant while an instruction occupies its unit, and the sum, which grows when that ends."""
    units, bus = units_of(program), program.config.bus_bytes
    for i, (unit, word, beats) in enumerate(((Unit.LOAD, "read", _READ_BEATS), (Unit.STORE, "written", _WRITE_BEATS))):
        rate, total = _COUNTERS + 2 * i, _COUNTERS + 2 * i + 1
        packets.track(rate, _ROOT, f"DRAM {word} [B/cycle]", counter_unit="B/cycle")
        packets.track(total, _ROOT, f"DRAM {word} in all [B]", counter_unit="B")
        packets.sample(rate, 0, 0.0)
        packets.sample(total, 0, 0)
        rows, done, free = unit_rows(program, timing, unit, units), 0, 0
        own = timing.shape_events[timing.shape[np.maximum(rows.index, 0)], beats] * bus
        own[rows.index == BOOT] = program.config.page_bytes
        for start, cycles, size in zip(rows.issue.tolist(), rows.occupancy.tolist(), own.tolist(), strict=True):
            if start > free and free:
                packets.sample(rate, free, 0.0)
            packets.sample(rate, start, size / cycles)
            free, done = start + cycles, done + size
            packets.sample(total, free, done)
        if free:
            packets.sample(rate, free, 0.0)


def _memories(packets: Packets, program: Program, timing: Timing) -> None:
    values = values_of(program, timing, field_columns(program))
    for (space, found), used in zip(values.items(), occupancy_of(values, program.config).values(), strict=True):
        memory = _MEMORIES + 2 * space
        packets.track(memory, _ROOT, f"{space.name} buffer")
        packets.track(memory + 1, memory, f"{space.name} in use [B]", counter_unit="B")
        for time, value in zip(used.times.tolist(), used.used.tolist(), strict=True):
            packets.sample(memory + 1, time, value)
        for bank, spans in bank_spans(found, bank_bits(space, program.config)).items():
            track = _BANKS + (space << 12) + bank
            packets.track(track, memory, f"{space.name} bank {bank}")
            for start, end, writer in spans:
                packets.slice(track, start, end, _writer(program.instructions[writer], program, writer), "bank",
                              {"writer": writer})


def _writer(instruction: Instruction, program: Program, index: int) -> str:
    return program.labels[index] if program.labels and program.labels[index] else instruction.spec.name


def bank_spans(values: Values, bits: int) -> dict[int, list[tuple[int, int, int]]]:
    """{bank: (first cycle, end, first writer) of every span in which it holds a value still to be read}, ascending."""
    bank = values.address >> bits
    order = np.lexsort((values.end, values.start, bank))
    found: dict[int, list[tuple[int, int, int]]] = {}
    for number, start, end, writer in zip(*(column[order].tolist() for column in (
            bank, values.start, values.end, values.writer)), strict=True):
        spans = found.setdefault(number, [])
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end), spans[-1][2])
        else:
            spans.append((start, end, writer))
    return found
