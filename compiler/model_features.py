"""Which configuration keys ask for a feature that is not built, and how to say so.

The rules stand in one table per layer kind, most specific first, because a DeepSeek config should be told
"MLA" and not "head_dim is odd". After the table, a list of families closes the gap: a family that is not
listed may differ in ways its config.json does not show (Qwen2 always has QKV biases; Llama-4 scales the
router's input), so a family is accepted only when its layer was compared with ``transformers``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

ATTENTION_FAMILIES = ("llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "olmoe", "granite", "granitemoe")
MOE_FAMILIES = ("mixtral", "qwen3_moe", "olmoe", "granitemoe")

PER_LAYER = "per-layer"
"""How the bundled table writes a size that is not one number (Gemma 4)."""


class Rule(NamedTuple):
    """``wants(raw)``: the offending value, or None; ``feature``: its name; ``allowed``: what can be run
    instead."""

    key: str
    feature: str
    allowed: str
    wants: Callable[[Mapping[str, Any]], Any]


def _present(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """The value if it is there and not null, 0 or false."""
    return lambda raw: raw.get(key) or None


def _other_than(key: str, *allowed: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda raw: raw.get(key) if raw.get(key) not in (None, *allowed) else None


def _varies(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda raw: PER_LAYER if raw.get(key) == PER_LAYER else None


def _window(raw: Mapping[str, Any]) -> Any:
    """Qwen carries a window size that ``use_sliding_window: false`` (its class default) switches off."""
    default = not str(raw.get("model_type", "")).startswith("qwen")
    if not raw.get("use_sliding_window", default):
        return None
    missing = 4096 if raw.get("model_type") == "mistral" else None  # MistralConfig's class default
    return raw.get("sliding_window", missing)


def _other_layer_types(raw: Mapping[str, Any]) -> Any:
    kinds = raw.get("layer_types") or raw.get("layer_types_counts") or ()
    if not isinstance(kinds, list | tuple | Mapping) or not all(isinstance(kind, str) for kind in kinds):
        return kinds
    return next((kind for kind in kinds if kind != "full_attention"), None)


def _rope_scaling(key: str) -> Callable[[Mapping[str, Any]], Any]:
    def wants(raw: Mapping[str, Any]) -> Any:
        scaling = raw.get(key)
        if not scaling:
            return None
        if not isinstance(scaling, Mapping):
            return scaling
        kind = scaling.get("rope_type", scaling.get("type", "default" if key == "rope_parameters" else None))
        partial = scaling.get("partial_rotary_factor", 1.0)
        return None if kind == "default" and partial in (None, 1.0) else dict(scaling)

    return wants


def _hash_layers(raw: Mapping[str, Any]) -> Any:
    kinds = raw.get("mlp_layer_types") or raw.get("mlp_layer_types_counts") or ()
    return "hash_moe" if "hash_moe" in kinds else None


def _activation(raw: Mapping[str, Any]) -> Any:
    name = raw.get("hidden_act") or raw.get("hidden_activation") or "silu"
    return name if name not in ("silu", "swish") else None


_SIGMOID_FAMILIES = ("deepseek_v3", "deepseek_v32", "glm4_moe", "glm_moe_dsa", "llama4_text", "kimi_k2")

ATTENTION_RULES = (
    Rule("compress_rates", "compressed attention", "absent", _present("compress_rates")),
    Rule("index_topk", "a sparse attention indexer (DSA)", "absent", _present("index_topk")),
    Rule("kv_lora_rank", "multi-head latent attention (MLA)", "absent", _present("kv_lora_rank")),
    Rule("q_lora_rank", "multi-head latent attention (MLA)", "absent", _present("q_lora_rank")),
    Rule("linear_num_key_heads", "linear attention", "absent", _present("linear_num_key_heads")),
    Rule("attention_chunk_size", "chunked attention", "absent", _present("attention_chunk_size")),
    Rule("sliding_window", "sliding-window attention", "null, or use_sliding_window = false", _window),
    Rule("layer_types", "another kind of attention layer", "full_attention only", _other_layer_types),
    Rule("model_type", "attention sinks", "another family", lambda raw: _family(raw, ("gpt_oss",))),
    Rule("head_dim", "sizes that vary by layer", "an integer", _varies("head_dim")),
    Rule("num_key_value_heads", "sizes that vary by layer", "an integer", _varies("num_key_value_heads")),
    Rule("attention_bias", "biases on the projections", "false", _present("attention_bias")),
    Rule("attn_logit_softcapping", "capped attention logits", "null", _present("attn_logit_softcapping")),
    Rule("clip_qkv", "clipped q, k and v", "null", _present("clip_qkv")),
    Rule(
        "partial_rotary_factor",
        "a partial rotary embedding",
        "1.0",
        _other_than("partial_rotary_factor", 1.0),
    ),
    Rule(
        "rope_scaling",
        "a scaled rotary embedding",
        'null or rope_type "default"',
        _rope_scaling("rope_scaling"),
    ),
    Rule(
        "rope_parameters",
        "a scaled rotary embedding",
        'rope_type "default"',
        _rope_scaling("rope_parameters"),
    ),
)

MOE_RULES = (
    Rule("mlp_layer_types", "hash routing", "absent", _hash_layers),
    Rule(
        "scoring_func",
        "a router that does not score by softmax",
        '"softmax"',
        _other_than("scoring_func", "softmax"),
    ),
    Rule(
        "model_type",
        "sigmoid routing",
        "a family with a softmax router",
        lambda raw: _family(raw, _SIGMOID_FAMILIES),
    ),
    Rule("n_group", "group-limited routing", "1", _other_than("n_group", 0, 1)),
    Rule("topk_method", "another way of choosing experts", '"greedy"', _other_than("topk_method", "greedy")),
    Rule("n_shared_experts", "shared experts", "0", _present("n_shared_experts")),
    Rule(
        "shared_expert_intermediate_size", "a shared expert", "0", _present("shared_expert_intermediate_size")
    ),
    Rule("routed_scaling_factor", "scaled expert weights", "1.0", _other_than("routed_scaling_factor", 1.0)),
    Rule("swiglu_limit", "a clamped SwiGLU", "null", _present("swiglu_limit")),
    Rule("hidden_act", "an activation other than SiLU", '"silu"', _activation),
)


def _family(raw: Mapping[str, Any], families: tuple[str, ...]) -> Any:
    return raw.get("model_type") if raw.get("model_type") in families else None


def _first(
    raw: Mapping[str, Any], rules: tuple[Rule, ...], family: str, built: tuple[str, ...]
) -> str | None:
    for rule in rules:
        value = rule.wants(raw)
        if value is not None:
            found = f"{rule.key} = {value!r}"
            return f"{found} needs {rule.feature}, which is not built yet; allowed: {rule.allowed}"
    if family not in built:
        return f"model_type = {family!r} is not built yet; allowed: {', '.join(built)}"
    return None


def attention_blocker(raw: Mapping[str, Any], family: str) -> str | None:
    """Why the attention layer cannot be built, as "key = value needs ...; allowed: ...", or None."""
    return _first(raw, ATTENTION_RULES, family, ATTENTION_FAMILIES)


def moe_blocker(raw: Mapping[str, Any], family: str) -> str | None:
    """Why the MoE layer cannot be built, as "key = value needs ...; allowed: ...", or None."""
    return _first(raw, MOE_RULES, family, MOE_FAMILIES)
