"""Checkpoints: names and layouts of every family, sharding, activations in the file, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.checkpoint import from_safetensors
from tilescore.compiler.checkpoint_files import INDEX_NAME
from tilescore.compiler.graph.stored import BLOCKS, SPLIT, STACKED, ExpertLayout
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.tensors import LayerTensors, synthetic_input, synthetic_value
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.tests.compiler.tiny import (
    FAMILIES,
    MOE_FAMILIES,
    tiny_config,
    tiny_weights,
    write_model,
    write_safetensors,
)

SELF = "model.layers.0.self_attn."
Weights = dict[str, np.ndarray]


def attention_workload(directory: Path) -> Workload:
    return Workload(layer=attention_layer(load_model(directory)), phase="decode", tokens=2, context=4)


def moe_workload(directory: Path) -> Workload:
    return Workload(layer=moe_layer(load_model(directory)), tokens=3)


def load_attention(directory: Path, path: Path | None = None) -> LayerTensors:
    tensors = from_safetensors(path or directory, attention_workload(directory), seed=4)
    return tensors


def load_moe(directory: Path, path: Path | None = None) -> LayerTensors:
    tensors = from_safetensors(path or directory, moe_workload(directory), seed=4)
    return tensors


def changed(directory: Path, family: str, change: Callable[[Weights], object]) -> Path:
    """A tiny model whose weights were changed before they were written."""
    write_model(directory, family)
    weights = tiny_weights(tiny_config(family), 0)
    change(weights)
    write_safetensors(directory / "model.safetensors", weights)
    return directory


# ---- reading ----


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights(family: str, tmp_path: Path) -> None:
    directory = write_model(tmp_path, family, seed=2)
    stored = tiny_weights(tiny_config(family), 2)
    tensors = load_attention(directory)
    for name in ("q", "k", "v", "o"):
        assert np.array_equal(getattr(tensors, f"w{name}"), stored[f"{SELF}{name}_proj.weight"])
    for name in ("q_norm", "k_norm"):
        found, expected = getattr(tensors, name, None), stored.get(f"{SELF}{name}.weight")
        assert (found is None and expected is None) or np.array_equal(found, expected)
    assert np.array_equal(tensors.x, synthetic_input(tensors.workload, 4))
    assert np.array_equal(tensors.v_cache, synthetic_value(tensors.workload, "v_cache", 4))


@pytest.mark.parametrize("family", MOE_FAMILIES)
def test_expert_weights(family: str, tmp_path: Path) -> None:
    directory = write_model(tmp_path, family, seed=2)
    stored = tiny_weights(tiny_config(family), 2)
    tensors = load_moe(directory)
    expert = tensors.expert(5)
    if family == "granitemoe":
        mlp = "model.layers.0.block_sparse_moe."
        assert np.array_equal(tensors.router, stored[f"{mlp}router.layer.weight"])
        assert np.array_equal(
            np.concatenate([expert.gate, expert.up]), stored[f"{mlp}input_linear.weight"][5]
        )
        assert np.array_equal(expert.down, stored[f"{mlp}output_linear.weight"][5])
        return
    mlp = "model.layers.0.block_sparse_moe." if family == "mixtral" else "model.layers.0.mlp."
    names = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    assert np.array_equal(tensors.router, stored[f"{mlp}gate.weight"])
    for found, name in zip((expert.gate, expert.up, expert.down), names, strict=True):
        assert np.array_equal(found, stored[f"{mlp}experts.5.{name}.weight"])


def fuse(weights: Weights) -> None:
    """The in-memory layout of transformers 5: all experts in two tensors."""
    mlp = "model.layers.0.mlp."

    def take(expert: int, name: str) -> np.ndarray:
        return weights.pop(f"{mlp}experts.{expert}.{name}_proj.weight")

    both = [np.concatenate([take(e, "gate"), take(e, "up")]) for e in range(6)]
    weights[f"{mlp}experts.gate_up_proj"] = np.stack(both)
    weights[f"{mlp}experts.down_proj"] = np.stack([take(e, "down") for e in range(6)])


def test_fused_experts_are_the_same_experts(tmp_path: Path) -> None:
    separate = load_moe(write_model(tmp_path / "separate", "qwen3_moe"))
    fused = load_moe(changed(tmp_path / "fused", "qwen3_moe", fuse))
    for expert in range(6):
        for name in ("gate", "up", "down"):
            assert np.array_equal(getattr(separate.expert(expert), name), getattr(fused.expert(expert), name))


LAYOUTS = [(block, layout, kind) for block in BLOCKS for kind in ("split", "stacked")
           for layout in (SPLIT if kind == "split" else STACKED)]  # fmt: skip


@pytest.mark.parametrize(("block", "layout", "kind"), LAYOUTS, ids=str)
def test_every_layout_holds_the_same_experts(block: str, layout: ExpertLayout, kind: str, tmp_path: Path) -> None:
    """Granite's published weights (fused, all experts in one tensor) rewritten in each layout."""
    plain = tiny_weights(tiny_config("granitemoe"), 0)
    old = "model.layers.0.block_sparse_moe."
    inner, down, router = (plain.pop(f"{old}{n}.weight") for n in ("input_linear", "output_linear", "router.layer"))
    gate, up = inner[:, :32], inner[:, 32:]
    parts = {layout.gate: gate, layout.up: up, layout.down: down}
    if layout.gate == layout.up:
        parts[layout.gate] = inner
    base = f"model.layers.0.{block}"
    new = {f"{base}gate.weight": router}
    for name, value in parts.items():
        new |= {base + name: value} if kind == "stacked" else {base + name.format(e): value[e] for e in range(6)}
    write_model(tmp_path, "granitemoe")
    write_safetensors(tmp_path / "model.safetensors", plain | new)
    tensors = load_moe(tmp_path)
    assert np.array_equal(tensors.router, router)
    for e in range(6):
        held = tensors.expert(e)
        for found, wanted in ((held.gate, gate[e]), (held.up, up[e]), (held.down, down[e])):
            assert np.array_equal(found, wanted)


