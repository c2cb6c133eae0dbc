"""Output files: refused before any work, written under a temporary name, renamed when complete."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..rtl.spec.errors import ConfigError
from ..sim.lib import atomic_file


def check_targets(paths: Sequence[Path]) -> None:
    """Refuse, before any work, names that cannot be replaced by a file (a device or pipe would be lost)."""
    for path in paths:
        try:
            if path.is_dir():
                raise ConfigError(f"{path}: is a folder, expected a file name")
            if not path.parent.is_dir():
                raise ConfigError(f"{path}: folder {path.parent} does not exist")
            if path.exists() and not path.is_file():
                raise ConfigError(f"{path}: is not a regular file, expected a file or a new name")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{path}: folder {path.parent} cannot be written")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{paths[0]}: is named twice, expected a different file for each output")


def write_text(path: Path, text: str) -> None:
    """Write all of ``text`` or nothing."""
    with named_errors(path):
        atomic_file.write_text(path, text)


def write_bytes(path: Path, data: bytes) -> None:
    """Write all of ``data`` or nothing."""
    with named_errors(path), atomic_file.atomic_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """What the system says against writing ``path``, as a `ConfigError` with its name."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """``folder`` is there and can be written while the block runs; if that fails, what was made for it is removed."""
    made: list[Path] = []
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--out {folder}: is a file, expected a folder or a new name")
        for path in reversed([folder, *folder.parents]):
            if not path.exists():
                path.mkdir()
                made.append(path)
    except OSError as error:
        _remove(made)
        raise ConfigError(f"--out {folder}: cannot be made: {error.strerror or error}") from None
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ConfigError(f"--out {folder}: cannot be written")
        yield
    except BaseException:
        _remove(made)
        raise


def _remove(made: list[Path]) -> None:
    """Remove the folders that hold nothing."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir()
