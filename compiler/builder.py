"""From instructions in natural order to a program: tokens, pages, addresses.
 A compiler pass emits instructions as if the tile executed them one after another; that order is the meaning
of the program. `ProgramBuilder.finish` finds out which of them must wait for which, gives every such pair a
token, and cuts the result into pages of instruction memory.
 Alternatives: tokens written by the compiler pass itself are faster to build and were the largest source of
bugs in the tools we read; a pass that recovers order from a finished program cannot tell a deliberate race
from a mistake. Inserting tokens from declared accesses has neither problem, and the verifier checks the
result without sharing this code.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.isa import Instruction, ScaleLayout, Unit
from ..sim.instructions import Instructions
from ..sim.legality.accesses import AccessTable
from ..sim.program import DTYPES, Program, Region, Segment
from .dependencies import BrokenRule, DependencyAnalysis
from .dram_map import Data, DramMap
from .edges import clear_edges
from .pages import Notes, split_pages
from .port_order import in_port_order
from .streams import interleave
from .tokens import with_tokens

T = TypeVar("T")


class _Body(NamedTuple):
    """Instructions ``first`` to ``end`` - 1 of those emitted, what the body returned, and its anchors then."""

    first: int
    end: int
    anchors: tuple[int, ...]
    words: tuple[str, ...]
    value: Any


class _Part(NamedTuple):
    """Instructions ``first`` to ``end`` - 1 of those emitted, with addresses moved by segment and words of labels
    exchanged."""

    first: int
    end: int
    moved: Mapping[int, int]
    words: Mapping[str, str]

    def label(self, text: str) -> str:
        """A label of the part."""
        return " ".join([self.words.get(word, word) for word in text.split(" ")]) if self.words else text


def _has_address(form: Instruction) -> bool:
    return hasattr(form, "dram_addr")


def _has_scales(form: Instruction) -> bool:
    """Is its second address one? That of rows without scales is 0, wherever they lie."""
    return hasattr(form, "scale_addr") and form.scale != ScaleLayout.NONE


class ProgramBuilder:
    """Collects instructions and DRAM segments of one program.

    ``emit`` order must be a legal serial execution: every value is written before it is read. Wait and signal
    masks of emitted instructions must be zero; SYNC, HALT, page LOADs and LOADs that clear ragged edges (`edges`) are
    added by `finish`.
    """

    def __init__(self, config: TileConfig, interleaved: Collection[str] = ()) -> None:
        """interleaved: phases whose first loads run in the tail of the phase before (`streams`)."""
        self.config, self._interleaved = config, frozenset(interleaved)
        self.instructions: list[Instruction] = []
        self.labels: list[str] = []
        self.phases: list[str] = []
        self.outputs: list[Region] = []
        self.meta: dict = {}
        self._dram = DramMap(config)
        self._padding: set[tuple[int, int]] = set()
        self._bodies: dict[Hashable, _Body] = {}
        self._parts: list[_Part] = []
        self._closed, self._recording = 0, False
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

    def repeat(self, key: Hashable, anchors: Sequence[int], body: Callable[[], T], words: Sequence[str] = ()) -> T:
        """Emit ``body()``, or what it emitted when it was called with the same ``key``, and return its value of then.

        ``key`` must decide everything that the body emits but addresses in DRAM. anchors: one address in each segment
        in which these move; within a segment all of them move as the anchor does. words: of labels, that stand for each
        other from one body to the next. Bodies may be in each other.
        """
        bus = self.config.bus_bytes
        full_key = self._phase, key, tuple(anchor % bus for anchor in anchors)
        known = None if self._recording else self._bodies.get(full_key)
        if known is not None:
            self._close()
            pairs = zip(anchors, known.anchors, strict=True)
            self._parts.append(_Part(known.first, known.end, {self._dram.number_at(old): new - old
                                                              for new, old in pairs},
                                     dict(zip(known.words, words, strict=True))))
            return known.value
        outer, self._recording, first = self._recording, True, len(self.instructions)
        try:
            value = body()
        finally:
            self._recording = outer
        if not outer and len({self._dram.number_at(anchor) for anchor in anchors}) == len(anchors):
            self._bodies[full_key] = _Body(first, len(self.instructions), tuple(anchors), tuple(words), value)
        return value

    def _close(self) -> None:
        """What was emitted since the last repetition becomes a part of its own."""
        if self._closed < len(self.instructions):
            self._parts.append(_Part(self._closed, len(self.instructions), {}, {}))
            self._closed = len(self.instructions)

    def _unrolled(self) -> tuple[Instructions, Notes]:
        """Everything emitted, in order."""
        own = Instructions.of(self.instructions)
        self._check(own)
        self._close()
        if len(self._parts) <= 1:
            return own, Notes(self.labels, self.phases)
        place = np.concatenate([np.arange(part.first, part.end) for part in self._parts])
        moved = []
        for addresses, used in ((own.dram_addr, _has_address), (own.scale_addr, _has_scales)):
            segment = np.where(own.column(used(form) for form in own.forms), self._dram.numbers_at(addresses), -1)
            shifts = np.zeros(len(self._dram.segments) + 1, np.int64)
            columns = []
            for part in self._parts:
                shifts[:] = 0
                for number, shift in part.moved.items():
                    shifts[number] = shift
                columns.append(addresses[part.first:part.end] + shifts[segment[part.first:part.end]])
            moved.append(np.concatenate(columns))
        labels = [text for part in self._parts for text in map(part.label, self.labels[part.first:part.end])]
        phases = [phase for part in self._parts for phase in self.phases[part.first:part.end]]
        return Instructions(own.forms, own.form[place], *moved), Notes(labels, phases)

    def padding(self, addr: int, groups: int) -> None:
        """Groups of B, in every slice, that are read as padding: zeros where nothing has written them (`edges`)."""
        self._padding.add((addr, groups))

    def finish(self) -> Program:
        """The program, with tokens and pages. The builder must not be used afterwards.

        Raises `CompileError` naming the instruction (by its index in emit order, and label) that breaks a
        rule.
        """
        (instructions, notes), table = self._unrolled(), AccessTable(self.config)
        if self._interleaved:
            instructions, notes = self._interleave(instructions, notes, table)
        clears = self._clears(instructions, table)
        if clears:
            instructions = Instructions.of(clears) + instructions
            notes = Notes(["clear edge"] * len(clears) + notes.labels, [""] * len(clears) + notes.phases)
        try:
            analysis = DependencyAnalysis(instructions, self._dram, table)
        except BrokenRule as broken:
            name, label = instructions[broken.index].spec.name, notes.labels[broken.index]
            raise CompileError(f"instruction {broken.index - len(clears)} ({name}{', ' + label if label else ''}): "
                               f"{broken}") from None
        analysis.analyse()
        instructions = with_tokens(instructions, analysis.pairs)
        if self.config.dram_shared:
            instructions, notes = in_port_order(instructions, notes, self.config)
        bus = self.config.bus_bytes
        program_addr = -(-self._dram.end // bus) * bus
        instructions, notes = split_pages(instructions, notes, self.config, program_addr)
        image = -(-len(instructions) // self.config.imem_page) * self.config.page_bytes
        return Program(config=self.config, instructions=instructions, program_addr=program_addr,
                       dram_bytes=program_addr + image, segments=list(self._dram.segments), outputs=self.outputs,
                       extents=self._extents(instructions), labels=notes.labels, phases=notes.phases, meta=self.meta)

    def _interleave(self, instructions: Instructions, notes: Notes, table: AccessTable) -> tuple[Instructions, Notes]:
        try:
            return interleave(instructions, notes, self._interleaved, self._dram, table)
        except (ProgramError, BrokenRule):
            return instructions, notes  # an instruction breaks a rule: the analysis names it

    def _extents(self, instructions: Instructions) -> dict[int, tuple[str, ...]]:
        """The segment of each stream of a GATHER or SCATTER: the one that its row 0 is in."""
        indexed = instructions.column(form.spec.name in ("GATHER", "SCATTER") for form in instructions.forms)
        segments = self._dram.segments
        return {index: tuple(segments[number].name for number, _ in self._dram.streams_of(instructions[index]))
                for index in np.flatnonzero(indexed).tolist()}

    def _clears(self, instructions: Instructions, table: AccessTable) -> list[Instruction]:
        try:
            return clear_edges(self.config, instructions.firsts(), table, self._padding,
                               lambda size: self.dram("zeros for edges", size).addr)
        except ProgramError:
            return []  # an instruction breaks a rule: the analysis names it

    def _check(self, instructions: Instructions) -> None:
        """Raise `CompileError` for what only `finish` may add."""
        wrong = {number: self._problem(form) for number, form in enumerate(instructions.forms) if self._problem(form)}
        for index in np.flatnonzero(np.isin(instructions.form, list(wrong)))[:1].tolist():
            number = int(instructions.form[index])
            raise CompileError(f"instruction {index}{wrong[number]}")

    @staticmethod
    def _problem(form: Instruction) -> str:
        if form.spec.unit == Unit.DISPATCH:
            return f": {form.spec.name} is added by the builder itself"
        if form.wait_rd or form.wait_wr or form.signal_rd or form.signal_wr:
            return f" ({form.spec.name}): wait and signal masks must be zero, the builder sets them"
        return ""
