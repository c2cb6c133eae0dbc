"""Names of activations: functions in float64 are in `graph.ops.gate`, statements of the tile in `tiles.activations`."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from ..rtl.spec.errors import WorkloadError

ACTIVATIONS = ("silu", "sigmoid", "relu", "relu2", "gelu", "gelu_tanh")

HUGGING_FACE = {"silu": "silu", "swish": "silu", "sigmoid": "sigmoid", "relu": "relu", "relu2": "relu2", "gelu": "gelu",
                "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh"}
"""By the names that configurations have (``transformers.activations.ACT2FN``)."""

_CLAMPED = re.compile(r"clamped_swiglu\(([^,]+), ([^,]+)\)")


class Clamped(NamedTuple):
    """The gate of gpt-oss, by its name ``clamped_swiglu(LIMIT, ALPHA)``: with g = min(gate, limit) and u = up between
    -limit and limit, ``(u + 1) * g * sigmoid(alpha * g)``."""

    limit: float
    alpha: float

    @property
    def name(self) -> str:
        return f"clamped_swiglu({self.limit:g}, {self.alpha:g})"


def clamped(name: str) -> Clamped | None:
    """The gate of a name, None for those of `ACTIVATIONS` and for what is none."""
    found = _CLAMPED.fullmatch(name)
    try:
        values = [float(text) for text in found.groups()] if found else []
    except ValueError:
        return None
    return Clamped(*values) if values and all(math.isfinite(v) and v > 0 for v in values) else None


def check_activation(where: str, name: str, *, alone: bool = False) -> None:
    """Raise `WorkloadError` unless it is a name in `ACTIVATIONS`, or that of a gate where it is not ``alone``."""
    if name not in ACTIVATIONS and (alone or clamped(name) is None):
        others = "" if alone else " or clamped_swiglu(LIMIT, ALPHA)"
        raise WorkloadError(f"{where}: activation: expected one of {', '.join(ACTIVATIONS)}{others}, got {name!r}")
