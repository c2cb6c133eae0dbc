"""The layers of a model by their index, and the distinct ones with their counts.

A layer of a mixture is read from its model *narrowed* to it: the configuration of a model all of whose layers are like
that one. So what reads a kind of layer (`models.LAYERS`) needs to know no patterns, and says itself what is not built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..rtl.spec.errors import WorkloadError
from .families import EXPERT_COUNT_KEYS, FAMILIES
from .layer_patterns import CHUNKED, DENSE, FULL, SLIDING, SPARSE, LayerKind, layer_kinds, pattern_keys
from .layer_readers import LAYERS
from .layers import OUTER, Layer
from .models import ModelConfig, parse_config

_FEED_FORWARDS = {"moe": SPARSE, "mlp": DENSE}
"""Kinds of layers that only some decoder layers may have: {kind: its feed-forward}."""


@dataclass(frozen=True, kw_only=True)
class ChosenLayer:
    """A layer of a model. index: of its decoder layer, of ``layers``; None where the layer belongs to none, or the
    configuration gives no number of layers. others: kinds of further decoder layers, with the first index and the
    number of each; empty where all are alike."""

    layer: Layer
    index: int | None
    layers: int | None = None
    kind: LayerKind | None = None
    others: tuple[tuple[LayerKind, int, int], ...] = ()

    def __str__(self) -> str:
        """For reports: which it is, and what else there is."""
        if self.index is None:
            return "-"
        text = f"{self.index} of {self.layers}"
        if not self.others:
            return text
        rest = "; ".join(f"{count} x {kind}, the first {index}" for kind, index, count in self.others)
        return f"{text} ({self.kind}); others: {rest}"


@dataclass(frozen=True, kw_only=True)
class DistinctLayers:
    """Decoder layers of one kind. indices: where they are."""

    kind: LayerKind
    indices: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.indices)


def model_layer_kinds(model: ModelConfig) -> tuple[LayerKind, ...]:
    """The kind of every decoder layer. Raises `ConfigError`, and `WorkloadError` where their number is not given."""
    if model.num_hidden_layers is None:
        raise WorkloadError(f"{model.source}: num_hidden_layers: missing; expected an integer from 1")
    return layer_kinds(model.raw, model.num_hidden_layers, experts=model.num_experts > 0, source=model.source)


def distinct_layers(model: ModelConfig) -> tuple[DistinctLayers, ...]:
    """The kinds of a model's decoder layers, in the order in which they first appear."""
    kinds = model_layer_kinds(model)
    return tuple(DistinctLayers(kind=kind, indices=tuple(i for i, other in enumerate(kinds) if other == kind))
                 for kind in dict.fromkeys(kinds))


def layer_of(model: ModelConfig, name: str, index: int | None = None) -> ChosenLayer:
    """Layer ``name`` (a key of `LAYERS`) of decoder layer ``index``; default: the first decoder layer that has one.

    Raises WorkloadError where there is no such layer, or it is not built, with every reason.
    """
    if name in OUTER:
        if index is not None:
            raise WorkloadError(f"{model.source}: layer index {index}: {name} is part of no decoder layer")
        return ChosenLayer(layer=LAYERS[name](model), index=None)
    if index is None and (model.num_hidden_layers is None or model.model_type not in FAMILIES):
        return ChosenLayer(layer=LAYERS[name](model), index=None)
    kinds = model_layer_kinds(model)
    wanted = _FEED_FORWARDS.get(name)
    fitting = [i for i, kind in enumerate(kinds) if wanted is None or kind.feed_forward == wanted]
    if index is None:
        index = fitting[0] if fitting else 0
    elif not 0 <= index < len(kinds):
        raise WorkloadError(f"{model.source}: layer index: expected an integer from 0 to {len(kinds) - 1}, got {index}")
    elif index not in fitting and fitting:
        raise WorkloadError(f"{model.source}: {name}: layer {index} is {kinds[index]}; layers with {name}: "
                            f"{ranges(fitting)}")
    kind, counts = kinds[index], Counter(kinds)
    others = tuple((other, kinds.index(other), count) for other, count in counts.items() if other != kind)
    try:
        layer = LAYERS[name](narrowed(model, kind))
    except WorkloadError as error:
        raise WorkloadError(f"{error}{_hint(model, name, index, others)}") from None
    return ChosenLayer(layer=layer, index=index, layers=len(kinds), kind=kind, others=others)


def _hint(model: ModelConfig, name: str, index: int, others: Iterable[tuple[LayerKind, int, int]]) -> str:
    """After an error about one layer of a mixture: which others are built."""
    built = []
    for kind, first, _ in others:
        try:
            LAYERS[name](narrowed(model, kind))
        except WorkloadError:
            continue
        built.append(f"--layer-index {first} ({kind})")
    return f" (layer {index} of a mixture; built: {', '.join(built)})" if built else ""


def narrowed(model: ModelConfig, kind: LayerKind) -> ModelConfig:
    """The configuration of a model all of whose layers are of this kind."""
    changes = {**_attention_changes(model, kind), **_feed_forward_changes(model, kind)}
    if not changes:
        return model
    return parse_config({**model.raw, **changes}, name=model.name, source=model.source, part=model.part,
                        ignore_keys=model.ignored)


def _attention_changes(model: ModelConfig, kind: LayerKind) -> dict[str, Any]:
    raw, layers = model.raw, model.num_hidden_layers or 1
    changes: dict[str, Any] = {}
    if set(model_layer_kinds(model)) != {kind} or raw.get("layer_types"):
        changes["layer_types"] = [kind.attention] * layers
    if raw.get("layer_types_counts"):
        changes |= {"layer_types": [kind.attention] * layers, "layer_types_counts": None}
    if kind.attention == FULL:
        changes["sliding_window"] = None
    if kind.attention == SLIDING and raw.get("use_sliding_window") is not None:
        changes["use_sliding_window"] = True
    if kind.attention != CHUNKED:
        changes["attention_chunk_size"] = None
    if "no_rope_layers" in pattern_keys(model.model_type):
        changes["no_rope_layers"] = [int(kind.rotary)] * layers
    default = {"sliding_window": 0} if model.model_type == "mistral" else {}
    return {key: value for key, value in changes.items() if raw.get(key, default.get(key)) != value}


def _feed_forward_changes(model: ModelConfig, kind: LayerKind) -> dict[str, Any]:
    raw, layers = model.raw, model.num_hidden_layers or 1
    changes: dict[str, Any] = {}
    for key in ("mlp_layer_types", "mlp_layer_types_counts"):
        if raw.get(key):
            changes[key] = None if key.endswith("counts") else [kind.feed_forward] * layers
    if kind.feed_forward == DENSE and model.num_experts:
        changes |= {key: 0 for key in EXPERT_COUNT_KEYS if raw.get(key)}
        if raw.get("intermediate_size_mlp"):
            changes["intermediate_size"] = raw["intermediate_size_mlp"]
    return changes


def ranges(indices: Sequence[int]) -> str:
    """``0, 3 to 60`` for ascending indices."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    return ", ".join(" to ".join(map(str, run)) for run in runs)
