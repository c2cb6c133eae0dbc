"""MoE layers on the tile against the float64 layer with the tile's quantizers, and against the plain one.

`FP32_ROUNDINGS`, derived: after the product's code, what differs from the model is the down projection's drain, its
factor and the combine weight (three roundings and that of the factor), ``top_k`` additions, and the error of the
weight itself: logits in units of log2 (up to some 16) rounded twice to FP32 move the exponential by 16 * 2 * 2**-24 *
ln 2 = 1.3e-6 in the worst case, a fifth of that on average. 1e-6 for the layer. A code that FP32 rounding moves
to its neighbour adds to that, rarely (see `attention/test_lower.py`); fresh seeds may be half the layer's own
quantization error away.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.graph.ops.gate import silu
from tilescore.compiler.layer_readers import moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.logits import tile_logits
from tilescore.compiler.models import load_model
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError, WorkloadError
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL, compile_and_play, play, same_bits
from tilescore.tests.compiler.tiny import MOE_FAMILIES, tiny_config, write_config

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

FP32_ROUNDINGS = 1e-6


def quantized(compiled: CompiledLayer) -> np.ndarray:
    """The float64 layer with quantizers and the routing of the program."""
    held, routing = compiled.tensors, compiled.routing
    assert routing is not None
    return quantized_layer(held, calibrate(float64_layer(held, routing).ranges), routing=routing)


def check(workload: Workload, tile: TileConfig, seed: int = 0, **options: Any) -> CompiledLayer:
    """Both bounds of the module docstring for one layer."""
    compiled, result = compile_and_play(workload, tile, seed=seed, **options)
    model = quantized(compiled)
    assert compiled.expected is not None and result.shape == (workload.rows, workload.layer.hidden)
    assert rel_rms_error(result, model) < FP32_ROUNDINGS
    assert rel_rms_error(result, compiled.expected) < 1.1 * rel_rms_error(model, compiled.expected)
    return compiled


@pytest.mark.parametrize("tokens, batch", [(17, 2), (1, 1), (1, 9)])
@pytest.mark.parametrize("family", MOE_FAMILIES)
@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
def test_result_is_the_quantized_layer(tile: TileConfig, family: str, tokens: int, batch: int, tmp_path: Path) -> None:
    layer = moe_layer(load_model(write_config(tmp_path, tiny_config(family))))
    check(Workload(layer=layer, tokens=tokens, batch=batch), tile)


LAYERS = {
    "one expert": MoELayer(hidden=40, experts=1, top_k=1, intermediate=16, norm_topk=True),
    "every expert": MoELayer(hidden=40, experts=7, top_k=7, intermediate=16, norm_topk=False),
    "top 1": MoELayer(hidden=33, experts=5, top_k=1, intermediate=24, norm_topk=False),
    "many experts": MoELayer(hidden=48, experts=50, top_k=4, intermediate=8, norm_topk=True),
    "odd sizes": MoELayer(hidden=7, experts=3, top_k=2, intermediate=5, norm_topk=True),
    "long k": MoELayer(hidden=700, experts=2, top_k=1, intermediate=40, norm_topk=True),
    "one buffer": MoELayer(hidden=1000, experts=2, top_k=2, intermediate=400, norm_topk=False),
    "one buffer for products": MoELayer(hidden=300, experts=3, top_k=2, intermediate=1000, norm_topk=False),
    "wide experts": MoELayer(hidden=24, experts=2, top_k=2, intermediate=600, norm_topk=False),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("tile", [NANO, EDGE, SERVER, SQUAT, TALL], ids=lambda tile: tile.name)
def test_shapes(tile: TileConfig, layer: MoELayer) -> None:
    check(Workload(layer=layer, tokens=11), tile)


@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
@hypothesis.settings(max_examples=10)
@hypothesis.given(tokens=st.integers(1, 40), experts=st.integers(1, 9), top_k=st.integers(1, 9), norm=st.booleans(),
                  routing=st.sampled_from([None, "balanced", "zipf-1.5"]), seed=st.integers(0, 2**32 - 1))
def test_any_layer_has_the_error_of_its_formats(tile: TileConfig, tokens: int, experts: int, top_k: int, norm: bool,
                                                routing: str | None, seed: int) -> None:
    layer = MoELayer(hidden=48, experts=experts, top_k=min(top_k, experts), intermediate=24, norm_topk=norm)
    compiled, result = compile_and_play(Workload(layer=layer, tokens=tokens), tile, seed=seed, routing=routing)
    model, exact = quantized(compiled), compiled.expected
    assert exact is not None
    error = rel_rms_error(model, exact)
    assert rel_rms_error(result, exact) < 1.1 * error + FP32_ROUNDINGS
    assert rel_rms_error(result, model) < max(2 * FP32_ROUNDINGS, error / 2)


# Routing -----------------------------------------------------------------------------------------------

TINY = Workload(layer=MoELayer(hidden=48, experts=6, top_k=2, intermediate=32, norm_topk=True), tokens=20)


def test_the_tile_chooses_by_its_own_logits() -> None:
    compiled = check(TINY, NANO, seed=4)
    held, routing = compiled.tensors, compiled.routing
    assert routing is not None
    order = np.argsort(-tile_logits(held, compiled.numerics.router_terms), axis=1, kind="stable")[:, :2]
    assert np.array_equal(routing.chosen, order)


@pytest.mark.parametrize("routing", ["balanced", "zipf-0.3", "zipf-3"])
def test_forced_routing_changes_the_load_and_not_the_mathematics(routing: str) -> None:
    compiled = check(TINY, EDGE, routing=routing)
    assert compiled.routing is not None and compiled.routing.counts.sum() == 40
    if routing == "balanced":
        assert np.ptp(compiled.routing.counts) <= 1


def test_routing_from_a_file(tmp_path: Path) -> None:
    """All tokens to the same two experts: the other four take no part, and no weights of theirs are placed."""
    path = tmp_path / "routing.json"
    path.write_text(json.dumps([[5, 1]] * 20))
    compiled = check(TINY, NANO, routing=str(path))
    assert compiled.routing is not None and compiled.routing.active == (1, 5)
    names = {segment.name.split(".")[0] for segment in compiled.program.segments}
    assert {"expert1", "expert5"} <= names and not names & {"expert0", "expert2", "expert3", "expert4"}


def test_every_expert_with_all_weights_equal_is_one_dense_expert() -> None:
    """With equal experts the choice and the weights drop out (they sum to 1): a dense SwiGLU layer remains."""
    held = synthetic(TINY, 1)
    one = held.expert(0)
    same = LayerTensors(workload=TINY, x=held.x, router=held.router, load_expert=lambda index: one)
    x, gate, up, down = (a.astype(np.float64) for a in (held.x, one.gate, one.up, one.down))
    dense = (silu(x @ gate.T) * (x @ up.T)) @ down.T
    compiled, result = compile_and_play(TINY, NANO, tensors=same)
    assert compiled.expected is not None and rel_rms_error(compiled.expected, dense) < 1e-12
    assert rel_rms_error(result, dense) < 1.1 * rel_rms_error(quantized(compiled), dense)


def test_tokens_do_not_mix() -> None:
    """A token's result is the same among other tokens, bit for bit, when the scales are the same."""
    compiled, result = compile_and_play(TINY, NANO, seed=1)
    held = compiled.tensors
    order = np.random.default_rng(0).permutation(20)
    other = play(compile_layer(TINY, NANO, tensors=held.replace(x=held.x[order])).program)
    assert same_bits(other, result[order])


