"""Whole decoder layers, dense feed-forward layers and norms as programs, and a layer that no model has.

The tile's result is next to that of the quantized walk: FP32 roundings differ (2**-24 each), and now and then one moves
a code to its neighbour. DeepSeek's FP32 block scales are rounded too.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MlpLayer, MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import Walk, float64_layer
from tilescore.compiler.graph.ir import Graph, GraphBuilder, Role
from tilescore.compiler.graph.ops.add import Add
from tilescore.compiler.graph.ops.linear import Linear
from tilescore.compiler.graph.ops.rms_norm import RmsNorm
from tilescore.compiler.layers import AttentionLayer, DecoderLayer, Layer, NormLayer, Workload
from tilescore.compiler.lowering.plan import plan
from tilescore.compiler.numerics import DEFAULT, Numerics, from_options
from tilescore.compiler.products import useful_macs
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.slices import slice_tensors, slice_workload
from tilescore.compiler.tensors import GraphTensors, synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError, WorkloadError
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import QuantizedWalk, quantized_layer
from tilescore.tests.compiler.kernels.test_rowwise import Case
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, TALL, compile_and_play, play, same_bits
from tilescore.tests.golden.cases import every_format

ATTENTION = AttentionLayer(hidden=56, heads=4, kv_heads=2, head_dim=10, qk_norm="head")
MLP = MlpLayer(hidden=56, intermediate=72)
MOE = MoELayer(hidden=56, experts=6, top_k=2, intermediate=40, norm_topk=True)
LAYERS: dict[str, Layer] = {
    "dense": DecoderLayer(attention=ATTENTION, feed_forward=MLP, residual_scale=0.22),
    "sparse": DecoderLayer(attention=ATTENTION, feed_forward=MOE),
    "mlp": MLP, "norm": NormLayer(hidden=56),
}  # fmt: skip
BLOCKS = {
    "post": {"feed_forward": MoELayer(hidden=40, experts=3, top_k=2, intermediate=24, norm_topk=True)},
    "sandwich": {"norm_offset": 1.0, "residual_scale": 0.5},
    "parallel": {"norm_centered": True, "norm_bias": True},
}  # fmt: skip
DECODERS = pytest.mark.parametrize("kind", ["dense", "sparse"])


def workload_of(kind: str, **request: Any) -> Workload:
    layer = LAYERS[kind]
    if not isinstance(layer, DecoderLayer):
        request.pop("context", None)
    return Workload(layer=layer, **request)


def quantized(compiled: CompiledLayer, numerics: Numerics = DEFAULT) -> np.ndarray:
    assert compiled.tensors is not None
    scales = calibrate(float64_layer(compiled.tensors, compiled.routing).ranges, numerics)
    return quantized_layer(compiled.tensors, scales, numerics, routing=compiled.routing)


@pytest.mark.parametrize("kind", LAYERS)
def test_same_bits_on_every_tile_and_next_to_the_quantized_layer(kind: str) -> None:
    workload = workload_of(kind, tokens=3, batch=2, context=9, phase="decode")
    compiled, result = compile_and_play(workload, NANO)
    assert compiled.expected is not None and np.isfinite(result).all()
    assert rel_rms_error(result, quantized(compiled)) < 1e-6
    for tile in (EDGE, SQUAT, TALL):
        assert same_bits(compile_and_play(workload, tile)[1], result)


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_with_other_norms(block: Any) -> None:
    """The result is the quantized layer's, whose norms take turns as the block says, and the same at every level."""
    layer = DecoderLayer(**{"attention": AttentionLayer(hidden=40, heads=2, kv_heads=1, head_dim=8), "block": block,
                            "feed_forward": MlpLayer(hidden=40, intermediate=24)} | BLOCKS[block])
    compiled, result = compile_and_play(Workload(layer=layer, tokens=3, context=4), NANO)
    assert rel_rms_error(result, quantized(compiled)) < 1e-6
    simulate(compiled.program, LEVELS, backend="verilator")


