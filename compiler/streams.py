"""Streams: the steps of a program, one after another, and the loads of a step that start in the tail of the one before.

Units run ahead of each other, but the load unit is in order: at a seam its first load of the next step is often one of
what the step before makes, waits for its last store, and holds up loads of weights that wait for nothing. And the
dispatcher is in order: where a queue is full it holds up loads behind. `interleave` moves such loads forward, as far as
the last instruction with which they do not commute. So that they commute with many, the later step's regions of A are
placed away from those that the earlier one works on last: all of them, some banks further.

An instruction is moved over others only if no bank of the tile, no entry of the index memory and no byte of DRAM is
touched by both of them and written by one: so what every bank goes through is the same, and so are all bits; who must
wait for whom is found out afterwards, from the new order. How many loads go ahead at a seam is found by timing its
neighbourhood alone: those with which it is over first.

Alternative: emitters that yield and are resumed by turns. They would have to say what each turn reads and writes for
the merge to be legal, which instructions already say; and would hold bodies open that are emitted once and repeated.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..rtl.plan import duration
from ..rtl.spec.isa import Dest, Instruction, Space, Unit
from ..sim.instructions import Instructions, with_addresses
from ..sim.legality.accesses import AccessTable
from ..sim.lib.strided import overlaps
from .dram_map import DramMap
from .pages import Notes

TAIL, HEAD = 64, 128
"""Instructions before and behind a seam among which loads are moved: several queues' worth, and all pieces of an
operand that are on chip at once."""


class _Step(NamedTuple):
    """Instructions ``first`` to ``end`` - 1, which are of one step."""

    first: int
    end: int


def interleave(instructions: Instructions, notes: Notes, names: Collection[str], dram: DramMap,
               table: AccessTable) -> tuple[Instructions, Notes]:
    """The instructions when loads of the steps ``names`` run in the tail of the step before."""
    order = np.arange(len(instructions))
    for before, step in _seams(notes.phases, names):
        first, end = max(before.first, before.end - TAIL), min(step.end, step.first + HEAD)
        near = order[first:end]
        best: tuple[int, Instructions, NDArray[np.int64]] | None = None
        for moved in _moved(instructions, near, step, table):
            seam = _Seam(Instructions.of(list(moved.take(near))), near >= step.first, dram, table)
            cycles, found = seam.best()
            if best is None or cycles < best[0]:
                best = cycles, moved, found
        assert best is not None
        instructions, order[first:end] = best[1], near[best[2]]
    labels, phases = ([texts[i] for i in order.tolist()] for texts in notes)
    return instructions.take(order).in_order(), Notes(labels, phases)


def _seams(phases: Sequence[str], names: Collection[str]) -> Iterator[tuple[_Step, _Step]]:
    """The steps ``names`` that follow another one, and those before them."""
    starts = [i for i in range(len(phases)) if i == 0 or phases[i] != phases[i - 1]]
    for start, middle, end in zip(starts, starts[1:], [*starts[2:], len(phases)], strict=False):
        if phases[middle] in names:
            yield _Step(start, middle), _Step(middle, end)


# Regions of A ---------------------------------------------------------------------------------------


def _moved(instructions: Instructions, near: NDArray[np.int64], step: _Step,
           table: AccessTable) -> Iterator[Instructions]:
    """The instructions as they are; and with a step's regions of A where the one before works on least, at the end."""
    yield instructions
    own = np.unique(instructions.form[step.first:step.end])
    used = _banks_of_a([instructions.forms[i] for i in own.tolist()], table)
    late, touched = [-1] * table.config.a_banks, [table.of(i) for i in instructions.take(near)]
    for index, accesses in enumerate(touched):
        if near[index] < step.first:
            for bank in _set_of(accesses.read_banks | accesses.write_banks, len(late)):
                late[bank] = index
    firsts = list(dict.fromkeys(bank for index, accesses in enumerate(touched) if near[index] >= step.first
                                for bank in _set_of(accesses.read_banks | accesses.write_banks, len(late))))
    shifts = [shift for shift in range(len(late)) if all(
        (low + shift) % len(late) + high - low < len(late) for low, high in used)]
    best = min(shifts, key=lambda shift: [late[(bank + shift) % len(late)] for bank in firsts])
    if best:
        yield _shifted(instructions, step, best, table.config.a_offset_bits, len(late))


def _set_of(banks: int, count: int) -> list[int]:
    """Banks of A in a set of banks."""
    return [bank for bank in range(count) if banks >> bank & 1]


def _banks_of_a(forms: Sequence[Instruction], table: AccessTable) -> set[tuple[int, int]]:
    """(first, last) bank of every access to A."""
    used = set()
    for touched in map(table.of, forms):
        for access in (*touched.reads, *touched.writes):
            if access.space == Space.A:
                own = _set_of(access.banks, table.config.a_banks)
                used.add((own[0], own[-1]))
    return used


def _field_of_a(form: Instruction) -> str | None:
    """The field with an address of A."""
    if form.spec.name == "MATMUL":
        return "a_addr"
    if form.spec.name == "VECTOR":
        return "dst_addr" if form.dest == Dest.A else None
    return "addr" if form.space == Space.A else None


