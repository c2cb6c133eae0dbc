"""Kinds of attention beside the plain one: equal to ``transformers`` in float64, to the quantized layer on the tile.

Tolerances are those of `test_transformers_oracle.py` and `lowering/test_attention_layers.py`, which say where they come
from. Each kind is bit-equal at RTL in a tiny layer.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.graph.layers import layer_graph
from tilescore.compiler.latent import LatentAttentionLayer, absorbs
from tilescore.compiler.layer_readers import attention_layer
from tilescore.compiler.layers import AttentionLayer, Temperature, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.tensors import LayerTensors
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.lowering.test_attention_layers import FP32_ROUNDINGS, check
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, TALL, compile_and_play
from tilescore.tests.compiler.tiny import KIND_FAMILIES
from tilescore.tests.golden.cases import every_format

KINDS: dict[str, dict[str, Any]] = {
    "partial rotary": {"rotary_dim": 8},
    "partial rotary after a norm": {"rotary_dim": 4, "qk_norm": "head", "norm_offset": 1.0},
    "interleaved rotary": {"rope_interleaved": True},
    "a part interleaved": {"rope_interleaved": True, "rotary_dim": 12, "qkv_bias": True},
    "no rotary": {"rotary_dim": 0, "qk_norm": "head"},
    "sinks": {"sinks": True, "qkv_bias": True, "output_bias": True},
    "biases": {"qkv_bias": True, "output_bias": True},
    "capped scores in a window, with sinks": {"logit_cap": 4.0, "sinks": True, "window": 6},
    "norms without weights, a temperature": {"qk_norm": "unweighted", "temperature": Temperature(0.5, 4), "chunk": 7},
    "biases before a norm of heads": {"qkv_bias": True, "qk_norm": "head"},
    "biases before a norm of all heads": {"qkv_bias": True, "qk_norm": "full"},
}


def layer_of(kind: str, **sizes: int) -> AttentionLayer:
    return AttentionLayer(**{"hidden": 72, "heads": 6, "kv_heads": 2, "head_dim": 16} | sizes | KINDS[kind])


@pytest.mark.parametrize("tile", [NANO, EDGE, TALL], ids=["nano", "edge", "tall"])
@pytest.mark.parametrize("kind", KINDS)
def test_result_is_the_quantized_layer(kind: str, tile: TileConfig) -> None:
    check(Workload(layer=layer_of(kind), tokens=10, context=5, batch=2), tile)
    check(Workload(layer=layer_of(kind, hidden=33), tokens=1, context=20, batch=3, phase="decode"), tile)


RTL: dict[str, AttentionLayer] = {
    "biases, sinks, a part interleaved": AttentionLayer(
        hidden=24, heads=2, kv_heads=1, head_dim=16, qkv_bias=True, output_bias=True, sinks=True, rotary_dim=12,
        rope_interleaved=True),
    "temperature": AttentionLayer(hidden=24, heads=2, kv_heads=1, head_dim=8, qk_norm="unweighted", rotary_dim=0,
                                  temperature=Temperature(0.5, 4)),
    "capped scores": AttentionLayer(hidden=24, heads=2, kv_heads=1, head_dim=8, logit_cap=2.0, window=17),
    **{form: LatentAttentionLayer(hidden=24, heads=2, kv_heads=2, head_dim=32, rope_dim=16, value_dim=16, kv_rank=32,
                                  q_rank=16, rope_interleaved=True, form=form) for form in ("expanded", "absorbed")},
}


@pytest.mark.parametrize("kind", RTL)
@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
def test_bit_equal_at_rtl(kind: str) -> None:
    layer = RTL[kind]
    workload = Workload(layer=layer, tokens=3, context=0 if kind == "expanded" else 15)
    program = compile_layer(workload, NANO, numerics=Numerics(softmax_block=16)).program
    result = simulate(program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256


# Latent attention --------------------------------------------------------------------------------------

LATENT = LatentAttentionLayer(hidden=40, heads=4, kv_heads=4, head_dim=48, rope_dim=16, value_dim=32, kv_rank=64,
                              q_rank=48, rope_interleaved=True, qkv_bias=True, output_bias=True)


FULL_WIDTH = LatentAttentionLayer(hidden=64, heads=16, kv_heads=16, head_dim=192, rope_dim=64, value_dim=128,
                                  kv_rank=512, rope_interleaved=True)
LONG = Workload(layer=FULL_WIDTH, tokens=1, context=300, phase="decode")


@pytest.mark.parametrize("form", ["expanded", "absorbed"])
@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
def test_latent_attention_is_the_quantized_layer(tile: TileConfig, form: Any) -> None:
    layer = dataclasses.replace(LATENT, form=form)
    check(Workload(layer=layer, tokens=7, batch=2), tile)
    if form == "absorbed":
        check(Workload(layer=dataclasses.replace(layer, q_rank=None), tokens=3, context=17, batch=2), tile)
        check(Workload(layer=layer, tokens=1, context=37, batch=3, phase="decode"), tile)


def test_form_is_that_with_fewer_products() -> None:
    """For DeepSeek-V3 a prompt is expanded, and what follows cached tokens absorbed."""
    layer = attention_layer(load_model("deepseek-v3"))
    assert isinstance(layer, LatentAttentionLayer)
    assert not absorbs(layer, Workload(layer=layer, tokens=128))
    assert all(absorbs(layer, Workload(layer=layer, tokens=n, context=32768)) for n in (1, 170, 2000))
    few = dataclasses.replace(layer, kv_rank=16)  # short latents: absorbing saves products in a prompt too
    assert absorbs(few, Workload(layer=few, tokens=128))
    products = {form: layer.macs(512, 512, 512 * 513 // 2, form) for form in ("expanded", "absorbed")}
    assert products == {"expanded": 512 * 131072 + 131328 * 320, "absorbed": 512 * 131072 + 131328 * 1088}
    for form in ("expanded", "absorbed"):
        chosen = dataclasses.replace(layer, form=form)
        assert absorbs(chosen, Workload(layer=chosen, tokens=1)) == (form == "absorbed")
        names = layer_graph(Workload(layer=chosen, tokens=2)).values
        assert ("q absorbed" in names) == (form == "absorbed") and ("k nope" in names) == (form == "expanded")
    with pytest.raises(WorkloadError, match="form: expected one of auto, expanded, absorbed, got 'fast'"):
        dataclasses.replace(layer, form="fast")


def test_absorbed_decode_at_real_widths() -> None:
    """Latents of 512 + 64, 16 heads and more keys than a softmax block on `edge`: timing, and the result."""
    assert absorbs(FULL_WIDTH, LONG) and LONG.keys > Numerics().softmax_block
    check(LONG, EDGE)
    check(LONG, SERVER)  # values come in parts, beside the keys buffer B does not hold them


@pytest.mark.parametrize("name", ["nvfp4", "w4a8-mxfp4", "deepseek"])
def test_absorbed_form_in_formats_with_block_scales(name: str) -> None:
    numerics, tile = Numerics(formats=PRESETS[name]), every_format(EDGE)
    layer = dataclasses.replace(FULL_WIDTH, heads=3, kv_heads=3, kv_rank=128, form="absorbed")
    compiled, result = compile_and_play(Workload(layer=layer, tokens=2, context=21), tile, numerics=numerics)
    scales = calibrate(float64_layer(compiled.tensors).ranges, numerics)
    assert rel_rms_error(result, quantized_layer(compiled.tensors, scales, numerics)) < FP32_ROUNDINGS


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator")
def test_absorbed_decode_at_real_widths_is_bit_equal_at_rtl() -> None:
    result = simulate(compile_layer(LONG, EDGE).program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256


def test_latents_are_stored_once_per_layout() -> None:
    """Keys and values of new and old tokens have the same codes."""
    compiled = compile_layer(Workload(layer=dataclasses.replace(LATENT, form="absorbed"), tokens=2, context=9), NANO)
    names = [segment.name for segment in compiled.program.segments]
    assert sum(name.startswith("kv_a_cache") for name in names) == 2 and not any("v_cache" in name for name in names)


# Against transformers ----------------------------------------------------------------------------------

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in KIND_FAMILIES},
    "llama with biases": ("llama", {"attention_bias": True}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "olmoe with biases": ("olmoe", {"attention_bias": True}),
    "glm4_moe without norms of heads": ("glm4_moe", {"use_qk_norm": False, "attention_bias": False}),
    "deepseek_v2 without compressed q": ("deepseek_v2", {"q_lora_rank": None, "rope_scaling": ...}),
    "deepseek_v3 with biases": ("deepseek_v3", {"attention_bias": True, "q_lora_rank": None}),
    "deepseek_v3 in halves": ("deepseek_v3", {"rope_interleave": False}),
    "gemma2 with capped scores": ("gemma2", {"attn_logit_softcapping": 2.0}),
    "gemma3_text with a base of its own": ("gemma3_text", {"layer_types": ["sliding_attention"], "sliding_window": 99,
                                                           "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "llama4_text without rotation": ("llama4_text", {"no_rope_layers": [0], "floor_scale": 4, "attn_scale": 0.5}),
    "llama4_text without norms": ("llama4_text", {"use_qk_norm": False}),
    "phi3 with a part": ("phi3", {"partial_rotary_factor": 0.5, "head_dim": ..., "hidden_size": 64}),
    "glm4 with a quarter": ("glm4", {"partial_rotary_factor": 0.25}),
}


EAGER = ("gpt_oss", "gemma2")
IN_FLOAT32 = ("gemma2", "cohere", "cohere2", "llama4_text")
"""Softmax that cannot be that of PyTorch's kernel; softmax or rotation in float32."""


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_transformers(name: str, tmp_path: Path, seed: int) -> None:
    """Prefill, a chunk after cached keys, and decode; whole decoder layers where the feed-forward layer is built."""
    pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
    pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")
    from tilescore.compiler.checkpoint import from_safetensors
    from tilescore.tests.compiler.test_transformers_oracle import (
        EXACT,
        FLOAT32_STEP,
        PHASES,
        build,
        error,
        run_attention,
    )

    family, changes = MODELS[name]
    model = build(family, tmp_path, seed, "eager" if family in EAGER else "sdpa", **changes)
    layer = attention_layer(load_model(tmp_path / "saved"))
    written = attention_layer(load_model(tmp_path / "written"))
    assert layer == dataclasses.replace(written, model=layer.model)
    latent = isinstance(layer, LatentAttentionLayer)
    for phase in ("prefill", "chunk", "decode"):
        tensors = from_safetensors(tmp_path / "saved", Workload(layer=layer, **PHASES[phase]), seed=seed)
        exact = FLOAT32_STEP if layer.qk_norm != "none" or latent or family in IN_FLOAT32 else EXACT
        caches = latents(tensors, halves="v3" in family and layer.rope_interleaved) if latent else None
        theirs = run_attention(model, tensors, float64_tables(model, tensors.workload), caches=caches)
        for form in ("expanded", "absorbed") if caches else ("",):
            own = dataclasses.replace(layer, form=form) if caches else layer
            own = tensors.replace(dataclasses.replace(tensors.workload, layer=own))
            assert error(float64_layer(own).out, theirs) < exact


