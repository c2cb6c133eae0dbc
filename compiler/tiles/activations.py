"""Activations of feed-forward layers as statements: from what the GEMM made to the product whose codes are written.

Names and float64 functions are in `graph.ops.gate`. Each operation rounds once to FP32, and nothing else is
approximate, but for these:

* ``gelu`` is ``x * sigmoid(x * q(x * x))`` with a polynomial q of degree 4, fitted to the logit of the normal
  distribution: at most `GELU_ERROR` from it, everywhere. The vector unit has no error function; a table of its own
  would be the sixth function of every lane.
* ``gelu_tanh`` is the same with q of degree 1, which is exact: (1 + tanh(y)) / 2 = sigmoid(2 y).

Values stand in three regions: ``x`` (what the activation takes), ``up`` and ``own``. Statements may overwrite all of
them. A VECTOR reads each bank once, and x and up share one: so no statement reads both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

from ..activation_names import Clamped, clamped
from .expr import Assign, Elem, Expr, maximum, sigmoid, silu

GELU = (1.5956562729072647, 0.07293757654489623, -0.0002497194478283789, -6.116281507229554e-05, 2.238212842333692e-06)
"""Of q, the constant first: minimax over |x| up to 8 by reweighted least squares. q is positive and x * q(x * x) is
above 20 beyond."""
GELU_ERROR = 4e-6
_TANH = 2 * (2 / pi) ** 0.5


@dataclass(frozen=True)
class Product:
    """``statements``, after which ``value`` times ``scale`` is the product."""

    statements: tuple[Assign, ...]
    value: Expr
    scale: float = 1.0


def _times_sigmoid(x: Elem, own: Elem, q: tuple[float, ...]) -> list[Assign]:
    """own <- x * sigmoid(x * q(x * x)), q of degree 1 at least, by Horner's rule."""
    *rest, before, first = q
    steps = [Assign(to=own, value=(x * x + before / first) * first, label="q(x)")]
    for coefficient in reversed(rest):
        steps += [Assign(to=own, value=own * x, label="q(x)"),
                  Assign(to=own, value=own * x + coefficient, label="q(x)")]
    return [*steps, Assign(to=own, value=own * x, label="x q(x)"),
            Assign(to=own, value=sigmoid(own) * x, label="x * sigmoid")]


def _scaled(x: Elem, factor: float) -> list[Assign]:
    return [] if factor == 1 else [Assign(to=x, value=x, scale=factor, label="scale")]


def _relu(x: Elem, own: Elem, factor: float) -> list[Assign]:
    return [Assign(to=own, value=maximum(x * factor, 0), label="relu")]


ACTIVATIONS: dict[str, Callable[[Elem, Elem, float], list[Assign]]] = {
    "silu": lambda x, own, factor: [Assign(to=own, value=silu(x * factor), label="silu")],
    "sigmoid": lambda x, own, factor: [Assign(to=own, value=sigmoid(x * factor), label="sigmoid")],
    "relu": _relu,
    "relu2": lambda x, own, factor: [*_relu(x, own, factor), Assign(to=own, value=own * own, label="square")],
    "gelu": lambda x, own, factor: [*_scaled(x, factor), *_times_sigmoid(x, own, GELU)],
    "gelu_tanh": lambda x, own, factor: [*_scaled(x, factor), *_times_sigmoid(x, own, (_TANH, _TANH * 0.044715))],
}
"""(x, own, factor) -> own <- activation(x * factor)."""


def product(name: str, x: Elem, own: Elem, factor: float, up: Elem | None = None, up_factor: float = 1.0) -> Product:
    """Of ``x * factor``, and ``up * up_factor`` where there is a gate."""
    special = clamped(name)
    if special is not None:
        assert up is not None, "a gate has two sides"
        return _clamped(special, x, own, factor, up, up_factor)
    statements = tuple(ACTIVATIONS[name](x, own, factor))
    return Product(statements, own) if up is None else Product(statements, own * up, up_factor)


def _clamped(gate: Clamped, x: Elem, own: Elem, factor: float, up: Elem, up_factor: float) -> Product:
    """The vector unit takes maxima only: a minimum is that of the negative value. -g first, then
    alpha g sigmoid(alpha g), whose factor of alpha goes with the product; then -u, and u + 1."""
    limit = gate.limit
    return Product((
        Assign(to=x, value=maximum(x * -factor, -limit), label="clamp gate"),
        Assign(to=own, value=silu(x * -gate.alpha), label="silu"),
        Assign(to=up, value=maximum(up * up_factor, -limit), label="clamp up"),
        Assign(to=up, value=maximum(up * -1.0, -limit), label="clamp up"),
        Assign(to=up, value=up * -1.0 + 1.0, label="up + 1"),
    ), own * up, 1 / gate.alpha)
