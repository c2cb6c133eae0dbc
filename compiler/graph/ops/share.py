"""Weights of rows that do not come from a choice: the gate of a shared expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot
from .gate import sigmoid

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Op):
    """Of every element."""

    slots = (Slot.FP32,)

    def shape(self, x: Shape) -> Shape:
        return x

    def evaluate(self, walk: Walk, x: np.ndarray) -> np.ndarray:
        return sigmoid(x)

    def vector_elements(self, x: Shape) -> int:
        return int(np.prod(x))


@dataclass(frozen=True, kw_only=True)
class ScaleRows(Op):
    """x (rows, n), weights (rows, 1), none of them negative: each row times its weight."""

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, x: Shape, weights: Shape) -> Shape:
        if weights != (x[0], 1):
            raise WorkloadError(f"scale rows: x {x} and weights {weights} do not fit together")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return x * weights

    def vector_elements(self, x: Shape, weights: Shape) -> int:
        return int(np.prod(x))
