"""Which instruction must wait for which: one pass over a program in its natural order.

A bank of A, B or ACC belongs to one unit at a time. When a unit touches a bank that another unit owned, it
waits for that owner's last read (its rd token) and last write (its wr token); older owners are covered,
because the last one waited for them. So a bank costs O(1) per instruction, however long the program is.

An in-order queue and every token taken so far already imply most orders. ``known`` holds, per unit, the
latest instruction of every unit whose rd and wr are certain to be over when the unit issues its next one; a
need that it implies is dropped, and of several needs of one instruction those that another one implies.
"""

from collections import deque
from collections.abc import Sequence

from ..rtl.plan import duration
from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.isa import Instruction, Unit
from ..sim.legality.accesses import Accesses, AccessTable
from ..sim.legality.pipeline import Hazard, PipelineHazards
from ..sim.lib.strided import Strided, overlaps
from .dram_map import DramMap

RD, WR = 0, 4
"""Offsets of the kinds in ``known`` and in need tables: entry kind + producer unit."""

_NOTHING: tuple[int, ...] = (-1,) * 8
_SCAN_LIMIT = 256
"""DRAM accesses compared before an older one is waited for without comparing."""

Channel = tuple[int, int, int]
"""(producer unit, kind, consumer unit)."""


class DependencyAnalysis:
    """Token pairs of a program.

    ``pairs[channel]`` lists (producer index, consumer index) of every token, both strictly increasing, so
    that the n-th wait of a channel is for its n-th signal.
    """

    def __init__(self, config: TileConfig, dram: DramMap, table: AccessTable) -> None:
        self.pairs: dict[Channel, list[tuple[int, int]]] = {}
        self._config, self._dram, self._table = config, dram, table
        self._hazards = PipelineHazards(config)
        self._known = [_NOTHING] * 4
        self._at_issue: list[tuple[int, ...]] = []
        count = table.bank_count
        self._owner, self._last_read, self._last_write = [-1] * count, [-1] * count, [-1] * count
        self._recent: tuple[deque, ...] = tuple(deque() for _ in range(4))
        self._clock = [0] * 4
        self._durations: dict[int, tuple[int, int, int]] = {}
        self._loads: dict[int, list[tuple[int, Strided]]] = {}
        self._stores: dict[int, list[tuple[int, Strided]]] = {}
        self._stored: set[int] = set()
        self._index_writes: list[tuple[int, Strided]] = []
        self._index_reads: list[tuple[int, Strided]] = []

    def run(self, instructions: Sequence[Instruction], labels: Sequence[str], first: int = 0) -> None:
        """Analyse the whole program. Raises `CompileError` naming the instruction that breaks a rule, counted from
        ``first`` on."""
        try:
            index = 0
            for index, instruction in enumerate(instructions):  # noqa: B007, named in the error
                if instruction.spec.unit == Unit.STORE:
                    self._stored.update(segment for segment, _ in self._dram.streams_of(instruction))
            of, add = self._table.of, self._add
            for index, instruction in enumerate(instructions):
                add(index, instruction, of(instruction))
        except ProgramError as error:
            name, label = instructions[index].spec.name, labels[index]
            raise CompileError(
                f"instruction {index - first} ({name}{', ' + label if label else ''}): {error}") from None

    def _add(self, index: int, instruction: Instruction, touched: Accesses) -> None:
        unit = int(instruction.spec.unit)
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
            self._dram_needs(index, instruction, unit, known, need)
            if touched.index_read is not None or touched.index_write is not None:
                self._index_needs(index, touched, unit, known, need)
        else:
            self._pipeline_needs(index, instruction, touched, unit, known, need)
        if need:
            known = self._take(index, unit, known, need)
        self._at_issue.append(known)

    def _take(self, index: int, unit: int, known: tuple[int, ...], need: dict[int, int]) -> tuple[int, ...]:
        """Drop the needs that another one implies; record the rest as tokens; learn from them."""
        if len(need) > 1:
            for entry, producer in list(need.items()):
                for other, later in need.items():
                    if other != entry and (self._at_issue[later][entry] >= producer
                                           or (other == entry + WR and later >= producer)):
                        del need[entry]
                        break
        for entry, producer in need.items():
            kind, source = entry & WR, entry & 3
            self.pairs.setdefault((source, kind, unit), []).append((producer, index))
            learnt = list(map(max, known, self._at_issue[producer]))
            learnt[entry] = max(learnt[entry], producer)
            learnt[source] = max(learnt[source], producer)
            known = tuple(learnt)
        self._known[unit] = known
        return known

    def _pipeline_needs(self, index: int, instruction: Instruction, touched: Accesses, unit: int,
                        known: tuple[int, ...], need: dict[int, int]) -> None:
        """Hazards with earlier instructions of the matrix or vector unit that may still be in its pipe."""
        times = self._durations.get(touched.serial)
        if times is None:
            plan = duration(instruction, self._config)
            times = self._durations[touched.serial] = (plan.occupancy, plan.rd, plan.wr)
        clock, recent = self._clock[unit], self._recent[unit]
        while recent and clock - recent[0][2] > recent[0][3][2]:
            recent.popleft()
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

    def _dram_needs(self, index: int, instruction: Instruction, unit: int, known: tuple[int, ...],
                    need: dict[int, int]) -> None:
        """LOAD after STORE of the same bytes, and STORE after LOAD: the wr token, when the bytes have arrived."""
        mine, others = (self._loads, self._stores) if unit == Unit.LOAD else (self._stores, self._loads)
        entry = WR + (Unit.STORE if unit == Unit.LOAD else Unit.LOAD)
        for segment, region in self._dram.streams_of(instruction):
            if segment not in self._stored:
                continue
            for scanned, (earlier, other) in enumerate(reversed(others.get(segment, ()))):
                if earlier <= known[entry]:
                    break
                if scanned >= _SCAN_LIMIT or overlaps(region, other):
                    need[entry] = max(need.get(entry, -1), earlier)
                    break
            mine.setdefault(segment, []).append((index, region))

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
