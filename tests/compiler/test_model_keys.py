"""Keys of config.json: published configurations are read, unknown keys hold a layer back, and all are named at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tilescore.compiler.families import FAMILIES
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.model_features import RULED_KEYS
from tilescore.compiler.model_keys import (
    ATTENTION_FAMILIES,
    HARMLESS_KEYS,
    MLP_FAMILIES,
    MOE_FAMILIES,
    READ_KEYS,
    unknown_keys,
)
from tilescore.compiler.models import load_model
from tilescore.compiler.rotary import KINDS
from tilescore.rtl.spec.errors import ConfigError, TilescoreError, WorkloadError
from tilescore.tests.compiler.published import BUILT, NOT_BUILT
from tilescore.tests.compiler.tiny import MOE_FAMILIES as TINY_MOE
from tilescore.tests.compiler.tiny import tiny_config, write_config

# ---- published configurations ----


@pytest.mark.parametrize("name", BUILT)
def test_published_layers_are_built(name: str, tmp_path: Path) -> None:
    model = load_model(write_config(tmp_path, BUILT[name]))
    layer = attention_layer(model)
    assert layer.q_width >= layer.kv_width
    if model.model_type in MOE_FAMILIES:
        assert moe_layer(model).top_k == model.num_experts_per_tok
    scaling = model.raw.get("rope_scaling")
    assert (layer.rope_scaling is not None) == bool(scaling)


@pytest.mark.parametrize("name", NOT_BUILT)
def test_published_layers_that_are_not_built_say_why(name: str, tmp_path: Path) -> None:
    config, texts = NOT_BUILT[name]
    path = write_config(tmp_path, config)
    with pytest.raises(TilescoreError) as error:
        attention_layer(load_model(path))
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    for text in texts:
        assert text in message
    if "model_type" in message:
        assert "allowed: llama, mistral, mixtral, qwen2, qwen3" in message
        assert "hidden_size" not in message


@pytest.mark.parametrize("family", ["gpt2", "falcon", "mpt", "dbrx"])
def test_the_family_comes_before_its_sizes(family: str, tmp_path: Path) -> None:
    for experts in ({}, {"moe_num_experts": 4}):
        with pytest.raises(WorkloadError) as error:
            load_model(write_config(tmp_path, {"model_type": family, "n_embd": 8} | experts))
        assert f"attention: model_type = '{family}'" in str(error.value)
        moe = f"; moe: model_type = '{family}' " in str(error.value)
        assert moe == (bool(experts) or family == "dbrx")
    with pytest.raises(WorkloadError, match=rf"moe: model_type = '{family}'"):
        moe_layer(load_model(write_config(tmp_path, tiny_config("llama", model_type=family))))


def test_parts_of_multimodal_configurations(tmp_path: Path) -> None:
    parts = {name: load_model(write_config(tmp_path, config)).part for name, config in BUILT.items()}
    assert {name: part for name, part in parts.items() if part} == {
        "llava-v1.6-mistral-7b-hf": "text_config", "Mistral-Small-3.1-24B": "text_config",
        "InternVL3_5-8B": "llm_config", "Janus-Pro-7B": "language_config", "SmolVLM-500M": "text_config",
        "an omni model of a built family": "thinker_config.text_config",
    }  # fmt: skip


@pytest.mark.parametrize(("config", "text"), [
    ({"hidden_size": 64, "text_config": tiny_config("llama")}, "hidden_size = 64, text_config.hidden_size = 48"),
    ({"llm_config": {"text_config": tiny_config("llama"), "head_dim": 8}}, "llm_config.text_config.head_dim = 16"),
    ({"text_config": tiny_config("llama"), "llm_config": tiny_config("llama")}, "got text_config and llm_config"),
    ({"text_config": tiny_config("llama", model_type=...)}, "text_config: model_type: missing"),
    ({"thinker_config": {"text_config": tiny_config("llama", hidden_size=...)}},
     "thinker_config.text_config: hidden_size: missing"),
])  # fmt: skip
def test_wrong_parts(config: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_model(write_config(tmp_path, {"model_type": "wrapper"} | config))
    assert text in str(error.value)


# ---- unknown keys ----


def built(family: str, tmp_path: Path, ignore: tuple[str, ...] = (), **changes: Any) -> None:
    model = load_model(write_config(tmp_path, tiny_config(family, **changes)), ignore)
    attention_layer(model)
    if family in TINY_MOE:
        moe_layer(model)


@pytest.mark.parametrize("value", [1, 0, 0.0, False, True, "", "x", [], [1], {}, {"a": 1}])
def test_an_unknown_key_is_listed_whatever_its_value(value: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"not understood and may change the layer: new_key = .*--ignore-key"):
        built("llama", tmp_path, new_key=value)


@pytest.mark.parametrize(("family", "same", "other"), [
    ("cohere2", {"use_parallel_block": True, "rotary_pct": 1.0, "position_embedding_type": "rope_gptj",
                 "use_parallel_embedding": False}, {"use_parallel_block": False, "rotary_pct": 0.5}),
    ("phi3", {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False}, {"full_attn_mod": 2}),
    ("starcoder2", {"norm_type": "layer_norm", "mlp_type": "default"}, {"norm_type": "rms_norm"}),
    ("glm4_moe", {"decoder_sparse_step": 1, "moe_router_dtype": "float32"}, {"decoder_sparse_step": 2}),
    ("nemotron", {"head_dim": 128, "kv_channels": 128}, {"kv_channels": 64}),
    ("gemma2", {"sliding_window": 8, "sliding_window_size": 8, "cache_implementation": "hybrid"},
     {"sliding_window_size": 4}),
    ("minimax_m2", {"qk_norm_type": "per_layer", "layernorm_mlp_beta": 1.0}, {"qk_norm_type": "per_head"}),
    ("qwen2", {"rope_theta": 1e6, "rotary_emb_base": 1000000}, {"rotary_emb_base": 10000}),
])  # fmt: skip
def test_keys_that_say_what_the_layer_is_anyway(family: str, same: dict[str, Any], other: dict[str, Any]) -> None:
    """Understood where they agree with it; with another value they may change the layer."""
    config = {"model_type": family, **same}
    assert unknown_keys(config, family, RULED_KEYS) == ()
    assert unknown_keys(config | other, family, RULED_KEYS) == tuple(key for key in config if key in other)


@pytest.mark.parametrize("changes", [
    {"new_key": None}, {"_new_key": 1}, {"_attn_implementation": "sdpa"}, {"quantization_config": {"bits": 4}},
    {"eos_token_id": [1, 2]}, {"mlp_bias": True}, {"kv_lora_rank": 0}, {"pruned_heads": {}},
    {"tie_encoder_decoder": False}, {"use_bidirectional_attention": False}, {"is_causal": True},
    {"rope_scaling": {}}, {"rope_scaling": {"type": "default", "factor": None, "_x": 1}},
])  # fmt: skip
def test_keys_that_do_not_matter(changes: dict[str, Any], tmp_path: Path) -> None:
    built("llama", tmp_path, **changes)


@pytest.mark.parametrize(("family", "key"), [
    ("llama", "attention_multiplier"), ("granite", "is_llama_config"), ("llama", "num_experts"),
    ("mixtral", "moe_intermediate_size"), ("qwen3_moe", "residual_multiplier"), ("mistral", "use_bias"),
])  # fmt: skip
def test_a_key_of_another_family_is_unknown(family: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=rf"not understood .*{key} = 1"):
        built(family, tmp_path, (), **{key: 1})


def test_everything_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError) as error:
        built("llama", tmp_path, sliding_window=64, clip_qkv=8.0, b_key=[1], a_key=False,
              rope_scaling={"type": "linear", "factor": 2, "c_key": 1, "partial_rotary_factor": 0.5})  # fmt: skip
    text = str(error.value)
    wanted = ["sliding_window = 64 needs", "; clip_qkv = 8.0 needs",
              "; rope_scaling.partial_rotary_factor = 0.5 needs",
              "; keys that are not understood and may change the layer: b_key = [1], a_key = false, rope_scaling.c_key"]
    assert [text.index(part) for part in wanted] == sorted(text.index(part) for part in wanted)
    with pytest.raises(ConfigError) as error:
        built("qwen3_moe", tmp_path, hidden_size="48", head_dim=15, n_shared_experts=1, clip_qkv=8.0, a_key=1)
    for part in ("hidden_size", "; head_dim", "; clip_qkv = 8.0", "; n_shared_experts = 1", "the layer: a_key = 1"):
        assert part in str(error.value)


def test_keys_to_ignore(tmp_path: Path) -> None:
    built("llama", tmp_path, ("a_key", "b_key"), a_key=1, b_key=False)
    built("qwen3_moe", tmp_path, ("rope_scaling.c_key",), rope_scaling={"type": "linear", "factor": 2, "c_key": 1})
    with pytest.raises(WorkloadError, match=r"may change the layer: b_key = 2 \(allowed"):
        built("llama", tmp_path, ("a_key",), a_key=1, b_key=2)


@pytest.mark.parametrize(("ignore", "text"), [
    (("a_kye",), r"--ignore-key a_kye: .*has no such key that is not understood \(allowed: a_key\)"),
    (("a_key", "hidden_size", "vocab_size"), r"--ignore-key hidden_size, vocab_size: "),
    (("sliding_window", "a_key"), r"--ignore-key sliding_window: "),
    (("c_key", "a_key"), r"--ignore-key c_key: "),
])  # fmt: skip
def test_keys_that_cannot_be_ignored(ignore: tuple[str, ...], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=text):
        built("llama", tmp_path, ignore, a_key=1, sliding_window=64)


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    text = json.dumps(tiny_config("llama"))
    path = tmp_path / "config.json"
    path.write_text(text[:-1] + ', "hidden_size": 64}')
    with pytest.raises(ConfigError, match="contradictory fields: hidden_size stands twice, 48 and 64"):
        load_model(path)
    path.write_text(text[:-1] + ', "hidden_size": 48}')
    assert load_model(path).hidden_size == 48


# ---- families ----


@pytest.mark.parametrize(("family", "hint"), [
    ("qwen3moe", "did you mean 'qwen3_moe'?"), ("Mixtral", "did you mean 'mixtral'?"),
    ("granite-moe", "did you mean 'granitemoe'?"), ("deepsek_v3", "did you mean 'deepseek_v3"),
    ("zebra", "is not built yet (allowed: llama"),
])  # fmt: skip
def test_unknown_family(family: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(WorkloadError) as error:
        attention_layer(load_model(write_config(tmp_path, tiny_config("llama", model_type=family))))
    assert hint in str(error.value)


def test_tables_do_not_contradict() -> None:
    assert {*MOE_FAMILIES, *MLP_FAMILIES, *ATTENTION_FAMILIES} == set(FAMILIES)
    assert not (READ_KEYS | RULED_KEYS) & HARMLESS_KEYS
    for family in FAMILIES.values():
        assert not (family.read | READ_KEYS | RULED_KEYS) & family.harmless


def test_the_page_lists_the_families() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for layer, families in (("attention", ATTENTION_FAMILIES), ("moe", MOE_FAMILIES)):
        assert f"| {layer} | {', '.join(f'`{family}`' for family in families)} |" in page
    assert ", ".join(f"`{kind}`" for kind in KINDS[:-1]) in page.replace("\n", " ")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_of_the_class_is_known(family: str) -> None:
    """The configuration classes of transformers with all their defaults, null or not."""
    transformers = pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")
    pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
    # Classes of their own stand beside these families' checkpoints.
    published = {"kimi_k2": "deepseek_v3", "internlm2": "llama"}.get(family, family)
    keys = dict.fromkeys(transformers.CONFIG_MAPPING[published]().to_dict(), 1)
    assert len(keys) > 20 and unknown_keys(keys, family, RULED_KEYS) == ()
