"""Where things lie in DRAM: segments one after another, found again by address."""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.isa import Instruction, Unit
from ..sim.instructions import Instructions
from ..sim.legality.dram_streams import dram_streams
from ..sim.lib.strided import Strided
from ..sim.program import Segment

Data = np.ndarray | Callable[[], np.ndarray] | None


class DramMap:
    """Allocates segments from address 0 up; nothing is ever freed, DRAM is large."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.segments: list[Segment] = []
        self._starts: list[int] = []
        self._names: set[str] = set()
        self.end = 0

    def allocate(self, name: str, size: int | None, data: Data, align: int | None) -> Segment:
        """A new segment of ``size`` bytes (default: the size of ``data``) at a multiple of ``align`` bytes.

        An array of any type is taken as its bytes in C order, and padded with zeros up to ``size``.
        Raises `CompileError` for a name already used, and for sizes that do not fit.
        """
        bus = self.config.bus_bytes
        align = bus if align is None else align
        if name in self._names:
            raise CompileError(f"DRAM segment {name!r} is allocated twice")
        if align < bus or align % bus:
            raise CompileError(f"DRAM segment {name!r}: align must be a multiple of bus_bytes ({bus}), got {align}")
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            size = data.size if size is None else size
            if size < data.size:
                raise CompileError(f"DRAM segment {name!r}: {data.size} bytes of data, size is {size}")
            if size > data.size:
                data = np.concatenate([data, np.zeros(size - data.size, np.uint8)])
        if size is None or size < 1:
            raise CompileError(f"DRAM segment {name!r}: size must be at least 1, got {size}")
        segment = Segment(name, -(-self.end // align) * align, data, size)
        self.end = segment.addr + size
        self.segments.append(segment)
        self._starts.append(segment.addr)
        self._names.add(name)
        return segment

    def streams_of(self, instruction: Instruction) -> list[tuple[int, Strided]]:
        """(number of its segment, bytes) of every stream of a DMA instruction; the whole segment for indexed rows.

        Raises `ProgramError` when its bytes are not inside one segment (a last partial beat may stick out).
        """
        found = []
        for stream in dram_streams(instruction, self.config):
            number = bisect_right(self._starts, stream.addr) - 1
            segment = self.segments[number] if number >= 0 else None
            if segment is None or stream.end > segment.addr + segment.size:
                raise ProgramError(f"{stream.field}: {stream.rows} rows of {stream.row_bytes} bytes from {stream.addr} "
                                   "are not inside one DRAM segment"
                                   + (f"; {segment.name!r} ends at {segment.addr + segment.size}" if segment else ""))
            found.append((number, self.extent(number) if stream.region is None else stream.region))
        return found

    @property
    def starts(self) -> list[int]:
        """First bytes of the segments."""
        return self._starts

    def number_at(self, addr: int) -> int:
        """Number of the segment that an address is in, or behind."""
        return bisect_right(self._starts, addr) - 1

    def numbers_at(self, addr: NDArray[np.int64]) -> NDArray[np.int64]:
        """`number_at` of each."""
        return np.searchsorted(np.array(self._starts, np.int64), addr, "right") - 1

    def outside(self, instructions: Instructions) -> NDArray[np.int64]:
        """Indices of the instructions for which `streams_of` raises, in order."""
        starts = np.array(self._starts, np.int64)
        ends = np.array([0, *(segment.addr + segment.size for segment in self.segments)], np.int64)
        wrong = np.zeros(len(instructions), np.bool_)
        streams = [dram_streams(form, self.config) if form.spec.unit <= Unit.STORE else ()
                   for form in instructions.forms]
        for number, addr in enumerate((instructions.dram_addr, instructions.scale_addr)):
            size = instructions.column(found[number].end if number < len(found) else 0 for found in streams)
            segment = np.searchsorted(starts, addr, "right")
            wrong |= (size > 0) & (addr + size > ends[segment])
        return np.flatnonzero(wrong)

    def extent(self, number: int) -> Strided:
        """All bytes of a segment."""
        segment = self.segments[number]
        return Strided(segment.addr, segment.size)
