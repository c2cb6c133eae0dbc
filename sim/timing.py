"""The `timing` level: cycles of every instruction, the ledger and the event totals, without any data.

The time contract (docstring of `rtl/plan.py`) is max-plus: an instruction's dispatch and issue cycles are
maxima over cycles of earlier instructions plus constants. So one pass in program order is enough, and its
cost is O(instructions), whatever the durations. It relies on three facts, which hold for every verified
program and are tested:

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

from collections import deque
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
from .program import Program

BOOT = -1
"""Index of the boot LOAD in ``recorded``."""

DISPATCH_CAUSES = ("queue_full", "sync", "fetch", "halt")
STALL_CAUSES = (*(f"wait_{unit.name.lower()}" for unit in QUEUE_UNITS), "idle", "outstanding", *DISPATCH_CAUSES)
"""What holds an instruction up, as the ledger's causes; the numbers of the waits are those of the producers."""

_IDLE, _OUTSTANDING, _QUEUE_FULL, _SYNC, _FETCH, _HALT = range(len(QUEUE_UNITS), len(STALL_CAUSES))

NOT_SHAPE = {
    "dram_addr", "row_stride", "scale_addr", "addr", "row_offset", "pitch", "index_addr", "src_byte", "a_addr",
    "b_addr", "a_pitch", "b_pitch", "acc_addr", "acc_pitch", "mask_step", "mask_base", "rowmax_addr",
    "x_addr", "y", "z", "w", "dst_addr", "dst_pitch", "reduce_addr"} | {f.name for f in HEADER}
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


class _Tokens:
    """The semaphores as queues of the cycles in which tokens become visible.

    ``waits[consumer][wait_rd | wait_wr << 4]`` lists (producer, take) in the order in which the ledger blames
    them; ``signals[kind][producer][mask]`` lists functions that give a token.
    """

    def __init__(self) -> None:
        self.waits: list[list[tuple[tuple[int, Callable], ...]]] = []
        channels = [[[deque() for _ in Unit] for _ in QUEUE_UNITS] for _ in range(2)]
        for consumer in Unit:
            order = [(p, kind) for p in QUEUE_UNITS for kind in range(2)]
            self.waits.append([
                tuple((int(p), channels[kind][p][consumer].popleft)
                      for p, kind in order if mask >> (p + 4 * kind) & 1) for mask in range(256)])
        self.signals = [[[tuple(channels[kind][p][c].append for c in Unit if mask >> c & 1)
                          for mask in range(32)] for p in QUEUE_UNITS] for kind in range(2)]


