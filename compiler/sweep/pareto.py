"""The Pareto front of points in two or three dimensions."""

from collections.abc import Sequence

import numpy as np


def front(scores: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows of ``scores``, where less is better, that no other row dominates, ascending.

    A row dominates another if it is nowhere worse and somewhere better; equal rows do not dominate each other.
    """
    points = np.asarray(scores, np.float64)
    if not len(points):
        return []
    order = np.lexsort(points.T[::-1])
    kept: list[int] = []
    best = np.empty((0, points.shape[1]))
    for index in order.tolist():  # whatever dominates a row comes before it
        point = points[index]
        if not ((best <= point).all(axis=1) & (best < point).any(axis=1)).any():
            kept.append(index)
            best = np.vstack([best, point])
    return sorted(kept)
