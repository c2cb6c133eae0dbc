"""Which configuration keys ask for a feature that is not built, and how to say so.

The rules stand in one table per layer kind. All that hold back a layer are given at once: the family first, then
the rules in the order of the table, then the keys that nothing here understands (`model_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .activation_names import HUGGING_FACE
from .families import FAMILIES, SCORE_CAP, Family
from .model_keys import (
    ATTENTION_FAMILIES,
    ATTENTION_REASONS,
    MLP_FAMILIES,
    MLP_REASONS,
    MOE_FAMILIES,
    MOE_REASONS,
    family_problem,
)
from .windows import empty_window, other_chunk, other_kind, rotated_in_some, window_of_none, window_of_some

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
    """The value if it is there and not null, 0, false or empty."""
    return lambda raw: raw.get(key) or None


def _other_than(key: str, *allowed: Any) -> Callable[[Mapping[str, Any]], Any]:
    return lambda raw: raw.get(key) if raw.get(key) not in (None, *allowed) else None


def _bias(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """The value where the family has no biases by that key; one that always has them does not read it."""
    def wants(raw: Mapping[str, Any]) -> Any:
        family = FAMILIES.get(str(raw.get("model_type")), Family())
        taken = family.biases != "none" and family.bias_key in (None, key)
        return None if taken else raw.get(key) or None
    return wants


def _qk_norm(said: bool) -> Callable[[Mapping[str, Any]], Any]:
    """The switch where it says this and the family, which has no such switch, is otherwise."""
    def wants(raw: Mapping[str, Any]) -> Any:
        family, value = _family(raw), raw.get("use_qk_norm")
        switched = family.qk_norm_key == "use_qk_norm" or value is None or bool(value) is not said
        return None if switched or (family.qk_norm != "none") is said else value
    return wants


def _other_latent(raw: Mapping[str, Any]) -> Any:
    value = raw.get("use_mla")
    return None if value is None or bool(value) is _family(raw).latent else value


def _latent(key: str) -> Callable[[Mapping[str, Any]], Any]:
    """A rank in a family without latent attention."""
    return lambda raw: None if FAMILIES.get(str(raw.get("model_type")), Family()).latent else raw.get(key) or None


def _part(raw: Mapping[str, Any]) -> Any:
    """A partial rotary embedding of a family that has none."""
    known = FAMILIES.get(str(raw.get("model_type")), Family()).rotary_part is not None
    return None if known else _other_than("partial_rotary_factor", 1.0)(raw)


def _varies(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda raw: PER_LAYER if raw.get(key) == PER_LAYER else None


def _kinds(raw: Mapping[str, Any], key: str) -> list[Any]:
    """The kinds of layers that a list, or the bundled table's count by kind, names."""
    kinds = raw.get(key) or raw.get(f"{key}_counts") or ()
    return list(kinds) if isinstance(kinds, list | tuple | Mapping) else [kinds]


def _hash_layers(raw: Mapping[str, Any]) -> Any:
    return "hash_moe" if "hash_moe" in _kinds(raw, "mlp_layer_types") else None


def _family(raw: Mapping[str, Any]) -> Family:
    return FAMILIES.get(str(raw.get("model_type")), Family())


def activation_of(raw: Mapping[str, Any]) -> Any:
    """The activation of the feed-forward layers, by the name that configurations have for it."""
    if raw.get("model_type") not in FAMILIES:
        return raw.get("hidden_act") or raw.get("hidden_activation") or "silu"
    family = _family(raw)
    name = raw.get(family.activation_key) or family.activation
    return family.renamed.get(name, name) if isinstance(name, str) else name


def _activation(raw: Mapping[str, Any]) -> Any:
    name = activation_of(raw)
    return None if isinstance(name, str) and name in HUGGING_FACE else name


def _other_score(raw: Mapping[str, Any]) -> Any:
    """Another than the family's; than any, where the family is not built."""
    scores = {family.scoring.score for family in FAMILIES.values()}
    return _other_than("scoring_func", *(scores if raw.get("model_type") not in FAMILIES else (
        _family(raw).scoring.score,)))(raw)


def _other_choice(raw: Mapping[str, Any]) -> Any:
    """DeepSeek-V2 names the method that it uses, others the only one that they have."""
    family = _family(raw)
    named = ("noaux_tc",) if family.scoring.correction else ("greedy", *["group_limited_greedy"] * family.grouped)
    return _other_than("topk_method", *named)(raw)


