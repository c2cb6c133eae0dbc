"""Proves a program before it runs, or says which instruction is wrong and why.

A verified program gives the same result on every machine with this instruction set, however long a DRAM
access or a unit takes: order between units is proved from tokens and queues alone. For every instruction the
verifier keeps a *clock*: the latest instruction of each unit whose rd and wr tokens are certainly given when
it issues. A clock grows by the clocks of the instructions whose tokens it takes, and by that of its
predecessor in the queue. Then:

* every field is in range, every address exists, and the rules of `sim.legality.accesses` hold;
* the n-th wait of a semaphore follows its n-th signal in program order, so nothing deadlocks; no token is
  left over, and no counter of 8 bits can overflow;
* a bank of A, B or ACC passes from one unit to another only when the old owner's accesses are over (so
  neither hazards nor two accesses to one port can happen); likewise entries of the index memory and bytes of
  DRAM;
* within the matrix and vector units, which overlap their own instructions, `sim.legality.pipeline` finds the pairs
  that need distance; only here durations of `rtl.plan` count as proof, because those units have no variable
  delays;
* rows that the index memory chooses are where the indices, if they are known, or the extent that the program names
  for the instruction say (`sim.legality.indexed_rows`);
* page n is loaded while page n - 1 executes, and known to have arrived before its first instruction is
  fetched;
* SYNC and HALT wait and signal only what they can; HALT comes last.

Every on-chip place that an instruction reads was written by an earlier instruction of the program
(`sim.legality.initialized`): what a memory holds before is what another program left.

Nothing is taken from the program builder. Shared with it are the descriptions of what an instruction touches
(`sim.legality.accesses`, `sim.legality.pipeline`), which the RTL's ``conflict`` output and the level comparison test.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Space, Unit
from ..induction import UNIT, Indices, Induction
from ..instructions import numbered
from ..lib.strided import Strided, overlaps
from ..program import Program
from ..stretches import stretches
from .accesses import Accesses, AccessTable
from .clocks import OTHERS, START, WR, Tokens, latest
from .dram_order import DramOrder
from .initialized import Initialized
from .pages import Pages
from .pipeline_order import PipelineOrder


def verify(program: Program) -> None:
    """Accept the program silently, or raise `ProgramError` naming the first instruction that is wrong, and why.

    First it is tried to prove it without what SYNCs tell the units, which hardly any program needs: then page loads and
    SYNCs, which fall anywhere into what repeats, concern the dispatcher alone, and what repeats is gone through once
    (`sim.induction`). If that fails, every instruction is gone through, with all that is known.
    """
    made: dict[int, np.ndarray] = {}
    try:
        _prove(program, made)
    except ProgramError:
        _go_through(program, made)


def _go_through(program: Program, made: dict[int, np.ndarray]) -> None:
    run = _Verifier(program, made)
    try:
        run.run(0, len(program.instructions))
    except ProgramError as error:
        raise ProgramError(f"{program.describe(run.index)}: {error}") from None
    run.finish()


def _prove(program: Program, made: dict[int, np.ndarray]) -> None:
    """Raise `ProgramError`, about anything, if it cannot be proved like this."""
    instructions = program.columns
    run = _Verifier(program, made, (Unit.DISPATCH,))
    for index in np.flatnonzero(instructions.column(map(_concerns_dispatcher, instructions.forms))
                                | (np.arange(len(instructions)) % program.config.imem_page == 0)).tolist():
        run.dispatch(index, instructions.view(index))
    run.finish()
    own = np.flatnonzero(instructions.column(_is_own(form) for form in instructions.forms))
    number = {index: place for place, index in enumerate(own.tolist())} if program.extents else {}
    rest = replace(program, instructions=instructions.take(own), labels=[], phases=[], extents={
        number[index]: names for index, names in program.extents.items()})
    image = Strided(program.program_addr, program.image_bytes)
    units = _Verifier(rest, made, tuple(Unit)[:Unit.DISPATCH], image)
    Induction(units).run(stretches(units.kinds()))
    units.finish()


def _concerns_dispatcher(form: Instruction) -> bool:
    return (not _is_own(form) or form.spec.unit == Unit.DISPATCH
            or bool((form.signal_rd | form.signal_wr) >> Unit.DISPATCH))


def _is_own(form: Instruction) -> bool:
    """Whether it is neither a page load nor a SYNC."""
    return not (form.spec.name == "SYNC" or (form.spec.name == "LOAD" and form.space == Space.PROGRAM
                                             and not _given_to_units(form)))


def _given_to_units(form: Instruction) -> int:
    return form.wait_rd | form.wait_wr | ((form.signal_rd | form.signal_wr) & (1 << Unit.DISPATCH) - 1)


class _Done(NamedTuple):
    """What a stretch did beside changing the clocks. special: offsets of the instructions that are to be looked at for
    themselves. dma: of those that only their order with ``DramAccesses.newest`` can make wrong. Its indices are the
    clocks of the latter, then of the former."""

    special: list[int]
    dma: NDArray[np.int64]


class _Verifier:
    """The machine of an `Induction`. index: of the instruction that is being looked at, for errors."""

    def __init__(self, program: Program, made: dict[int, np.ndarray], consumers: tuple[Unit, ...] = tuple(Unit),
                 image: Strided | None = None) -> None:
        """made: as `IndexedRows`. consumers: whose tokens are looked at. image: bytes of the program's image, if they
        are not its own."""
        self.program, self.config, self.index = program, program.config, 0
        self.instructions = program.columns
        self.tokens = Tokens(program, consumers)
        self.paged = Unit.DISPATCH in consumers
        self.dram = DramOrder(program, self.instructions, image or Strided(program.program_addr, program.image_bytes),
                              made)
        self.table = AccessTable(self.config)
        self.pipeline = PipelineOrder(program)
        self.pages = Pages(program)
        self.initialized = Initialized(self.config)
        count = self.table.bank_count
        self.owner: list[int] = [-1] * count
        # Per bank: last reads by the four units, then last writes.
        self.last: list[list[int]] = [[-1] * 8 for _ in range(count)]
        self.index_writes: list[tuple[int, Strided]] = []
        self.index_reads: list[tuple[int, Strided]] = []
        self.shapes: dict[int, Accesses] = {}

    def kinds(self) -> NDArray[np.int32]:
        """(n,) numbers of what has the same fields but for whole beats of DRAM addresses, and the same need to be
        ordered or looked at for itself."""
        instructions, bus, dram = self.instructions, self.config.bus_bytes, self.dram
        return numbered(instructions.form, instructions.dram_addr % bus, instructions.scale_addr % bus,
                        dram.accesses.ordered.view(np.uint8), dram.special.view(np.uint8))

    def run(self, start: int, end: int) -> tuple[_Done, Indices]:
        special = self.dram.special[start:end]
        ordered = self.dram.accesses.ordered[start:end] & ~special
        seen: list[int] = []
        clocks: list[int] = []
        for index in range(start, end):
            self.index = index
            clock = self.add(index, self.instructions.view(index))
            if special[index - start]:
                clocks += clock
            elif ordered[index - start]:
                seen += clock
        indices = np.array(seen + clocks, np.int64)
        done = _Done(np.flatnonzero(special).tolist(), np.flatnonzero(ordered))
        return done, indices + UNIT * (np.arange(len(indices)) % 4)

    def repeat(self, start: int, done: _Done, indices: Indices) -> bool:
        """What depends on the addresses in DRAM; the rest is as it was."""
        clocks = indices.reshape(-1, 8)
        if done.dma.size:
            accesses, dma = self.dram.accesses, start + done.dma
            arrived = clocks[np.arange(len(dma)), WR + Unit.STORE - accesses.unit[dma]]
            if (accesses.newest[dma] > arrived).any():
                return False
        for offset, clock in zip(done.special, clocks[len(done.dma):].tolist(), strict=True):
            self.index = start + offset
            instruction = self.instructions.view(self.index)
            self._check_dram(self.index, instruction, self.table.of(instruction), tuple(clock))
        return True

    def dispatch(self, index: int, instruction: Instruction) -> None:
        """The next instruction that concerns the dispatcher, or begins a page; only this concern of it."""
        self.index, unit = index, int(instruction.spec.unit)
        if index % self.config.imem_page == 0 and index:
            self.pages.enter(index, self.tokens.dispatched)
        self.tokens.issue(index, instruction, unit)
        if unit == Unit.DISPATCH:
            self._check_dispatcher(index, instruction)
        elif instruction.spec.name == "LOAD" and instruction.space == Space.PROGRAM:
            touched = self.table.of(instruction)
            self.dram.add(index, instruction, unit, START)
            if touched.program_write is not None:
                self.pages.load(index, instruction, touched.program_write)

    def add(self, index: int, instruction: Instruction) -> tuple[int, ...]:
        """The next instruction; returns its clock."""
        unit = int(instruction.spec.unit)
        if self.paged and index % self.config.imem_page == 0 and index:
            self.pages.enter(index, self.tokens.dispatched)
        clock = self.tokens.issue(index, instruction, unit)
        if unit == Unit.DISPATCH:
            self._check_dispatcher(index, instruction)
            return clock
        touched = self.table.of(instruction)
        self.shapes[touched.serial] = touched
        self._check_banks(index, unit, touched, clock)
        self.initialized.add(instruction, touched)
        if unit <= Unit.STORE:
            self._check_dram(index, instruction, touched, clock)
            if touched.index_read is not None or touched.index_write is not None:
                self._check_indices(index, unit, touched, clock)
        else:
            self.pipeline.add(index, instruction, unit, touched, clock)
        return clock

    def _check_dram(self, index: int, instruction: Instruction, touched: Accesses, clock: tuple[int, ...]) -> None:
        self.dram.add(index, instruction, int(instruction.spec.unit), clock)
        if self.paged and touched.program_write is not None:
            self.pages.load(index, instruction, touched.program_write)

    def state(self) -> tuple[tuple, Indices, Indices]:
        """Clocks are compared with the instructions that are kept somewhere: so of each entry the latest of those that
        it covers is all that counts, and what every other unit's clock covers need not be kept."""
        clocks = self.tokens.clocks
        self.index_reads = [(i, run) for i, run in self.index_reads if i > clocks[Unit.LOAD][Unit.STORE]]
        arrived = min(clocks[unit][WR + Unit.LOAD] for unit in (Unit.LOAD, Unit.STORE))
        self.index_writes = [(i, run) for i, run in self.index_writes if i > arrived]
        pipeline, in_pipe = self.pipeline.state()
        kept = [(i, Unit.STORE) for i, _ in self.index_reads] + [(i, WR + Unit.LOAD) for i, _ in self.index_writes]
        kept += [(i, entry) for i, unit in in_pipe for entry in (unit, unit + WR)]
        last = np.array(self.last, np.int64)
        covered = np.where(OTHERS, np.array(clocks, np.int64), last.max(initial=0) + 1).min(axis=0)
        last[last <= covered] = -1
        tokens, learnt = self.tokens.state(clocks)
        learnt = latest(np.array(learnt, np.int64).reshape(-1, 8), last, kept, self.dram.compared)
        others = kept[:len(self.index_reads) + len(self.index_writes)] + in_pipe
        found = np.concatenate([last.reshape(-1), learnt.reshape(-1), np.array([i for i, _ in others], np.int64)])
        units = np.concatenate([np.arange(last.size + learnt.size) % 4, np.array([e & 3 for _, e in others], np.int64)])
        return ((tuple(self.owner), tuple(run for _, run in self.index_reads),
                 tuple(run for _, run in self.index_writes), tokens, pipeline), found, units)

    def restore(self, shape: tuple, indices: list[int]) -> None:
        owner, reads, writes, tokens, pipeline = shape
        rest = iter(indices)
        self.owner = list(owner)
        self.last = [[next(rest) for _ in range(8)] for _ in owner]
        self.tokens.restore(tokens, rest)
        self.index_reads = [(next(rest), run) for run in reads]
        self.index_writes = [(next(rest), run) for run in writes]
        self.pipeline.restore(pipeline, rest, self.shapes)

    def finish(self) -> None:
        program = self.program
        last = len(program.instructions) - 1
        if program.instructions[last].spec.name != "HALT":
            raise ProgramError(f"{program.describe(last)}: the last instruction must be a HALT")
        self.tokens.finish()

    def _check_dispatcher(self, index: int, instruction: Instruction) -> None:
        if instruction.signal_rd or instruction.signal_wr:
            raise ProgramError("the dispatcher gives no tokens, signal_rd and signal_wr must be 0")
        if instruction.spec.name == "HALT":
            if instruction.wait_rd or instruction.wait_wr:
                raise ProgramError("HALT waits for every unit by itself, wait_rd and wait_wr must be 0")
            if index != len(self.program.instructions) - 1:
                raise ProgramError(f"HALT must be the last of {len(self.program.instructions)} instructions")

    def _check_banks(self, index: int, unit: int, touched: Accesses, clock: tuple[int, ...]) -> None:
        """Accesses of other units are over. A bank that this unit owned already was checked when it took it."""
        owner = self.owner
        for bank, until_wr in touched.banks:
            last = self.last[bank]
            if owner[bank] != unit:
                owner[bank] = unit
                for entry in range(8):
                    if last[entry] > clock[entry] and entry & 3 != unit:
                        self._bank_error(bank, entry, last[entry])
            last[unit + WR if until_wr else unit] = index

    def _bank_error(self, bank: int, entry: int, earlier: int) -> None:
        kind = "wr" if entry >= WR else "rd"
        raise ProgramError(f"{self.table.bank_name(bank)} may still be in use by {self.program.describe(earlier)}: "
                           f"nothing orders this after its {kind} token")

    def _check_indices(self, index: int, unit: int, touched: Accesses, clock: tuple[int, ...]) -> None:
        if touched.index_read is not None:
            for earlier, run in reversed(self.index_writes):
                if earlier <= clock[WR + Unit.LOAD]:
                    break
                if overlaps(run, touched.index_read):
                    raise ProgramError("index entries may still be written by "
                                       f"{self.program.describe(earlier)}: nothing orders this after its wr token")
            if unit == Unit.STORE:
                self.index_reads.append((index, touched.index_read))
        if touched.index_write is not None:
            for earlier, run in reversed(self.index_reads):
                if earlier <= clock[Unit.STORE]:
                    break
                if overlaps(run, touched.index_write):
                    raise ProgramError("index entries may still be read by "
                                       f"{self.program.describe(earlier)}: nothing orders this after its rd token")
            self.index_writes.append((index, touched.index_write))
