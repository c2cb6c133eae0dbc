"""Rows of cached tokens before those of new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Joined(Op):
    """cache (batch, 1, old, d) and new (batch * tokens, 1, d) -> (batch * (old + tokens), 1, d), by sequence; of new
    (batch * tokens, d): without the 1."""

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, cache: Shape, new: Shape) -> Shape:
        batch, one, old, size = cache
        if new[0] % batch or new[1:] not in ((one, size), (size,)):
            raise WorkloadError(f"joined: cache {cache} and new rows {new} do not fit together")
        return batch * old + new[0], *new[1:]

    def evaluate(self, walk: Walk, cache: np.ndarray, new: np.ndarray) -> np.ndarray:
        batch, _, _, size = cache.shape
        rows = np.concatenate([cache[:, 0].astype(np.float64), new.reshape(batch, -1, size)], axis=1)
        return rows.reshape(-1, *new.shape[1:])
