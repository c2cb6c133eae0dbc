"""What a machine does with a program, stretch by stretch, computed once where it is the same again.

A *machine* goes over a program and keeps a state in which instructions are named by their indices; of two of one unit
it asks nothing but which is later. Then all that counts of a state is its shape and, unit by unit, the order of its
indices. When a stretch of
instructions (`stretches`) is met in a state of the same shape and order as before, the machine would do the same with
the indices that now take the places of the earlier ones, and come to the same state likewise. So that is noted once:
each index of the state behind the stretch is one of the state before it, or lies in the stretch.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .stretches import Stretch

Indices = NDArray[np.int64]

UNIT = 1 << 40
_UNITS = UNIT * np.arange(4)[:, None]
_NONE = UNIT * np.arange(4) - 1
_PATIENCE = 2
"""States in which a stretch is noted before the first repetition, and then some more (`Induction._hopeless`)."""


class Machine(Protocol):
    """Goes over instructions in program order."""

    def run(self, start: int, end: int) -> tuple[Any, Indices] | None:
        """Instructions ``start`` to ``end`` - 1. Returns what it did: anything, and the indices in it, each with
        its unit times `UNIT` added; or None when that depends on more than the state and the stretch's number."""
        ...

    def repeat(self, start: int, done: Any, indices: Indices) -> bool:
        """Do again at ``start`` what `run` has returned, with other indices; False if it cannot be done, and was not.

        The machine's own state is not looked at."""
        ...

    def state(self) -> tuple[Hashable, Sequence[int] | Indices, Sequence[int] | Indices]:
        """Shape, indices (-1 for none) of the state, and which unit's instructions they are; the shape decides the
        units."""
        ...

    def restore(self, shape: Any, indices: list[int]) -> None:
        """Take the state that `state` returned, with other indices."""
        ...


class _State(NamedTuple):
    shape: Hashable
    ranks: Indices


class _Record(NamedTuple):
    """done, places: what `Machine.run` returned, with places in the indices before, then the stretch's own. kept: the
    places of the indices behind, in their order. state: number of the state behind."""

    done: Any
    places: Indices
    kept: Indices
    state: int


class Induction:
    """One pass of ``machine``. repeated: instructions in stretches that were not gone through."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._states: list[_State] = []
        self._numbers: dict[tuple[Hashable, bytes], int] = {}
        self._known: dict[tuple[int, int], _Record] = {}
        self._state, self._indices = -1, _NONE
        self._live = True
        self._computed: Counter[int] = Counter()
        self._saved: Counter[int] = Counter()
        self.repeated = 0

    def run(self, parts: Iterable[Stretch]) -> None:
        """The whole program. Errors of the machine pass through."""
        for part in parts:
            if self._hopeless(part):
                part = part._replace(number=-1)
            if part.number >= 0 and self._state < 0:
                self._state, self._indices = self._capture()
            record = self._known.get((self._state, part.number))
            if record is None or not self._repeat(part, record):
                self._compute(part)
        self._revive()

    def _hopeless(self, part: Stretch) -> bool:
        """Whether the stretch has come in so many states, for one that was there before, that to note one more costs
        more than it may save."""
        return self._computed[part.number] > _PATIENCE + part.uses // 8 + 2 * self._saved[part.number]

    def _extended(self, part: Stretch) -> Indices:
        """The state's indices, and those of the stretch for every unit."""
        return np.concatenate([self._indices, (_UNITS + np.arange(part.start, part.end)).reshape(-1)])

    def _repeat(self, part: Stretch, record: _Record) -> bool:
        indices = self._extended(part)
        if not self._machine.repeat(part.start, record.done, (indices[record.places] + 1) % UNIT - 1):
            return False
        self._indices, self._state, self._live = indices[record.kept], record.state, False
        self._saved[part.number] += 1
        self.repeated += part.end - part.start
        return True

    def _compute(self, part: Stretch) -> None:
        self._revive()
        done = self._machine.run(part.start, part.end)
        before, self._state = self._state, -1
        if part.number < 0 or done is None:
            return
        self._computed[part.number] += 1
        indices = self._extended(part)
        order = np.argsort(indices)
        self._state, self._indices = self._capture()
        places, kept = (order[np.searchsorted(indices, found, sorter=order)] for found in (done[1], self._indices))
        self._known[before, part.number] = _Record(done[0], places, kept, self._state)

    def _revive(self) -> None:
        """Bring the machine itself to the state that it has been followed to."""
        if not self._live:
            shape, ranks = self._states[self._state]
            self._machine.restore(shape, ((self._indices[ranks] + 1) % UNIT - 1).tolist())
            self._live = True

    def _capture(self) -> tuple[int, Indices]:
        """Number of the machine's state, and its indices, by unit, each once."""
        shape, found, units = self._machine.state()
        found = np.array(found, np.int64) + UNIT * np.array(units, np.int64)
        indices, ranks = np.unique(np.concatenate([_NONE, found]), return_inverse=True)
        ranks = ranks[len(_NONE):]
        key = (shape, ranks.tobytes())
        number = self._numbers.setdefault(key, len(self._states))
        if number == len(self._states):
            self._states.append(_State(shape, ranks))
        return number, indices
