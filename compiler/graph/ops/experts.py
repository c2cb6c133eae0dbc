"""Gated experts, weighted and added.

Experts are made one by one where their weights are; results are added in the order of their experts, as on the tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ....sim.lib.threads import map_runs
from ...activation_names import check_activation
from ..ir import Op, Shape, Slot
from .gate import gated

if TYPE_CHECKING:
    from ..evaluate import Walk

_FEW_ROWS, _ONE_THREAD_MACS = 16, 1 << 17
_EXPERTS_AT_ONCE = 32
"""Experts whose results are held before they are added."""


@dataclass(frozen=True, kw_only=True)
class Experts(Op):
    """x (rows, hidden), combine weights (rows, top_k), gate and up (experts, f, hidden), down (experts, hidden, f):
    y[t] = sum over the chosen e of w[t, e] * down_e (activation_e(gate_e x[t]) * up_e x[t]).

    activations: names in `gate.ACTIVATIONS`, of each expert; empty: SiLU of all. on_input: each weight multiplies what
    its expert reads, x[t], and not what it makes; of what follows only the activation is not linear, so that w is put
    into the activation, and once outside, where it replaces that of the up projection. biases: of each expert's three
    results, further inputs (experts, f), (experts, f) and (experts, hidden)."""

    activations: tuple[str, ...] = ()
    on_input: bool = False
    biases: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        added = (Slot.FP32,) * 3 if self.biases else ()
        return Slot.ACTIVATIONS, Slot.FP32, Slot.WEIGHTS, Slot.WEIGHTS, Slot.WEIGHTS, *added

    def shape(self, x: Shape, weights: Shape, gate: Shape, up: Shape, down: Shape, *biases: Shape) -> Shape:
        if biases and (biases != (gate[:2], gate[:2], down[:2]) or self.on_input):
            raise WorkloadError(f"experts: biases: expected {gate[:2]} twice, {down[:2]} and weights on the output, "
                                f"got {', '.join(map(str, biases))}{', and weights on the input' * self.on_input}")
        if gate != up or down != (gate[0], gate[2], gate[1]) or x != (weights[0], gate[2]) or weights[1] > gate[0]:
            raise WorkloadError(f"experts: x {x}, combine weights {weights}, gate {gate}, up {up} and down {down} do "
                                "not fit together")
        if self.activations and len(self.activations) != gate[0]:
            raise WorkloadError(f"experts: activations: expected {gate[0]}, got {len(self.activations)}")
        for name in self.activations:
            check_activation("experts", name)
        return x

    def activation(self, expert: int) -> str:
        return self.activations[expert] if self.activations else "silu"

    def evaluate(self, walk: Walk, x: np.ndarray, weights: np.ndarray, *_: None) -> np.ndarray:
        routing = walk.routing
        assert routing is not None, "a router comes first"
        held_x = walk.hold(walk.node.inputs[0], Slot.ACTIVATIONS, x)

        def compute(expert: int) -> np.ndarray:
            tokens, ranks = routing.tokens_of(expert)
            own = walk.expert(expert)
            gate, up, down = (walk.hold((expert, name), Slot.WEIGHTS, own[name]) for name in ("gate", "up", "down"))
            of_gate, of_up, of_down = (own.get(f"{name}_bias", 0.0) for name in ("gate", "up", "down"))
            rows = held_x[tokens].astype(np.float64)
            weight = weights[tokens, ranks][:, None]
            inside = linear(rows, gate) * weight if self.on_input else linear(rows, gate) + of_gate
            product = gated(self.activation(expert), inside, linear(rows, up) + of_up)
            product = walk.hold((expert, "product"), Slot.ACTIVATIONS, product)
            return weight * (linear(product, down) + of_down)

        out = np.zeros(x.shape)
        for start in range(0, len(routing.active), _EXPERTS_AT_ONCE):
            experts = routing.active[start:start + _EXPERTS_AT_ONCE]
            for expert, part in zip(experts, map_runs(compute, experts), strict=True):
                out[routing.tokens_of(expert)[0]] += part
        return out

    def macs(self, x: Shape, weights: Shape, gate: Shape, *_: Shape) -> dict[str, int]:
        one = x[0] * weights[1] * gate[1] * gate[2]
        return {"gate and up": 2 * one, "down": one}

    def vector_elements(self, x: Shape, weights: Shape, gate: Shape, *_: Shape) -> int:
        """SiLU and its product with the up projection are two passes, since a VECTOR with SILU multiplies by constants
        only; each of a token's results is weighted or added."""
        return x[0] * weights[1] * (2 * gate[1] + x[1])


def linear(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``x @ weight.T`` in float64, for (rows, k) float64 and (n, k) float32 or float64.

    For a few rows it is made in pieces of n that stay in the cache as float64, and that are too small for threads of
    BLAS: two that wait for each other on a busy machine took ten times as long (`sim.exact_matmul.float_matmul`).
    """
    rows, k = x.shape
    if rows > _FEW_ROWS:
        return x @ weight.astype(np.float64).T
    step = max(8, _ONE_THREAD_MACS // (rows * k))
    out = np.empty((rows, len(weight)))
    for start in range(0, len(weight), step):
        out[:, start:start + step] = x @ weight[start:start + step].astype(np.float64).T
    return out
