"""The model families whose layers are built, an entry each: what a config.json of the family means.

A family is built when its layers were compared with ``transformers``. Its entry says what differs from one family to
the next: spellings, what the family's class assumes where a key is missing, norms and multipliers, and which keys of
its own are read or do not matter (`model_keys` has those of all families).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .layers import Block, QkNorm
from .scoring import SOFTMAX, Scoring

EXPERT_COUNT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")
TOP_K_KEYS = ("num_experts_per_tok", "top_k_experts")

_EXPERT_KEYS = frozenset({*EXPERT_COUNT_KEYS, *TOP_K_KEYS, "norm_topk_prob"})
_ROUTER_TRAINING = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise",
                              "router_z_loss_coef"})  # fmt: skip
_GRANITE = frozenset({"attention_multiplier", "residual_multiplier"})
_GRANITE_OUTSIDE = frozenset({"embedding_multiplier", "logits_scaling"})
_SPARSE_LAYERS = frozenset({"max_window_layers", "decoder_sparse_step", "mlp_only_layers"})
SCORE_CAP, LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"
_MINIMAX = frozenset({"use_mtp", "num_mtp_modules", "mtp_transformer_layers", "attn_type_list",
                      "mlp_intermediate_size"})  # fmt: skip
_TANH = "gelu_pytorch_tanh"

Biases = Literal["none", "qkv", "all"]


_DEEPSEEK = frozenset({*EXPERT_COUNT_KEYS, *TOP_K_KEYS, "norm_topk_prob", "moe_intermediate_size", "topk_group"})
_DEEPSEEK_OUTSIDE = frozenset({
    "first_k_dense_replace", "max_window_layers", "moe_layer_freq", "ep_size", "num_nextn_predict_layers",
    "num_mtp_layers", "seq_aux", "aux_loss_alpha", "output_router_logits"}) | frozenset({
    "qk_nope_head_dim", "qk_rope_head_dim", "qk_head_dim", "v_head_dim", "rope_interleave", "index_head_dim",
    "index_n_heads", "indexer_types", "indexer_rope_interleave", "index_topk_freq"})
"""Which layer is of which kind, training, and sizes of the attention, which are read where it is built."""
_MLA: dict[str, Any] = {"latent": True, "interleaved": True, "rope_theta": 1e4, "biases": "all"}
_SIGMOID = Scoring(score="sigmoid", correction=True, group_score="top2", epsilon=1e-20)

GROUPS = ("n_group", "topk_group")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The sliding window of a family (`windows`). default: ``sliding_window`` where it is missing; switched: only with
    ``use_sliding_window``; by_layer: as ``layer_types`` says, not in every layer; first_layers: where that list is
    missing, it is of layers from ``max_window_layers`` on, with this value where that is missing too; None: a pattern
    of the class. own_rope: layers with it have a rotary base of their own, ``rope_local_base_freq``, this one where
    that is missing, and no scaling."""

    default: int | None = None
    switched: bool = False
    by_layer: bool = False
    first_layers: int | None = None
    own_rope: float | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """One ``model_type``.

    qk_norm: of its attention. experts: its feed-forward layers are mixtures of experts. width_key: the key with an
    expert's width. always_normalised: there is no ``norm_topk_prob``: Mixtral divides by the sum, and Granite's softmax
    over the chosen logits equals that. heads_for_kv: a missing ``num_key_value_heads`` means as many as heads.
    head_dim_needed: the class default of ``head_dim`` is a number, not hidden_size / num_attention_heads. rope_theta:
    what older checkpoints mean that leave it out. multipliers: ``attention_multiplier`` in place of 1 / sqrt(head_dim),
    and ``residual_multiplier``. biases: the attention's projections that have one, where the key ``bias_key`` is true
    (``bias_default`` where it is missing), or always where that is None. qk_norm_key: there is a QK-norm only where it
    is true (``qk_norm_default`` where it is missing). chunk: of layers of chunked attention, where
    ``attention_chunk_size`` is missing; tempered: layers without rotary embedding have a temperature. rotary_part: what
    a missing ``partial_rotary_factor`` means; None: all of a head is rotated whatever the key says. interleaved: the
    rotary embedding pairs neighbours. norm_offset: added to the weights of its norms; layer_norm: these are LayerNorms,
    norm_bias: with biases; eps_key: the key with their epsilon, with eps where it is missing. block: how its decoder
    layer is put together. sinks: its attention has. caps: of scores and logits, by the keys that say them, with what
    these mean where they are missing. scale_key: with the number whose -1/2 power scales scores. latent: its attention
    is MLA (`latent`). window: of its attention. read, harmless: keys of its own.

    scoring: of its router, with what its class assumes where keys are missing; norm_default: the same of
    ``norm_topk_prob``. grouped, scaled: it reads `GROUPS`, ``routed_scaling_factor``. shared: the key
    with the width of its shared expert, with ``n_shared_experts`` the number of widths of an expert;
    shared_gated: that is weighted by a sigmoid of its own.

    activation: of its feed-forward layers, where the key ``activation_key`` is missing; renamed: names that mean others
    in it. gated: these have a gate. mlp_bias_key: their matrices have biases where it is true (``mlp_bias_default``
    where it is missing). expert_biases: experts have biases. clamped: their gate is clamped, by the keys
    ``swiglu_limit`` and ``swiglu_alpha``, whose defaults these are.
    """

    scoring: Scoring = SOFTMAX
    norm_default: bool = False
    grouped: bool = False
    scaled: bool = False
    shared: str | None = None
    shared_gated: bool = False
    activation: str = "silu"
    activation_key: str = "hidden_act"
    renamed: Mapping[str, str] = field(default_factory=dict)
    gated: bool = True
    mlp_bias_key: str | None = None
    mlp_bias_default: bool = False
    expert_biases: bool = False
    clamped: tuple[float, float] | None = None
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
    qk_norm_key: str | None = None
    qk_norm_default: bool = False
    chunk: int | None = None
    tempered: bool = False
    rotary_part: float | None = None
    interleaved: bool = False
    norm_offset: float = 0.0
    sinks: bool = False
    caps: Mapping[str, float | None] = field(default_factory=dict)
    scale_key: str | None = None
    latent: bool = False
    layer_norm: bool = False
    norm_bias: bool = False
    eps_key: str = "rms_norm_eps"
    eps: float = 1e-6
    block: Block = "pre"
    window: Window | None = None
    read: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()


