"""Masks as data: which keys a query sees. Everything that depends on it asks here: the count of useful pairs, the
float64 layer, which blocks of keys the core visits, and the limits that a MATMUL applies to a block.

Queries are named by their position in the sequence, keys by theirs; a sequence has ``keys`` of them, the last for its
last token. A query sees a range of keys: `KeyMask.lowest` to one below `KeyMask.visible`. Neither falls as the position
rises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rtl.spec.isa import SPEC_BY_NAME

if TYPE_CHECKING:
    import numpy as np

MOST_BASE = next(field for field in SPEC_BY_NAME["MATMUL"].fields if field.name == "mask_base").values[-1]
"""The highest limit of an instruction; it hides no column."""


@dataclass(frozen=True)
class Limit:
    """What stays of a block of scores: row i keeps columns up to ``base + step * i``, or from there on. needed: false
    where that is all of them, so that no mask need be applied."""

    base: int
    step: int
    needed: bool


@dataclass(frozen=True)
class KeyMask:
    """causal: the query at position p sees keys 0 to p; else all ``keys``.

    Of a causal mask, window: the query at p sees the last so many of them, p - window + 1 to p; chunk: those of its own
    chunk, the keys from p // chunk * chunk on. Semantics of ``sliding_window_overlay`` and ``chunked_overlay`` in
    transformers' ``masking_utils``.
    """

    keys: int
    causal: bool
    window: int | None = None
    chunk: int | None = None

    @property
    def bounded(self) -> bool:
        """Are there keys that a later query does not see?"""
        return any(size is not None and size < self.keys for size in (self.window, self.chunk))

    def lowest(self, position: int) -> int:
        """The first key that a query sees."""
        if self.window is not None:
            return max(0, position - self.window + 1)
        return position // self.chunk * self.chunk if self.chunk is not None else 0

    def visible(self, position: int) -> int:
        """Keys up to the last that a query sees."""
        return min(self.keys, position + 1) if self.causal else self.keys

    def needed(self, old: int, first: int) -> int:
        """Of the first ``old`` keys, how many queries from ``first`` on see; they are the last."""
        return max(0, old - self.lowest(first))

    def together(self, position: int, count: int) -> int:
        """Queries from ``position`` on, at most ``count``, whose first keys rise evenly: all by one, or not at all."""
        return count if self.chunk is None else min(count, self.chunk - position % self.chunk)

    def pairs(self, first: int, count: int) -> int:
        """(query, key) pairs of ``count`` queries from position ``first`` on, all within the keys."""
        return self._pairs_below(first + count) - self._pairs_below(first)

    def _pairs_below(self, position: int) -> int:
        """Pairs of all queries before ``position``."""
        if not self.causal:
            return position * self.keys
        full, whole = position, 0
        if self.window is not None and position > self.window:
            full, whole = self.window, (position - self.window) * self.window
        elif self.chunk is not None:
            full, whole = position % self.chunk, position // self.chunk * (self.chunk * (self.chunk + 1) // 2)
        return whole + full * (full + 1) // 2

    def seen(self, first: int, count: int) -> np.ndarray:
        """(count, keys) bool, for queries from position ``first`` on."""
        import numpy as np  # not at the start: reading a model's layers needs none

        lowest, visible = (np.array([[of(first + i)] for i in range(count)]) for of in (self.lowest, self.visible))
        keys = np.arange(self.keys)
        return (keys >= lowest) & (keys < visible)

    def limit(self, position: int, step: int, first: int, count: int, columns: int) -> Limit:
        """The upper limit, for scores of queries at ``position``, ``position + step`` and so on, against keys from
        ``first`` on.

        columns: of the block, ``count`` of which are keys that some row sees; the others are padding, which no row may
        see. step: 1, or 0 where all rows are one token, the last one.
        """
        if not self.causal or step == 0:
            return Limit(count - 1, 0, columns > count)
        # Padding follows the last key that the last row sees, so the causal limit hides it too.
        return Limit(min(position - first, MOST_BASE), 1, position - first < columns - 1)

    def lower_limit(self, position: int, step: int, rows: int, first: int) -> Limit:
        """The lower limit of such scores, of ``rows`` queries that are `together`; all zeros where none is needed."""
        if self.lowest(position + step * (rows - 1)) <= first:
            return Limit(0, 0, needed=False)
        if self.window is not None:
            return Limit(position - self.window + 1 - first, step, needed=True)
        return Limit(self.lowest(position) - first, 0, needed=True)


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """``batch`` sequences of ``tokens`` queries each, the first at position ``cached``, against ``keys`` keys each.

    What an attention op must know of a request where its keys are not those of its own tokens. causal, window, chunk:
    of its `KeyMask`."""

    batch: int
    tokens: int
    keys: int
    cached: int = 0
    causal: bool = False
    window: int | None = None
    chunk: int | None = None

    @property
    def key_mask(self) -> KeyMask:
        return KeyMask(keys=self.keys, causal=self.causal, window=self.window, chunk=self.chunk)

    @property
    def pairs(self) -> int:
        """(query, key) pairs left by the mask, for one sequence and one head."""
        return self.key_mask.pairs(self.cached, self.tokens)
