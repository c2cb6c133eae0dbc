"""The sum of a residual stream and what a block of the layer adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Add(Op):
    """``x + scale * y``, of equal shapes."""

    scale: float = 1.0

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, x: Shape, y: Shape) -> Shape:
        if x != y:
            raise WorkloadError(f"add: x {x} and y {y} do not fit together")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + self.scale * y

    def vector_elements(self, x: Shape, y: Shape) -> int:
        return int(np.prod(x))
