"""x times the transpose of a weight matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Linear(Op):
    """``(rows, k) x (n, k) -> (rows, n)``, or (rows, heads, n / heads).

    An input (rows, heads, d) counts as (rows, heads * d); no block of a scale then holds values of two heads. turned:
    the tile exchanges the operands, and makes the result's transpose. terms: both operands are sums of E4M3 terms.
    bias: a third input (n,), added to every row. scale: a factor on the product. cap: the result z becomes
    ``cap * tanh(z / cap)``. part: only these rows of each head of
    the weight (and bias). flat: the result is (rows, heads * size).
    """

    heads: int | None = None
    scale: float = 1.0
    turned: bool = False
    terms: bool = False
    bias: bool = False
    part: tuple[int, int] | None = None
    flat: bool = False
    cap: float | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        added = (Slot.FP32,) if self.bias else ()
        if self.terms:
            return Slot.TERMS, Slot.TERMS, *added
        return Slot.ACTIVATIONS, Slot.TURNED_WEIGHTS if self.turned else Slot.WEIGHTS, *added

    def shape(self, x: Shape, weight: Shape, *bias: Shape) -> Shape:
        if any(shape != (weight[0],) for shape in bias):
            raise WorkloadError(f"linear: a bias {bias[0]} does not fit a weight {weight}")
        if int(np.prod(x[1:])) != weight[1] or weight[0] % (self.heads or 1):
            raise WorkloadError(f"linear: a weight {weight} does not fit x {x}"
                                + (f" and {self.heads} heads" if self.heads else ""))
        heads = self.heads or 1
        size = weight[0] // heads
        first, last = self.part or (0, size)
        if not 0 <= first < last <= size:
            raise WorkloadError(f"linear: part: expected rows of 0 to {size}, got {self.part}")
        return (x[0], heads, last - first) if self.heads and not self.flat else (x[0], heads * (last - first))

    def own(self, weight: np.ndarray) -> np.ndarray:
        """The rows of a weight, or values of a bias, that are used."""
        if self.part is None:
            return weight
        heads, (first, last) = self.heads or 1, self.part
        parts = weight.reshape(heads, len(weight) // heads, *weight.shape[1:])[:, first:last]
        return parts.reshape(heads * (last - first), *weight.shape[1:])

    def evaluate(self, walk: Walk, x: np.ndarray, weight: np.ndarray, *bias: np.ndarray) -> np.ndarray:
        added = self.own(bias[0].astype(np.float64)) if bias else 0.0
        if self.terms:
            return walk.multiply_terms(x, weight) + added
        heads = (len(weight), *x.shape[1:])
        held = (walk.hold(walk.node.inputs[0], self.slots[0], x),
                walk.hold(walk.node.inputs[1], self.slots[1], weight.reshape(heads)))
        flat_x, flat_weight = (part.reshape(len(part), -1).astype(np.float64) for part in held)
        out = self.scale * (flat_x @ self.own(flat_weight).T) + added
        out = out if self.cap is None else soft_cap(out, self.cap)
        return out.reshape(len(x), self.heads, -1) if self.heads and not self.flat else out

    def macs(self, x: Shape, weight: Shape, *bias: Shape) -> dict[str, int]:
        return {"": x[0] * int(np.prod(self.shape(x, weight)[1:])) * weight[1]}

    def vector_elements(self, x: Shape, weight: Shape, *bias: Shape) -> int:
        return int(np.prod(self.shape(x, weight)))


def soft_cap(x: np.ndarray, cap: float) -> np.ndarray:
    """``cap * tanh(x / cap)``."""
    return cap * np.tanh(x / cap)
