"""Full factorial designs of k factors with two levels: gains and interactions of a quantity that should multiply.

Effects are those of the log-additive model: the logarithm of a cell is a sum of one term per factor, and what is left
is due to interactions. A gain is how many times smaller the quantity becomes when a factor goes from its low to its
high level, on the geometric mean over all levels of the others; the interaction of two is by what the gain of one is
larger when the other is high than on the mean.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Cell = tuple[bool, ...]
"""Which factors are high."""


def cells(factors: int) -> list[Cell]:
    """All 2^k, the last factor changing fastest."""
    return list(itertools.product((False, True), repeat=factors))


@dataclass(frozen=True, kw_only=True)
class Effects:
    """gains: by factor; alone: the same with all others low; pairs: {(i, j): interaction}; whole: of all factors
    together; explained: the share of the logarithms' variance that the log-additive model explains."""

    gains: list[float]
    alone: list[float]
    pairs: dict[tuple[int, int], float]
    whole: float
    explained: float

    @property
    def product(self) -> float:
        """What all factors would give together if the gains alone multiplied."""
        return math.prod(self.alone)

    @property
    def strongest(self) -> tuple[int, int]:
        """The pair with the largest interaction, in either direction."""
        return max(self.pairs, key=lambda pair: abs(math.log(self.pairs[pair])))


def effects(values: Mapping[Cell, float], factors: Sequence[str]) -> Effects:
    """Of a positive quantity in every cell."""
    k = len(factors)
    order = cells(k)
    signs = np.array([[1 if high else -1 for high in cell] for cell in order], float)
    logs = np.log([values[cell] for cell in order])
    terms = signs.T @ logs / len(order)
    fitted = logs.mean() + signs @ terms
    spread = float(((logs - logs.mean()) ** 2).sum())
    low, high = order[0], order[-1]
    single = [tuple(j == i for j in range(k)) for i in range(k)]
    return Effects(
        gains=[math.exp(-2 * term) for term in terms], alone=[values[low] / values[cell] for cell in single],
        pairs={(i, j): math.exp(-2 * float((signs[:, i] * signs[:, j]) @ logs) / len(order))
               for i, j in itertools.combinations(range(k), 2)},
        whole=values[low] / values[high],
        explained=1 - float(((logs - fitted) ** 2).sum()) / spread if spread else 1.0)
