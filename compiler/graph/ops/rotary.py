"""The rotary embedding of heads, or of a part of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...layers import Workload
from ...rotary import RopeScaling
from ...rotary_frequencies import frequencies
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Rotary(Op):
    """(rows, heads, d), each row at its position in the sequence.

    ``size`` features of each head from ``first`` on are rotated, with frequencies of base ``theta``; the others are
    kept. Pair i of them is (i, i + size / 2), or, interleaved, (2i, 2i + 1).
    """

    workload: Workload
    theta: float
    size: int
    scaling: RopeScaling | None = None
    first: int = 0
    interleaved: bool = False

    slots = (Slot.FP32,)

    def shape(self, x: Shape) -> Shape:
        if x[0] != self.workload.rows or x[2] < self.first + self.size or self.size % 2 or (x[2] - self.size) % 2:
            raise WorkloadError(f"rotary embedding: expected ({self.workload.rows}, heads, an even number from "
                                f"{self.first + self.size}), got {x}")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray) -> np.ndarray:
        out = x.astype(np.float64)
        low, high = self.pairs(x.shape[2])
        turned = slice(0, self.size // 2)
        pairs = np.concatenate([low[turned], high[turned]])
        out[..., pairs] = rotate(out[..., pairs], *self.rows())
        return out

    def pairs(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Features of a head of ``size``, (size / 2,) twice: i of one is rotated with i of the other; the first
        ``self.size / 2`` pairs are, those behind are kept."""
        own = self.first + np.arange(self.size)
        low, high = (own[0::2], own[1::2]) if self.interleaved else np.split(own, 2)
        kept = np.split(np.setdiff1d(np.arange(size), own), 2)
        return np.concatenate([low, kept[0]]), np.concatenate([high, kept[1]])

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """``cos, sin (rows of x, size / 2)``: new token i of each sequence stands at context + i."""
        workload = self.workload
        positions = np.tile(workload.cached + np.arange(workload.tokens), workload.batch)
        scale = 1.0 if self.scaling is None else self.scaling.attention_scaling
        return rotary_tables(positions, frequencies(self.theta, self.size, workload.keys, self.scaling), scale)

    def vector_elements(self, x: Shape) -> int:
        """Two products, a pass each."""
        return 2 * x[0] * x[1] * self.size


def rotary_tables(positions: np.ndarray, frequencies: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """``cos, sin (len(positions), size / 2) float64`` times ``scale``: angle i of position p is p * frequencies[i]."""
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    return scale * np.cos(angles), scale * np.sin(angles)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotary embedding of ``x (rows, heads, size)``: pair i is (x[i], x[i + size / 2])."""
    low, high = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
