"""Model configurations: a Hugging Face ``config.json``, bundled or on disk, checked and typed.

Two stages, so that an architect can list a model whose layers are not built yet:

1. ``load_model`` reads, types and cross-checks the fields. Anything wrong in the file is a ``ConfigError``.
2. ``attention_layer`` and ``moe_layer`` turn the model into a layer description, or say in a
``WorkloadError``
   which key asks for a feature that is not built (``model_features`` holds the rules).

Field names differ by family: experts are counted by ``num_experts``, ``num_local_experts`` or
``n_routed_experts`` (all that are present must agree); an expert's width is ``moe_intermediate_size``, but
``intermediate_size`` in Mixtral, OLMoE and Granite. Class defaults of ``transformers`` are *not* assumed for
sizes, since they often belong to another checkpoint (``OlmoeConfig.intermediate_size`` is 2,048 where
OLMoE-1B-7B has 1,024).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..rtl.errors import ConfigError, WorkloadError, did_you_mean
from .config_fields import MAX_SIZE, ConfigFields
from .layers import AttentionLayer, MoELayer, QkNorm
from .model_features import MOE_FAMILIES, attention_blocker, moe_blocker

EXPERT_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
TOP_K_KEYS = ("num_experts_per_tok", "top_k_experts")
EXPERT_WIDTH_IN_INTERMEDIATE_SIZE = ("mixtral", "olmoe", "granitemoe")
ALWAYS_NORMALISED = ("mixtral", "granitemoe")
"""Families without ``norm_topk_prob``: Mixtral divides by the sum; Granite's softmax over the chosen logits
equals it."""

QK_NORM: dict[str, QkNorm] = {"qwen3": "head", "qwen3_moe": "head", "olmoe": "full"}
KV_HEADS_DEFAULT_TO_HEADS = ("llama", "olmoe", "granite", "granitemoe")
"""Families whose ``transformers`` class reads a missing ``num_key_value_heads`` as multi-head attention."""

CLASS_ROPE_THETA = {"llama": 1e4, "olmoe": 1e4, "granite": 1e4, "granitemoe": 1e4}
"""Families whose older checkpoints leave ``rope_theta`` out, meaning the class default (Llama-2, for one)."""

BUNDLED_ROPE_THETA = {
    "llama-3-8b": 5e5,
    "llama-3-70b": 5e5,
    "mixtral-8x7b": 1e6,
    "olmoe-1b-7b": 1e4,
    "qwen3-30b-a3b": 1e6,
    "qwen3-235b-a22b": 1e6,
    "granite-3.0-1b-a400m": 1e4,
    "granite-3.0-3b-a800m": 1e4,
}
"""Rotary base of the bundled models whose attention is built; the bundled table itself does not carry the
key. Source: the ``rope_theta`` of each published checkpoint's config.json."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A checked model configuration. Sizes are elements; ``None`` means that the file does not give the
    field.

    ``source`` is what messages call the file. ``raw`` is the file's content, for features this class does not
    type. ``expert_width`` is the intermediate size of one routed expert, whatever the family calls it.
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
    rope_theta: float | None = None
    rms_norm_eps: float | None = None
    hidden_act: str = "silu"
    qk_norm: QkNorm = "none"
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    softmax_scale: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        experts, top_k = self.num_experts, self.num_experts_per_tok
        if groups is not None and heads % groups:
            raise self._error(
                "num_key_value_heads", f"expected a divisor of num_attention_heads = {heads}, got {groups}"
            )
        if self.head_dim is not None and self.head_dim % 2:
            raise self._error("head_dim", f"expected an even number (rotary pairs), got {self.head_dim}")
        if experts and not top_k:
            raise self._error("num_experts_per_tok", f"missing; expected an integer from 1 to {experts}")
        if top_k > experts > 0:
            raise self._error("num_experts_per_tok", f"expected at most the {experts} experts, got {top_k}")

    def _error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.source}: {key}: {problem}")


@cache
def _bundled() -> dict[str, dict[str, Any]]:
    text = resources.files("tilescore.compiler").joinpath("data/models.json").read_text(encoding="utf-8")
    return {name.lower(): entry for name, entry in json.loads(text).items()}


def list_models() -> tuple[str, ...]:
    """Names of the bundled models, in the order of the bundled table."""
    return tuple(_bundled())


def load_model(name_or_path: str | Path) -> ModelConfig:
    """A bundled model by name (``qwen3-30b-a3b``), or a config.json by path (the file, or its directory).

    Raises WorkloadError when there is neither, ConfigError when the file is wrong.
    """
    name = str(name_or_path)
    if name in _bundled():
        raw = dict(_bundled()[name])
        if name in BUNDLED_ROPE_THETA:
            raw.setdefault("rope_theta", BUNDLED_ROPE_THETA[name])
        return parse_config(raw, name=name, source=f"bundled model {name}")
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise WorkloadError(f"{path}: no such file; a model directory must hold a config.json")
    if not path.is_file():
        raise WorkloadError(f"unknown model {name!r}: {_suggestion(name)}")
    return parse_config(_read_json(path), name=path.resolve().parent.name or path.stem, source=str(path))


def _suggestion(name: str) -> str:
    allowed = list_models()
    return f"expected a path to a config.json or one of {', '.join(allowed)}{did_you_mean(name, allowed)}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON: line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not a model configuration: nested too deeply") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    if "hidden_size" not in raw and isinstance(raw.get("text_config"), dict):
        return raw["text_config"]
    return raw


