"""Results of slow steps kept in a folder, by a digest of everything that they depend on."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class Store:
    """Without a folder nothing is kept. The folder's files are pickles: use one of your own."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, kind: str, key: str, make: Callable[[], T]) -> T:
        """The result of ``make``, kept under ``kind`` and the digest of ``key``."""
        if self._folder is None:
            return make()
        path = self._folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.pickle"
        if path.is_file():
            return pickle.loads(path.read_bytes())
        result = make()
        partial = path.with_suffix(".partial")
        partial.write_bytes(pickle.dumps(result))
        partial.replace(path)
        return result
