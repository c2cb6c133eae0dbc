"""Which layer of a model is of which kind, as its config.json says: attention, feed-forward, rotary or not.

A list by layer (``layer_types``, ``mlp_layer_types``) decides wherever there is one. Older spellings, and what a family
means when it says nothing, are rules of families; each is what the family's class in transformers 5 does, against which
the tests hold it. Names of kinds are transformers' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ..rtl.spec.errors import ConfigError
from .families import FAMILIES

Raw = Mapping[str, Any]

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
LINEAR, INDEXED = "linear_attention", "indexed_attention"
DENSE, SPARSE = "dense", "sparse"


class LayerKind(NamedTuple):
    """Of one decoder layer. rotary: its queries and keys are rotated."""

    attention: str
    feed_forward: str
    rotary: bool = True

    def __str__(self) -> str:
        return f"{self.attention}{'' if self.rotary else ' without rotary embedding'}, {self.feed_forward}"


class Pattern(NamedTuple):
    """A rule of a family. keys: those it reads; kind: of layer ``i`` of ``layers``."""

    keys: tuple[str, ...]
    kind: Callable[[Raw, int, int], Any]


def _every(default: int, other: str, key: str | None = None) -> Pattern:
    """Full attention in every n-th layer, another kind in the others."""
    def kind(raw: Raw, i: int, _: int) -> str:
        step = _positive(raw, key, default) if key else default
        return other if (i + 1) % step else FULL
    return Pattern((key,) if key else (), kind)


def window_of(raw: Raw) -> int | None:
    """The window of a model's sliding layers, None where it has none: as `families.Window` says, or, of a family
    without one, the size where no switch says false. Qwen and SmolLM3 carry a size that ``use_sliding_window: false``,
    their class default, switches off."""
    family = str(raw.get("model_type", ""))
    window = FAMILIES[family].window if family in FAMILIES else None
    switched = family.startswith(("qwen", "smollm3")) if window is None else window.switched
    if not raw.get("use_sliding_window", not switched):
        return None
    return raw.get("sliding_window", window.default if window is not None else None)


def _all_sliding(raw: Raw, i: int, layers: int) -> str:
    return SLIDING if window_of(raw) else FULL


def _late_window(default: int) -> Pattern:
    """Windows from layer ``max_window_layers`` on."""
    return Pattern(("max_window_layers",), lambda raw, i, _: SLIDING if window_of(raw) and i >= _integer(
        raw, "max_window_layers", default) else FULL)


def _early_window(raw: Raw, i: int, _: int) -> str:
    early = (i + 1) % 2 and i < _integer(raw, "max_window_layers", 28)
    return SLIDING if window_of(raw) and early else FULL


def _rotated(raw: Raw, i: int, layers: int) -> bool:
    """Llama 4 and SmolLM3: ``no_rope_layers`` has a 1 for every layer *with* rotary embedding."""
    listed = raw.get("no_rope_layers")
    if listed:
        return bool(_listed(raw, "no_rope_layers", layers)[i])
    return bool((i + 1) % _positive(raw, "no_rope_layer_interval", 4))


def _smollm3(raw: Raw, i: int, layers: int) -> str:
    return SLIDING if window_of(raw) and not _rotated(raw, i, layers) else FULL


def _first_dense(default: int) -> Pattern:
    """Dense layers before ``first_k_dense_replace``; behind it a sparse one in every ``moe_layer_freq``."""
    def kind(raw: Raw, i: int, layers: int) -> str:
        frequency = raw.get("moe_layer_freq", 1)
        chosen = (bool(_listed(raw, "moe_layer_freq", layers)[i]) if isinstance(frequency, list | tuple)
                  else i % _positive(raw, "moe_layer_freq", 1) == 0)
        return SPARSE if i >= _integer(raw, "first_k_dense_replace", default) and chosen else DENSE
    return Pattern(("first_k_dense_replace", "moe_layer_freq"), kind)


def _step(raw: Raw, i: int, layers: int) -> str:
    if i in _indices(raw, "mlp_only_layers"):
        return DENSE
    return DENSE if (i + 1) % _positive(raw, "decoder_sparse_step", 1) else SPARSE


def _interleaved(raw: Raw, i: int, layers: int) -> str:
    if raw.get("moe_layers") is not None:
        return SPARSE if i in _indices(raw, "moe_layers") else DENSE
    return DENSE if (i + 1) % _positive(raw, "interleave_moe_layer_step", 1) else SPARSE


def _range(raw: Raw, i: int, layers: int) -> str:
    last = _integer(raw, "moe_layer_end_index", -1)
    inside = _integer(raw, "moe_layer_start_index", 1) <= i <= (layers - 1 if last == -1 else last)
    return SPARSE if inside and (i + 1) % _positive(raw, "moe_layer_interval", 1) == 0 else DENSE


_QWEN_STEP = Pattern(("mlp_only_layers", "decoder_sparse_step"), _step)
_ROPE_KEYS = ("no_rope_layers", "no_rope_layer_interval")
_WINDOW = Pattern((), _all_sliding)

ATTENTION_PATTERNS: Mapping[str, Pattern] = {
    "gpt_oss": _every(2, SLIDING), "gemma2": _every(2, SLIDING), "olmo3": _every(4, SLIDING),
    "gemma3_text": _every(6, SLIDING, "sliding_window_pattern"), "gemma4_text": _every(6, SLIDING),
    "cohere2": _every(4, SLIDING, "sliding_window_pattern"),
    "qwen3_next": _every(4, LINEAR, "full_attention_interval"),
    "qwen3_5_text": _every(4, LINEAR, "full_attention_interval"),
    "qwen3_5_moe_text": _every(4, LINEAR, "full_attention_interval"),
    "qwen2": _late_window(28), "qwen3": _late_window(28), "dots1": _late_window(62),
    "qwen2_moe": Pattern(("max_window_layers",), _early_window),
    "llama4_text": Pattern(_ROPE_KEYS, lambda raw, i, layers: CHUNKED if _rotated(raw, i, layers) else FULL),
    "smollm3": Pattern(_ROPE_KEYS, _smollm3),
    "deepseek_v32": Pattern((), lambda *_: INDEXED), "glm_moe_dsa": Pattern((), lambda *_: INDEXED),
}
"""Of families with something else than one kind of attention in all layers."""

ROTARY_PATTERNS: Mapping[str, Callable[[Raw, int, int, str], bool]] = {
    **dict.fromkeys(("llama4_text", "smollm3"), lambda raw, i, layers, _: _rotated(raw, i, layers)),
    "cohere2": lambda raw, i, layers, kind: kind == SLIDING,
}
"""Of families that rotate queries and keys in some layers only: of layer ``i`` of ``layers``, of this attention."""

FEED_FORWARD_PATTERNS: Mapping[str, Pattern] = {
    "qwen2_moe": _QWEN_STEP, "qwen3_moe": _QWEN_STEP, "qwen3_next": _QWEN_STEP,
    "deepseek_v2": _first_dense(0), "deepseek_v3": _first_dense(3), "kimi_k2": _first_dense(3),
    "deepseek_v32": _first_dense(3), "glm_moe_dsa": _first_dense(3), "glm4_moe": _first_dense(1),
    "dots1": _first_dense(0),
    "llama4_text": Pattern(("interleave_moe_layer_step", "moe_layers"), _interleaved),
    "ernie4_5_moe": Pattern(("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"), _range),
    "afmoe": Pattern(("num_dense_layers",), lambda raw, i, _: SPARSE if i >= _integer(raw, "num_dense_layers", 1)
                     else DENSE),
}
"""Of families with experts in some layers only."""

_NO_PATTERN = Pattern((), lambda *_: None)
_COUNTS = frozenset({"layer_types_counts", "mlp_layer_types_counts"})


def pattern_keys(family: str) -> frozenset[str]:
    """Keys that say which layer of the family is of which kind, beside ``layer_types`` and ``mlp_layer_types``."""
    tables = (ATTENTION_PATTERNS, FEED_FORWARD_PATTERNS)
    return _COUNTS | {key for table in tables for key in table.get(family, _NO_PATTERN).keys}


def layer_kinds(raw: Raw, layers: int, *, experts: bool, source: str) -> tuple[LayerKind, ...]:
    """The kind of every decoder layer. experts: the model has any. Raises `ConfigError` naming ``source`` and key."""
    family = str(raw.get("model_type", ""))
    try:
        attention = _attention(raw, family, layers)
        feed_forward = _feed_forward(raw, family, layers) if experts else [DENSE] * layers
        rotates = ROTARY_PATTERNS.get(family, lambda *_: True)
        rotary = [rotates(raw, i, layers, kind) for i, kind in enumerate(attention)]
        for key, found in (("layer_types", attention), ("mlp_layer_types", feed_forward)):
            _check_counts(raw, key, found)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    return tuple(map(LayerKind, attention, feed_forward, rotary))


def _attention(raw: Raw, family: str, layers: int) -> list[str]:
    if raw.get("layer_types"):
        return [str(kind) for kind in _listed(raw, "layer_types", layers)]
    return [ATTENTION_PATTERNS.get(family, _WINDOW).kind(raw, i, layers) for i in range(layers)]


def _feed_forward(raw: Raw, family: str, layers: int) -> list[str]:
    if raw.get("mlp_layer_types"):
        return [SPARSE if kind == "moe" else str(kind) for kind in _listed(raw, "mlp_layer_types", layers)]
    pattern = FEED_FORWARD_PATTERNS.get(family)
    return [pattern.kind(raw, i, layers) if pattern else SPARSE for i in range(layers)]


def _check_counts(raw: Raw, key: str, found: Sequence[str]) -> None:
    """Counts by kind, which the bundled table has in place of lists, must be those of the family's rule."""
    counts = raw.get(f"{key}_counts")
    if not counts:
        return
    if Counter(found) != {SPARSE if kind == "moe" else kind: count for kind, count in counts.items()}:
        raise ConfigError(f"{key}: missing, expected the kind of each of the {len(found)} layers, since only their "
                          f"counts are known: {', '.join(f'{count} {kind}' for kind, count in (counts or {}).items())}")


def _integer(raw: Raw, key: str, default: int, low: int = -1) -> int:
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{key}: expected an integer of at least {low}, got {repr(value)[:60]}")
    return value


def _positive(raw: Raw, key: str, default: int) -> int:
    return _integer(raw, key, default, 1)


def _indices(raw: Raw, key: str) -> Sequence[int]:
    value = raw.get(key) or ()
    if not isinstance(value, list | tuple) or not all(type(i) is int for i in value):
        raise ConfigError(f"{key}: expected a list of layer indices, got {repr(value)[:60]}")
    return value


def _listed(raw: Raw, key: str, layers: int) -> Sequence[Any]:
    value = raw[key]
    if not isinstance(value, list | tuple) or len(value) != layers:
        found = f"{len(value)}" if isinstance(value, list | tuple) else repr(value)[:60]
        raise ConfigError(f"{key}: expected one entry for each of the {layers} layers, got {found}")
    return value
