"""Values of a schedule that are tried, and the first of them that fits."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ..rtl.spec.config import TileConfig

T = TypeVar("T")


def first_that(candidates: Sequence[T], works: Callable[[T], bool]) -> T | None:
    """The first candidate that works, where all after one that works do too; None if none does."""
    low, high = 0, len(candidates)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(candidates[middle]) else (middle + 1, high)
    return candidates[low] if low < len(candidates) else None


def row_counts(config: TileConfig, m: int) -> Iterator[int]:
    """Rows of A that a block may have, most first: whole panels, then parts of one. No more than have their statistics
    in one bank."""
    for panels in range(-(-m // config.rows), 0, -1):
        if min(panels * config.rows, m) <= config.stat_bank_rows * config.cols:
            yield min(panels * config.rows, m)
    rows = config.rows // 2
    while rows:
        if rows < m:
            yield rows
        rows //= 2
