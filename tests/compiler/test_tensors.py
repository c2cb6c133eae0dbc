"""Synthetic tensors, their checks, and per-tensor quantization."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.tensors import (
    E4M3_MAX,
    OUTLIER_GAIN,
    ExpertWeights,
    LayerTensors,
    per_tensor_scale,
    quantize_per_tensor,
    random_normal,
    synthetic,
    synthetic_input,
    tensor_shapes,
)
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.numerics.arithmetic import quantize_e4m3


def attention_workload(**changes: Any) -> Workload:
    layer = AttentionLayer(
        hidden=96, heads=4, kv_heads=2, head_dim=16, qk_norm=changes.pop("qk_norm", "none")
    )
    return Workload(layer=layer, **({"tokens": 3, "context": 5, "batch": 2, "phase": "decode"} | changes))


MOE = Workload(
    layer=MoELayer(hidden=96, experts=8, top_k=2, intermediate=48, norm_topk=True), tokens=5, batch=2
)


# ---- construction ----


@pytest.mark.parametrize(
    ("qk_norm", "norms"),
    [("none", {}), ("head", {"q_norm": 16, "k_norm": 16}), ("full", {"q_norm": 64, "k_norm": 32})],
)
def test_shapes_of_attention_tensors(qk_norm: str, norms: dict[str, int]) -> None:
    tensors = synthetic(attention_workload(qk_norm=qk_norm), seed=1)
    shapes = {name: value.shape for name, value in tensors.arrays.items()}
    assert shapes == {
        "x": (6, 96), "wq": (64, 96), "wk": (32, 96), "wv": (32, 96), "wo": (96, 64),
        "k_cache": (2, 2, 5, 16), "v_cache": (2, 2, 5, 16),
    } | {name: (size,) for name, size in norms.items()}  # fmt: skip


def test_moe_shapes() -> None:
    tensors = synthetic(MOE, seed=1)
    assert tensors.x.shape == (10, 96)
    assert tensors.router.shape == (8, 96)
    expert = tensors.expert(7)
    assert (expert.gate.shape, expert.up.shape, expert.down.shape) == ((48, 96), (48, 96), (96, 48))


def test_same_seed_same_tensors() -> None:
    first, second, other = (synthetic(attention_workload(qk_norm="head"), seed=s) for s in (5, 5, 6))
    for name in tensor_shapes(attention_workload(qk_norm="head")):
        assert np.array_equal(getattr(first, name), getattr(second, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def digest(tensors: LayerTensors) -> str:
    if tensors.load_expert:
        one = tensors.expert(2)
        parts = [tensors.x, tensors.router, one.gate, one.up, one.down]
    else:
        parts = [getattr(tensors, name) for name in sorted(tensor_shapes(tensors.workload))]
    return hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in parts)).hexdigest()[:16]


def test_seeds_give_the_tensors_that_they_always_gave() -> None:
    """Every recorded result rests on them; no change of a format or of the router touches them."""
    attention = AttentionLayer(hidden=1100, heads=4, kv_heads=2, head_dim=16, qk_norm="head")
    moe = MoELayer(hidden=1100, experts=3, top_k=2, intermediate=24, norm_topk=True)
    assert digest(synthetic(Workload(layer=attention, tokens=3, context=5), 6)) == "58d031ec8716a93d"
    assert digest(synthetic(Workload(layer=moe, tokens=5), 6)) == "0be0669b825e3cfd"


def test_experts_differ_and_are_reproducible() -> None:
    tensors = synthetic(MOE, seed=3)
    gates = [tensors.expert(e).gate for e in range(8)]
    assert len({gate.tobytes() for gate in gates}) == 8
    assert np.array_equal(tensors.expert(2).gate, gates[2])
    assert not np.array_equal(tensors.expert(2).up, gates[2])


def test_a_longer_input_begins_like_a_shorter_one() -> None:
    """Tensors are filled in order from one stream, so a sweep over tokens keeps the tokens that it had."""
    short, long = (synthetic_input(attention_workload(tokens=t, batch=1), 9) for t in (4, 9))
    assert np.array_equal(long[:4], short)


# ---- distribution ----


def test_normal_values() -> None:
    """Moments of 2^20 values within 5 standard errors (variance of x^2 is 2, of x^4 is 96), tails as of a
    normal."""
    values = random_normal(11, "wq", 0, (1024, 1024), 1.0).astype(np.float64)
    root = 5 / 1024
    assert abs(values.mean()) < root
    assert abs(np.square(values).mean() - 1) < root * 2**0.5
    assert abs((values**4).mean() - 3) < root * 96**0.5
    assert np.mean(np.abs(values) > 3) == pytest.approx(0.0027, rel=0.1)
    assert 4 < np.abs(values).max() < 4.4
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < root


def test_spread_is_fan_in() -> None:
    tensors = synthetic(
        Workload(layer=AttentionLayer(hidden=256, heads=8, kv_heads=8, head_dim=64), tokens=1)
    )
    assert tensors.wq.std() * 16 == pytest.approx(1, rel=0.02)  # 256 in
    assert tensors.wo.std() * 512**0.5 == pytest.approx(1, rel=0.02)  # 8 * 64 in


@pytest.mark.parametrize(("hidden", "outliers"), [(96, 1), (1024, 2), (4096, 8)])
def test_outlier_channels(hidden: int, outliers: int, seed: int) -> None:
    layer = AttentionLayer(hidden=hidden, heads=1, kv_heads=1, head_dim=2)
    spread = synthetic_input(Workload(layer=layer, tokens=256), seed).std(axis=0)
    large = spread > 10
    assert large.sum() == outliers
    low, high = OUTLIER_GAIN
    assert ((spread[large] > low * 0.75) & (spread[large] < high * 1.25)).all()
    assert (spread[~large] < 1.4).all()


# ---- checks ----


def spoil(value: np.ndarray, what: str) -> Any:
    spoiled = value.copy()
    if what == "nan":
        spoiled[(0,) * value.ndim] = np.nan
    if what == "inf":
        spoiled[(-1,) * value.ndim] = -np.inf
    return {"dtype": value.astype(np.float64), "shape": value[..., :-1], "list": value.tolist()}.get(
        what, spoiled
    )


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("dtype", "dtype: expected float32, got float64"),
        ("shape", "shape: expected"),
        ("list", "expected a float32 array"),
        ("nan", "element (0, 0): expected a finite number, got nan"),
        ("inf", "element ("),
    ],
)
@pytest.mark.parametrize("name", ["x", "wq", "wk", "wv", "wo"])
def test_bad_attention_tensor(name: str, what: str, expected: str) -> None:
    good = synthetic(attention_workload())
    with pytest.raises(WorkloadError) as error:
        good.replace(**{name: spoil(getattr(good, name), what)})
    assert f"{name}: {expected}" in str(error.value)


def test_norm_weights_only_where_the_layer_has_them() -> None:
    with_norm = synthetic(attention_workload(qk_norm="head"))
    with pytest.raises(WorkloadError, match="q_norm: expected a float32 array"):
        with_norm.replace(q_norm=None)
    with pytest.raises(WorkloadError, match="q_norm: the layer has no such tensor"):
        synthetic(attention_workload()).replace(q_norm=with_norm.q_norm)


def test_bad_expert() -> None:
    good = synthetic(MOE)

    def spoiled(index: int) -> ExpertWeights:
        weights = good.load_expert(index)
        return ExpertWeights(gate=weights.gate, up=spoil(weights.up, "nan"), down=weights.down)

    bad = LayerTensors(workload=MOE, x=good.x, router=good.router, load_expert=spoiled)
    with pytest.raises(WorkloadError, match=r"expert 3: up: element \(0, 0\): expected a finite number"):
        bad.expert(3)
    with pytest.raises(WorkloadError, match="expert 8: expected an expert from 0 to 7"):
        good.expert(8)
    with pytest.raises(WorkloadError, match="router: shape"):
        LayerTensors(workload=MOE, x=good.x, router=good.router[:7], load_expert=good.load_expert)


@pytest.mark.parametrize("seed", [-1, 1.0, True, 1 << 63])
def test_bad_seed(seed: Any) -> None:
    with pytest.raises(WorkloadError, match="seed: expected an integer"):
        synthetic(MOE, seed=seed)


# ---- quantization ----


def test_scale() -> None:
    assert per_tensor_scale(0.0) == 1
    assert per_tensor_scale(448.0) == 1
    assert per_tensor_scale(1.0) == np.float32(1 / 448)
    assert per_tensor_scale(1e-44) == np.float32(2.0**-126)
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(WorkloadError, match="amax"):
            per_tensor_scale(bad)


def test_quantize_matches_ml_dtypes(rng: np.random.Generator) -> None:
    """Outside oracle: RNE32 division by the scale, then the nearest float8_e4m3fn."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs the test extra (ml-dtypes)")
    x = (rng.standard_normal((300, 400)) * np.exp2(rng.integers(-12, 12, (300, 400)))).astype(np.float32)
    codes, scale = quantize_per_tensor(x)
    assert (codes.dtype, codes.shape, scale.dtype) == (np.uint8, x.shape, np.float32)
    expected = (x / scale).astype(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(codes, expected.view(np.uint8))
    assert np.abs(expected.astype(np.float32)).max() == E4M3_MAX


@given(st.floats(2.0**-149, 2.0**127, width=32))
def test_quantize_uses_the_whole_range(amax: float) -> None:
    """The largest magnitude becomes 448 whenever the scale is a normal number, and never overflows below
    that."""
    x = np.array([amax, -amax, 0.0], dtype=np.float32)
    codes, scale = quantize_per_tensor(x)
    if scale > np.float32(2.0**-126):
        assert codes.tolist() == [0x7E, 0xFE, 0x00]
    else:
        assert codes[0] <= 0x7E
        assert codes[1] == codes[0] | 0x80


def test_quantize_equals_the_numeric_contract(rng: np.random.Generator) -> None:
    """A million random bit patterns, and each upper half with the lower halves that decide a tie."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    ties = (upper[:, None] | np.array([0, 1, 0x8000, 0xFFFF], np.uint32)).ravel()
    bits = np.concatenate([ties, rng.integers(0, 1 << 32, 1_000_000, dtype=np.uint32)])
    values = bits[(bits & 0x7F800000) != 0x7F800000].view(np.float32)
    codes, _ = quantize_per_tensor(values, np.float32(1.0))
    assert np.array_equal(codes, quantize_e4m3(values))


def test_quantize_with_a_given_scale_saturates() -> None:
    codes, scale = quantize_per_tensor(np.array([1.0, 1000.0, -1000.0], np.float32), np.float32(1.0))
    assert codes.tolist() == [0x38, 0x7E, 0xFE]
    assert scale == 1


@pytest.mark.parametrize(
    ("x", "scale", "expected"),
    [
        (np.array([1.0]), None, "dtype: expected float32, got float64"),
        (np.array([np.nan], np.float32), None, r"element \(0,\): expected a finite number, got nan"),
        (np.array([np.inf], np.float32), None, "got inf"),
        ([1.0], None, "expected a float32 array"),
        (np.array([1.0], np.float32), np.float32(0), "scale: expected a positive finite number"),
        (np.array([1.0], np.float32), np.float32("nan"), "scale: expected a positive finite number"),
    ],
)
def test_bad_quantize(x: Any, scale: Any, expected: str) -> None:
    with pytest.raises(WorkloadError, match=expected):
        quantize_per_tensor(x, scale)
