"""A program's instructions and their cycles in a few bytes each, and where two of them part.

A *timeline* keeps of every instruction its name, label and phase, a checksum of its fields, and the cycles of its issue
and retirement: enough to say, long after the program is gone, which instruction is the first that differs from another
run's, and by how much. It is what saved reports and baselines hold.

The checksum covers every field but tokens and DRAM addresses, which follow from the rest and from where matrices happen
to lie; two instructions with equal checksums do the same.

Packed, a timeline is an object of JSON types: the texts once each, and the columns as little-endian integers or their
differences, both deflated and in base64. A program repeats itself, so this takes one to two bytes per instruction.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ..rtl.spec.errors import ProgramError
from ..rtl.spec.isa import HEADER, INSTRUCTIONS, Instruction
from .program import Program
from .timing import Timing

_LEFT_OUT = {"dram_addr", "scale_addr"} | {f.name for f in HEADER}
_VALUES = {spec.name: attrgetter("spec.name", *(f.name for f in spec.fields if f.name not in _LEFT_OUT))
           for spec in INSTRUCTIONS}
_COLUMNS = ("name", "label", "phase", "checksum", "issue", "retire")
_DIFFERENCES = ("issue", "retire")
"""Columns that grow along a unit's instructions; they are packed as differences to the unit's last one, by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Timeline:
    """Columns with an entry per instruction, int64: ``name``, ``label`` and ``phase`` are indices of ``texts``,
    ``checksum`` is a CRC-32, ``issue`` and ``retire`` are cycles."""

    texts: tuple[str, ...]
    name: np.ndarray
    label: np.ndarray
    phase: np.ndarray
    checksum: np.ndarray
    issue: np.ndarray
    retire: np.ndarray

    def __len__(self) -> int:
        return self.name.size

    def describe(self, index: int) -> str:
        """``instruction 12 (MATMUL, QK, phase core)``."""
        label, phase = self.texts[self.label[index]], self.texts[self.phase[index]]
        parts = [self.texts[self.name[index]], *([label] if label else []), *([f"phase {phase}"] if phase else [])]
        return f"instruction {index} ({', '.join(parts)})"

    def body(self) -> np.ndarray:
        """Indices of the instructions that belong to a phase."""
        return np.flatnonzero(np.array([bool(text) for text in self.texts])[self.phase])

    def to_dict(self) -> dict:
        """The packed form."""
        columns = []
        for column in _COLUMNS:
            values = getattr(self, column)
            if column in _DIFFERENCES:
                values = _by_name(values, self.name)
            columns.append(values.astype("<i8").view(np.uint8).reshape(-1, 8).T.tobytes())
        return {"instructions": len(self), "texts": _pack("\0".join(self.texts).encode()),
                "columns": _pack(b"".join(columns))}

    @classmethod
    def from_dict(cls, values: object, source: str = "timeline") -> "Timeline":
        """The inverse of `to_dict`. Raises `ProgramError` naming ``source`` and the key that is wrong."""
        if not isinstance(values, dict):
            raise ProgramError(f"{source}: expected an object, got {str(values)[:60]}")
        count = values.get("instructions")
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count < 1 << 31:
            raise ProgramError(f"{source}: instructions must be a positive integer, got {str(count)[:60]}")
        texts = _unpack(values, "texts", source).decode(errors="replace").split("\0")
        raw = _unpack(values, "columns", source)
        if len(raw) != 8 * count * len(_COLUMNS):
            raise ProgramError(f"{source}: columns: expected {8 * count * len(_COLUMNS)} bytes for {count} "
                               f"instructions, got {len(raw)}")
        planes = np.frombuffer(raw, np.uint8).reshape(len(_COLUMNS), 8, count)
        columns = {column: np.ascontiguousarray(planes[i].T).view("<i8").reshape(count).astype(np.int64)
                   for i, column in enumerate(_COLUMNS)}
        for column in ("name", "label", "phase"):
            if columns[column].min() < 0 or columns[column].max() >= len(texts):
                raise ProgramError(f"{source}: columns: {column} names no text")
        for column in _DIFFERENCES:
            columns[column] = _along_name(columns[column], columns["name"])
        return cls(texts=tuple(texts), **columns)


