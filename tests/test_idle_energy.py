"""Prices without clock gates, and what is counted when two ways to price schedules are compared."""

from __future__ import annotations

import pytest

from tilescore.benchmarks.idle_energy import Point, neighbours, turned, ungated
from tilescore.compiler.schedule import GemmSchedule, Schedule, schedule_differences
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.sim.energy import load_table
from tilescore.sim.energy_components import components


def point(ungated: float, gated: float) -> Point:
    return Point(change="", cycles=1, utilization=1.0, dram_bytes=0, ungated=ungated, gated=gated, ungated_chip=0,
                 gated_chip=0)


def test_pairs_by_what_became_of_them() -> None:
    points = [point(1.0, 1.0), point(2.0, 2.0), point(2.001, 1.5), point(3.0, 1.0)]
    assert turned(points, "ungated", "gated") == {"same": 2, "reversed": 2, "appeared": 1, "vanished": 1}


def test_resting_registers_are_clocked_without_gates() -> None:
    """A resting cycle costs 30 times as much or more, steps less: their clock is in every cycle already."""
    config, constants = load_tile("nano"), load_table("7nm").at("value")
    rest, steps = dict.fromkeys(EVENT_NAMES, 0), dict.fromkeys(EVENT_NAMES, 0) | {"e4m3_row_steps": 100}
    for name in ("array_clock", "vector_clock"):
        assert ungated(rest, 10, config, constants)[name] > 30 * components(rest, 10, config, constants)[name]
    plain, gated = ungated(steps, 0, config, constants), components(steps, 0, config, constants)
    assert 0.5 < plain["multipliers"] / gated["multipliers"] < 1
    assert plain["a_buffer_reads"] == gated["a_buffer_reads"]


def test_schedules_that_differ_in_one_value() -> None:
    kernel = GemmSchedule(m_tile=1, k_tile=8, n_tiles=2, group_tiles=2)
    found = list(neighbours(own := Schedule(kernels={"q": kernel})))
    changes = [schedule_differences(own, other) for other in found]
    assert all(len(change) == 1 for change in changes)
    assert {change[0] for change in changes} == {
        "q.m_tile: 1 -> 2", "q.k_tile: 8 -> 4", "q.k_tile: 8 -> 16", "q.n_tiles: 2 -> 1", "q.group_tiles: 2 -> 4",
        "q.a_resident: True -> False", "q.k_outer: False -> True", "q.stage_banks: 1 -> 2"}
    with pytest.raises(StopIteration):
        next(neighbours(Schedule()))
