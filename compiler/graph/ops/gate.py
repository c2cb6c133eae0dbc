"""Activations of feed-forward layers, in float64, and the ops that apply them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...activation_names import check_activation, clamped
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Without overflow for large negative x."""
    return np.exp(-np.logaddexp(0.0, -x))


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """x times the standard normal distribution's probability below x."""
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x * 0.5**0.5))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The approximation of `gelu` by a hyperbolic tangent (Hendrycks and Gimpel, arXiv 1606.08415, section 2)."""
    return 0.5 * x * (1 + np.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "silu": silu, "sigmoid": sigmoid, "relu": lambda x: np.maximum(x, 0.0),
    "relu2": lambda x: np.square(np.maximum(x, 0.0)), "gelu": gelu, "gelu_tanh": gelu_tanh}
"""By the names of `activation_names` and `tiles.activations`."""

def gated(name: str, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The product of a gated layer."""
    special = clamped(name)
    if special is None:
        return FUNCTIONS[name](gate) * up
    g, u = np.minimum(gate, special.limit), np.clip(up, -special.limit, special.limit)
    return (u + 1) * g * sigmoid(special.alpha * g)


@dataclass(frozen=True, kw_only=True)
class Gate(Op):
    """``activation(gate) * up``, of equal shapes, or what else a gate of that name makes of both."""

    activation: str = "silu"

    slots = (Slot.FP32, Slot.FP32)

    def shape(self, gate: Shape, up: Shape) -> Shape:
        check_activation("gate", self.activation)
        if gate != up:
            raise WorkloadError(f"gate: gate {gate} and up {up} do not fit together")
        return gate

    def evaluate(self, walk: Walk, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
        return gated(self.activation, gate, up)

    def vector_elements(self, gate: Shape, up: Shape) -> int:
        """Two passes, since a VECTOR with SILU multiplies by constants only."""
        return 2 * int(np.prod(gate))


@dataclass(frozen=True, kw_only=True)
class Activate(Op):
    """``activation(x)``: the product of a layer without a gate."""

    activation: str

    slots = (Slot.FP32,)

    def shape(self, x: Shape) -> Shape:
        check_activation("activation", self.activation, alone=True)
        return x

    def evaluate(self, walk: Walk, x: np.ndarray) -> np.ndarray:
        return FUNCTIONS[self.activation](x)

    def vector_elements(self, x: Shape) -> int:
        return int(np.prod(x))
