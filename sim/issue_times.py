"""When each instruction is dispatched and issues: the max-plus part of the timing model, by induction.

What happens from some instruction on follows from the instructions to come and from the *state* relative to the next
dispatch cycle: which issues may still fill a queue, when units are free, which retirements hold a port, which tokens
are on their way. What lies so far back that it cannot delay anything is set to one value. So if a stretch of
instructions (`stretches`) is met in a state in which it was met before, it takes the same relative cycles and leaves
the same state, exactly: they are taken from the first time and nothing is computed. In any other case they are computed
one by one, in the same way.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..rtl.plan import REFETCH
from ..rtl.spec.config import TileConfig
from ..rtl.spec.isa import QUEUE_UNITS, Unit
from .stretches import Stretch, stretches

CHANNELS = tuple((producer, kind) for producer in QUEUE_UNITS for kind in range(2))
"""(producer, 0 rd or 1 wr) of the tokens of one consumer, in the order in which the ledger blames them."""


_LONGEST = 16
"""Of `stretches`: states are many, since cycles count, and a repetition costs little."""


class Kind(NamedTuple):
    """What decides an instruction's cycles. waits, signals: masks over `CHANNELS` and over units (rd, wr)."""

    unit: int
    occupancy: int
    rd: int
    wr: int
    waits: int
    signal_rd: int
    signal_wr: int


class State(NamedTuple):
    """Cycles relative to the next dispatch; what is too early to matter has one value, or is left out at the start.

    issues: per unit, those that may still be in the queue. retires: of LOAD and STORE, those that count as outstanding.
    free: when each unit may issue next; loads and stores that share a port are free at once. tokens: per channel
    (8 * consumer + number in `CHANNELS`) with tokens that are not taken, the cycles in which they are visible.
    """

    issues: tuple[tuple[int, ...], ...] = ((),) * len(QUEUE_UNITS)
    retires: tuple[tuple[int, ...], ...] = ((),) * 2
    free: tuple[int, ...] = (1,) * len(QUEUE_UNITS)
    tokens: tuple[tuple[int, tuple[int, ...]], ...] = ()


class _Record(NamedTuple):
    dispatch: NDArray[np.int64]
    issue: NDArray[np.int64]
    state: int
    next_dispatch: int


