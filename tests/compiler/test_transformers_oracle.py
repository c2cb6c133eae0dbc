"""The float64 oracle equals the layers of ``transformers``, from a published-layout checkpoint to the output.

For each family a tiny model is built from its configuration class with random weights, saved by
``save_pretrained``, and read back by ``load_model`` and ``from_safetensors``; then its attention and MoE
modules run in float64 on the same input.

Tolerances, in units of the largest output. With rotary tables in float64 and PyTorch's float64 attention
kernel nothing but the order of additions differs (EXACT). The RMS norm and the router's softmax of
transformers compute in float32 whatever the model's dtype: some roundings of 2^-24 = 6e-8 each
(FLOAT32_STEP). So does its rotary module: an angle p has a relative error of up to 2^-24, so below position
64 an error of up to 4e-6 (FLOAT32_ROTARY allows for its growth in the scores).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")

from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache  # noqa: E402

from tilescore.compiler.checkpoint import from_safetensors  # noqa: E402
from tilescore.compiler.graph.evaluate import float64_layer  # noqa: E402
from tilescore.compiler.layer_readers import attention_layer, decoder_layer, mlp_layer, moe_layer  # noqa: E402
from tilescore.compiler.layers import DecoderLayer, Workload  # noqa: E402
from tilescore.compiler.models import load_model  # noqa: E402
from tilescore.compiler.tensors import LayerTensors  # noqa: E402
from tilescore.tests.compiler.tiny import (  # noqa: E402
    FAMILIES,
    FEED_FORWARD_FAMILIES,
    MLP_FAMILIES,
    MOE_FAMILIES,
    tiny_config,
    write_config,
)

EXACT = 1e-12
FLOAT32_STEP = 1e-6
FLOAT32_ROTARY = 2e-5


def build(family: str, directory: Path, seed: int, attention: str = "sdpa", **changes: Any) -> Any:
    """A random tiny model, saved in ``directory`` as float32 and returned in float64 with the same values."""
    torch.manual_seed(seed)
    written = write_config(directory / "written", tiny_config(family, **changes))
    config = AutoConfig.from_pretrained(written.parent)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention, experts_implementation="eager"
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.2)
    model.save_pretrained(directory / "saved")
    return model.double().eval()


def additive_mask(workload: Workload) -> Any:
    query = np.arange(workload.tokens)[:, None] + workload.cached
    visible = (
        np.arange(workload.keys) <= query if workload.mask == "causal" else np.ones((1, workload.keys), bool)
    )
    mask = np.where(np.broadcast_to(visible, (workload.tokens, workload.keys)), 0.0, -np.inf)
    return torch.tensor(mask)[None, None].expand(workload.batch, 1, -1, -1)


def float64_tables(theta: float, positions: np.ndarray, head_dim: int) -> tuple[Any, Any]:
    """cos and sin as transformers passes them, ``(1, tokens, head_dim)``, but computed in float64."""
    half = positions[:, None] / theta ** (2 * np.arange(head_dim // 2) / head_dim)
    angles = torch.tensor(np.concatenate([half, half], axis=-1))[None]
    return angles.cos(), angles.sin()


def their_attention(model: Any, tensors: LayerTensors, *, own_rotary: bool, module: Any = None,
                    **kind: str) -> np.ndarray:
    """Of the model's attention, or of ``module``, the whole decoder layer; kind: of layer, for a rotary embedding that
    differs from kind to kind."""
    workload, described = tensors.workload, tensors.workload.layer
    layer = described.attention if isinstance(described, DecoderLayer) else tensors.workload.attention
    x = torch.tensor(tensors.x).double().reshape(workload.batch, workload.tokens, layer.hidden)
    places = np.arange(workload.cached, workload.keys)
    if own_rotary:
        tables = model.model.rotary_emb(x, torch.tensor(places)[None], **kind)
    else:
        tables = float64_tables(layer.rope_theta, places, layer.head_dim)
    return run_attention(model, tensors, tables, module)


def run_attention(model: Any, tensors: LayerTensors, tables: Any, module: Any = None,
                  caches: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """Of the model's attention, or of ``module``, with these tables of cosines and sines, and these caches unless they
    are keys and values."""
    workload = tensors.workload
    x = torch.tensor(tensors.x).double().reshape(workload.batch, workload.tokens, -1)
    cache = DynamicCache()
    if workload.cached:
        cache.update(*(torch.tensor(held).double() for held in caches or (tensors.k_cache, tensors.v_cache)), 0)
    with torch.no_grad():
        out = (module or model.model.layers[0].self_attn)(
            x, position_embeddings=tables, attention_mask=additive_mask(workload), past_key_values=cache
        )
        out = out[0] if isinstance(out, tuple) else out
    return out.reshape(workload.rows, -1).numpy()


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, in units of the largest output."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


PHASES = {
    "prefill": {"phase": "prefill", "tokens": 20},
    "unmasked": {"phase": "prefill", "tokens": 20, "batch": 2, "mask": "none"},
    "chunk": {"phase": "prefill", "tokens": 9, "context": 13},
    "decode": {"phase": "decode", "tokens": 1, "context": 31, "batch": 3},
    "speculative": {"phase": "decode", "tokens": 3, "context": 17, "batch": 2},
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_equals_transformers(family: str, phase: str, tmp_path: Path, seed: int) -> None:
    model = build(family, tmp_path, seed)
    layer = attention_layer(load_model(tmp_path / "saved"))
    tensors = from_safetensors(tmp_path / "saved", Workload(layer=layer, **PHASES[phase]), seed=seed)
    ours = float64_layer(tensors).out
    exact = EXACT if layer.qk_norm == "none" else FLOAT32_STEP
    assert error(ours, their_attention(model, tensors, own_rotary=False)) < exact
    assert error(ours, their_attention(model, tensors, own_rotary=True)) < FLOAT32_ROTARY


SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("granite", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "dynamic": ("mistral", {"max_position_embeddings": 24, "rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    "yarn": (
        "qwen3_moe",
        {
            "max_position_embeddings": 64,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        },
    ),
    "longrope": (
        "mixtral",
        {
            "max_position_embeddings": 96,
            "original_max_position_embeddings": 24,
            "rope_parameters": {
                "rope_theta": 1e4,
                "rope_type": "longrope",
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
                "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
            },
        },
    ),
    "llama3": (
        "llama",
        {
            "max_position_embeddings": 512,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
}
"""A configuration for each kind of rotary scaling; the phases lie on both sides of 24 tokens."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotary_equals_transformers(kind: str, phase: str, tmp_path: Path, seed: int) -> None:
    family, changes = SCALED[kind]
    model = build(family, tmp_path, seed, **changes)
    layers = [attention_layer(load_model(tmp_path / name)) for name in ("written", "saved")]
    assert layers[0].rope_scaling == layers[1].rope_scaling
    assert layers[1].rope_scaling is not None and layers[1].rope_scaling.kind == kind
    tensors = from_safetensors(tmp_path / "saved", Workload(layer=layers[1], **PHASES[phase]), seed=seed)
    theirs = their_attention(model, tensors, own_rotary=True)
    assert error(float64_layer(tensors).out, theirs) < FLOAT32_ROTARY
    plain = dataclasses.replace(layers[1], rope_scaling=None)
    unscaled = tensors.replace(workload=dataclasses.replace(tensors.workload, layer=plain))
    changed = kind != "dynamic" or tensors.workload.keys > 24
    assert (error(float64_layer(unscaled).out, theirs) > 100 * FLOAT32_ROTARY) == changed


