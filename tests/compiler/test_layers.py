"""Layer descriptions and workloads: sizes, useful work against published figures, and validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import DEFAULT_DECODE_CONTEXT, AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.products import useful_macs
from tilescore.rtl.spec.errors import WorkloadError

ATTENTION: dict[str, Any] = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16}
MOE: dict[str, Any] = {"hidden": 64, "experts": 8, "top_k": 2, "intermediate": 32, "norm_topk": True}


# ---- construction ----


def test_attention_sizes() -> None:
    layer = AttentionLayer(**ATTENTION)
    assert (layer.q_width, layer.kv_width, layer.group, layer.kind) == (64, 32, 2, "attention")
    assert layer.weights == 64 * 64 + 2 * 32 * 64 + 64 * 64
    assert layer.scale == layer.softmax_scale == 0.25
    assert AttentionLayer(**ATTENTION, softmax_scale=0.5).scale == 0.5


def test_defaults_of_a_workload() -> None:
    layer = AttentionLayer(**ATTENTION)
    assert Workload(layer=layer, tokens=8).context == 0
    assert Workload(layer=layer, tokens=1, phase="decode").context == DEFAULT_DECODE_CONTEXT
    assert Workload(layer=layer, tokens=1, phase="decode", context=0).context == 0
    assert Workload(layer=MoELayer(**MOE), tokens=1, phase="decode").context == 0


def test_kv_cache_bytes() -> None:
    """Llama-3-70B: 327,680 bytes per token over 80 layers in 2-byte elements (the figure of arXiv
    2505.09343)."""
    model = load_model("llama-3-70b")
    assert model.num_hidden_layers == 80
    assert 80 * 2 * 2 * attention_layer(model).kv_width == 327_680


# ---- useful work ----


def test_useful_macs_of_the_common_attention_workload() -> None:
    """Hidden 4096, 32 heads, 8 KV heads, 2,048 tokens, not causal: 120.26 G MAC, 7,340,032 cycles of 16,384
    MACs."""
    workload = Workload(layer=attention_layer(load_model("llama-3-8b")), tokens=2048, mask="none")
    projections = 2048 * 4096 * (4096 + 1024 + 1024 + 4096)
    core = 2 * 32 * 128 * 2048 * 2048
    assert useful_macs(workload) == projections + core == 7_340_032 * 16_384


def test_useful_macs_of_the_common_moe_workload() -> None:
    """Hidden 2048, 64 experts, top 8, intermediate 1024, 512 tokens: 1,576,960 cycles of 16,384 MACs, router
    included."""
    workload = Workload(layer=moe_layer(load_model("olmoe-1b-7b")), tokens=512)
    assert useful_macs(workload) == 512 * (2048 * 64 + 8 * 3 * 2048 * 1024) == 1_576_960 * 16_384


@given(
    tokens=st.integers(1, 40),
    context=st.integers(0, 40),
    batch=st.integers(1, 4),
    mask=st.sampled_from(["causal", "none"]),
)
def test_pairs_counts_the_mask(tokens: int, context: int, batch: int, mask: Any) -> None:
    workload = Workload(
        layer=AttentionLayer(**ATTENTION), tokens=tokens, context=context, batch=batch, mask=mask
    )
    visible = np.ones((tokens, context + tokens), bool)
    if mask == "causal":
        visible = np.tril(visible, k=context)
    assert workload.pairs == visible.sum()
    core = 2 * batch * 4 * 16 * workload.pairs
    assert useful_macs(workload) == batch * tokens * workload.attention.weights + core


def test_moe_work_does_not_depend_on_the_experts_that_are_not_chosen() -> None:
    few, many = (
        Workload(layer=MoELayer(**(MOE | {"experts": experts})), tokens=7, batch=3) for experts in (8, 16)
    )
    assert useful_macs(many) - useful_macs(few) == 21 * 64 * 8  # the router's columns


# ---- wrong construction ----


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden": 0}, "hidden: expected an integer from 1"),
        ({"heads": 4.0}, "heads: expected an integer"),
        ({"kv_heads": 3}, "kv_heads: expected a divisor of heads = 4, got 3"),
        ({"head_dim": 5}, "head_dim: expected an even number"),
        ({"qk_norm": "both"}, "qk_norm: expected one of none, head, full, unweighted, got 'both'"),
        ({"rope_theta": -1.0}, "rope_theta: expected a positive finite number"),
        ({"norm_eps": float("nan")}, "norm_eps: expected a positive finite number, got nan"),
        ({"softmax_scale": 0}, "softmax_scale: expected a positive finite number, got 0"),
    ],
)
def test_bad_attention_layer(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WorkloadError, match="attention layer of custom") as error:
        AttentionLayer(**(ATTENTION | change))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"experts": -8}, "experts: expected an integer from 1"),
        ({"top_k": 9}, "top_k: expected at most experts = 8, got 9"),
        ({"top_k": True}, "top_k: expected an integer"),
        ({"norm_topk": 1}, "norm_topk: expected true or false, got 1"),
    ],
)
def test_bad_moe_layer(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WorkloadError, match="MoE layer of custom") as error:
        MoELayer(**(MOE | change))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer": "attention"}, "layer: expected an AttentionLayer, MoELayer, MlpLayer, NormLayer, DecoderLayer, "
         "EmbeddingLayer or HeadLayer"),
        ({"phase": "training"}, "phase: expected one of prefill, decode, got 'training'"),
        ({"mask": "window"}, "mask: expected one of causal, none, got 'window'"),
        ({"tokens": 0}, "tokens: expected an integer from 1"),
        ({"tokens": 1.5}, "tokens: expected an integer"),
        ({"batch": 0}, "batch: expected an integer from 1"),
        ({"context": -1}, "context: expected an integer from 0"),
        ({"tokens": 1 << 30}, "tokens: expected an integer from 1"),
        ({"tokens": 1 << 20, "batch": 1 << 20}, "batch * tokens: expected at most"),
    ],
)
def test_bad_workload(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(WorkloadError) as error:
        Workload(**({"layer": AttentionLayer(**ATTENTION), "tokens": 8} | change))
    assert expected in str(error.value)


def test_a_workload_gives_its_layer_only_as_what_it_is() -> None:
    attention = Workload(layer=AttentionLayer(**ATTENTION), tokens=1)
    assert attention.attention.heads == 4
    with pytest.raises(WorkloadError, match="expected an MoE layer, got attention"):
        _ = attention.moe
    with pytest.raises(WorkloadError, match="expected an attention layer, got moe"):
        _ = Workload(layer=MoELayer(**MOE), tokens=1).attention
