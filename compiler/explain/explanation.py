"""The explanation of a layer: bounds, units, operands that are read again, and what the next changes save."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...rtl.spec.ledger import LEDGER_UNITS
from ...sim.critical_path import critical_path
from ...sim.lib.threads import processors
from ..schedule import Schedule, to_dict
from ..sweep.columns import COLUMNS
from ..sweep.pool import run_here
from ..sweep.tasks import Outcome, Task, compile_task, measure
from .changes import KINDS, Change, changes_of
from .operands import Operand, operands_of

WORKING = ("busy", "compute", "fill", "dispatch")
_BOUNDS = {"compute": "multiply-accumulates", "dram": "bytes of DRAM", "vector": "elements of the vector unit"}


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What a change gives: cycles, time, energy and area with it, all measured; compare with `Explanation.values`."""

    change: Change
    values: dict

    def to_dict(self) -> dict:
        return {"kind": self.change.kind, "change": self.change.text,
                **{name: self.values[name] for name in ("cycles", "time_us", "energy_pj", "area_mm2")},
                "schedule": None if self.change.kind != "schedule" else to_dict(self.change.task.schedule)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """values: the columns of a sweep. ledger: {unit: {cause: cycles}}; path: {phase: {unit: cycles}}, the critical
    path. savings: legal changes, the one that saves most time first. refused: number of changes without a program.
    """

    task: Task
    schedule: Schedule
    values: dict
    bounds: dict[str, int]
    ledger: dict[str, dict[str, int]]
    path: dict[str, dict[str, int]]
    operands: list[Operand]
    savings: list[Saving]
    refused: int

    def best(self, kind: str) -> Saving | None:
        """The change of a kind that saves most time, if one saves any."""
        found = next((saving for saving in self.savings if saving.change.kind == kind), None)
        return found if found is not None and found.values["time_us"] < self.values["time_us"] else None

    def to_dict(self) -> dict:
        """Of JSON types, with the sentences."""
        return {"values": self.values, "bounds": self.bounds, "ledger": self.ledger, "critical_path": self.path,
                "operands": [operand.to_dict() for operand in self.operands],
                "changes": [saving.to_dict() for saving in self.savings], "refused": self.refused,
                "sentences": self.sentences()}

    def sentences(self) -> list[str]:
        return [*_bound_sentences(self), *_unit_sentences(self), *_operand_sentences(self), *_saving_sentences(self)]


def explain(task: Task, *, kinds: Sequence[str] = tuple(KINDS), workers: int | None = None,
            progress: Callable[[int, int], None] | None = None) -> Explanation:
    """Measure a layer, and the changes of the given kinds. workers: as in `sweep`. Raises a `TilescoreError` where the
    layer itself cannot be compiled."""
    compiled = compile_task(task)
    measured = measure(task, compiled)
    limits = {name: getattr(measured.bounds, f"{name}_cycles") for name in _BOUNDS}
    changes = changes_of(task, compiled.schedule, tuple(kinds))  # type: ignore[arg-type]
    tasks = {change.task.digest: change.task for change in changes}
    outcomes: dict[str, Outcome] = {}

    def done(digest: str, outcome: Outcome | BaseException) -> None:
        if not isinstance(outcome, dict):
            raise outcome
        outcomes[digest] = outcome
        if progress is not None:
            progress(len(outcomes), len(tasks))

    if tasks:
        run_here(tasks, min(workers or processors(), len(tasks)), done)
    savings = [Saving(change=change, values=outcomes[change.task.digest]["values"]) for change in changes
               if "values" in outcomes[change.task.digest]]
    savings.sort(key=lambda saving: saving.values["time_us"])
    return Explanation(
        task=task, schedule=compiled.schedule, values={name: c.of(measured) for name, c in COLUMNS.items()},
        bounds=limits, ledger=measured.result.ledger, path=critical_path(compiled.program, measured.result.timing),
        operands=operands_of(compiled.program), savings=savings, refused=len(changes) - len(savings))


def _bound_sentences(e: Explanation) -> list[str]:
    cycles = e.values["cycles"]
    order = sorted(e.bounds, key=lambda name: -e.bounds[name])
    first, *others = order
    rest = " and ".join(f"{e.bounds[name]:,} by {_BOUNDS[name]}" for name in others)
    return [f"The layer takes {cycles:,} cycles ({e.values['time_us']:,.1f} us) and uses the array's peak to "
            f"{100 * e.values['utilization']:.1f} %.",
            f"By {_BOUNDS[first]} no schedule on this tile takes less than {e.bounds[first]:,} cycles; the run is at "
            f"{cycles / max(1, e.bounds[first]):.2f} times that. The other bounds are {rest}."]


def _unit_sentences(e: Explanation) -> list[str]:
    cycles = e.values["cycles"]
    units: dict[str, int] = {}
    for phase in e.path.values():
        for unit, count in phase.items():
            units[unit] = units.get(unit, 0) + count
    unit = max(units, key=units.__getitem__)
    phases = {phase: parts.get(unit, 0) for phase, parts in e.path.items()}
    phase = max(phases, key=phases.__getitem__)
    lines = [f"On the chain of causes from the last cycle back to the first, {100 * units[unit] / cycles:.1f} % of the "
             f"cycles are the {unit} unit's, most of them in phase {phase} ({phases[phase]:,} cycles): "
             "only what is on that chain can be made faster with effect."]
    for name in LEDGER_UNITS:
        if name == "dispatch":
            continue
        causes = e.ledger[name]
        works = sum(causes.get(cause, 0) for cause in WORKING)
        waits = {cause: count for cause, count in causes.items() if cause not in WORKING and count}
        text = f"The {name} unit works in {100 * works / cycles:.1f} % of the cycles"
        if waits:
            worst = max(waits, key=waits.__getitem__)
            text += f"; {_WHY.get(worst, worst.replace('_', ' '))} in {100 * waits[worst] / cycles:.1f} %"
        lines.append(text + ".")
    return lines


_WHY = {"wait_load": "it waits for data from DRAM", "wait_store": "it waits for results to leave",
        "wait_matrix": "it waits for the array", "wait_vector": "it waits for the vector unit",
        "wait_port": "it waits for the DRAM port that loads and stores share",
        "idle": "it has no instruction", "outstanding": "it has as many transfers in flight as it may"}


def _operand_sentences(e: Explanation) -> list[str]:
    lines = []
    for operand in e.operands:
        if operand.times <= 1.005 or operand.again_bytes < 0.01 * e.values["read_bytes"]:
            continue
        phase = max(operand.phases, key=operand.phases.__getitem__)
        text = (f"{operand.name} is read {operand.times:.1f} times, most in phase {phase} "
                f"({operand.read_bytes:,} bytes, of which {operand.stored_bytes:,} are different)")
        if operand.between_bytes is None:
            text += ", in rows that overlap."
        elif operand.between_bytes > operand.capacity_bytes:
            text += (f": between two reads of the same rows {operand.between_bytes:,.0f} bytes pass through buffer "
                     f"{operand.space}, which holds {operand.capacity_bytes:,}.")
        else:
            text += (f", although only {operand.between_bytes:,.0f} bytes pass through buffer {operand.space} between "
                     f"two reads of the same rows and it holds {operand.capacity_bytes:,}: the schedule gives the room "
                     "to others.")
        lines.append(text)
    if not lines:
        lines.append("No operand is read again to speak of: bytes of DRAM are those that the layer has.")
    return lines


def _saving_sentences(e: Explanation) -> list[str]:
    lines, nothing = [], []
    tried = dict.fromkeys(saving.change.kind for saving in e.savings)
    for kind in KINDS:
        if kind not in tried:
            continue
        best = e.best(kind)
        if best is None:
            nothing.append(KINDS[kind])
            continue
        before, after = e.values, best.values
        text = (f"Of {KINDS[kind]}, {best.change.text} saves most: {before['cycles']:,} -> {after['cycles']:,} cycles, "
                f"time {_percent(before['time_us'], after['time_us'])}, energy "
                f"{_percent(before['energy_pj'], after['energy_pj'])}")
        if after["area_mm2"] != before["area_mm2"]:
            text += f", area {_percent(before['area_mm2'], after['area_mm2'])}"
        lines.append(text + ".")
    if nothing:
        lines.append(f"No step of {', '.join(nothing)} saves anything.")
    return lines


def _percent(old: float, new: float) -> str:
    return f"{100 * (new / old - 1):+.1f} %"
