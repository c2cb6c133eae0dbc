"""Which bytes of DRAM the rows of a GATHER or SCATTER lie in: indices are data.

Two things can be known before a program runs:

* *the indices*: they were loaded from a segment with data that no earlier STORE or SCATTER touches. Then every address
  is checked, and the rows are ordered as the set of equally spaced rows from the lowest index to the highest;
* *the extent*: `Program.extents` names a segment or output per stream (the 256 bits of an instruction have no room for
  it). The instruction is ordered as if it touched all of that, and `run_reference` refuses an index that leads out of
  it (`Extents`). Known indices are held against the extent too.

With neither, the program is rejected. To take the segment around row 0 for the extent was the rule before; it accepted
indices that lead into the next segment, out of DRAM, or into the program. To order known indices by the exact set of
their rows was rejected: it makes a comparison of two accesses as long as their lists.

A segment without data (None) counts as not known: its zeros stand for values that a timing run does not need.
"""

from bisect import bisect_right

import numpy as np

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Space, Unit
from ..lib.strided import Strided, overlaps
from ..program import Program
from .dram_streams import DramStream, dram_streams


class Extents:
    """The extents that a program names, and whether rows stay in them."""

    def __init__(self, program: Program) -> None:
        self.program, self.areas = program, program.areas()

    def of(self, index: int, number: int) -> tuple[str | None, Strided]:
        """Name and bytes of what stream ``number`` of instruction ``index`` can touch; None and all of DRAM when the
        program names nothing."""
        names = self.program.extents.get(index)
        return (names[number], self.areas[names[number]]) if names else (None, Strided(0, self.program.dram_bytes))

    def check(self, index: int, indices: np.ndarray) -> None:
        """Raise `ProgramError` when instruction ``index`` would leave the extent that the program names for it.

        indices: all of the index memory, uint32.
        """
        if index not in self.program.extents:
            return
        instruction = self.program.instructions[index]
        rows = indices[instruction.index_addr:instruction.index_addr + instruction.rows]
        for number, stream in enumerate(dram_streams(instruction, self.program.config)):
            self.check_rows(index, number, stream, rows)

    def check_rows(self, index: int, number: int, stream: DramStream, indices: np.ndarray) -> None:
        """Raise `ProgramError` naming the row when DRAM rows ``indices`` of a stream are not all inside its extent.

        Addresses count without the wrap at 2**40 that the hardware has. They grow with the index, so the lowest and
        the highest decide.
        """
        name, area = self.of(index, number)
        for row in (int(indices.argmax()), int(indices.argmin())) if indices.size else ():
            start = stream.addr + int(indices[row]) * stream.row_stride
            if start < area.addr or start + stream.row_bytes > area.end:
                where = "DRAM" if name is None else repr(name)
                raise ProgramError(f"{stream.field}: row {row}, index {indices[row]}, is at bytes {start}.."
                                   f"{start + stream.row_bytes - 1}, outside {where}, bytes "
                                   f"{area.addr}..{area.end - 1}")

    def check_reachable(self, index: int, number: int, stream: DramStream) -> None:
        """Raise `ProgramError` when no index at all leads into the extent."""
        name, area = self.of(index, number)
        stride, ahead = stream.row_stride, max(area.addr - stream.addr, 0)
        first = -(-ahead // stride) * stride if stride else 0
        if first < ahead or stream.addr + first + stream.row_bytes > area.end:
            raise ProgramError(f"{stream.field}: no row of {stream.row_bytes} bytes, {stride} apart from {stream.addr}"
                               f", is inside {name!r}, bytes {area.addr}..{area.end - 1}")


class IndexedRows:
    """The index memory as far as its contents are known, for one pass over a program in its order.

    That order is enough: the verifier has proved that entries are read after they are written, and that an index list
    is loaded before a later store changes it.
    """

    def __init__(self, program: Program, image: Strided, made: dict[int, np.ndarray]) -> None:
        """image: bytes of the program's image. made: contents of segments, by number, that were asked for already."""
        self.program, self.config, self.image = program, program.config, image
        self.extents = Extents(program)
        self.values = np.zeros(self.config.index_entries, np.uint32)
        self.known = np.ones(self.config.index_entries, bool)
        self._sources = sorted((s for s in program.segments if s.size and s.data is not None), key=lambda s: s.addr)
        self._starts = [s.addr for s in self._sources]
        self._bytes = made

    def region(self, index: int, instruction: Instruction, number: int, stream: DramStream) -> Strided:
        """The bytes that stream ``number`` must be ordered by.

        Raises `ProgramError` when a known index leads out of its extent, a beat of it out of DRAM, or a row of a
        SCATTER into the program image, and when neither indices nor extent are known.
        """
        first, last = instruction.index_addr, instruction.index_addr + instruction.rows - 1
        store = instruction.spec.unit == Unit.STORE
        name, extent = self.extents.of(index, number)
        if self.known[first:last + 1].all():
            numbers = self.values[first:last + 1]
            self.extents.check_rows(index, number, stream, numbers)
            if store:
                self._check_image(stream, numbers)
            low, high = int(numbers.min()), int(numbers.max())
            size = stream.row_bytes if store else self._beats(stream.row_bytes)
            region = Strided(stream.addr + low * stream.row_stride, size, stream.row_stride, high - low + 1)
        else:
            if name is None:
                raise ProgramError(f"{stream.field}: index entries {first}..{last} get their values at run time (or "
                                   "from a segment without data), so the program must name the segment or output of "
                                   "these rows, but it has no extent for this instruction")
            self.extents.check_reachable(index, number, stream)
            if store and overlaps(extent, self.image):
                raise ProgramError(f"{stream.field}: {name!r} reaches into the program image, bytes "
                                   f"{self.image.addr}..{self.image.end - 1}")
            region = extent
        end = region.end if store else self._beats(region.end)
        if end > self.program.dram_bytes:
            raise ProgramError(f"{stream.field}: bytes {region.addr}..{end - 1} are outside the "
                               f"{self.program.dram_bytes} bytes of DRAM")
        return region

    def load(self, instruction: Instruction, stream: DramStream, stored: bool) -> None:
        """A LOAD or GATHER of one row to the index memory. stored: an earlier store may have changed its source."""
        addr: int | None = stream.addr
        if stream.region is None:
            entry = instruction.index_addr
            addr = stream.addr + int(self.values[entry]) * stream.row_stride if self.known[entry] else None
        found = None if stored or addr is None else self._initial(addr, instruction.row_bytes)
        target = slice(instruction.addr, instruction.addr + instruction.row_bytes // 4)
        self.known[target] = found is not None
        if found is not None:
            self.values[target] = found

    def _initial(self, addr: int, size: int) -> np.ndarray | None:
        """Words of DRAM before the program runs, or None where no single segment has data for all of them."""
        number = bisect_right(self._starts, addr) - 1
        if number < 0:
            return None
        segment = self._sources[number]
        start = addr - segment.addr
        if start + size > segment.size:
            return None
        data = self._bytes.get(number)
        if data is None:
            data = segment.bytes_()
            assert data is not None
            self._bytes[number] = data
        return np.ascontiguousarray(data[start:start + size]).view("<u4")

    def _check_image(self, stream: DramStream, numbers: np.ndarray) -> None:
        """Exact, row by row: rows before and after the image are fine. The addresses are known to be below 2**40."""
        if self.image.end <= stream.addr:
            return
        starts = stream.addr + numbers.astype(np.int64) * stream.row_stride
        inside = (starts < self.image.end) & (starts + stream.row_bytes > self.image.addr)
        if inside.any():
            row = int(np.argmax(inside))
            raise ProgramError(f"{stream.field}: row {row}, index {numbers[row]}, writes the program image, bytes "
                               f"{self.image.addr}..{self.image.end - 1}")

    def _beats(self, size: int) -> int:
        bus = self.config.bus_bytes
        return -(-size // bus) * bus


def is_index_load(instruction: Instruction) -> bool:
    """Whether it writes the index memory."""
    return instruction.spec.unit == Unit.LOAD and instruction.space == Space.INDEX
