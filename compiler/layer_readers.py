"""Layers of a checked model configuration: each kind is described, or refused with every reason.

A `WorkloadError` says which keys ask for a feature that is not built (`model_features`) and which are not understood
(`model_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..rtl.spec.errors import WorkloadError
from . import outer_layers
from .families import EXPERT_COUNT_KEYS, FAMILIES, Family
from .feed_forward import MlpLayer, MoELayer
from .latent import LatentAttentionLayer
from .layers import AttentionLayer, DecoderLayer, EmbeddingLayer, HeadLayer, Layer, NormLayer
from .model_features import attention_blockers, mlp_blockers, moe_blockers
from .model_keys import family_problem, not_understood
from .models import ModelConfig
from .windows import layer_chunk, layer_window, rotated

LATENT_EPS = 1e-6
"""Of the norms of latents, whatever ``rms_norm_eps``: ``transformers`` gives it to the other norms only."""


def attention_layer(model: ModelConfig) -> AttentionLayer:
    """The model's attention layer, where all are alike. Raises WorkloadError naming every key that asks for something
    not built or is not understood."""
    rope, family = model.rope, FAMILIES.get(model.model_type, Family())
    problems = attention_blockers(model.raw, model.model_type) + list(rope.blockers)
    if model.model_type in FAMILIES:
        problems += ["rope_theta: missing, expected a positive number"] if rope.theta is None else []
        problems += not_understood((*model.unknown, *rope.unknown))
    if problems:
        raise WorkloadError(f"{model.source}: attention: {'; '.join(problems)}")
    if model.num_key_value_heads is None or model.head_dim is None or rope.theta is None:
        raise WorkloadError(f"{model.source}: attention: head_dim, num_key_value_heads: expected integers")
    if model.latent is not None:
        return _latent_layer(model, rope.theta, family)
    return AttentionLayer(
        model=model.name,
        hidden=model.hidden_size,
        heads=model.num_attention_heads,
        kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        rope_theta=rope.theta,
        rope_scaling=rope.scaling,
        qk_norm="none" if model.qk_norm == "unweighted" and not rotated(model.raw) else model.qk_norm,
        norm_eps=model.norm_eps,
        softmax_scale=model.softmax_scale,
        qkv_bias=model.biases != "none",
        output_bias=model.biases == "all",
        rotary_dim=rope.rotary_dim if rotated(model.raw) else 0,
        rope_interleaved=family.interleaved,
        norm_offset=family.norm_offset,
        sinks=family.sinks,
        window=layer_window(model.raw),
        chunk=layer_chunk(model.raw),
        temperature=None if rotated(model.raw) else model.temperature,
        logit_cap=model.logit_cap,
    )


def _latent_layer(model: ModelConfig, theta: float, family: Family) -> LatentAttentionLayer:
    assert model.latent is not None and model.head_dim is not None
    interleaved = model.raw.get("rope_interleave")
    return LatentAttentionLayer(
        model=model.name, hidden=model.hidden_size, heads=model.num_attention_heads, kv_heads=model.num_attention_heads,
        head_dim=model.head_dim, rope_theta=theta, rope_scaling=model.rope.scaling, softmax_scale=model.softmax_scale,
        rope_interleaved=family.interleaved if interleaved is None else interleaved, norm_eps=LATENT_EPS,
        qkv_bias=model.biases != "none", output_bias=model.biases == "all", **model.latent)


def moe_layer(model: ModelConfig) -> MoELayer:
    """The model's sparse MoE layer. Raises WorkloadError naming every key that asks for something not built or is
    not understood."""
    if not model.num_experts and model.model_type in FAMILIES:
        keys = ", ".join(EXPERT_COUNT_KEYS)
        raise WorkloadError(f"{model.source}: moe: the model has no experts; expected one of the keys {keys}")
    if problems := moe_blockers(model.raw, model.model_type) + not_understood(model.unknown):
        raise WorkloadError(f"{model.source}: moe: {'; '.join(problems)}")
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
        scoring=model.scoring,
        activation=model.activation,
        biases=FAMILIES[model.model_type].expert_biases,
        shared=model.shared_width,
        shared_gated=bool(model.shared_width) and FAMILIES[model.model_type].shared_gated,
    )


def mlp_layer(model: ModelConfig) -> MlpLayer:
    """The model's dense feed-forward layer. Raises WorkloadError naming every key that asks for something not built or
    is not understood."""
    if model.num_experts and model.model_type in FAMILIES:
        raise WorkloadError(f"{model.source}: mlp: the model has experts, no dense feed-forward layer; expected "
                            "layer moe")
    if problems := mlp_blockers(model.raw, model.model_type) + not_understood(model.unknown):
        raise WorkloadError(f"{model.source}: mlp: {'; '.join(problems)}")
    if model.intermediate_size is None:
        raise WorkloadError(f"{model.source}: mlp: intermediate_size: missing; expected a positive integer")
    return MlpLayer(model=model.name, hidden=model.hidden_size, intermediate=model.intermediate_size,
                    activation=model.activation, gated=FAMILIES[model.model_type].gated, biases=model.mlp_biases)


def norm_layer(model: ModelConfig) -> NormLayer:
    """The model's norm of a row. Raises WorkloadError naming what is not built or not understood."""
    family = FAMILIES.get(model.model_type, Family())
    problem = family_problem(model.model_type, tuple(FAMILIES), {})
    if problems := [problem for problem in (problem,) if problem] + not_understood(model.unknown):
        raise WorkloadError(f"{model.source}: norm: {'; '.join(problems)}")
    return NormLayer(model=model.name, hidden=model.hidden_size, eps=model.norm_eps, offset=family.norm_offset,
                     centered=family.layer_norm, bias=family.norm_bias)


def decoder_layer(model: ModelConfig) -> DecoderLayer:
    """The model's decoder layer, with experts where it has them. Raises WorkloadError naming the first part that is not
    built."""
    attention, family = attention_layer(model), FAMILIES[model.model_type]
    return DecoderLayer(attention=attention, feed_forward=moe_layer(model) if model.num_experts else mlp_layer(model),
                        block=family.block, norm_eps=model.norm_eps, norm_offset=family.norm_offset,
                        norm_centered=family.layer_norm, norm_bias=family.norm_bias,
                        residual_scale=model.residual_scale)


def embedding_layer(model: ModelConfig) -> EmbeddingLayer:
    """The rows that tokens choose from the embedding. Raises WorkloadError naming what is not built or understood."""
    return outer_layers.embedding_layer(model.raw, model.source, norm_layer(model))


def head_layer(model: ModelConfig) -> HeadLayer:
    """Final norm and LM head. Raises WorkloadError naming what is not built or understood."""
    return outer_layers.head_layer(model.raw, model.source, norm_layer(model))


LAYERS: Mapping[str, Callable[[ModelConfig], Layer]] = {
    "attention": attention_layer, "moe": moe_layer, "mlp": mlp_layer, "norm": norm_layer, "decoder": decoder_layer,
    "embedding": embedding_layer, "head": head_layer}
"""How to read each kind of layer from a model."""
