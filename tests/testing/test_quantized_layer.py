"""The float64 layers with quantizers: right without them, and with them as far off as E4M3 makes them."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.kernels.softmax import P_GAIN
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.testing import quantized_layer as quantized_module
from tilescore.testing.quantized_layer import fake_quantize, quantized_layer, rounded_probabilities

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

HALF_STEP = 2.0**-4
"""E4M3 has three fraction bits: rounding moves a normal value by at most 2**-4 of itself."""

ONE_CODE = HALF_STEP * 0.42
"""Root mean square of that error for values spread evenly over a binade: half a step is 2**-4 of the binade's foot,
an error evenly spread over it has 1/sqrt(3) of it, relative to values of 1 to 2: sqrt(1/2) of it; 0.41 in all."""

ATTENTION = {
    "prefill": Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=21, batch=2),
    "unmasked": Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=21, mask="none"),
    "normed as a whole": Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=10, qk_norm="full"),
                                  tokens=9),
    "normed": Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=1, head_dim=16, qk_norm="head"), tokens=9,
                       context=23),
    "decode": Workload(layer=AttentionLayer(hidden=48, heads=6, kv_heads=2, head_dim=16, softmax_scale=0.1), tokens=1,
                       context=40, batch=3, phase="decode"),
}
MOE = {
    "renormalized": Workload(layer=MoELayer(hidden=48, experts=6, top_k=2, intermediate=32, norm_topk=True), tokens=17),
    "plain": Workload(layer=MoELayer(hidden=48, experts=6, top_k=3, intermediate=32, norm_topk=False), tokens=17),
}
EVERY = ATTENTION | MOE


def expected(tensors: LayerTensors) -> np.ndarray:
    return float64_layer(tensors).out


def quantized(tensors: LayerTensors, key_block: int | None = None) -> np.ndarray:
    trace = float64_layer(tensors)
    numerics = Numerics(softmax_block=key_block or tensors.workload.keys)
    return quantized_layer(tensors, calibrate(trace.ranges), numerics, trace.routing)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square of a - b, relative to b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


# The quantizer -----------------------------------------------------------------------------------------


def test_codes_are_kept(rng: np.random.Generator) -> None:
    magnitudes = [0.0, 2.0**-9, 3 * 2.0**-9, 2.0**-6, 0.875, 1.0, 1.125, 15.0, 256.0, 448.0]
    values = np.array(magnitudes + [-m for m in magnitudes])
    for scale in (1.0, 0.25, 3.0):
        assert np.array_equal(fake_quantize(values * scale, scale), values * scale)


def test_ties_go_to_even_and_too_large_saturates() -> None:
    assert fake_quantize(np.array([1.0625, 1.1875, 2.0**-10, 3 * 2.0**-10, 500.0, -1e6]), 1.0).tolist() == [
        1.0, 1.25, 0.0, 2 * 2.0**-9, 448.0, -448.0]


def test_equals_ml_dtypes(rng: np.random.Generator) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs the test extra (ml-dtypes)")
    values = (rng.standard_normal(4096) * 2.0 ** rng.integers(-14, 8, 4096)).astype(np.float32)
    values = np.clip(values, -448, 448)
    theirs = values.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    assert np.array_equal(fake_quantize(values, 1.0), theirs)


@hypothesis.given(x=st.floats(-448, 448), scale=st.floats(2.0**-20, 2.0**20, width=32))
def test_error_is_half_a_step_at_most(x: float, scale: float) -> None:
    error = abs(float(fake_quantize(np.array([x * scale]), scale)[0]) / scale - x)
    rounding_to_float32 = abs(x) * 2.0**-22
    assert error <= max(HALF_STEP * abs(x), 2.0**-10) + rounding_to_float32


# The layers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("key_block", [None, 16, 7])
def test_without_rounding_they_are_the_float64_layers(workload: Workload, key_block: int | None, seed: int,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the quantizers make a difference, and cutting the keys into blocks makes none."""
    monkeypatch.setattr(quantized_module, "fake_quantize", lambda x, *formats, **options: np.asarray(x, np.float64))
    monkeypatch.setattr(quantized_module, "term_values", lambda x, scale, terms: [x.astype(np.float64) / scale])
    tensors = synthetic(workload, seed)
    assert distance(quantized(tensors, key_block), expected(tensors)) < 1e-12


@pytest.mark.parametrize("workload", EVERY.values(), ids=EVERY)
def test_the_error_is_that_of_a_chain_of_e4m3_roundings(workload: Workload) -> None:
    """Between four and ten roundings follow each other (x, weights, q, k, P, v, mixed or product, weights), each of
    `ONE_CODE`; scores multiply their errors by up to their size (here some units) before the exponential."""
    for seed in range(4):
        tensors = synthetic(workload, seed)
        error = distance(quantized(tensors), expected(tensors))
        assert ONE_CODE < error < 0.5
        if workload.layer.kind == "moe" or getattr(workload.layer, "qk_norm", "") == "head":
            assert error < 10**0.5 * 2 * ONE_CODE


@pytest.mark.parametrize("workload", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("key_block", [16, 5])
def test_key_blocks_change_p_by_its_own_rounding_only(workload: Workload, key_block: int) -> None:
    """P is rounded twice independently when the maximum moves: sqrt(2) * `ONE_CODE` per entry, which the weighted
    mean does not amplify; the same again at the most from the codes of ``mixed`` that move. So 2 * `ONE_CODE`."""
    for seed in range(4):
        tensors = synthetic(workload, seed)
        whole, cut = quantized(tensors), quantized(tensors, key_block)
        assert distance(cut, whole) < 2 * ONE_CODE
        assert distance(quantized(tensors, workload.keys), whole) == 0
        assert distance(cut, expected(tensors)) < 1.25 * distance(whole, expected(tensors))


def test_one_block_is_one_rounding(rng: np.random.Generator) -> None:
    scores = rng.standard_normal((5, 33)) * 4
    p = rounded_probabilities(scores, 33)
    assert np.array_equal(p * P_GAIN, fake_quantize(np.exp(scores - scores.max(axis=1, keepdims=True)) * P_GAIN, 1.0))


@hypothesis.given(data=st.data(), rows=st.integers(1, 4), keys=st.integers(1, 40), key_block=st.integers(1, 41))
def test_probabilities_are_within_half_a_step(data: st.DataObject, rows: int, keys: int, key_block: int) -> None:
    """In any block: relative 2**-4, or half a subnormal step of 2**-9 / 256 of the maximum at that time."""
    scores = np.array(data.draw(st.lists(st.lists(st.floats(-30, 30), min_size=keys, max_size=keys), min_size=rows,
                                         max_size=rows)))
    scores[:, keys // 2 + 1:] = -np.inf
    exact = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = np.abs(rounded_probabilities(scores, key_block) - exact)
    assert (error <= np.maximum(HALF_STEP * exact, 2.0**-10 / P_GAIN) * (1 + 2.0**-20)).all()
