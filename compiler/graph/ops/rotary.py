"""The rotary embedding of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...layers import Workload
from ...rotary_frequencies import frequencies
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Rotary(Op):
    """(rows, heads, d), each row at its position in the sequence."""

    workload: Workload

    slots = (Slot.FP32,)

    def shape(self, x: Shape) -> Shape:
        if x[0] != self.workload.rows or x[2] != self.workload.attention.head_dim:
            raise WorkloadError(f"rotary embedding: expected ({self.workload.rows}, heads, "
                                f"{self.workload.attention.head_dim}), got {x}")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray) -> np.ndarray:
        return rotate(x, *rotary_rows(self.workload))

    def vector_elements(self, x: Shape) -> int:
        """Two products, a pass each."""
        return 2 * int(np.prod(x))


def rotary_tables(positions: np.ndarray, frequencies: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """``cos, sin (len(positions), head_dim // 2) float64`` times ``scale``: angle i of position p is
    p * frequencies[i]."""
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    return scale * np.cos(angles), scale * np.sin(angles)


def rotary_rows(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """The rotary tables of a workload, a row per row of x: new token i of each sequence stands at context + i."""
    layer = workload.attention
    positions = np.tile(workload.cached + np.arange(workload.tokens), workload.batch)
    return rotary_tables(positions, frequencies(layer.rope_theta, layer.head_dim, workload.keys, layer.rope_scaling),
                         layer.rotary_scale)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotary embedding of ``x (rows, heads, head_dim)`` in the Hugging Face convention.

    Pair i is (x[i], x[i + head_dim / 2]): the halves are rotated, not even and odd neighbours.
    """
    low, high = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
