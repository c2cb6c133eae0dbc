"""The progress bar: only on a terminal, only after two seconds, not too often, and gone at the end."""

from __future__ import annotations

import io

import pytest

from tilescore.sim import progress
from tilescore.sim.progress import DELAY_S, INTERVAL_S, WIDTH, Progress


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
