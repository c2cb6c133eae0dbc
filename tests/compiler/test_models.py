"""Model configurations: the bundled table, files on disk, and one clear line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import AttentionLayer
from tilescore.compiler.models import ModelConfig, list_models, load_model
from tilescore.compiler.rotary import RopeScaling
from tilescore.rtl.spec.errors import ConfigError, WorkloadError
from tilescore.tests.compiler.tiny import FAMILIES, MOE_FAMILIES, tiny_config, write_config

BUILT_ATTENTION = {
    "llama-3-8b", "llama-3-70b", "mixtral-8x7b", "olmoe-1b-7b", "qwen3-30b-a3b", "qwen3-235b-a22b",
    "granite-3.0-1b-a400m", "granite-3.0-3b-a800m", "glm-4.5", "deepseek-v2", "deepseek-v3", "kimi-k2",
}  # fmt: skip
BUILT_MOE = (BUILT_ATTENTION - {"llama-3-8b", "llama-3-70b"}) | {
    "deepseek-v2", "deepseek-v3", "deepseek-v3.2", "kimi-k2", "glm-4.5", "glm-5", "qwen3-next-80b-a3b",
    "qwen3.5-35b-a3b", "llama-4-scout", "llama-4-maverick", "gpt-oss-20b", "gpt-oss-120b"}


# ---- construction ----


def test_bundled_names() -> None:
    names = list_models()
    assert len(names) == 24
    assert all(name == name.lower() and " " not in name for name in names)
    assert set(names) > BUILT_ATTENTION


@pytest.mark.parametrize("name", list_models())
def test_bundled_model_loads(name: str) -> None:
    model = load_model(name)
    assert model.name == name
    assert model.source == f"bundled model {name}"
    assert model.hidden_size == model.raw["hidden_size"]


def test_bundled_attention_layers() -> None:
    """Fields that differ between families; sources: the published config.json of each checkpoint."""
    common: dict[str, Any] = {"head_dim": 128, "softmax_scale": 128**-0.5}
    qwen = {"rope_theta": 1e6, "qk_norm": "head", "norm_eps": 1e-6}
    expected = [
        AttentionLayer(
            model="llama-3-8b", hidden=4096, heads=32, kv_heads=8, rope_theta=5e5, norm_eps=1e-5, **common
        ),
        AttentionLayer(model="qwen3-30b-a3b", hidden=2048, heads=32, kv_heads=4, **qwen, **common),
        AttentionLayer(
            model="olmoe-1b-7b", hidden=2048, heads=16, kv_heads=16, rope_theta=1e4, qk_norm="full",
            norm_eps=1e-5, **common,
        ),
        AttentionLayer(
            model="granite-3.0-1b-a400m", hidden=1024, heads=16, kv_heads=8, head_dim=64, rope_theta=1e4,
            norm_eps=1e-6, softmax_scale=0.015625,
        ),
    ]  # fmt: skip
    assert [attention_layer(load_model(layer.model)) for layer in expected] == expected


def test_bundled_moe_layers() -> None:
    rows = [
        ("mixtral-8x7b", 4096, 8, 2, 14336, True),
        ("qwen3-30b-a3b", 2048, 128, 8, 768, True),
        ("olmoe-1b-7b", 2048, 64, 8, 1024, False),
        ("granite-3.0-3b-a800m", 1536, 40, 8, 512, True),
    ]
    for model, hidden, experts, top_k, intermediate, norm_topk in rows:
        assert moe_layer(load_model(model)) == MoELayer(
            model=model,
            hidden=hidden,
            experts=experts,
            top_k=top_k,
            intermediate=intermediate,
            norm_topk=norm_topk,
        )


@pytest.mark.parametrize("name", sorted(BUILT_ATTENTION - {"glm-4.5"}))
def test_parameter_count_is_the_published_one(name: str) -> None:
    """Layers * (attention + feed-forward) + embeddings, within the rounding of the published total."""
    model = load_model(name)
    attention = attention_layer(model).weights
    dense = 3 * model.hidden_size * (model.intermediate_size or 0)
    mlp = moe_layer(model).weights if model.num_experts else dense
    embeddings = model.raw["vocab_size"] * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    layers, first = model.num_hidden_layers or 0, model.raw.get("first_k_dense_replace", 0)
    total = layers * (attention + mlp) + first * (dense - mlp) + embeddings
    assert total / 1e9 == pytest.approx(model.raw["published_total_active_B"][0], rel=0.005)


@pytest.mark.parametrize("as_directory", [False, True])
def test_path(as_directory: bool, tmp_path: Path) -> None:
    path = write_config(tmp_path / "my-model", tiny_config("qwen3_moe"))
    model = load_model(path.parent if as_directory else path)
    assert model.name == "my-model"
    assert model.source == str(path)
    assert attention_layer(model).rope_theta == 1e6
    assert moe_layer(model).intermediate == 32


def test_names_of_models(tmp_path: Path) -> None:
    """A model is called by its folder as the user names it; in the Hugging Face cache by the model, not the hash."""
    root = tmp_path / "models--meta-llama--Llama-3.1-8B"
    real = write_config(root / "snapshots" / "0e9e39f2", tiny_config("llama"))
    blob = root / "blobs" / "4f0c"
    blob.parent.mkdir()
    real.rename(blob)
    real.symlink_to("../../blobs/4f0c")
    for path in (real, real.parent, root, blob):
        assert load_model(path).name == "Llama-3.1-8B"
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0e9e39f2\n")
    write_config(root / "snapshots" / "1a2b", tiny_config("llama", hidden_size=64))
    assert load_model(root).hidden_size == 48
    (tmp_path / "mine").symlink_to(real.parent, target_is_directory=True)
    assert load_model(tmp_path / "mine").name == "mine"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").symlink_to(blob)
    assert load_model(tmp_path / "copy").name == "copy"
    assert load_model(write_config(tmp_path, tiny_config("llama")).rename(tmp_path / "tiny.json")).name == "tiny"


def test_name_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path / "here", tiny_config("llama"))
    monkeypatch.chdir(tmp_path / "here")
    for path in (".", "config.json", "../here", "./config.json"):
        assert load_model(path).name == "here"


@pytest.mark.parametrize("text", ["\ufeff{}", "\ufeff\n {}"])
def test_byte_order_mark(text: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, tiny_config("llama"))
    path.write_text(text.replace("{}", path.read_text()), encoding="utf-8")
    assert load_model(path).hidden_size == 48


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, tmp_path: Path) -> None:
    model = load_model(write_config(tmp_path, tiny_config(family)))
    assert attention_layer(model).head_dim == 16
    if family in MOE_FAMILIES:
        assert moe_layer(model).experts == 6


def test_field_rules(tmp_path: Path) -> None:
    def load(**changes: Any) -> ModelConfig:
        return load_model(write_config(tmp_path, tiny_config("llama", **changes)))

    assert load(num_key_value_heads=...).num_key_value_heads == 4  # LlamaConfig: absent means multi-head
    assert load(rope_theta=...).rope.theta == 1e4  # LlamaConfig's default, as in Llama-2
    linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    per_kind = {"full_attention": linear, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    for same in (
        {"rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_theta": ..., "rope_parameters": linear},
        {"rope_parameters": per_kind, "layer_types": ["full_attention"]},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": linear},
    ):
        layer = attention_layer(load(**same))
        assert (layer.rope_theta, layer.rope_scaling) == (5e5, RopeScaling(kind="linear", factor=2.0))
    assert load(head_dim=...).head_dim == 12
    assert load(head_dim=None).head_dim == 12
    assert load(rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": 7e5}).rope.theta == 7e5
    assert attention_layer(load(rope_scaling={"type": "default"})).rope_theta == 5e5
    assert attention_layer(load(layer_types=["full_attention"])).heads == 4
    assert attention_layer(load(rope_scaling=None, sliding_window=None)).heads == 4


SWITCHED = {"use_sliding_window": True, "sliding_window": 64}

WINDOWS: list[tuple[str, dict[str, Any], int | str | None]] = [
    ("mistral", {}, None), ("mistral", {"sliding_window": 64}, 64),
    ("mistral", {"sliding_window": ...}, 4096),  # MistralConfig's default when the key is absent
    ("mistral", {"sliding_window": 64, "layer_types": ["sliding_attention"]}, 64),
    ("mistral", {"sliding_window": 64, "layer_types": ["full_attention"]}, "layer_types = 'full_attention'"),
    ("mistral", {"sliding_window": 0}, "sliding_window = 0 needs a window of no keys"),
    ("mixtral", {"sliding_window": ...}, None), ("mixtral", {"sliding_window": 9}, 9),
    ("qwen3_moe", {"sliding_window": 64, "use_sliding_window": False}, None), ("qwen3_moe", SWITCHED, 64),
    ("qwen3_moe", {"use_sliding_window": True, "sliding_window": ...}, 4096), ("qwen3", {}, None),
    ("qwen3", SWITCHED, None),  # one layer, and windows from layer 28 on
    ("qwen3", {**SWITCHED, "max_window_layers": 0}, 64),
    ("qwen3", {**SWITCHED, "num_hidden_layers": 4, "max_window_layers": 2}, "64 needs a window on some layers"),
    ("qwen3", {**SWITCHED, "layer_types": ["sliding_attention"]}, 64),
    ("qwen3", {**SWITCHED, "layer_types": ["full_attention"], "max_window_layers": 0}, None),
    ("qwen3", {**SWITCHED, "layer_types": ["full_attention", "sliding_attention"]}, "layer_types = 'sliding_a"),
    ("qwen3", {"layer_types": ["sliding_attention"]}, "layer_types = 'sliding_attention'"),
    ("qwen2", {**SWITCHED, "max_window_layers": 0}, 64), ("qwen2", SWITCHED, None),
    ("qwen2_moe", SWITCHED, "sliding_window = 64 needs a window on some layers"),  # every second, by its class
    ("qwen2_moe", {**SWITCHED, "layer_types": ["sliding_attention"]}, 64), ("phimoe", {"sliding_window": 9}, 9),
    ("gpt_oss", {"layer_types": ["sliding_attention"], "sliding_window": 9}, 9),
    ("gpt_oss", {"layer_types": ..., "sliding_window": ...}, "sliding_window = 128 needs a window on some layers"),
    ("gemma2", {"layer_types": ["sliding_attention"], "sliding_window": ...}, 4096),
    ("gemma3_text", {"layer_types": ["sliding_attention"], "sliding_window": 9}, 9),
    ("granite", {"sliding_window": 64, "use_sliding_window": False}, None),
    ("granite", {"sliding_window": 64}, "that the family does not have"),
]


@pytest.mark.parametrize(("family", "changes", "expected"), WINDOWS, ids=lambda value: str(value)[:40])
def test_windows(family: str, changes: dict[str, Any], expected: int | str | None, tmp_path: Path) -> None:
    """The size of all layers, or the reason why there is none."""
    model = load_model(write_config(tmp_path, tiny_config(family, **changes)))
    if not isinstance(expected, str):
        assert attention_layer(model).window == expected
        return
    with pytest.raises(WorkloadError) as error:
        attention_layer(model)
    one_line(error, model.source, "attention: ", expected, "allowed: ")


def test_text_part_of_a_multimodal_config(tmp_path: Path) -> None:
    config = {"model_type": "wrapper", "text_config": tiny_config("llama")}
    assert load_model(write_config(tmp_path, config)).model_type == "llama"


# ---- wrong construction ----


def one_line(error: pytest.ExceptionInfo[Exception], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_unknown_model() -> None:
    with pytest.raises(WorkloadError) as error:
        load_model("Qwen3-30B")
    one_line(error, "unknown model 'Qwen3-30B'", "did you mean qwen3-30b-a3b", "llama-3-8b")


@pytest.mark.parametrize(("name", "hint"), [
    ("meta-llama/Llama-3-8B", "; did you mean llama-3-8b?"),
    ("meta-llama/Meta-Llama-3-70B-Instruct", "; did you mean llama-3-70b?"),
    ("mistralai/Mixtral-8x7B-Instruct-v0.1", "; did you mean mixtral-8x7b?"),
    ("Qwen/Qwen3-30B-A3B-Instruct-2507", "; did you mean qwen3-30b-a3b?"),
    ("ibm-granite/granite-3.0-1b-a400m-base", "; did you mean granite-3.0-1b-a400m?"),
    ("allenai/OLMoE-1B-7B-0924", "; did you mean olmoe-1b-7b?"),
    ("openai/gpt-oss_20b", "; did you mean gpt-oss-20b?"),
    ("deepseek-ai/DeepSeek-V3", "; did you mean deepseek-v3?"),
    ("deepseek-ai/DeepSeek-V3-Base", "; did you mean deepseek-v3?"),
    ("deepseek-ai/DeepSeek-V2", "; did you mean deepseek-v2?"),
    ("deepseek-ai/DeepSeek-V3.2", "; did you mean deepseek-v3.2?"),
    ("llama3-8b", "; did you mean llama-3-8b?"),
    ("bigscience/bloom", ": expected a path"),
])  # fmt: skip
def test_names_that_are_meant(name: str, hint: str) -> None:
    with pytest.raises(WorkloadError) as error:
        load_model(name)
    one_line(error, f"unknown model '{name}'", hint, "config.json")


def test_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError) as error:
        load_model(tmp_path)
    one_line(error, str(tmp_path / "config.json"), "no such file")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not valid JSON: line 1"),
        (b'{"model_type": "llama",', "not valid JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b"\xff\xfe\x00", "expected UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_not_a_configuration(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_model(path)
    one_line(error, str(path), expected)


BAD_FIELDS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("llama", {"model_type": ...}, ("model_type: missing",)),
    ("llama", {"model_type": 7}, ("model_type", "a string", "7")),
    ("llama", {"hidden_size": ...}, ("hidden_size: missing",)),
    ("llama", {"hidden_size": 0}, ("hidden_size", "from 1", "got 0")),
    ("llama", {"hidden_size": -48}, ("hidden_size", "got -48")),
    ("llama", {"hidden_size": 48.0}, ("hidden_size", "an integer", "got 48.0")),
    ("llama", {"hidden_size": "48"}, ("hidden_size", "got '48'")),
    ("llama", {"hidden_size": True}, ("hidden_size", "got True")),
    ("llama", {"hidden_size": 1 << 40}, ("hidden_size", "to 1048576")),
    (
        "llama",
        {"hidden_size": 50, "head_dim": ...},
        ("hidden_size", "multiple of num_attention_heads = 4", "50"),
    ),
    ("llama", {"num_attention_heads": ...}, ("num_attention_heads: missing",)),
    ("llama", {"num_attention_heads": [4]}, ("num_attention_heads", "got [4]")),
    ("llama", {"num_key_value_heads": 3}, ("num_key_value_heads", "divisor", "= 4", "got 3")),
    ("llama", {"num_key_value_heads": 8}, ("num_key_value_heads", "divisor", "got 8")),
    ("qwen3_moe", {"num_key_value_heads": ...}, ("num_key_value_heads: missing",)),
    ("llama", {"head_dim": 15}, ("head_dim", "even", "got 15")),
    ("llama", {"head_dim": -16}, ("head_dim", "got -16")),
    ("llama", {"rope_theta": 0}, ("rope_theta", "positive", "got 0")),
    ("llama", {"rope_theta": "1e4"}, ("rope_theta", "got '1e4'")),
    ("llama", {"rope_theta": float("inf")}, ("rope_theta", "finite", "got inf")),
    ("llama", {"rope_parameters": [1e4]}, ("rope_parameters", "an object")),
    ("llama", {"rope_parameters": {"rope_theta": -1}}, ("rope_parameters.rope_theta", "got -1")),
    ("llama", {"rope_parameters": {"rope_theta": 1e4}}, ("contradictory", "500000", "10000")),
    ("llama", {"rms_norm_eps": float("nan")}, ("rms_norm_eps", "got nan")),
    ("qwen3_moe", {"rms_norm_eps": ...}, ("rms_norm_eps: missing",)),
    ("llama", {"attention_bias": "no"}, ("attention_bias", "true or false", "'no'")),
    ("qwen3_moe", {"norm_topk_prob": 1}, ("norm_topk_prob", "true or false", "got 1")),
    ("mixtral", {"norm_topk_prob": False}, ("norm_topk_prob", "always normalises", "got False")),
    ("qwen3_moe", {"num_local_experts": 8}, ("contradictory", "num_experts = 6", "num_local_experts = 8")),
    ("qwen3_moe", {"num_experts": -1}, ("num_experts", "got -1")),
    ("qwen3_moe", {"num_experts_per_tok": ...}, ("num_experts_per_tok: missing", "1 to 6")),
    ("qwen3_moe", {"num_experts_per_tok": 0}, ("num_experts_per_tok", "from 1", "got 0")),
    ("qwen3_moe", {"num_experts_per_tok": 7}, ("num_experts_per_tok", "at most the 6", "got 7")),
    ("qwen3_moe", {"moe_intermediate_size": ...}, ("moe_intermediate_size: missing",)),
    ("olmoe", {"intermediate_size": ...}, ("intermediate_size: missing",)),
    ("llama", {"hidden_act": 3}, ("hidden_act", "a string", "got 3")),
    ("llama", {"layer_types": 3}, ("layer_types", "a list of strings", "got 3")),
    ("llama", {"layer_types": ["full_attention", 1]}, ("layer_types", "a list of strings")),
    ("llama", {"num_key_value_heads": [2, 2, 1]}, ("num_key_value_heads", "an integer", "got [2, 2, 1]")),
    ("llama", {"sliding_window": "4096"}, ("sliding_window", "an integer from 0", "got '4096'")),
    ("llama", {"use_sliding_window": "no"}, ("use_sliding_window", "true or false")),
    ("llama", {"rope_theta": 10**400}, ("rope_theta", "positive finite")),
    ("llama", {"rms_norm_eps": "1e-5"}, ("rms_norm_eps", "'1e-5'")),
    ("llama", {"hidden_size": 36, "head_dim": ...}, ("hidden_size", "an even multiple", "got 36")),
    ("qwen3", {"head_dim": ...}, ("head_dim: missing",)),  # its class default is 128, whatever the hidden size
    ("llama", {"rope_scaling": "linear"}, ("rope_scaling", "an object or null", "'linear'")),
    ("llama", {"rope_scaling": {"factor": 4.0}}, ("rope_scaling.rope_type: missing", "default, linear, dynamic")),
    ("llama", {"rope_scaling": {"type": "linear"}}, ("rope_scaling.factor: missing",)),
    ("llama", {"rope_scaling": {"type": "linear", "factor": "4"}}, ("rope_scaling.factor", "positive", "'4'")),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4}}, ("max_position_embeddings: missing",)),
    ("llama", {"rope_scaling": {"type": "yarn"}, "max_position_embeddings": 64, "original_max_position_embeddings": 16},
     ("rope_scaling.factor: missing",)),
    ("llama", {"rope_scaling": {"type": "yarn", "factor": 4}}, ("original_max_position_embeddings: missing",)),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 4}},
        ("contradictory", "rope_scaling.rope_type = 'yarn'", "rope_scaling.type = 'linear'"),
    ),
    (
        "llama",
        {"rope_scaling": {"type": "linear", "factor": 4}, "rope_parameters": {"rope_type": "default"}},
        ("contradictory", "rope_scaling and rope_parameters differ"),
    ),
    (
        "llama",
        {
            "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 32},
        },
        ("contradictory", "original_max_position_embeddings = 64", "= 32"),
    ),
    (
        "llama",
        {"max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2]}},
        ("rope_scaling.short_factor", "head_dim / 2 = 8 numbers, got 1"),
    ),
    ("llama", {"rope_parameters": {"full_attention": 3}}, ("rope_parameters.full_attention", "an object")),
    ("granitemoe", {"attention_multiplier": -1}, ("attention_multiplier", "positive", "got -1")),
]


@pytest.mark.parametrize(("family", "changes", "expected"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_bad_field(family: str, changes: dict[str, Any], expected: tuple[str, ...], tmp_path: Path) -> None:
    path = write_config(tmp_path, tiny_config(family, **changes))
    with pytest.raises(ConfigError) as error:
        load_model(path)
    one_line(error, str(path), *expected)


NOT_BUILT_ATTENTION: list[tuple[dict[str, Any], str]] = [
    ({"kv_lora_rank": 512}, "kv_lora_rank = 512 needs multi-head latent attention"),
    ({"index_topk": 2048}, "index_topk = 2048"),
    ({"sliding_window": 4096}, "sliding_window = 4096 needs a sliding window that the family does not have"),
    ({"layer_types": ["sliding_attention"] * 2}, "layer_types = 'sliding_attention'"),
    ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types = 'linear_attention'"),
    ({"attention_chunk_size": 8192}, "chunked attention"),
    ({"model_type": "mistral", "sliding_window": None, "attention_bias": True}, "attention_bias = True"),
    ({"model_type": "qwen2", "use_mrope": True}, "use_mrope = True"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
    ({"clip_qkv": 8.0}, "clip_qkv = 8.0"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ({"rope_scaling": {"rope_type": "mrope", "mrope_section": [4, 4]}}, "rope_scaling.rope_type = 'mrope' needs"),
    ({"rope_scaling": {"type": "su", "factor": 4.0}}, "rope_scaling.type = 'su' needs"),
    (
        {"rope_theta": ..., "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}},
        "rope_parameters.partial_rotary_factor = 0.25 needs a partial rotary embedding",
    ),
    ({"model_type": "bloom"}, "model_type = 'bloom' needs ALiBi positions, which is not built yet"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention = True needs attention without a causal mask"),
    ({"is_causal": False}, "is_causal = False needs attention without a causal mask"),
    ({"use_mla": True}, "use_mla = True needs another kind of attention"),
    ({"use_qk_norm": True}, "use_qk_norm = True needs a QK-norm that the family does not have"),
    ({"model_type": "qwen3", "use_qk_norm": False}, "use_qk_norm = False needs attention without the QK-norm"),
    ({"model_type": "apertus"}, "model_type = 'apertus' is not built yet (allowed: "),
    ({"model_type": "qwen4_moe"}, "model_type = 'qwen4_moe' is not built yet (allowed: "),
]


@pytest.mark.parametrize(("changes", "expected"), NOT_BUILT_ATTENTION, ids=lambda value: str(value)[:40])
def test_attention_not_built(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    model = load_model(write_config(tmp_path, tiny_config("llama", **changes)))
    with pytest.raises(WorkloadError) as error:
        attention_layer(model)
    one_line(error, model.source, "attention: ", expected, "allowed: ")


_V2 = {"model_type": "deepseek_v2", "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
NOT_BUILT_MOE: list[tuple[dict[str, Any], str]] = [
    ({"scoring_func": "sigmoid"}, "scoring_func = 'sigmoid'"),
    ({"n_group": 8}, "n_group = 8"),
    ({"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc'"),
    ({"n_shared_experts": 1}, "n_shared_experts = 1"),
    ({"shared_expert_intermediate_size": 512}, "shared_expert_intermediate_size = 512"),
    ({"routed_scaling_factor": 2.5}, "routed_scaling_factor = 2.5"),
    ({"swiglu_limit": 7.0}, "swiglu_limit = 7.0"),
    ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'"),
    ({"mlp_layer_types": ["hash_moe"]}, "hash routing"),
    ({"model_type": "arctic"}, "model_type = 'arctic' needs a dense branch beside the experts, which is not built yet"),
    (_V2 | {"n_routed_experts": 6, "norm_topk_prob": True}, "norm_topk_prob = True needs"),
    (_V2 | {"topk_method": "noaux_tc"}, "topk_method = 'noaux_tc'"),
    ({"model_type": "glm4_moe", "scoring_func": "softmax"}, "scoring_func = 'softmax'"),
    ({"model_type": "minimax_m2", "intermediate_size": 32, "use_routing_bias": False}, "use_routing_bias = False"),
]


@pytest.mark.parametrize(("changes", "expected"), NOT_BUILT_MOE, ids=lambda value: str(value)[:40])
def test_moe_not_built(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    model = load_model(write_config(tmp_path, tiny_config("qwen3_moe", **changes)))
    with pytest.raises(WorkloadError) as error:
        moe_layer(model)
    one_line(error, model.source, "moe: ", expected, "allowed: ")


def test_moe_layer_of_a_dense_model() -> None:
    with pytest.raises(WorkloadError) as error:
        moe_layer(load_model("llama-3-8b"))
    one_line(error, "bundled model llama-3-8b", "no experts", "num_experts")


@pytest.mark.parametrize("name", list_models())
def test_a_bundled_layer_is_built_or_says_why_not(name: str) -> None:
    model = load_model(name)
    for make, built in ((attention_layer, BUILT_ATTENTION), (moe_layer, BUILT_MOE)):
        if name in built:
            assert make(model).model == name
        else:
            with pytest.raises(WorkloadError) as error:
                make(model)
            one_line(error, f"bundled model {name}: ")