def parse_config(raw: Mapping[str, Any], *, name: str, source: str) -> ModelConfig:
    """Type and cross-check the content of a config.json. Raises ConfigError naming ``source``, key and
    value."""
    fields = ConfigFields(raw, source)
    family = fields.text("model_type")
    if family is None:
        raise fields.fail("model_type", 'the name of a model family, such as "llama"')
    hidden, heads = fields.required("hidden_size"), fields.required("num_attention_heads")
    experts = fields.agreed(EXPERT_COUNT_KEYS, low=0)
    width_key = (
        "intermediate_size" if family in EXPERT_WIDTH_IN_INTERMEDIATE_SIZE else "moe_intermediate_size"
    )
    width = fields.integer(width_key)
    if experts and width is None and family in MOE_FAMILIES:
        raise fields.fail(width_key, f"an integer from 1 to {MAX_SIZE}")
    eps = fields.number("rms_norm_eps")
    if eps is None and family in QK_NORM:
        raise fields.fail("rms_norm_eps", "a positive finite number")
    granite = family in ("granite", "granitemoe")
    return ModelConfig(
        name=name,
        source=source,
        model_type=family,
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=_kv_heads(fields, family, heads),
        head_dim=_head_dim(fields, hidden, heads),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        intermediate_size=fields.integer("intermediate_size"),
        num_experts=experts,
        num_experts_per_tok=fields.agreed(TOP_K_KEYS, low=1),
        expert_width=width if experts else None,
        norm_topk_prob=_norm_topk(fields, family),
        rope_theta=_rope_theta(fields, family),
        rms_norm_eps=eps,
        hidden_act=fields.text("hidden_act") or fields.text("hidden_activation") or "silu",
        qk_norm=QK_NORM.get(family, "none"),
        attention_bias=fields.boolean("attention_bias", False),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        softmax_scale=(fields.number("attention_multiplier") or 1.0) if granite else None,
        raw=dict(raw),
    )


def _kv_heads(fields: ConfigFields, family: str, heads: int) -> int | None:
    groups = fields.integer("num_key_value_heads")
    if groups is None and fields.raw.get("num_key_value_heads") is None:
        if family not in KV_HEADS_DEFAULT_TO_HEADS:
            raise fields.fail("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
        return heads
    return groups


def _head_dim(fields: ConfigFields, hidden: int, heads: int) -> int | None:
    if fields.raw.get("head_dim") is not None:
        return fields.integer("head_dim")
    if hidden % heads:
        raise ConfigError(
            f"{fields.source}: hidden_size: expected a multiple of num_attention_heads = {heads} "
            f"when head_dim is not given, got {hidden}"
        )
    return hidden // heads


def _norm_topk(fields: ConfigFields, family: str) -> bool:
    if family in ALWAYS_NORMALISED:
        if not fields.boolean("norm_topk_prob", True):
            raise fields.fail("norm_topk_prob", f"true or absent (the {family} router always normalises)")
        return True
    return fields.boolean("norm_topk_prob", False)


def _rope_theta(fields: ConfigFields, family: str) -> float | None:
    """``rope_theta``, or the same key inside ``rope_parameters`` (transformers 5); both must agree."""
    theta = fields.number("rope_theta")
    nested = fields.raw.get("rope_parameters")
    if nested is not None and not isinstance(nested, Mapping):
        raise fields.fail("rope_parameters", "an object")
    if nested and "rope_theta" in nested:
        inner = ConfigFields(nested, f"{fields.source}: rope_parameters").number("rope_theta")
        if theta is not None and inner is not None and theta != inner:
            raise ConfigError(
                f"{fields.source}: contradictory fields: rope_theta = {theta:g}, "
                f"rope_parameters.rope_theta = {inner:g}; expected one value"
            )
        theta = inner if theta is None else theta
    return CLASS_ROPE_THETA.get(family) if theta is None else theta


def attention_layer(model: ModelConfig) -> AttentionLayer:
    """The model's full attention layer. Raises WorkloadError naming the key that asks for something not
    built."""
    if (blocker := attention_blocker(model.raw, model.model_type)) is not None:
        raise WorkloadError(f"{model.source}: attention: {blocker}")
    if model.rope_theta is None:
        raise WorkloadError(f"{model.source}: attention: rope_theta: missing; expected a positive number")
    if model.num_key_value_heads is None or model.head_dim is None:
        raise WorkloadError(f"{model.source}: attention: head_dim, num_key_value_heads: expected integers")
    return AttentionLayer(
        model=model.name,
        hidden=model.hidden_size,
        heads=model.num_attention_heads,
        kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        rope_theta=model.rope_theta,
        qk_norm=model.qk_norm,
        norm_eps=model.rms_norm_eps or 1e-6,
        softmax_scale=model.softmax_scale,
    )


def moe_layer(model: ModelConfig) -> MoELayer:
    """The model's sparse MoE layer. Raises WorkloadError naming the key that asks for something not built."""
    if not model.num_experts:
        keys = ", ".join(EXPERT_COUNT_KEYS)
        raise WorkloadError(f"{model.source}: moe: the model has no experts; expected one of the keys {keys}")
    if (blocker := moe_blocker(model.raw, model.model_type)) is not None:
        raise WorkloadError(f"{model.source}: moe: {blocker}")
    if model.expert_width is None:
        raise WorkloadError(
            f"{model.source}: moe: moe_intermediate_size: missing; expected a positive integer"
        )
    return MoELayer(
        model=model.name,
        hidden=model.hidden_size,
        experts=model.num_experts,
        top_k=model.num_experts_per_tok,
        intermediate=model.expert_width,
        norm_topk=model.norm_topk_prob,
    )
