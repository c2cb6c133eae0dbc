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

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...rtl.plan import duration
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Space, Unit
from ..induction import UNIT, Indices, Induction
from ..instructions import Instructions, numbered
from ..lib.strided import Strided, overlaps
from ..program import Program
from ..stretches import stretches
from .accesses import Accesses, AccessTable
from .dram_accesses import DramAccesses, packed_scales
from .dram_streams import DramStream, dram_streams
from .indexed_rows import IndexedRows, is_index_load
from .initialized import Initialized
from .pipeline import Hazard, PipelineHazards

COUNTER_MAX = 255
"""Largest value of a token counter."""

_WR = 4
"""Entries 0..3 of a clock are the rd tokens of the four units, entries 4..7 their wr tokens."""

_START = (-1,) * 8


def verify(program: Program) -> None:
    """Accept the program silently, or raise `ProgramError` naming the first instruction that is wrong, and why."""
    run = _Verifier(program)
    try:
        Induction(run).run(stretches(run.kinds()))
    except ProgramError as error:
        raise ProgramError(f"{program.describe(run.index)}: {error}") from None
    run.finish()


class _Done(NamedTuple):
    """What a stretch did beside changing the clocks. events: (offset, what), see `_Verifier.run`. dma: offsets of the
    instructions that only their order with those in ``DramAccesses.newest`` can make wrong. Its indices are the
    clocks' entries for them, then for the events."""

    events: list[tuple[int, int]]
    dma: NDArray[np.int64]


_ENTER, _CHECK = range(2)
"""Events: a page begins; an instruction is to be looked at for itself."""


class _Verifier:
    """The machine of an `Induction`. index: of the instruction that is being looked at, for errors."""

    def __init__(self, program: Program) -> None:
        self.program, self.config, self.index = program, program.config, 0
        self.instructions = Instructions.of(program.instructions)
        self.tokens = _Tokens(program)
        self.dram = _DramOrder(program, self.instructions)
        self.table = AccessTable(self.config)
        self.pipeline = _PipelineOrder(program)
        self.pages = _Pages(program)
        self.initialized = Initialized(self.config)
        count = self.table.bank_count
        self.owner: list[int] = [-1] * count
        # Per bank: last reads by the four units, then last writes.
        self.last: list[list[int]] = [[-1] * 8 for _ in range(count)]
        self.index_writes: list[tuple[int, Strided]] = []
        self.index_reads: list[tuple[int, Strided]] = []
        self.shapes: dict[int, Accesses] = {}

    def kinds(self) -> NDArray[np.int32]:
        """(n,) numbers of what has the same fields but for whole beats of DRAM addresses, is at the start of a page or
        not, and has the same need to be ordered or looked at for itself."""
        instructions, bus, dram = self.instructions, self.config.bus_bytes, self.dram
        first = np.arange(len(instructions)) % self.config.imem_page == 0
        return numbered(instructions.form, instructions.dram_addr % bus, instructions.scale_addr % bus, first,
                        dram.accesses.ordered, dram.special)

    def run(self, start: int, end: int) -> tuple[_Done, Indices]:
        events: list[tuple[int, int]] = []
        clocks: list[int] = []
        ordered = self.dram.accesses.ordered[start:end] & ~self.dram.special[start:end]
        seen: list[int] = []
        for index in range(start, end):
            self.index = index
            if index % self.config.imem_page == 0 and index:
                events.append((index - start, _ENTER))
                clocks += self.tokens.dispatched
            clock = self.add(index, self.instructions.view(index))
            if self.dram.special[index]:
                events.append((index - start, _CHECK))
                clocks += clock
            elif ordered[index - start]:
                seen += clock
        indices = np.array(seen + clocks, np.int64)
        return _Done(events, np.flatnonzero(ordered)), indices + UNIT * (np.arange(len(indices)) % 4)

    def repeat(self, start: int, done: _Done, indices: Indices) -> bool:
        """What depends on the addresses in DRAM; the rest is as it was."""
        clocks = indices.reshape(-1, 8)
        if done.dma.size:
            accesses, dma = self.dram.accesses, start + done.dma
            arrived = clocks[np.arange(len(dma)), _WR + Unit.STORE - accesses.unit[dma]]
            if (accesses.newest[dma] > arrived).any():
                return False
        for (offset, what), clock in zip(done.events, clocks[len(done.dma):].tolist(), strict=True):
            self.index = start + offset
            if what == _ENTER:
                self.pages.enter(self.index, tuple(clock))
            else:
                instruction = self.instructions.view(self.index)
                self._check_dram(self.index, instruction, self.table.of(instruction), tuple(clock))
        return True

    def add(self, index: int, instruction: Instruction) -> tuple[int, ...]:
        """The next instruction; returns its clock."""
        unit = int(instruction.spec.unit)
        if index % self.config.imem_page == 0 and index:
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
        if touched.program_write is not None:
            self.pages.load(index, instruction, touched.program_write)

    def state(self) -> tuple[tuple, Indices, Indices]:
        """Clocks are compared with the instructions that are kept somewhere: so of each entry the latest of those that
        it covers is all that counts, and what every other unit's clock covers need not be kept."""
        clocks = self.tokens.effective()
        self.index_reads = [(i, run) for i, run in self.index_reads if i > clocks[Unit.LOAD][Unit.STORE]]
        arrived = min(clocks[unit][_WR + Unit.LOAD] for unit in (Unit.LOAD, Unit.STORE))
        self.index_writes = [(i, run) for i, run in self.index_writes if i > arrived]
        pipeline, in_pipe = self.pipeline.state()
        kept = [(i, Unit.STORE) for i, _ in self.index_reads] + [(i, _WR + Unit.LOAD) for i, _ in self.index_writes]
        kept += [(i, entry) for i, unit in in_pipe for entry in (unit, unit + _WR)]
        kept += [(self.pages.latest, _WR + Unit.LOAD)]
        last = np.array(self.last, np.int64)
        covered = np.where(_OTHERS, np.array(clocks, np.int64), last.max(initial=0) + 1).min(axis=0)
        last[last <= covered] = -1
        tokens, learnt = self.tokens.state(clocks)
        learnt = _latest(np.array(learnt, np.int64).reshape(-1, 8), last, kept, self.dram.compared)
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
            last[unit + _WR if until_wr else unit] = index

    def _bank_error(self, bank: int, entry: int, earlier: int) -> None:
        kind = "wr" if entry >= _WR else "rd"
        raise ProgramError(f"{self.table.bank_name(bank)} may still be in use by {self.program.describe(earlier)}: "
                           f"nothing orders this after its {kind} token")

    def _check_indices(self, index: int, unit: int, touched: Accesses, clock: tuple[int, ...]) -> None:
        if touched.index_read is not None:
            for earlier, run in reversed(self.index_writes):
                if earlier <= clock[_WR + Unit.LOAD]:
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


