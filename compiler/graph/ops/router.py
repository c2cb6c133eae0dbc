"""The router of experts: the top k of the logits, and their softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...routing import combine_weights, topk_softmax_route
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Router(Op):
    """Logits (rows, experts) -> combine weights (rows, top_k), for the walk's choice of experts, or the top k of the
    logits where it has none."""

    top_k: int
    norm_topk: bool

    slots = (Slot.FP32,)

    def shape(self, logits: Shape) -> Shape:
        return logits[0], self.top_k

    def evaluate(self, walk: Walk, logits: np.ndarray) -> np.ndarray:
        if walk.routing is None:
            walk.routing = topk_softmax_route(logits, self.top_k, norm_topk=self.norm_topk)
        routing, wanted = walk.routing, (len(logits), self.top_k)
        if routing.chosen.shape != wanted or routing.experts != logits.shape[1]:
            raise WorkloadError(f"routing: expected a choice of {wanted} among {logits.shape[1]} experts, got "
                                f"{routing.chosen.shape} among {routing.experts}")
        return combine_weights(logits, routing.chosen, norm_topk=self.norm_topk)

    def vector_elements(self, logits: Shape) -> int:
        """Each probability is made."""
        return logits[0] * logits[1]
