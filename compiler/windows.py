"""The window of a model's layers, from its config.json: where it stands, what switches it on, and for which layers.

Families differ (transformers 5), see `families.Window`: Mistral, Mixtral and PhiMoE have one in every layer unless
``sliding_window`` is null, which Mistral's class does not assume; the Qwen families carry a size that
``use_sliding_window`` switches on, for every layer of Qwen3-MoE, and for those from ``max_window_layers`` on of Qwen2
and Qwen3; ``layer_types`` says which layers have it where the class reads that list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import FAMILIES, Window
from .layer_patterns import CHUNKED, FULL, ROTARY_PATTERNS, SLIDING, LayerKind, window_of
from .layer_patterns import layer_kinds as kinds_of_layers


def _family(raw: Mapping[str, Any]) -> Window | None:
    return FAMILIES[raw["model_type"]].window if raw.get("model_type") in FAMILIES else None


def layer_kinds(raw: Mapping[str, Any]) -> list[Any]:
    """The kinds of layers that ``layer_types``, or the bundled table's count by kind, name."""
    kinds = raw.get("layer_types") or raw.get("layer_types_counts") or ()
    return list(kinds) if isinstance(kinds, list | tuple | Mapping) else [kinds]


def layer_window(raw: Mapping[str, Any]) -> int | None:
    """The window of every layer; None without. What differs from layer to layer, or that the family does not have, is
    for the rules to refuse (`model_features`)."""
    family = _family(raw)
    if family is None or (size := window_of(raw)) is None:
        return None
    if not family.by_layer:
        return size
    if kinds := layer_kinds(raw):
        return size if set(kinds) == {SLIDING} else None
    layers, full = raw.get("num_hidden_layers"), raw.get("max_window_layers", family.first_layers)
    return None if family.first_layers is not None and layers is not None and layers <= full else size


def _kinds(raw: Mapping[str, Any]) -> set[LayerKind]:
    """Of all layers."""
    layers = raw.get("num_hidden_layers") or 1
    return set(kinds_of_layers(raw, layers, experts=False, source=str(raw.get("model_type"))))


def layer_chunk(raw: Mapping[str, Any]) -> int | None:
    """The chunk of every layer; None without, and where only some have it."""
    default = FAMILIES[raw["model_type"]].chunk if raw.get("model_type") in FAMILIES else None
    if default is None or {kind.attention for kind in _kinds(raw)} != {CHUNKED}:
        return None
    return raw.get("attention_chunk_size", default)


def other_chunk(raw: Mapping[str, Any]) -> Any:
    """The size where the family has no chunks, or some layers only."""
    known = raw.get("model_type") in FAMILIES and FAMILIES[raw["model_type"]].chunk
    if not known:
        return raw.get("attention_chunk_size") or None
    kinds = {kind.attention for kind in _kinds(raw)}
    return raw.get("attention_chunk_size", known) if CHUNKED in kinds and len(kinds) > 1 else None


def rotated(raw: Mapping[str, Any]) -> bool:
    """Are queries and keys of every layer?"""
    return raw.get("model_type") not in ROTARY_PATTERNS or all(kind.rotary for kind in _kinds(raw))


def rotated_in_some(raw: Mapping[str, Any]) -> Any:
    """What says so where that differs from layer to layer."""
    if raw.get("model_type") not in ROTARY_PATTERNS or len({kind.rotary for kind in _kinds(raw)}) == 1:
        return None
    return raw.get("no_rope_layers") or "some"


def window_of_some(raw: Mapping[str, Any]) -> Any:
    """The size where, without ``layer_types``, only some layers may have it."""
    family = _family(raw)
    if family is None or not family.by_layer or layer_kinds(raw):
        return None
    every = family.first_layers is not None and raw.get("max_window_layers", family.first_layers) == 0
    return None if every else layer_window(raw)


def window_of_none(raw: Mapping[str, Any]) -> Any:
    """The size where a family that is built has no windows."""
    return window_of(raw) if raw.get("model_type") in FAMILIES and _family(raw) is None else None


def empty_window(raw: Mapping[str, Any]) -> Any:
    """0, of which a query would see no key."""
    return 0 if layer_window(raw) == 0 else None


def other_kind(raw: Mapping[str, Any]) -> Any:
    """One of ``layer_types`` that is not the kind of all layers; of a family that is not built, that none has."""
    kinds = layer_kinds(raw)
    if raw.get("model_type") not in FAMILIES:
        return next((kind for kind in kinds if kind not in (FULL, SLIDING, CHUNKED)), None)
    alike = SLIDING if layer_window(raw) is not None and len(set(kinds)) == 1 else FULL
    alike = CHUNKED if layer_chunk(raw) is not None else alike
    return next((kind for kind in kinds if kind != alike), None)
