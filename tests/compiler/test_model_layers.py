"""Which layer is of which kind, against `transformers`, and layers of mixtures by their index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tilescore.cli.main import main
from tilescore.compiler.feed_forward import MlpLayer, MoELayer
from tilescore.compiler.layer_patterns import layer_kinds
from tilescore.compiler.layers import DecoderLayer
from tilescore.compiler.model_layers import distinct_layers, layer_of, narrowed, ranges
from tilescore.compiler.models import ModelConfig, list_models, load_model, parse_config
from tilescore.rtl.spec.errors import ConfigError, WorkloadError
from tilescore.tests.compiler.tiny import tiny_config, write_config

L = 13
_MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 1, "topk_group": 1}
_QWEN = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
CASES: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": 8}, "mistral without": {"sliding_window": None}, "gemma2": {},
    "gemma3_text": {}, "gemma3_text pattern": {"sliding_window_pattern": 3}, "olmo3": {}, "cohere2": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 4, "sliding_window": 8},
    "qwen3 off": {"use_sliding_window": False, "max_window_layers": 4, "sliding_window": 8},
    "qwen3 listed": {"layer_types": ["sliding_attention", *["full_attention"] * (L - 1)], "sliding_window": 8,
                     "use_sliding_window": True},
    "qwen2_moe": {"use_sliding_window": True, "max_window_layers": 5, "sliding_window": 8, **_QWEN},
    "qwen3_moe": _QWEN | {"mlp_only_layers": [0, 5], "decoder_sparse_step": 2},
    "qwen3_next": _QWEN | {"num_experts": 4, "mlp_only_layers": [2]},
    "gpt_oss": {"num_local_experts": 4}, "smollm3": {"no_rope_layer_interval": 3},
    "smollm3 window": {"use_sliding_window": True, "sliding_window": 8},
    "llama4_text": {"num_local_experts": 4, "interleave_moe_layer_step": 2},
    "llama4_text listed": {"num_local_experts": 4, "moe_layers": [1, 4], "no_rope_layers": [1, 0] * 6 + [1]},
    "deepseek_v2": _MLA | {"first_k_dense_replace": 2}, "deepseek_v3": _MLA,
    "glm4_moe": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 1,
                 "topk_group": 1},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 2, "moe_layer_interval": 3,
                     "moe_intermediate_size": 8},
    "mixtral": {"num_local_experts": 4},
}  # fmt: skip


def _has_experts(layer: Any) -> bool:
    return any("experts" in name for name, _ in layer.named_modules())


@pytest.mark.parametrize("name", CASES)
def test_kinds_are_those_of_transformers(name: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    family = name.split()[0]
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8,
             "num_hidden_layers": L, "vocab_size": 8, "pad_token_id": 0}
    config = transformers.CONFIG_MAPPING[family](**sizes, **CASES[name])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    layers = model.model.layers
    raw = {"model_type": family, **sizes, **CASES[name]}
    experts = any(map(_has_experts, layers))
    found = layer_kinds(raw, L, experts=experts, source=name)
    assert [kind.feed_forward == "sparse" for kind in found] == list(map(_has_experts, layers))
    if types := getattr(config, "layer_types", None):
        assert [kind.attention for kind in found] == list(types)
    else:
        window = getattr(config, "sliding_window", None)
        assert {kind.attention for kind in found} == {"sliding_attention" if window else "full_attention"}
    if (rotary := getattr(config, "no_rope_layers", None)) is not None:
        assert [kind.rotary for kind in found] == list(map(bool, rotary))


def test_bundled_models() -> None:
    """Of those whose table has counts the rules give these, or say that the order is not known."""
    unknown = []
    for name in list_models():
        model = load_model(name)
        try:
            assert sum(layer.count for layer in distinct_layers(model)) == model.num_hidden_layers
        except ConfigError as error:
            assert "only their counts are known" in str(error)
            unknown.append(name)
    assert unknown == ["deepseek-v4-flash", "deepseek-v4-pro"]
    assert [(str(layer.kind), layer.count) for layer in distinct_layers(load_model("gemma-3-27b"))] == [
        ("sliding_attention, dense", 52), ("full_attention, dense", 10)]


def _model(family: str = "qwen3_moe", **keys: Any) -> ModelConfig:
    return parse_config(tiny_config(family, num_hidden_layers=6, **keys), name="m", source="m")


MIXED = {"mlp_only_layers": [0, 3], "intermediate_size": 80}


def test_layers_of_a_mixture() -> None:
    model = _model(**MIXED)
    dense, sparse = layer_of(model, "mlp"), layer_of(model, "moe")
    assert isinstance(dense.layer, MlpLayer) and dense.index == 0 and dense.layer.intermediate == 80
    assert isinstance(sparse.layer, MoELayer) and sparse.index == 1 and sparse.layer.intermediate == 32
    feeds = [type(layer_of(model, "decoder", i).layer.feed_forward) for i in range(6)]  # type: ignore[union-attr]
    assert feeds == [MlpLayer, MoELayer, MoELayer, MlpLayer, MoELayer, MoELayer]
    assert str(layer_of(model, "decoder")) == ("0 of 6 (full_attention, dense); others: 4 x full_attention, sparse, "
                                               "the first 1")
    assert [layer.indices for layer in distinct_layers(model)] == [(0, 3), (1, 2, 4, 5)]
    assert str(layer_of(_model(), "attention", 5)) == "5 of 6"
    assert isinstance(layer_of(model, "decoder", 3).layer, DecoderLayer)


@pytest.mark.parametrize(("name", "index", "parts"), [
    ("moe", 3, ("moe: layer 3 is full_attention, dense", "layers with moe: 1 to 2, 4 to 5")),
    ("mlp", 1, ("mlp: layer 1 is", "layers with mlp: 0, 3")),
    ("attention", 6, ("layer index", "from 0 to 5", "got 6")), ("attention", -1, ("from 0 to 5", "got -1"))])
def test_indices_without_such_a_layer(name: str, index: int, parts: tuple[str, ...]) -> None:
    with pytest.raises(WorkloadError) as error:
        layer_of(_model(**MIXED), name, index)
    assert all(part in str(error.value) for part in parts)


def test_full_layers_beside_those_not_built_are_named() -> None:
    """A kind that nothing builds, in a mixture with one that is."""
    types = ["linear_attention", *["full_attention"] * 5]
    model = _model("llama", layer_types=types)
    with pytest.raises(WorkloadError, match=r"linear_attention.*built: --layer-index 1 \(full_attention, dense\)"):
        layer_of(model, "attention")
    assert layer_of(model, "attention", 1).layer == layer_of(_model("llama"), "attention").layer


def test_a_window_that_no_layer_has_holds_nothing_back() -> None:
    model = _model("qwen3", use_sliding_window=True, sliding_window=4, max_window_layers=6)
    assert layer_of(model, "attention").layer == layer_of(_model("qwen3"), "attention").layer
    late = _model("qwen3", use_sliding_window=True, sliding_window=4, max_window_layers=2)
    assert [str(layer.kind) for layer in distinct_layers(late)] == ["full_attention, dense", "sliding_attention, dense"]
    kind = distinct_layers(late)[1].kind
    assert {layer.kind for layer in distinct_layers(narrowed(late, kind))} == {kind}


@pytest.mark.parametrize(("keys", "problem"), [
    ({"mlp_only_layers": 3}, "mlp_only_layers: expected a list of layer indices, got 3"),
    ({"decoder_sparse_step": 0}, "decoder_sparse_step: expected an integer of at least 1, got 0"),
    ({"layer_types": ["full_attention"]}, "layer_types: expected one entry for each of the 6 layers, got 1")])
def test_wrong_patterns(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"m: {problem}"):
        layer_of(_model(**keys), "attention")


def test_ranges() -> None:
    assert ranges((0, 3, 4, 5, 8)) == "0, 3 to 5, 8"


def test_the_report_says_which_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, tiny_config("qwen3_moe", num_hidden_layers=6, **MIXED))
    command = ["run", "--model", str(tmp_path), "--layer", "decoder", "--tokens", "2", "--tile", "nano", "--level",
               "timing", "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["layer_index"] == 0 and first["layer_of_model"].startswith("0 of 6 (full_attention, dense); others:")
    assert main([*command, "--layer-index", "1"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["layer_index"] == 1 and second["useful_macs"] != first["useful_macs"]
