"""What a model has around its decoder layers, read from its configuration: embedding, and final norm with LM head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rtl.spec.errors import WorkloadError
from .families import FAMILIES, LOGIT_CAP
from .layers import EmbeddingLayer, HeadLayer, NormLayer

_GEMMA = ("gemma", "gemma2", "gemma3_text", "gemma4_text")
_TIED = (*_GEMMA, "cohere", "cohere2", "starcoder2", "smollm3")
"""Families whose class ties the head to the embedding where ``tie_word_embeddings`` is missing."""
_SCALES = {"cohere": 0.0625, "cohere2": 0.0625}
"""What a missing ``logit_scale`` means."""


def embedding_layer(raw: Mapping[str, Any], source: str, norm: NormLayer) -> EmbeddingLayer:
    """The gather of token rows: times ``embedding_multiplier`` (Granite), or the root of the width (Gemma). Raises
    WorkloadError naming ``source`` and key."""
    scale = norm.hidden**0.5 if raw.get("model_type") in _GEMMA else _number(raw, "embedding_multiplier", source)
    return EmbeddingLayer(model=norm.model, hidden=norm.hidden, vocab=_vocab(raw, source, "embedding"), scale=scale)


def head_layer(raw: Mapping[str, Any], source: str, norm: NormLayer) -> HeadLayer:
    """Final norm and LM head; logits over ``logits_scaling`` (Granite), times ``logit_scale`` (Cohere), with
    ``final_logit_softcapping`` (Gemma) and ``lm_head_bias`` (Phi-3.5-MoE). Raises as `embedding_layer`."""
    family = str(raw.get("model_type"))
    caps = FAMILIES[family].caps if family in FAMILIES else {}
    if LOGIT_CAP not in caps and raw.get(LOGIT_CAP):
        raise WorkloadError(f"{source}: head: {LOGIT_CAP} = {raw[LOGIT_CAP]!r} needs capped logits, which its family "
                            "does not have (allowed: null)")
    capped = LOGIT_CAP in caps and raw.get(LOGIT_CAP, caps[LOGIT_CAP]) is not None
    scale = _number(raw, "logit_scale", source, _SCALES.get(family, 1.0)) / _number(raw, "logits_scaling", source)
    tied = raw.get("tie_word_embeddings")
    return HeadLayer(norm=norm, vocab=_vocab(raw, source, "head"), scale=scale,
                     logit_cap=_number(raw, LOGIT_CAP, source, caps[LOGIT_CAP] or 1.0) if capped else None,
                     bias=family == "phimoe" and bool(raw.get("lm_head_bias")),
                     tied=family in _TIED if tied is None else bool(tied))


def _vocab(raw: Mapping[str, Any], source: str, layer: str) -> int:
    size = raw.get("vocab_size")
    if size is None:
        raise WorkloadError(f"{source}: {layer}: vocab_size: missing; expected a positive integer")
    return size


def _number(raw: Mapping[str, Any], key: str, source: str, missing: float = 1.0) -> float:
    """A multiplier, or a cap; ``missing``, where there is none."""
    value = raw.get(key)
    if value is None:
        return missing
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise WorkloadError(f"{source}: {key}: expected a positive finite number, got {repr(value)[:60]}")
    return float(value)
