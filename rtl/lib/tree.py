"""Balanced trees of a two-input operation: depth log2(n) where a fold would have depth n."""

import operator
from collections.abc import Callable, Iterable

from amaranth.hdl import Value


def tree(operation: Callable[[Value, Value], Value], values: Iterable[Value]) -> Value:
    """``values`` (at least one) combined pairwise, then the results pairwise, and so on."""
    level = list(values)
    if not level:
        raise ValueError("a tree needs at least one value")
    while len(level) > 1:
        pairs = [operation(*level[i:i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs):]
    return level[0]


def tree_sum(values: Iterable[Value]) -> Value:
    """Sum of all values, wide enough for it."""
    return tree(operator.add, values)


def tree_or(values: Iterable[Value]) -> Value:
    """Bitwise or of all values."""
    return tree(operator.or_, values)