def _other_norm(raw: Mapping[str, Any]) -> Any:
    """The class of DeepSeek-V2 does not look at the key."""
    return raw.get("norm_topk_prob") or None if raw.get("model_type") == "deepseek_v2" else None


def _shared(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda raw: None if _family(raw).shared == key else _present(key)(raw)


ATTENTION_RULES = (
    Rule("compress_rates", "compressed attention", "absent", _present("compress_rates")),
    Rule("index_topk", "a sparse attention indexer (DSA)", "absent", _present("index_topk")),
    Rule("kv_lora_rank", "multi-head latent attention (MLA)", "absent", _latent("kv_lora_rank")),
    Rule("q_lora_rank", "multi-head latent attention (MLA)", "absent", _latent("q_lora_rank")),
    Rule("linear_num_key_heads", "linear attention", "absent", _present("linear_num_key_heads")),
    Rule("attention_chunk_size", "chunked attention in a family without, or on some layers only",
         "absent, or layer_types that are all alike", other_chunk),
    Rule("no_rope_layers", "layers without rotary embedding beside others", "layers that are all alike",
         rotated_in_some),
    Rule("sliding_window", "a sliding window that the family does not have", "null", window_of_none),
    Rule(
        "sliding_window",
        "a window on some layers only",
        "layer_types that are all alike, max_window_layers = 0",
        window_of_some,
    ),
    Rule("sliding_window", "a window of no keys", "null, or at least 1", empty_window),
    Rule(
        "layer_types",
        "another kind of attention layer",
        "all full_attention, or all sliding_attention with a window",
        other_kind,
    ),
    Rule("head_dim", "sizes that vary by layer", "an integer", _varies("head_dim")),
    Rule("num_key_value_heads", "sizes that vary by layer", "an integer", _varies("num_key_value_heads")),
    Rule("attention_bias", "biases on the projections", "false", _bias("attention_bias")),
    Rule("qkv_bias", "biases on the projections", "false", _bias("qkv_bias")),
    Rule("use_mrope", "a rotary embedding in three dimensions", "false", _present("use_mrope")),
    Rule("use_mla", "another kind of attention than its family's", "true in families with MLA, false in others",
         _other_latent),
    Rule("use_qk_norm", "a QK-norm that the family does not have", "false", _qk_norm(True)),
    Rule("use_qk_norm", "attention without the QK-norm of its family", "true", _qk_norm(False)),
    Rule("qk_layernorm", "a QK-norm that the family does not have", "false", _present("qk_layernorm")),
    Rule("qk_layer_norms", "a QK-norm that the family does not have", "false", _present("qk_layer_norms")),
    Rule(SCORE_CAP, "capped attention logits that the family does not have", "null",
         lambda raw: None if SCORE_CAP in _family(raw).caps else raw.get(SCORE_CAP) or None),
    Rule("clip_qkv", "clipped q, k and v", "null", _present("clip_qkv")),
    Rule("pruned_heads", "pruned heads", "empty", _present("pruned_heads")),
    Rule("add_cross_attention", "cross attention", "false", _present("add_cross_attention")),
    Rule("is_encoder_decoder", "cross attention", "false", _present("is_encoder_decoder")),
    Rule("use_bidirectional_attention", "attention without a causal mask", "false",
         _present("use_bidirectional_attention")),
    Rule("is_causal", "attention without a causal mask", "true", lambda raw: None if raw.get("is_causal") in (
        None, True) else raw["is_causal"]),
    Rule("alibi", "ALiBi positions", "false", _present("alibi")),
    Rule("rope_interleaved", "an interleaved rotary embedding", "false", _present("rope_interleaved")),
    Rule(
        "partial_rotary_factor",
        "a partial rotary embedding",
        "1.0",
        _part,
    ),
)

MOE_RULES = (
    Rule("mlp_layer_types", "hash routing", "absent", _hash_layers),
    Rule("scoring_func", "a router that its family does not have", '"softmax", or "sigmoid" in families with it',
         _other_score),
    Rule("n_group", "group-limited routing that its family does not have", "1",
         lambda raw: None if _family(raw).grouped else _other_than("n_group", 0, 1)(raw)),
    Rule("topk_method", "another way of choosing experts", '"greedy", or the method of the family', _other_choice),
    Rule("norm_topk_prob", "normalized weights, which its family does not have", "false", _other_norm),
    Rule("n_shared_experts", "shared experts that its family does not have", "0", _shared("n_shared_experts")),
    Rule("shared_expert_intermediate_size", "a shared expert that its family does not have", "0",
         _shared("shared_expert_intermediate_size")),
    Rule("shared_intermediate_size", "a shared expert that its family does not have", "0",
         _shared("shared_intermediate_size")),
    Rule("routed_scaling_factor", "scaled expert weights that its family does not have", "1.0",
         lambda raw: None if _family(raw).scaled else _other_than("routed_scaling_factor", 1.0)(raw)),
    Rule("use_routing_bias", "a router without its correction", "true, in families with it",
         lambda raw: None if raw.get("use_routing_bias") in (None, _family(raw).scoring.correction) else
         raw["use_routing_bias"]),
    Rule("swiglu_limit", "a clamped SwiGLU that its family does not have", "null",
         lambda raw: None if _family(raw).clamped else raw.get("swiglu_limit")),
    Rule("mlp_bias", "biases of a shared expert", "false",
         lambda raw: raw.get("mlp_bias") or None if _family(raw).shared == "n_shared_experts" else None),
    Rule("hidden_act", "another activation", ", ".join(HUGGING_FACE), _activation),
)

MLP_RULES = (
    Rule("mlp_bias", "biases that its family does not have", "false",
         lambda raw: None if _family(raw).mlp_bias_key == "mlp_bias" else raw.get("mlp_bias") or None),
    Rule("hidden_act", "another activation", ", ".join(HUGGING_FACE), _activation),
)
RULED_KEYS = frozenset(rule.key for rule in (*ATTENTION_RULES, *MOE_RULES)) | {
    "use_sliding_window", "layer_types_counts", "mlp_layer_types_counts"}
"""Keys that a rule looks at: understood, whatever the family."""

_OF_SOME_FAMILIES = frozenset({
    "kv_lora_rank", "q_lora_rank", "use_mla", "attention_chunk_size", "attention_bias", "qkv_bias", "use_qk_norm",
    "qk_layernorm", "qk_layer_norms", SCORE_CAP, "rope_interleaved", "partial_rotary_factor", "n_group", "topk_method",
    "n_shared_experts", "shared_expert_intermediate_size", "shared_intermediate_size",
    "routed_scaling_factor", "use_routing_bias", "swiglu_limit", "mlp_bias"})  # fmt: skip
"""Keys of what is built in some families: they say nothing of a family that is not built."""


def not_built(key: str, value: Any, feature: str, allowed: str) -> str:
    """The one wording of "this value asks for something that is not built"."""
    return f"{key} = {value!r} needs {feature}, which is not built yet (allowed: {allowed})"


def _blockers(raw: Mapping[str, Any], rules: tuple[Rule, ...]) -> list[str]:
    family_built = raw.get("model_type") in FAMILIES
    found = ((rule, rule.wants(raw)) for rule in rules if family_built or rule.key not in _OF_SOME_FAMILIES)
    return [not_built(rule.key, value, rule.feature, rule.allowed) for rule, value in found if value is not None]


def attention_blockers(raw: Mapping[str, Any], family: str) -> list[str]:
    """All reasons why the attention layer cannot be built, the family first."""
    problem = family_problem(family, ATTENTION_FAMILIES, ATTENTION_REASONS)
    return [problem for problem in (problem,) if problem] + _blockers(raw, ATTENTION_RULES)


def mlp_blockers(raw: Mapping[str, Any], family: str) -> list[str]:
    """All reasons why the dense feed-forward layer cannot be built, the family first."""
    problem = family_problem(family, MLP_FAMILIES, MLP_REASONS)
    return [problem for problem in (problem,) if problem] + _blockers(raw, MLP_RULES)


def moe_blockers(raw: Mapping[str, Any], family: str) -> list[str]:
    """All reasons why the MoE layer cannot be built, the family first."""
    problem = family_problem(family, MOE_FAMILIES, MOE_REASONS)
    return [problem for problem in (problem,) if problem] + _blockers(raw, MOE_RULES)
