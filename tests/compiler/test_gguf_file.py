"""GGUF files: the model that was written is read, and what is not read is refused by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.gguf_file import GgufFile, load_package
from tilescore.compiler.layer_readers import decoder_layer
from tilescore.rtl.spec.errors import ConfigError, ToolError, WorkloadError
from tilescore.tests.compiler.lm import tiny_gguf


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "tiny.gguf", quantized=("blk.0.ffn_up.weight",))


def test_the_configuration_is_read(path: Path) -> None:
    layer = decoder_layer(GgufFile(path).config)
    assert (layer.hidden, layer.attention.heads, layer.attention.kv_heads) == (32, 2, 1)
    assert layer.norm_eps == pytest.approx(1e-5) and layer.attention.rope_theta == 1e4
    assert GgufFile(path).config.num_hidden_layers == 2 and GgufFile(path).raw["tie_word_embeddings"] is True


def test_tensors_stand_as_transformers_has_them(path: Path) -> None:
    file, written = GgufFile(path), tiny_gguf.tensors()
    assert np.array_equal(file.read("model.layers.1.mlp.down_proj.weight", (32, 64)), written["blk.1.ffn_down.weight"])
    # llama.cpp has pairs side by side: row 2i of a head was row i of its first half, row 2i + 1 of its second
    rows = [2 * i for i in range(8)] + [2 * i + 1 for i in range(8)]
    read = file.read("model.layers.0.self_attn.q_proj.weight", (32, 32))
    stored = written["blk.0.attn_q.weight"]
    assert np.array_equal(read, np.concatenate([stored[:16][rows], stored[16:][rows]]))
    held = file.read("model.layers.0.mlp.up_proj.weight", (64, 32))
    error = np.abs(held - written["blk.0.ffn_up.weight"])
    largest = np.abs(written["blk.0.ffn_up.weight"]).max(axis=1, keepdims=True)  # a row is one block of 32
    assert error.max() > 0.0
    assert (error <= largest / 127 * 0.57).all()  # half a step, and a scale in half precision


@pytest.mark.parametrize(("change", "message"), [
    ({"architecture": "gpt2"}, "general.architecture: expected llama, got 'gpt2'"),
    ({"expert_count": 4}, "llama.expert_count: expected 0, got 4"),
    ({"values": {"rope_freqs.weight": np.ones(8, np.float32)}}, "rope_freqs.weight: expected only tensors"),
    ({"values": {"blk.0.attn_q.bias": np.ones(32, np.float32)}}, "blk.0.attn_q.bias: expected only tensors"),
], ids=["architecture", "experts", "frequencies", "bias"])
def test_what_is_not_read_is_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GgufFile(tiny_gguf.write(tmp_path / "other.gguf", **change))


def test_missing_tensors_and_other_shapes_are_named(path: Path) -> None:
    file = GgufFile(path)
    with pytest.raises(WorkloadError, match=r"lm_head.weight: missing; expected a tensor of shape \(257, 32\)"):
        file.read("lm_head.weight", (257, 32))
    with pytest.raises(WorkloadError, match=r"norm.weight: shape: expected \(33,\), got \(32,\)"):
        file.read("model.norm.weight", (33,))
    with pytest.raises(WorkloadError, match=r"layer 2: expected tensors blk.2.\*, found none"):
        file.prefix(2)


def test_other_files_and_missing_packages_are_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the lm extra (gguf)")
    (tmp_path / "no.gguf").write_bytes(b"GGML" + bytes(100))
    with pytest.raises(WorkloadError, match=r"no\.gguf: cannot be read as GGUF"):
        GgufFile(tmp_path / "no.gguf")
    with pytest.raises(ToolError, match=r"a model needs the Python package no_such_package"):
        load_package("no_such_package", "a model")