def their_experts(model: Any, x: np.ndarray) -> np.ndarray:
    """The feed-forward layer of experts on x (rows, hidden)."""
    block, x = model.model.layers[0], torch.tensor(x).double()[None]
    module = next(getattr(block, name) for name in ("mlp", "feed_forward", "block_sparse_moe") if hasattr(block, name))
    with torch.no_grad():
        out = module(x)
        out = out[0] if isinstance(out, tuple) else out
        out = out.reshape(x.shape[1:])
        return (out + block.shared_mlp(x[0]) if hasattr(block, "shared_mlp") else out).numpy()


@pytest.mark.parametrize("family", (*MOE_FAMILIES, *FEED_FORWARD_FAMILIES))
def test_moe_equals_transformers(family: str, tmp_path: Path, seed: int) -> None:
    """The same experts: one that differs is an error of the order of the output."""
    model = build(family, tmp_path, seed, attention="eager")
    workload = Workload(layer=moe_layer(load_model(tmp_path / "saved")), tokens=17, batch=2)
    tensors = from_safetensors(tmp_path / "saved", workload, seed=seed)
    assert error(float64_layer(tensors).out, their_experts(model, tensors.x)) < FLOAT32_STEP


@pytest.mark.parametrize("family", MLP_FAMILIES)
def test_mlp_equals_transformers(family: str, tmp_path: Path, seed: int) -> None:
    """Other activations, no gate, biases, gate and up in one tensor."""
    model = build(family, tmp_path, seed, attention="eager",
                  **({"mlp_bias": True} if family in ("llama", "nemotron") else {}))
    workload = Workload(layer=mlp_layer(load_model(tmp_path / "saved")), tokens=17)
    tensors = from_safetensors(tmp_path / "saved", workload, seed=seed)
    with torch.no_grad():
        theirs = model.model.layers[0].mlp(torch.tensor(tensors.x).double()).numpy()
    assert error(float64_layer(tensors).out, theirs) < EXACT


DECODERS = (*FAMILIES, "qwen2_moe", "glm4_moe", "minimax_m2", "granitemoeshared", "olmo2", "gemma", "gemma2",
            "gemma3_text", "glm4", "cohere", "starcoder2", "nemotron", "phi3")


@pytest.mark.parametrize("family", DECODERS)
def test_decoder_and_its_mlp_equal_transformers(family: str, tmp_path: Path, seed: int) -> None:
    """The whole layer, and of dense families the feed-forward layer alone. What computes in float32 there is the
    rotary embedding, norms and routers."""
    model = build(family, tmp_path, seed, "eager" if family == "gemma2" else "sdpa")
    config, block = load_model(tmp_path / "saved"), model.model.layers[0]
    for phase in ("unmasked", "decode"):
        workload = Workload(layer=decoder_layer(config), **PHASES[phase])
        tensors = from_safetensors(tmp_path / "saved", workload, seed=seed)
        theirs = their_attention(model, tensors, own_rotary=True, module=block,
                                 **({"layer_type": "full_attention"} if family == "gemma3_text" else {}))
        assert error(float64_layer(tensors).out, theirs) < FLOAT32_ROTARY
    if not config.num_experts:
        tensors = from_safetensors(tmp_path / "saved", Workload(layer=mlp_layer(config), tokens=17), seed=seed)
        with torch.no_grad():
            theirs = block.mlp(torch.tensor(tensors.x).double()).numpy()
        assert error(float64_layer(tensors).out, theirs) < EXACT


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_configuration_is_read_like_the_written_one(family: str, tmp_path: Path, seed: int) -> None:
    """transformers 5 renames keys on saving (``rope_parameters``, ``num_local_experts``): the layers must not
    change."""
    build(family, tmp_path, seed)
    written, saved = (dataclasses.replace(load_model(tmp_path / name), name="") for name in ("written", "saved"))
    for make in (attention_layer, decoder_layer, moe_layer if family in MOE_FAMILIES else mlp_layer):
        assert make(written) == make(saved)
