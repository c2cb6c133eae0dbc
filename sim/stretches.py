"""Cuts a program into short stretches, so that the same work done twice is the same stretch twice.

Loops leave their trace in a straight-line program: the same instructions again. To look at each of them once, the
program is cut where its content says so (as file synchronisation and deduplication do: Muthitacharoen et al., *A
low-bandwidth network file system*, SOSP 2001): before every instruction whose last few predecessors hash to a multiple
of some number. So the same instructions are cut the same way wherever they stand, and what is put in between, such as
the load of a page of instruction memory, moves the cuts around itself only.

Marks made by the compiler were rejected: a program read from a file has none, whoever proves something from them must
check them first, and pages cut through their bodies.
"""

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_WINDOW = 4
_SHORT, _LONG = 12, 192
"""Instructions between two cuts, in random content, of short programs and of long ones: what repeats often enough may
be cut into longer stretches, which cost less each."""
_LONGEST = 6
"""Times that is a stretch at the most, unless it is there only once."""


class Stretch(NamedTuple):
    """Instructions ``start`` to ``end`` - 1. number: the same for the same content; -1 if there is no other.
    uses: how often the content is there."""

    start: int
    end: int
    number: int
    uses: int = 1


def stretches(kinds: NDArray[np.int32], longest: int = _LONG) -> list[Stretch]:
    """Cut a program; ``kinds`` (n,) are numbers of what counts as the same instruction.

    longest: instructions between two cuts, in random content, of the longest programs. Neighbours that are there only
    once are joined.
    """
    cuts = _cuts(kinds, min(longest, _SHORT + len(kinds) // 20_000))
    data, numbers = np.ascontiguousarray(kinds, np.int32).tobytes(), {}
    found: list[int] = []
    uses: list[int] = []
    for low, high in itertools.pairwise(cuts):
        number = numbers.setdefault(data[4 * low:4 * high], len(numbers))
        if number == len(uses):
            uses.append(0)
        uses[number] += 1
        found.append(number)
    parts: list[Stretch] = []
    for (low, high), number in zip(itertools.pairwise(cuts), found, strict=True):
        if uses[number] > 1:
            parts.append(Stretch(low, high, number, uses[number]))
        elif parts and parts[-1].number < 0:
            parts[-1] = Stretch(parts[-1].start, high, -1)
        else:
            parts.append(Stretch(low, high, -1))
    return parts


def _cuts(kinds: NDArray[np.int32], average: int) -> list[int]:
    count = len(kinds)
    mixed = np.zeros(count, np.uint64)
    for step in range(min(_WINDOW, count)):
        ahead = kinds[:count - step].astype(np.uint64) + np.uint64(1)
        mixed[step:] = (mixed[step:] ^ ahead * np.uint64(0x9E3779B97F4A7C15 + 2 * step)) * np.uint64(0xBF58476D1CE4E5B9)
    places = np.flatnonzero((mixed >> np.uint64(33)) % np.uint64(average) == 0).tolist()
    cuts = [0]
    for place in [*places, count]:
        while place - cuts[-1] > _LONGEST * average:
            cuts.append(cuts[-1] + _LONGEST * average)
        if place - cuts[-1] >= min(average // 2, count - cuts[-1]) and place > cuts[-1]:
            cuts.append(place)
    if cuts[-1] < count:
        cuts.append(count)
    return cuts
