"""Synthetic loads: what both promise, and that ``balanced`` has no other structure than its equal loads."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.compiler.routing import Routing, forced_choice
from tilescore.compiler.routing_loads import balanced, zipf


def digest(chosen: np.ndarray) -> str:
    return hashlib.sha256(chosen.astype("<i4").tobytes()).hexdigest()[:16]


def test_loads_are_the_same_on_every_machine_and_numpy() -> None:
    """Digests of 513 tokens: a change breaks every recorded benchmark."""
    found = {name: digest(forced_choice(name, tokens=513, experts=64, top_k=8, seed=5))
             for name in ("balanced", "zipf-0.3")}
    assert found == {"balanced": "5aab6274d53f10e4", "zipf-0.3": "3fb4f353cae84c44"}


@pytest.mark.parametrize("name", ["balanced", "zipf-0.3"])
def test_seeds_and_shapes_draw_differently(name: str) -> None:
    def draw(seed: int, tokens: int = 40) -> np.ndarray:
        return forced_choice(name, tokens=tokens, experts=16, top_k=4, seed=seed)

    assert np.array_equal(draw(1), draw(1))
    assert len({digest(draw(seed)) for seed in (0, 1, 2, 2**32, 2**63 - 1)}) == 5


# ---- balanced ----


@given(st.data(), st.integers(1, 64), st.integers(0, 50), st.integers(0, 2**63 - 1))
def test_balanced(data: st.DataObject, experts: int, tokens: int, seed: int) -> None:
    top_k = data.draw(st.integers(1, experts))
    chosen = balanced(tokens=tokens, experts=experts, top_k=top_k, seed=seed)
    assert chosen.shape == (tokens, top_k)
    assert all(len(set(row)) == top_k for row in chosen.tolist())
    counts = np.bincount(chosen.ravel(), minlength=experts)
    assert counts.sum() == tokens * top_k
    assert counts.max() - counts.min() <= 1


def test_balanced_load_of_the_common_moe_workload() -> None:
    """OLMoE, 512 tokens: 64 tokens for each of 64 experts."""
    chosen = forced_choice("balanced", tokens=512, experts=64, top_k=8, seed=0)
    assert np.bincount(chosen.ravel()).tolist() == [64] * 64


def membership(chosen: np.ndarray, experts: int) -> np.ndarray:
    member = np.zeros((len(chosen), experts))
    np.put_along_axis(member, chosen.astype(np.int64), 1, axis=1)
    return member


@pytest.mark.parametrize("tokens, experts, top_k", [(512, 64, 8), (2048, 128, 8), (2048, 8, 2), (1000, 40, 8)])
def test_balanced_pairs_of_experts_meet_as_independent_ones(tokens: int, experts: int, top_k: int, seed: int) -> None:
    """Mean square of the pairs' deviations, in units of its expectation, and the largest one.

    Tokens that choose independently: both experts with probability ``both``. Fixed loads take away what the two
    memberships explain linearly. In turn (i mod E), pairs in one group of k meet in every token and the others never.
    """
    member = membership(balanced(tokens=tokens, experts=experts, top_k=top_k, seed=seed), experts)
    pairs = np.triu_indices(experts, 1)
    one, both = top_k / experts, top_k * (top_k - 1) / (experts * (experts - 1))
    of_sum = 2 * one * (1 - one) + 2 * (both - one**2)
    variance = tokens * (both * (1 - both) - (2 * both * (1 - one)) ** 2 / of_sum)
    square = ((member.T @ member)[pairs] - tokens * both) ** 2 / variance
    # Loads leave `experts` of the pairs' degrees of freedom out.
    assert abs(square.mean() - 1) < 7 * np.sqrt(2 / (len(square) - experts)) + 0.02
    assert square.max() < 7**2


def test_balanced_neighbours_share_experts_like_any_two_tokens(seed: int) -> None:
    tokens, experts, top_k = 4096, 64, 8
    member = membership(balanced(tokens=tokens, experts=experts, top_k=top_k, seed=seed), experts)
    load = tokens * top_k // experts
    expected = top_k * (load - 1) / (tokens - 1)
    spread = np.sqrt(top_k * (top_k / experts) * (1 - top_k / experts) * (experts - top_k) / (experts - 1))
    for distance in (1, experts // top_k, experts):
        shared = (member[distance:] * member[:-distance]).sum(axis=1)
        assert abs(shared.mean() - expected) < 7 * spread / np.sqrt(len(shared))
        assert abs(shared.std() / spread - 1) < 0.15


def test_balanced_is_uniform_over_all_choices() -> None:
    """4 tokens, 2 of 4 experts, loads of 2: 90 choices, chi-square with 89 degrees of freedom (mean 89, std 13.3)."""
    draws = 540
    found = Counter(np.sort(balanced(tokens=4, experts=4, top_k=2, seed=seed), axis=1).tobytes()
                    for seed in range(draws))
    assert len(found) == 90
    expected = draws / 90
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 89 + 5 * 13.3


def test_balanced_ranks_are_random(seed: int) -> None:
    """Each expert is a token's first choice about as often as its last."""
    chosen = balanced(tokens=4096, experts=8, top_k=4, seed=seed)
    for rank in range(4):
        assert (np.abs(np.bincount(chosen[:, rank], minlength=8) - 512) < 7 * np.sqrt(512)).all()


