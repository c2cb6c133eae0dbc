"""Order, errors and what a thread sees of a run."""

import itertools
import threading

import pytest

from tilescore.sim.lib import threads
from tilescore.sim.lib.threads import map_runs


@pytest.fixture(params=[1, 2, 3, 8])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "processors", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_results_are_in_the_order_of_the_items(count: int, processors: int) -> None:
    assert map_runs(lambda item: item * item, range(count)) == [item * item for item in range(count)]


def test_each_thread_takes_consecutive_items(processors: int) -> None:
    names = map_runs(lambda item: threading.get_ident(), range(20))
    changes = sum(a != b for a, b in itertools.pairwise(names))
    assert changes < min(processors, threads.MOST_THREADS)


def test_an_error_is_raised_and_ends_the_others(processors: int) -> None:
    done: list[int] = []
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            failed.set()
            raise ValueError("item 0")
        failed.wait(10)
        done.append(item)

    with pytest.raises(ValueError, match="item 0"):
        map_runs(work, range(1000))
    assert len(done) < 900
