"""Synthetic choices of experts, for benchmarks that must not depend on a random router.

``balanced``: a random choice in which every expert has the same load. ``zipf``: expert popularity ~ rank^-S. Fitted to
published traces, S = 0.3 resembles Mixtral-8x7B on MMLU (mean exponent 0.29, max/mean load 1.31; efeslab/fiddler,
branch ``popularity``) and S = 0.5 is its 95th percentile.

All randomness is the raw 64-bit output of SFC64 (``random_raw``), seeded by ``SeedSequence``: numpy guarantees both
streams for every version and machine, and does not guarantee those of ``Generator`` (``permutation``, ``random``).
Bits become permutations by a stable sort and uniforms by their upper 53.

``balanced`` in turn (expert number i mod E for choice i) would have equal loads too, but tokens would fall into E/k
groups with the same experts, so that experts share whole token lists. Instead the tokens trade, as in the global
curveball algorithm (Carstens, Hamann, Meyer, Penschuck, Tran, Wagner, "Parallel and I/O-efficient randomisation of
massive networks using global curveball trades", ESA 2018): all tokens are paired at random, each pair pools the experts
that only one of them has, and halves the pool at random. A trade changes no load and makes no duplicate, and the
uniform distribution over all such choices is what it leaves unchanged. What is left of the order in the start halves
with each round: after `TRADE_ROUNDS` of them 2**-32 of it. Shuffling all choices and repairing duplicates is not
uniform, and drawing again until there are none never ends (8 of 64 experts: 0.64 per token, 1e-99 for 512).
"""

from __future__ import annotations

import numpy as np

TRADE_ROUNDS = 32
"""Rounds of trades: each token trades once per round."""

_BALANCED, _ZIPF, _POWER, _CORRELATED = 0, 1, 2, 3

REPEATED = 0.4
"""Share of a token's experts that are those of the token before, in `correlated`: Qwen3-30B-A3B has 0.43 (decode, 25
prompts, 8 to 60 % by layer; gajsanders/moe-trace)."""


class _Bits:
    """Random values of one load; a pure function of its seed, kind and number of experts."""

    def __init__(self, seed: int, kind: int, experts: int) -> None:
        # Three-part keys: those of tensors have two, so that no tensor shares its bits.
        self._source = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(kind, experts, 0)))

    def raw(self, *shape: int) -> np.ndarray:
        """uint64 of ``shape``."""
        return self._source.random_raw(int(np.prod(shape))).reshape(shape)

    def permutation(self, count: int) -> np.ndarray:
        """0 to count - 1 in random order."""
        return np.argsort(self.raw(count), kind="stable")

    def uniform(self, *shape: int) -> np.ndarray:
        """float64 in (0, 1): the centres of 2**52 equal parts."""
        return ((self.raw(*shape) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def balanced(*, tokens: int, experts: int, top_k: int, seed: int) -> np.ndarray:
    """``(tokens, top_k) int32``: distinct experts per token, loads that differ by at most one, otherwise uniformly
    random (module docstring)."""
    bits = _Bits(seed, _BALANCED, experts)
    chosen = bits.permutation(experts)[(np.arange(tokens * top_k) % experts).reshape(tokens, top_k)]
    for _ in range(TRADE_ROUNDS):
        order = bits.permutation(tokens)
        first, second = order[:tokens // 2], order[tokens // 2:tokens // 2 * 2]
        chosen[first], chosen[second] = _trade(chosen[first], chosen[second], bits)
    ranks = np.argsort(bits.raw(tokens, top_k), axis=1, kind="stable")
    return np.take_along_axis(chosen, ranks, axis=1).astype(np.int32)


def _trade(one: np.ndarray, other: np.ndarray, bits: _Bits) -> tuple[np.ndarray, np.ndarray]:
    """Row by row, both keep what they share and halve the rest at random. ``(pairs, top_k)`` each."""
    pool = np.sort(np.concatenate([one, other], axis=1), axis=1)
    keys = (bits.raw(*pool.shape) >> np.uint64(2)) + np.uint64(1)
    shared = pool[:, 1:] == pool[:, :-1]
    keys[:, :-1][shared] = 0
    keys[:, 1:][shared] = np.uint64(1) << np.uint64(63)
    pool = np.take_along_axis(pool, np.argsort(keys, axis=1, kind="stable"), axis=1)
    return pool[:, :one.shape[1]], pool[:, one.shape[1]:]


def zipf(exponent: float, *, tokens: int, experts: int, top_k: int, seed: int) -> np.ndarray:
    """``(tokens, top_k) int32``: distinct experts per token, drawn one after another with probability ~ popularity
    rank^-exponent.

    Which expert has which rank is itself drawn, so that popular experts are not neighbours. The draw without
    replacement is Gumbel top-k: the k largest of log p + Gumbel noise (Efraimidis-Spirakis, in logarithms).
    """
    bits = _Bits(seed, _ZIPF, experts)
    log_popularity = -exponent * np.log(bits.permutation(experts) + 1.0)
    noise = -np.log(-np.log(bits.uniform(tokens, experts)))
    return np.argsort(-(log_popularity + noise), axis=1, kind="stable")[:, :top_k].astype(np.int32)


def power(exponent: float, *, tokens: int, experts: int, top_k: int, seed: int) -> np.ndarray:
    """As `zipf`, with popularities that are drawn from a power law of density x^-exponent for 1 <= x <= 0.8 * tokens.

    The sampler of NVIDIA AIConfigurator's ``collect_moe``, which fits 1.01 to the latency of DeepSeek-V3 and 1.2 to
    that of Qwen3-235B, and 0 to a balanced load; counts that were measured are far more even.
    """
    bits, low, high = _Bits(seed, _POWER, experts), 0.0, np.log(max(0.8 * tokens, 1.0))
    u, rest = bits.uniform(experts), 1 - exponent
    if abs(rest) * high < 1e-6:
        logs = low + u * (high - low)  # the limit for an exponent of 1
    else:
        logs = np.log1p(u * np.expm1(rest * high)) / rest
    noise = -np.log(-np.log(bits.uniform(tokens, experts)))
    return np.argsort(-(logs + noise), axis=1, kind="stable")[:, :top_k].astype(np.int32)


def correlated(*, tokens: int, experts: int, top_k: int, seed: int) -> np.ndarray:
    """``(tokens, top_k) int32``: each expert of the token before is kept with probability `REPEATED`, the others are
    uniformly random among the rest."""
    bits, chosen = _Bits(seed, _CORRELATED, experts), np.empty((tokens, top_k), np.int32)
    keep, noise = bits.uniform(tokens, top_k) < REPEATED, bits.uniform(tokens, experts)
    for token in range(tokens):
        keys = noise[token]
        if token:
            keys[chosen[token - 1]] = np.where(keep[token], 2.0, keys[chosen[token - 1]] - 2.0)
            # an expert that is not kept is chosen again only where the rest is too few
        chosen[token] = np.argsort(-keys, kind="stable")[:top_k]
    return chosen
