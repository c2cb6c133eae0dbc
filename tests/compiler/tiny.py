"""Tiny models for tests: real configuration files and checkpoints of a few kilobytes, made without torch.

``tiny_config(family)`` is the content of a config.json with the keys and spellings of that family;
``write_model(directory, family, seed=...)`` writes it there with a ``model.safetensors`` of one decoder layer
in the layout in which the family's checkpoints are published. Sizes are chosen so that every dimension is
different from every other where the family allows it: a swapped pair of dimensions cannot pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

_ATTENTION = {
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32,
    "hidden_act": "silu",
    "attention_bias": False,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}

_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"head_dim": 16, "intermediate_size": 80, "rope_theta": 500000.0},
    "mistral": {"intermediate_size": 80, "rope_theta": 1000000.0, "sliding_window": None, "head_dim": 16},
    "granite": {"intermediate_size": 80, "attention_multiplier": 0.0625, "rope_theta": 10000.0, "hidden_size": 64},
    "qwen3": {
        "head_dim": 16,
        "intermediate_size": 80,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "use_sliding_window": False,
        "sliding_window": 4096,
    },
    "qwen3_moe": {
        "head_dim": 16,
        "intermediate_size": 80,
        "moe_intermediate_size": 32,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
    },
    "mixtral": {
        "head_dim": 16,
        "intermediate_size": 32,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    },
    "olmoe": {
        "intermediate_size": 32,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "rope_theta": 10000.0,
        "hidden_size": 64,
    },
    "granitemoe": {
        "intermediate_size": 32,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "attention_multiplier": 0.0625,
        "rope_theta": 10000.0,
        "hidden_size": 64,
    },
}

_EXPERTS = {"intermediate_size": 80, "moe_intermediate_size": 32, "n_routed_experts": 12, "num_experts_per_tok": 3,
            "n_shared_experts": 2, "first_k_dense_replace": 0, "q_lora_rank": 24, "kv_lora_rank": 16,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
_GROUPED = {"n_group": 4, "topk_group": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "kv_lora_rank": 40, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 20,
    "rope_theta": 10000.0, "max_position_embeddings": 640, "rope_scaling": {
        "rope_type": "yarn", "factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.7,
        "original_max_position_embeddings": 16},
}  # fmt: skip
_KINDS: dict[str, dict[str, Any]] = {
    "qwen2": {"intermediate_size": 80, "rope_theta": 1000000.0, "hidden_size": 64, "use_sliding_window": False,
              "attention_bias": ..., "use_mrope": False},
    "gpt_oss": {"head_dim": 16, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
                "attention_bias": True, "sliding_window": None, "layer_types": ["full_attention"],
                "rope_theta": 150000.0, "max_position_embeddings": 512, "rope_scaling": {
                    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                    "original_max_position_embeddings": 16}},
    "glm4_moe": {"head_dim": 16, "intermediate_size": 80, "moe_intermediate_size": 32, "n_routed_experts": 6,
                 "n_shared_experts": 1, "num_experts_per_tok": 2, "attention_bias": True, "use_qk_norm": True,
                 "partial_rotary_factor": 0.5, "rope_theta": 1000000.0, "first_k_dense_replace": 0},
    "glm4": {"head_dim": 16, "intermediate_size": 80, "attention_bias": True, "partial_rotary_factor": 0.5,
             "rope_theta": 10000.0, "pad_token_id": 0},
    "minimax_m2": {"head_dim": 16, "intermediate_size": 32, "num_local_experts": 6, "num_experts_per_tok": 2,
                   "rotary_dim": 8, "rope_theta": 5000000.0, "attention_bias": ...},
    "olmo2": {"hidden_size": 64, "intermediate_size": 80, "rope_theta": 500000.0},
    "gemma": {"head_dim": 16, "intermediate_size": 80, "rope_theta": 10000.0, "hidden_act": "gelu"},
    "gemma2": {"head_dim": 16, "intermediate_size": 80, "rope_theta": 10000.0, "query_pre_attn_scalar": 24,
               "attn_logit_softcapping": None, "sliding_window": None, "layer_types": ["full_attention"]},
    "gemma3_text": {"head_dim": 16, "intermediate_size": 80, "query_pre_attn_scalar": 24, "sliding_window": None,
                    "layer_types": ["full_attention"], "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0},
    "cohere": {"hidden_size": 64, "intermediate_size": 80, "rope_theta": 8000000.0, "rms_norm_eps": ...,
               "layer_norm_eps": 1e-5, "logit_scale": 0.0625},
    "phimoe": {"hidden_size": 64, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2,
               "attention_bias": True, "rope_theta": 10000.0, "sliding_window": None, "router_jitter_noise": 0.3},
    "qwen2_moe": {"hidden_size": 64, "intermediate_size": 80, "moe_intermediate_size": 32, "num_experts": 4,
                  "num_experts_per_tok": 2, "shared_expert_intermediate_size": 48, "rope_theta": 1000000.0,
                  "attention_bias": ..., "qkv_bias": True},
    "granitemoeshared": {"intermediate_size": 32, "num_local_experts": 6, "num_experts_per_tok": 2, "hidden_size": 64,
                         "attention_multiplier": 0.0625, "rope_theta": 10000.0, "shared_intermediate_size": 40},
    "deepseek_v2": _EXPERTS | _GROUPED | _LATENT | {"topk_method": "group_limited_greedy",
                                                    "routed_scaling_factor": 16.0},
    "deepseek_v3": _EXPERTS | _GROUPED | _LATENT | {"norm_topk_prob": True, "routed_scaling_factor": 2.5},
    "phi3": {"intermediate_size": 80, "pad_token_id": 0},
    "starcoder2": {"intermediate_size": 80, "hidden_act": "gelu_pytorch_tanh", "use_bias": True},
    "nemotron": {"intermediate_size": 80, "hidden_act": "relu2", "head_dim": 16, "partial_rotary_factor": 0.5},
    "llama4_text": {"intermediate_size": 32, "intermediate_size_mlp": 80, "num_local_experts": 6,
                    "num_experts_per_tok": 1, "head_dim": 16, "rope_theta": 500000.0},
    "smollm3": {"intermediate_size": 80, "rope_theta": 2000000.0, "hidden_size": 64, "no_rope_layers": [1],
                "pad_token_id": 0},
    "cohere2": {"hidden_size": 64, "intermediate_size": 80, "rope_theta": 50000.0, "rms_norm_eps": ...,
                "layer_norm_eps": 1e-5, "logit_scale": 0.25, "layer_types": ["sliding_attention"],
                "sliding_window": 99},
}  # fmt: skip
"""Families with other kinds of attention (`test_attention_kinds.py`)."""

_QWEN = {"intermediate_size": 80, "moe_intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2,
         "shared_expert_intermediate_size": 56, "head_dim": 16}

_FEED_FORWARD: dict[str, dict[str, Any]] = {
    "deepseek_v32": _EXPERTS | _GROUPED | {"norm_topk_prob": True, "routed_scaling_factor": 2.5, "index_topk": 4},
    "glm_moe_dsa": _EXPERTS | {"n_group": 1, "topk_group": 1, "index_topk": 4, "routed_scaling_factor": 2.5},
    "dots1": _EXPERTS | {"norm_topk_prob": True, "head_dim": 16},
    "qwen3_next": _QWEN | {"norm_topk_prob": True, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                           "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "qwen3_5_moe_text": _QWEN | {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
                                 "linear_value_head_dim": 8},
}
"""Families of which only the feed-forward layer is built, beside `_KINDS`."""

FAMILIES = tuple(_FAMILIES)
KIND_FAMILIES = tuple(_KINDS)
MOE_FAMILIES = tuple(family for family, keys in _FAMILIES.items() if "num_experts_per_tok" in keys)
MLP_FAMILIES = ("starcoder2", "nemotron", "phi3", "gemma", "gemma2", "gemma3_text", "glm4", "olmo2", "cohere", "llama")
"""Families with other kinds of dense feed-forward layers, and other places of their weights."""
FEED_FORWARD_FAMILIES = ("deepseek_v2", "deepseek_v3", *(name for name in _FEED_FORWARD if name not in MLP_FAMILIES),
                         "qwen2_moe", "glm4_moe", "minimax_m2", "granitemoeshared", "gpt_oss", "llama4_text", "phimoe")


def tiny_config(family: str, **changes: Any) -> dict[str, Any]:
    """The content of a config.json; ``changes`` replace keys, a value of ``...`` removes one."""
    config = {"model_type": family} | _ATTENTION | (_FAMILIES | _KINDS | _FEED_FORWARD)[family] | changes
    return {key: value for key, value in config.items() if value is not ...}


def write_config(directory: Path, config: dict[str, Any]) -> Path:
    """Write a config.json into ``directory`` (made if needed) and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps(config, indent=2))
    return path


