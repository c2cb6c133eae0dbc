"""Embedding and head: against `transformers` in float64, on the tile against the quantized layer, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.checkpoint import from_safetensors
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layer_readers import embedding_layer, head_layer
from tilescore.compiler.layers import EmbeddingLayer, HeadLayer, NormLayer, Workload
from tilescore.compiler.model_layers import layer_of
from tilescore.compiler.models import load_model, parse_config
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.errors import ConfigError, WorkloadError
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, compile_and_play
from tilescore.tests.compiler.tiny import tiny_config

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}), "tied": ("qwen3", {"tie_word_embeddings": True}),
    "granite": ("granite", {"embedding_multiplier": 12.0, "logits_scaling": 6.0, "residual_multiplier": 0.22}),
    "mixture": ("qwen3_moe", {"mlp_only_layers": [0]}), "shared": ("qwen2_moe", {"mlp_only_layers": [1]}),
    "first dense": ("glm4_moe", {"first_k_dense_replace": 1}), "minimax_m2": ("minimax_m2", {}),
    "caps": ("gemma2", {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 1.5, "sliding_window": 4,
                        "layer_types": ["sliding_attention", "full_attention"]}),
    "bases": ("gemma3_text", {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "chunks": ("llama4_text", {"no_rope_layers": [1, 0], "attention_chunk_size": 4, "floor_scale": 3}),
    "rotated in some": ("smollm3", {"no_rope_layers": [1, 0]}),
    "cohere2": ("cohere2", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}),
    "sparse mixer": ("phimoe", {"lm_head_bias": True}),
    "parallel": ("cohere", {"logit_scale": 0.5}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_equals_transformers(name: str, tmp_path: Path, seed: int) -> None:
    """Embedding, two decoder layers and head, from tokens to logits; with rotary tables of float32 on their side."""
    torch = pytest.importorskip("torch")
    from tilescore.tests.compiler.test_transformers_oracle import FLOAT32_ROTARY, build

    family, changes = MODELS[name]
    theirs = build(family, tmp_path, seed, "eager" if family == "gemma2" else "sdpa", num_hidden_layers=2, **changes)
    model, saved = load_model(tmp_path / "saved"), tmp_path / "saved"
    assert head_layer(model).tied == (name == "tied")
    ids = np.random.default_rng(seed).integers(32, size=7)
    with torch.no_grad():
        out = theirs(torch.tensor(ids)[None], output_hidden_states=True)

    def play(layer: Any, x: np.ndarray, index: int = 0) -> np.ndarray:
        tensors = from_safetensors(saved, Workload(layer=layer, tokens=7), layer_index=index)
        return float64_layer(tensors.replace(**{"ids" if layer.kind == "embedding" else "x": x.astype(np.float32)})).out

    x = play(embedding_layer(model), ids)
    np.testing.assert_allclose(x, out.hidden_states[0][0], rtol=1e-6)
    for index in range(2):
        x = play(layer_of(model, "decoder", index).layer, x, index)
    logits = play(head_layer(model), x)
    assert np.abs(logits - out.logits[0].numpy()).max() < FLOAT32_ROTARY * np.abs(logits).max()
    exact = play(head_layer(model), out.hidden_states[1][0].numpy())
    with torch.no_grad():
        normed = theirs.model.norm(torch.tensor(out.hidden_states[1][0].numpy().astype(np.float32)).double())
        wanted = theirs.lm_head(normed) / changes.get("logits_scaling", 1.0) * (model.raw.get("logit_scale") or 1.0)
        if cap := changes.get("final_logit_softcapping"):
            wanted = cap * torch.tanh(wanted / cap)
    np.testing.assert_allclose(exact, wanted, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("tile", [NANO, EDGE, SQUAT], ids=["nano", "edge", "squat"])
@pytest.mark.parametrize("layer", [
    EmbeddingLayer(hidden=48, vocab=37, scale=12.0), EmbeddingLayer(hidden=50, vocab=300),
    HeadLayer(norm=NormLayer(hidden=48), vocab=77, scale=1 / 6),
    HeadLayer(norm=NormLayer(hidden=48, centered=True), vocab=77, logit_cap=2.0, bias=True),
    HeadLayer(norm=NormLayer(hidden=56), vocab=131)],
    ids=["scaled", "plain", "head", "capped", "odd head"])
def test_on_the_tile(layer: EmbeddingLayer | HeadLayer, tile: Any, seed: int) -> None:
    """An embedding to the bit (one FP32 product); a head as its quantizers alone make it."""
    tensors = synthetic(Workload(layer=layer, tokens=9, batch=2), seed)
    compiled, result = compile_and_play(tensors.workload, tile, tensors=tensors)
    assert compiled.expected is not None and result.shape == (18, compiled.expected.shape[1])
    if isinstance(layer, EmbeddingLayer):
        np.testing.assert_array_equal(result, compiled.expected.astype(np.float32))
        return
    quantized = quantized_layer(tensors, calibrate(float64_layer(tensors).ranges), compiled.numerics)
    rms = np.sqrt(np.mean(np.square(compiled.expected)))
    assert np.sqrt(np.mean(np.square(result - quantized))) < 0.01 * rms
    assert np.sqrt(np.mean(np.square(result - compiled.expected))) < 0.1 * rms


def test_ids_beyond_the_table() -> None:
    tensors = synthetic(Workload(layer=EmbeddingLayer(hidden=8, vocab=5), tokens=3), 0)
    for wrong in (5, -1, 0.5):
        with pytest.raises(WorkloadError, match=f"ids: element 1: expected a whole number from 0 to 4, got {wrong:g}"):
            float64_layer(tensors.replace(ids=np.array([0, wrong, 1], np.float32)))


def _model(family: str = "granite", **keys: Any) -> Any:
    return parse_config(tiny_config(family, **keys), name="m", source="m")


def test_what_a_configuration_says() -> None:
    assert embedding_layer(_model(embedding_multiplier=3)).scale == 3.0
    assert head_layer(_model(logits_scaling=4.0)).scale == 0.25
    assert head_layer(_model(tie_word_embeddings=True)).tied


@pytest.mark.parametrize(("keys", "name", "problem"), [
    ({"embedding_multiplier": 0}, "embedding", "embedding_multiplier: expected a positive finite number, got 0"),
    ({"logits_scaling": "x"}, "head", "logits_scaling: expected a positive finite number, got 'x'"),
    ({"vocab_size": None}, "head", "head: vocab_size: missing"),
    ({"final_logit_softcapping": 30.0}, "head", "final_logit_softcapping")])
def test_what_is_refused(keys: dict[str, Any], name: str, problem: str) -> None:
    with pytest.raises((WorkloadError, ConfigError), match=problem):
        layer_of(_model(**keys), name)


def test_they_are_part_of_no_decoder_layer() -> None:
    with pytest.raises(WorkloadError, match="layer index 0: head is part of no decoder layer"):
        layer_of(_model(), "head", 0)
