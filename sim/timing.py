"""The `timing` level: cycles of every instruction, the ledger and the event totals, without any data.

The time contract (docstring of `rtl/plan.py`) is max-plus: an instruction's dispatch and issue cycles are
maxima over cycles of earlier instructions plus constants. So one pass in program order is enough
(`issue_times`), whatever the durations, and what repeats is computed once. It relies on three facts, which hold for
every verified program and are tested:

* a token that an instruction waits for is given by an earlier one (else `SimulationError`);
* the tokens of one semaphore are given in program order, because a unit is in order and its tails are such
  that a later instruction never overtakes an earlier one;
* a duration is a function of an instruction's shape (every field but addresses and tokens), so it is computed
  once per shape.

A discrete-event queue was rejected: it needs a heap and gives the same numbers several times slower.

The ledger attributes every cycle of every unit to one cause by the rules of `rtl/spec/ledger.py`; per unit the
causes sum to ``cycles``. It is the sum of `Timing.stalls`, which name the instruction before which each lost cycle
lies, and of the cycles in which instructions occupy their units.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ..rtl.plan import BOOT_DISPATCH, HALT_CHECK, REFETCH, Duration, duration, matmul_slot
from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import SimulationError
from ..rtl.spec.events import EVENT_NAMES, event_counts, squares
from ..rtl.spec.isa import HEADER, INSTRUCTIONS, QUEUE_UNITS, SPEC_BY_NAME, Instruction, Unit
from ..rtl.spec.ledger import ledger_causes
from .issue_times import CHANNELS, IssueTimes, Kind, MissingToken, State
from .program import Program
from .stalls import DISPATCH_CAUSES, FETCH, IDLE, STALL_CAUSES, SYNC, Columns, stalls_of

BOOT = -1
"""Index of the boot LOAD in ``recorded``."""

NOT_SHAPE = {
    "dram_addr", "row_stride", "scale_addr", "addr", "row_offset", "pitch", "index_addr", "src_byte", "a_addr",
    "b_addr", "a_pitch", "b_pitch", "acc_addr", "acc_pitch", "mask_step", "mask_base", "mask_low_step",
    "mask_low_base", "rowmax_addr", "x_addr", "y", "z", "w", "dst_addr", "dst_pitch", "reduce_addr",
    *(f.name for f in HEADER)}
"""Fields on which neither the duration nor the events depend, but for `events.squares`."""


@dataclass(frozen=True, eq=False)
class Timing:
    """Times of a program; all arrays are int64 with one entry per instruction.

    dispatch, issue, rd, retire: the cycles D, I, I + rd, I + wr of `rtl/plan.py`. SYNC and HALT are over in
    their dispatch cycle, so their four values are equal.
    boot: the same four of the boot LOAD.
    occupancy: cycles that each instruction occupies its unit; 0 for SYNC and HALT.
    cycles: length of the run, start cycle and HALT cycle included.
    stalls: what held instructions up, in program order, a row (instruction, cause, cycles) each; instruction is `BOOT`
    for the boot LOAD, cause an index of `STALL_CAUSES`. All but the dispatcher's causes are cycles of the
    instruction's own unit.
    shape: number of each instruction's shape; shape_events: int64 (shapes, events in the order of `EVENT_NAMES`);
    shape_compute: int64 (shapes,), cycles in which a MATMUL makes the array take a k step.
    ledger: {unit: {cause: cycles}}.
    events: {event: count}, every name of `EVENT_NAMES`, boot LOAD included.
    repeated: how many instructions have their cycles by induction from an earlier stretch (`issue_times`).
    """

    dispatch: np.ndarray
    issue: np.ndarray
    rd: np.ndarray
    retire: np.ndarray
    boot: tuple[int, int, int, int]
    occupancy: np.ndarray
    cycles: int
    stalls: np.ndarray
    shape: np.ndarray
    shape_events: np.ndarray
    shape_compute: np.ndarray
    ledger: dict[str, dict[str, int]]
    events: dict[str, int]
    repeated: int

    def __repr__(self) -> str:
        return f"Timing(instructions={len(self.issue)}, cycles={self.cycles})"


class _Shapes:
    """Durations and event counts, computed once per shape of instruction."""

    def __init__(self, config: TileConfig) -> None:
        self._config = config
        self._getters: dict[str, Callable[[Instruction], object] | None] = {
            spec.name: attrgetter(*names) if (names := _shape_fields(spec)) else None for spec in INSTRUCTIONS}
        vector = attrgetter(*_shape_fields(SPEC_BY_NAME["VECTOR"]))
        self._getters["VECTOR"] = lambda i: (vector(i), squares(i))
        self._known: dict[str, dict[object, tuple[int, int, int, int]]] = {spec.name: {} for spec in INSTRUCTIONS}
        self._examples: list[Instruction] = []

    def of(self, instruction: Instruction) -> tuple[int, int, int, int]:
        """(occupancy, rd, wr, number of the shape)."""
        name = instruction.spec.name
        getter = self._getters[name]
        key = getter(instruction) if getter else None
        entry = self._known[name].get(key)
        if entry is None:
            d = duration(instruction, self._config) if getter else Duration(0, 0, 0)
            entry = self._known[name][key] = (d.occupancy, d.rd, d.wr, len(self._examples))
            self._examples.append(instruction)
        return entry

    def events(self) -> np.ndarray:
        """int64 (shapes, events): counts of one instruction of each shape."""
        counts = np.zeros((len(self._examples), len(EVENT_NAMES)), np.int64)
        for row, example in zip(counts, self._examples, strict=True):
            found = event_counts(example, self._config)
            row[:] = [found.get(name, 0) for name in EVENT_NAMES]
        return counts

    def occupancy(self) -> np.ndarray:
        """int64 (shapes,): cycles that an instruction of each shape occupies its unit."""
        cycles = np.zeros(len(self._examples), np.int64)
        for known in self._known.values():
            for occupancy, _, _, number in known.values():
                cycles[number] = occupancy
        return cycles

    def compute_cycles(self) -> np.ndarray:
        """int64 (shapes,): cycles in which a MATMUL makes the array take a k step (the rest of a slot is fill)."""
        cycles = np.zeros(len(self._examples), np.int64)
        for occupancy, _, _, number in self._known["MATMUL"].values():
            steps = self._examples[number].k_steps
            cycles[number] = occupancy // matmul_slot(steps, self._config) * steps
        return cycles


def _shape_fields(spec) -> list[str]:
    return [f.name for f in spec.fields if f.name not in NOT_SHAPE]


def time_program(program: Program, config: TileConfig | None = None,
                 recorded: Mapping[int, Duration] | None = None) -> Timing:
    """`Timing` of a program on ``config`` (default: the program's).

    ``recorded`` replaces the durations of single LOAD, GATHER, STORE and SCATTER instructions, by index
    (`BOOT` for the boot load), by measured ones: the recorded-latency mode.

    Raises `SimulationError` when an instruction waits for a token that no earlier one gives, when
    instructions follow a HALT, or when there is none.
    """
    return _Run(program, config or program.config, recorded or {}).timing()


class _Run:
    """One program. Arrays have one entry per instruction, without the boot LOAD."""

    def __init__(self, program: Program, config: TileConfig, recorded: Mapping[int, Duration]) -> None:
        self._program, self._config, self._recorded = program, config, recorded
        self._shapes = _Shapes(config)
        self._instructions = program.columns
        occupancy, rd, wr, self._boot_shape = self._shapes.of(program.boot_load())
        d = recorded.get(BOOT) or Duration(occupancy, rd, wr)
        issue = BOOT_DISPATCH + 1
        self._boot, self._boot_occupancy = (BOOT_DISPATCH, issue, issue + d.rd, issue + d.wr), d.occupancy

    def timing(self) -> Timing:
        columns, shape = self._columns()
        times = self._issue_times(columns)
        dispatch, issue = times.dispatch, times.issue
        over = (issue + columns.wr)[columns.unit != Unit.DISPATCH].max(initial=self._boot[3])
        dispatch[-1] = issue[-1] = max(int(dispatch[-1]) + HALT_CHECK, int(over) + 1)
        stalls = np.concatenate([self._boot_stalls(), stalls_of(
            columns, dispatch, issue, (self._ready, self._boot[1] + self._boot_occupancy),
            self._config.dram_shared)])
        shape_events, shape_compute = self._shapes.events(), self._shapes.compute_cycles()
        uses = np.bincount(shape, minlength=len(shape_events))
        uses[self._boot_shape] += 1
        cycles = int(dispatch[-1]) + 1
        return Timing(dispatch, issue, issue + columns.rd, issue + columns.wr, boot=self._boot,
                      occupancy=columns.occupancy, cycles=cycles, stalls=stalls, shape=shape,
                      shape_events=shape_events, shape_compute=shape_compute,
                      ledger=self._ledger(cycles, stalls, columns, issue, int(uses @ shape_compute)),
                      events=dict(zip(EVENT_NAMES, (uses @ shape_events).tolist(), strict=True)),
                      repeated=times.repeated)

    @property
    def _ready(self) -> int:
        """The first cycle in which the dispatcher can dispatch: it has taken the boot LOAD's token and fetched."""
        return self._boot[3] + 1 + REFETCH

    def _boot_stalls(self) -> np.ndarray:
        return np.array([(BOOT, IDLE, self._boot[1]), (BOOT, SYNC, self._boot[3] + 1), (BOOT, FETCH, REFETCH - 1)],
                        np.int64)

    def _columns(self) -> tuple[Columns, np.ndarray]:
        """The columns, and the number of each instruction's shape."""
        forms, column = self._instructions.forms, self._instructions.column
        shapes = [self._shapes.of(form) for form in forms]
        occupancy, rd, wr, shape = (column(entry[n] for entry in shapes) for n in range(4))
        for index, d in self._recorded.items():
            if index != BOOT:
                occupancy[index], rd[index], wr[index] = d.occupancy, d.rd, d.wr
        waits = (sum((i.wait_wr if kind else i.wait_rd) >> int(producer) << n & 1 << n
                     for n, (producer, kind) in enumerate(CHANNELS)) for i in forms)
        return Columns(unit=self._instructions.units, occupancy=occupancy, rd=rd, wr=wr, waits=column(waits),
                       signal_rd=column(i.signal_rd for i in forms),
                       signal_wr=column(i.signal_wr for i in forms)), shape

    def _issue_times(self, columns: Columns) -> IssueTimes:
        """All of them, but that HALT may not be over when it is dispatched."""
        names = [form.spec.name for form in self._instructions.forms]
        halts = np.flatnonzero(self._instructions.column(name == "HALT" for name in names))
        end = int(halts[0]) + 1 if halts.size else len(self._instructions)
        load = max(self._boot[1] + self._boot_occupancy - self._ready, 1)
        store = load if self._config.dram_shared else 1
        try:
            times = IssueTimes(self._config, *self._kinds(columns, end), State(free=(load, store, 1, 1)), self._ready)
        except MissingToken as missing:
            raise SimulationError(f"{self._program.describe(missing.index)} waits for a token that no earlier "
                                  "instruction gives") from None
        if not halts.size:
            raise SimulationError(f"{self._program.describe(end - 1)} is the last instruction, expected a HALT")
        if end < len(self._instructions):
            raise SimulationError(f"{self._program.describe(end - 1)} is followed by instructions")
        return times

    def _kinds(self, columns: Columns, end: int) -> tuple[list[Kind], np.ndarray]:
        """Distinct kinds, and the number of each instruction's before ``end``."""
        numbers: dict[Kind, int] = {}
        form = self._instructions.form[:end]
        first = np.full(len(self._instructions.forms), -1, np.int64)
        first[form[::-1]] = np.arange(end)[::-1]
        fields = [getattr(columns, name) for name in Kind._fields]
        replaced = sorted(index for index in self._recorded if 0 <= index < end)

        def number(index: int) -> int:
            return numbers.setdefault(Kind(*(int(column[index]) for column in fields)), len(numbers))

        own = [number(index) for index in replaced]
        kind = np.array([number(index) if index >= 0 else 0 for index in first.tolist()], np.int32)[form]
        kind[replaced] = own
        return list(numbers), kind

    def _ledger(self, cycles: int, stalls: np.ndarray, columns: Columns, issue: np.ndarray,
                compute: int) -> dict[str, dict[str, int]]:
        """Totals by unit and cause."""
        units = np.append(columns.unit, Unit.LOAD)  # instruction -1, the boot LOAD, comes last
        held = np.zeros((len(Unit), len(STALL_CAUSES)), np.int64)
        np.add.at(held, (units[stalls[:, 0]], stalls[:, 1]), stalls[:, 2])
        free = np.append(issue + columns.occupancy, self._boot[1] + self._boot_occupancy)
        ledger = {}
        for unit in QUEUE_UNITS:
            own = np.flatnonzero(columns.unit == unit)
            busy = int(columns.occupancy[own].sum()) + (self._boot_occupancy if unit == Unit.LOAD else 0)
            last = own[-1] if own.size else -1
            counts = {cause: int(held[unit, number]) for number, cause in enumerate(STALL_CAUSES)}
            counts |= {"busy": busy, "compute": compute, "fill": busy - compute}
            counts["idle"] += cycles - (int(free[last]) if own.size or unit == Unit.LOAD else 0)
            ledger[unit.name.lower()] = {cause: counts[cause] for cause in ledger_causes(unit.name.lower())}
        totals = {cause: int(held[:, STALL_CAUSES.index(cause)].sum()) for cause in DISPATCH_CAUSES}
        totals["dispatch"] = len(units)
        ledger["dispatch"] = {cause: totals[cause] for cause in ledger_causes("dispatch")}
        return ledger
