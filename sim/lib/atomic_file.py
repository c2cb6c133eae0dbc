"""Files that are either complete or not there: written beside their place under another name, then renamed."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` when the block ends without an exception.

    It has the permissions of any new file (`tempfile` would make it private). A link is followed: what it names is
    replaced. Raises `OSError` when the folder cannot be written or is full; then ``path`` is as it was.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".tilescore-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """``text`` as UTF-8 with Unix line ends, as `atomic_file` does it."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