def write_shards(directory: Path, weights: Weights) -> dict[str, str]:
    """One shard per tensor, and an index; the file of each tensor."""
    (directory / "model.safetensors").unlink(missing_ok=True)
    names = {name: f"model-{number}.safetensors" for number, name in enumerate(weights)}
    for name, shard in names.items():
        write_safetensors(directory / shard, {name: weights[name]})
    (directory / INDEX_NAME).write_bytes(b"\xef\xbb\xbf" + json.dumps({"weight_map": names}).encode())
    return names


def test_shards_that_the_layer_does_not_need(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "qwen3_moe")
    weights = tiny_weights(tiny_config("qwen3_moe"), 0)
    names = write_shards(directory, weights)
    for name, shard in names.items():
        if ".mlp." in name:
            (directory / shard).unlink()
    for path in (directory, directory / INDEX_NAME):
        assert np.array_equal(load_attention(directory, path).wq, weights[f"{SELF}q_proj.weight"])
        with pytest.raises(WorkloadError, match=r"model-\d+\.safetensors: cannot be read: no such file, but .*mlp\."):
            load_moe(directory, path)
    write_safetensors(directory / names[f"{SELF}v_proj.weight"], {"other": np.zeros(1, np.float32)})
    refused(load_attention, directory, names[f"{SELF}v_proj.weight"], f"{SELF}v_proj.weight: missing")


def test_a_model_of_the_hugging_face_cache(tmp_path: Path) -> None:
    root = tmp_path / "models--org--tiny"
    directory = write_model(root / "snapshots" / "abc", "llama")
    blob = root / "blobs" / "0123"
    blob.parent.mkdir()
    (directory / "model.safetensors").rename(blob)
    (directory / "model.safetensors").symlink_to("../../blobs/0123")
    for path in (root, directory, directory / "model.safetensors", blob):
        assert load_attention(root, path).wq.shape == (64, 48)


def test_one_file_by_its_path(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "llama")
    by_file, by_directory = (
        load_attention(directory, directory / "model.safetensors"),
        load_attention(directory),
    )
    assert np.array_equal(by_file.wq, by_directory.wq)


def test_shards(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "llama", seed=6)
    weights = tiny_weights(tiny_config("llama"), 6)
    (directory / "model.safetensors").unlink()
    index = {}
    for number, (name, value) in enumerate(weights.items()):
        shard = f"model-{number}.safetensors"
        write_safetensors(directory / shard, {name: value})
        index[name] = shard
    without_index = load_attention(directory)
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": index}))
    with_index = load_attention(directory)
    for tensors in (without_index, with_index):
        assert np.array_equal(tensors.wo, weights[f"{SELF}o_proj.weight"])


def test_base_model_without_the_prefix(tmp_path: Path) -> None:
    def strip(weights: Weights) -> None:
        for name in list(weights):
            weights[name.removeprefix("model.")] = weights.pop(name)

    assert load_attention(changed(tmp_path, "llama", strip)).wq.shape == (64, 48)


