"""How a router goes from logits to experts and weights, as data.

A router makes one logit per expert, z = W x (+ a bias). What follows differs from model to model in these points only,
in this order:

1. *Scores*: the softmax over all experts, or the sigmoid of each.
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

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from ..rtl.spec.errors import WorkloadError

Score = Literal["softmax", "sigmoid"]
GroupScore = Literal["max", "top2"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The points of the module docstring; the defaults are those of Mixtral, Qwen3 and OLMoE. bias: of the logits;
    correction: of the choice (both are tensors of the layer)."""

    score: Score = "softmax"
    bias: bool = False
    correction: bool = False
    groups: int = 1
    kept_groups: int = 1
    group_score: GroupScore = "max"
    epsilon: float = 0.0
    scale: float = 1.0
    on_input: bool = False

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
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise WorkloadError(f"{where}: scale: expected a positive finite number, got {self.scale!r}")
        if not (np.isfinite(self.epsilon) and self.epsilon >= 0):
            raise WorkloadError(f"{where}: epsilon: expected a finite number of at least 0, got {self.epsilon!r}")
        if self.epsilon and self.score == "softmax":
            raise WorkloadError(f"{where}: epsilon: expected 0 with softmax scores, whose sum is never small, got "
                                f"{self.epsilon!r}")

    def cut(self, experts: int) -> Scoring:
        """The same for a layer of fewer experts, without groups that would not divide them."""
        return replace(self, groups=2 if self.groups > 1 and experts >= 4 and experts % 2 == 0 else 1, kept_groups=1)

    def text(self, top_k: int, *, norm_topk: bool) -> str:
        """In a line: ``sigmoid (+ correction); best 4 of 8 groups by top2; top 8; / (sum + 1e-20); x 2.5``."""
        parts = [f"{self.score}{' of biased logits' if self.bias else ''}{' (+ correction)' * self.correction}"]
        if self.groups > 1:
            parts.append(f"best {self.kept_groups} of {self.groups} groups by {self.group_score}")
        parts.append(f"top {top_k}")
        if norm_topk:
            parts.append(f"/ (sum + {self.epsilon:g})" if self.epsilon else "/ sum")
        if self.scale != 1:
            parts.append(f"x {self.scale:g}")
        return "; ".join([*parts, *["on the input"] * self.on_input])

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """(rows, experts) float64."""
        exact = logits.astype(np.float64)
        if self.score == "sigmoid":
            return np.exp(-np.logaddexp(0.0, -exact))
        shifted = np.exp(exact - exact.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def choose(self, logits: np.ndarray, top_k: int, correction: np.ndarray | None = None) -> np.ndarray:
        """(rows, top_k) int32, best first. Raises `WorkloadError` for logits that are not finite."""
        check_logits(logits)
        if self.correction != (correction is not None):
            raise WorkloadError(f"router: correction: expected {'one' if self.correction else 'none'}, got "
                                f"{'none' if correction is None else 'one'}")
        values = logits.astype(np.float64)
        if self.correction or (self.groups > 1 and self.group_score == "top2"):
            values = self.scores(logits) + (0.0 if correction is None else correction.astype(np.float64))
        if self.groups > 1:
            values = np.where(self._kept(values), values, -np.inf)
        return best(values, top_k)

    def _kept(self, values: np.ndarray) -> np.ndarray:
        """(rows, experts) bool: those of the best groups."""
        grouped = values.reshape(len(values), self.groups, -1)
        count = 1 if self.group_score == "max" else 2
        scores = np.sort(grouped, axis=2)[:, :, -count:].sum(axis=2)
        kept = np.zeros(scores.shape, bool)
        np.put_along_axis(kept, best(scores, self.kept_groups), True, axis=1)
        return np.repeat(kept, grouped.shape[2], axis=1)

    def weights(self, logits: np.ndarray, chosen: np.ndarray, *, norm_topk: bool) -> np.ndarray:
        """Combine weights of a choice, (rows, top_k) float64."""
        chosen = chosen.astype(np.int64)
        if self.score == "softmax" and norm_topk:  # right where all others dwarf the chosen, too
            made = Scoring().scores(np.take_along_axis(logits.astype(np.float64), chosen, axis=1))
        else:
            made = np.take_along_axis(self.scores(logits), chosen, axis=1)
            if norm_topk:
                made = made / (made.sum(axis=1, keepdims=True) + self.epsilon)
        return made * self.scale


SOFTMAX = Scoring()


def best(values: np.ndarray, count: int) -> np.ndarray:
    """(rows, count) int32: where the largest values of each row are, the largest first, ties to the lowest."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count].astype(np.int32)


def check_logits(logits: np.ndarray) -> None:
    """Raise `WorkloadError` unless they are finite floats (tokens, experts)."""
    if logits.ndim != 2 or not np.issubdtype(logits.dtype, np.floating):
        raise WorkloadError(f"router logits: expected floats (tokens, experts), got {logits.dtype} {logits.shape}")
    if not np.isfinite(logits).all():
        token = int(np.argmin(np.isfinite(logits).all(axis=1)))
        raise WorkloadError(f"router logits: token {token}: expected finite numbers, got {logits[token].tolist()[:4]}")
