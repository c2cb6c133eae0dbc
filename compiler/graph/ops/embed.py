"""The rows of a table that tokens choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Embed(Op):
    """Token ids (rows,), whole numbers, and a table (vocab, n) -> (rows, n): ``scale * table[id]``."""

    scale: float = 1.0

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, ids: Shape, table: Shape) -> Shape:
        if len(ids) != 1 or len(table) != 2:
            raise WorkloadError(f"embedding: expected ids (rows,) and a table (vocab, n), got {ids} and {table}")
        return ids[0], table[1]

    def evaluate(self, walk: Walk, ids: np.ndarray, table: np.ndarray) -> np.ndarray:
        return self.scale * table[token_ids(ids, len(table))].astype(np.float64)

    def vector_elements(self, ids: Shape, table: Shape) -> int:
        """Rows without a factor pass it by."""
        return 0 if self.scale == 1.0 else ids[0] * table[1]


def token_ids(ids: np.ndarray, vocab: int) -> np.ndarray:
    """Ids as int64. Raises `WorkloadError` for one that is no row of a table of ``vocab`` rows."""
    found = np.asarray(ids).astype(np.int64)
    wrong = np.flatnonzero((found != ids) | (found < 0) | (found >= vocab))
    if wrong.size:
        raise WorkloadError(f"embedding: ids: element {wrong[0]}: expected a whole number from 0 to {vocab - 1}, got "
                            f"{ids[wrong[0]]:g}")
    return found
