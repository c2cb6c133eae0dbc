"""A GGUF file of a tiny model with byte-level tokens, written by the package ``gguf``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HIDDEN, HEADS, KV_HEADS, INTER, LAYERS = 32, 2, 1, 64, 2


def tokens() -> list[str]:
    """The 256 letters that stand for bytes, and a merge of two."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra lm (tokenizers)")
    return [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "th"]


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Of all layers, by their names in the file; embedding and head are one."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    made = {"token_embd.weight": matrix(len(tokens()), HIDDEN) * np.float32(HIDDEN**0.5),
            "output_norm.weight": np.ones(HIDDEN, np.float32)}
    head = HIDDEN // HEADS
    for i in range(LAYERS):
        made |= {f"blk.{i}.{name}.weight": value for name, value in (
            ("attn_norm", 1 + matrix(1, HIDDEN)[0]), ("ffn_norm", 1 + matrix(1, HIDDEN)[0]),
            ("attn_q", matrix(HIDDEN, HIDDEN)), ("attn_k", matrix(KV_HEADS * head, HIDDEN)),
            ("attn_v", matrix(KV_HEADS * head, HIDDEN)), ("attn_output", matrix(HIDDEN, HIDDEN)),
            ("ffn_gate", matrix(INTER, HIDDEN)), ("ffn_up", matrix(INTER, HIDDEN)),
            ("ffn_down", matrix(HIDDEN, INTER)))}
    return made


def write(path: Path, values: dict[str, np.ndarray] | None = None, *, quantized: tuple[str, ...] = (),
          architecture: str = "llama", pre: str = "smollm", **fields: int) -> Path:
    """quantized: tensors that are stored as Q8_0; fields: unsigned integers of the architecture that are added."""
    gguf = pytest.importorskip("gguf", reason="needs the extra lm (gguf)")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(512)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    for name, value in fields.items():
        writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens())
    writer.add_token_merges(["t h"])
    for name, value in (tensors() if values is None else values).items():
        if name in quantized:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
