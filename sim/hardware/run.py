"""What a run of the hardware gives, whatever simulator it ran in, and the mapping from pulses to
instructions.

The tile's trace outputs say in which cycle something was dispatched, issued, read (rd) and retired (wr),
per unit but without names. A queue unit handles its instructions in program order, so the n-th pulse of a
unit belongs to its n-th instruction; the boot LOAD is the load unit's first.
"""

from dataclasses import dataclass

import numpy as np

from ...rtl.spec.errors import SimulationError
from ...rtl.spec.events import EVENT_NAMES
from ...rtl.spec.isa import QUEUE_UNITS, Unit
from ...rtl.spec.ledger import LEDGER_COUNTERS, LEDGER_UNITS
from ..program import Program

PULSES = ("issue", "rd", "retire")


@dataclass(frozen=True, kw_only=True)
class DramModel:
    """How the DRAM behind the tile behaves.

    stall_per_mille: 0 is the reference DRAM: always ready, every response exactly ``dram_latency`` cycles
    after its request. Above 0 (at most 900), each request and each response is held back with this
    probability per cycle; results must not change, times do.
    seed: of the random stalls.
    """

    stall_per_mille: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.stall_per_mille <= 900:
            raise SimulationError(f"stall_per_mille must be in 0..900, got {self.stall_per_mille}")


@dataclass(frozen=True, eq=False)
class RtlRun:
    """Times and counters as in `timing.Timing`, from the hardware, and the final DRAM as uint8.

    status: what results have met, bits of `matmul_model.Status`.
    """

    dispatch: np.ndarray
    issue: np.ndarray
    rd: np.ndarray
    retire: np.ndarray
    boot: tuple[int, int, int, int]
    cycles: int
    ledger: dict[str, dict[str, int]]
    events: dict[str, int]
    dram: np.ndarray
    status: int

    def __repr__(self) -> str:
        return f"RtlRun(instructions={len(self.issue)}, cycles={self.cycles})"


@dataclass(frozen=True, eq=False)
class RawRun:
    """What a backend hands over.

    finished: `done` was seen within the limit of cycles; cycles: cycles that ran.
    trace: (n, 2) integers, cycle and bits: bit 0 dispatch, 1-4 issue, 5-8 rd, 9-12 retire by unit.
    counters: value of every counter, in the order of `ledger.COUNTER_NAMES`.
    conflict, illegal: the tile's sticky error outputs; error: a complaint of the DRAM model, or "".
    status: the tile's sticky status outputs, bits of `matmul_model.Status`.
    """

    finished: bool
    cycles: int
    trace: np.ndarray
    counters: list[int]
    conflict: bool
    illegal: bool
    error: str
    dram: np.ndarray
    status: int


def interpret(program: Program, raw: RawRun) -> RtlRun:
    """`RtlRun` of a finished run.

    Raises `SimulationError` for a run that did not finish, a bank conflict, an illegal instruction, a DRAM
    access out of range, or a number of pulses that is not that of the instructions; it says how far each
    unit came.
    """
    pulses = _pulses(raw.trace)
    problem = raw.error and f"DRAM {raw.error} is outside its {raw.dram.size} bytes"
    if not problem and raw.illegal:
        problem = "illegal instruction"
    if not problem and not raw.finished:
        problem = f"not finished after {raw.cycles} cycles"
    if not problem and raw.conflict:
        problem = "two accesses to one buffer bank in one cycle"
    if problem:
        raise SimulationError(f"rtl: {problem}; {_progress(program, pulses)}")
    members = [np.array([n for n, i in enumerate(program.instructions) if i.spec.unit == u], np.int64)
               for u in QUEUE_UNITS]
    dispatched = np.nonzero(raw.trace[:, 1] & 1)[0]
    dispatch = raw.trace[dispatched, 0]
    if dispatch.size != len(program.instructions) + 1:
        raise SimulationError(f"rtl: {dispatch.size - 1} of {len(program.instructions)} instructions were "
                              "dispatched")
    times = {kind: dispatch[1:].copy() for kind in PULSES}
    boot = [int(dispatch[0])]
    for kind in PULSES:
        for unit, numbers in zip(QUEUE_UNITS, members, strict=True):
            seen = pulses[kind][unit]
            if unit == Unit.LOAD:
                boot += [int(c) for c in seen[:1]]
                seen = seen[1:]
            if seen.size != numbers.size:
                raise SimulationError(f"rtl: {unit.name.lower()} unit: {seen.size} {kind} pulses for "
                                      f"{numbers.size} instructions")
            times[kind][numbers] = seen
    ledger: dict[str, dict[str, int]] = {unit: {} for unit in LEDGER_UNITS}
    for counter, value in zip(LEDGER_COUNTERS, raw.counters[len(EVENT_NAMES):], strict=True):
        ledger[counter.unit][counter.cause] = value
    return RtlRun(dispatch=dispatch[1:], issue=times["issue"], rd=times["rd"], retire=times["retire"],
                  boot=(boot[0], boot[1], boot[2], boot[3]), cycles=raw.cycles, ledger=ledger,
                  events=dict(zip(EVENT_NAMES, raw.counters, strict=False)), dram=raw.dram,
                  status=raw.status)


def _pulses(trace: np.ndarray) -> dict[str, list[np.ndarray]]:
    """{kind: cycles of the pulses, per unit}."""
    return {kind: [trace[(trace[:, 1] >> (1 + len(QUEUE_UNITS) * k + u)) & 1 == 1, 0] for u in QUEUE_UNITS]
            for k, kind in enumerate(PULSES)}


def _progress(program: Program, pulses: dict[str, list[np.ndarray]]) -> str:
    """Where every unit stands: "load: 3 of 5 retired, next instruction 7 (LOAD)"."""
    texts = []
    for unit in QUEUE_UNITS:
        numbers = [n for n, i in enumerate(program.instructions) if i.spec.unit == unit]
        retired = pulses["retire"][unit].size - (unit == Unit.LOAD)
        stuck = f", then {program.describe(numbers[retired])}" if 0 <= retired < len(numbers) else ""
        texts.append(f"{unit.name.lower()}: {max(retired, 0)} of {len(numbers)} retired{stuck}")
    return "; ".join(texts)
