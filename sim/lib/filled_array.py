"""An array of bytes that threads fill part by part while others already use what is there.

Tensors of large layers take longer to make and to quantize than anything else that happens to a program, and numpy lets
go of the interpreter meanwhile. So DRAM is filled while the program is verified and timed and while its first
instructions run; who reads or writes it waits for the parts in question.
"""

import bisect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .threads import thread_count

_RUN = 8
"""Parts that one thread makes in turn: neighbours are often made from one tensor, of which a thread keeps the last."""

Part = tuple[int, Callable[[], np.ndarray]]
"""First byte, and what makes the bytes from there on."""


class FilledArray:
    """``array``: (size,) uint8, zeros where no part lies; a part's bytes are right after `need`, all after `whole`.

    Parts lie apart and are made in order. Raises MemoryError when the machine has not as much memory; `need` and
    `whole` raise what making a part raised.
    """

    def __init__(self, size: int, parts: Sequence[Part]):
        self.array = np.zeros(size, np.uint8)
        ordered = sorted(parts, key=lambda part: part[0])
        runs = [ordered[start:start + _RUN] for start in range(0, len(ordered), _RUN)]
        self._starts = [run[0][0] for run in runs]
        self._stopped = False
        with_threads = ThreadPoolExecutor(thread_count(len(runs)))
        self._runs = [with_threads.submit(self._fill, run) for run in runs]
        with_threads.shutdown(wait=False)

    def _fill(self, run: Sequence[Part]) -> None:
        try:
            for start, make in run:
                if not self._stopped:
                    made = make()
                    self.array[start:start + made.size] = made
        except BaseException:
            self._stopped = True
            raise

    def need(self, low: int, high: int) -> None:
        """Wait until the bytes from ``low`` to ``high`` - 1 are right."""
        first = max(bisect.bisect_right(self._starts, low) - 1, 0)
        for number in range(first, bisect.bisect_left(self._starts, high)):
            self._runs[number].result()

    def whole(self) -> np.ndarray:
        """``array`` when all of it is right."""
        for run in self._runs:
            run.result()
        return self.array

    def stop(self) -> None:
        """Make no part more than those at hand; the array is of no use then."""
        self._stopped = True
