"""What a router makes of its logits, in float64, by its `Scoring`."""

from __future__ import annotations

import numpy as np

from ..rtl.spec.errors import WorkloadError
from .scoring import SOFTMAX, Scoring


def scores_of(scoring: Scoring, logits: np.ndarray) -> np.ndarray:
    """(rows, experts) float64."""
    exact = logits.astype(np.float64)
    if scoring.score == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -exact))
    shifted = np.exp(exact - exact.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def choose(scoring: Scoring, logits: np.ndarray, top_k: int, correction: np.ndarray | None = None) -> np.ndarray:
    """(rows, top_k) int32, best first. Raises `WorkloadError` for logits that are not finite."""
    check_logits(logits)
    if scoring.correction != (correction is not None):
        raise WorkloadError(f"router: correction: expected {'one' if scoring.correction else 'none'}, got "
                            f"{'none' if correction is None else 'one'}")
    values = logits.astype(np.float64)
    if scoring.correction or (scoring.groups > 1 and scoring.group_score == "top2"):
        values = scores_of(scoring, logits) + (0.0 if correction is None else correction.astype(np.float64))
    if scoring.groups > 1:
        values = np.where(_kept(scoring, values), values, -np.inf)
    return best(values, top_k)


def _kept(scoring: Scoring, values: np.ndarray) -> np.ndarray:
    """(rows, experts) bool: those of the best groups."""
    grouped = values.reshape(len(values), scoring.groups, -1)
    count = 1 if scoring.group_score == "max" else 2
    scores = np.sort(grouped, axis=2)[:, :, -count:].sum(axis=2)
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, best(scores, scoring.kept_groups), True, axis=1)
    return np.repeat(kept, grouped.shape[2], axis=1)


def mixer_sets(scoring: Scoring, logits: np.ndarray, chosen: np.ndarray) -> np.ndarray | None:
    """Of a sparse mixer (rows, k, experts) bool: over which experts the softmax of each chosen one goes; None of other
    routers. Only the expert itself where there is none."""
    if scoring.score != "sparsemixer":
        return None
    exact, sets = logits.astype(np.float64), []
    left = np.ones(logits.shape, bool)
    for expert in chosen.T:
        own = np.eye(logits.shape[1], dtype=bool)[np.maximum(expert, 0)]
        z = exact[own][:, None]
        with np.errstate(invalid="ignore"):  # 0 / 0: equal logits
            near = (z - exact) / np.maximum(np.abs(exact), z) <= 2 * scoring.jitter
        sets.append(np.where(expert[:, None] < 0, own, own | (left & (near | (z == exact)))))
        left &= ~(own & (expert[:, None] >= 0))
    return np.stack(sets, axis=1)


def combine_weights(scoring: Scoring, logits: np.ndarray, chosen: np.ndarray, *, norm_topk: bool,
                    sets: np.ndarray | None = None) -> np.ndarray:
    """Combine weights of a choice, (rows, k) float64; 0 where it has -1, for no expert. sets: those of `mixer_sets`
    for other logits, which may be near a limit."""
    none = chosen < 0
    sets = mixer_sets(scoring, logits, chosen) if sets is None else sets
    if sets is not None:
        masked = np.where(sets, logits.astype(np.float64)[:, None], -np.inf)
        flat = scores_of(SOFTMAX, masked.reshape(-1, masked.shape[2])).reshape(masked.shape)
        made = np.take_along_axis(flat, np.maximum(chosen, 0).astype(np.int64)[:, :, None], axis=2)[:, :, 0]
        return np.where(none, 0.0, made) * scoring.scale
    chosen = np.where(none, 0, chosen).astype(np.int64)
    if scoring.score == "softmax" and norm_topk:  # right where all others dwarf the chosen, too
        logits = np.where(none, -np.inf, np.take_along_axis(logits.astype(np.float64), chosen, axis=1))
        alone = none.all(axis=1, keepdims=True)
        made = np.where(alone, 0.0, scores_of(SOFTMAX, np.where(alone, 0.0, logits)))
    else:
        made = np.where(none, 0.0, np.take_along_axis(scores_of(scoring, logits), chosen, axis=1))
        if norm_topk:
            sums = made.sum(axis=1, keepdims=True) + scoring.epsilon
            made = made / np.where(none.all(axis=1, keepdims=True), 1.0, sums)
    return made * scoring.scale


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
