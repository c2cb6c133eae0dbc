"""The model families whose layers are built, an entry each: what a config.json of the family means.

A family is built when its layers were compared with ``transformers``. Its entry says what differs from one family to
the next: spellings, what the family's class assumes where a key is missing, norms and multipliers, and which keys of
its own are read or do not matter (`model_keys` has those of all families).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .layers import QkNorm

EXPERT_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
TOP_K_KEYS = ("num_experts_per_tok", "top_k_experts")

_EXPERT_KEYS = frozenset({*EXPERT_COUNT_KEYS, *TOP_K_KEYS, "norm_topk_prob"})
_ROUTER_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
                              "router_z_loss_coef"})  # fmt: skip
_MLP_BIAS = frozenset({"mlp_bias"})
_GRANITE = frozenset({"attention_multiplier", "residual_multiplier"})
_GRANITE_OUTSIDE = frozenset({"embedding_multiplier", "logits_scaling"})

Biases = Literal["none", "qkv", "all"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One ``model_type``.

    qk_norm: of its attention. experts: its feed-forward layers are mixtures of experts. width_key: the key with an
    expert's width. always_normalised: there is no ``norm_topk_prob``: Mixtral divides by the sum, and Granite's softmax
    over the chosen logits equals that. heads_for_kv: a missing ``num_key_value_heads`` means as many as heads.
    head_dim_needed: the class default of ``head_dim`` is a number, not hidden_size / num_attention_heads. rope_theta:
    what older checkpoints mean that leave it out. multipliers: ``attention_multiplier`` in place of
    1 / sqrt(head_dim), and ``residual_multiplier``. biases: the attention's projections that have one, where the key
    ``bias_key`` is true (``bias_default`` where it is missing), or always where that is None. read, harmless:
    keys of its own.
    """

    qk_norm: QkNorm = "none"
    experts: bool = False
    width_key: str = "moe_intermediate_size"
    always_normalised: bool = False
    heads_for_kv: bool = False
    head_dim_needed: bool = False
    rope_theta: float | None = None
    multipliers: bool = False
    biases: Biases = "none"
    bias_key: str | None = "attention_bias"
    bias_default: bool = False
    read: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()


FAMILIES = {
    "llama": Family(heads_for_kv=True, rope_theta=1e4, biases="all", read=_MLP_BIAS,
                    harmless=frozenset({"is_llama_config"})),
    "mistral": Family(),
    "mixtral": Family(experts=True, width_key="intermediate_size", always_normalised=True, read=_EXPERT_KEYS,
                      harmless=_ROUTER_TRAINING),
    "qwen2": Family(heads_for_kv=True, rope_theta=1e4, biases="qkv", bias_key=None,
                    harmless=frozenset({"max_window_layers"})),
    "qwen3": Family(qk_norm="head", biases="all", head_dim_needed=True, harmless=frozenset({"max_window_layers"})),
    "qwen3_moe": Family(qk_norm="head", experts=True, biases="all", read=_EXPERT_KEYS | {"moe_intermediate_size"},
                        harmless=_ROUTER_TRAINING | {"max_window_layers", "decoder_sparse_step", "mlp_only_layers"}),
    "olmoe": Family(qk_norm="full", experts=True, width_key="intermediate_size", heads_for_kv=True, rope_theta=1e4,
                    biases="all", read=_EXPERT_KEYS, harmless=_ROUTER_TRAINING),
    "granite": Family(heads_for_kv=True, rope_theta=1e4, multipliers=True, biases="all", read=_GRANITE | _MLP_BIAS,
                      harmless=_GRANITE_OUTSIDE),
    "granitemoe": Family(experts=True, width_key="intermediate_size", always_normalised=True, heads_for_kv=True,
                         rope_theta=1e4, multipliers=True, biases="all", read=_GRANITE | _EXPERT_KEYS,
                         harmless=_GRANITE_OUTSIDE | _ROUTER_TRAINING | _MLP_BIAS),
}  # fmt: skip
"""Keys that are harmless here: those of training, and of which layer is of which kind."""

ATTENTION_FAMILIES = tuple(FAMILIES)
MOE_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.experts)
MLP_FAMILIES = tuple(name for name, family in FAMILIES.items() if not family.experts)