def _pack(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def _unpack(values: dict, key: str, source: str) -> bytes:
    try:
        return zlib.decompress(base64.b64decode(str(values.get(key)), validate=True))
    except (binascii.Error, zlib.error) as error:
        raise ProgramError(f"{source}: {key} cannot be unpacked: {error}") from None


def _by_name(values: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Each value less the one before it among the instructions of the same name."""
    out = np.empty_like(values)
    for name in np.unique(names):
        where = names == name
        out[where] = np.diff(values[where], prepend=0)
    return out


def _along_name(differences: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The inverse of `_by_name`."""
    out = np.empty_like(differences)
    for name in np.unique(names):
        where = names == name
        out[where] = np.cumsum(differences[where])
    return out


def timeline_of(program: Program, timing: Timing) -> Timeline:
    """The timeline of a program that `time_program` has timed."""
    numbers: dict[str, int] = {}

    def column(texts: list[str]) -> np.ndarray:
        return np.array([numbers.setdefault(text, len(numbers)) for text in texts], np.int64)

    blank = [""] * len(program.instructions)
    instructions = program.columns
    names = [form.spec.name for form in instructions.forms]
    name = column([names[form] for form in instructions.form.tolist()])
    label, phase = column(program.labels or blank), column(program.phases or blank)
    known: dict[object, int] = {}

    def checksum(instruction: Instruction) -> int:
        values = _VALUES[instruction.spec.name](instruction)
        found = known.get(values)
        if found is None:
            text = values if isinstance(values, str) else " ".join(
                [values[0], *(str(int(value)) for value in values[1:])])
            found = known[values] = zlib.crc32(text.encode())
        return found

    return Timeline(texts=tuple(numbers), name=name, label=label, phase=phase,
                    checksum=np.array([checksum(i) for i in instructions.views()], np.int64),
                    issue=timing.issue, retire=timing.retire)


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first instruction in which two timelines differ.

    index: its number among the instructions that are compared. old, new: its description in each, None where a program
    has ended; ``fields``: what it does differs, not only when; cycles: (issue, retire) in each.
    """

    index: int
    old: str | None
    new: str | None
    fields: bool
    old_cycles: tuple[int, int] | None
    new_cycles: tuple[int, int] | None

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            ends, more = ("the first", self.new) if self.old is None else ("the second", self.old)
            return f"{ends} program ends where the other has {more}"
        assert self.old_cycles is not None and self.new_cycles is not None
        (a, b), (c, d) = self.old_cycles, self.new_cycles
        if not self.fields:
            return f"{self.new}: issues at cycle {a:,} and {c:,}, retires at {b:,} and {d:,}"
        other = "other fields" if self.old == self.new else f"in the second program {self.new}"
        return f"{self.old}, issued at cycle {a:,}: {other}, issued at {c:,}"


def parting(old: Timeline, new: Timeline) -> Parting | None:
    """Where two timelines part; None when they do not.

    The n-th instruction of the layer is compared with the n-th of the other; page loads, SYNC and HALT stand wherever
    the length of the program puts them, and count only where a program has no phases.
    """
    rows = [line.body() for line in (old, new)]
    if not all(found.size for found in rows):
        rows = [np.arange(len(line)) for line in (old, new)]
    count = min(found.size for found in rows)
    a, b = (found[:count] for found in rows)
    names = [np.array(line.texts, object)[line.name[found]] for line, found in ((old, a), (new, b))]
    fields = (names[0] != names[1]) | (old.checksum[a] != new.checksum[b])
    times = (old.issue[a] != new.issue[b]) | (old.retire[a] != new.retire[b])
    where = np.flatnonzero(fields | times)
    if not where.size and rows[0].size == rows[1].size:
        return None
    position = int(where[0]) if where.size else count
    sides: list[tuple[str | None, tuple[int, int] | None]] = [(None, None), (None, None)]
    for side, (line, found) in enumerate(zip((old, new), rows, strict=True)):
        if position < found.size:
            at = int(found[position])
            sides[side] = line.describe(at), (int(line.issue[at]), int(line.retire[at]))
    return Parting(index=position, old=sides[0][0], new=sides[1][0], fields=bool(where.size and fields[position]),
                   old_cycles=sides[0][1], new_cycles=sides[1][1])