@pytest.mark.parametrize("preset", ["mxfp8", "nvfp4", "w4a8-mxfp4", "deepseek", "e5m2"])
def test_formats(preset: str) -> None:
    """Codes and block scales of activations are made by rowwise kernels, also in the second cut for the values."""
    numerics, tile = from_options(preset), every_format(EDGE)
    for kind in ("dense", "sparse"):
        compiled, result = compile_and_play(workload_of(kind, tokens=5, batch=2), tile, numerics=numerics)
        assert rel_rms_error(result, quantized(compiled, numerics)) < 2e-4


@pytest.mark.parametrize("terms", [1, 2])
def test_router_terms(terms: int) -> None:
    """One term is the activations' own codes."""
    compiled, result = compile_and_play(workload_of("sparse", tokens=4), NANO, numerics=Numerics(router_terms=terms))
    assert rel_rms_error(result, quantized(compiled, Numerics(router_terms=terms))) < 1e-6


@pytest.mark.parametrize("kind", LAYERS)
def test_levels_agree(kind: str) -> None:
    """Results and cycles at reference, timing and RTL level, for the slice of a larger layer."""
    workload = workload_of(kind, tokens=5)
    small = slice_workload(workload)
    compiled = compile_layer(small, NANO, tensors=slice_tensors(synthetic(workload, 1), small))
    simulate(compiled.program, LEVELS, backend="verilator")


@DECODERS
def test_cycles_are_not_above_the_sum_of_the_parts(kind: str) -> None:
    """Norms, residual sums and quantizers as programs of their own, with FP32 in and out."""
    workload = workload_of(kind, tokens=6)
    layer = workload.layer
    assert isinstance(layer, DecoderLayer)
    parts = [compile_layer(workload.part(part), NANO, data=False).program
             for part in (layer.attention, layer.feed_forward, layer.norm, layer.norm)]
    terms = DEFAULT.router_terms if kind == "sparse" else 0
    sizes = {"rows": workload.rows, "n": layer.hidden, "norm": False}
    parts += [Case(**sizes, two=True).program(NANO)[0] for _ in range(2)]
    parts += [Case(**sizes, floats=False, formats=("e4m3",), terms=count).program(NANO)[0] for count in (0, terms)]
    whole = compile_layer(workload, NANO, data=False).program
    assert time_program(whole).cycles <= sum(time_program(part).cycles for part in parts)


@DECODERS
def test_macs_and_bounds_are_those_of_the_parts(kind: str) -> None:
    """What a part reads or writes beside its weights may stay on chip."""
    workload = workload_of(kind, tokens=6, context=5)
    layer = workload.layer
    assert isinstance(layer, DecoderLayer)
    parts = [workload.part(part) for part in (layer.attention, layer.feed_forward)]
    assert useful_macs(workload) == sum(map(useful_macs, parts))
    whole, apart = bounds(workload, EDGE), [bounds(part, EDGE) for part in parts]
    assert 0 <= sum(part.compute_cycles for part in apart) - whole.compute_cycles <= 1
    assert whole.vector_cycles > sum(part.vector_cycles for part in apart)
    weights = whole.read_bytes - 4 * workload.rows * layer.hidden
    assert 0 < weights < sum(part.read_bytes for part in apart)
    compiled = compile_layer(workload, EDGE)
    assert time_program(compiled.program).cycles >= bounds(workload, EDGE, compiled.routing).cycles


def test_forced_routing_of_a_decoder() -> None:
    compiled = compile_layer(workload_of("sparse", tokens=9), NANO, routing="balanced", data=False)
    assert compiled.routing is not None and compiled.routing.counts.tolist() == [3] * 6
    with pytest.raises(CompileError, match=r"only an MoE layer is routed, this one is decoder"):
        compile_layer(workload_of("dense", tokens=9), NANO, routing="balanced")


