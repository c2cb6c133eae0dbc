"""Where the tensors of a checkpoint are: one safetensors file, an index with its shards, or a folder of either.

The shards of an index are opened when a tensor in them is asked for: a layer loads although shards that it does not
need are not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..rtl.spec.errors import WorkloadError
from .model_files import snapshot
from .safetensors_file import SafetensorsFile

INDEX_NAME = "model.safetensors.index.json"
_SHARD = ".safetensors"
_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".npz", ".npy", ".h5", ".msgpack", ".onnx", ".pkl")

PREFIXES = ("model.", "", "model.language_model.", "language_model.model.", "language_model.", "model.text_model.",
            "thinker.model.")
"""What stands before ``layers.N``: a causal LM, its bare base model, and the text part of a multimodal model."""


class Checkpoint:
    """All tensors under a path, by name, whichever file they are in."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, Path] = {}
        self._open: dict[Path, SafetensorsFile] = {}
        folder = snapshot(self.path) if self.path.is_dir() else None
        if folder is None and not self.path.is_file():
            raise WorkloadError(f"{self.path}: no such file or directory; expected safetensors weights")
        index = self.path if folder is None else folder / INDEX_NAME
        if index.name.endswith(".index.json") and index.is_file():
            self._files = _read_index(index)
        else:
            self._list([self.path] if folder is None else _shards(folder))

    def _list(self, files: Iterable[Path]) -> None:
        for file in files:
            for name in self._opened(file).names:
                if name in self._files:
                    raise WorkloadError(f"{self.path}: {name}: stands in {self._files[name].name} and {file.name}; "
                                        "expected one of them, by its path")
                self._files[name] = file

    def _opened(self, file: Path) -> SafetensorsFile:
        if file not in self._open:
            self._open[file] = SafetensorsFile(file)
        return self._open[file]

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor in a file that is there, else None."""
        file = self._files.get(name)
        return self._opened(file).shape(name) if file is not None and file.is_file() else None

    def dtype(self, name: str) -> str | None:
        """Its name in the header of a file that is there, else None."""
        file = self._files.get(name)
        return self._opened(file).entries[name].dtype if file is not None and file.is_file() else None

    def under(self, prefix: str) -> list[str]:
        """Names of the tensors that start with ``prefix``."""
        return [name for name in self._files if name.startswith(prefix)]

    def prefix(self, layer_index: int) -> str:
        """``model.layers.N.`` with whatever stands before it in this checkpoint."""
        for start in PREFIXES:
            prefix = f"{start}layers.{layer_index}."
            if self.under(prefix):
                return prefix
        raise WorkloadError(
            f"{self.path}: layer {layer_index}: expected tensors model.layers.{layer_index}.*, found none"
        )

    def outer(self, name: str) -> str:
        """The full name of a tensor that is part of no decoder layer; ``name`` where there is none."""
        return next((start + name for start in PREFIXES if start + name in self._files), name)

    def _holder(self, name: str, shape: tuple[int, ...]) -> SafetensorsFile:
        if name not in self._files:
            raise WorkloadError(f"{self.path}: {name}: missing; expected a tensor of shape {shape}")
        file = self._files[name]
        if not file.is_file():
            raise WorkloadError(f"{file}: cannot be read: no such file, but {name} is in it by the index")
        return self._opened(file)

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray:
        """As ``SafetensorsFile.read``, whichever file holds the tensor."""
        return self._holder(name, shape).read(name, shape, index=index)

    def codes(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...], *, index: int | None = None
              ) -> np.ndarray:
        """As ``SafetensorsFile.codes``, whichever file holds the tensor."""
        return self._holder(name, shape).codes(name, shape, dtypes, index=index)

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise as ``read`` would for a missing tensor, its shape or dtype, without reading it."""
        self._holder(name, shape).check(name, shape)


def _shards(folder: Path) -> list[Path]:
    found = sorted(folder.glob(f"*{_SHARD}"))
    if not found:
        others = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in _OTHER_WEIGHTS)
        only = f"only {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}" if others else "none"
        raise WorkloadError(f"{folder}: expected {INDEX_NAME} or *{_SHARD} files, found {only}")
    return found


def _read_index(index: Path) -> dict[str, Path]:
    """The file of every tensor that an index lists."""
    try:
        files = dict(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"])
        if not all(isinstance(file, str) for file in files.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WorkloadError(f'{index}: expected a JSON object with "weight_map": {{tensor: file}}') from None
    wrong = next((file for file in files.values() if not file.endswith(_SHARD)), None)
    if wrong is not None:
        raise WorkloadError(f"{index}: weight_map: expected files named *{_SHARD}, got {wrong[:80]!r}")
    return {name: index.parent / file for name, file in files.items()}
