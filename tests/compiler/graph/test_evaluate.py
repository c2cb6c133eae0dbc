"""Float64 layers: against loops written out from the definitions, and against properties of the layers.

``test_transformers_oracle`` compares the same functions with an outside implementation; these tests run
everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.graph.ops.gate import silu
from tilescore.compiler.graph.ops.rms_norm import rms_norm
from tilescore.compiler.graph.ops.rotary import rotary_tables, rotate
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.rotary_frequencies import frequencies
from tilescore.compiler.routing import forced_route, route
from tilescore.compiler.routing_loads import balanced
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.errors import WorkloadError

CLOSE = {"rel": 1e-9, "abs": 1e-9}


def attention_tensors(
    seed: int = 0, *, layer: dict[str, Any] | None = None, **workload: Any
) -> LayerTensors:
    sizes: dict[str, Any] = {"hidden": 24, "heads": 4, "kv_heads": 2, "head_dim": 6}
    tensors = synthetic(Workload(layer=AttentionLayer(**(sizes | (layer or {}))), **workload), seed)
    return tensors


def moe_tensors(seed: int = 0, *, norm_topk: bool = True, tokens: int = 7, batch: int = 1) -> LayerTensors:
    layer = MoELayer(hidden=24, experts=6, top_k=2, intermediate=10, norm_topk=norm_topk)
    tensors = synthetic(Workload(layer=layer, tokens=tokens, batch=batch), seed)
    return tensors


def norm_by_hand(values: list[float], weight: np.ndarray | None, eps: float) -> list[float]:
    if weight is None:
        return values
    root = math.sqrt(sum(v * v for v in values) / len(values) + eps)
    return [float(w) * v / root for v, w in zip(values, weight, strict=True)]


def project_by_hand(
    tensors: LayerTensors, matrix: np.ndarray, norm: np.ndarray | None, row: int, position: int | None
) -> list[list[float]]:
    """Heads of one row of q, k (rotated) or v (``position`` None), with scalar arithmetic."""
    layer = tensors.workload.attention
    flat = [sum(float(w) * float(x) for w, x in zip(out, tensors.x[row], strict=True)) for out in matrix]
    if layer.qk_norm == "full":
        flat = norm_by_hand(flat, norm, layer.norm_eps)
    heads = [flat[i : i + layer.head_dim] for i in range(0, len(flat), layer.head_dim)]
    if layer.qk_norm == "head":
        heads = [norm_by_hand(head, norm, layer.norm_eps) for head in heads]
    if position is None:
        return heads
    half = layer.head_dim // 2
    rotated = []
    for head in heads:
        angles = [position * layer.rope_theta ** (-2 * i / layer.head_dim) for i in range(half)]
        low = [head[i] * math.cos(a) - head[i + half] * math.sin(a) for i, a in enumerate(angles)]
        high = [head[i + half] * math.cos(a) + head[i] * math.sin(a) for i, a in enumerate(angles)]
        rotated.append(low + high)
    return rotated


def attend_by_hand(tensors: LayerTensors, sequence: int, token: int) -> list[float]:
    """The core's output for one token: a sum over visible keys, per head."""
    workload, layer = tensors.workload, tensors.workload.attention
    first = sequence * workload.tokens
    query = project_by_hand(tensors, tensors.wq, tensors.arrays.get("q_norm"), first + token, workload.cached + token)
    visible = token + 1 if workload.mask == "causal" else workload.tokens
    new_keys = [
        project_by_hand(tensors, tensors.wk, tensors.arrays.get("k_norm"), first + i, workload.cached + i)
        for i in range(visible)
    ]
    new_values = [project_by_hand(tensors, tensors.wv, None, first + i, None) for i in range(visible)]
    out: list[float] = []
    for head in range(layer.heads):
        group = head * layer.kv_heads // layer.heads
        keys = [*tensors.k_cache[sequence, group].tolist(), *(key[group] for key in new_keys)]
        values = [*tensors.v_cache[sequence, group].tolist(), *(value[group] for value in new_values)]
        scores = [sum(a * b for a, b in zip(query[head], key, strict=True)) * layer.scale for key in keys]
        peak = max(scores)
        exponentials = [math.exp(score - peak) for score in scores]
        total = sum(exponentials)
        for i in range(layer.head_dim):
            out.append(sum(e * value[i] for e, value in zip(exponentials, values, strict=True)) / total)
    return out


# ---- attention ----


