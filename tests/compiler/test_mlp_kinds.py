"""Kinds of feed-forward layers: activations, with and without a gate and biases, on the tile as in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tilescore.compiler.activation_names import ACTIVATIONS, HUGGING_FACE, clamped
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MlpLayer, MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.graph.ops.gate import FUNCTIONS, gated
from tilescore.compiler.layers import Workload
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.tiles import activations
from tilescore.compiler.tiles.evaluate import evaluate
from tilescore.compiler.tiles.expr import Assign, Elem, Leaf
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, TALL, compile_and_play

FP32_ROUNDINGS = 1e-6
CLAMPED = "clamped_swiglu(1.5, 1.702)"


def on_tile(name: str, x: np.ndarray, up: np.ndarray | None = None) -> np.ndarray:
    """What the statements make of float32 values, in numpy, bit for bit as the vector unit does."""
    regions = {0: x.copy(), 1: np.zeros_like(x), 2: np.zeros_like(x) if up is None else up.copy()}

    def read(leaf: Leaf) -> np.ndarray:
        assert isinstance(leaf, Elem)
        return regions[leaf.addr]

    made = activations.product(name, Elem(0), Elem(1), 1.0, None if up is None else Elem(2))
    for statement in (*made.statements, Assign(value=made.value, scale=made.scale, to=Elem(1))):
        assert isinstance(statement.to, Elem)
        value = statement.value if statement.scale is None else statement.value * statement.scale
        regions[statement.to.addr] = np.broadcast_to(evaluate(value, read), x.shape).astype(np.float32)
    return regions[1]


def test_every_name_has_a_function_and_statements() -> None:
    assert set(FUNCTIONS) == set(activations.ACTIVATIONS) == set(ACTIVATIONS) == set(HUGGING_FACE.values())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_statements_make_the_function(name: str) -> None:
    """To a few roundings of FP32, `gelu` to its stated error; far from 0 too, where nothing may overflow to NaN."""
    x = np.concatenate([np.linspace(-12, 12, 40001), [-1e30, -1e9, -300, 300, 1e9, 1e30, 0, -0.0]]).astype(np.float32)
    if name == "relu2":
        x = np.clip(x, -1e15, 1e15)
    exact = FUNCTIONS[name](x.astype(np.float64))
    error = np.abs(on_tile(name, x[None])[0] - exact)
    stated = activations.GELU_ERROR if name == "gelu" else 2.0**-20
    assert (error <= stated + 2.0**-20 * np.abs(exact)).all()
    if name == "gelu":
        assert error[:-8].max() > activations.GELU_ERROR / 2  # no less is claimed than is so


def test_the_clamped_gate_equals_its_definition() -> None:
    values = np.linspace(-4, 4, 401).astype(np.float32)
    gate, up = (part.reshape(1, -1).copy() for part in np.meshgrid(values, values))
    exact = gated(CLAMPED, gate.astype(np.float64), up.astype(np.float64))
    assert np.allclose(on_tile(CLAMPED, gate, up), exact, rtol=2.0**-18, atol=2.0**-21)
    limits = clamped(CLAMPED)
    assert limits is not None and (limits.limit, limits.alpha, limits.name) == (1.5, 1.702, CLAMPED)


KINDS: dict[str, MlpLayer] = {
    f"{name}{' gated' * gate}{' biased' * biases}": MlpLayer(
        hidden=40, intermediate=56, activation=name, gated=gate, biases=biases)
    for name, gate, biases in (("relu2", False, False), ("gelu_tanh", False, True), ("gelu_tanh", True, False),
                               ("gelu", True, True), ("silu", True, True), (CLAMPED, True, True))}


@pytest.mark.parametrize("tile", [NANO, EDGE, TALL], ids=lambda tile: tile.name)
@pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS)
def test_result_is_the_quantized_layer(layer: MlpLayer, tile: Any) -> None:
    compiled, result = compile_and_play(Workload(layer=layer, tokens=19), tile)
    held, exact = compiled.tensors, compiled.expected
    assert held is not None and exact is not None
    model = quantized_layer(held, calibrate(float64_layer(held).ranges))
    rounding = FP32_ROUNDINGS if layer.activation != "gelu" else 1e-3  # its error moves a code, rarely
    assert rel_rms_error(result, model) < rounding
    assert rel_rms_error(result, exact) < 1.1 * rel_rms_error(model, exact) < 0.2


@pytest.mark.parametrize("make, changes, expected", [
    (MlpLayer, {"activation": "tanh"}, "expected one of silu, .* or clamped_swiglu.LIMIT, ALPHA., got 'tanh'"),
    (MlpLayer, {"activation": CLAMPED, "gated": False}, "expected one of silu, .*gelu_tanh, got 'clamped"),
    (MlpLayer, {"activation": "clamped_swiglu(7, x)"}, "got 'clamped_swiglu.7, x.'"),
    (MlpLayer, {"activation": "clamped_swiglu(-7, 1)"}, "got 'clamped_swiglu.-7, 1.'"),
    (MlpLayer, {"gated": 1}, "gated: expected true or false, got 1"),
    (MoELayer, {"activation": "tanh", "experts": 2, "top_k": 1, "norm_topk": True}, "got 'tanh'"),
])
def test_bad_layers(make: Any, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(WorkloadError, match=expected):
        make(hidden=8, intermediate=8, **changes)


@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
@pytest.mark.parametrize("layer", KINDS.values(), ids=KINDS)
def test_bit_equal_at_rtl(layer: MlpLayer) -> None:
    """`simulate` raises where levels differ."""
    small = layer.cut({"hidden": 16, "intermediate": 16})
    result = simulate(compile_layer(Workload(layer=small, tokens=3), NANO).program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256