def write_model(directory: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """A model directory with config.json and model.safetensors; returns the directory."""
    config = tiny_config(family, **changes)
    write_config(directory, config)
    write_safetensors(directory / "model.safetensors", tiny_weights(config, seed))
    return directory


def tiny_weights(config: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Float32 weights of decoder layer 0 under their published names."""
    rng = np.random.default_rng(seed)

    def matrix(out: int, fan_in: int) -> np.ndarray:
        return (rng.standard_normal((out, fan_in)) / fan_in**0.5).astype(np.float32)

    family, hidden, heads = config["model_type"], config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    q, kv = heads * head_dim, config["num_key_value_heads"] * head_dim
    attention = "model.layers.0.self_attn."
    weights = {
        f"{attention}q_proj.weight": matrix(q, hidden),
        f"{attention}k_proj.weight": matrix(kv, hidden),
        f"{attention}v_proj.weight": matrix(kv, hidden),
        f"{attention}o_proj.weight": matrix(hidden, q),
    }
    per_head = (head_dim, head_dim)
    norms = {"qwen3": per_head, "qwen3_moe": per_head, "olmoe": (q, kv)}.get(family)
    if norms is not None:
        for name, size in zip(("q_norm", "k_norm"), norms, strict=True):
            weights[f"{attention}{name}.weight"] = rng.uniform(0.5, 1.5, size).astype(np.float32)
    if family in MOE_FAMILIES:
        weights |= _expert_weights(config, matrix)
    return weights


def _expert_weights(config: dict[str, Any], matrix: Any) -> dict[str, np.ndarray]:
    family, d = config["model_type"], config["hidden_size"]
    experts = config.get("num_experts") or config["num_local_experts"]
    f = config.get("moe_intermediate_size") or config["intermediate_size"]
    mlp = "model.layers.0.mlp." if family in ("qwen3_moe", "olmoe") else "model.layers.0.block_sparse_moe."
    if family == "granitemoe":
        return {
            f"{mlp}router.layer.weight": matrix(experts, d),
            f"{mlp}input_linear.weight": np.stack([matrix(2 * f, d) for _ in range(experts)]),
            f"{mlp}output_linear.weight": np.stack([matrix(d, f) for _ in range(experts)]),
        }
    gate, up, down = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    weights = {f"{mlp}gate.weight": matrix(experts, d)}
    for expert in range(experts):
        for name, shape in ((gate, (f, d)), (up, (f, d)), (down, (d, f))):
            weights[f"{mlp}experts.{expert}.{name}.weight"] = matrix(*shape)
    return weights


def write_safetensors(
    path: Path, tensors: dict[str, np.ndarray], *, dtypes: dict[str, str] | None = None
) -> Path:
    """A safetensors file; ``dtypes`` overrides the dtype name in the header (uint16 arrays can be "BF16")."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32"}
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        dtype = (dtypes or {}).get(name) or names[value.dtype.name]
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