def test_activations_in_the_file(tmp_path: Path, rng: np.random.Generator) -> None:
    extra = {
        "x": rng.standard_normal((2, 48)).astype(np.float32),
        "k_cache": rng.standard_normal((1, 2, 4, 16)).astype(np.float32),
        "v_cache": rng.standard_normal((1, 2, 4, 16)).astype(np.float32),
    }
    tensors = load_attention(changed(tmp_path, "llama", lambda weights: weights.update(extra)))
    for name, value in extra.items():
        assert np.array_equal(getattr(tensors, name), value)


# ---- refusals ----


def refused(load: Callable[[Path], object], directory: Path, *expected: str) -> None:
    with pytest.raises(WorkloadError) as error:
        load(directory)
    for part in (str(directory), *expected):
        assert part in str(error.value)


def put(name: str, value: np.ndarray) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: value})


@pytest.mark.parametrize(
    ("family", "change", "expected"),
    [
        (
            "llama",
            lambda w: w.pop(f"{SELF}k_proj.weight"),
            "k_proj.weight: missing; expected a tensor of shape (32",
        ),
        (
            "llama",
            put(f"{SELF}q_proj.weight", np.zeros((48, 64), np.float32)),
            "shape: expected (64, 48), got (48, 64)",
        ),
        (
            "llama",
            put(f"{SELF}v_proj.weight", np.zeros((32, 48))),
            "dtype: expected one of F32, F16, BF16, got F64",
        ),
        (
            "llama",
            put(f"{SELF}o_proj.weight", np.full((48, 64), np.nan, np.float32)),
            "element (0, 0): expected a finite",
        ),
        (
            "llama",
            put(f"{SELF}q_proj.bias", np.zeros(64, np.float32)),
            "q_proj.bias: biases are not built yet",
        ),
        (
            "llama",
            put(f"{SELF}q_norm.weight", np.zeros(16, np.float32)),
            "q_norm.weight: the layer has no such tensor",
        ),
        ("llama", put(f"{SELF}sinks", np.zeros(4, np.float32)), "sinks: the layer has no such tensor"),
        (
            "llama",
            put(f"{SELF}q_proj.weight_scale_inv", np.ones((1, 1), np.float32)),
            "q_proj.weight_scale_inv: the layer has no such tensor",
        ),
        ("qwen3_moe", lambda w: w.pop(f"{SELF}q_norm.weight"), "q_norm.weight: missing"),
        ("llama", put("x", np.zeros((3, 48), np.float32)), "x: shape: expected (2, 48), got (3, 48)"),
        (
            "llama",
            put("k_cache", np.zeros((1, 2, 5, 16), np.float32)),
            "k_cache: shape: expected (1, 2, 4, 16)",
        ),
    ],
)
def test_bad_attention_checkpoint(
    family: str, change: Callable[[Weights], object], expected: str, tmp_path: Path
) -> None:
    refused(load_attention, changed(tmp_path, family, change), expected)


MLP = "model.layers.0.mlp."


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda w: w.pop(f"{MLP}gate.weight"), "mlp.gate.weight: missing"),
        (lambda w: w.pop(f"{MLP}experts.4.up_proj.weight"), "experts.4.up_proj.weight: missing"),
        (lambda w: w.pop(f"{MLP}experts.0.gate_proj.weight"), "experts.0.gate_proj.weight: missing"),
        (
            put(f"{MLP}experts.5.down_proj.weight", np.zeros((48, 33), np.float32)),
            "expected (48, 32), got (48, 33)",
        ),
        (
            put(f"{MLP}experts.6.gate_proj.weight", np.zeros((32, 48), np.float32)),
            "expected 6 experts, found more",
        ),
        (put(f"{MLP}gate.weight", np.zeros((8, 48), np.float32)), "expected (6, 48), got (8, 48)"),
        (
            put(f"{MLP}shared_expert.up_proj.weight", np.zeros((32, 48), np.float32)),
            "shared_expert.up_proj.weight: the layer has no such tensor",
        ),
        (put(f"{MLP}gate.e_score_correction_bias", np.zeros(6, np.float32)), "correction_bias: the layer has no such"),
    ],
)
def test_bad_moe_checkpoint(change: Callable[[Weights], object], expected: str, tmp_path: Path) -> None:
    refused(load_moe, changed(tmp_path, "qwen3_moe", change), expected)


def test_nan_in_an_expert_is_found_when_it_is_loaded(tmp_path: Path) -> None:
    name = f"{MLP}experts.2.down_proj.weight"
    tensors = load_moe(changed(tmp_path, "qwen3_moe", put(name, np.full((48, 32), np.inf, np.float32))))
    tensors.expert(1)
    with pytest.raises(WorkloadError, match=r"experts\.2\.down_proj\.weight: element \(0, 0\)"):
        tensors.expert(2)