def test_instructions_and_cycles_do_not_depend_on_data() -> None:
    with_data, without = compile_layer(TINY, NANO, seed=3), compile_layer(TINY, NANO, seed=3, data=False)
    assert time_program(with_data.program).cycles == time_program(without.program).cycles
    assert with_data.program.labels == without.program.labels and without.expected is None


# What cannot be compiled -------------------------------------------------------------------------------


@pytest.mark.parametrize("tile, layer, message", [
    (NANO, {"experts": 1000, "top_k": 1}, r"router: no tiling of m = 9, n = 1000, k = 48 with 250 column tiles per "
                                          r"epilogue fits tile nano: .* accumulator buffer 16 banks of 16 rows"),
])
def test_layers_that_do_not_fit_are_named(tile: TileConfig, layer: dict, message: str) -> None:
    fields = {"hidden": 48, "experts": 4, "top_k": 2, "intermediate": 32, "norm_topk": True} | layer
    with pytest.raises(CompileError, match=message):
        compile_layer(Workload(layer=MoELayer(**fields), tokens=9), tile, data=False)


@pytest.mark.parametrize("routing, message", [
    ("even", "routing 'even': expected balanced, correlated, zipf-S"), ("zipf-x", "expected an exponent from 0 to 10"),
    ("zipf--1", "expected an exponent")])
def test_unknown_routings_are_named(routing: str, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        compile_layer(TINY, NANO, routing=routing)