def latents(tensors: LayerTensors, *, halves: bool) -> tuple[np.ndarray, np.ndarray]:
    """Caches as transformers holds them. halves: rotated neighbours are put half a head apart, as DeepSeek-V3 does."""
    rope = tensors.k_rope_cache
    return tensors.kv_a_cache, np.concatenate([rope[..., 0::2], rope[..., 1::2]], axis=-1) if halves else rope


def float64_tables(model: Any, workload: Workload) -> tuple[Any, Any]:
    """Tables of the model's rotary embedding, which computes them in float32, in float64; of the same layout."""
    import torch

    from tilescore.compiler.rotary_frequencies import frequencies

    layer, places = workload.attention, np.arange(workload.cached, workload.keys)
    kind = {"layer_type": model.config.layer_types[0]} if "gemma3" in str(type(model)).lower() else {}
    theirs = model.model.rotary_emb(torch.zeros(1, 1, dtype=torch.double), torch.tensor(places)[None], **kind)
    if not layer.rotated:
        return theirs
    own = places[:, None] * frequencies(layer.rope_theta, layer.rotated, workload.keys, layer.rope_scaling)
    scale = 1.0 if layer.rope_scaling is None else layer.rope_scaling.attention_scaling
    for angles in (own, np.concatenate([own, own], axis=-1), np.repeat(own, 2, axis=-1)):
        if theirs[0].is_complex():
            return torch.polar(torch.full(own.shape, scale, dtype=torch.double), torch.tensor(own))[None]
        tables = tuple(scale * function(torch.tensor(angles))[None] for function in (torch.cos, torch.sin))
        if tables[0].shape == theirs[0].shape and torch.allclose(tables[0], theirs[0].double(), atol=2e-5):
            return tables
    raise AssertionError("their rotary embedding has other angles")


def test_a_bias_that_does_not_fit_is_named() -> None:
    from tilescore.compiler.graph.ir import GraphBuilder, Role
    from tilescore.compiler.graph.ops.linear import Linear

    g = GraphBuilder()
    names = [g.value(name, shape, Role.INPUT) for name, shape in (("x", (3, 8)), ("w", (5, 8)), ("b", (4,)))]
    with pytest.raises(WorkloadError, match=r"linear: a bias \(4,\) does not fit a weight \(5, 8\)"):
        g.node("projection", Linear(bias=True), *names, output="out")

