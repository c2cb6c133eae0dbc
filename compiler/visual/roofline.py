"""The roofline: useful MACs per cycle over useful MACs per byte of DRAM traffic, both axes logarithmic.

Of a tile with a port each for loads and stores, the traffic of the busier port."""

import math
from collections.abc import Sequence

from ...rtl.spec.tile_keys import rational
from ...sim.visual.bars import WIDTH
from ...sim.visual.svg import FAINT, INK, RULE, SERIES, drawing, line, short, text

_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 16, WIDTH - 20, 306


def point(report: dict) -> tuple[float, float]:
    """(useful MACs per byte, useful MACs per cycle) of a layer; the bytes are those of the port, or the busier one."""
    moved = report["dram_bytes"].values()
    size = sum(moved) if report["tile_parameters"].get("dram_shared") else max(moved)
    return report["useful_macs"] / size, report["useful_macs"] / report["cycles"]


def _rate(tile: dict) -> float:
    """Bytes per cycle of a DRAM port; reports of older versions have no rate but the port's."""
    return float(rational(tile.get("dram_bytes_per_cycle")) or tile["bus_bytes"])


def roofline(reports: Sequence[tuple[str, dict]]) -> str:
    """Roofs and a dot per (name, report). A tile that several reports share has its roofs once."""
    roofs = dict.fromkeys((r["tile"], r["peak_macs_per_cycle"], _rate(r["tile_parameters"])) for _, r in reports)
    dots = [(name, *point(report)) for name, report in reports]
    ridges = [peak / bus for _, peak, bus in roofs]
    low_x, high_x = _decades([x for _, x, _ in dots] + ridges)
    low_y, high_y = _decades([y for _, _, y in dots] + [float(peak) for _, peak, _ in roofs])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - low_x) / (high_x - low_x)
        up = (math.log10(y) - low_y) / (high_y - low_y)
        return round(_LEFT + across * (_RIGHT - _LEFT), 1), round(_BOTTOM - up * (_BOTTOM - _TOP), 1)

    parts = _grid(low_x, high_x, low_y, high_y, place)
    for i, (tile, peak, bus) in enumerate(roofs):
        start = max(10.0 ** low_x, 10.0 ** low_y / bus)
        corner = peak / bus
        parts.append(line([place(start, bus * start), place(corner, peak), place(10.0 ** high_x, peak)], INK, 1.6,
                          "" if i == 0 else "5 3"))
        x, y = place(10.0 ** high_x, peak)
        parts.append(text(x - 4, y - 5, f"{tile}: {peak:,} MAC/cycle", anchor="end", size=10))
        x, y = place(math.sqrt(start * corner), bus * math.sqrt(start * corner))
        parts.append(text(x - 6, y - 6, f"{bus:.4g} B/cycle", anchor="end", size=10))
    for i, (name, x, y) in enumerate(dots):
        left, top = place(x, y)
        colour = SERIES[(4 * i + 8) % len(SERIES)]
        roof = min((min(peak, bus * x) for tile, peak, bus in roofs if tile == reports[i][1]["tile"]), default=y)
        parts.append(f'<circle cx="{left:g}" cy="{top:g}" r="5" fill="{colour}" stroke="#fff"/>')
        flip = left > (_LEFT + _RIGHT) / 2
        parts.append(text(left - 9 if flip else left + 9, top + 15 + 12 * (i % 2), f"{name}: {short(y)} MAC/cycle at "
                          f"{short(x)} MAC/B, {100 * y / roof:.1f} % of its roof", anchor="end" if flip else "start"))
    return drawing(WIDTH, _BOTTOM + 42, parts, "Roofline")


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Whole powers of ten around the values, at least two decades apart."""
    high = math.ceil(math.log10(max(values)) + 0.1)
    return min(math.floor(math.log10(min(values)) - 0.1), high - 2), high


def _grid(low_x: int, high_x: int, low_y: int, high_y: int, place) -> list[str]:
    parts = []
    for power in range(low_x, high_x + 1):
        x, _ = place(10.0 ** power, 10.0 ** low_y)
        parts += [line([(x, _TOP), (x, _BOTTOM)], RULE),
                  text(x, _BOTTOM + 15, short(10.0 ** power), anchor="middle", colour=FAINT)]
    for power in range(low_y, high_y + 1):
        _, y = place(10.0 ** low_x, 10.0 ** power)
        parts += [line([(_LEFT, y), (_RIGHT, y)], RULE),
                  text(_LEFT - 6, y + 4, short(10.0 ** power), anchor="end", colour=FAINT)]
    middle = (_TOP + _BOTTOM) / 2
    return [*parts, text((_LEFT + _RIGHT) / 2, _BOTTOM + 33, "useful MACs per byte of DRAM traffic",
                         anchor="middle", colour=FAINT),
            text(20, middle, "useful MACs per cycle", anchor="middle", colour=FAINT, turn=-90)]
