"""What a program reads from DRAM, by operand: how many bytes, how often each, and what comes in between.

An operand is a segment of the program's DRAM; those that differ in numbers alone (`expert3.down`) are one. Counted are
the bytes of the instructions' rows and scale bytes; beats of the bus that they do not fill are in the events.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import Space
from ...sim.legality.dram_streams import dram_streams
from ...sim.program import Program


@dataclass(frozen=True, kw_only=True)
class Operand:
    """read_bytes: all that is loaded; stored_bytes: of which are different. space: where most of it goes, "A", "B",
    "ACC". between_bytes: bytes loaded to the same memory between two reads of the same rows, on average; None where no
    rows are read twice as they are. capacity_bytes: of that memory. phases: {phase: bytes read}.
    """

    name: str
    read_bytes: int
    stored_bytes: int
    space: str
    between_bytes: float | None
    capacity_bytes: int
    phases: dict[str, int]

    @property
    def times(self) -> float:
        """How often each byte is read, on average."""
        return self.read_bytes / self.stored_bytes

    @property
    def again_bytes(self) -> int:
        """What is read more than once."""
        return self.read_bytes - self.stored_bytes

    def to_dict(self) -> dict:
        return {"name": self.name, "read_bytes": self.read_bytes, "stored_bytes": self.stored_bytes,
                "times": self.times, "space": self.space, "between_bytes": self.between_bytes,
                "capacity_bytes": self.capacity_bytes, "phases": dict(self.phases)}


@dataclass
class _Seen:
    """What was met of one operand. rows: (addr, size, stride, rows) of every different stream."""

    read: int = 0
    spaces: dict[int, int] = field(default_factory=dict)
    rows: set[tuple[int, int, int, int]] = field(default_factory=set)
    indexed: int = 0
    between: float = 0.0
    again: int = 0
    phases: dict[str, int] = field(default_factory=dict)


def operands_of(program: Program) -> list[Operand]:
    """The operands that a program loads, the program itself left out; those most of which is read again come first."""
    segments = sorted(program.segments, key=lambda segment: segment.addr)
    starts = [segment.addr for segment in segments]
    seen: dict[str, _Seen] = {}
    loaded: dict[int, int] = {}
    last: dict[tuple, int] = {}
    phases = program.phases or [""] * len(program.instructions)
    for instruction, phase in zip(program.instructions, phases, strict=True):
        if instruction.spec.name not in ("LOAD", "GATHER") or instruction.space in (Space.PROGRAM, Space.INDEX):
            continue
        space = int(instruction.space)
        for stream in dram_streams(instruction, program.config):
            segment = segments[bisect_right(starts, stream.addr) - 1]
            size = stream.row_bytes * stream.rows
            loaded[space] = loaded.get(space, 0) + size
            one = seen.setdefault(re.sub(r"\d+", "*", segment.name), _Seen())
            one.read += size
            one.phases[phase] = one.phases.get(phase, 0) + size
            one.spaces[space] = one.spaces.get(space, 0) + size
            if stream.region is None:
                one.indexed = max(one.indexed, segment.size)
                continue
            key = (stream.addr, stream.row_bytes, stream.row_stride, stream.rows)
            one.rows.add(key)
            if (before := last.get((space, *key))) is not None:
                one.between += (loaded[space] - size - before) * size
                one.again += size
            last[(space, *key)] = loaded[space]
    found = [_operand(name, one, program.config) for name, one in seen.items()]
    return sorted(found, key=lambda operand: (-operand.again_bytes, -operand.read_bytes))


def _operand(name: str, one: _Seen, config: TileConfig) -> Operand:
    space = max(one.spaces, key=one.spaces.__getitem__)
    stored = union_bytes(one.rows) + min(one.indexed, one.read)
    capacity = {Space.A: config.a_buffer_bytes, Space.B: config.b_buffer_bytes}.get(
        Space(space), 4 * config.cols * config.acc_banks * config.acc_bank_rows)
    return Operand(name=name, read_bytes=one.read, stored_bytes=stored, space=Space(space).name,
                   between_bytes=one.between / one.again if one.again else None, capacity_bytes=capacity,
                   phases=one.phases)


def union_bytes(streams: Iterable[tuple[int, int, int, int]]) -> int:
    """Number of different bytes in rows (addr, bytes per row, stride, rows)."""
    parts = [np.stack([start := addr + stride * np.arange(rows, dtype=np.int64), start + size])
             for addr, size, stride, rows in streams]
    if not parts:
        return 0
    starts, ends = np.concatenate(parts, axis=1)
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    covered = np.concatenate([[starts[0]], np.maximum(starts[1:], ends[:-1])])
    return int(np.maximum(ends - covered, 0).sum())
