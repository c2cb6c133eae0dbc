"""Tasks in processes of this machine.

A worker that dies (out of memory) fails the whole pool of `concurrent.futures`; a new one goes on with what is left,
and a task that ends its worker twice is given up.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool

from ...sim.lib.workers import worker_pool
from .tasks import Outcome, Task, outcome_of, sources_digest

Done = Callable[[str, Outcome | BaseException], None]
"""Called in this process with the digest of a task and its outcome, or the exception that is not the task's own."""


class WorkerDied(Exception):
    """A process ended while it was at a task."""


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
    broken = True
    try:
        with worker_pool(workers) as pool:
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
    return not broken
