"""Routing: the router's own choice, forced loads, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.routing import (
    Routing,
    forced_choice,
    forced_route,
    read_choice,
    route,
)
from tilescore.compiler.scores import combine_weights
from tilescore.compiler.scoring import SOFTMAX
from tilescore.rtl.spec.errors import WorkloadError

# ---- the router's choice ----


@pytest.mark.parametrize("norm_topk", [False, True])
def test_topk_softmax(norm_topk: bool, rng: np.random.Generator) -> None:
    logits = (rng.standard_normal((50, 12)) * 3).astype(np.float32)
    routing = route(logits, 3, norm_topk=norm_topk)
    for token in range(50):
        probabilities = np.exp(logits[token].astype(np.float64))
        probabilities /= probabilities.sum()
        best = sorted(range(12), key=lambda e: (-logits[token, e], e))[:3]
        weights = probabilities[best] / (probabilities[best].sum() if norm_topk else 1)
        assert routing.chosen[token].tolist() == best
        assert routing.weights[token] == pytest.approx(weights, rel=2.0**-23)
    assert (routing.chosen.dtype, routing.weights.dtype) == (np.int32, np.float32)


def test_ties_go_to_the_lowest_expert() -> None:
    logits = np.array([[1, 2, 2, 2, 0], [0, 0, 0, 0, 0], [5, 5, 1, 5, 5]], np.float32)
    assert route(logits, 2, norm_topk=True).chosen.tolist() == [[1, 2], [0, 1], [0, 1]]


def test_zeros_of_both_signs_tie() -> None:
    logits = np.array([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0]], np.float32)
    assert route(logits, 1, norm_topk=True).chosen.tolist() == [[0], [0]]


def test_logits_that_share_a_probability_are_still_ordered() -> None:
    """In float32 both softmax values are 0.5: only the logits tell them apart."""
    logits = np.array([[20.0, np.nextafter(np.float32(20.0), np.float32(21.0)), -80.0]], np.float32)
    assert route(logits, 1, norm_topk=False).chosen.tolist() == [[1]]


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, -3e38, 0.0]], np.float32)
    for norm_topk in (False, True):
        assert combine_weights(SOFTMAX, logits, np.array([[0, 1]]), norm_topk=norm_topk).tolist() == [[1.0, 0.0]]


def test_lists_per_expert() -> None:
    logits = np.array([[0, 3, 1, -9], [2, 0, 1, -9], [0, 1, 2, -9]], np.float32)
    routing = route(logits, 2, norm_topk=True)
    assert routing.chosen.tolist() == [[1, 2], [0, 2], [2, 1]]
    assert routing.counts.tolist() == [1, 2, 3, 0]
    assert routing.active == (0, 1, 2)
    tokens, ranks = routing.tokens_of(2)
    assert (tokens.tolist(), ranks.tolist()) == ([0, 1, 2], [1, 1, 0])
    assert [part.tolist() for part in routing.tokens_of(3)] == [[], []]


# ---- forced loads ----


def test_forced_choice_keeps_the_router_s_weights(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((6, 5)).astype(np.float32)
    own = route(logits, 2, norm_topk=False)
    assert np.array_equal(forced_route(logits, own.chosen, norm_topk=False).weights, own.weights)
    swapped = forced_route(logits, own.chosen[:, ::-1], norm_topk=False)
    assert np.array_equal(swapped.weights, own.weights[:, ::-1])


@pytest.mark.parametrize("wrapped", [False, True])
def test_file(wrapped: bool, tmp_path: Path) -> None:
    choice = [[0, 2], [2, 1], [3, 0]]
    path = tmp_path / "routing.json"
    path.write_text(json.dumps({"experts": choice} if wrapped else choice))
    assert forced_choice(path, tokens=3, experts=4, top_k=2, seed=0).tolist() == choice


# ---- refusals ----


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("uniform", "expected balanced, correlated, zipf-S"),
        ("zipf", "expected balanced, correlated, zipf-S"),
        ("zipf-", "expected an exponent from 0 to 10"),
        ("zipf-x", "got 'x'"),
        ("zipf--1", "got '-1'"),
        ("zipf-nan", "got 'nan'"),
        ("zipf-11", "got '11'"),
        ("missing.json", "'missing.json': expected balanced"),
    ],
)
def test_unknown_routing(spec: str, expected: str) -> None:
    with pytest.raises(WorkloadError) as error:
        forced_choice(spec, tokens=4, experts=8, top_k=2, seed=0)
    assert expected in str(error.value)
    assert spec in str(error.value)


@pytest.mark.parametrize("seed", [-1, 1 << 63, True])
def test_bad_seed(seed: int) -> None:
    with pytest.raises(WorkloadError, match="seed: expected an integer from 0 to"):
        forced_choice("balanced", tokens=4, experts=8, top_k=2, seed=seed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "not valid JSON"),
        ("[[0, 1]", "not valid JSON"),
        ("{}", "expected the single key experts, got none"),
        ('{"expert": []}', "got expert"),
        ("7", "expected a list of 2 tokens, got int"),
        ("[[0, 1]]", "expected a list of 2 tokens, got 1 entries"),
        ("[[0, 1], [2, 0, 1, 3, 2]]", "token 1: expected a list of at most 4 experts, got [2, 0, 1, 3, 2]"),
        ("[[0, 1], 2]", "token 1: expected a list of at most 4 experts, got 2"),
        ("[[0, 1], [2, 4]]", "token 1: expected an expert from 0 to 3, got 4"),
        ("[[-1, 1], [2, 3]]", "token 0: expected an expert from 0 to 3, got -1"),
        ("[[0, 1.0], [2, 3]]", "token 0: expected an expert from 0 to 3, got 1.0"),
        ("[[0, true], [2, 3]]", "token 0: expected an expert from 0 to 3, got True"),
        ("[[0, 1], [3, 3]]", "token 1: expected distinct experts, got [3, 3]"),
    ],
)
def test_bad_file(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "routing.json"
    path.write_text(content)
    with pytest.raises(WorkloadError) as error:
        read_choice(path, tokens=2, experts=4)
    assert str(path) in str(error.value)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("logits", "top_k", "expected"),
    [
        (np.zeros((2, 4), np.float32), 5, "top_k: expected an integer from 1 to 4, got 5"),
        (np.zeros((2, 4), np.float32), 0, "top_k: expected an integer from 1 to 4, got 0"),
        (np.zeros(4, np.float32), 1, "expected floats (tokens, experts)"),
        (np.zeros((2, 4), np.int32), 1, "expected floats (tokens, experts), got int32"),
        (np.array([[0, 1], [np.nan, 0]], np.float32), 1, "token 1: expected finite numbers"),
    ],
)
def test_bad_logits(logits: Any, top_k: int, expected: str) -> None:
    with pytest.raises(WorkloadError) as error:
        route(logits, top_k, norm_topk=True)
    assert expected in str(error.value)


def test_bad_forced_choice() -> None:
    logits = np.zeros((2, 4), np.float32)
    with pytest.raises(WorkloadError, match="expected a choice for 2 tokens, got 3"):
        forced_route(logits, np.zeros((3, 1), np.int32), norm_topk=True)
    with pytest.raises(WorkloadError, match="token 1: expected an expert from 0 to 3, got 4"):
        forced_route(logits, np.array([[0], [4]], np.int32), norm_topk=True)
    with pytest.raises(WorkloadError, match=r"token 0: expected distinct experts, got \[1, 1\]"):
        forced_route(logits, np.array([[1, 1], [0, 1]], np.int32), norm_topk=True)
    with pytest.raises(WorkloadError, match="weights: expected float32"):
        Routing(experts=4, chosen=np.array([[1]]), weights=np.ones((1, 1)))
