"""Which keys of a config.json are understood and which are known not to matter, whatever the family.

A key that is in neither list is an error unless it is null: it may change the layer in a way this program does
not know. A value of false, 0, "" or [] is listed too, since for an unknown key nobody can say that it means "off".
Keys that start with an underscore are the library's own bookkeeping (``_name_or_path``, ``_attn_implementation``)
and never matter.

Families that are built stand in `families`. The reasons name what another family's layer has that is not built; they
are given for families that are often asked for, and left out when the layer is merely not compared yet.
Source of keys and reasons: the configuration and modelling files of transformers 5.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .families import FAMILIES
from .layer_patterns import FEED_FORWARD_PATTERNS, pattern_keys

READ_KEYS = frozenset({
    "model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers",
    "intermediate_size", "rms_norm_eps", "hidden_act", "hidden_activation", "rope_theta", "rope_scaling",
    "rope_parameters", "max_position_embeddings", "original_max_position_embeddings", "tie_word_embeddings",
})  # fmt: skip
"""What `models` reads of every family; the keys of the rules in `model_features` come on top."""

HARMLESS_KEYS = frozenset({
    # the file and what wrote it
    "architectures", "auto_map", "custom_pipelines", "finetuning_task", "name_or_path", "transformers_version",
    "transformers.js_config", "is_composition", "unsloth_fixed", "unsloth_version", "published_total_active_B",
    # how weights are stored (synthetic weights are not; a checkpoint's dtypes are checked when it is read)
    "torch_dtype", "dtype", "quantization_config", "quantization", "compression_config",
    # vocabulary, token ids, labels
    "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "unk_token_id", "decoder_start_token_id", "tokenizer_class", "tokenizer_model_max_length",
    "tokenizer_padding_side", "id2label", "label2id", "num_labels", "problem_type", "prefix", "classifier_dropout",
    # training
    "attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "dropout", "embd_pdrop", "embd_dropout",
    "hidden_dropout", "hidden_dropout_prob", "resid_pdrop", "residual_dropout", "initializer_range",
    "gradient_checkpointing", "use_reentrant_checkpointing", "neftune_noise_alpha",
    # how it is executed: the same numbers up to rounding
    "use_cache", "cache_implementation",
    "use_flash_attention", "use_flash_attention_2", "use_flash_attn", "attn_implementation",
    "chunk_size_feed_forward", "pretraining_tp", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "output_attentions", "output_hidden_states", "return_dict", "is_decoder", "tie_encoder_decoder",
    "max_sequence_length",
    "max_seq_len", "model_max_length", "seq_length",
    # generation
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_return_sequences", "output_scores", "remove_invalid_values", "repetition_penalty",
    "return_dict_in_generate", "suppress_tokens", "task_specific_params", "temperature", "top_k", "top_p",
    "typical_p",
})  # fmt: skip
"""Keys that change neither layer, in any family."""

FIXED_KEYS: Mapping[str, Mapping[str, Any]] = {
    "starcoder2": {"norm_type": "layer_norm", "mlp_type": "default"},
    "phi3": {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False},
    "glm4_moe": {"decoder_sparse_step": 1, "moe_router_dtype": "float32"},
    "cohere2": {"position_embedding_type": "rope_gptj", "rotary_pct": 1.0, "use_parallel_block": True,
                "use_gated_activation": True, "use_parallel_embedding": False, "use_embedding_sharing": True},
    "minimax_m2": {"qk_norm_type": "per_layer", "shared_moe_mode": "sigmoid", **{
        f"layernorm_{part}_{side}": 1.0 for part in ("full_attention", "linear_attention", "mlp")
        for side in ("alpha", "beta")}},
}  # fmt: skip
"""By family, keys that say what its layers are anyway: understood with this value and no other."""

REPEATED_KEYS = {"rotary_emb_base": "rope_theta", "sliding_window_size": "sliding_window",
                 "attention_head_dim": "head_dim", "kv_channels": "head_dim"}  # fmt: skip
"""Keys that say again what another says: understood where both agree."""

_THREE = "a rotary embedding in three dimensions"
_LEARNED = "learned positions"
_ALIBI = "ALiBi positions"
_INDEXER = "a sparse indexer"
_LINEAR = "linear attention"
_STATE_SPACE = "state-space layers"

ATTENTION_REASONS = {
    **dict.fromkeys(("gpt2", "gpt_neo", "opt", "gpt_bigcode"), _LEARNED), "mpt": _ALIBI, "bloom": _ALIBI,
    "t5": "relative position biases", "gpt_neox": "a parallel block with a norm for each branch",
    "dbrx": "clipped q, k and v", "olmo": "norms without weights", "persimmon": "a LayerNorm as QK-norm",
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "bamba", "nemotron_h",
                     "granitemoehybrid"), _STATE_SPACE),
    **dict.fromkeys(("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_5_omni_text",
                     "qwen3_vl_text", "qwen3_vl_moe_text", "glm4v_text", "glm4v_moe_text"), _THREE),
    "minimax": _LINEAR, "minimax_m1": _LINEAR, "mllama_text_model": "cross attention",
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe"), "a QK-norm after the rotary embedding"),
    **dict.fromkeys(("qwen3_next", "qwen3_5_moe_text"), "gated and linear attention"),
    "deepseek_v32": _INDEXER, "glm_moe_dsa": _INDEXER, "dots1": "a QK-norm that was not compared",
}  # fmt: skip

MOE_REASONS = {
    "dbrx": "the weights of all experts in one matrix", "arctic": "a dense branch beside the experts",
    "ernie4_5_moe": "a softmax router with a correction bias",
}


MLP_REASONS: dict[str, str] = {}

ATTENTION_FAMILIES = tuple(name for name in FAMILIES if name not in ATTENTION_REASONS)
MOE_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.experts and name not in MOE_REASONS)
MLP_FAMILIES = tuple(name for name, family in FAMILIES.items() if name not in MLP_REASONS
                     and (not family.experts or name in FEED_FORWARD_PATTERNS))
"""Families whose layer of that kind is built."""


def family_problem(family: str, built: tuple[str, ...], reasons: Mapping[str, str]) -> str | None:
    """Why a layer of this family is not built, with the families that are; None for a built one."""
    if family in built:
        return None
    allowed = f"(allowed: {', '.join(built)})"
    if family in reasons:
        return f"model_type = {family!r} needs {reasons[family]}, which is not built yet {allowed}"
    known = {*FAMILIES, *ATTENTION_REASONS, *MOE_REASONS}
    spelled = family.lower().replace("-", "_")
    close = [] if family in known else difflib.get_close_matches(spelled, FAMILIES, n=1, cutoff=0.8)
    close = [other for other in close if re.findall(r"\d+", other) == re.findall(r"\d+", spelled)]  # olmo2 is no olmoe
    hint = f", did you mean {close[0]!r}?" if close else ""
    return f"model_type = {family!r} is not built yet{hint} {allowed}"


def has_experts(raw: Mapping[str, Any], family: str) -> bool:
    """Whether a configuration of a family that is not built speaks of experts, under whatever name."""
    return family in MOE_REASONS or any("expert" in key for key, value in raw.items() if value)


def unknown_keys(raw: Mapping[str, Any], family: str, ruled: Collection[str]) -> tuple[str, ...]:
    """The keys of ``raw`` that are neither null, nor read, nor known not to matter for ``family``.

    ``ruled``: keys with a rule of their own (`model_features`).
    """
    known = READ_KEYS | HARMLESS_KEYS
    if family in FAMILIES:
        built = FAMILIES[family]
        known |= built.read | built.harmless | built.caps.keys() | {built.scale_key or "", built.eps_key}
        known |= pattern_keys(family)
    fixed = FIXED_KEYS.get(family, {})
    known |= {key for key in raw if key in fixed and raw[key] == fixed[key]}
    known |= {key for key in raw if key in REPEATED_KEYS and raw[key] == raw.get(REPEATED_KEYS[key])}
    return tuple(key for key, value in raw.items()
                 if value is not None and not key.startswith("_") and key not in known and key not in ruled)


def not_understood(unknown: Sequence[str]) -> list[str]:
    """What an error says of keys, as "key = value", that are not understood; nothing where there are none."""
    if not unknown:
        return []
    return [f"keys that are not understood and may change the layer: {', '.join(unknown)} "
            "(allowed: --ignore-key KEY for each that does not)"]
