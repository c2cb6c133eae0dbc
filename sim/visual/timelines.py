"""Drawings over time: what each unit does, and how full each memory is. Time runs in equal bins, aggregated exactly."""

from collections.abc import Mapping

import numpy as np

from .bars import WIDTH
from .occupancy import Occupancy
from .segments import Segments
from .svg import CAUSE_COLOURS, FAINT, INK, box, drawing, legend, line, short, text, ticks

_LEFT, _BIN = 88, 2
BINS = (WIDTH - _LEFT - 12) // _BIN
_ORDER = ("busy", "compute", "fill", "wait_load", "wait_store", "wait_matrix", "wait_vector", "wait_port",
          "outstanding")
"""From the bottom up; idle cycles are the background."""


def bin_edges(cycles: int) -> np.ndarray:
    """float64 (BINS + 1,)."""
    return np.linspace(0, cycles, BINS + 1)


def activity(segments: Mapping[str, Mapping[str, Segments]], cycles: int) -> str:
    """A strip per unit: in every bin the share of each cause, stacked; the strip's height is 100 %."""
    height, gap, top = 46, 10, 8
    edges, parts, seen = bin_edges(cycles), [], set()
    for row, (unit, causes) in enumerate(segments.items()):
        y = top + row * (height + gap)
        parts += [text(_LEFT - 8, y + height / 2 + 4, unit, anchor="end"),
                  box(_LEFT, y, BINS * _BIN, height, CAUSE_COLOURS["idle"])]
        below = np.zeros(BINS)
        for cause in _ORDER:
            share = causes[cause].binned(edges) / np.diff(edges) if cause in causes else None
            if share is None or not share.any():
                continue
            seen.add(cause)
            parts.append(_band(y + height, height, below, below + share, CAUSE_COLOURS[cause]))
            below = below + share
    bottom = top + len(segments) * (height + gap) - gap
    parts += _time_axis(bottom, cycles)
    names = [(CAUSE_COLOURS[c], "busy, compute" if c == "busy" else c.replace("_", " "))
             for c in _ORDER if c in seen and c != "compute"] + [(CAUSE_COLOURS["idle"], "idle")]
    keys, extra = legend(names, _LEFT, bottom + 44, BINS * _BIN)
    return drawing(WIDTH, bottom + 38 + extra, parts + keys, "What each unit does over time")


def occupancy(memories: Mapping[str, Occupancy], cycles: int) -> str:
    """A strip per memory: the most that is in use in each bin, its capacity as a line."""
    height, gap, top = 52, 16, 14
    edges, parts = bin_edges(cycles), []
    for row, (name, memory) in enumerate(memories.items()):
        y = top + row * (height + gap)
        share = memory.peaks(edges) / memory.capacity
        parts += [text(_LEFT - 8, y + height / 2, name, anchor="end", weight="bold"),
                  text(_LEFT - 8, y + height / 2 + 13, f"{memory.capacity / 1024:,.4g} KiB", anchor="end", size=10,
                       colour=FAINT),
                  box(_LEFT, y, BINS * _BIN, height, "#f6f8fa"),
                  _band(y + height, height, np.zeros(BINS), share, "#1f8a84"),
                  line([(_LEFT, y), (_LEFT + BINS * _BIN, y)], "#c4553b", 1, "4 3"),
                  text(_LEFT + BINS * _BIN, y - 3, f"peak {memory.peak:,} B, {100 * memory.peak / memory.capacity:.1f} "
                       f"%; mean {100 * memory.mean(cycles) / memory.capacity:.1f} %", anchor="end", size=10,
                       colour=FAINT)]
    bottom = top + len(memories) * (height + gap) - gap
    return drawing(WIDTH, bottom + 36, parts + _time_axis(bottom, cycles), "On-chip memory in use over time")


def _band(base: float, height: float, low: np.ndarray, high: np.ndarray, colour: str) -> str:
    """The area between two step curves over the bins, where they differ."""
    lower, upper = (np.round(2 * (base - height * np.clip(v, 0, 1))).astype(int).tolist() for v in (low, high))
    path, i = [], 0
    while i < BINS:
        if lower[i] == upper[i]:
            i += 1
            continue
        end = i
        while end < BINS and lower[end] != upper[end]:
            end += 1
        path.append(f"M{_LEFT + i * _BIN} {lower[i] / 2:g}" + _steps(upper[i:end], _BIN)
                    + _steps(lower[i:end][::-1], -_BIN) + "Z")
        i = end
    return f'<path d="{"".join(path)}" fill="{colour}"/>' if path else ""


def _steps(values: list[int], width: int) -> str:
    """``V10h4V12h2``: runs of equal values, in half units."""
    out, i = [], 0
    while i < len(values):
        run = i
        while run < len(values) and values[run] == values[i]:
            run += 1
        out.append(f"V{values[i] / 2:g}h{(run - i) * width}")
        i = run
    return "".join(out)


def _time_axis(y: float, cycles: int) -> list[str]:
    scale, parts = BINS * _BIN / cycles, [line([(_LEFT, y), (_LEFT + BINS * _BIN, y)], INK)]
    for value in ticks(cycles, 6):
        x = round(_LEFT + value * scale, 1)
        parts += [line([(x, y), (x, y + 4)], INK), text(x, y + 16, short(value), anchor="middle", colour=FAINT)]
    parts.append(text(_LEFT + BINS * _BIN, y + 29, "cycles", anchor="end", colour=FAINT))
    return parts
