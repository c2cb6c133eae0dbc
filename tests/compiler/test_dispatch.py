"""Modes of MoE layers: capacity and token rounding beside dropless, loads of any number of experts per token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.dispatch import Dispatch, choice_of, chosen_pairs, padded_rows, split_dispatch
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layer_readers import moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.products import useful_macs
from tilescore.compiler.report import expert_load, rel_rms_error
from tilescore.compiler.routing import forced_choice, forced_route, read_choice
from tilescore.compiler.routing_loads import balanced, correlated, power
from tilescore.compiler.scoring import Scoring
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import NANO, compile_and_play

# Modes -------------------------------------------------------------------------------------------------

TRACE = np.array([[0, 1], [0, 2], [0, 1], [0, 3], [0, 1]])
SCORES = np.array([[.5, .3, .1, .1], [.4, .1, .3, .2], [.6, .2, .15, .05], [.3, .2, .2, .3], [.35, .34, .2, .11]])


def counts_of(spec: str) -> list[int]:
    _, mode = split_dispatch(f"router:{spec}")
    assert mode is not None
    return mode.used(TRACE, SCORES).sum(axis=0).tolist()


def test_modes_by_hand() -> None:
    """Loads 5, 3, 1, 1 of 5 tokens: a capacity of ceil(1.2 * 10 / 4) = 3 keeps the first three; rounding to 2 makes 4,
    4 (of 5 tokens no more than two tiles), 2, 2."""
    assert counts_of("capacity-1.2") == [3, 3, 1, 1] and counts_of("capacity-8") == [5, 3, 1, 1]
    assert counts_of("round-2") == [4, 4, 2, 2] == counts_of("round-up-2")
    assert counts_of("round-down-2") == [4, 2, 0, 0] and counts_of("round-5") == [5, 5, 0, 0]
    assert counts_of("round-3") == [3, 3, 0, 0] and counts_of("round-6") == [0, 0, 0, 0]
    first = split_dispatch("router:capacity-1.2")[1]
    assert first is not None and first.used(TRACE, SCORES)[:, 0].tolist() == [True, True, True, False, False]


def test_rounding_drops_the_smallest_share_and_adds_the_largest_score() -> None:
    """Of expert 0, shares of the two chosen scores are 5/8, 4/7, 3/4, 1/2 and 35/69: token 3 goes. Of expert 1, tokens
    1 and 3 did not choose it, with 0.1 and 0.2: token 3 comes."""
    used = Dispatch("round", 2).used(TRACE, SCORES)
    assert used[:, 0].tolist() == [True, True, True, False, True]
    assert used[:, 1].tolist() == [True, False, True, True, True]
    chosen = choice_of(used, SCORES)
    assert chosen.shape[1] == used.sum(axis=1).max() and (chosen_pairs(chosen, 4) == used).all()


@pytest.mark.parametrize("tokens, experts, top_k", [(64, 8, 2), (50, 16, 4), (33, 6, 6)])
def test_any_trace_keeps_the_promises_of_its_mode(tokens: int, experts: int, top_k: int, seed: int,
                                                  rng: np.random.Generator) -> None:
    scores, chosen = rng.random((tokens, experts)), forced_choice(
        "zipf-1", tokens=tokens, experts=experts, top_k=top_k, seed=seed)
    before = chosen_pairs(chosen, experts).sum(axis=0)
    for tile in (1, 4, 16):
        down, near, up = (Dispatch(kind, tile).used(chosen, scores).sum(axis=0)
                          for kind in ("round-down", "round", "round-up"))
        assert not (near % tile).any() and (down <= before).all() and (down <= near).all() and (near <= up).all()
        whole = tokens // tile * tile
        assert (np.abs(near - np.minimum(before, whole)) <= tile / 2).all()
        if tile == 1:
            assert (near == before).all() and (down == before).all() and (up == before).all()
    assert Dispatch("capacity", 1.0).used(chosen, scores).sum(axis=0).max() <= -(-tokens * top_k // experts)


@pytest.mark.parametrize("spec, expected", [
    ("balanced:capacity-0", "capacity: expected a positive number, got '0'"),
    ("balanced:capacity-x", "got 'x'"), ("balanced:capacity-nan", "got 'nan'"),
    ("router:round-1.5", "round: expected a positive integer, got '1.5'"),
    ("router:round-up--4", "round-up: expected a positive integer, got '-4'"),
])
def test_bad_modes(spec: str, expected: str) -> None:
    with pytest.raises(WorkloadError, match=expected):
        split_dispatch(spec)


# Tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, tokens, expected", [
    ("deepseek-v3", 256, (.50, .25, .13, .06)), ("deepseek-v3", 1024, (.82, .69, .50, .25)),
    ("deepseek-v3", 4096, (.95, .90, .81, .69)), ("qwen3-30b-a3b", 4096, (.97, .94, .89, .81)),
    ("mixtral-8x7b", 1024, (.97, .94, .89, .80)),
])
def test_efficiency_of_padding_to_tiles(model: str, tokens: int, expected: tuple[float, ...], seed: int) -> None:
    """Useful over padded rows of a uniformly random choice, tiles of 16, 32, 64 and 128 rows, the mean of eight draws.
    The figures are of another program, with a multinomial draw."""
    layer, found = moe_layer(load_model(model)), []
    for draw in range(8 if layer.experts < 100 else 2):
        chosen = forced_choice("zipf-0", tokens=tokens, experts=layer.experts, top_k=layer.top_k, seed=seed + draw)
        routing = forced_route(np.zeros((tokens, layer.experts)), chosen, norm_topk=True)
        loads = [expert_load(routing, tile) for tile in (16, 32, 64, 128)]
        found.append([load["pairs"] / (load["pairs"] + load["padded_rows"]) for load in loads])
        assert sum(loads[0]["counts"]) == tokens * layer.top_k and loads[0]["max_over_mean"] > 1
    assert np.mean(found, axis=0) == pytest.approx(expected, abs=0.03)


def test_the_table_of_the_docs() -> None:
    """One trace in every mode; 32 tokens per expert are less than half a tile of 128, so that rounding drops all."""
    tokens, experts, top_k, tile = 1024, 256, 8, 128
    page = (Path(__file__).parents[2] / "docs/reference/routing.md").read_text()
    chosen = balanced(tokens=tokens, experts=experts, top_k=top_k, seed=0)
    scores, wanted = np.random.default_rng(0).random((tokens, experts)), chosen_pairs(chosen, experts)
    for spec in ("dropless", "capacity-1", "round-128", "round-up-128"):
        mode, label = split_dispatch(f"x:{spec}")[1], "dropless" if spec == "dropless" else f"`{spec}`"
        used = wanted if mode is None else mode.used(chosen, scores)
        row = (used.sum(), (wanted & ~used).sum(), (used & ~wanted).sum(), padded_rows(used.sum(axis=0), tile))
        assert f"| {label} | {' | '.join(f'{value:,}' for value in row)} |" in page


# Loads -------------------------------------------------------------------------------------------------


def test_power_loads_grow_steeper() -> None:
    def heaviest(exponent: float) -> float:
        chosen = power(exponent, tokens=512, experts=64, top_k=4, seed=3)
        assert (np.sort(chosen, axis=1)[:, 1:] != np.sort(chosen, axis=1)[:, :-1]).all()
        return np.bincount(chosen.ravel(), minlength=64).max() / 32
    assert heaviest(0.0) < heaviest(1.0) < heaviest(1.5)
    assert heaviest(1.0) == pytest.approx(heaviest(1.0 + 1e-9), rel=0.05)


@pytest.mark.parametrize("experts, top_k", [(128, 8), (64, 2), (4, 3), (3, 3)])
def test_correlated_tokens_share_experts(experts: int, top_k: int) -> None:
    chosen = correlated(tokens=600, experts=experts, top_k=top_k, seed=1)
    assert all(len(set(row)) == top_k for row in chosen.tolist())
    shared = np.mean([len(set(a) & set(b)) / top_k for a, b in zip(chosen[1:].tolist(), chosen.tolist(), strict=False)])
    assert shared == pytest.approx(max(0.4, 2 - experts / top_k), abs=0.15 if experts < 2 * top_k else 0.04)


def test_a_file_may_have_any_number_of_experts_per_token(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(json.dumps([[2], [], [0, 1, 3]]))
    assert read_choice(file, tokens=3, experts=4).tolist() == [[2, -1, -1], [-1, -1, -1], [0, 1, 3]]


# On the tile -------------------------------------------------------------------------------------------

LAYERS = {"softmax": MoELayer(hidden=40, experts=6, top_k=2, intermediate=16, norm_topk=True),
          "all": MoELayer(hidden=40, experts=6, top_k=2, intermediate=16, norm_topk=False, shared=16),
          "sigmoid": MoELayer(hidden=40, experts=6, top_k=2, intermediate=16, norm_topk=True,
                              scoring=Scoring(score="sigmoid", epsilon=1e-20))}
SPECS = ("router:capacity-0.75", "zipf-1:round-8", "router:round-up-16", "correlated:round-down-4", "power-1.2",
         "router:round-64")


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_every_mode_is_the_quantized_layer(layer: MoELayer, spec: str) -> None:
    """Tokens of which all were dropped have 0, or their shared expert's result; `round-64` drops all of 19."""
    workload = Workload(layer=layer, tokens=19)
    compiled, result = compile_and_play(workload, NANO, routing=spec)
    held, routing = compiled.tensors, compiled.routing
    assert held is not None and routing is not None and compiled.expected is not None
    model = quantized_layer(held, calibrate(float64_layer(held, routing).ranges), routing=routing)
    assert rel_rms_error(result, model) < 1e-6
    without = (routing.chosen < 0).all(axis=1)
    assert without.all() == (spec == "router:round-64")
    assert layer.shared or not result[without].any()
    assert routing.pairs == 38 - routing.dropped + routing.added
    everything = useful_macs(workload)
    assert (useful_macs(workload, routing) - everything) == 3 * 40 * 16 * (routing.pairs - 38)
    cycles = simulate(compiled.program, ("timing",)).cycles
    assert cycles >= bounds(workload, NANO, routing).cycles


@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
@pytest.mark.parametrize("spec", ["router:capacity-0.75", "router:round-2"])
def test_bit_equal_at_rtl(spec: str) -> None:
    """`simulate` raises where levels differ."""
    program = compile_layer(Workload(layer=LAYERS["softmax"].cut({"hidden": 16, "intermediate": 8, "experts": 4,
                                                                 "top_k": 2}), tokens=5), NANO, routing=spec).program
    result = simulate(program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256
