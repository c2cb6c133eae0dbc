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
from .layer_patterns import FULL, SLIDING, window_of


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
    """One of ``layer_types`` that is not the kind of all layers."""
    kinds = layer_kinds(raw)
    alike = SLIDING if layer_window(raw) is not None and len(set(kinds)) == 1 else FULL
    return next((kind for kind in kinds if kind != alike), None)
