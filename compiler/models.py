"""Model configurations: a Hugging Face ``config.json``, bundled or on disk, checked and typed.

Two stages, so that an architect can list a model whose layers are not built yet:

1. ``load_model`` reads, types and cross-checks the fields. What is wrong in the file is a ``ConfigError``.
2. `layer_readers` turns the model into a layer description, or says in a ``WorkloadError`` which keys ask for a
   feature that is not built (``model_features``) and which are not understood (``model_keys``).

Both name everything at once, separated by "; ". Of a family that is not built nothing is checked but the family: its
sizes may stand under other names.

Field names differ by family: experts are counted by ``num_experts``, ``num_local_experts`` or
``n_routed_experts`` (all that are present must agree); an expert's width is ``moe_intermediate_size``, but
``intermediate_size`` in Mixtral, OLMoE and Granite. Class defaults of ``transformers`` are *not* assumed for
sizes, since they often belong to another checkpoint (``OlmoeConfig.intermediate_size`` is 2,048 where
OLMoE-1B-7B has 1,024).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..rtl.spec.errors import ConfigError, WorkloadError
from .activation_names import HUGGING_FACE, Clamped
from .config_fields import MAX_SIZE, ConfigFields
from .families import EXPERT_COUNT_KEYS, FAMILIES, SCORE_CAP, TOP_K_KEYS, Biases, Family
from .layers import QkNorm, Temperature
from .model_features import RULED_KEYS, activation_of, attention_blockers, moe_blockers
from .model_files import config_file, model_name, read_json_object, suggestion, text_part
from .model_keys import ATTENTION_FAMILIES, has_experts, not_understood, unknown_keys
from .moe_config import read_scoring, read_shared_width
from .rope_config import MAX_LENGTH, Rope, read_rope
from .scoring import SOFTMAX, Scoring

SWITCHES = ("rope_interleave", "attention_bias", "qkv_bias", "use_mrope", "use_sliding_window", "use_qk_norm",
            "qk_layernorm", "rope_interleaved", "is_encoder_decoder", "add_cross_attention", "alibi")
COUNTS = ("sliding_window", "max_position_embeddings", "original_max_position_embeddings", "vocab_size", "kv_lora_rank",
          "q_lora_rank", "index_topk", "attention_chunk_size", "n_group", "topk_group", "n_shared_experts",
          "shared_expert_intermediate_size", "shared_intermediate_size")
"""Keys of which only the type is checked here; `model_features` has rules for most."""

BUNDLED_ROPE_THETA = {
    "llama-3-8b": 5e5,
    "llama-3-70b": 5e5,
    "mixtral-8x7b": 1e6,
    "olmoe-1b-7b": 1e4,
    "qwen3-30b-a3b": 1e6,
    "qwen3-235b-a22b": 1e6,
    "granite-3.0-1b-a400m": 1e4,
    "granite-3.0-3b-a800m": 1e4,
    "glm-4.5": 1e6,
    "gpt-oss-20b": 1.5e5,
    "gpt-oss-120b": 1.5e5,
    "llama-4-scout": 5e5,
    "llama-4-maverick": 5e5,
    "deepseek-v2": 1e4,
    "deepseek-v3": 1e4,
    "kimi-k2": 5e4,
}
"""Rotary base of the bundled models whose attention is built; the bundled table itself does not carry the
key. Source: the ``rope_theta`` of each published checkpoint's config.json."""

