"""Which token goes to which expert, and with what weight.

Three sources of the choice, one result:

- the layer's own router, by its rule (`scoring.py`);
- a synthetic load (`routing_loads.py`): ``balanced``, ``correlated``, ``zipf-S`` with expert popularity ~ rank^-S, or
  ``power-A`` with popularities from a power law;
- a JSON file with a recorded or hand-written choice.

The combine weights always come from the logits, so a forced choice changes the load and not the mathematics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..rtl.spec.errors import WorkloadError, did_you_mean
from ..sim.lib.json_file import read_json
from .dispatch import MODES, split_dispatch
from .routing_loads import balanced, correlated, power, zipf
from .scores import check_logits, choose, combine_weights, mixer_sets
from .scoring import SOFTMAX, Scoring
from .seeds import check_seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Routing:
    """A choice of experts: ``chosen (T, k) int32``, best first, then -1 for none, and its ``weights (T, k) float32``.

    dropped, added: pairs of token and expert that a mode (`dispatch.py`) took from a choice, or gave it. sets: of a
    sparse mixer (`scores.mixer_sets`), None where logits are not known."""

    experts: int
    chosen: np.ndarray
    weights: np.ndarray
    dropped: int = 0
    added: int = 0
    sets: np.ndarray | None = None

    def __post_init__(self) -> None:
        _check_choice("routing", self.chosen, self.experts)
        if self.weights.shape != self.chosen.shape or self.weights.dtype != np.float32:
            raise WorkloadError(
                f"routing: weights: expected float32 {self.chosen.shape}, "
                f"got {self.weights.dtype} {self.weights.shape}"
            )

    @property
    def counts(self) -> np.ndarray:
        """Tokens per expert, ``(experts,) int64``."""
        return np.bincount(self.chosen[self.chosen >= 0], minlength=self.experts)

    @property
    def pairs(self) -> int:
        """Of token and expert."""
        return int((self.chosen >= 0).sum())

    @property
    def active(self) -> tuple[int, ...]:
        """Experts with at least one token, ascending."""
        return tuple(int(e) for e in np.flatnonzero(self.counts))

    def tokens_of(self, expert: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of one expert, ascending, and the rank it has for each: ``weights[tokens, ranks]`` are its
        weights."""
        tokens, ranks = np.nonzero(self.chosen == expert)
        return tokens, ranks


def _check_choice(where: str, chosen: np.ndarray, experts: int) -> None:
    if chosen.ndim != 2 or not np.issubdtype(chosen.dtype, np.integer):
        raise WorkloadError(f"{where}: expected integers (tokens, top_k), got {chosen.dtype} {chosen.shape}")
    bad = (chosen < -1) | (chosen >= experts)
    if bad.any():
        token = int(np.argmax(bad.any(axis=1)))
        value = int(chosen[token][bad[token]][0])
        raise WorkloadError(
            f"{where}: token {token}: expected an expert from 0 to {experts - 1}, got {value}"
        )
    ordered = np.sort(chosen, axis=1)
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        token = int(np.argmax(repeated))
        raise WorkloadError(
            f"{where}: token {token}: expected distinct experts, got {chosen[token].tolist()}"
        )


def route(logits: np.ndarray, top_k: int, *, norm_topk: bool, scoring: Scoring = SOFTMAX,
          correction: np.ndarray | None = None) -> Routing:
    """The router's own choice for ``logits (T, E)``: best first, ties to the lowest index."""
    experts = logits.shape[-1]
    if not 1 <= top_k <= experts:
        raise WorkloadError(f"routing: top_k: expected an integer from 1 to {experts}, got {top_k}")
    chosen = choose(scoring, logits, top_k, correction)
    return forced_route(logits, chosen, norm_topk=norm_topk, scoring=scoring)


