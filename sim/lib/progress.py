"""Signs of life on standard error for steps that take longer than two seconds.

A bar where the step says how far it is, else the seconds it has taken. Only on a terminal: logs and pipes stay clean.
tqdm would do, but is a dependency for sixty lines.
"""

import sys
import threading
import time
from typing import TextIO

DELAY_S = 2.0
INTERVAL_S = 0.1
WIDTH = 30


class Progress:
    """Use as a context manager; nothing is drawn in the first two seconds.

    Call it with (done, total) for a bar. As long as it was never called, the seconds are drawn by a thread of its own,
    so that a step that cannot report (a compiler, a tool) need not be changed.
    """

    shown = True
    """False in a process that has no terminal of its own."""

    def __init__(self, label: str, stream: TextIO | None = None):
        self._label, self._stream = label, stream or sys.stderr
        self._start = self._drawn = time.monotonic()
        self._active = self._reported = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __call__(self, done: int, total: int) -> None:
        self._reported = True
        now = time.monotonic()
        if not self._on_terminal() or now - self._start < DELAY_S or now - self._drawn < INTERVAL_S:
            return
        self._drawn = now
        filled = WIDTH * done // max(total, 1)
        bar = "#" * filled + "." * (WIDTH - filled)
        self._draw(f"[{bar}] {100 * done // max(total, 1):3d} %")

    def _on_terminal(self) -> bool:
        return self.shown and self._stream.isatty()

    def _draw(self, text: str) -> None:
        self._active = True
        try:
            print(f"\r{self._label:24} {text:{WIDTH + 8}}", end="", file=self._stream, flush=True)
        except OSError:
            self._ended.set()  # the terminal is gone; the step goes on

    def _count(self) -> None:
        """Draw the seconds once a second until the step ends or reports."""
        while not self._ended.wait(1.0):
            if self._reported:
                return
            if (elapsed := time.monotonic() - self._start) >= DELAY_S:
                self._draw(f"{elapsed:.0f} s")

    def __enter__(self) -> "Progress":
        if self._on_terminal():
            self._thread = threading.Thread(target=self._count, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._active:
            try:
                print("\r" + " " * (WIDTH + 36) + "\r", end="", file=self._stream, flush=True)
            except OSError:
                pass
