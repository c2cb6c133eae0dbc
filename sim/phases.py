"""What each phase of a layer costs, so that the phases sum to the whole.

A program says of every instruction which phase it belongs to (`Program.phases`); instructions of the program itself
(page loads, SYNC, HALT) and the boot LOAD make up the phase `OVERHEAD`. Phases overlap in time, because units run
ahead of each other, so a phase has no begin and end of its own. Its *cycles* are those by which its instructions move
the program's frontier, the latest retirement so far in program order: a phase that is wholly hidden behind an earlier
one has none. For phases that follow each other this is the time from the end of one to the end of the next.

Bytes, events, energy and the ledger follow from the instructions: a stall is charged to the instruction that it holds
up, the idle cycles of a unit behind its last instruction to `OVERHEAD`.
"""

from dataclasses import dataclass

import numpy as np

from ..rtl.spec.events import EVENT_NAMES
from ..rtl.spec.isa import QUEUE_UNITS, Unit
from ..rtl.spec.ledger import LEDGER_UNITS, ledger_causes
from .energy import EnergyTable, energy_of
from .program import Program
from .timing import BOOT, DISPATCH_CAUSES, STALL_CAUSES, Timing

OVERHEAD = "program"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase. cycles: see above. instructions: how many, the boot LOAD included.

    dram_bytes: {"read": bytes, "write": bytes}; ledger: {unit: {cause: cycles}}; events: {event: count}; energy_pj,
    components: of the events and the leakage of the cycles.
    """

    name: str
    cycles: int
    instructions: int
    dram_bytes: dict[str, int]
    ledger: dict[str, dict[str, int]]
    events: dict[str, int]
    energy_pj: float
    components: dict[str, float]

    def to_dict(self) -> dict:
        """Of JSON types, without the events."""
        return {"phase": self.name, "cycles": self.cycles, "instructions": self.instructions,
                "dram_bytes": dict(self.dram_bytes), "ledger": self.ledger, "energy_pj": self.energy_pj,
                "components": dict(self.components)}


def phases_of(program: Program, timing: Timing, table: EnergyTable) -> list[Phase]:
    """The phases in the order in which they first appear, `OVERHEAD` last. Every figure sums to the program's."""
    names, phase_of = _numbered(program)
    count = len(names) + 1
    cycles = _frontier(timing, phase_of, count)
    events = _events(program, timing, phase_of, count)
    ledger = _ledger(program, timing, phase_of, count)
    bus = program.config.bus_bytes
    phases = []
    for i, name in enumerate([*names, OVERHEAD]):
        found = dict(zip(EVENT_NAMES, events[i].tolist(), strict=True))
        energy = energy_of(found, int(cycles[i]), program.config, table)
        phases.append(Phase(
            name=name, cycles=int(cycles[i]), instructions=int((phase_of == i).sum()),
            dram_bytes={"read": found["dram_read_beats"] * bus, "write": found["dram_write_beats"] * bus},
            ledger=ledger[i], events=found, energy_pj=energy.total_pj, components=energy.components))
    return phases


def phase_cycles(program: Program, timing: Timing) -> dict[str, int]:
    """The cycles of every phase alone, in the order of `phases_of`."""
    names, phase_of = _numbered(program)
    return dict(zip([*names, OVERHEAD], _frontier(timing, phase_of, len(names) + 1).tolist(), strict=True))


def _numbered(program: Program) -> tuple[list[str], np.ndarray]:
    """The phases, and the number of each instruction's, `OVERHEAD` last; the boot LOAD comes first."""
    names = list(dict.fromkeys(name for name in program.phases if name))
    number = {name: i for i, name in enumerate(names)} | {"": len(names)}
    texts = program.phases or [""] * len(program.instructions)
    return names, np.array([len(names), *(number[text] for text in texts)], np.int64)


def _frontier(timing: Timing, phase_of: np.ndarray, count: int) -> np.ndarray:
    """int64 (phases,): cycles by which each phase moves the latest retirement; HALT retires in the last cycle."""
    retire = np.concatenate([[timing.boot[3]], timing.retire])
    advance = np.diff(np.maximum.accumulate(retire), prepend=-1)
    return _sum(phase_of, advance, count)


def _sum(where: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    total = np.zeros(count, np.int64)
    np.add.at(total, where, values)
    return total


def _events(program: Program, timing: Timing, phase_of: np.ndarray, count: int) -> np.ndarray:
    """int64 (phases, events)."""
    shapes = len(timing.shape_events)
    uses = np.zeros((count, shapes), np.int64)
    np.add.at(uses, (phase_of[1:], timing.shape), 1)
    events = uses @ timing.shape_events
    whole = np.array([timing.events[name] for name in EVENT_NAMES], np.int64)
    events[-1] += whole - events.sum(axis=0)  # the boot LOAD, the only one that is not in `shape`
    return events


def _ledger(program: Program, timing: Timing, phase_of: np.ndarray, count: int) -> list[dict[str, dict[str, int]]]:
    """Per phase {unit: {cause: cycles}}."""
    units = np.insert(program.columns.units, 0, Unit.LOAD)
    held = np.zeros((count, len(Unit), len(STALL_CAUSES)), np.int64)
    where = timing.stalls[:, 0] - BOOT
    np.add.at(held, (phase_of[where], units[where], timing.stalls[:, 1]), timing.stalls[:, 2])
    busy = np.zeros((count, len(Unit)), np.int64)
    np.add.at(busy, (phase_of[1:], units[1:]), timing.occupancy)
    compute = _sum(phase_of[1:], timing.shape_compute[timing.shape], count)
    dispatched = np.bincount(phase_of, minlength=count)
    phases = []
    for i in range(count):
        ledger = {}
        for unit in QUEUE_UNITS:
            counts = dict(zip(STALL_CAUSES, held[i, unit].tolist(), strict=True))
            counts |= {"busy": int(busy[i, unit]), "compute": int(compute[i]),
                       "fill": int(busy[i, unit]) - int(compute[i])}
            ledger[unit.name.lower()] = {cause: counts[cause] for cause in ledger_causes(unit.name.lower())}
        counts = {cause: int(held[i, :, STALL_CAUSES.index(cause)].sum()) for cause in DISPATCH_CAUSES}
        counts["dispatch"] = int(dispatched[i])
        ledger["dispatch"] = {cause: counts[cause] for cause in ledger_causes("dispatch")}
        phases.append(ledger)
    for unit in LEDGER_UNITS:
        # What is left is the boot LOAD's occupation, and each unit's idle time behind its last instruction.
        for cause, cycles in timing.ledger[unit].items():
            phases[-1][unit][cause] += cycles - sum(ledger[unit][cause] for ledger in phases)
    return phases