@pytest.mark.parametrize("qk_norm", ["none", "head", "full"])
@pytest.mark.parametrize(
    "workload",
    [
        {"tokens": 5},
        {"tokens": 3, "batch": 2, "mask": "none"},
        {"tokens": 2, "context": 4, "batch": 2, "phase": "decode"},
        {"tokens": 2, "context": 3, "mask": "none"},
    ],
    ids=["causal", "unmasked", "decode", "unmasked-context"],
)
def test_attention_by_hand(workload: dict[str, Any], qk_norm: Any, seed: int) -> None:
    tensors = attention_tensors(seed, layer={"qk_norm": qk_norm, "softmax_scale": 0.3}, **workload)
    trace = float64_layer(tensors)
    for row in range(tensors.workload.rows):
        mixed = attend_by_hand(tensors, *divmod(row, tensors.workload.tokens))
        assert trace.values["mixed"][row].ravel() == pytest.approx(mixed, **CLOSE)
        out = [sum(float(w) * m for w, m in zip(weights, mixed, strict=True)) for weights in tensors.wo]
        assert trace.out[row] == pytest.approx(out, **CLOSE)


@pytest.mark.parametrize("qk_norm", ["none", "head", "full"])
def test_decode_against_a_cache_equals_prefill(qk_norm: Any, seed: int) -> None:
    """Prefill of 9 tokens = prefill of 6, then 3 against the cache that the first 6 left (cached in
    float32)."""
    whole = attention_tensors(seed, layer={"qk_norm": qk_norm}, tokens=9)
    k, v = (float64_layer(whole).values[name] for name in "kv")
    cache = {
        name: value[:6].transpose(1, 0, 2)[None].astype(np.float32)
        for name, value in (("k_cache", k), ("v_cache", v))
    }
    rest = Workload(layer=whole.workload.layer, phase="decode", tokens=3, context=6)
    decoded = whole.replace(rest, x=whole.x[6:], **cache)
    assert float64_layer(decoded).out == pytest.approx(float64_layer(whole).out[6:], rel=1e-5, abs=1e-5)


def test_sequences_do_not_see_each_other(seed: int) -> None:
    both = attention_tensors(seed, tokens=4, context=3, batch=2)
    for sequence in range(2):
        rows, cache = slice(4 * sequence, 4 * sequence + 4), slice(sequence, sequence + 1)
        alone = both.replace(Workload(layer=both.workload.layer, tokens=4, context=3), x=both.x[rows],
                             k_cache=both.k_cache[cache], v_cache=both.v_cache[cache])
        assert float64_layer(alone).out == pytest.approx(float64_layer(both).out[rows], **CLOSE)


def test_causal_rows_ignore_later_tokens(seed: int) -> None:
    tensors = attention_tensors(seed, tokens=8)
    later = tensors.x.copy()
    later[5:] *= -3
    changed = float64_layer(tensors.replace(x=later)).out
    original = float64_layer(tensors).out
    assert np.array_equal(changed[:5], original[:5])
    assert not np.isclose(changed[5:], original[5:]).all(axis=1).any()


def test_ranges_are_the_largest_magnitudes_of_operands(seed: int) -> None:
    """Cached keys and values count to the new ones; what stays FP32 counts where a norm takes it in."""
    tensors = attention_tensors(seed, tokens=4, context=5, layer={"qk_norm": "head"})
    trace = float64_layer(tensors)
    made = {name: trace.values[name] for name in ("q", "k", "v", "mixed", "q projected", "k projected")}
    given = {name: getattr(tensors, name) for name in ("x", "wq", "wk", "wv", "wo")}
    assert {name: found.amax for name, found in trace.ranges.items()} == {
        name: max(abs(float(v)) for part in (values, {"k": tensors.k_cache, "v": tensors.v_cache}.get(name))
                  if part is not None for v in part.ravel())
        for name, values in (made | given).items()}
    assert all(found.made == (name in ("q", "k", "v", "mixed", "q projected", "k projected"))
               for name, found in trace.ranges.items())


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 300))
def test_rotary_scores_depend_on_the_distance(first: int, second: int, shift: int) -> None:
    rng = np.random.default_rng(first)
    q, k = rng.standard_normal((2, 1, 1, 16))

    def score(p: int, r: int) -> float:
        (cos_p, sin_p), (cos_r, sin_r) = (rotary_tables(np.array([i]), frequencies(1e4, 16, 1)) for i in (p, r))
        return float(np.sum(rotate(q, cos_p, sin_p) * rotate(k, cos_r, sin_r)))

    assert score(first, second) == pytest.approx(score(first + shift, second + shift), abs=1e-10)
    assert np.linalg.norm(rotate(q, *rotary_tables(np.array([first]), frequencies(1e4, 16, 1)))) == pytest.approx(
        np.linalg.norm(q)
    )


