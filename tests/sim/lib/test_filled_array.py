"""An array that is used while threads fill it."""

import threading
from functools import partial

import numpy as np
import pytest

from tilescore.sim.lib.filled_array import FilledArray


def ones(size: int, value: int = 1) -> np.ndarray:
    return np.full(size, value, np.uint8)


def test_parts_lie_where_they_were_put_whatever_their_order() -> None:
    filled = FilledArray(100, [(10 * number, partial(ones, 7, number + 1)) for number in reversed(range(10))])
    expected = np.array([number // 10 + 1 if number % 10 < 7 else 0 for number in range(100)])
    assert np.array_equal(filled.whole(), expected)
    assert np.array_equal(FilledArray(5, []).whole(), np.zeros(5))


def test_a_reader_waits_for_what_it_reads_only() -> None:
    wanted = threading.Event()

    def late() -> np.ndarray:
        assert wanted.wait(60)
        return ones(5, 2)

    parts = [(10 * number, partial(ones, 5)) for number in range(80)]
    filled = FilledArray(1000, [*parts, (900, late)])
    filled.need(0, 775)
    assert filled.array[:800].sum() == 400 and not filled.array[900:].any()
    wanted.set()
    filled.need(899, 901)
    assert filled.array[900:905].tolist() == [2] * 5
    filled.need(990, 1000)


def test_an_error_is_raised_where_its_part_is_read_and_ends_the_rest() -> None:
    made: list[int] = []
    failing = threading.Event()

    def make(number: int) -> np.ndarray:
        if number == 3:
            failing.set()
            raise ValueError("part 3")
        if number > 8:
            failing.wait(10)
        made.append(number)
        return ones(1)

    filled = FilledArray(10_000, [(number, partial(make, number)) for number in range(10_000)])
    with pytest.raises(ValueError, match="part 3"):
        filled.need(3, 4)
    with pytest.raises(ValueError, match="part 3"):
        filled.whole()
    assert len(made) < 9000


def test_what_is_stopped_makes_no_more() -> None:
    begun, go = threading.Event(), threading.Event()
    made: list[int] = []

    def make(number: int) -> np.ndarray:
        begun.set()
        assert go.wait(60)
        made.append(number)
        return ones(1)

    filled = FilledArray(1000, [(number, partial(make, number)) for number in range(1000)])
    assert begun.wait(60)
    filled.stop()
    go.set()
    filled.whole()
    assert len(made) <= 8
