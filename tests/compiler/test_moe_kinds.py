"""Kinds of MoE layers: scores, choices, weights, shared experts, on the tile as in float64.

What `transformers` computes is compared in `test_transformers_oracle.py` and `test_layers_against_transformers.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.numerics import DEFAULT
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.routing import route
from tilescore.compiler.scores import choose, combine_weights
from tilescore.compiler.scoring import Scoring
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, compile_and_play, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

FP32_ROUNDINGS = 1e-6
"""As in `lowering/test_expert_layers.py`; sigmoids have no exponent of base 2, and three more roundings of a row."""

DEEPSEEK = Scoring(score="sigmoid", correction=True, groups=4, kept_groups=2, group_score="top2", epsilon=1e-20,
                   scale=2.5)


def moe(**changes: Any) -> MoELayer:
    return MoELayer(**({"hidden": 40, "experts": 12, "top_k": 3, "intermediate": 16, "norm_topk": True} | changes))


KINDS = {
    "deepseek v3": moe(scoring=DEEPSEEK, shared=32),
    "deepseek v2": moe(scoring=Scoring(groups=4, kept_groups=2, scale=16.0), norm_topk=False, shared=32),
    "gated shared": moe(experts=5, top_k=2, shared=24, shared_gated=True),
    "biased": moe(experts=5, scoring=Scoring(bias=True)),
    "on the input": moe(experts=5, top_k=1, norm_topk=False, shared=16,
                        scoring=Scoring(score="sigmoid", on_input=True)),
    "gpt-oss": moe(experts=5, top_k=2, scoring=Scoring(bias=True), biases=True,
                   activation="clamped_swiglu(1.5, 1.702)"),
    "sparse mixer": moe(experts=6, top_k=2, norm_topk=False, scoring=Scoring(score="sparsemixer", jitter=0.2)),
    "relu2": moe(experts=5, top_k=2, activation="relu2", shared=16),
    "sigmoids": moe(experts=5, top_k=2, scoring=Scoring(score="sigmoid", bias=True, correction=True)),
}
EACH_KIND = pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS)

# Scores and choices ------------------------------------------------------------------------------------


def test_a_router_is_printed() -> None:
    assert KINDS["deepseek v3"].router == (
        "sigmoid (+ correction); best 2 of 4 groups by top2; top 3; / (sum + 1e-20); x 2.5")
    assert KINDS["on the input"].router == "sigmoid; top 1; on the input"
    assert KINDS["biased"].router == "softmax of biased logits; top 3; / sum"


@pytest.mark.parametrize("scoring, correction, expected", [
    (Scoring(), None, [0, 1]),
    (Scoring(groups=3, kept_groups=1), None, [0, 1]),
    (Scoring(groups=3, kept_groups=2, group_score="top2"), None, [0, 1]),
    (Scoring(score="sigmoid", correction=True), np.zeros(6), [0, 1]),
    (Scoring(score="sigmoid", correction=True), np.array([0, 0, 0, 0, 1, 1.0]), [4, 5]),
])
def test_ties_go_to_the_lowest_expert_and_group(scoring: Scoring, correction: np.ndarray | None,
                                                expected: list[int]) -> None:
    assert choose(scoring, np.zeros((1, 6), np.float32), 2, correction).tolist() == [expected]


def test_groups_are_ranked_by_their_largest_or_their_two_largest() -> None:
    logits = np.array([[3.0, 0, 0, 2, 2, 0]])
    assert choose(Scoring(groups=2), logits, 2).tolist() == [[0, 1]]
    assert choose(Scoring(score="sigmoid", groups=2, group_score="top2"), logits, 2).tolist() == [[3, 4]]
    assert choose(Scoring(groups=2, kept_groups=2), logits, 3).tolist() == [[0, 3, 4]]


def test_a_correction_changes_the_choice_and_no_weight(rng: np.random.Generator) -> None:
    logits, correction = rng.standard_normal((40, 8)), rng.standard_normal(8) * 0.3
    plain = route(logits, 3, norm_topk=True, scoring=Scoring(score="sigmoid"))
    moved = route(logits, 3, norm_topk=True, scoring=Scoring(score="sigmoid", correction=True), correction=correction)
    assert (plain.chosen != moved.chosen).any()
    scores = np.take_along_axis(1 / (1 + np.exp(-logits)), moved.chosen.astype(int), 1)
    assert np.allclose(moved.weights, scores / scores.sum(1, keepdims=True), rtol=1e-6)


def test_tiny_sigmoids_are_normalized_too() -> None:
    """A sum of them is below the grid of a row sum, 2**-24, and of the order of the epsilon."""
    logits = np.array([[-40.0, -41, -60]])
    weights = combine_weights(Scoring(score="sigmoid", epsilon=1e-20), logits, np.array([[0, 1]]), norm_topk=True)
    exact = np.exp([-40.0, -41])
    assert np.allclose(weights, exact / (exact.sum() + 1e-20))


@pytest.mark.parametrize("changes, expected", [
    ({"score": "relu"}, "score: expected one of softmax, sigmoid, sparsemixer, got 'relu'"),
    ({"groups": 5}, "groups: expected a divisor of experts = 12, got 5"),
    ({"groups": 4, "kept_groups": 5}, "kept_groups: expected an integer from 1 to groups = 4, got 5"),
    ({"groups": 12, "kept_groups": 3, "group_score": "top2"}, "expected groups of at least 2 of the 12 experts"),
    ({"groups": 6}, "top_k: expected at most 2, the experts of 1 groups, got 3"),
    ({"scale": 0.0}, "scale: expected a positive finite number, got 0.0"),
    ({"epsilon": -1.0}, "epsilon: expected a finite number of at least 0, got -1.0"),
    ({"epsilon": 1e-20}, "epsilon: expected 0 with softmax scores"),
])
def test_bad_scoring(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(WorkloadError, match=expected):
        moe(scoring=Scoring(**changes))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_is_an_error(value: float) -> None:
    logits = np.zeros((3, 12))
    logits[1, 4] = value
    with pytest.raises(WorkloadError, match="router logits: token 1: expected finite numbers"):
        choose(DEEPSEEK, logits, 3, np.zeros(12))


# On the tile -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
@EACH_KIND
def test_result_is_the_quantized_layer(layer: MoELayer, tile: Any) -> None:
    compiled, result = compile_and_play(Workload(layer=layer, tokens=19), tile)
    held, routing, exact = compiled.tensors, compiled.routing, compiled.expected
    assert held is not None and routing is not None and exact is not None
    model = quantized_layer(held, calibrate(float64_layer(held, routing).ranges), routing=routing)
    assert rel_rms_error(result, model) < FP32_ROUNDINGS
    assert rel_rms_error(result, exact) < 1.1 * rel_rms_error(model, exact) < 0.2


def test_sigmoids_below_the_grid_of_a_row_sum_are_normalized_on_the_tile() -> None:
    workload = Workload(layer=moe(experts=6, scoring=dataclasses.replace(DEEPSEEK, groups=1, kept_groups=1)), tokens=9)
    held = synthetic(workload, 3)
    held = held.replace(x=np.abs(held.x), router=-np.abs(held.router) * np.float32(8))
    compiled = compile_layer(workload, NANO, tensors=held)
    weights = tile_weights(compiled.program, 6)
    assert compiled.routing is not None
    logits = held.x.astype(np.float64) @ held.router.T
    assert np.exp(logits).max() < 2.0**-14  # the three of a row add up to few units of the grid, or to less than one
    chosen = np.take_along_axis(weights, compiled.routing.chosen.astype(int), axis=1)
    assert np.allclose(chosen, compiled.routing.weights, rtol=1e-4, atol=1e-30)


def tile_weights(program: Any, experts: int) -> np.ndarray:
    """Combine weights in DRAM, (rows, experts)."""
    segment = next(s for s in program.segments if s.name == "weights")
    words = run_reference(program).dram[segment.addr:segment.addr + segment.size].view("<f4")
    columns = -(-experts // program.config.cols) * program.config.cols
    return words.reshape(-1, columns)[:, :experts]


@pytest.mark.parametrize("kind", ["deepseek v3", "biased"])
def test_a_row_with_a_nan_logit_is_nan_and_no_other(kind: str) -> None:
    """A NaN code among a row's terms, which the choice did not know."""
    compiled = compile_layer(Workload(layer=KINDS[kind], tokens=7), NANO)
    program = compiled.program
    clean = play(program)
    segment = next(s for s in program.segments if s.name.startswith("x for the router"))
    dram = np.array(segment.bytes_())
    dram[2 * dram.size // 7 + 1] = 0x7F
    segments = tuple(dataclasses.replace(s, data=dram) if s is segment else s for s in program.segments)
    spoilt = play(dataclasses.replace(program, segments=segments))
    assert np.isnan(spoilt[2]).all()
    assert same_bits(np.delete(spoilt, 2, axis=0), np.delete(clean, 2, axis=0))


@EACH_KIND
@hypothesis.settings(max_examples=1)
@hypothesis.given(rows=st.integers(1, 13), small=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_one_routing_has_the_same_bits_with_every_packing(layer: MoELayer, rows: int, small: bool, seed: int) -> None:
    """On two tiles, and with fewer rows and column tiles at once in every kernel."""
    workload = Workload(layer=layer, tokens=13)
    tensors = synthetic(workload, seed)
    whole = compile_layer(workload, NANO, tensors=tensors)
    other = whole.schedule
    for name, kernel in whole.schedule.kernels.items():
        values = kernel.values()
        other = other.change(name, m_tile=min(rows, int(values["m_tile"])), **({"n_tiles": 1} if small else {}))
    results = [play(whole.program), play(compile_layer(workload, EDGE, tensors=tensors).program),
               play(compile_layer(workload, NANO, tensors=tensors, schedule=other).program)]
    assert all(same_bits(a, b) for a, b in itertools.pairwise(results))


@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
@EACH_KIND
def test_bit_equal_at_rtl(layer: MoELayer) -> None:
    """`simulate` raises where levels differ."""
    small = dataclasses.replace(layer, hidden=24, shared=min(layer.shared, 8), intermediate=8)
    compiled = compile_layer(Workload(layer=small, tokens=3), NANO, numerics=DEFAULT)
    result = simulate(compiled.program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256
