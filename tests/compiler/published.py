"""Configurations as they are published on the Hugging Face hub, for the reader of config.json.

Of the families that are built every key is here, since any key may hold a layer back; of the others the keys that a
reader meets first. Long lists are shortened to the same kind of content. Token ids, dropout and the like stand in
``_ORDINARY``; what differs between models stands with the model.
"""

from __future__ import annotations

from typing import Any

_ORDINARY: dict[str, Any] = {
    "architectures": ["AForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [2, 3],
    "hidden_act": "silu", "initializer_range": 0.02, "torch_dtype": "bfloat16", "transformers_version": "4.51.0",
    "use_cache": True, "tie_word_embeddings": False, "vocab_size": 32000, "max_position_embeddings": 4096,
}  # fmt: skip


def _model(family: str, hidden: int, layers: int, heads: int, kv_heads: int | None, inner: int, **keys: Any) -> dict:
    sizes = {"model_type": family, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
             "num_key_value_heads": kv_heads, "intermediate_size": inner}
    merged = _ORDINARY | {"rms_norm_eps": 1e-5} | sizes | keys
    return {key: value for key, value in merged.items() if value is not ...}


def _llama3(factor: float) -> dict[str, Any]:
    return {"factor": factor, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}


_LLAMA3_KEYS: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_theta": 5e5,
                                "vocab_size": 128256, "max_position_embeddings": 131072}
_QWEN3_KEYS: dict[str, Any] = {
    "attention_bias": False, "head_dim": 128, "max_window_layers": 36, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "use_sliding_window": False, "rms_norm_eps": 1e-6, "vocab_size": 151936,
    "max_position_embeddings": 40960,
}  # fmt: skip
_QWEN3_MOE_KEYS = _QWEN3_KEYS | {
    "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": True,
    "num_experts": 128, "num_experts_per_tok": 8, "output_router_logits": False, "router_aux_loss_coef": 0.001,
}  # fmt: skip
_GRANITE_KEYS: dict[str, Any] = {
    "attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
    "mlp_bias": False, "pad_token_id": 0, "residual_multiplier": 0.22, "rope_scaling": None, "rope_theta": 1e7,
}  # fmt: skip
_SMOLLM_KEYS: dict[str, Any] = {"is_llama_config": True, "rope_interleaved": False, "rope_scaling": None,
                                "attention_bias": False, "pretraining_tp": 1}
_FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
_GPTQ = {"bits": 4, "group_size": 128, "quant_method": "gptq", "desc_act": False}

_MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
_YARN = {"type": "yarn", "factor": 40.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
         "original_max_position_embeddings": 4096}
