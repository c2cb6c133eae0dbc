"""Tasks in processes of this machine.

Workers are spawned, not forked, so that they share no lock or thread with whoever starts them, and end with it however
it ends: each waits for the far end of a pipe to close, which the system does even for a process that is killed. A
worker that dies itself (out of memory) fails the whole pool of `concurrent.futures`; a new one goes on with what is
left, and a task that ends its worker twice is given up.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection

from .tasks import Outcome, Task, outcome_of, sources_digest

Done = Callable[[str, Outcome | BaseException], None]
"""Called in this process with the digest of a task and its outcome, or the exception that is not the task's own."""


class WorkerDied(Exception):
    """A process ended while it was at a task."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(tasks: Mapping[str, Task], workers: int, done: Done) -> None:
    """Measure {digest: task} in at most ``workers`` processes. Whatever ends this ends them. One worker is this
    process itself."""
    if workers == 1:
        for digest, task in tasks.items():
            try:
                outcome: Outcome | Exception = outcome_of(task, sources_digest())
            except Exception as error:
                outcome = error
            done(digest, outcome)
        return
    left = dict(tasks)

    def finish(digest: str, outcome: Outcome | BaseException) -> None:
        del left[digest]
        done(digest, outcome)

    while left:
        before = len(left)
        if not _round(dict(left), min(workers, len(left)), finish) and len(left) == before:
            for digest in list(left)[:workers]:  # one of these was at work; alone, it shows which
                if not _round({digest: left[digest]}, 1, finish):
                    finish(digest, WorkerDied("the process that measured it ended, perhaps out of memory"))


def _round(tasks: Mapping[str, Task], workers: int, done: Done) -> bool:
    """Measure what can be measured with one pool; whether it lasted."""
    context = get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (reader,))
    broken = True
    try:
        futures = {pool.submit(outcome_of, task, sources_digest()): digest for digest, task in tasks.items()}
        broken = False
        for future in as_completed(futures):
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                broken = True
            else:
                done(futures[future], error or future.result())
        pool.shutdown()
    except BrokenProcessPool:  # while tasks were handed over
        pass
    finally:
        writer.close()  # if workers are left, this ends them
        pool.shutdown(cancel_futures=True)
        reader.close()
    return not broken


def _begin(alive: Connection) -> None:
    """In a worker: end when the pipe closes, and leave Ctrl-C to whoever started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        try:
            alive.recv_bytes()
        except (EOFError, OSError):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
