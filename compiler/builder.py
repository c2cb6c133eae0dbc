"""From instructions in natural order to a program: tokens, pages, addresses.
 A compiler pass emits instructions as if the tile executed them one after another; that order is the meaning
of the program. `ProgramBuilder.finish` finds out which of them must wait for which, gives every such pair a
token, and cuts the result into pages of instruction memory.
 Alternatives: tokens written by the compiler pass itself are faster to build and were the largest source of
bugs in the tools we read; a pass that recovers order from a finished program cannot tell a deliberate race
from a mistake. Inserting tokens from declared accesses has neither problem, and the verifier checks the
result without sharing this code.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.isa import Halt, Instruction, Load, Space, Sync, Unit
from ..sim.legality.accesses import AccessTable
from ..sim.program import DTYPES, Program, Region, Segment
from .dependencies import RD, Channel, DependencyAnalysis
from .dram_map import Data, DramMap
from .edges import clear_edges

TOKEN_LIMIT = 200
"""Tokens of one channel that may be on the way at once; the counters hold 255, a queue may add its depth."""


class ProgramBuilder:
    """Collects instructions and DRAM segments of one program.

    ``emit`` order must be a legal serial execution: every value is written before it is read. Wait and signal
    masks of emitted instructions must be zero; SYNC, HALT, page LOADs and LOADs that clear ragged edges (`edges`) are
    added by `finish`.
    """

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.instructions: list[Instruction] = []
        self.labels: list[str] = []
        self.phases: list[str] = []
        self.outputs: list[Region] = []
        self.meta: dict = {}
        self._dram = DramMap(config)
        self._padding: set[tuple[int, int]] = set()
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is emitted in this block belongs to phase ``name`` of the layer (`Program.phases`)."""
        outer, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = outer

    @property
    def segments(self) -> Sequence[Segment]:
        """Segments allocated so far, in address order."""
        return self._dram.segments

    def dram(self, name: str, size: int | None = None, data: Data = None, align: int | None = None) -> Segment:
        """Allocate DRAM; use ``.addr`` of the answer in instructions.

        data: an array (its bytes are taken, padded with zeros to ``size``), a function that returns
        uint8[size] when it is needed, or None for zeros. align: default ``bus_bytes``.
        """
        return self._dram.allocate(name, size, data, align)

    def output(self, name: str, addr: int, shape: tuple[int, ...], dtype: str, row_stride: int | None = None) -> Region:
        """Declare a result: array of ``shape`` at DRAM ``addr``; rows of the last axis ``row_stride`` bytes
        apart.

        ``row_stride`` None means packed. dtype: a name in `sim.program.DTYPES`.
        """
        if dtype not in DTYPES:
            raise CompileError(f"output {name}: unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
        row_bytes = shape[-1] * DTYPES[dtype].itemsize
        rows = int(np.prod(shape[:-1], dtype=np.int64))
        region = Region(name, addr, rows, row_bytes, row_bytes if row_stride is None else row_stride, dtype, shape)
        self.outputs.append(region)
        return region

    def emit(self, instruction: Instruction, label: str = "") -> None:
        """Append a LOAD, GATHER, STORE, SCATTER, MATMUL or VECTOR. The builder owns it from here on."""
        self.instructions.append(instruction)
        self.labels.append(label)
        self.phases.append(self._phase)

    def padding(self, addr: int, groups: int) -> None:
        """Groups of B, in every slice, that are read as padding: zeros where nothing has written them (`edges`)."""
        self._padding.add((addr, groups))

    def finish(self) -> Program:
        """The program, with tokens and pages. The builder must not be used afterwards.

        Raises `CompileError` naming the instruction (by its index in emit order, and label) that breaks a
        rule.
        """
        own, table = self._own_instructions(), AccessTable(self.config)
        clears = self._clears(own, table)
        instructions = [*clears, *own]
        notes = [("clear edge", "")] * len(clears) + list(zip(self.labels, self.phases, strict=True))
        analysis = DependencyAnalysis(self.config, self._dram, table)
        analysis.run(instructions, [label for label, _ in notes], first=len(clears))
        for channel, pairs in analysis.pairs.items():
            assign_tokens(instructions, channel, limit_outstanding(pairs))
        bus = self.config.bus_bytes
        program_addr = -(-self._dram.end // bus) * bus
        instructions, notes = split_pages(instructions, notes, self.config, program_addr)
        image = -(-len(instructions) // self.config.imem_page) * self.config.page_bytes
        return Program(config=self.config, instructions=instructions, program_addr=program_addr,
                       dram_bytes=program_addr + image, segments=list(self._dram.segments), outputs=self.outputs,
                       extents=self._extents(instructions), labels=[label for label, _ in notes],
                       phases=[phase for _, phase in notes], meta=self.meta)

    def _extents(self, instructions: list[Instruction]) -> dict[int, tuple[str, ...]]:
        """The segment of each stream of a GATHER or SCATTER: the one that its row 0 is in."""
        segments = self._dram.segments
        return {index: tuple(segments[number].name for number, _ in self._dram.streams_of(instruction))
                for index, instruction in enumerate(instructions) if instruction.spec.name in ("GATHER", "SCATTER")}

    def _clears(self, instructions: list[Instruction], table: AccessTable) -> list[Instruction]:
        try:
            return clear_edges(self.config, instructions, table, self._padding,
                               lambda size: self.dram("zeros for edges", size).addr)
        except ProgramError:
            return []  # an instruction breaks a rule: the analysis names it

    def _own_instructions(self) -> list[Instruction]:
        """The emitted instructions, each object once, because tokens are written into them."""
        seen: set[int] = set()
        own = []
        for index, instruction in enumerate(self.instructions):
            if instruction.spec.unit == Unit.DISPATCH:
                raise CompileError(f"instruction {index}: {instruction.spec.name} is added by the builder itself")
            if instruction.wait_rd or instruction.wait_wr or instruction.signal_rd or instruction.signal_wr:
                raise CompileError(f"instruction {index} ({instruction.spec.name}): wait and signal masks must be "
                                   "zero, the builder sets them")
            if id(instruction) in seen:
                instruction = copy.copy(instruction)
            seen.add(id(instruction))
            own.append(instruction)
        return own


def limit_outstanding(pairs: list[tuple[int, int]], limit: int = TOKEN_LIMIT) -> list[tuple[int, int]]:
    """Tokens of one channel with at most ``limit`` given before the first of them is taken.

    Where there are more, a consumer waits for a later producer (still before it in program order), which
    covers the ones in between.
    """
    kept, position = [], 0
    while position < len(pairs):
        producer, consumer = pairs[position]
        last = position
        if position + limit < len(pairs) and pairs[position + limit][0] < consumer:
            while last + 1 < len(pairs) and pairs[last + 1][0] < consumer:
                last += 1
            producer = pairs[last][0]
        kept.append((producer, consumer))
        position = last + 1
    return kept


def assign_tokens(instructions: list[Instruction], channel: Channel, pairs: list[tuple[int, int]]) -> None:
    """Set the signal and wait bits of one channel."""
    source, kind, target = channel
    wait, signal = ("wait_rd", "signal_rd") if kind == RD else ("wait_wr", "signal_wr")
    for producer, consumer in pairs:
        instruction = instructions[producer]
        setattr(instruction, signal, getattr(instruction, signal) | 1 << target)
        instruction = instructions[consumer]
        setattr(instruction, wait, getattr(instruction, wait) | 1 << source)


Note = tuple[str, str]
"""Label and phase of an instruction."""


def split_pages(instructions: list[Instruction], notes: list[Note], config: TileConfig,
                program_addr: int) -> tuple[list[Instruction], list[Note]]:
    """Add HALT, and when the program is longer than a page, page LOADs and SYNCs; they belong to no phase.

    Every page but the last begins with the LOAD of the next one into the other half of instruction memory and
    ends with the SYNC that waits for it, so the transfer runs while the page executes.
    """
    page = config.imem_page
    body, texts = [*instructions, Halt()], [*notes, ("", "")]
    out: list[Instruction] = []
    names: list[Note] = []
    position = number = 0
    while len(body) - position > page:
        out.append(Load(space=Space.PROGRAM, dram_addr=program_addr + (number + 1) * config.page_bytes, rows=1,
                        row_bytes=config.page_bytes, addr=(number + 1) % 2 * page, signal_wr=1 << Unit.DISPATCH))
        out += body[position:position + page - 2]
        out.append(Sync(wait_wr=1 << Unit.LOAD))
        mark = (f"page {number + 1}", "")
        names += [mark, *texts[position:position + page - 2], mark]
        position, number = position + page - 2, number + 1
    return out + body[position:], names + texts[position:]
