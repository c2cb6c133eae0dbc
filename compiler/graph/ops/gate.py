"""The product of a gated feed-forward layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Gate(Op):
    """``silu(gate) * up``, of equal shapes."""

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, gate: Shape, up: Shape) -> Shape:
        if gate != up:
            raise WorkloadError(f"gate: gate {gate} and up {up} do not fit together")
        return gate

    def evaluate(self, walk: Walk, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return silu(gate) * up

    def vector_elements(self, gate: Shape, up: Shape) -> int:
        """Two passes, since a VECTOR with SILU multiplies by constants only."""
        return 2 * int(np.prod(gate))


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``, without overflow for large negative x."""
    return x * np.exp(-np.logaddexp(0.0, -x))
