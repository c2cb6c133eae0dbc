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

from ...rtl.plan import duration
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Unit
from ..lib.strided import Strided, overlaps
from ..program import Program
from .accesses import Accesses, AccessTable
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
    index = 0
    try:
        for index, instruction in enumerate(program.instructions):
            run.add(index, instruction)
    except ProgramError as error:
        raise ProgramError(f"{program.describe(index)}: {error}") from None
    run.finish()


class _Verifier:
    def __init__(self, program: Program) -> None:
        self.program, self.config = program, program.config
        self.tokens = _Tokens(program)
        self.dram = _DramOrder(program)
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

    def add(self, index: int, instruction: Instruction) -> None:
        unit = int(instruction.spec.unit)
        if index % self.config.imem_page == 0 and index:
            self.pages.enter(index, self.tokens.dispatched)
        clock = self.tokens.issue(index, instruction, unit)
        if unit == Unit.DISPATCH:
            self._check_dispatcher(index, instruction)
            return
        touched = self.table.of(instruction)
        self._check_banks(index, unit, touched, clock)
        self.initialized.add(instruction, touched)
        if unit <= Unit.STORE:
            self.dram.add(index, instruction, unit, clock)
            if touched.index_read is not None or touched.index_write is not None:
                self._check_indices(index, unit, touched, clock)
            if touched.program_write is not None:
                self.pages.load(index, instruction, touched.program_write)
        else:
            self.pipeline.add(index, instruction, unit, touched, clock)

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
            merged = list(map(max, clock, learnt))
            merged[entry] = max(merged[entry], producer)
            merged[entry & 3] = max(merged[entry & 3], producer)
            clock = tuple(merged)
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

    def finish(self) -> None:
        for entry, targets in enumerate(self.channels):
            for target, channel in enumerate(targets):
                if channel:
                    raise ProgramError(f"{self.program.describe(channel[0][0])}: surplus token: nothing waits for "
                                       f"{len(channel)} of {_channel(entry, target)}")


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


_PIPELINE_REASONS = {
    Hazard.WR: "it uses rows or a bank that are still being written",
    Hazard.CHAIN: "it walks rows that are still in the pipe",
    Hazard.RD: "two reads could meet at one bank",
}


class _DramOrder:
    """Bytes of DRAM: range, and order of loads and stores.

    DRAM is cut into zones at the ends of segments, so that an access is compared with those of its zone only.
    """

    def __init__(self, program: Program) -> None:
        self.program, self.config = program, program.config
        self.image = Strided(program.program_addr, program.image_bytes)
        self.indexed = IndexedRows(program)
        cuts = {0, program.dram_bytes}
        for area in program.areas().values():
            cuts |= {area.addr, area.end}
        self.cuts = sorted(cuts)
        self.stored: set[int] = set()
        for index, instruction in enumerate(program.instructions):
            if instruction.spec.unit == Unit.STORE:
                for number, stream in enumerate(dram_streams(instruction, self.config)):
                    self.stored.update(self._zones(stream.region or self.indexed.extents.of(index, number)[1]))
        self.loads: dict[int, list[tuple[int, Strided]]] = {}
        self.stores: dict[int, list[tuple[int, Strided]]] = {}

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

    def add(self, index: int, instruction: Instruction, unit: int, clock: tuple[int, ...]) -> None:
        streams = dram_streams(instruction, self.config)
        regions = [self._region(index, instruction, number, stream) for number, stream in enumerate(streams)]
        if instruction.spec.name == "SCATTER" and len(regions) > 1 and overlaps(*regions):
            raise ProgramError("scale_addr: scattered rows and their scale bytes must be apart, but are in bytes "
                               + " and ".join(f"{region.addr}..{region.end - 1}" for region in regions))
        for stream, region in zip(streams, regions, strict=True):
            self._add(index, stream, region, unit, clock)
        if is_index_load(instruction):
            self.indexed.load(instruction, streams[0], any(self.stores.get(zone) for zone in self._zones(regions[0])))

    def _add(self, index: int, stream: DramStream, region: Strided, unit: int, clock: tuple[int, ...]) -> None:
        if unit == Unit.STORE and stream.region is not None and overlaps(region, self.image):
            raise ProgramError(f"{stream.field}: writes the program image, bytes {self.image.addr}.."
                               f"{self.image.end - 1}")
        mine, others, other_unit, action = (
            (self.loads, self.stores, Unit.STORE, "written") if unit == Unit.LOAD
            else (self.stores, self.loads, Unit.LOAD, "read"))
        for zone in self._zones(region):
            if zone not in self.stored:
                continue
            for earlier, other in reversed(others.get(zone, ())):
                if earlier <= clock[_WR + other_unit]:
                    break
                if overlaps(region, other):
                    raise ProgramError(f"DRAM bytes {region.addr}..{region.end - 1} may still be {action} by "
                                       f"{self.program.describe(earlier)}: nothing orders this after its wr token")
            mine.setdefault(zone, []).append((index, region))


class _Pages:
    """Pages of instruction memory: two halves, page n in half n mod 2."""

    def __init__(self, program: Program) -> None:
        self.program, self.page = program, program.config.imem_page
        self.loaded: dict[int, int] = {}

    def load(self, index: int, instruction: Instruction, slots: Strided) -> None:
        """A LOAD to instruction memory: it must bring the page after the one that it is in."""
        number = index // self.page + 1
        if instruction.dram_addr != self.program.page_addr(number) or slots.addr != number % 2 * self.page:
            raise ProgramError(f"is in page {number - 1}, so it must load page {number}, from "
                               f"{self.program.page_addr(number)} to slot {number % 2 * self.page}, but it loads from "
                               f"{instruction.dram_addr} to slot {slots.addr}")
        if number in self.loaded:
            raise ProgramError(f"page {number} is loaded already by {self.program.describe(self.loaded[number])}")
        self.loaded[number] = index

    def enter(self, index: int, dispatched: tuple[int, ...]) -> None:
        """The first instruction of a page is about to be fetched."""
        number = index // self.page
        if number not in self.loaded:
            raise ProgramError(f"page {number} begins here, but no LOAD in page {number - 1} brings it")
        load = self.loaded[number]
        if load > dispatched[_WR + Unit.LOAD]:
            raise ProgramError(f"page {number} begins here, but no SYNC waits for {self.program.describe(load)}")
