"""Layers that no bundled model has, built from ops alone: they compile, are right, and are bit-equal at RTL.

The bounds are those of `lowering/test_attention_layers.py`: no code differs from the float64 walk with the tile's
quantizers on fixed seeds, so only what follows the last quantizer does, at most 3 * 2**-24.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import Trace, Walk
from tilescore.compiler.graph.ir import Graph, GraphBuilder, Role
from tilescore.compiler.graph.ops.attention import Attention
from tilescore.compiler.graph.ops.experts import Experts
from tilescore.compiler.graph.ops.linear import Linear
from tilescore.compiler.graph.ops.router import Router
from tilescore.compiler.lowering.plan import plan
from tilescore.compiler.masks import Sequences
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.tensors import ExpertWeights, GraphTensors
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import QuantizedWalk
from tilescore.tests.compiler.play import EDGE, NANO, play

FP32_ROUNDINGS = 1e-6
HIDDEN, MEMORY, HEADS, KV_HEADS, SIZE = 40, 24, 4, 2, 16


def cross_attention(request: Sequences, *, sink: bool = True) -> Graph:
    """Queries of one input against keys and values of another, no positions, a sink per head."""
    g = GraphBuilder()
    x = g.value("x", (request.batch * request.tokens, HIDDEN), Role.INPUT)
    memory = g.value("memory", (request.batch * request.keys, MEMORY), Role.INPUT)
    caches = [g.value(name, (request.batch, KV_HEADS, 0, SIZE), Role.CACHE) for name in ("k_cache", "v_cache")]
    sizes = {"wq": (HEADS * SIZE, HIDDEN), "wk": (KV_HEADS * SIZE, MEMORY), "wv": (KV_HEADS * SIZE, MEMORY),
             "wo": (HIDDEN, HEADS * SIZE)}
    weights = {name: g.value(name, shape, Role.WEIGHT) for name, shape in sizes.items()}
    sinks = [g.value("sinks", (HEADS,), Role.WEIGHT)] if sink else []
    q = g.node("query", Linear(heads=HEADS), x, weights["wq"], output="q")
    k = g.node("key", Linear(heads=KV_HEADS), memory, weights["wk"], output="k")
    v = g.node("value", Linear(heads=KV_HEADS, turned=True), memory, weights["wv"], output="v")
    mixed = g.node("core", Attention(workload=request, scale=0.25, sink=sink), q, k, v, *caches, *sinks,
                   output="mixed")
    g.node("output", Linear(), mixed, weights["wo"], output="out", role=Role.OUTPUT)
    return g.graph()


def tensors_of(graph: Graph, seed: int = 0) -> GraphTensors:
    rng = np.random.default_rng(seed)
    return GraphTensors({name: rng.standard_normal(value.shape).astype(np.float32) * (
        1.0 if value.role is Role.INPUT or name == "sinks" else value.shape[-1] ** -0.5)
        for name, value in graph.given().items()})


def compiled(graph: Graph, tile: TileConfig, numerics: Numerics, tensors: Any) -> tuple[Program, Trace, np.ndarray]:
    """The program, the float64 layer, and the output of the one with the tile's quantizers."""
    exact = Walk(graph=graph, tensors=tensors).run()
    scales = calibrate(exact.ranges, numerics)
    steps = plan(graph, tile, numerics, exact.routing)
    program = steps.program(steps.schedule(), scales, tensors)
    verify(program)
    quantized = QuantizedWalk(graph=graph, tensors=tensors, scales=scales, numerics=numerics, routing=exact.routing)
    return program, exact, quantized.run().out


def check(graph: Graph, tile: TileConfig, numerics: Numerics, tensors: Any = None) -> np.ndarray:
    """The result, near the float64 layer and within rounding of the one with quantizers."""
    program, exact, quantized = compiled(graph, tile, numerics, tensors or tensors_of(graph))
    result = play(program)
    assert rel_rms_error(result, quantized) < FP32_ROUNDINGS
    assert rel_rms_error(result, exact.out) < 0.15
    return result


REQUESTS = {"prefill": Sequences(batch=2, tokens=7, keys=37), "one token": Sequences(batch=3, tokens=1, keys=21),
            "one block": Sequences(batch=1, tokens=9, keys=5)}


@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_cross_attention_with_a_sink(tile: TileConfig, request_: Sequences) -> None:
    result = check(cross_attention(request_), tile, Numerics(softmax_block=16 if tile is NANO else 32))
    without = check(cross_attention(request_, sink=False), tile, Numerics(softmax_block=16 if tile is NANO else 32))
    assert rel_rms_error(without, result) > 0.02  # the sinks took weight from the keys


ACTIVATIONS = ("silu", "relu", "sigmoid")


def unlike_experts(rows: int, activations: tuple[str, ...]) -> Graph:
    """As many experts as activations, of which each row takes one."""
    g, count, inside = GraphBuilder(), len(activations), 32
    x, router = g.value("x", (rows, HIDDEN), Role.INPUT), g.value("router", (count, HIDDEN), Role.WEIGHT)
    wide, narrow = (count, inside, HIDDEN), (count, HIDDEN, inside)
    weights = [g.value(name, shape, Role.WEIGHT) for name, shape in (("gate", wide), ("up", wide), ("down", narrow))]
    logits = g.node("router", Linear(terms=True), x, router, output="logits")
    shares = g.node("choice", Router(top_k=1, norm_topk=False), logits, output="shares")
    g.node("experts", Experts(activations=activations), x, shares, *weights, output="out", role=Role.OUTPUT)
    return g.graph()


def with_experts(graph: Graph, seed: int = 0) -> GraphTensors:
    """Tensors, the weights of experts one by one."""
    held = tensors_of(graph, seed)
    return GraphTensors(held.arrays, lambda number: ExpertWeights(gate=held.gate[number], up=held.up[number],
                                                                  down=held.down[number]))


@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
def test_experts_with_different_activations(tile: TileConfig) -> None:
    results = []
    for activations in (ACTIVATIONS[:2], ACTIVATIONS, ("silu",) * 3):
        graph = unlike_experts(13, activations)
        results.append(check(graph, tile, Numerics(), with_experts(graph)))
    assert not np.array_equal(results[1], results[2])


def test_activations_are_named() -> None:
    with pytest.raises(WorkloadError, match=r"experts: activation: expected one of silu, .*, got 'tanh'"):
        unlike_experts(4, ("silu", "tanh"))


def test_the_example_of_the_docs_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/extending.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    result, exact = names["result"].outputs["out"], names["exact"].out
    assert rel_rms_error(result, exact) < 0.05
    assert f"{names['result'].cycles}\n" in capsys.readouterr().out


LAYERS = {"a sink": cross_attention(Sequences(batch=1, tokens=5, keys=21)),
          "unlike experts": unlike_experts(7, ACTIVATIONS[:2])}


@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
@pytest.mark.parametrize("graph", LAYERS.values(), ids=LAYERS)
def test_bit_equal_at_rtl(graph: Graph) -> None:
    tensors = with_experts(graph) if "gate" in graph.values else tensors_of(graph)
    program, *_ = compiled(graph, NANO, Numerics(softmax_block=16), tensors)
    result = simulate(program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256
