"""The product of a gated feed-forward layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Gate(Op):
    """``activation(gate) * up``, of equal shapes; activation: a name in `ACTIVATIONS`."""

    activation: str = "silu"

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, gate: Shape, up: Shape) -> Shape:
        check_activation("gate", self.activation)
        if gate != up:
            raise WorkloadError(f"gate: gate {gate} and up {up} do not fit together")
        return gate

    def evaluate(self, walk: Walk, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return ACTIVATIONS[self.activation](gate) * up

    def vector_elements(self, gate: Shape, up: Shape) -> int:
        """Two passes, since a VECTOR with SILU multiplies by constants only."""
        return 2 * int(np.prod(gate))


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``, without overflow for large negative x."""
    return x * np.exp(-np.logaddexp(0.0, -x))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": silu, "sigmoid": lambda x: np.exp(-np.logaddexp(0.0, -x)), "relu": lambda x: np.maximum(x, 0.0)}
"""In float64, by the names that `tiles.expr.ACTIVATIONS` has too."""


def check_activation(where: str, name: str) -> None:
    """Raise `WorkloadError` unless it is a name in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise WorkloadError(f"{where}: activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