_OTHERS = np.arange(4)[:, None] != np.arange(8) % 4
"""(unit, entry): whether the entry is another unit's."""


def _latest(clocks: Indices, last: Indices, kept: list[tuple[int, int]],
            compared: Mapping[int, Indices]) -> Indices:
    """(n, 8): of each entry of the clocks, the latest instruction up to it that it may be compared with, or -1.

    last: (banks, 8) of them by entry; kept: (instruction, entry); compared: by entry, sorted, -1 first.
    """
    entries = UNIT * np.arange(8)
    more = np.array([i + UNIT * entry for i, entry in kept], np.int64)
    things = np.sort(np.concatenate([entries - 1, (last + entries).reshape(-1), more]))
    found = things[np.searchsorted(things, clocks + entries, "right") - 1] - entries
    for entry, instructions in compared.items():
        column = clocks[:, entry]
        np.maximum(found[:, entry], instructions[np.searchsorted(instructions, column, "right") - 1],
                   out=found[:, entry])
    return found


class _Tokens:
    """Semaphores and clocks."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.clocks: list[tuple[int, ...]] = [_START] * 4
        self.dispatched = _START
        # channels[kind + producer][consumer]: (producer's index, its clock) of each token not yet taken.
        self.channels: list[list[deque]] = [[deque() for _ in Unit] for _ in range(8)]
        depth = program.config.queue_depth
        self.limits = [COUNTER_MAX - depth] * 4 + [COUNTER_MAX]
        self.depth = depth

    def issue(self, index: int, instruction: Instruction, unit: int) -> tuple[int, ...]:
        """Take and give the tokens of the next instruction; returns its clock."""
        dispatched = self.dispatched
        clock = dispatched if unit == Unit.DISPATCH else self.clocks[unit]
        if clock is not dispatched and dispatched is not _START:
            clock = tuple(map(max, clock, dispatched))
        if instruction.wait_rd or instruction.wait_wr:
            clock = self._take(instruction, unit, clock)
        if unit == Unit.DISPATCH:
            self.dispatched = clock
            return clock
        self.clocks[unit] = clock
        signals = instruction.signal_rd | instruction.signal_wr
        if signals:
            self._give(index, instruction, unit, clock)
        return clock

    def _take(self, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> tuple[int, ...]:
        if not (0 <= instruction.wait_rd < 16 and 0 <= instruction.wait_wr < 16):
            raise ProgramError(f"wait_rd = {instruction.wait_rd}, wait_wr = {instruction.wait_wr}, allowed 0..15")
        waits = instruction.wait_rd | instruction.wait_wr << 4
        for entry in range(8):
            if not waits >> entry & 1:
                continue
            channel = self.channels[entry][unit]
            if not channel:
                raise ProgramError(f"deadlock: waits for {_channel(entry, unit)}, but no earlier instruction gives one "
                                   "that is not taken already")
            producer, learnt = channel.popleft()
            clock = tuple(map(max, clock, _learn(learnt, entry, producer)))
        return clock

    def _give(self, index: int, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> None:
        for kind, mask in ((0, instruction.signal_rd), (_WR, instruction.signal_wr)):
            if not 0 <= mask < 32:
                raise ProgramError(f"signal_rd = {instruction.signal_rd}, signal_wr = {instruction.signal_wr}, "
                                   "allowed 0..31")
            for target in range(5):
                if mask >> target & 1:
                    channel = self.channels[kind + unit][target]
                    channel.append((index, clock))
                    if len(channel) > self.limits[target]:
                        raise ProgramError(f"overflow: {len(channel)} of {_channel(kind + unit, target)} are given and "
                                           f"not waited for yet; with queues of {self.depth} the counter holds at most "
                                           f"{self.limits[target]}")

    def effective(self) -> list[tuple[int, ...]]:
        """The clocks with which the units' next instructions issue, before they take a token."""
        return [tuple(map(max, clock, self.dispatched)) for clock in self.clocks]

    def state(self, clocks: list[tuple[int, ...]]) -> tuple[tuple, list[int]]:
        """Shape, and the clocks of units, dispatcher and tokens; -1 where a token tells nothing new."""
        indices = [i for clock in (*clocks, self.dispatched) for i in clock]
        lengths = []
        for source, targets in enumerate(self.channels):
            for target, channel in enumerate(targets):
                lengths.append(len(channel))
                own = self.dispatched if target == Unit.DISPATCH else clocks[target]
                for producer, clock in channel:
                    indices += [i if i > known else -1 for i, known in zip(_learn(clock, source, producer), own,
                                                                           strict=True)]
        return (self.dispatched is _START, tuple(lengths)), indices

    def restore(self, shape: tuple, indices: Iterator[int]) -> None:
        fresh, lengths = shape
        *self.clocks, self.dispatched = (tuple(islice(indices, 8)) for _ in range(5))
        if fresh:
            self.dispatched = _START
        for channel, length in zip((c for targets in self.channels for c in targets), lengths, strict=True):
            channel.clear()
            channel.extend((-1, tuple(islice(indices, 8))) for _ in range(length))

    def finish(self) -> None:
        for entry, targets in enumerate(self.channels):
            for target, channel in enumerate(targets):
                if channel:
                    signal = "signal_wr" if entry >= _WR else "signal_rd"
                    givers = [i for i, instruction in enumerate(self.program.instructions)
                              if instruction.spec.unit == entry & 3 and getattr(instruction, signal) >> target & 1]
                    raise ProgramError(f"{self.program.describe(givers[-len(channel)])}: surplus token: nothing "
                                       f"waits for {len(channel)} of {_channel(entry, target)}")


