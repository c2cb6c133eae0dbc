"""Output files: refused before any work, written under a temporary name, renamed when complete."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..rtl.errors import ConfigError


def check_targets(paths: Sequence[Path]) -> None:
    """Refuse, before any work, names that cannot be replaced by a file (a device or pipe would be lost)."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, expected a file name")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: folder {path.parent} does not exist")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a regular file, expected a file or a new name")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{paths[0]}: is named twice, expected a different file for each output")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
