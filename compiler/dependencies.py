"""Which instruction must wait for which: one pass over a program in its natural order.

A bank of A, B or ACC belongs to one unit at a time. When a unit touches a bank that another unit owned, it
waits for that owner's last read (its rd token) and last write (its wr token); older owners are covered,
because the last one waited for them. So a bank costs O(1) per instruction, however long the program is.

An in-order queue and every token taken so far already imply most orders. ``known`` holds, per unit, the
latest instruction of every unit whose rd and wr are certain to be over when the unit issues its next one; a
need that it implies is dropped, and of several needs of one instruction those that another one implies.

What repeats is analysed once (`sim.induction`): the analysis asks nothing of instructions but which is later, except
where it compares bytes of DRAM.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..rtl.plan import duration
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.isa import Instruction, Unit
from ..sim.induction import UNIT, Indices, Induction
from ..sim.instructions import Instructions, numbered
from ..sim.legality.accesses import Accesses, AccessTable
from ..sim.legality.dram_accesses import DramAccesses
from ..sim.legality.pipeline import Hazard, PipelineHazards
from ..sim.lib.strided import Strided, overlaps
from ..sim.stretches import stretches
from .dram_map import DramMap

RD, WR = 0, 4
"""Offsets of the kinds in ``known`` and in need tables: entry kind + producer unit."""

_NOTHING: tuple[int, ...] = (-1,) * 8
_SCAN_LIMIT = 256
"""DRAM accesses compared before an older one is waited for without comparing."""

Channel = tuple[int, int, int]
"""(producer unit, kind, consumer unit)."""


class _Done(NamedTuple):
    """What a stretch gave: channels of its tokens (entry * 4 + consumer), and which of its instructions are in zones
    of DRAM with stores. Its indices are the producers, the consumers, and of the latter instructions what was known."""

    channels: NDArray[np.int64]
    dma: NDArray[np.int64]


class DependencyAnalysis:
    """Token pairs of a program.

    ``pairs[channel]`` is int64 (tokens, 2), (producer index, consumer index) of every token, both strictly increasing,
    so that the n-th wait of a channel is for its n-th signal. repeated: instructions analysed by induction.
    """

    def __init__(self, instructions: Instructions, dram: DramMap, table: AccessTable) -> None:
        """Raises `ProgramError` when the shape of an instruction breaks a rule (`BrokenRule` says which)."""
        self.pairs: dict[Channel, NDArray[np.int64]] = {}
        self.repeated = 0
        self._instructions, self._config, self._dram = instructions, dram.config, dram
        self._touched = _checked(instructions, dram, table)
        self._accesses = DramAccesses(instructions, dram.config, dram.starts)
        self._units = [int(form.spec.unit) for form in instructions.forms]
        self._shapes = {touched.serial: (form, touched)
                        for form, touched in zip(instructions.forms, self._touched, strict=True)}
        self._hazards = PipelineHazards(dram.config)
        self._known = [_NOTHING] * 4
        self._at_issue: dict[int, tuple[int, ...]] = {}
        self._later: list[tuple[NDArray[np.int64], Indices]] = []
        count = table.bank_count
        self._owner, self._last_read, self._last_write = [-1] * count, [-1] * count, [-1] * count
        self._recent: tuple[deque, ...] = tuple(deque() for _ in range(4))
        self._clock = [0] * 4
        self._durations: dict[int, tuple[int, int, int]] = {}
        self._streams: dict[int, list[tuple[int, Strided]]] = {}
        self._index_writes: list[tuple[int, Strided]] = []
        self._index_reads: list[tuple[int, Strided]] = []
        self._tokens: list[tuple[int, int, int]] = []
        self._found: list[tuple[NDArray[np.int64], Indices]] = []
        self._compared = False

    def analyse(self) -> None:
        """The whole program: fills ``pairs``."""
        if not len(self._instructions):
            return
        induction = Induction(self)
        induction.run(stretches(numbered(self._instructions.form, self._accesses.ordered.view(np.uint8))))
        self.repeated = induction.repeated
        channels = np.concatenate([found for found, _ in self._found])
        pairs = np.concatenate([indices.reshape(2, -1) for _, indices in self._found], axis=1)
        for channel in np.unique(channels).tolist():
            entry, consumer = divmod(channel, 4)
            self.pairs[entry & 3, entry & WR, consumer] = pairs[:, channels == channel].T

    # The machine of `Induction` -----------------------------------------------------------------------

    def run(self, start: int, end: int) -> tuple[_Done, Indices] | None:
        self._tokens, self._compared = [], False
        touched, units, add = self._touched, self._units, self._add
        for index, form in enumerate(self._instructions.form[start:end].tolist(), start):
            add(index, units[form], touched[form])
        channels = np.array([channel for channel, _, _ in self._tokens], np.int64)
        indices = [producer for _, producer, _ in self._tokens] + [consumer for _, _, consumer in self._tokens]
        self._found.append((channels, np.array(indices, np.int64)))
        if self._compared:
            return None
        dma = np.flatnonzero(self._accesses.ordered[start:end])
        known = [value for at in dma.tolist() for value in self._at_issue[start + at]]
        named = np.array(indices + known, np.int64)
        return _Done(channels, dma), named + UNIT * np.concatenate([
            channels // 4 % 4, channels % 4, np.tile(np.arange(8) % 4, len(dma))])

    def repeat(self, start: int, done: _Done, indices: Indices) -> bool:
        tokens = 2 * len(done.channels)
        if done.dma.size:
            known, dma = indices[tokens:].reshape(-1, 8), start + done.dma
            units = self._accesses.unit[dma]
            if (self._accesses.newest[dma] > known[np.arange(len(dma)), WR + Unit.STORE - units]).any():
                return False
            self._later.append((dma, known))
        self._found.append((done.channels, indices[:tokens]))
        return True

    def state(self) -> tuple[tuple, list[int], list[int]]:
        known, indices = self._known, [entry for entries in self._known for entry in entries]
        for unit in (Unit.MATRIX, Unit.VECTOR):
            self._forget(unit)
        recent = [entry for queue in self._recent for entry in queue]
        self._index_reads = [(i, run) for i, run in self._index_reads if i > known[Unit.LOAD][RD + Unit.STORE]]
        arrived = min(known[Unit.LOAD][WR + Unit.LOAD], known[Unit.STORE][WR + Unit.LOAD])
        self._index_writes = [(i, run) for i, run in self._index_writes if i > arrived]
        named = [*self._last_read, *self._last_write, *(entry[0] for entry in recent),
                 *(i for i, _ in self._index_reads), *(i for i, _ in self._index_writes)]
        for index in sorted(set(named)):
            indices += self._at(index) if index >= 0 else ()
        shape = (tuple(self._owner),
                 tuple(tuple((touched.serial, self._clock[unit] - issue) for _, touched, issue, _ in queue)
                       for unit, queue in enumerate(self._recent)),
                 tuple(run for _, run in self._index_reads), tuple(run for _, run in self._index_writes))
        units = [max(owner, 0) for owner in self._owner] * 2
        units += [unit for unit, queue in enumerate(self._recent) for _ in queue]
        units += [Unit.STORE] * len(self._index_reads) + [Unit.LOAD] * len(self._index_writes)
        return shape, named + indices, units + [0, 1, 2, 3] * (len(indices) // 4)

    def restore(self, shape: tuple, indices: list[int]) -> None:
        owner, recent, reads, writes = shape
        rest = iter(indices)
        self._owner = list(owner)
        self._last_read, self._last_write = ([next(rest) for _ in owner] for _ in range(2))
        self._clock = [0] * 4
        for queue, entries in zip(self._recent, recent, strict=True):
            queue.clear()
            queue.extend((next(rest), self._shapes[serial][1], -ago, self._times(*self._shapes[serial]))
                         for serial, ago in entries)
        self._index_reads = [(next(rest), run) for run in reads]
        self._index_writes = [(next(rest), run) for run in writes]
        named = indices[:len(indices) - len(rest_of := list(rest))]
        self._known = [tuple(rest_of[8 * unit:8 * unit + 8]) for unit in range(4)]
        for number, index in enumerate(sorted({index for index in named if index >= 0}), 4):
            self._at_issue[index] = tuple(rest_of[8 * number:8 * number + 8])

    def _at(self, index: int) -> tuple[int, ...]:
        """What was known when an instruction issued."""
        found = self._at_issue.get(index)
        if found is None:  # it is a DMA instruction of a repeated stretch
            for dma, known in self._later:
                self._at_issue.update(zip(dma.tolist(), map(tuple, known.tolist()), strict=True))
            self._later.clear()
            found = self._at_issue[index]
        return found

    # One instruction ----------------------------------------------------------------------------------

    def _add(self, index: int, unit: int, touched: Accesses) -> None:
        known = self._known[unit]
        need: dict[int, int] = {}
        owner, last_read, last_write = self._owner, self._last_read, self._last_write
        for bank, until_wr in touched.banks:
            other = owner[bank]
            if other != unit:
                if other >= 0:
                    last = last_write[bank]
                    if last > known[other + WR] and last > need.get(other + WR, -1):
                        need[other + WR] = last
                    last = last_read[bank]
                    if last > known[other] and last > need.get(other, -1):
                        need[other] = last
                owner[bank] = unit
                last_read[bank] = last_write[bank] = -1
            if until_wr:
                last_write[bank] = index
            else:
                last_read[bank] = index
        if unit <= Unit.STORE:
            if self._accesses.ordered[index]:
                self._dram_needs(index, unit, known, need)
            if touched.index_read is not None or touched.index_write is not None:
                self._index_needs(index, touched, unit, known, need)
        else:
            self._pipeline_needs(index, touched, unit, known, need)
        if need:
            known = self._take(index, unit, known, need)
        self._at_issue[index] = known

    def _take(self, index: int, unit: int, known: tuple[int, ...], need: dict[int, int]) -> tuple[int, ...]:
        """Drop the needs that another one implies; record the rest as tokens; learn from them."""
        if len(need) > 1:
            for entry, producer in list(need.items()):
                for other, later in need.items():
                    if other != entry and (self._at(later)[entry] >= producer
                                           or (other == entry + WR and later >= producer)):
                        del need[entry]
                        break
        for entry, producer in need.items():
            source = entry & 3
            self._tokens.append((entry * 4 + unit, producer, index))
            learnt = list(map(max, known, self._at(producer)))
            learnt[entry] = max(learnt[entry], producer)
            learnt[source] = max(learnt[source], producer)
            known = tuple(learnt)
        self._known[unit] = known
        return known

    def _pipeline_needs(self, index: int, touched: Accesses, unit: int, known: tuple[int, ...],
                        need: dict[int, int]) -> None:
        """Hazards with earlier instructions of the matrix or vector unit that may still be in its pipe."""
        times = self._durations.get(touched.serial) or self._times(*self._shapes[touched.serial])
        clock, recent = self._clock[unit], self._recent[unit]
        self._forget(unit)
        for earlier, shape, issue, (occupancy, rd, wr) in recent:
            hazard = self._hazards.between(shape, touched)
            if not hazard or earlier <= known[unit + WR]:
                continue
            distance = clock - issue
            if (hazard & Hazard.WR and distance <= wr) or (hazard & Hazard.CHAIN and distance <= wr - occupancy):
                need[unit + WR] = max(need.get(unit + WR, -1), earlier)
            if hazard & Hazard.RD and distance <= rd and earlier > known[unit + RD]:
                need[unit + RD] = max(need.get(unit + RD, -1), earlier)
        recent.append((index, touched, clock, times))
        self._clock[unit] = clock + times[0]

    def _times(self, form: Instruction, touched: Accesses) -> tuple[int, int, int]:
        plan = duration(form, self._config)
        return self._durations.setdefault(touched.serial, (plan.occupancy, plan.rd, plan.wr))

    def _forget(self, unit: int) -> None:
        """Instructions of the matrix or vector unit that have left its pipe."""
        clock, recent = self._clock[unit], self._recent[unit]
        while recent and clock - recent[0][2] > recent[0][3][2]:
            recent.popleft()

    def _dram_needs(self, index: int, unit: int, known: tuple[int, ...], need: dict[int, int]) -> None:
        """LOAD after STORE of the same bytes, and STORE after LOAD: the wr token, when the bytes have arrived."""
        other_unit = Unit.STORE - unit
        entry, accesses = WR + other_unit, self._accesses
        if accesses.newest[index] <= known[entry]:
            return
        self._compared = True
        for zone, region in self._streams_of(index):
            if zone not in accesses.stored:
                continue
            earlier = next((earlier for earlier in accesses.meeting(index, other_unit, zone, known[entry], region,
                                                                    most=_SCAN_LIMIT)
                            if any(other == zone and overlaps(region, run)
                                   for other, run in self._streams_of(earlier))), None)
            if earlier is None:
                earlier = accesses.nth_before(index, other_unit, zone, _SCAN_LIMIT)
            if earlier > known[entry]:
                need[entry] = max(need.get(entry, -1), earlier)

    def _streams_of(self, index: int) -> list[tuple[int, Strided]]:
        found = self._streams.get(index)
        if found is None:
            found = self._streams[index] = self._dram.streams_of(self._instructions[index])
        return found

    def _index_needs(self, index: int, touched: Accesses, unit: int, known: tuple[int, ...],
                     need: dict[int, int]) -> None:
        if touched.index_read is not None:
            _need_latest(self._index_writes, touched.index_read, known, WR + Unit.LOAD, need)
            if unit == Unit.STORE:
                self._index_reads.append((index, touched.index_read))
        if touched.index_write is not None:
            _need_latest(self._index_reads, touched.index_write, known, RD + Unit.STORE, need)
            low, high = touched.index_write.addr, touched.index_write.end
            self._index_writes = [(i, run) for i, run in self._index_writes if run.addr < low or run.end > high]
            self._index_writes.append((index, touched.index_write))


def _need_latest(earlier: list[tuple[int, Strided]], run: Strided, known: tuple[int, ...], entry: int,
                 need: dict[int, int]) -> None:
    """Need the latest of the earlier accesses that overlaps ``run``, unless it is known to be over."""
    for index, other in reversed(earlier):
        if index <= known[entry]:
            return
        if overlaps(run, other):
            need[entry] = max(need.get(entry, -1), index)
            return


def _checked(instructions: Instructions, dram: DramMap, table: AccessTable) -> list[Accesses]:
    """The accesses of every form. All rules for one instruction alone depend on its form and on where in a beat its
    addresses are, so one example of each is looked at; and that all bytes are inside of segments.

    Raises `BrokenRule`.
    """
    bus, count = dram.config.bus_bytes, len(instructions.forms)
    touched: list[Accesses | None] = [None] * count
    within = instructions.dram_addr % bus * bus + instructions.scale_addr % bus
    _, examples = np.unique(instructions.form * np.int64(bus * bus) + within, return_index=True)
    for index in sorted(examples.tolist()):
        try:
            touched[instructions.form[index]] = table.of(instructions[index])
        except ProgramError as error:
            raise BrokenRule(index, str(error)) from None
    for index in dram.outside(instructions)[:1].tolist():
        try:
            dram.streams_of(instructions[index])
        except ProgramError as error:
            raise BrokenRule(index, str(error)) from None
    return [found for found in touched if found is not None]


class BrokenRule(CompileError):
    """index: of the instruction that breaks a rule."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