# ---- zipf ----


def test_zipf_draws_by_popularity(seed: int) -> None:
    """Top 1 of 20,000 tokens: each expert's share within 5 standard deviations of rank^-S / sum."""
    chosen = zipf(0.7, tokens=20_000, experts=16, top_k=1, seed=seed)
    counts = np.sort(np.bincount(chosen.ravel(), minlength=16))[::-1]
    shares = np.arange(1, 17) ** -0.7
    shares /= shares.sum()
    assert (np.abs(counts - 20_000 * shares) < 5 * np.sqrt(20_000 * shares) + 5).all()


def test_zipf_draws_without_replacement(seed: int) -> None:
    """Of two draws from three experts, the pair probabilities are those of drawing one after another."""
    chosen = zipf(1.0, tokens=40_000, experts=3, top_k=2, seed=seed)
    popularity = np.bincount(chosen[:, 0], minlength=3).argsort()[::-1]
    shares = np.empty(3)
    shares[popularity] = np.array([6, 3, 2]) / 11
    for first in range(3):
        for second in set(range(3)) - {first}:
            expected = 40_000 * shares[first] * shares[second] / (1 - shares[first])
            found = ((chosen[:, 0] == first) & (chosen[:, 1] == second)).sum()
            assert abs(found - expected) < 5 * expected**0.5


@given(st.integers(0, 2**32), st.floats(0, 10), st.data())
def test_zipf_is_a_legal_choice(seed: int, exponent: float, data: st.DataObject) -> None:
    top_k = data.draw(st.integers(1, 12))
    chosen = forced_choice(f"zipf-{exponent}", tokens=9, experts=12, top_k=top_k, seed=seed)
    assert (
        Routing(experts=12, chosen=chosen, weights=np.ones((9, top_k), np.float32)).counts.sum() == 9 * top_k
    )
    assert np.array_equal(
        chosen, forced_choice(f"zipf-{exponent}", tokens=9, experts=12, top_k=top_k, seed=seed)
    )


def test_a_flat_zipf_is_uniform(seed: int) -> None:
    """zipf-0: 20,000 tokens, 4 of 16 experts; loads within 6 standard deviations of 5,000, pairs of theirs."""
    chosen = zipf(0, tokens=20_000, experts=16, top_k=4, seed=seed)
    member = membership(chosen, 16)
    assert (np.abs(member.sum(axis=0) - 5000) < 6 * np.sqrt(5000 * 0.75)).all()
    both = 20_000 * 4 * 3 / (16 * 15)
    assert (np.abs((member.T @ member)[np.triu_indices(16, 1)] - both) < 6.5 * np.sqrt(both * 0.95)).all()
