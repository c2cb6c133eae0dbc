"""RMS norm of rows, or of heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Op):
    """``weight * x / sqrt(mean(x^2) + eps)``: the mean over all of a row (rows, n), with a weight (n,); of (rows,
    heads, d) over each head's d with a weight (d,), over all heads with (heads * d,). offset: added to the weight.
    weighted: without, the weight is 1 and there is no such input; the mean is over the last axis."""

    eps: float
    offset: float = 0.0
    weighted: bool = True

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot.FP32,) * (1 + self.weighted)

    def shape(self, x: Shape, *weights: Shape) -> Shape:
        weight = weights[0] if weights else x[-1:]
        if weight not in ((x[-1],), (int(np.prod(x[1:])),)):
            raise WorkloadError(f"rms norm: a weight {weight} does not fit x {x}")
        return x

    def vector_elements(self, x: Shape, *weight: Shape) -> int:
        """Of rows, squares and products. Those of heads are not counted: the products may be made together with the
        rotary embedding's."""
        return 2 * int(np.prod(x)) if len(x) == 2 else 0

    def evaluate(self, walk: Walk, x: np.ndarray, *weights: np.ndarray) -> np.ndarray:
        weight = weights[0] if weights else np.ones(x.shape[-1])
        flat = walk.hold(walk.node.inputs[0], Slot.FP32, x).reshape(-1, len(weight))
        return rms_norm(flat, weight.astype(np.float64) + self.offset, self.eps).reshape(x.shape)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis."""
    return weight * x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)
