"""The router of experts: the top k of the logits by some rule, and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...routing import route
from ...scores import combine_weights
from ...scoring import SOFTMAX, Scoring
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Router(Op):
    """Logits (rows, experts), then their bias and the correction of the choice, (experts,), where ``scoring`` has them
    -> combine weights (rows, top_k), for the walk's choice of experts, or the router's own where it has none."""

    top_k: int
    norm_topk: bool
    scoring: Scoring = SOFTMAX

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot.FP32,) * (1 + self.scoring.bias + self.scoring.correction)

    def shape(self, logits: Shape, *vectors: Shape) -> Shape:
        if any(vector != logits[1:] for vector in vectors):
            raise WorkloadError(f"router: logits {logits} and vectors {' and '.join(map(str, vectors))} do not fit "
                                "together")
        self.scoring.check("router", logits[1], self.top_k)
        return logits[0], self.top_k

    def biased(self, logits: np.ndarray, *vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits that are scored, and the correction of the choice."""
        if self.scoring.bias:
            logits = logits + vectors[0].astype(np.float64)
        return logits, vectors[-1] if self.scoring.correction else None

    def evaluate(self, walk: Walk, logits: np.ndarray, *vectors: np.ndarray) -> np.ndarray:
        logits, correction = self.biased(logits, *vectors)
        if walk.routing is None:
            walk.routing = route(logits, self.top_k, norm_topk=self.norm_topk, scoring=self.scoring,
                                 correction=correction)
        routing = walk.routing
        if len(routing.chosen) != len(logits) or routing.experts != logits.shape[1]:
            raise WorkloadError(f"routing: expected a choice for {len(logits)} tokens among {logits.shape[1]} experts, "
                                f"got {len(routing.chosen)} among {routing.experts}")
        return combine_weights(self.scoring, logits, routing.chosen, norm_topk=self.norm_topk,
                               sets=routing.sets)

    def vector_elements(self, logits: Shape, *_: Shape) -> int:
        """Each score is made."""
        return logits[0] * logits[1]