_GPT_OSS_ROPE = {"rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                  "original_max_position_embeddings": 4096, "truncate": False}}
_DEEPSEEK_ROPE = {"type": "yarn", "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
                  "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}
BUNDLED_KEYS: dict[str, dict[str, Any]] = {
    "llama-4-scout": {"rope_scaling": {"rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0,
                                       "high_freq_factor": 1.0, "original_max_position_embeddings": 8192}},
    "glm-4.5": {"partial_rotary_factor": 0.5}, "gpt-oss-20b": _GPT_OSS_ROPE, "gpt-oss-120b": _GPT_OSS_ROPE,
    "gemma-3-27b": {"query_pre_attn_scalar": 168, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "deepseek-v2": {"rope_scaling": _DEEPSEEK_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    "deepseek-v3": {"rope_scaling": _DEEPSEEK_ROPE},
    "kimi-k2": {"rope_scaling": _DEEPSEEK_ROPE | {"factor": 32.0, "beta_fast": 1.0}},
}
"""Further keys that the bundled table does not carry, from the same files."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A checked model configuration. Sizes are elements; ``None`` means that the file does not give the
    field.

    ``source`` is what messages call the file, with the part of it that was read. ``raw`` is that part, for features
    this class does not type. ``expert_width`` is the intermediate size of one routed expert, whatever the family
    calls it. ``latent``: sizes of latent attention, by the names of `LatentAttentionLayer`. ``part``: the nested
    object that was read ("": the whole file). ``unknown``: keys that nothing here understands, as "key = value";
    ``ignored``: those taken as not mattering. ``quantization``: how the configuration says its checkpoint is stored,
    if it does.
    """

    name: str
    source: str
    model_type: str
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int | None
    head_dim: int | None
    num_hidden_layers: int | None = None
    intermediate_size: int | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 0
    expert_width: int | None = None
    norm_topk_prob: bool = False
    scoring: Scoring = SOFTMAX
    shared_width: int = 0
    rope: Rope = field(default_factory=Rope)
    norm_eps: float = 1e-6
    activation: str = "silu"
    mlp_biases: bool = False
    qk_norm: QkNorm = "none"
    biases: Biases = "none"
    tie_word_embeddings: bool = False
    softmax_scale: float | None = None
    logit_cap: float | None = None
    temperature: Temperature | None = None
    residual_scale: float = 1.0
    latent: Mapping[str, Any] | None = None
    part: str = ""
    unknown: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    quantization: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@cache
def _bundled() -> dict[str, dict[str, Any]]:
    text = resources.files("tilescore.compiler").joinpath("data/models.json").read_text(encoding="utf-8")
    return {name.lower(): entry for name, entry in json.loads(text).items()}


def list_models() -> tuple[str, ...]:
    """Names of the bundled models, in the order of the bundled table."""
    return tuple(_bundled())


def load_model(name_or_path: str | Path, ignore_keys: Sequence[str] = ()) -> ModelConfig:
    """A bundled model by name (``qwen3-30b-a3b``), or a config.json by path (the file, or its directory).

    ``ignore_keys``: keys to take as not mattering although they are not understood; ``rope_scaling.KEY`` for one
    inside an object. Raises WorkloadError when there is no such model or its family is not built and lacks sizes,
    ConfigError when the file is wrong or a key to ignore is not one that could be.
    """
    name = str(name_or_path)
    if name in _bundled():
        raw = dict(_bundled()[name])
        if name in BUNDLED_ROPE_THETA:
            raw.setdefault("rope_theta", BUNDLED_ROPE_THETA[name])
        raw = BUNDLED_KEYS.get(name, {}) | raw
        return parse_config(raw, name=name, source=f"bundled model {name}", ignore_keys=ignore_keys)
    path = config_file(name_or_path)
    if path is None:
        raise WorkloadError(f"unknown model {name!r}: {suggestion(name, list_models())}")
    raw, part = text_part(read_json_object(path), str(path))
    source = f"{path}: {part}" if part else str(path)
    return parse_config(raw, name=model_name(path), source=source, part=part, ignore_keys=ignore_keys)


def model_changes(text: str) -> dict[str, Any]:
    """{key: value} of ``KEY=VALUE+KEY=VALUE``; a value is JSON, or else a text. Raises `ConfigError`."""
    changes: dict[str, Any] = {}
    for part in text.split("+"):
        key, equals, value = part.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"{part!r}: expected KEY=VALUE, several with +")
        if key in changes:
            raise ConfigError(f"{key} is set twice")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return changes


def changed_model(model: ModelConfig, text: str) -> ModelConfig:
    """The model with keys of its configuration replaced (`model_changes`). Raises as `load_model`."""
    return parse_config({**model.raw, **model_changes(text)}, name=model.name, source=f"{model.source} with {text}",
                        part=model.part, ignore_keys=model.ignored)


def parse_config(raw: Mapping[str, Any], *, name: str, source: str, part: str = "",
                 ignore_keys: Sequence[str] = ()) -> ModelConfig:
    """Type and cross-check the content of a config.json. Raises as `load_model`, naming ``source``, key and value."""
    fields = ConfigFields(raw)
    family = fields.text("model_type")
    if family is None:
        if not fields.problems:
            fields.fail("model_type", 'the name of a model family, such as "llama"')
        raise ConfigError(f"{source}: {'; '.join(fields.problems)}")
    values = _values(fields, family)
    if family not in FAMILIES:
        if fields.problems:
            moe = f"; moe: {'; '.join(moe_blockers(raw, family))}" if has_experts(raw, family) else ""
            raise WorkloadError(f"{source}: attention: {'; '.join(attention_blockers(raw, family))}{moe}")
        return ModelConfig(name=name, source=source, part=part, raw=dict(raw), **values)
    unknown = {key: f"{key} = {_short(raw[key])}" for key in unknown_keys(raw, family, RULED_KEYS)}
    in_rope = values["rope"].unknown
    _check_ignored(source, ignore_keys, (*unknown, *in_rope))
    values["rope"] = values["rope"].without(ignore_keys)
    unknown = tuple(text for key, text in unknown.items() if key not in ignore_keys)
    if fields.problems:
        rest = attention_blockers(raw, family) + list(values["rope"].blockers)
        rest += moe_blockers(raw, family) if FAMILIES[family].experts else []
        rest += not_understood((*unknown, *values["rope"].unknown))
        raise ConfigError(f"{source}: {'; '.join(dict.fromkeys(fields.problems + rest))}")
    return ModelConfig(name=name, source=source, part=part, unknown=unknown, ignored=tuple(ignore_keys), raw=dict(raw),
                       **values)


def _values(fields: ConfigFields, family: str) -> dict[str, Any]:
    """The typed fields of `ModelConfig`; what is wrong with them is in ``fields.problems``."""
    hidden, heads = fields.required("hidden_size"), fields.required("num_attention_heads")
    built = FAMILIES.get(family, Family())
    dense = family in FAMILIES and not built.experts
    experts = 0 if dense else fields.agreed(EXPERT_COUNT_KEYS, low=0)
    width_key = built.width_key
    width = fields.integer(width_key)
    if experts and fields.raw.get(width_key) is None and built.experts:
        fields.fail(width_key, f"an integer from 1 to {MAX_SIZE}")
    eps = fields.number(built.eps_key)
    if fields.raw.get(built.eps_key) is None and built.qk_norm != "none":
        fields.fail(built.eps_key, "a positive finite number")
    # Where the attention is not built, what is wrong with it holds nothing else back.
    attention = fields if family in ATTENTION_FAMILIES else ConfigFields(fields.raw)
    latent = _latent(attention) if built.latent else None
    head_dim = latent.pop("head_dim") if latent else _head_dim(attention, built, hidden, heads)
    rope = read_rope(attention, family, latent["rope_dim"] if latent else head_dim)
    for key in SWITCHES:
        fields.boolean(key, False)
    for key in COUNTS:
        fields.integer(key, low=0, high=MAX_LENGTH)
    fields.texts("layer_types")
    return {
        "model_type": family,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads if latent else _kv_heads(attention, built, heads),
        "latent": latent,
        "head_dim": head_dim,
        "num_hidden_layers": fields.integer("num_hidden_layers"),
        "intermediate_size": fields.integer("intermediate_size"),
        "num_experts": experts,
        "num_experts_per_tok": 0 if dense else _top_k(fields, experts),
        "expert_width": width if experts else None,
        "norm_topk_prob": _norm_topk(fields, family, built),
        "scoring": read_scoring(fields, built, experts),
        "shared_width": read_shared_width(fields, built, width),
        "rope": rope,
        "norm_eps": eps or built.eps,
        "activation": _activation(fields, built),
        "mlp_biases": built.mlp_bias_key is not None and fields.boolean(built.mlp_bias_key, built.mlp_bias_default),
        "qk_norm": built.qk_norm if built.qk_norm_key is None or fields.boolean(
            built.qk_norm_key, built.qk_norm_default) else "none",
        "biases": built.biases if _biased(fields, built) else "none",
        "tie_word_embeddings": fields.boolean("tie_word_embeddings", False),
        "softmax_scale": _latent_scale(head_dim, rope) if latent else _softmax_scale(fields, built),
        "logit_cap": fields.number(SCORE_CAP) if SCORE_CAP in fields.raw else built.caps.get(SCORE_CAP),
        "temperature": _temperature(fields) if built.tempered else None,
        "residual_scale": (fields.number("residual_multiplier") or 1.0) if built.multipliers else 1.0,
        "quantization": _quantization(fields.raw),
    }


def _softmax_scale(fields: ConfigFields, family: Family) -> float | None:
    if family.scale_key is not None:
        number = fields.number(family.scale_key)
        if number is None and fields.raw.get(family.scale_key) is None:
            fields.fail(family.scale_key, "a positive finite number")
        return number**-0.5 if number else None
    return (fields.number("attention_multiplier") or 1.0) if family.multipliers else None


def _temperature(fields: ConfigFields) -> Temperature | None:
    """Of layers without rotary embedding, by the keys of Llama 4."""
    if not fields.boolean("attn_temperature_tuning", True):
        return None
    return Temperature(fields.number("attn_scale") or 0.1, fields.number("floor_scale") or 8192)


def _latent(fields: ConfigFields) -> dict[str, Any]:
    """Sizes of latent attention; ``head_dim``: of q and k."""
    kv_rank, nope, rope, value = (fields.required(key) for key in (
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    if rope is not None and rope % 2:
        fields.fail("qk_rope_head_dim", "an even number (rotary pairs)")
    return {"q_rank": fields.integer("q_lora_rank"), "kv_rank": kv_rank, "rope_dim": rope, "value_dim": value,
            "head_dim": nope + rope if nope is not None and rope is not None else None}


def _latent_scale(head_dim: int | None, rope: Rope) -> float | None:
    """1 / sqrt(head_dim) times the square of yarn's attention factor for all dimensions, as DeepSeek's layers have."""
    factor, everywhere = (getattr(rope.scaling, name, None) for name in ("factor", "mscale_all_dim"))
    if head_dim is None or not everywhere:
        return None
    return head_dim**-0.5 * ((0.1 * everywhere * math.log(factor) + 1) ** 2 if factor and factor > 1 else 1.0)


def _kv_heads(fields: ConfigFields, family: Family, heads: int | None) -> int | None:
    groups = fields.integer("num_key_value_heads")
    divisor = f"a divisor of num_attention_heads = {heads}"
    if fields.raw.get("num_key_value_heads") is None:
        if family.heads_for_kv:
            return heads
        fields.fail("num_key_value_heads", divisor)
    elif groups is not None and heads is not None and heads % groups:
        fields.fail("num_key_value_heads", divisor)
    return groups


def _head_dim(fields: ConfigFields, family: Family, hidden: int | None, heads: int | None) -> int | None:
    if fields.raw.get("head_dim") is not None:
        size = fields.integer("head_dim")
        if size is not None and size % 2:
            fields.fail("head_dim", "an even number (rotary pairs)")
        return size
    if family.head_dim_needed:
        fields.fail("head_dim", "an even number (rotary pairs)")
    if hidden is None or heads is None:
        return None
    if hidden % heads:
        fields.fail("hidden_size", f"a multiple of num_attention_heads = {heads} when head_dim is not given")
    elif hidden // heads % 2:
        fields.fail("hidden_size", f"an even multiple of num_attention_heads = {heads} when head_dim is not given")
    return hidden // heads


def _top_k(fields: ConfigFields, experts: int) -> int:
    top_k = fields.agreed(TOP_K_KEYS, low=1)
    key = next((key for key in TOP_K_KEYS if fields.raw.get(key) is not None), TOP_K_KEYS[0])
    if top_k > experts > 0:
        fields.fail(key, f"at most the {experts} experts")
    elif experts and fields.raw.get(key) is None:
        fields.fail(key, f"an integer from 1 to {experts}")
    return top_k


def _biased(fields: ConfigFields, family: Family) -> bool:
    """Have the projections the biases that the family knows?"""
    return family.bias_key is None or fields.boolean(family.bias_key, family.bias_default)


def _activation(fields: ConfigFields, family: Family) -> str:
    """In the names of `activation_names`; what is not built is a matter of its layer (`model_features`)."""
    for key in ("hidden_act", "hidden_activation"):
        fields.text(key)
    if family.clamped is not None:
        limit, alpha = (fields.number(key) or default for key, default in zip(
            ("swiglu_limit", "swiglu_alpha"), family.clamped, strict=True))
        return Clamped(limit, alpha).name
    name = activation_of(fields.raw)
    return HUGGING_FACE.get(name, "silu") if isinstance(name, str) else "silu"


def _norm_topk(fields: ConfigFields, family: str, built: Family) -> bool:
    if built.always_normalised:
        if not fields.boolean("norm_topk_prob", True):
            fields.fail("norm_topk_prob", f"true or absent (the {family} router always normalises)")
        return True
    return fields.boolean("norm_topk_prob", built.norm_default)


def _quantization(raw: Mapping[str, Any]) -> str | None:
    """The method that the configuration names for its checkpoint's weights."""
    stored = next((raw[key] for key in ("quantization_config", "quantization", "compression_config")
                   if raw.get(key)), None)
    method = stored.get("quant_method", stored.get("format")) if isinstance(stored, Mapping) else stored
    return None if stored is None else str(method or "of an unnamed method")[:40]


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check_ignored(source: str, ignored: Iterable[str], unknown: Sequence[str]) -> None:
    wrong = [key for key in ignored if key not in unknown]
    if wrong:
        raise ConfigError(f"--ignore-key {', '.join(wrong)}: {source} has no such key that is not understood "
                          f"(allowed: {', '.join(unknown) or 'none, every key is understood'})")
