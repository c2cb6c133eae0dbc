"""What a sweep has measured, on disk: a line of JSON per task, appended when its outcome is known.

A process that is killed leaves at most a line without its end, which is cut off when the file is opened again; so no
outcome is lost, none is measured twice, and the file of one sweep is the cache of the next. One process writes at a
time: a second one is refused, where the system has locks.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import IO

from ...rtl.spec.errors import ConfigError
from .tasks import Outcome

FILE = "points.jsonl"


class Store:
    """The outcomes in ``folder``, which is made where it is missing. Use as a context manager.

    Raises `ConfigError` naming the file where it cannot be used or is not one of a sweep.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._known: dict[str, Outcome] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "Store":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
            _lock(self._file, self.path)
            self._read(self._file)
        except OSError as error:
            self.__exit__(None, None, None)
            raise ConfigError(f"{self.path}: cannot be used: {error.strerror or error}") from None
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def get(self, digest: str) -> Outcome | None:
        """The outcome of a task that was measured before."""
        return self._known.get(digest)

    def put(self, digest: str, outcome: Outcome) -> None:
        """Keep an outcome; of a task that is known already the first one stays."""
        if self._file is None:
            raise ValueError("the store is not open")
        if digest in self._known:
            return
        self._file.write(json.dumps({"point": digest, **outcome}).encode() + b"\n")
        self._file.flush()
        self._known[digest] = outcome

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                digest = record.pop("point")
                if not isinstance(digest, str) or set(record) not in ({"values"}, {"error"}):
                    raise ValueError
            except (ValueError, KeyError, AttributeError, TypeError):
                raise ConfigError(f"{self.path}: line {number}: expected an outcome of a sweep, got "
                                  f"{line[:40].decode(errors='replace')!r}; name another folder") from None
            self._known.setdefault(digest, record)
        if whole < len(content):
            file.truncate(whole)
        file.seek(0, 2)


def _lock(file: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"{path}: another sweep writes it; name another folder, or wait for it") from None
