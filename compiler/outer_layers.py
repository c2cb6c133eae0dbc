"""What a model has around its decoder layers, read from its configuration: embedding, and final norm with LM head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rtl.spec.errors import WorkloadError
from .layers import EmbeddingLayer, HeadLayer, NormLayer

_GEMMA = ("gemma", "gemma2", "gemma3_text", "gemma4_text")
_TIED = (*_GEMMA, "cohere", "cohere2", "starcoder2", "smollm3")
"""Families whose class ties the head to the embedding where ``tie_word_embeddings`` is missing."""
_CAP = "final_logit_softcapping"


def embedding_layer(raw: Mapping[str, Any], source: str, norm: NormLayer) -> EmbeddingLayer:
    """The gather of token rows: times ``embedding_multiplier`` (Granite), or the root of the width (Gemma). Raises
    WorkloadError naming ``source`` and key."""
    scale = norm.hidden**0.5 if raw.get("model_type") in _GEMMA else _number(raw, "embedding_multiplier", source)
    return EmbeddingLayer(model=norm.model, hidden=norm.hidden, vocab=_vocab(raw, source, "embedding"), scale=scale)


def head_layer(raw: Mapping[str, Any], source: str, norm: NormLayer) -> HeadLayer:
    """Final norm and LM head; logits over ``logits_scaling`` (Granite), times ``logit_scale`` (Cohere). Raises as
    `embedding_layer`."""
    if raw.get(_CAP):
        raise WorkloadError(f"{source}: head: {_CAP} = {raw[_CAP]!r} needs capped logits, which is not built yet "
                            "(allowed: null)")
    scale = _number(raw, "logit_scale", source) / _number(raw, "logits_scaling", source)
    tied = raw.get("tie_word_embeddings")
    return HeadLayer(norm=norm, vocab=_vocab(raw, source, "head"), scale=scale,
                     tied=raw.get("model_type") in _TIED if tied is None else bool(tied))


def _vocab(raw: Mapping[str, Any], source: str, layer: str) -> int:
    size = raw.get("vocab_size")
    if size is None:
        raise WorkloadError(f"{source}: {layer}: vocab_size: missing; expected a positive integer")
    return size


def _number(raw: Mapping[str, Any], key: str, source: str) -> float:
    """A multiplier, 1 where there is none."""
    value = raw.get(key)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise WorkloadError(f"{source}: {key}: expected a positive finite number, got {repr(value)[:60]}")
    return float(value)
