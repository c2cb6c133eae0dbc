"""The order of loads and stores of the same bytes of DRAM, by the clocks of their units."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Space, Unit
from ..instructions import Instructions
from ..lib.strided import Strided, overlaps
from ..program import Program
from .clocks import WR
from .dram_accesses import DramAccesses, packed_scales
from .dram_streams import DramStream, dram_streams
from .indexed_rows import IndexedRows, is_index_load


class DramOrder:
    """Bytes of DRAM: range, and order of loads and stores.

    DRAM is cut into zones at the ends of segments and outputs, so that an access is compared with those of its zone
    only. special: bool (n,), instructions that `add` must see wherever they stand; of the others it is enough that they
    follow what is in ``accesses.newest``.
    """

    def __init__(self, program: Program, instructions: Instructions, image: Strided,
                 made: dict[int, np.ndarray]) -> None:
        self.program, self.config, self.image = program, program.config, image
        self.instructions, self.indexed = instructions, IndexedRows(program, image, made)
        cuts = {0, program.dram_bytes}
        for area in program.areas().values():
            cuts |= {area.addr, area.end}
        self.cuts = sorted(cuts)
        names = [form.spec.name for form in instructions.forms]
        indexed = instructions.column(name in ("GATHER", "SCATTER") for name in names).astype(np.bool_)
        spans = {}
        for index in np.flatnonzero(indexed).tolist():
            for number in range(2):
                if not number or instructions[index].scale:
                    _, area = self.indexed.extents.of(index, number)
                    spans[index, number] = area.addr, area.end
        self.accesses = DramAccesses(instructions, self.config, self.cuts, spans)
        own = instructions.column(form.spec.unit <= Unit.STORE and form.space in (Space.INDEX, Space.PROGRAM)
                                  for form in instructions.forms).astype(np.bool_)
        store = self.accesses.unit == Unit.STORE
        meets_image = store & (self.accesses.end.max(axis=0) > self.image.addr)
        self.special = (indexed | own | self.accesses.crossing | packed_scales(instructions) | meets_image
                        | (self.accesses.end > program.dram_bytes).any(axis=0)
                        | (instructions.dram_addr < 0) | (instructions.scale_addr < 0))
        self.regions: dict[int, list[Strided]] = {}
        self.compared = {WR + unit: np.append(-1, np.flatnonzero(
            self.accesses.awaited & (self.accesses.unit == unit))) for unit in (Unit.LOAD, Unit.STORE)}

    def _zones(self, region: Strided) -> range:
        return range(bisect_right(self.cuts, region.addr) - 1, bisect_left(self.cuts, region.end))

    def _region(self, index: int, instruction: Instruction, number: int, stream: DramStream) -> Strided:
        """Bytes of a stream; what is known of them for rows that the index memory chooses."""
        region = stream.region
        if region is None:
            return self.indexed.region(index, instruction, number, stream)
        if region.end > self.program.dram_bytes:
            raise ProgramError(f"{stream.field}: bytes {region.addr}..{region.end - 1} are outside the "
                               f"{self.program.dram_bytes} bytes of DRAM")
        return region

    def _regions_of(self, index: int) -> list[Strided]:
        """Regions of an earlier instruction; those of indexed rows are remembered."""
        if index not in self.regions:
            streams = dram_streams(self.instructions.view(index), self.config)
            self.regions[index] = [stream.region for stream in streams if stream.region is not None]
        return self.regions[index]

    def add(self, index: int, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> None:
        streams = dram_streams(instruction, self.config)
        regions = [self._region(index, instruction, number, stream) for number, stream in enumerate(streams)]
        if instruction.spec.name == "SCATTER" and len(regions) > 1 and overlaps(*regions):
            raise ProgramError("scale_addr: scattered rows and their scale bytes must be apart, but are in bytes "
                               + " and ".join(f"{region.addr}..{region.end - 1}" for region in regions))
        if self.special[index]:
            self.regions[index] = regions
        for stream, region in zip(streams, regions, strict=True):
            self._add(index, stream, region, unit, clock)
        if is_index_load(instruction):
            self.indexed.load(instruction, streams[0], any(map(self._stored_before(index), self._zones(regions[0]))))

    def _stored_before(self, index: int) -> Callable[[int], bool]:
        """Whether an instruction before ``index`` stores to a zone."""
        return lambda zone: any(zone in self._zones(region) for earlier in self.accesses.before(index, Unit.STORE, zone)
                                for region in self._regions_of(earlier))

    def _add(self, index: int, stream: DramStream, region: Strided, unit: int, clock: tuple[int, ...]) -> None:
        if unit == Unit.STORE and stream.region is not None and overlaps(region, self.image):
            raise ProgramError(f"{stream.field}: writes the program image, bytes {self.image.addr}.."
                               f"{self.image.end - 1}")
        other_unit, action = (Unit.STORE, "written") if unit == Unit.LOAD else (Unit.LOAD, "read")
        arrived = clock[WR + other_unit]
        if self.accesses.newest[index] <= arrived:
            return
        for zone in self._zones(region):
            if zone not in self.accesses.stored:
                continue
            for earlier in self.accesses.meeting(index, other_unit, zone, arrived, region):
                if any(overlaps(region, other) for other in self._regions_of(earlier)):
                    raise ProgramError(f"DRAM bytes {region.addr}..{region.end - 1} may still be {action} by "
                                       f"{self.program.describe(earlier)}: nothing orders this after its wr token")