def test_wrong_decoders() -> None:
    with pytest.raises(WorkloadError, match=r"feed_forward: expected hidden = 56, that of attention, got 64"):
        DecoderLayer(attention=ATTENTION, feed_forward=dataclasses.replace(MLP, hidden=64))
    with pytest.raises(WorkloadError, match=r"residual_scale: expected a positive finite number, got 0"):
        DecoderLayer(attention=ATTENTION, feed_forward=MLP, residual_scale=0)
    with pytest.raises(WorkloadError, match=r"block: expected one of pre, post, sandwich, parallel, got 'serial'"):
        DecoderLayer(attention=ATTENTION, feed_forward=MLP, block="serial")  # type: ignore[arg-type]
    with pytest.raises(WorkloadError, match=r"bias: expected false unless centered \(a LayerNorm\), got true"):
        DecoderLayer(attention=ATTENTION, feed_forward=MLP, norm_bias=True)


# ---- a layer that no model has ----


def two_gemms(rows: int, hidden: int, width: int) -> Graph:
    """out = x + W2 norm(W1 norm(x)): made of public ops."""
    g = GraphBuilder()
    x = g.value("x", (rows, hidden), Role.INPUT)
    first, second = g.value("n1", (hidden,), Role.WEIGHT), g.value("n2", (width,), Role.WEIGHT)
    wide, narrow = g.value("w1", (width, hidden), Role.WEIGHT), g.value("w2", (hidden, width), Role.WEIGHT)
    normed = g.node("norm 1", RmsNorm(eps=1e-5), x, first, output="a")
    made = g.node("gemm 1", Linear(), normed, wide, output="b")
    again = g.node("norm 2", RmsNorm(eps=1e-5), made, second, output="c")
    back = g.node("gemm 2", Linear(), again, narrow, output="d")
    g.node("residual", Add(), x, back, output="out", role=Role.OUTPUT)
    return g.graph()


def two_in_a_row(rows: int) -> Graph:
    """out = W2 W1 x: the first result is quantized on its way."""
    g = GraphBuilder()
    x, w, v = (g.value("x", (rows, 40), Role.INPUT), g.value("w", (24, 40), Role.WEIGHT),
               g.value("v", (20, 24), Role.WEIGHT))
    g.node("second", Linear(), g.node("first", Linear(), x, w, output="made"), v, output="out", role=Role.OUTPUT)
    return g.graph()


@pytest.mark.parametrize("graph", [two_gemms(5, 40, 24), two_in_a_row(5)], ids=["residual", "in a row"])
@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
def test_gemms_with_and_without_norms(tile: TileConfig, graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = GraphTensors({name: rng.standard_normal(value.shape).astype(np.float32)
                            for name, value in graph.given().items()})
    trace = Walk(graph=graph, tensors=tensors).run()
    steps = plan(graph, tile)
    scales = calibrate(trace.ranges)
    program = steps.program(steps.schedule(), scales, tensors)
    expected = QuantizedWalk(graph=graph, tensors=tensors, scales=scales, numerics=DEFAULT).run().out
    assert 1e-3 < rel_rms_error(expected, trace.out) < 0.2
    assert rel_rms_error(play(program), expected) < 1e-6
    if tile is NANO:
        simulate(program, LEVELS, backend="verilator")


@pytest.mark.parametrize("intermediate", [14336, 21504])
def test_long_products_are_streamed(intermediate: int) -> None:
    """Where few rows of products stay on chip, or none, the weights would be read once for each of them, or the
    products for each small group of results."""
    workload = Workload(layer=MlpLayer(hidden=256, intermediate=intermediate), tokens=128)
    compiled = compile_layer(workload, EDGE, data=False)
    assert compiled.schedule["out"].m_tile == 128 and not compiled.schedule["out"].a_resident
    assert compiled.schedule["out"].group_tiles >= 8
    assert time_program(compiled.program).cycles < 1.15 * bounds(workload, EDGE).cycles
