"""How a router goes from logits to experts and weights, as data (`scores.py` has the mathematics).

A router makes one logit per expert, z = W x (+ a bias). What follows differs from model to model in these points only,
in this order:

1. *Scores*: the softmax over all experts, or the sigmoid of each; or the sparse mixer of Phi-3.5-MoE (arXiv 2409.12136
   without its training): of two experts each has a softmax of its own, over those that were not chosen before it and
   whose logits are near its own, ``(z - z_j) / max(|z_j|, z) <= 2 * jitter``.
2. *Choice*: the ``top_k`` largest of score (+ a correction bias, which changes the choice and no weight). With groups,
   experts are ``groups`` runs of equal length; only those of the ``kept_groups`` best groups can be chosen, a group
   counting its largest value (``max``) or the sum of its two largest (``top2``).
3. *Weights*: the chosen scores, divided by their sum + ``epsilon`` if the layer normalizes, times ``scale``. A softmax
   over the chosen logits is the same as a softmax over all, normalized.
4. *Use*: a weight multiplies what its expert makes, or, with ``on_input``, what its expert reads.

Where the order of logits is that of the values, they are compared and not the scores: functions round, and two
different logits may share a score. Equal values go to the lowest expert, and to the lowest group, which ``torch.topk``
leaves open. A logit that is not finite is an error where the choice is made. Where the tile makes what its router reads
(a decoder layer), one that becomes NaN there makes its row NaN: the choice is older, and every weight of a softmax or a
normalized sigmoid depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..rtl.spec.errors import WorkloadError

Score = Literal["softmax", "sigmoid", "sparsemixer"]
GroupScore = Literal["max", "top2"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The points of the module docstring; the defaults are those of Mixtral, Qwen3 and OLMoE. bias: of the logits;
    correction: of the choice (both are tensors of the layer). jitter: of the sparse mixer."""

    score: Score = "softmax"
    bias: bool = False
    correction: bool = False
    groups: int = 1
    kept_groups: int = 1
    group_score: GroupScore = "max"
    epsilon: float = 0.0
    scale: float = 1.0
    on_input: bool = False
    jitter: float = 0.0

    def check(self, where: str, experts: int, top_k: int) -> None:
        """Raise `WorkloadError` unless it is one, for so many experts."""
        for field, allowed in (("score", get_args(Score)), ("group_score", get_args(GroupScore))):
            if getattr(self, field) not in allowed:
                raise WorkloadError(f"{where}: {field}: expected one of {', '.join(allowed)}, got "
                                    f"{getattr(self, field)!r}")
        if self.groups < 1 or experts % self.groups:
            raise WorkloadError(f"{where}: groups: expected a divisor of experts = {experts}, got {self.groups}")
        if not 1 <= self.kept_groups <= self.groups:
            raise WorkloadError(f"{where}: kept_groups: expected an integer from 1 to groups = {self.groups}, got "
                                f"{self.kept_groups}")
        size = experts // self.groups
        if self.groups > 1 and self.group_score == "top2" and size < 2:
            raise WorkloadError(f"{where}: groups: expected groups of at least 2 of the {experts} experts, got "
                                f"{self.groups} groups")
        if top_k > self.kept_groups * size:
            raise WorkloadError(f"{where}: top_k: expected at most {self.kept_groups * size}, the experts of "
                                f"{self.kept_groups} groups, got {top_k}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise WorkloadError(f"{where}: scale: expected a positive finite number, got {self.scale!r}")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise WorkloadError(f"{where}: epsilon: expected a finite number of at least 0, got {self.epsilon!r}")
        if not (math.isfinite(self.jitter) and self.jitter >= 0):
            raise WorkloadError(f"{where}: jitter: expected a finite number of at least 0, got {self.jitter!r}")
        if self.score == "sparsemixer" and (top_k > 2 or self.groups > 1 or self.bias or self.correction):
            raise WorkloadError(f"{where}: score: a sparse mixer chooses at most 2 experts, without groups, bias and "
                                f"correction, got top_k = {top_k}, groups = {self.groups}, bias = {self.bias}, "
                                f"correction = {self.correction}")
        if self.epsilon and self.score != "sigmoid":
            raise WorkloadError(f"{where}: epsilon: expected 0 with {self.score} scores, whose sum is never small, got "
                                f"{self.epsilon!r}")

    def cut(self, experts: int) -> Scoring:
        """The same for a layer of fewer experts, without groups that would not divide them."""
        return replace(self, groups=2 if self.groups > 1 and experts >= 4 and experts % 2 == 0 else 1, kept_groups=1)

    def text(self, top_k: int, *, norm_topk: bool) -> str:
        """In a line: ``sigmoid (+ correction); best 4 of 8 groups by top2; top 8; / (sum + 1e-20); x 2.5``."""
        name = f"{self.score} (jitter {self.jitter:g})" if self.score == "sparsemixer" else self.score
        parts = [f"{name}{' of biased logits' if self.bias else ''}{' (+ correction)' * self.correction}"]
        if self.groups > 1:
            parts.append(f"best {self.kept_groups} of {self.groups} groups by {self.group_score}")
        parts.append(f"top {top_k}")
        if norm_topk:
            parts.append(f"/ (sum + {self.epsilon:g})" if self.epsilon else "/ sum")
        if self.scale != 1:
            parts.append(f"x {self.scale:g}")
        return "; ".join([*parts, *["on the input"] * self.on_input])


SOFTMAX = Scoring()