@dataclass
class _UnitState:
    """Progress of one queue unit."""

    issues: list[int]
    retires: list[int]
    limit: int
    free: int = 0


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
    """One pass. The state that the hot loop touches is in plain lists."""

    def __init__(self, program: Program, config: TileConfig, recorded: Mapping[int, Duration]) -> None:
        self._program, self._config, self._recorded = program, config, recorded
        self._shapes, self._tokens = _Shapes(config), _Tokens()
        no_limit = 1 << 62
        limits = (config.dma_outstanding, config.dma_outstanding, no_limit, no_limit)
        self._units = [_UnitState([], [], limit) for limit in limits]
        self._times: list[list[int]] = [[], [], [], []]
        self._shape: list[int] = []
        self._stalls: list[int] = []

    def timing(self) -> Timing:
        boot = self._boot()
        self._body()
        dispatch, issue, rd, retire = (np.array(times, np.int64) for times in self._times)
        cycles = int(dispatch[-1]) + 1
        stalls = np.array(self._stalls, np.int64).reshape(-1, 3)
        # The boot LOAD, instruction -1, stands first in both.
        shape, shape_events = np.array(self._shape, np.int64), self._shapes.events()
        shape_compute = self._shapes.compute_cycles()
        occupancy = self._shapes.occupancy()[shape]
        for index, d in self._recorded.items():
            occupancy[index + 1] = d.occupancy
        ledger = self._ledger(cycles, stalls, occupancy, int(shape_compute[shape].sum()))
        events = dict(zip(EVENT_NAMES, shape_events[shape].sum(axis=0).tolist(), strict=True))
        return Timing(dispatch, issue, rd, retire, boot=boot, occupancy=occupancy[1:], cycles=cycles, stalls=stalls,
                      shape=shape[1:], shape_events=shape_events, shape_compute=shape_compute, ledger=ledger,
                      events=events)

    def _boot(self) -> tuple[int, int, int, int]:
        """The boot LOAD: dispatched by itself, the dispatcher takes its wr token, then fetches."""
        load = self._program.boot_load()
        issue, rd, wr = self._issue(BOOT, load, BOOT_DISPATCH)
        taken = self._tokens.waits[Unit.DISPATCH][1 << (Unit.LOAD + 4)][0][1]()
        self._stalls += BOOT, _SYNC, taken, BOOT, _FETCH, REFETCH - 1
        self._next = taken + REFETCH
        return BOOT_DISPATCH, issue, rd, wr

    def _issue(self, index: int, instruction: Instruction, dispatched: int) -> tuple[int, int, int]:
        """Issue an instruction that is dispatched at ``dispatched``; returns its cycles I, I + rd, I + wr."""
        unit = instruction.spec.unit
        state = self._units[unit]
        occupancy, rd, wr, shape = self._shapes.of(instruction)
        if index in self._recorded:
            d = self._recorded[index]
            occupancy, rd, wr = d.occupancy, d.rd, d.wr
        t, free = dispatched + 1, state.free
        if t > free:
            self._stalls += index, _IDLE, t - free
        else:
            t = free
        for producer, take in self._tokens.waits[unit][instruction.wait_rd | instruction.wait_wr << 4]:
            visible = take()
            if visible > t:
                self._stalls += index, producer, visible - t
                t = visible
        count = len(state.issues) - state.limit
        if count >= 0 and state.retires[count] >= t:
            self._stalls += index, _OUTSTANDING, state.retires[count] + 1 - t
            t = state.retires[count] + 1
        state.issues.append(t)
        state.retires.append(t + wr)
        state.free = t + occupancy
        self._shape.append(shape)
        for give in self._tokens.signals[0][unit][instruction.signal_rd]:
            give(t + rd + 1)
        for give in self._tokens.signals[1][unit][instruction.signal_wr]:
            give(t + wr + 1)
        return t, t + rd, t + wr

    def _body(self) -> None:
        """Every instruction in program order."""
        depth, units, next_dispatch = self._config.queue_depth, self._units, self._next
        issue_one = self._issue
        dispatches, issues, rds, retires = (times.append for times in self._times)
        instructions = self._program.instructions
        for index, instruction in enumerate(instructions):
            unit = instruction.spec.unit
            d = next_dispatch
            try:
                if unit == Unit.DISPATCH:
                    d = t = rd = wr = self._at_dispatcher(index, instruction, d)
                    next_dispatch = d + REFETCH
                else:
                    state = units[unit]
                    count = len(state.issues)
                    if count >= depth and state.issues[count - depth] >= d:
                        self._stalls += index, _QUEUE_FULL, state.issues[count - depth] + 1 - d
                        d = state.issues[count - depth] + 1
                    t, rd, wr = issue_one(index, instruction, d)
                    next_dispatch = d + 1
            except IndexError:
                raise SimulationError(f"{self._program.describe(index)} waits for a token that no earlier "
                                      "instruction gives") from None
            dispatches(d)
            issues(t)
            rds(rd)
            retires(wr)
        if instructions[-1].spec.name != "HALT":
            raise SimulationError(f"{self._program.describe(len(instructions) - 1)} is the last instruction, "
                                  "expected a HALT")

    def _at_dispatcher(self, index: int, instruction: Instruction, earliest: int) -> int:
        """The cycle in which the dispatcher executes a SYNC or HALT."""
        t = earliest
        for _, take in self._tokens.waits[Unit.DISPATCH][instruction.wait_rd | instruction.wait_wr << 4]:
            t = max(t, take())
        self._shape.append(self._shapes.of(instruction)[3])
        if instruction.spec.name == "HALT":
            retired = max(unit.retires[-1] for unit in self._units if unit.retires)
            t = max(t, earliest + HALT_CHECK, retired + 1)
            self._stalls += index, _HALT, t - earliest
            if index != len(self._program.instructions) - 1:
                raise SimulationError(f"{self._program.describe(index)} is followed by instructions")
        else:
            self._stalls += index, _SYNC, t - earliest, index, _FETCH, REFETCH - 1
        return t

    def _ledger(self, cycles: int, stalls: np.ndarray, occupancy: np.ndarray,
                compute: int) -> dict[str, dict[str, int]]:
        """Totals by unit and cause; ``occupancy`` begins with that of the boot LOAD, which is instruction -1."""
        units = np.array([Unit.LOAD, *(i.spec.unit for i in self._program.instructions)], np.int64)
        held = np.zeros((len(Unit), len(STALL_CAUSES)), np.int64)
        np.add.at(held, (units[stalls[:, 0] + 1], stalls[:, 1]), stalls[:, 2])
        busy = np.bincount(units, weights=occupancy, minlength=len(Unit)).astype(np.int64)
        ledger = {}
        for unit in QUEUE_UNITS:
            counts = {cause: int(held[unit, number]) for number, cause in enumerate(STALL_CAUSES)}
            counts |= {"busy": int(busy[unit]), "compute": compute, "fill": int(busy[unit]) - compute}
            counts["idle"] += cycles - self._units[unit].free
            ledger[unit.name.lower()] = {cause: counts[cause] for cause in ledger_causes(unit.name.lower())}
        totals = {cause: int(held[:, STALL_CAUSES.index(cause)].sum()) for cause in DISPATCH_CAUSES}
        totals["dispatch"] = len(units)
        ledger["dispatch"] = {cause: totals[cause] for cause in ledger_causes("dispatch")}
        return ledger
