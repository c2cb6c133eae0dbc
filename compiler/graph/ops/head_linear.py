"""Each head times a matrix of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class HeadLinear(Op):
    """x (rows, heads, k) and a weight (heads * all, m), of which head h has rows ``part`` of its ``all``: W (n, m).

    ``x W^T`` (rows, heads, n) for k = m, or, ``transposed``, ``x W`` (rows, heads, m) for k = n.
    """

    heads: int
    part: tuple[int, int]
    transposed: bool = False

    slots = (Slot.ACTIVATIONS, Slot.WEIGHTS)

    def shape(self, x: Shape, weight: Shape) -> Shape:
        sizes = (self.part[1] - self.part[0], weight[1])
        k, n = sizes if self.transposed else sizes[::-1]
        if weight[0] % self.heads or self.part[1] > weight[0] // self.heads or int(np.prod(x[1:])) != self.heads * k:
            raise WorkloadError(f"head linear: a weight {weight}, rows {self.part} of {self.heads} heads, does not fit "
                                f"x {x}")
        return x[0], self.heads, n

    def matrices(self, weight: np.ndarray) -> np.ndarray:
        """(heads, n, k): what each head is multiplied with, k along the last axis."""
        own = weight.reshape(self.heads, -1, weight.shape[1])[:, slice(*self.part)]
        return own.swapaxes(1, 2) if self.transposed else own

    def held(self, weight: str) -> str:
        """The operand that the matrices are: with a scale of their own, since they are parts of the weight."""
        return f"{weight} rows {self.part[0]} to {self.part[1] - 1} of heads, {'turned' if self.transposed else 'kept'}"

    def evaluate(self, walk: Walk, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        matrices = self.matrices(weight)
        x = walk.hold(walk.node.inputs[0], Slot.ACTIVATIONS, x).reshape(len(x), self.heads, -1)
        flat = np.ascontiguousarray(matrices).reshape(-1, matrices.shape[2])
        held = walk.hold(self.held(walk.node.inputs[1]), Slot.WEIGHTS, flat).reshape(matrices.shape)
        return np.einsum("rhk,hnk->rhn", x.astype(np.float64), held.astype(np.float64), optimize=True)

    def macs(self, x: Shape, weight: Shape) -> dict[str, int]:
        return {"": x[0] * self.heads * (self.part[1] - self.part[0]) * weight[1]}

    def vector_elements(self, x: Shape, weight: Shape) -> int:
        return int(np.prod(self.shape(x, weight)))
