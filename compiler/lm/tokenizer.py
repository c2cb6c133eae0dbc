"""Text to tokens and back, with the vocabulary and merges that a GGUF file carries.

Byte-level BPE (``tokenizer.ggml.model`` gpt2). What differs between models is how a text is cut into words first:
``tokenizer.ggml.pre`` says it. Control tokens are never made from text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...rtl.spec.errors import ConfigError, WorkloadError
from ..gguf_file import GgufFile, load_package

CUTS = ("smollm", "gpt-2")
"""Known values of ``tokenizer.ggml.pre``. smollm: every digit is a word of its own, then as GPT-2 does."""


class Tokenizer:
    """Raises `ToolError` without the package ``tokenizers``, `ConfigError` for a tokenizer of another kind."""

    def __init__(self, file: GgufFile) -> None:
        tokenizers = load_package("tokenizers", f"{file.path}: its tokenizer")
        self._source = str(file.path)
        model, cut = self._need(file, "model", ("gpt2",)), self._need(file, "pre", CUTS)
        tokens: list[str] = file.fields.get(f"{_KEY}tokens", [])
        merges = [tuple(pair.split(" ")) for pair in file.fields.get(f"{_KEY}merges", [])]
        if len(tokens) != file.raw["vocab_size"]:
            raise ConfigError(f"{file.path}: {_KEY}tokens: expected {file.raw['vocab_size']}, the size of the "
                              f"vocabulary, got {len(tokens)}")
        assert model == "gpt2"
        self._made: Any = tokenizers.Tokenizer(tokenizers.models.BPE(
            vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
        words = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
        if cut == "smollm":
            words.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
        self._made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(words)
        self._made.decoder = tokenizers.decoders.ByteLevel()

    @staticmethod
    def _need(file: GgufFile, key: str, allowed: Sequence[str]) -> str:
        value = file.fields.get(_KEY + key)
        if value not in allowed:
            raise ConfigError(f"{file.path}: {_KEY}{key}: expected one of {', '.join(allowed)}, got {value!r}")
        return str(value)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text. Raises `WorkloadError` for one that has none."""
        found = self._made.encode(text).ids
        if not found:
            raise WorkloadError(f"{self._source}: text {text[:40]!r}: expected at least one token, got none")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return self._made.decode(list(ids))


_KEY = "tokenizer.ggml."
