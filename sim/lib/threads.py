"""Work in threads: numpy lets go of the interpreter while it looks up, converts or multiplies arrays.

Results come in the order of their inputs, so that sums do not depend on how many threads there are.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 4
"""More would hold more tensors at a time and wait for memory."""


def map_runs(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``[function(item) for item in items]``, in a few threads. Each takes a run of consecutive items, in order.

    An exception ends all of them after the item at hand, and is raised.
    """
    count = thread_count(len(items))
    if count < 2:
        return [function(item) for item in items]
    stop = threading.Event()

    def work(run: Sequence[T]) -> list[R]:
        done = []
        try:
            for item in run:
                if stop.is_set():
                    break
                done.append(function(item))
        except BaseException:
            stop.set()
            raise
        return done

    bounds = [len(items) * number // count for number in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, items[low:high]) for low, high in itertools.pairwise(bounds)]
        try:
            return [result for future in futures for result in future.result()]
        finally:
            stop.set()


def thread_count(tasks: int) -> int:
    """Threads for that many tasks, at least 1."""
    return max(1, min(processors(), MOST_THREADS, tasks))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