def test_position_zero_is_not_rotated(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 3, 8))
    assert np.array_equal(rotate(x, *rotary_tables(np.array([0]), frequencies(1e4, 8, 1))), x)


# ---- MoE ----


@pytest.mark.parametrize("norm_topk", [False, True])
def test_moe_by_hand(norm_topk: bool, seed: int) -> None:
    tensors = moe_tensors(seed, norm_topk=norm_topk, tokens=4, batch=2)
    trace = float64_layer(tensors)
    product_amax = np.zeros(6)
    for row, x in enumerate(tensors.x.astype(float)):
        logits = [sum(float(w) * v for w, v in zip(weights, x, strict=True)) for weights in tensors.router]
        total = sum(math.exp(z - max(logits)) for z in logits)
        probabilities = [math.exp(z - max(logits)) / total for z in logits]
        best = sorted(range(6), key=lambda e: -logits[e])[:2]
        out = np.zeros(24)
        for expert in best:
            held = tensors.expert(expert)
            product = []
            for gate, up in zip(held.gate.astype(float), held.up.astype(float), strict=True):
                g, u = float(gate @ x), float(up @ x)
                product.append(g / (1 + math.exp(-g)) * u)
            product_amax[expert] = max(product_amax[expert], *(abs(p) for p in product))
            weight = probabilities[expert] / (sum(probabilities[e] for e in best) if norm_topk else 1)
            out += weight * (held.down.astype(float) @ product)
        assert trace.out[row] == pytest.approx(out, **CLOSE)
        assert trace.values["logits"][row] == pytest.approx(logits, **CLOSE)
        assert trace.routing.chosen[row].tolist() == best
    found = {expert: trace.ranges[expert, "product"].amax for expert in trace.routing.active}
    assert found == pytest.approx({expert: amax for expert, amax in enumerate(product_amax) if amax}, **CLOSE)


def test_given_routing_equals_the_router_s_own(seed: int) -> None:
    tensors = moe_tensors(seed)
    own = float64_layer(tensors)
    assert np.array_equal(float64_layer(tensors, own.routing).out, own.out)


def test_order_of_the_chosen_experts_does_not_matter(seed: int) -> None:
    tensors = moe_tensors(seed)
    own = float64_layer(tensors)
    turned = forced_route(own.values["logits"], own.routing.chosen[:, ::-1], norm_topk=True)
    assert float64_layer(tensors, turned).out == pytest.approx(own.out, **CLOSE)


def test_forced_routing_changes_the_experts(seed: int) -> None:
    tensors = moe_tensors(seed)
    chosen = balanced(tokens=7, experts=6, top_k=2, seed=0)
    forced = forced_route(float64_layer(tensors).values["logits"], chosen, norm_topk=True)
    trace = float64_layer(tensors, forced)
    assert {key[0] for key in trace.ranges if isinstance(key, tuple)} == set(forced.active)
    assert not np.allclose(trace.out, float64_layer(tensors).out)


def test_only_active_experts_are_made(seed: int) -> None:
    tensors = moe_tensors(seed, tokens=1)
    made: list[int] = []

    def load(index: int) -> Any:
        made.append(index)
        return tensors.load_expert(index)

    trace = float64_layer(LayerTensors(workload=tensors.workload, x=tensors.x, router=tensors.router, load_expert=load))
    assert tuple(made) == trace.routing.active
    assert len(made) == 2


def test_routing_of_another_shape(seed: int) -> None:
    tensors = moe_tensors(seed)
    for shape, wanted in (((6, 6), "for 7 tokens among 6 experts"), ((7, 5), "for 7 tokens among 6 experts")):
        with pytest.raises(WorkloadError, match=f"expected a choice {wanted}"):
            float64_layer(tensors, route(np.zeros(shape, np.float32), 3, norm_topk=True))


# ---- functions ----


def test_silu() -> None:
    x = np.array([-1000.0, -50.0, -1.0, 0.0, 1.0, 50.0, 1000.0])
    expected = [0.0, *(v / (1 + math.exp(-v)) for v in (-50.0, -1.0, 0.0, 1.0, 50.0)), 1000.0]
    assert silu(x) == pytest.approx(expected, rel=1e-14, abs=1e-300)


def test_rms_norm_has_unit_mean_square(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 64)) * 100
    assert np.mean(rms_norm(x, np.ones(64), 1e-12) ** 2, axis=-1) == pytest.approx(np.ones(3))