def test_fused_experts_of_the_wrong_shape(tmp_path: Path) -> None:
    def spoil(weights: Weights) -> None:
        fuse(weights)
        weights[f"{MLP}experts.gate_up_proj"] = (
            weights[f"{MLP}experts.gate_up_proj"].transpose(0, 2, 1).copy()
        )

    refused(
        load_moe,
        changed(tmp_path, "qwen3_moe", spoil),
        "gate_up_proj",
        "expected (6, 64, 48), got (6, 48, 64)",
    )


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "llama")
    write_safetensors(directory / "other.safetensors", {f"{SELF}q_proj.weight": np.zeros((64, 48), np.float32)})
    refused(load_attention, directory, f"{SELF}q_proj.weight: stands in model.safetensors and other.safetensors")
    assert load_attention(directory, directory / "model.safetensors").wq.any()


def test_tensors_that_do_not_change_the_layer(tmp_path: Path) -> None:
    extra = {f"{SELF}rotary_emb.inv_freq": np.zeros(8, np.float32), f"{SELF}k_proj.k_scale": np.ones(1, np.float32)}
    assert load_attention(changed(tmp_path, "llama", lambda weights: weights.update(extra))).wq.shape == (64, 48)


def test_wrong_layer(tmp_path: Path) -> None:
    directory = write_model(tmp_path, "llama")
    workload = attention_workload(directory)
    for index, expected in ((1, "layer 1: expected tensors model.layers.1.*, found none"), (-1, "got -1")):
        with pytest.raises(WorkloadError) as error:
            from_safetensors(directory, workload, layer_index=index)
        assert expected in str(error.value)


def test_wrong_place(tmp_path: Path) -> None:
    workload = attention_workload(write_model(tmp_path / "model", "llama"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / INDEX_NAME).write_text("[]")
    (tmp_path / "bin").mkdir()
    for name in ("pytorch_model.bin", "model.gguf", "a.npz", "b.pt", "c.h5", "readme.md"):
        (tmp_path / "bin" / name).write_bytes(b"")
    (tmp_path / "pytorch").mkdir()
    (tmp_path / "pytorch" / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "model-1.bin"}}')
    for name, expected in (
        ("bin", "found only a.npz, b.pt, c.h5, model.gguf, ..."),
        ("pytorch/pytorch_model.bin.index.json", "weight_map: expected files named *.safetensors, got 'model-1.bin'"),
        ("none", "no such file or directory"),
        ("empty", "found none"),
        ("bad", 'expected a JSON object with "weight_map"'),
    ):
        refused(lambda path: from_safetensors(path, workload), tmp_path / name, expected)


def test_queries_keys_and_values_in_one_tensor(tmp_path: Path) -> None:
    """One above the other (Phi-3), or in turn for each head of keys (InternLM2): the same layer, weights and biases."""
    layer = AttentionLayer(hidden=24, heads=6, kv_heads=2, head_dim=4, qkv_bias=True)
    workload, rng = Workload(layer=layer, tokens=2), np.random.default_rng(0)
    own = {f"{name}_proj.{kind}": rng.standard_normal((size, 24) if kind == "weight" else size).astype(np.float32)
           for name, size in (("q", 24), ("k", 8), ("v", 8), ("o", 24)) for kind in ("weight", "bias")}
    stacked, turns = {}, {}
    for kind in ("weight", "bias"):
        q, k, v = (own[f"{name}_proj.{kind}"] for name in "qkv")
        stacked[f"self_attn.qkv_proj.{kind}"] = np.concatenate([q, k, v])
        turns[f"attention.wqkv.{kind}"] = np.concatenate([
            np.concatenate([q[12 * g:12 * g + 12], k[4 * g:4 * g + 4], v[4 * g:4 * g + 4]]) for g in range(2)])
    files = {"apart": {f"self_attn.{name}": values for name, values in own.items() if name != "o_proj.bias"},
             "stacked": stacked | {"self_attn.o_proj.weight": own["o_proj.weight"]},
             "in turn": turns | {"attention.wo.weight": own["o_proj.weight"]}}
    found = {}
    for name, tensors in files.items():
        write_safetensors(tmp_path / f"{name}.safetensors", {f"model.layers.0.{key}": v for key, v in tensors.items()})
        found[name] = from_safetensors(tmp_path / f"{name}.safetensors", workload).arrays
    for name in ("stacked", "in turn"):
        assert all(np.array_equal(found[name][key], value) for key, value in found["apart"].items())