def forced_route(logits: np.ndarray, chosen: np.ndarray, *, norm_topk: bool, scoring: Scoring = SOFTMAX) -> Routing:
    """A given choice ``(T, k)`` with the weights that the router's logits give it."""
    check_logits(logits)
    if len(chosen) != len(logits):
        raise WorkloadError(f"routing: expected a choice for {len(logits)} tokens, got {len(chosen)}")
    _check_choice("routing", chosen, logits.shape[1])
    sets = mixer_sets(scoring, logits, chosen)
    weights = combine_weights(scoring, logits, chosen, norm_topk=norm_topk, sets=sets).astype(np.float32)
    return Routing(experts=logits.shape[1], chosen=chosen.astype(np.int32), weights=weights, sets=sets)


def forced_choice(spec: str | Path, *, tokens: int, experts: int, top_k: int, seed: int) -> np.ndarray:
    """The choice ``(tokens, top_k) int32`` that a ``--routing`` argument names: balanced, zipf-S, or a JSON
    file.

    seed: the layer's. Raises WorkloadError for an unknown name, a malformed exponent, a seed that is none, or a file
    that does not fit the layer.
    """
    check_seed(seed)
    name = str(spec)
    if not 1 <= top_k <= experts:
        raise WorkloadError(f"routing {name}: top_k: expected an integer from 1 to {experts}, got {top_k}")
    if name == "balanced":
        return balanced(tokens=tokens, experts=experts, top_k=top_k, seed=seed)
    for prefix, draw in (("zipf-", zipf), ("power-", power)):
        if name.startswith(prefix) and not Path(name).exists():
            return draw(_exponent(name, prefix), tokens=tokens, experts=experts, top_k=top_k, seed=seed)
    if name == "correlated":
        return correlated(tokens=tokens, experts=experts, top_k=top_k, seed=seed)
    if not Path(name).is_file():
        raise WorkloadError(
            f"routing {name!r}: expected balanced, correlated, zipf-S (S a number, such as zipf-0.3), power-A, a JSON "
            f"file, or one of these or router with a mode, LOAD:{MODES}{did_you_mean(name, ('balanced', 'correlated'))}"
        )
    return read_choice(Path(name), tokens=tokens, experts=experts)


def is_drawn(spec: str) -> bool:
    """Does the seed decide this routing? A file does not need one."""
    load, _ = split_dispatch(spec)
    return load in ("balanced", "correlated") or load.startswith(("zipf-", "power-"))


def depends_on_data(spec: str) -> bool:
    """Does the router's own choice, or an order of its scores, take part?"""
    load, mode = split_dispatch(spec)
    return load == "router" or (mode is not None and mode.kind != "capacity")


def _exponent(name: str, prefix: str) -> float:
    text = name.removeprefix(prefix)
    try:
        exponent = float(text)
    except ValueError:
        exponent = math.nan
    if not (math.isfinite(exponent) and 0 <= exponent <= 10):
        raise WorkloadError(
            f"routing {name!r}: expected an exponent from 0 to 10, such as {prefix}0.3, got {text!r}"
        )
    return exponent


def read_choice(path: Path, *, tokens: int, experts: int) -> np.ndarray:
    """A choice from JSON: a list with one list of expert numbers per token, of any length, or that under the key
    ``experts``; -1 behind those of a token that has fewer than another."""
    content = read_json(path, WorkloadError)
    if isinstance(content, dict):
        if set(content) != {"experts"}:
            raise WorkloadError(
                f"{path}: expected the single key experts, got {', '.join(sorted(content)) or 'none'}"
            )
        content = content["experts"]
    if not isinstance(content, list) or len(content) != tokens:
        found = f"{len(content)} entries" if isinstance(content, list) else type(content).__name__
        raise WorkloadError(f"{path}: expected a list of {tokens} tokens, got {found}")
    for token, row in enumerate(content):
        if not isinstance(row, list) or len(row) > experts:
            raise WorkloadError(
                f"{path}: token {token}: expected a list of at most {experts} experts, got {str(row)[:60]}"
            )
        for expert in row:
            if type(expert) is not int or not 0 <= expert < experts:
                found = str(expert)[:60]
                raise WorkloadError(
                    f"{path}: token {token}: expected an expert from 0 to {experts - 1}, got {found}"
                )
    width = max(1, *map(len, content))
    chosen = np.array([row + [-1] * (width - len(row)) for row in content], dtype=np.int32)
    _check_choice(str(path), chosen, experts)
    return chosen