def _shifted(instructions: Instructions, step: _Step, shift: int, bits: int, banks: int) -> Instructions:
    """All regions of A of a step ``shift`` banks further, round the end."""
    forms, numbers = list(instructions.forms), instructions.form.copy()
    own = numbers[step.first:step.end]
    new = np.arange(len(forms), dtype=np.int32)
    for number in np.unique(own).tolist():
        if (name := _field_of_a(forms[number])) is not None:
            form = with_addresses(forms[number], 0, 0)
            bank, offset = divmod(getattr(form, name), 1 << bits)
            setattr(form, name, ((bank + shift) % banks << bits) + offset)
            new[number] = len(forms)
            forms.append(form)
    numbers[step.first:step.end] = new[own]
    return Instructions(forms, numbers, instructions.dram_addr, instructions.scale_addr)


# Loads ----------------------------------------------------------------------------------------------


class _Seam:
    """The neighbourhood of one seam. own: is an instruction one of the later step?"""

    def __init__(self, instructions: Instructions, own: NDArray[np.bool_], dram: DramMap, table: AccessTable) -> None:
        self._own, self._config = own.tolist(), dram.config
        self._units = instructions.units.tolist()
        self._touched = [table.of(i) for i in instructions]
        self._banks = [touched.read_banks | touched.write_banks for touched in self._touched]
        plans = [duration(form, dram.config) for form in instructions.forms]
        self._times = [(plans[form].occupancy, plans[form].rd, plans[form].wr) for form in instructions.form.tolist()]
        self._bytes = [dram.streams_of(i) if unit <= Unit.STORE else [] for i, unit in
                       zip(instructions, self._units, strict=True)]
        self._after = [self._transfers_before(i) for i in range(len(self._units))]
        self._movable = list(self._places())

    def best(self) -> tuple[int, NDArray[np.int64]]:
        """(cycles, order) of the order that is over first; of equal ones that with the fewest loads moved."""
        count, cycles = len(self._movable), dict[int, int]()

        def of(number: int) -> tuple[int, int]:
            if number not in cycles:
                cycles[number] = self._cycles(self._order(number).tolist())
            return cycles[number], number

        best, number = 0, 1
        while number <= count and of(number)[0] <= of(best)[0]:
            best, number = min(best, number, key=of), 2 * number
        for part in (2, 4):
            best = min((max(0, best - best // part), best, min(count, best + best // part)), key=of)
        return of(best)[0], self._order(best)

    def _places(self) -> Iterator[tuple[int, int]]:
        """(load of the later step, instruction before which it may go), of all that are worth it."""
        loads = [i for i, unit in enumerate(self._units) if unit == Unit.LOAD]
        first = max((i for i in loads if not self._own[i]), default=-1) + 1
        moved: set[int] = set()
        for load in (i for i in loads if self._own[i]):
            at = load
            while at > first and not self._meet(load, at - 1):
                at -= 1
            if not self._own[at] or any(i not in moved for i in loads if at <= i < load):
                moved.add(load)
                yield load, at

    def _transfers_before(self, index: int) -> list[int]:
        """Earlier instructions of the other unit of DMA with which an instruction shares bytes of DRAM."""
        other = Unit.STORE - self._units[index]
        return [i for i in range(index) if self._bytes[index] and self._units[i] == other and any(
            number == segment and overlaps(run, own) for number, run in self._bytes[index]
            for segment, own in self._bytes[i])]

    def _meet(self, load: int, earlier: int) -> bool:
        """Do a load and an earlier instruction touch the same, so that their order counts?"""
        a, b = self._touched[load], self._touched[earlier]
        if self._banks[load] & self._banks[earlier] or earlier in self._after[load]:
            return True
        return bool((a.index_write and (b.index_read or b.index_write)) or (b.index_write and a.index_read))

    def _order(self, number: int) -> NDArray[np.int64]:
        """With so many loads moved."""
        place = np.arange(len(self._own), dtype=np.float64)
        for load, at in self._movable[:number]:
            place[load] = at - 0.5
        return np.argsort(place, kind="stable")

    def _cycles(self, order: Sequence[int]) -> int:
        """About how long it takes: the rules of `rtl.plan`, without hazards inside of a unit's pipe."""
        free, queues, end = [0] * 4, [[-1] * self._config.queue_depth for _ in range(4)], 0
        dispatched, over, owner, release = 0, [0] * len(order), dict[int, int](), dict[int, int]()
        for index in order:
            unit, (occupancy, rd, wr) = self._units[index], self._times[index]
            dispatched = max(dispatched, queues[unit].pop(0)) + 1
            issue = max(free[unit], dispatched + 1, *(over[i] + 1 for i in self._after[index]))
            banks = self._touched[index].banks
            for bank, _ in banks:
                if owner.get(bank, unit) != unit:
                    issue = max(issue, release[bank] + 1)
            for bank, until_wr in banks:
                done = issue + (wr if until_wr else rd)
                release[bank] = max(done, release.get(bank, 0)) if owner.get(bank) == unit else done
                owner[bank] = unit
            free[unit], over[index] = issue + occupancy, issue + wr
            queues[unit].append(issue)
            end = max(end, over[index])
        return end