def _learn(clock: tuple[int, ...], entry: int, producer: int) -> list[int]:
    """What a token tells: the clock of its producer, and that this one has come so far."""
    learnt = list(clock)
    learnt[entry] = max(learnt[entry], producer)
    learnt[entry & 3] = max(learnt[entry & 3], producer)
    return learnt


def _channel(entry: int, target: int) -> str:
    kind = "wr" if entry >= _WR else "rd"
    return f"the {kind} tokens of {Unit(entry & 3).name} for {Unit(target).name}"


class _PipelineOrder:
    """Distance between instructions of the matrix unit, and of the vector unit."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.hazards = PipelineHazards(program.config)
        self.recent: dict[int, deque] = {unit: deque() for unit in (Unit.MATRIX, Unit.VECTOR)}
        self.issue: dict[int, int] = dict.fromkeys((Unit.MATRIX, Unit.VECTOR), 0)
        self.durations: dict[int, tuple[int, int, int]] = {}

    def add(self, index: int, instruction: Instruction, unit: int, touched: Accesses, clock: tuple[int, ...]) -> None:
        """``issue`` counts occupied cycles: two issues are at least the difference of their counts apart."""
        times = self.durations.get(touched.serial)
        if times is None:
            plan = duration(instruction, self.program.config)
            times = self.durations[touched.serial] = (plan.occupancy, plan.rd, plan.wr)
        now, recent = self.issue[unit], self.recent[unit]
        while recent and (now - recent[0][2] > recent[0][3][2] or recent[0][0] <= clock[unit + _WR]):
            recent.popleft()
        for earlier, shape, issue, (occupancy, rd, wr) in recent:
            hazard = self.hazards.between(shape, touched)
            if not hazard or earlier <= clock[unit + _WR]:
                continue
            distance = now - issue
            for kind, needed in ((Hazard.WR, wr), (Hazard.CHAIN, wr - occupancy), (Hazard.RD, rd)):
                if hazard & kind and distance <= needed and not (kind == Hazard.RD and earlier <= clock[unit]):
                    raise ProgramError(f"issues {distance} cycles after {self.program.describe(earlier)} at the "
                                       f"earliest, must be at least {needed + 1} or wait for its "
                                       f"{'rd' if kind == Hazard.RD else 'wr'} token: {_PIPELINE_REASONS[kind]}")
        recent.append((index, touched, now, times))
        self.issue[unit] = now + times[0]

    def state(self) -> tuple[tuple, list[tuple[int, int]]]:
        """Shape, and indices with their units; what has left the pipe is left out."""
        shape, indices = [], []
        for unit, recent in self.recent.items():
            now = self.issue[unit]
            while recent and now - recent[0][2] > recent[0][3][2]:
                recent.popleft()
            shape.append((unit, tuple((touched.serial, now - issue, times) for _, touched, issue, times in recent)))
            indices += [(index, int(unit)) for index, _, _, _ in recent]
        return tuple(shape), indices

    def restore(self, shape: tuple, indices: Iterator[int], shapes: Mapping[int, Accesses]) -> None:
        for unit, entries in shape:
            self.issue[unit] = 0
            self.recent[unit].clear()
            self.recent[unit].extend((next(indices), shapes[serial], -ago, times) for serial, ago, times in entries)


_PIPELINE_REASONS = {
    Hazard.WR: "it uses rows or a bank that are still being written",
    Hazard.CHAIN: "it walks rows that are still in the pipe",
    Hazard.RD: "two reads could meet at one bank",
}


class _DramOrder:
    """Bytes of DRAM: range, and order of loads and stores.

    DRAM is cut into zones at the ends of segments and outputs, so that an access is compared with those of its zone
    only. special: bool (n,), instructions that `add` must see wherever they stand; of the others it is enough that they
    follow what is in ``accesses.newest``.
    """

    def __init__(self, program: Program, instructions: Instructions) -> None:
        self.program, self.config = program, program.config
        self.image = Strided(program.program_addr, program.image_bytes)
        self.instructions, self.indexed = instructions, IndexedRows(program)
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
        self.compared = {_WR + unit: np.append(-1, np.flatnonzero(
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
        arrived = clock[_WR + other_unit]
        if self.accesses.newest[index] <= arrived:
            return
        for zone in self._zones(region):
            if zone not in self.accesses.stored:
                continue
            for earlier in self.accesses.before(index, other_unit, zone):
                if earlier <= arrived:
                    break
                if any(overlaps(region, other) for other in self._regions_of(earlier)):
                    raise ProgramError(f"DRAM bytes {region.addr}..{region.end - 1} may still be {action} by "
                                       f"{self.program.describe(earlier)}: nothing orders this after its wr token")


class _Pages:
    """Pages of instruction memory: two halves, page n in half n mod 2."""

    def __init__(self, program: Program) -> None:
        self.program, self.page = program, program.config.imem_page
        self.loaded: dict[int, int] = {}
        self.latest = -1

    def load(self, index: int, instruction: Instruction, slots: Strided) -> None:
        """A LOAD to instruction memory: it must bring the page after the one that it is in."""
        number = index // self.page + 1
        if instruction.dram_addr != self.program.page_addr(number) or slots.addr != number % 2 * self.page:
            raise ProgramError(f"is in page {number - 1}, so it must load page {number}, from "
                               f"{self.program.page_addr(number)} to slot {number % 2 * self.page}, but it loads from "
                               f"{instruction.dram_addr} to slot {slots.addr}")
        if number in self.loaded:
            raise ProgramError(f"page {number} is loaded already by {self.program.describe(self.loaded[number])}")
        self.loaded[number] = self.latest = index

    def enter(self, index: int, dispatched: tuple[int, ...]) -> None:
        """The first instruction of a page is about to be fetched."""
        number = index // self.page
        if number not in self.loaded:
            raise ProgramError(f"page {number} begins here, but no LOAD in page {number - 1} brings it")
        load = self.loaded[number]
        if load > dispatched[_WR + Unit.LOAD]:
            raise ProgramError(f"page {number} begins here, but no SYNC waits for {self.program.describe(load)}")
