"""The next changes of a design: of the tile by a factor of two, of the schedule by one value.

Each is a task like the layer's own, to be compiled, verified and timed; nothing is estimated.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ConfigError, TilescoreError
from ...rtl.spec.tile_keys import plain
from ...rtl.spec.tile_settings import settings_text
from ..schedule import Schedule, from_dict, schedule_differences, to_dict
from ..sweep.tasks import Task

KINDS = {
    "bandwidth": "the DRAM port", "sram": "on-chip memory", "latency": "latency, queues and transfers in flight",
    "clock": "the clock, with the same DRAM", "array": "the array", "schedule": "the schedule"}
"""{kind of change: what it changes}."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """kind: of `KINDS`. text: what is changed, as ``bus_bytes=64`` of ``--tile-set`` or ``q.k_tile: 256 -> 512``."""

    kind: str
    text: str
    task: Task


def changes_of(task: Task, schedule: Schedule, kinds: Mapping[str, object] | tuple[str, ...] = tuple(KINDS)
               ) -> list[Change]:
    """The legal tiles and the schedules one step away. schedule: the one that ``task`` is done with."""
    found = []
    for kind, changed in _tiles(task.config):
        if kind not in kinds:
            continue
        try:
            config = TileConfig.from_dict(task.config.to_dict() | changed, source="change")
        except ConfigError:
            continue
        found.append(Change(kind=kind, text=settings_text(changed), task=replace(task, config=config)))
    if "schedule" in kinds:
        old = to_dict(schedule)
        for values in _neighbours(old):
            try:
                new = from_dict(values)
            except TilescoreError:
                continue
            text = ", ".join(schedule_differences(old, values))
            found.append(Change(kind="schedule", text=text, task=replace(task, schedule=new)))
    return found


def _tiles(c: TileConfig) -> Iterator[tuple[str, dict[str, int | float | str]]]:
    """(kind, changed keys), legal or not."""
    if c.dram_rate < c.bus_bytes:
        yield "bandwidth", {"dram_bytes_per_cycle": plain(min(2 * c.dram_rate, Fraction(c.bus_bytes)))}
    else:
        faster: dict[str, int | float | str] = {"bus_bytes": 2 * c.bus_bytes}
        yield "bandwidth", faster | ({"dram_bytes_per_cycle": 0} if c.dram_bytes_per_cycle else {})
    if c.dram_shared:
        yield "bandwidth", {"dram_shared": False}
    yield "sram", {"a_buffer_bytes": 2 * c.a_buffer_bytes}
    yield "sram", {"b_buffer_bytes": 2 * c.b_buffer_bytes}
    yield "sram", {"acc_bank_rows": 2 * c.acc_bank_rows}
    yield "latency", {"dram_latency": max(1, c.dram_latency // 2)}
    yield "latency", {"dma_outstanding": 2 * c.dma_outstanding}
    yield "latency", {"queue_depth": 2 * c.queue_depth}
    yield "clock", {"clock_mhz": 2 * c.clock_mhz, "dram_bytes_per_cycle": plain(c.dram_rate / 2),
                    "dram_latency": 2 * c.dram_latency}
    yield "array", {"rows": 2 * c.rows, "a_buffer_bytes": 2 * c.a_buffer_bytes}
    yield "array", {"cols": 2 * c.cols, "a_buffer_bytes": 2 * c.a_buffer_bytes,
                    "b_buffer_bytes": 2 * c.b_buffer_bytes}


def _neighbours(values: dict) -> Iterator[dict]:
    """``values`` with one number doubled or halved, or one truth turned."""
    for path, value in list(_leaves(values)):
        if isinstance(value, bool):
            others: tuple[int, ...] = (not value,)
        elif isinstance(value, int):
            others = tuple(dict.fromkeys((2 * value, value // 2)))
        else:
            continue
        for other in others:
            if other != value:
                changed = copy.deepcopy(values)
                at = changed
                for key in path[:-1]:
                    at = at[key]
                at[path[-1]] = other
                yield changed


def _leaves(values: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(values, list):
        for number, value in enumerate(values):
            yield from _leaves(value, (*path, number))
    else:
        yield path, values
