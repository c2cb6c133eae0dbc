"""A progress bar on standard error for steps that take longer than two seconds.

It draws only on a terminal: logs and pipes stay clean. tqdm would do, but is a dependency for thirty lines.
"""

import sys
import time
from typing import TextIO

DELAY_S = 2.0
INTERVAL_S = 0.1
WIDTH = 30


class Progress:
    """Call it with (done, total); nothing is drawn in the first two seconds. Use as a context manager."""

    def __init__(self, label: str, stream: TextIO | None = None):
        self._label, self._stream = label, stream or sys.stderr
        self._start = self._drawn = time.monotonic()
        self._active = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._stream.isatty() or now - self._start < DELAY_S or now - self._drawn < INTERVAL_S:
            return
        self._drawn, self._active = now, True
        filled = WIDTH * done // max(total, 1)
        bar = "#" * filled + "." * (WIDTH - filled)
        print(f"\r{self._label:24} [{bar}] {100 * done // max(total, 1):3d} %", end="", file=self._stream, flush=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._active:
            print("\r" + " " * (WIDTH + 36) + "\r", end="", file=self._stream, flush=True)
