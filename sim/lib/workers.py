"""Processes that work for this one.

They are spawned, not forked, so that they share no lock or thread with whoever starts them, and end with it however it
ends: each waits for the far end of a pipe to close, which the system does even for a process that is killed.
"""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from .progress import Progress


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end with the context, whatever they are at. A process that dies itself (out of memory)
    fails all that was submitted with `BrokenProcessPool`."""
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (reader,))
    try:
        yield pool
    finally:
        writer.close()  # if workers are left, this ends them
        pool.shutdown(cancel_futures=True)
        reader.close()


def _begin(alive: Connection) -> None:
    """In a worker: end when the pipe closes; leave Ctrl-C and the terminal to whoever started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Progress.shown = False

    def watch() -> None:
        try:
            alive.recv_bytes()
        except (EOFError, OSError):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
