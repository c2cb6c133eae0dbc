"""LayerNorm of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot
from .rms_norm import RmsNorm, rms_norm

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Op):
    """``weight * c / sqrt(mean(c^2) + eps) + bias`` of x (rows, n), where c is x - mean(x), with a weight (n,), to
    which ``offset`` is added, and, ``biased``, a bias (n,)."""

    eps: float
    offset: float = 0.0
    biased: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot.FP32,) * (2 + self.biased)

    def shape(self, x: Shape, *vectors: Shape) -> Shape:
        if len(x) != 2 or any(vector != x[1:] for vector in vectors):
            raise WorkloadError(f"layer norm: x {x} and vectors {' and '.join(map(str, vectors))} do not fit together")
        return x

    def vector_elements(self, x: Shape, *vectors: Shape) -> int:
        """Sums, squares and products."""
        return 3 * int(np.prod(x))

    def evaluate(self, walk: Walk, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        held = walk.hold(walk.node.inputs[0], Slot.FP32, x)
        made = rms_norm(held - held.mean(axis=-1, keepdims=True), weight.astype(np.float64) + self.offset, self.eps)
        return made + bias[0] if bias else made


Norm = RmsNorm | LayerNorm
"""Of rows."""