FAMILIES = {
    "llama": Family(heads_for_kv=True, rope_theta=1e4, biases="all", mlp_bias_key="mlp_bias",
                    harmless=frozenset({"is_llama_config"})),
    "mistral": Family(window=Window(default=4096)),
    "mixtral": Family(experts=True, width_key="intermediate_size", always_normalised=True, read=_EXPERT_KEYS,
                      harmless=_ROUTER_TRAINING, window=Window()),
    "qwen2": Family(heads_for_kv=True, rope_theta=1e4, biases="qkv", bias_key=None,
                    harmless=frozenset({"max_window_layers"}),
                    window=Window(default=4096, switched=True, by_layer=True, first_layers=28)),
    "qwen3": Family(qk_norm="head", biases="all", head_dim_needed=True, harmless=frozenset({"max_window_layers"}),
                    window=Window(default=4096, switched=True, by_layer=True, first_layers=28)),
    "qwen3_moe": Family(qk_norm="head", experts=True, biases="all", read=_EXPERT_KEYS | {"moe_intermediate_size"},
                        harmless=_ROUTER_TRAINING | {"max_window_layers", "decoder_sparse_step", "mlp_only_layers"},
                        window=Window(default=4096, switched=True)),
    "olmoe": Family(qk_norm="full", experts=True, width_key="intermediate_size", heads_for_kv=True, rope_theta=1e4,
                    biases="all", read=_EXPERT_KEYS, harmless=_ROUTER_TRAINING),
    "granite": Family(heads_for_kv=True, rope_theta=1e4, multipliers=True, biases="all",
                      mlp_bias_key="mlp_bias", read=_GRANITE, harmless=_GRANITE_OUTSIDE),
    "granitemoe": Family(experts=True, width_key="intermediate_size", always_normalised=True, heads_for_kv=True,
                         rope_theta=1e4, multipliers=True, biases="all", read=_GRANITE | _EXPERT_KEYS,
                         harmless=_GRANITE_OUTSIDE | _ROUTER_TRAINING),
    "qwen2_moe": Family(experts=True, biases="qkv", bias_key="qkv_bias", bias_default=True,
                        shared="shared_expert_intermediate_size", shared_gated=True,
                        read=_EXPERT_KEYS | {"moe_intermediate_size"}, harmless=_ROUTER_TRAINING | _SPARSE_LAYERS,
                        window=Window(default=4096, switched=True, by_layer=True)),
    "gpt_oss": Family(experts=True, always_normalised=True, scoring=Scoring(bias=True), expert_biases=True,
                      clamped=(7.0, 1.702), width_key="intermediate_size", head_dim_needed=True, biases="all",
                      bias_default=True, sinks=True, read=_EXPERT_KEYS | {"swiglu_alpha"},
                      window=Window(default=128, by_layer=True),
                      harmless=_ROUTER_TRAINING | {"initial_context_length", "experts_per_token"}),
    "glm4_moe": Family(qk_norm="head", qk_norm_key="use_qk_norm", experts=True, head_dim_needed=True, biases="qkv",
                       rotary_part=0.5, grouped=True, scaled=True, shared="n_shared_experts", scoring=_SIGMOID,
                       norm_default=True, read=_DEEPSEEK, harmless=_ROUTER_TRAINING | _DEEPSEEK_OUTSIDE),
    "glm4": Family(head_dim_needed=True, biases="qkv", bias_default=True, rotary_part=0.5, interleaved=True,
                   block="sandwich"),
    "minimax_m2": Family(qk_norm="full", experts=True, width_key="intermediate_size", head_dim_needed=True,
                         rotary_part=1.0, always_normalised=True, scoring=Scoring(score="sigmoid", correction=True),
                         read=_EXPERT_KEYS | {"rotary_dim"}, harmless=_ROUTER_TRAINING | _MINIMAX),
    "olmo2": Family(qk_norm="full", heads_for_kv=True, rope_theta=1e4, biases="all",
                    block="post"),
    "gemma": Family(activation=_TANH, renamed={"gelu": _TANH},
                    head_dim_needed=True, rope_theta=1e4, biases="all", norm_offset=1.0,
                    harmless=frozenset({LOGIT_CAP})),
    "gemma2": Family(activation=_TANH, activation_key="hidden_activation",
                     head_dim_needed=True, rope_theta=1e4, biases="all", norm_offset=1.0,
                     scale_key="query_pre_attn_scalar", block="sandwich", caps={SCORE_CAP: 50.0, LOGIT_CAP: 30.0},
                     window=Window(default=4096, by_layer=True)),
    "gemma3_text": Family(activation=_TANH, activation_key="hidden_activation",
                          qk_norm="head", head_dim_needed=True, biases="all", norm_offset=1.0,
                          scale_key="query_pre_attn_scalar", block="sandwich",
                          caps={LOGIT_CAP: None}, read=frozenset({"rope_local_base_freq"}),
                          harmless=frozenset({"sliding_window_pattern"}),
                          window=Window(default=4096, by_layer=True, own_rope=1e4)),
    "cohere": Family(heads_for_kv=True, rope_theta=1e4, biases="all", interleaved=True, layer_norm=True,
                     eps_key="layer_norm_eps", eps=1e-5, block="parallel", harmless=frozenset({"logit_scale"})),
    "phimoe": Family(experts=True, width_key="intermediate_size", biases="all", layer_norm=True,
                     norm_bias=True, eps=1e-5, scoring=Scoring(score="sparsemixer", jitter=0.01),
                     read=_EXPERT_KEYS | {"router_jitter_noise", "lm_head_bias"}, window=Window(),
                     harmless=_ROUTER_TRAINING - {"router_jitter_noise"} | {"input_jitter_noise"}),
    "starcoder2": Family(activation=_TANH, gated=False, mlp_bias_key="use_bias", mlp_bias_default=True,
                         biases="all", bias_key="use_bias", bias_default=True, rope_theta=1e4, window=Window(),
                         layer_norm=True, norm_bias=True, eps_key="norm_epsilon", eps=1e-5,
                         read=frozenset({"use_bias"}),
                         harmless=frozenset({"embedding_dropout"})),
    "nemotron": Family(activation="relu2", gated=False, mlp_bias_key="mlp_bias", biases="all", heads_for_kv=True,
                       rope_theta=1e4, rotary_part=0.5,
                       layer_norm=True, norm_bias=True, norm_offset=1.0, eps_key="norm_eps", eps=1e-5,
                       harmless=frozenset({"partial_rotary_percent"})),
    "phi3": Family(heads_for_kv=True, rope_theta=1e4, rotary_part=1.0, eps=1e-5, window=Window()),
    "internlm2": Family(heads_for_kv=True, rope_theta=1e4, biases="all", bias_key="bias", read=frozenset({"bias"})),
    "granitemoeshared": Family(experts=True, width_key="intermediate_size", always_normalised=True, heads_for_kv=True,
                               rope_theta=1e4, multipliers=True, biases="all", shared="shared_intermediate_size",
                               read=_GRANITE | _EXPERT_KEYS,
                               harmless=_GRANITE_OUTSIDE | _ROUTER_TRAINING),
    "deepseek_v2": Family(experts=True, grouped=True, scaled=True, shared="n_shared_experts", **_MLA,
                          read=_DEEPSEEK | {"topk_method"}, harmless=_DEEPSEEK_OUTSIDE | _ROUTER_TRAINING),
    **{name: Family(experts=True, grouped=True, scaled=True, shared="n_shared_experts",
                    scoring=replace(_SIGMOID, groups=groups, kept_groups=kept, scale=scale), norm_default=norm,
                    read=_DEEPSEEK, harmless=_DEEPSEEK_OUTSIDE | _ROUTER_TRAINING,
                    **(_MLA if name in ("deepseek_v3", "kimi_k2") else {}))
       for name, groups, kept, scale, norm in (
           ("deepseek_v3", 8, 4, 2.5, True), ("deepseek_v32", 8, 4, 2.5, True), ("kimi_k2", 8, 4, 2.5, True),
           ("glm_moe_dsa", 1, 1, 2.5, True), ("dots1", 1, 1, 1.0, False))},
    **{name: Family(experts=True, shared="shared_expert_intermediate_size", shared_gated=True, norm_offset=1.0,
                    always_normalised=always, norm_default=True, read=_EXPERT_KEYS | {"moe_intermediate_size"},
                    harmless=_ROUTER_TRAINING | {
                        "decoder_sparse_step", "mlp_only_layers", "linear_conv_kernel_dim", "linear_key_head_dim",
                        "linear_value_head_dim", "linear_num_value_heads",
                        "full_attention_interval", "attn_output_gate", "mamba_ssm_dtype"})
       for name, always in (("qwen3_next", False), ("qwen3_5_moe_text", True))},
    "llama4_text": Family(experts=True, width_key="intermediate_size", shared="intermediate_size",
                          scoring=Scoring(score="sigmoid", on_input=True), biases="all", head_dim_needed=True,
                          interleaved=True, rope_theta=5e5, qk_norm="unweighted", qk_norm_key="use_qk_norm",
                          qk_norm_default=True, chunk=8192, tempered=True,
                          read=_EXPERT_KEYS | {"attn_temperature_tuning", "floor_scale", "attn_scale"},
                          harmless=_ROUTER_TRAINING | {"intermediate_size_mlp", "interleave_moe_layer_step",
                                                       "moe_layers", "for_llm_compressor"}),
    "smollm3": Family(biases="all", rope_theta=2e6, mlp_bias_key="mlp_bias", harmless=frozenset({"max_window_layers"}),
                      window=Window(switched=True, by_layer=True)),
    "cohere2": Family(heads_for_kv=True, rope_theta=1e4, biases="all", interleaved=True, layer_norm=True,
                      eps_key="layer_norm_eps", eps=1e-5, block="parallel", window=Window(default=4096, by_layer=True),
                      harmless=frozenset({"logit_scale", "sliding_window_pattern", "order_of_interleaved_layers",
                                          "layer_switch"})),
}  # fmt: skip
"""Keys that are harmless here: those of training, and of which layer is of which kind."""
