"""Graphs: their rules, and layers that no model has, made of the same ops."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.graph.calibrate import Scales, calibrate
from tilescore.compiler.graph.evaluate import Walk
from tilescore.compiler.graph.ir import Graph, GraphBuilder, Node, Role, Slot, Value
from tilescore.compiler.graph.layers import layer_graph
from tilescore.compiler.graph.ops.attention import Attention
from tilescore.compiler.graph.ops.linear import Linear
from tilescore.compiler.graph.ops.rms_norm import RmsNorm, rms_norm
from tilescore.compiler.graph.ops.router import Router
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.tensors import GraphTensors, tensor_shapes
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.testing.quantized_layer import QuantizedWalk, fake_quantize

ATTENTION = Workload(layer=AttentionLayer(hidden=24, heads=4, kv_heads=2, head_dim=6, qk_norm="full"), tokens=5,
                     context=3, batch=2)
MOE = Workload(layer=MoELayer(hidden=24, experts=6, top_k=2, intermediate=10, norm_topk=True), tokens=7)


def test_inputs_are_the_tensors_of_the_workload() -> None:
    values = layer_graph(ATTENTION).values.values()
    found = {value.name: value.shape for value in values if value.role in (Role.INPUT, Role.WEIGHT, Role.CACHE)}
    assert found == tensor_shapes(ATTENTION)
    weights = {value.name: value.shape for value in layer_graph(MOE).values.values() if value.role is Role.WEIGHT}
    assert weights == {"router": (6, 24), "gate": (6, 10, 24), "up": (6, 10, 24), "down": (6, 24, 10)}


def test_one_value_may_be_held_in_two_ways() -> None:
    assert {slot for value, slot, _ in layer_graph(MOE).uses() if value.name == "x"} == {Slot.TERMS, Slot.ACTIVATIONS}


def two_linears(**changes: Any) -> Graph:
    """x (3, 8) to (3, 4) to (3, 2), with other fields of the second node."""
    values = {name: Value(name=name, shape=shape, role=role) for name, shape, role in (
        ("x", (3, 8), Role.INPUT), ("a", (4, 8), Role.WEIGHT), ("b", (2, 4), Role.WEIGHT),
        ("y", (3, 4), Role.ACTIVATION), ("z", (3, 2), Role.OUTPUT))}
    values |= changes.pop("values", {})
    first = Node(name="first", op=Linear(), inputs=("x", "a"), output="y")
    second = Node(**({"name": "second", "op": Linear(), "inputs": ("y", "b"), "output": "z"} | changes))
    return Graph(values=values, nodes=(first, second))


@pytest.mark.parametrize(("changes", "message"), [
    ({"inputs": ("y",)}, "second: expected 2 inputs, got 1"),
    ({"inputs": ("y", "c")}, "second: input c is no value of the graph"),
    ({"inputs": ("z", "b")}, "second: input z is made by no node before it"),
    ({"output": "c"}, "second: output c is no value of the graph"),
    ({"output": "y"}, "second: output y exists before it"),
    ({"inputs": ("y", "a")}, r"linear: a weight \(4, 8\) does not fit x \(3, 4\)"),
    ({"values": {"z": Value(name="z", shape=(3, 3), role=Role.OUTPUT)}},
     r"second: output z: expected shape \(3, 2\), got \(3, 3\)"),
    ({"values": {"z": Value(name="z", shape=(3, 2), role=Role.ACTIVATION)}}, "expected one output, got 0: "),
    ({"values": {"w": Value(name="w", shape=(3,), role=Role.ACTIVATION)}}, "value w is made by no node"),
])
def test_a_wrong_graph_says_what_is_wrong(changes: dict, message: str) -> None:
    two_linears()
    with pytest.raises(WorkloadError, match=message):
        two_linears(**changes)


@pytest.mark.parametrize(("op", "shapes", "message"), [
    (RmsNorm(eps=1e-6), ((3, 2, 4), (5,)), r"rms norm: a weight \(5,\) does not fit x \(3, 2, 4\)"),
    (Linear(heads=3), ((3, 8), (4, 8)), r"linear: a weight \(4, 8\) does not fit x \(3, 8\) and 3 heads"),
    (Attention(workload=ATTENTION, scale=1.0), ((10, 3, 6), (10, 2, 6), (10, 2, 6), (2, 2, 3, 6), (2, 2, 3, 6)),
     r"attention: q \(10, 3, 6\), k \(10, 2, 6\)"),
])
def test_shapes_that_do_not_fit(op: Any, shapes: tuple, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        op.shape(*shapes)


def test_a_graph_that_no_model_has(rng: np.random.Generator) -> None:
    """Linear, norm over two heads, linear: float64 by hand, and quantized with the scales of its own ranges."""
    g = GraphBuilder()
    x, a = g.value("x", (5, 16), Role.INPUT), g.value("a", (8, 16), Role.WEIGHT)
    norm, b = g.value("norm", (8,), Role.WEIGHT), g.value("b", (3, 8), Role.WEIGHT)
    y = g.node("first", Linear(heads=2), x, a, output="y")
    z = g.node("norm", RmsNorm(eps=1e-6), y, norm, output="z")
    g.node("second", Linear(), z, b, output="out", role=Role.OUTPUT)
    graph = g.graph()
    tensors = GraphTensors({name: rng.standard_normal(graph.values[name].shape).astype(np.float32)
                            for name in ("x", "a", "norm", "b")})
    trace = Walk(graph=graph, tensors=tensors).run()
    normed = rms_norm(tensors.x.astype(np.float64) @ tensors.a.T.astype(np.float64), tensors.norm, 1e-6)
    assert np.allclose(trace.out, normed @ tensors.b.T.astype(np.float64), rtol=1e-12)
    numerics = Numerics(formats=PRESETS["mxfp8"])
    scales = calibrate(trace.ranges, numerics)
    assert set(scales) == {"x", "a", "y", "z", "b"} and scales["y"] == trace.ranges["y"].amax
    quantized = QuantizedWalk(graph=graph, tensors=tensors, scales=scales, numerics=numerics).run().out
    error = np.abs(quantized - trace.out).max() / np.abs(trace.out).max()
    assert 1e-4 < error < 0.2


def test_a_router_takes_the_choice_that_is_given(rng: np.random.Generator) -> None:
    op, logits = Router(top_k=2, norm_topk=True), rng.standard_normal((4, 5))
    walk: Any = SimpleNamespace(routing=None)
    own = op.evaluate(walk, logits)
    assert np.allclose(own.sum(axis=1), 1) and walk.routing.chosen.shape == (4, 2)
    walk.routing = dataclasses.replace(walk.routing, chosen=(walk.routing.chosen + 1) % 5)
    assert not np.allclose(op.evaluate(walk, logits), own)


def test_blocks_do_not_span_heads(rng: np.random.Generator) -> None:
    """(rows, heads, 24) in blocks of 16: each head alone."""
    x = (rng.standard_normal((4, 3, 24)) * [[[1], [100], [0.01]]]).astype(np.float32)
    together = fake_quantize(x, 1.0, PRESETS["nvfp4"].weights)
    assert np.array_equal(together, np.stack([fake_quantize(x[:, h], 1.0, PRESETS["nvfp4"].weights)
                                              for h in range(3)], axis=1))


def test_scales_without_factors_are_one() -> None:
    assert Scales()["anything"] == Scales()[3, "gate"] == 1.0 and not len(Scales())
    with pytest.raises(KeyError):
        Scales({"x": 2.0})["y"]
