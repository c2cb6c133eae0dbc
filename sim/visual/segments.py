"""Every cycle of every queue unit as segments under one cause each, and their sums over bins of time.

The segments tile [0, cycles) for each unit, so the sums over any bins add up to the ledger exactly. What holds an
instruction up lies before its issue, in the order in which the timing model found it; a MATMUL's fill is spread evenly
over its occupancy.
"""

from dataclasses import dataclass

import numpy as np

from ...rtl.plan import duration
from ...rtl.spec.isa import QUEUE_UNITS, Unit
from ...rtl.spec.ledger import ledger_causes
from ..program import Program
from ..timing import BOOT, STALL_CAUSES, Timing

_UNIT_CAUSES = STALL_CAUSES.index("outstanding") + 1
"""Causes below this number are cycles of the instruction's own unit."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitRows:
    """The instructions of one unit in program order, the boot LOAD first: int64 arrays of equal length.

    index: in the program, `BOOT` for the boot LOAD. issue, occupancy: cycles; compute: of it, k steps of a MATMUL.
    """

    index: np.ndarray
    issue: np.ndarray
    occupancy: np.ndarray
    compute: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Disjoint spans of one cause in order of time: int64 start and length, and the cycles of each that count."""

    start: np.ndarray
    length: np.ndarray
    amount: np.ndarray

    def binned(self, edges: np.ndarray) -> np.ndarray:
        """float64 (len(edges) - 1,): cycles between neighbouring edges."""
        if not self.start.size:
            return np.zeros(len(edges) - 1)
        times = np.stack([self.start, self.start + self.length], axis=1).reshape(-1)
        after = np.cumsum(self.amount)
        total = np.stack([after - self.amount, after], axis=1).reshape(-1)
        return np.diff(np.interp(edges, times, total))


def units_of(program: Program) -> np.ndarray:
    """int64 (instructions,): number of each instruction's unit."""
    return program.columns.units


def unit_rows(program: Program, timing: Timing, unit: Unit, units: np.ndarray) -> UnitRows:
    """The rows of one queue unit; ``units`` is of `units_of`."""
    index = np.flatnonzero(units == unit)
    issue, occupancy = timing.issue[index], timing.occupancy[index]
    compute = timing.shape_compute[timing.shape[index]]
    if unit == Unit.LOAD:
        boot = duration(program.boot_load(), program.config).occupancy
        index, issue = np.insert(index, 0, BOOT), np.insert(issue, 0, timing.boot[1])
        occupancy, compute = np.insert(occupancy, 0, boot), np.insert(compute, 0, 0)
    return UnitRows(index=index, issue=issue, occupancy=occupancy, compute=compute)


def segments_of(program: Program, timing: Timing) -> dict[str, dict[str, Segments]]:
    """{unit: {cause: segments}} of the queue units; a cause that takes no cycle has none."""
    units = units_of(program)
    owners = np.append(units, Unit.LOAD)  # index BOOT = -1 is the last
    own = timing.stalls[timing.stalls[:, 1] < _UNIT_CAUSES]
    found = {}
    for unit in QUEUE_UNITS:
        rows = unit_rows(program, timing, unit, units)
        stalls = own[owners[own[:, 0]] == unit]
        found[unit.name.lower()] = _unit_segments(unit, rows, stalls, timing.cycles)
    return found


def _unit_segments(unit: Unit, rows: UnitRows, stalls: np.ndarray, cycles: int) -> dict[str, Segments]:
    """stalls: (n, 3) those of this unit's instructions, in program order."""
    found = {cause: Segments(start=np.zeros(0, np.int64), length=np.zeros(0, np.int64), amount=np.zeros(0, np.int64))
             for cause in ledger_causes(unit.name.lower())}
    amounts = {"compute": rows.compute, "fill": rows.occupancy - rows.compute} if unit == Unit.MATRIX else {
        "busy": rows.occupancy}
    for cause, amount in amounts.items():
        found[cause] = Segments(start=rows.issue, length=rows.occupancy, amount=amount)
    index, cause, length = stalls.T
    until = np.cumsum(length)
    place = np.searchsorted(rows.index, index)
    # The stalls of an instruction end where it issues: count back from its last one.
    last = np.searchsorted(index, index, side="right") - 1
    start = rows.issue[place] - (until[last] - until) - length if index.size else index
    for number, name in enumerate(STALL_CAUSES[:_UNIT_CAUSES]):
        if (chosen := cause == number).any():
            found[name] = Segments(start=start[chosen], length=length[chosen], amount=length[chosen])
    free = int(rows.issue[-1] + rows.occupancy[-1]) if rows.index.size else 0
    idle = found["idle"]
    found["idle"] = Segments(start=np.append(idle.start, free), length=np.append(idle.length, cycles - free),
                             amount=np.append(idle.amount, cycles - free))
    return found
