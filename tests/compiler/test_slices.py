"""Slices: a small layer cut out of a large one computes what the same small layer, built directly, computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.rotary import RopeScaling
from tilescore.compiler.rotary_frequencies import frequencies
from tilescore.compiler.slices import slice_tensors, slice_workload
from tilescore.compiler.tensors import ExpertWeights, LayerTensors, synthetic, tensor_shapes
from tilescore.sim.legality.verifier import verify
from tilescore.tests.compiler.play import EDGE, NANO, compile_and_play, same_bits

ATTENTION = AttentionLayer(hidden=80, heads=8, kv_heads=2, head_dim=24, qk_norm="head", rope_theta=5e5)
REQUESTS: dict[str, dict[str, Any]] = {
    "prefill": {"tokens": 9, "batch": 3},
    "short": {"tokens": 2},
    "unmasked": {"tokens": 9, "mask": "none"},
    "decode": {"tokens": 1, "context": 20, "batch": 3, "phase": "decode"},
}


def direct_attention(full: LayerTensors, small: Workload) -> LayerTensors:
    """The slice by definition, element by element: head h's feature f is row h * head_dim + f of a projection."""
    layer, before = small.attention, full.workload.attention

    def features(heads: int) -> list[int]:
        return [h * before.head_dim + f for h in range(heads) for f in range(layer.head_dim)]

    columns, q, kv = range(layer.hidden), features(layer.heads), features(layer.kv_heads)
    parts = {name: np.array([[getattr(full, name)[r, c] for c in columns] for r in rows])
             for name, rows in (("x", range(small.rows)), ("wq", q), ("wk", kv), ("wv", kv))}
    parts["wo"] = np.array([[full.wo[r, c] for c in q] for r in columns])
    caches = {name: getattr(full, name)[:small.batch, :layer.kv_heads, :small.cached, :layer.head_dim]
              for name in ("k_cache", "v_cache")}
    norms = {}
    if layer.qk_norm != "none":
        norms = {"q_norm": full.q_norm[:layer.head_dim], "k_norm": full.k_norm[:layer.head_dim]}
    return LayerTensors(workload=small, **parts, **caches, **norms)


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("norm", ["head", "none"])
def test_attention_slice_is_the_same_layer_built_directly(norm: Any, request_: dict) -> None:
    workload = Workload(layer=dataclasses.replace(ATTENTION, qk_norm=norm), **request_)
    full, small = synthetic(workload, 3), slice_workload(workload)
    _, sliced = compile_and_play(small, NANO, tensors=slice_tensors(full, small))
    _, direct = compile_and_play(small, NANO, tensors=direct_attention(full, small))
    assert same_bits(sliced, direct) and sliced.shape == (small.rows, 32)


@pytest.mark.parametrize("tokens, batch", [(9, 3), (1, 1)])
def test_moe_slice_is_the_same_layer_built_directly(tokens: int, batch: int) -> None:
    workload = Workload(layer=MoELayer(hidden=80, experts=9, top_k=3, intermediate=50, norm_topk=True), tokens=tokens,
                        batch=batch)
    full, small = synthetic(workload, 3), slice_workload(workload)
    experts = {}
    for e in range(4):
        held = full.expert(e)
        experts[e] = ExpertWeights(gate=held.gate[:32, :32].copy(), up=held.up[:32, :32].copy(),
                                   down=held.down[:32, :32].copy())
    direct = LayerTensors(workload=small, x=full.x[:small.rows, :32].copy(), router=full.router[:4, :32].copy(),
                        load_expert=experts.__getitem__)
    _, sliced = compile_and_play(small, NANO, tensors=slice_tensors(full, small))
    assert same_bits(sliced, compile_and_play(small, NANO, tensors=direct)[1])


def test_slices_do_not_keep_the_large_tensors_alive() -> None:
    workload = Workload(layer=ATTENTION, tokens=9, context=7)
    small = slice_workload(workload)
    cut = slice_tensors(synthetic(workload), small)
    for name in tensor_shapes(small):
        assert getattr(cut, name).base is None or getattr(cut, name).base.size == getattr(cut, name).size


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_sizes_are_cut_and_the_request_is_kept(request_: dict) -> None:
    workload = Workload(layer=ATTENTION, **request_)
    small = slice_workload(workload)
    assert (small.phase, small.mask) == (workload.phase, workload.mask)
    assert small.tokens == min(workload.tokens, 18) and small.batch == min(workload.batch, 2)
    assert small.cached == min(workload.cached, 18)
    layer = small.attention
    assert (layer.hidden, layer.heads, layer.kv_heads, layer.head_dim) == (32, 2, 1, 16)
    assert (layer.qk_norm, layer.rope_theta, layer.norm_eps) == ("head", 5e5, ATTENTION.norm_eps)
    assert slice_workload(small) == small


def test_scaled_rotary_embedding_is_cut_with_the_head() -> None:
    factors = [1.0 + i for i in range(12)]
    scaling = RopeScaling(kind="longrope", factor=4.0, original_max_position_embeddings=16, short_factor=tuple(factors),
                          long_factor=tuple(2 * f for f in factors))
    layer = dataclasses.replace(ATTENTION, rope_scaling=scaling)
    small = slice_workload(Workload(layer=layer, tokens=3)).attention
    assert small.rope_scaling is not None and small.rope_scaling.short_factor == tuple(factors[:8])
    plain = frequencies(small.rope_theta, small.head_dim, 16)
    assert np.allclose(frequencies(small.rope_theta, small.head_dim, 16, small.rope_scaling) * factors[:8], plain)
    assert np.allclose(frequencies(small.rope_theta, small.head_dim, 17, small.rope_scaling) * factors[:8], plain / 2)


def test_small_layers_stay_as_they_are() -> None:
    tiny = Workload(layer=MoELayer(hidden=16, experts=3, top_k=1, intermediate=8, norm_topk=False), tokens=2)
    assert slice_workload(tiny) == tiny
    one = Workload(layer=AttentionLayer(hidden=16, heads=1, kv_heads=1, head_dim=16), tokens=2)
    assert slice_workload(one) == one


def test_norms_over_the_whole_projection_are_cut_by_head() -> None:
    layer = dataclasses.replace(ATTENTION, qk_norm="full")
    full = synthetic(Workload(layer=layer, tokens=2), 1)
    cut = slice_tensors(full, slice_workload(full.workload))
    assert np.array_equal(cut.q_norm, np.concatenate([full.q_norm[:16], full.q_norm[24:40]]))
    assert cut.k_norm.shape == (16,)


@pytest.mark.parametrize("name, kinds", [("qwen3-30b-a3b", ("attention", "moe")), ("llama-3-8b", ("attention",)),
                                         ("mixtral-8x7b", ("attention", "moe")), ("olmoe-1b-7b", ("moe",)),
                                         ("granite-3.0-1b-a400m", ("attention", "moe"))])
def test_slices_of_bundled_models_fit_nano(name: str, kinds: tuple[str, ...]) -> None:
    model = load_model(name)
    for kind in kinds:
        layer = attention_layer(model) if kind == "attention" else moe_layer(model)
        for request_ in ({"tokens": 128}, {"tokens": 1, "phase": "decode", "batch": 4}):
            small = slice_workload(Workload(layer=layer, **request_))  # type: ignore[arg-type]
            for tile in (NANO, EDGE):
                verify(compile_layer(small, tile, data=False).program)
