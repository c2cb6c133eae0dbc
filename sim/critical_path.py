"""The chain of causes that makes a program as long as it is, by unit and phase.

Time is max-plus: the issue of every instruction equals one of the cycles that bound it (its unit becomes free, a token
becomes visible, the shared DRAM port becomes free, the DMA's limit of instructions in flight, its dispatch), plus a
constant. Following that one backwards from HALT gives a chain without gaps from the last cycle to the first. Each link
is charged to the unit and phase of the instruction that the next one waited for, so the charges sum to ``cycles``. A
unit that is busy but not in the chain could be slower without any effect; one that is in it could not.

Where several causes bind in the same cycle, the one that the ledger blames is followed (the last that still held the
instruction up), else the unit's own earlier instruction: one of several equally long chains.
"""

from bisect import bisect_left
from collections import Counter

from ..rtl.spec.isa import QUEUE_UNITS, Unit
from .phases import OVERHEAD
from .program import Program
from .timing import BOOT, STALL_CAUSES, Timing

_IDLE, _WAIT_PORT, _OUTSTANDING, _QUEUE_FULL, _SYNC = (
    STALL_CAUSES.index(cause) for cause in ("idle", "wait_port", "outstanding", "queue_full", "sync"))
_DISPATCH = Unit.DISPATCH.name.lower()


def critical_path(program: Program, timing: Timing) -> dict[str, dict[str, int]]:
    """{phase: {unit: cycles}}, entries above 0 only; they sum to ``timing.cycles``."""
    return _Walk(program, timing).run()


class _Walk:
    def __init__(self, program: Program, timing: Timing) -> None:
        self._instructions, self._limit = program.instructions, program.config.dma_outstanding
        self._depth = program.config.queue_depth
        self._phases = program.phases or [""] * len(program.instructions)
        self._dispatch, self._issue = timing.dispatch.tolist(), timing.issue.tolist()
        self._rd, self._retire = timing.rd.tolist(), timing.retire.tolist()
        self._boot, self._cycles = timing.boot, timing.cycles
        # The last thing that held up each instruction in its unit's queue, and whether the dispatcher was held up.
        self._held: dict[int, int] = {}
        self._queue_full: set[int] = set()
        for index, cause, cycles in timing.stalls.tolist():
            if cause <= _OUTSTANDING:
                self._held[index] = cause
            elif cause == _QUEUE_FULL or (cause == _SYNC and cycles):
                self._queue_full.add(index)
        self._order: list[list[int]] = [[] for _ in QUEUE_UNITS]
        self._order[Unit.LOAD].append(BOOT)
        self._place = {BOOT: 0}
        self._transfer_before: dict[int, int] = {}
        transfer = BOOT
        for index, unit in enumerate(program.columns.units.tolist()):
            if unit <= Unit.STORE:
                self._transfer_before[index], transfer = transfer, index
            if unit != Unit.DISPATCH:
                self._place[index] = len(self._order[unit])
                self._order[unit].append(index)
        self._charges: Counter = Counter()

    def run(self) -> dict[str, dict[str, int]]:
        self._now = self._cycles
        index, at_dispatcher = len(self._instructions) - 1, True
        while self._now:
            if index == BOOT:
                self._charge(OVERHEAD, Unit.LOAD.name.lower(), 0)
            elif at_dispatcher:
                index, at_dispatcher = self._before_dispatch(index)
            else:
                index, at_dispatcher = self._before_issue(index)
        out: dict[str, dict[str, int]] = {}
        for (phase, unit), cycles in self._charges.items():
            if cycles:
                out.setdefault(phase, {})[unit] = cycles
        return out

    def _charge(self, phase: str, unit: str, since: int) -> None:
        """The cycles from ``since`` up to now."""
        self._charges[phase or OVERHEAD, unit] += self._now - since
        self._now = since

    def _before_issue(self, index: int) -> tuple[int, bool]:
        """Charge the instruction from its issue on. What its issue waited for: (instruction, whether its dispatch)."""
        unit = self._instructions[index].spec.unit
        self._charge(self._phases[index], Unit(unit).name.lower(), self._issue[index])
        cause = self._held.get(index)
        if cause is None:
            return self._order[unit][self._place[index] - 1], False
        if cause == _IDLE:
            return index, True
        if cause == _WAIT_PORT:
            return self._transfer_before[index], False
        if cause == _OUTSTANDING:
            return self._order[unit][self._place[index] - self._limit], False
        giver = self._giver(cause, unit, self._issue[index])
        if giver is None:
            raise AssertionError(f"instruction {index}: no token of unit {cause} became visible when it issued")
        return giver, False

    def _before_dispatch(self, index: int) -> tuple[int, bool]:
        """Charge the dispatcher from the dispatch of the instruction on; what that waited for."""
        self._charge(self._phases[index], _DISPATCH, self._dispatch[index])
        spec = self._instructions[index].spec
        if spec.unit != Unit.DISPATCH:
            if index in self._queue_full:
                return self._order[spec.unit][self._place[index] - self._depth], False
        elif spec.name == "HALT":
            last = max((order[-1] for order in self._order if order), key=lambda i: self._ends(i))
            if self._ends(last) + 1 == self._dispatch[index]:
                return last, False
        elif index in self._queue_full:
            waits = self._instructions[index]
            for producer in QUEUE_UNITS:
                if (waits.wait_rd | waits.wait_wr) >> producer & 1:
                    giver = self._giver(producer, Unit.DISPATCH, self._dispatch[index])
                    if giver is not None:
                        return giver, False
        return (index - 1, True) if index else (BOOT, False)

    def _ends(self, index: int) -> int:
        return self._boot[3] if index == BOOT else self._retire[index]

    def _giver(self, producer: int, consumer: int, visible: int) -> int | None:
        """The instruction of ``producer`` whose token for ``consumer`` became visible in that cycle."""
        order = self._order[producer]
        for times, signal in ((self._retire, "signal_wr"), (self._rd, "signal_rd")):
            at = bisect_left(order, visible - 1, key=lambda i: self._boot[3] if i == BOOT else times[i])
            while at < len(order) and order[at] != BOOT and times[order[at]] == visible - 1:
                if getattr(self._instructions[order[at]], signal) >> consumer & 1:
                    return order[at]
                at += 1
        return None
