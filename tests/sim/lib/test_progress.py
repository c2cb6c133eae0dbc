"""The progress bar: only on a terminal, only after two seconds, not too often, and gone at the end."""

from __future__ import annotations

import io

import pytest

from tilescore.sim.lib import progress
from tilescore.sim.lib.progress import DELAY_S, INTERVAL_S, WIDTH, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """time.monotonic() that stands still until it is told to move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_nothing_in_the_first_seconds(clock: Clock) -> None:
    terminal = Terminal()
    with Progress("simulate", terminal) as bar:
        clock.now += DELAY_S - 0.01
        bar(1, 10)
    assert terminal.getvalue() == ""


def test_a_bar_after_that_and_none_at_the_end(clock: Clock) -> None:
    terminal = Terminal()
    with Progress("simulate moe", terminal) as bar:
        clock.now += DELAY_S
        bar(5, 20)
        drawn = terminal.getvalue()
        assert drawn.startswith("\rsimulate moe ") and drawn.endswith(" 25 %") and "\n" not in drawn
        assert drawn.count("#") == WIDTH * 5 // 20 and drawn.count("#") + drawn.count(".") == WIDTH
    erased = terminal.getvalue()[len(drawn):]
    assert erased.startswith("\r ") and erased.endswith(" \r") and erased.strip() == ""
    assert len(erased) - 2 >= len(drawn) - 1


def test_it_is_drawn_at_most_ten_times_a_second(clock: Clock) -> None:
    terminal = Terminal()
    with Progress("x", terminal) as bar:
        clock.now += DELAY_S
        for step in range(100):
            bar(step, 100)
            clock.now += INTERVAL_S / 20
        assert 5 <= terminal.getvalue().count("\r") <= 6


def test_full_and_empty(clock: Clock) -> None:
    terminal = Terminal()
    with Progress("x", terminal) as bar:
        clock.now += DELAY_S
        bar(0, 0)
        clock.now += 1
        bar(7, 7)
    first, second, *_ = terminal.getvalue().split("\r")[1:]
    assert first.endswith("  0 %") and "#" not in first
    assert second.endswith("100 %") and "." not in second


def test_files_and_pipes_stay_clean(clock: Clock) -> None:
    log = io.StringIO()
    with Progress("x", log) as bar:
        clock.now += 100
        bar(1, 2)
    assert log.getvalue() == ""


def test_standard_error_is_the_default(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("x") as bar:
        clock.now += DELAY_S
        bar(1, 2)
    assert "50 %" in terminal.getvalue()


def test_it_is_erased_when_the_step_fails(clock: Clock) -> None:
    terminal = Terminal()
    with pytest.raises(ValueError, match="failed"), Progress("x", terminal) as bar:
        clock.now += DELAY_S
        bar(1, 2)
        raise ValueError("failed")
    assert terminal.getvalue().endswith(" \r")


def test_steps_that_do_not_report_show_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread waits on an event; here the wait returns at once, three times, at 1, 2 and 3 seconds."""
    bar = Progress("compile moe", stream := Terminal())
    times = iter([1.0, 2.0, 3.0])
    start = bar._start

    class Ended:
        def wait(self, timeout: float) -> bool:
            self.now = next(times, None)
            monkeypatch.setattr(progress.time, "monotonic", lambda: start + (self.now or 0))
            return self.now is None

    bar._ended = Ended()  # type: ignore[assignment]
    bar._count()
    assert [part.split() for part in stream.getvalue().split("\r")[1:]] == [
        ["compile", "moe", "2", "s"], ["compile", "moe", "3", "s"]]


def test_the_seconds_stop_when_the_step_reports(clock: Clock) -> None:
    bar = Progress("x", terminal := Terminal())
    bar(1, 10)
    clock.now += 100
    bar._ended.wait = lambda timeout: False  # type: ignore[method-assign]
    bar._count()
    assert terminal.getvalue() == ""


def test_the_thread_ends_with_the_step() -> None:
    with Progress("x", Terminal()) as bar:
        thread = bar._thread
        assert thread is not None and thread.is_alive()
    assert not thread.is_alive()
    with Progress("x", io.StringIO()) as bar:
        assert bar._thread is None
