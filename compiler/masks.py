"""Masks as data: which keys a query sees. Everything that depends on it asks here: the count of useful pairs, the
float64 layer, which blocks of keys the core visits, and the limit that a MATMUL applies to a block.

Queries are named by their position in the sequence, keys by theirs; a sequence has ``keys`` of them, the last for its
last token.
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
    """What stays of a block of scores: row i keeps columns up to ``base + step * i``. needed: false where that is all
    of them, so that no mask need be applied."""

    base: int
    step: int
    needed: bool


@dataclass(frozen=True)
class KeyMask:
    """causal: the query at position p sees keys 0 to p; else all ``keys``."""

    keys: int
    causal: bool

    def visible(self, position: int) -> int:
        """Keys that a query sees: the first so many."""
        return min(self.keys, position + 1) if self.causal else self.keys

    def pairs(self, first: int, count: int) -> int:
        """(query, key) pairs of ``count`` queries from position ``first`` on, all within the keys."""
        return count * first + count * (count + 1) // 2 if self.causal else count * self.keys

    def seen(self, first: int, count: int) -> np.ndarray:
        """(count, keys) bool, for queries from position ``first`` on."""
        import numpy as np  # not at the start: reading a model's layers needs none

        visible = first + np.arange(count) + 1 if self.causal else np.full(count, self.keys)
        return np.arange(self.keys) < visible[:, None]

    def limit(self, position: int, step: int, first: int, count: int, columns: int) -> Limit:
        """For scores of queries at ``position``, ``position + step`` and so on, against keys from ``first`` on.

        columns: of the block, ``count`` of which are keys that some row sees; the others are padding, which no row may
        see. step: 1, or 0 where all rows are one token, the last one.
        """
        if not self.causal or step == 0:
            return Limit(count - 1, 0, columns > count)
        # Padding follows the last key that the last row sees, so the causal limit hides it too.
        return Limit(min(position - first, MOST_BASE), 1, position - first < columns - 1)


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """``batch`` sequences of ``tokens`` queries each, the first at position ``cached``, against ``keys`` keys each.

    What an attention op must know of a request where its keys are not those of its own tokens."""

    batch: int
    tokens: int
    keys: int
    cached: int = 0
    causal: bool = False

    @property
    def key_mask(self) -> KeyMask:
        return KeyMask(keys=self.keys, causal=self.causal)

    @property
    def pairs(self) -> int:
        """(query, key) pairs left by the mask, for one sequence and one head."""
        return self.key_mask.pairs(self.cached, self.tokens)