BUILT: dict[str, dict[str, Any]] = {
    "Llama-2-7b-hf": _model("llama", 4096, 32, 32, 32, 11008, _name_or_path="meta-llama/Llama-2-7b-hf",
                            pretraining_tp=1, rope_scaling=None),
    "llama-7b": _model("llama", 4096, 32, 32, ..., 11008, pad_token_id=0, max_sequence_length=2048),
    "CodeLlama-7b-hf": _model("llama", 4096, 32, 32, 32, 11008, rope_theta=1000000, rope_scaling=None,
                              pretraining_tp=1, max_position_embeddings=16384),
    "Llama-3.1-8B": _model("llama", 4096, 32, 32, 8, 14336, rope_scaling=_llama3(8.0), **_LLAMA3_KEYS),
    "Llama-3.2-1B": _model("llama", 2048, 16, 32, 8, 8192, rope_scaling=_llama3(32.0), head_dim=64, **_LLAMA3_KEYS),
    "Llama-3.3-70B-Instruct": _model("llama", 8192, 80, 64, 8, 28672, rope_scaling=_llama3(8.0), head_dim=128,
                                     **_LLAMA3_KEYS),
    "Llama-3.1-405B-FP8": _model("llama", 16384, 126, 128, 8, 53248, rope_scaling=_llama3(8.0),
                                 quantization_config=_FP8, **_LLAMA3_KEYS),
    "DeepSeek-R1-Distill-Llama-8B": _model("llama", 4096, 32, 32, 8, 14336, rope_scaling=_llama3(8.0),
                                           **_LLAMA3_KEYS),
    "deepseek-coder-6.7b-base": _model("llama", 4096, 32, 32, 32, 11008, pretraining_tp=1, rope_theta=100000,
                                       rope_scaling={"factor": 4.0, "type": "linear"}, max_position_embeddings=16384),
    "Yi-34B": _model("llama", 7168, 60, 56, 8, 20480, pad_token_id=0, rope_theta=5000000.0),
    "TinyLlama-1.1B": _model("llama", 2048, 22, 32, 4, 5632, pretraining_tp=1, rope_scaling=None),
    "vicuna-7b-v1.5-16k": _model("llama", 4096, 32, 32, 32, 11008, max_sequence_length=16384, pad_token_id=0,
                                 rope_scaling={"factor": 4.0, "type": "linear"}),
    "SmolLM-135M": _model("llama", 576, 30, 9, 3, 1536, rope_theta=10000.0, **_SMOLLM_KEYS),
    "SmolLM2-1.7B": _model("llama", 2048, 24, 32, 32, 8192, rope_theta=130000, head_dim=64, **_SMOLLM_KEYS,
                           **{"transformers.js_config": {"dtype": "q4"}}),
    "unsloth Llama": _model("llama", 4096, 32, 32, 8, 14336, unsloth_fixed=True, unsloth_version="2024.9",
                            is_composition=True, rope_scaling=_llama3(8.0), **_LLAMA3_KEYS),
    "Mistral-7B-v0.1": _model("mistral", 4096, 32, 32, 8, 14336, rope_theta=10000.0, sliding_window=4096),
    "Mistral-7B-v0.3": _model("mistral", 4096, 32, 32, 8, 14336, rope_theta=1000000.0, sliding_window=None),
    "Mistral-Nemo": _model("mistral", 5120, 40, 32, 8, 14336, rope_theta=1000000.0, sliding_window=None,
                           head_dim=128, max_position_embeddings=1024000),
    "Mixtral-8x7B-v0.1": _model("mixtral", 4096, 32, 32, 8, 14336, num_experts_per_tok=2, num_local_experts=8,
                                output_router_logits=False, rope_theta=1000000.0, router_aux_loss_coef=0.02,
                                sliding_window=None),
    "Mixtral-8x22B-v0.1": _model("mixtral", 6144, 56, 48, 8, 16384, num_experts_per_tok=2, num_local_experts=8,
                                 output_router_logits=False, rope_theta=1000000, router_aux_loss_coef=0.001,
                                 router_jitter_noise=0.0, sliding_window=None, max_position_embeddings=65536),
    "Qwen3-8B": _model("qwen3", 4096, 36, 32, 8, 12288, **_QWEN3_KEYS),
    "Qwen3-8B with YaRN": _model("qwen3", 4096, 36, 32, 8, 12288, **_QWEN3_KEYS | {"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}),
    "Qwen3-8B saved by transformers 5": _model(
        "qwen3", 4096, 36, 32, 8, 12288, **{k: v for k, v in _QWEN3_KEYS.items() if not k.startswith("rope")},
        rope_parameters={"rope_theta": 1000000, "rope_type": "default"}, layer_types=["full_attention"] * 4,
        dtype="bfloat16"),
    "Qwen3-30B-A3B": _model("qwen3_moe", 2048, 48, 32, 4, 6144, **_QWEN3_MOE_KEYS),
    "Qwen3-30B-A3B-GPTQ-Int4": _model("qwen3_moe", 2048, 48, 32, 4, 6144, quantization_config=_GPTQ, **_QWEN3_MOE_KEYS),
    "OLMoE-1B-7B-0924": _model("olmoe", 2048, 16, 16, 16, 1024, attention_bias=False, clip_qkv=None,
                               norm_topk_prob=False, num_experts=64, num_experts_per_tok=8, rope_scaling=None,
                               output_router_logits=False, pad_token_id=1, rope_theta=10000.0,
                               router_aux_loss_coef=0.01),
    "granite-3.1-8b": _model("granite", 4096, 40, 32, 8, 12800, **_GRANITE_KEYS),
    "granite-3.0-1b-a400m": _model("granitemoe", 1024, 24, 16, 8, 512, num_local_experts=32, num_experts_per_tok=8,
                                   output_router_logits=False, router_aux_loss_coef=0.0, **_GRANITE_KEYS),
    "llava-v1.6-mistral-7b-hf": {
        "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next", "image_token_index": 32000,
        "projector_hidden_act": "gelu", "vision_config": {"hidden_size": 1024, "num_attention_heads": 16},
        "text_config": _model("mistral", 4096, 32, 32, 8, 14336, rope_theta=1e6, sliding_window=None)},
    "Mistral-Small-3.1-24B": {
        "model_type": "mistral3", "multimodal_projector_bias": False, "vision_config": {"model_type": "pixtral"},
        "text_config": _model("mistral", 5120, 40, 32, 8, 32768, rope_theta=1e9, sliding_window=None, head_dim=128)},
    "InternVL3_5-8B": {"model_type": "internvl_chat", "downsample_ratio": 0.5, "select_layer": -1,
                       "llm_config": _model("qwen3", 4096, 36, 32, 8, 12288, **_QWEN3_KEYS)},
    "Janus-Pro-7B": {"model_type": "multi_modality", "gen_head_config": {"cls": "vision_head"},
                     "language_config": _model("llama", 4096, 30, 32, 32, 11008, max_position_embeddings=16384)},
    "SmolVLM-500M": {"model_type": "idefics3", "scale_factor": 4,
                     "text_config": _model("llama", 960, 32, 15, 5, 2560, qk_layer_norms=False, rope_theta=100000,
                                           neftune_noise_alpha=0.0, head_dim=64, **_SMOLLM_KEYS)},
    "Qwen2-7B": _model("qwen2", 3584, 28, 28, 4, 18944, rope_theta=1000000.0, sliding_window=131072,
                       use_sliding_window=False, max_window_layers=28),
    "Qwen2.5-0.5B": _model("qwen2", 896, 24, 14, 2, 4864, rope_theta=1000000.0, sliding_window=32768, use_mrope=False,
                           use_sliding_window=False, max_window_layers=21, tie_word_embeddings=True),
    "Qwen1.5-MoE-A2.7B": _model("qwen2_moe", 2048, 24, 16, 16, 5632, moe_intermediate_size=1408, num_experts=60,
                                num_experts_per_tok=4, shared_expert_intermediate_size=5632, rope_theta=1e6),
    "OLMo-2-7B": _model("olmo2", 4096, 32, 32, 32, 11008, rope_theta=500000),
    "gemma-7b": _model("gemma", 3072, 28, 16, 16, 24576, head_dim=256, hidden_act="gelu"),
    "Phi-3.5-MoE": _model("phimoe", 4096, 32, 32, 8, 6400, num_local_experts=16, num_experts_per_tok=2,
                          attention_bias=True, rope_theta=10000.0, lm_head_bias=True, router_jitter_noise=0.01,
                          input_jitter_noise=0.01, rope_scaling={
                              "type": "longrope", "short_mscale": 1.243163121016122, "long_factor": [1.1] * 64,
                              "long_mscale": 1.243163121016122, "original_max_position_embeddings": 4096,
                              "short_factor": [1.0] * 64}, max_position_embeddings=131072),
    "internlm2-7b": _model("internlm2", 4096, 32, 32, 8, 14336, bias=False, rope_theta=1e6, attn_implementation="eager",
                           rope_scaling={"type": "dynamic", "factor": 2.0}),
    "Phi-3-mini-4k": _model("phi3", 3072, 32, 32, 32, 8192, sliding_window=2047, rope_scaling=None, rope_theta=1e4,
                            embd_pdrop=0.0, resid_pdrop=0.0, original_max_position_embeddings=4096),
    "Phi-3-mini-128k": _model("phi3", 3072, 32, 32, 32, 8192, sliding_window=262144, max_position_embeddings=131072,
                              original_max_position_embeddings=4096, rope_scaling={
                                  "type": "su", "short_factor": [1.0] * 48, "long_factor": [1.1] * 48}),
    "Phi-4-mini": _model("phi3", 3072, 32, 24, 8, 8192, sliding_window=262144, max_position_embeddings=131072,
                         original_max_position_embeddings=4096, attention_bias=False, mlp_bias=False,
                         lm_head_bias=False, full_attn_mod=1, interpolate_factor=1, partial_rotary_factor=0.75,
                         rope_theta=10000.0, rope_scaling={"type": "longrope", "short_factor": [1.0] * 48,
                                                           "long_factor": [1.1] * 48}),
    "starcoder2-7b": _model("starcoder2", 4608, 32, 36, 4, 18432, rms_norm_eps=..., hidden_act="gelu_pytorch_tanh",
                            use_bias=True, norm_type="layer_norm", norm_epsilon=1e-5, mlp_type="default",
                            residual_dropout=0.0, embedding_dropout=0.0, rope_theta=1e6, sliding_window=4096),
    "Minitron-8B": _model("nemotron", 4096, 32, 48, 8, 16384, rms_norm_eps=..., norm_eps=1e-5, head_dim=128,
                          hidden_act="relu2", attention_bias=False, mlp_bias=False, partial_rotary_factor=0.5,
                          partial_rotary_percent=0.5),
    "c4ai-command-r": _model("cohere", 8192, 40, 64, 64, 22528, rms_norm_eps=..., layer_norm_eps=1e-5),
    "GLM-4-9B-0414": _model("glm4", 4096, 40, 32, 2, 13696, head_dim=128, partial_rotary_factor=0.5,
                            attention_bias=False, rope_theta=10000.0),
    "GLM-4.5": _model("glm4_moe", 5120, 92, 96, 8, 12288, head_dim=128, moe_intermediate_size=1536,
                      n_routed_experts=160, num_experts_per_tok=8, attention_bias=True, use_qk_norm=True,
                      partial_rotary_factor=0.5, rope_theta=1000000),
    "MiniMax-M2": _model("minimax_m2", 3072, 62, 48, 8, 1536, head_dim=128, num_local_experts=256,
                         num_experts_per_tok=8, rotary_dim=64, scoring_func="sigmoid", rope_theta=5000000,
                         use_qk_norm=True, qk_norm_type="per_layer", mlp_intermediate_size=8192, use_mtp=True,
                         shared_intermediate_size=0, shared_moe_mode="sigmoid", layernorm_mlp_beta=1.0,
                         attn_type_list=[1] * 62, use_routing_bias=True, num_mtp_modules=3),
    "DeepSeek-V2-Lite": _model("deepseek_v2", 2048, 27, 16, 16, 10944, q_lora_rank=None, n_routed_experts=64,
                               n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1408, **_MLA,
                               rope_scaling=_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}),
    "DeepSeek-R1": _model("deepseek_v3", 7168, 61, 128, 128, 18432, q_lora_rank=1536, n_group=8, scoring_func="sigmoid",
                          quantization_config=_FP8, n_routed_experts=256, num_experts_per_tok=8, rope_scaling=_YARN,
                          moe_intermediate_size=2048, num_nextn_predict_layers=1, **_MLA),
    "Kimi-K2-Instruct": _model("kimi_k2", 7168, 61, 64, 64, 18432, q_lora_rank=1536, n_routed_experts=384,
                               num_experts_per_tok=8, moe_intermediate_size=2048, rope_theta=50000.0, **_MLA,
                               rope_scaling=_YARN | {"factor": 32.0, "beta_fast": 1.0}),
    "an omni model of a built family": {"model_type": "omni", "thinker_config": {"audio_config": {"d_model": 8},
        "text_config": _model("qwen3_moe", 2048, 48, 32, 4, 6144, **_QWEN3_MOE_KEYS)}},
}  # fmt: skip
"""Attention of these is built, and the MoE layer where that of the family is."""

NOT_BUILT: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "gpt2": ({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
             ("model_type = 'gpt2' needs learned positions,",)),
    "pythia-1b": ({"model_type": "gpt_neox", "hidden_size": 2048, "num_attention_heads": 8, "rotary_pct": 0.25},
                  ("model_type = 'gpt_neox' needs a parallel block with a norm for each branch",)),
    "falcon-7b": ({"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "multi_query": True,
                   "alibi": False, "bias": False}, ("model_type = 'falcon' is not built yet",)),
    "mpt-7b": ({"model_type": "mpt", "d_model": 4096, "n_heads": 32, "attn_config": {"alibi": True}},
               ("model_type = 'mpt' needs ALiBi positions",)),
    "dbrx": ({"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "attn_config": {"clip_qkv": 8},
              "ffn_config": {"moe_num_experts": 16}}, ("model_type = 'dbrx' needs clipped q, k and v",)),
    "bloom": ({"model_type": "bloom", "n_embed": 4096, "num_attention_heads": 32, "n_layer": 30}, ("ALiBi positions",)),
    "opt-1.3b": ({"model_type": "opt", "hidden_size": 2048, "num_attention_heads": 32, "ffn_dim": 8192},
                 ("model_type = 'opt' needs learned positions",)),
    "t5-large": ({"model_type": "t5", "d_model": 1024, "num_heads": 16, "d_kv": 64, "is_encoder_decoder": True},
                 ("relative position biases", "is_encoder_decoder = True needs cross attention")),
    "mamba-2.8b": ({"model_type": "mamba", "hidden_size": 2560, "state_size": 16}, ("state-space layers",)),
    "jamba": (_model("jamba", 4096, 32, 32, 8, 14336, attn_layer_period=8, num_experts=16, num_experts_per_tok=2),
              ("state-space layers",)),
    "bamba-9b": (_model("bamba", 4096, 32, 32, 8, 14336, attn_layer_indices=[9, 18, 27]), ("state-space layers",)),
    "Qwen2.5-7B-Instruct-1M": (_model("qwen2", 3584, 28, 28, 4, 18944, dual_chunk_attention_config={"chunk_size": 4}),
                               ("not understood", "dual_chunk_attention_config")),
    "Qwen2-VL-7B": (_model("qwen2_vl", 3584, 28, 28, 4, 18944, rope_theta=1e6, vision_config={"depth": 32},
                           rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}),
                    ("a rotary embedding in three dimensions",)),
    "Qwen2.5-Omni-7B": ({"model_type": "qwen2_5_omni", "talker_config": {}, "thinker_config": {
        "text_config": _model("qwen2_5_omni_text", 3584, 28, 28, 4, 18944, rope_theta=1e6)}},
        ("thinker_config.text_config: attention", "a rotary embedding in three dimensions")),
    "Qwen3-VL-8B": ({"model_type": "qwen3_vl", "text_config": _model("qwen3_vl_text", 4096, 36, 32, 8, 12288)},
                    ("text_config: attention", "a rotary embedding in three dimensions")),
    "Qwen3-Next-80B-A3B": (_model("qwen3_next", 2048, 48, 16, 2, 5120, num_experts=512, num_experts_per_tok=10,
                                  linear_num_key_heads=16, partial_rotary_factor=0.25),
                           ("gated and linear attention", "linear_num_key_heads = 16", "partial_rotary_factor = 0.25")),
    "OLMo-7B": (_model("olmo", 4096, 32, 32, 32, 11008, clip_qkv=None, rms_norm_eps=...), ("model_type = 'olmo'",)),
    "gemma-2-9b": (_model("gemma2", 3584, 42, 16, 8, 14336, head_dim=256, query_pre_attn_scalar=256,
                          sliding_window=4096), ("sliding_window = 4096",)),
    "gemma-3-27b": ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 5376,
                     "num_attention_heads": 32, "sliding_window": 1024, "rope_scaling": {"factor": 8.0,
                     "rope_type": "linear"}}}, ("text_config", "sliding_window = 1024")),
    "phi-2": (_model("phi", 2560, 32, 32, 32, 10240, partial_rotary_factor=0.4),
              ("model_type = 'phi' is not built yet",)),
    "SmolLM3-3B": (_model("smollm3", 2048, 36, 16, 4, 11008, no_rope_layers=[1, 1, 1, 0] * 9, use_sliding_window=False),
                   ("layers without rotary embedding beside others",)),
    "MiniCPM3-4B": (_model("minicpm3", 2560, 62, 40, 40, 6400, kv_lora_rank=256, q_lora_rank=768),
                    ("model_type = 'minicpm3' is not built yet",)),
    "chatglm3-6b": ({"model_type": "chatglm", "hidden_size": 4096, "num_attention_heads": 32,
                     "multi_query_group_num": 2, "add_qkv_bias": True}, ("model_type = 'chatglm' is not built yet",)),
    "Baichuan2-7B": ({"model_type": "baichuan", "hidden_size": 4096, "num_attention_heads": 32},
                     ("model_type = 'baichuan' is not built yet",)),
    "stablelm-2-1_6b": (_model("stablelm", 2048, 24, 32, 32, 5632, use_qkv_bias=True, partial_rotary_factor=0.25),
                        ("model_type = 'stablelm' is not built yet",)),
    "EXAONE-3.5-7.8B": ({"model_type": "exaone", "hidden_size": 4096, "num_layers": 32, "num_attention_heads": 32,
                         "num_key_value_heads": 8}, ("model_type = 'exaone' is not built yet",)),
    "arctic": (_model("arctic", 7168, 35, 56, 8, 4864, num_local_experts=128, num_experts_per_tok=2),
               ("model_type = 'arctic' is not built yet",)),
    "ERNIE-4.5-21B-A3B": (_model("ernie4_5_moe", 2560, 28, 20, 4, 12288, moe_num_experts=64, moe_k=6),
                          ("model_type = 'ernie4_5_moe' is not built yet",)),
    "Hunyuan-A13B": (_model("hunyuan_v1_moe", 4096, 32, 32, 8, 3072, num_experts=64, moe_topk=[8, 8],
                            use_qk_norm=True), ("'hunyuan_v1_moe' needs a QK-norm after the rotary embedding",)),
    "gpt-oss-20b": (_model("gpt_oss", 2880, 24, 64, 8, 2880, head_dim=64, num_local_experts=32, num_experts_per_tok=4,
                           attention_bias=True, sliding_window=128, swiglu_limit=7.0, layer_types=[
                               "sliding_attention", "full_attention"]),
                    ("layer_types = 'sliding_attention'",)),
    "Llama-4-Scout": ({"model_type": "llama4", "text_config": _model(
        "llama4_text", 5120, 48, 40, 8, 8192, attention_chunk_size=8192, num_local_experts=16, num_experts_per_tok=1,
        head_dim=128, max_position_embeddings=10485760)}, (
            "text_config: attention", "attention_chunk_size = 8192", "no_rope_layers = 'some'")),
    "Llama-3.2-11B-Vision": ({"model_type": "mllama", "text_config": _model(
        "mllama_text_model", 4096, 40, 32, 8, 14336, cross_attention_layers=[3, 8], rope_scaling=_llama3(8.0))},
        ("text_config: attention", "'mllama_text_model' needs cross attention")),
    "llava-1.5-7b-hf": ({"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}},
                        ("text_config: ", "hidden_size: missing", "num_attention_heads: missing")),
}  # fmt: skip
"""Attention of these is not built, with texts that the message must have."""