class MissingToken(Exception):
    """index: the instruction that waits for a token that no earlier one gives."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class IssueTimes:
    """Dispatch and issue cycles of a straight run of instructions without HALT.

    dispatch, issue: int64, one per instruction. repeated: instructions whose cycles were those of an earlier stretch.
    next_dispatch: the cycle from which the dispatcher is free again.
    """

    def __init__(self, config: TileConfig, kinds: Sequence[Kind], kind: NDArray[np.int32], start: State,
                 next_dispatch: int) -> None:
        """kinds: distinct; kind: (n,), the number of each instruction's. Raises `MissingToken`."""
        self._depth, self._limit, self._shared = config.queue_depth, config.dma_outstanding, config.dram_shared
        self._steps = [_step(one) for one in kinds]
        self._states: list[State] = [start]
        self._numbers: dict[State, int] = {start: 0}
        self._known: dict[tuple[int, int], _Record] = {}
        self.repeated = 0
        self.next_dispatch = next_dispatch
        records, bases, lengths, state = [], [], [], 0
        for stretch in stretches(kind, _LONGEST):
            record = self._known.get((state, stretch.number))
            if record is None:
                record = self._compute(stretch, kind[stretch.start:stretch.end].tolist(), state)
            else:
                self.repeated += stretch.end - stretch.start
            records.append(record)
            bases.append(self.next_dispatch)
            lengths.append(stretch.end - stretch.start)
            self.next_dispatch += record.next_dispatch
            state = record.state
        offsets = np.repeat(np.array(bases, np.int64), lengths)
        self.dispatch, self.issue = (
            np.concatenate([getattr(r, name) for r in records]) + offsets if records else np.empty(0, np.int64)
            for name in ("dispatch", "issue"))

    def _compute(self, stretch: Stretch, kinds: list[int], state: int) -> _Record:
        issues, retires, free, tokens = self._restore(self._states[state])
        depth, limit, shared, steps, now = self._depth, self._limit, self._shared, self._steps, 0
        dispatched, issued = [], []
        try:
            for number in kinds:
                unit, occupancy, wr, waits, gives = steps[number]
                if unit == Unit.DISPATCH:
                    d = t = max([now, *[tokens[channel].popleft() for channel in waits]])
                    now = d + REFETCH
                else:
                    queue, d = issues[unit], now
                    before = len(queue) - depth
                    if before >= 0 and queue[before] >= d:
                        d = queue[before] + 1
                    t = max(d + 1, free[unit])
                    for channel in waits:
                        visible = tokens[channel].popleft()
                        if visible > t:
                            t = visible
                    if unit <= Unit.STORE:
                        port = retires[unit]
                        before = len(port) - limit
                        if before >= 0 and port[before] >= t:
                            t = port[before] + 1
                        port.append(t + wr)
                    queue.append(t)
                    free[unit] = t + occupancy
                    if shared and unit <= Unit.STORE:
                        free[Unit.STORE - unit] = t + occupancy
                    for channel, delay in gives:
                        tokens[channel].append(t + delay)
                    now = d + 1
                dispatched.append(d)
                issued.append(t)
        except IndexError:
            raise MissingToken(stretch.start + len(issued)) from None
        after = self._state(issues, retires, free, tokens, now)
        number = self._numbers.setdefault(after, len(self._states))
        if number == len(self._states):
            self._states.append(after)
        record = _Record(np.array(dispatched, np.int64), np.array(issued, np.int64), number, now)
        if stretch.number >= 0:
            self._known[state, stretch.number] = record
        return record

    @staticmethod
    def _restore(state: State) -> tuple[list[list[int]], list[list[int]], list[int], list[deque[int]]]:
        tokens: list[deque[int]] = [deque() for _ in range(8 * len(Unit))]
        for channel, cycles in state.tokens:
            tokens[channel].extend(cycles)
        return [list(q) for q in state.issues], [list(p) for p in state.retires], list(state.free), tokens

    def _state(self, issues: list[list[int]], retires: list[list[int]], free: list[int], tokens: list[deque[int]],
               now: int) -> State:
        """An instruction dispatched at ``now`` issues at ``now + 1`` or later: nothing earlier can hold it up."""
        ready = [max(cycle - now, 1) for cycle in free]
        earliest = [*ready, 0]  # SYNC is over when it is dispatched
        return State(tuple(_recent(queue, self._depth, now, -1) for queue in issues),
                     tuple(_recent(port, self._limit, now, unit_ready - 1)
                           for port, unit_ready in zip(retires, ready, strict=False)),
                     tuple(ready), tuple(
                         (channel, tuple(max(cycle - now, earliest[channel // 8]) for cycle in cycles))
                         for channel, cycles in enumerate(tokens) if cycles))


def _step(kind: Kind) -> tuple[int, int, int, tuple[int, ...], tuple[tuple[int, int], ...]]:
    """unit, occupancy, wr, channels to take from, and (channel, cycles after the issue) to give to."""
    waits = tuple(8 * kind.unit + n for n in range(len(CHANNELS)) if kind.waits >> n & 1)
    gives = tuple((8 * consumer + CHANNELS.index((Unit(kind.unit), way)), after + 1)
                  for way, mask, after in ((0, kind.signal_rd, kind.rd), (1, kind.signal_wr, kind.wr))
                  for consumer in Unit if mask >> consumer & 1) if kind.unit != Unit.DISPATCH else ()
    return kind.unit, kind.occupancy, kind.wr, waits, gives


def _recent(cycles: list[int], count: int, now: int, early: int) -> tuple[int, ...]:
    """The last ``count`` relative to ``now``, at least ``early``; left out up to the first that is later."""
    clipped = [max(cycle - now, early) for cycle in cycles[-count:]]
    first = next((n for n, cycle in enumerate(clipped) if cycle > early), len(clipped))
    return tuple(clipped[first:])
