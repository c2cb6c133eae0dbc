"""What becomes of a choice of experts before it is run: nothing, a capacity per expert, or whole tiles of tokens.

A mode stands behind a load, ``LOAD:MODE``; ``router`` is the load that the router itself chooses. Without one a layer
is *dropless*: every chosen pair (token, expert) is computed.

* ``capacity-G``: each expert takes the first ``ceil(G * pairs / experts)`` of its tokens, in their order, and drops the
  rest (Switch Transformer, arXiv 2101.03961, section 2.2).
* ``round-M``, ``round-up-M``, ``round-down-M``: each expert's tokens become the nearest, next or last multiple of M
  (never more than there are): those whose score is smallest are dropped, or tokens that did not choose it are added,
  the largest score first. Scores of chosen pairs are divided by their token's sum, others are behind all of them
  (SonicMoE's token rounding, Dao-AILab/sonic-moe, ``benchmarks/moe-token-rounding.py``). Half a multiple is rounded up.
  It needs the whole batch, so that a token's experts depend on later tokens: for training and prefill.

The weights are those that the router gives the pairs that are left: a layer that normalizes does so over these.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ..rtl.spec.errors import WorkloadError
from .scores import best

_MODE = re.compile(r"(.+):(capacity|round-up|round-down|round)-([^:]*)", re.DOTALL)
MODES = "capacity-G, round-M, round-up-M or round-down-M"


@dataclass(frozen=True)
class Dispatch:
    """kind: capacity, round, round-up or round-down; number: the factor G, or M."""

    kind: str
    number: float

    def used(self, chosen: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """(tokens, experts) bool: the pairs that are computed of a choice (tokens, k), -1 for none, of experts with
        ``scores`` (tokens, experts)."""
        pairs = chosen_pairs(chosen, scores.shape[1])
        if self.kind == "capacity":
            capacity = math.ceil(self.number * pairs.sum() / pairs.shape[1])
            return pairs & (np.cumsum(pairs, axis=0) <= capacity)
        sums = np.where(pairs, scores, 0).sum(axis=1, keepdims=True)
        keys = np.where(pairs, scores / np.where(sums > 0, sums, 1), scores - scores.max(initial=0.0) - 1)
        order = np.argsort(-keys, axis=0, kind="stable")
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(len(order))[:, None], axis=0)
        return ranks < self.targets(pairs.sum(axis=0), len(pairs))

    def targets(self, counts: np.ndarray, tokens: int) -> np.ndarray:
        """Tokens of each expert after rounding."""
        tile = int(self.number)
        rounded = {"round": (2 * counts + tile) // (2 * tile), "round-up": -(-counts // tile),
                   "round-down": counts // tile}[self.kind] * tile
        return np.minimum(rounded, tokens // tile * tile)


def split_dispatch(spec: str) -> tuple[str, Dispatch | None]:
    """The load and the mode of a ``--routing`` argument. Raises `WorkloadError` for a number that is none."""
    found = _MODE.fullmatch(spec)
    if found is None:
        return spec, None
    load, kind, text = found.groups()
    try:
        number = float(text) if kind == "capacity" else int(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and 0 < number <= 1 << 20):
        kind_of = "a positive number" if kind == "capacity" else "a positive integer"
        raise WorkloadError(f"routing {spec!r}: {kind}: expected {kind_of}, got {text!r}")
    return load, Dispatch(kind, number)


def chosen_pairs(chosen: np.ndarray, experts: int) -> np.ndarray:
    """(tokens, experts) bool of a choice (tokens, k), -1 for none."""
    pairs = np.zeros((len(chosen), experts + 1), bool)
    np.put_along_axis(pairs, np.where(chosen < 0, experts, chosen).astype(np.int64), True, axis=1)
    return pairs[:, :experts]


def choice_of(pairs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(tokens, k) int32 of (tokens, experts) bool: each token's experts, the best score first, then -1."""
    counts = pairs.sum(axis=1)
    width = max(1, int(counts.max(initial=0)))
    chosen = best(np.where(pairs, scores, -np.inf), width)
    return np.where(np.arange(width) < counts[:, None], chosen, -1).astype(np.int32)


def padded_rows(counts: np.ndarray, tile: int) -> int:
    """Rows beside the tokens when each expert's are padded to whole tiles."""
    return int((-(-counts // tile) * tile - counts).sum())
