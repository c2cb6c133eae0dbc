"""The Pareto fronts of a sweep as a drawing: a panel per group, every point a dot, the front joined and named."""

import math
from collections.abc import Callable, Sequence

from ...sim.visual.svg import FAINT, INK, RULE, SERIES, drawing, line, short, text, ticks
from .columns import COLUMNS
from .table import DESIGN, Row, SweepTable, label

PANEL_WIDTH, PANEL_HEIGHT, MOST_PANELS, MOST_NAMES = 470, 330, 24, 7
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 34, 46
_FRONT, _OTHERS = SERIES[8], "#b9c3cd"
_DECADES = 1.3


def pareto_svg(table: SweepTable, columns: Sequence[str], per: Sequence[str] | None = None) -> str:
    """The fronts of `SweepTable.pareto`. The first column runs to the right, the second up; a third is the size of the
    dots. At most `MOST_PANELS` groups are drawn; the drawing says how many there are."""
    signs = table.check_columns(columns, "pareto")
    kept = {id(row) for row in table.pareto(columns, per)}
    groups = [(shared, [row for row in rows if all(row.get(name) is not None for name in signs)])
              for shared, rows in table.groups(per)]
    groups = [(shared, rows) for shared, rows in groups if rows]
    drawn = groups[:MOST_PANELS]
    across = min(2, max(1, len(drawn)))
    parts = []
    design = [name for name in table.varying if name in DESIGN] if per is None else [
        name for name in table.varying if name not in per]
    for number, (shared, rows) in enumerate(drawn):
        left, top = number % across * PANEL_WIDTH, number // across * PANEL_HEIGHT
        parts += _panel(left, top, label(shared, list(shared)), rows, kept, list(signs), design)
    height = -(-len(drawn) // across) * PANEL_HEIGHT
    note = f"{len(drawn)} of {len(groups)} groups; " if len(drawn) < len(groups) else ""
    third = f"; size of a dot: {_title(list(signs)[2])}" if len(signs) == 3 else ""
    better = ", ".join(f"{name} {sign}" for name, sign in signs.items())
    parts.append(text(12, height + 14, f"{note}red: Pareto front ({better}){third}", colour=FAINT))
    return drawing(across * PANEL_WIDTH, height + 24, parts, f"Pareto front over {', '.join(signs)}")


def _panel(left: int, top: int, name: str, rows: list[Row], kept: set[int], columns: list[str],
           design: list[str]) -> list[str]:
    x_at, x_ticks = _scale([row[columns[0]] for row in rows], left + _LEFT, left + PANEL_WIDTH - _RIGHT)
    y_at, y_ticks = _scale([row[columns[1]] for row in rows], top + PANEL_HEIGHT - _BOTTOM, top + _TOP)
    parts = [text(left + _LEFT, top + 18, name, weight="bold", size=12)]
    low, high = top + PANEL_HEIGHT - _BOTTOM, top + _TOP
    for value in x_ticks:
        parts += [line([(x_at(value), low), (x_at(value), high)]),
                  text(x_at(value), low + 15, short(value), anchor="middle", colour=FAINT, size=10)]
    for value in y_ticks:
        parts += [line([(left + _LEFT, y_at(value)), (left + PANEL_WIDTH - _RIGHT, y_at(value))], RULE),
                  text(left + _LEFT - 6, y_at(value) + 4, short(value), anchor="end", colour=FAINT, size=10)]
    parts += [text(left + (_LEFT + PANEL_WIDTH - _RIGHT) / 2, low + 33, _title(columns[0]), anchor="middle",
                   colour=FAINT),
              text(left + 16, (low + high) / 2, _title(columns[1]), anchor="middle", colour=FAINT, turn=-90)]
    best = sorted((row for row in rows if id(row) in kept), key=lambda row: row[columns[0]])
    if len(columns) == 2:
        parts.append(line([(x_at(row[columns[0]]), y_at(row[columns[1]])) for row in best], _FRONT, 1.4))
    for row in sorted(rows, key=lambda row: id(row) in kept):
        parts.append(_dot(row, rows, columns, x_at, y_at, id(row) in kept, design))
    return parts + _names(best, columns, x_at, y_at, design, left + PANEL_WIDTH)


def _dot(row: Row, rows: list[Row], columns: list[str], x_at: Callable[[float], float],
         y_at: Callable[[float], float], best: bool, design: list[str]) -> str:
    radius = 4.0
    if len(columns) == 3:
        values = [other[columns[2]] for other in rows]
        radius = 3 + 6 * (row[columns[2]] - min(values)) / ((max(values) - min(values)) or 1)
    values_text = ", ".join(f"{name} {row[name]:,.6g}" for name in columns)
    colour = _FRONT if best else _OTHERS
    tip = f"<title>{_escaped(label(row, design))}: {values_text}</title>"
    return (f'<circle cx="{x_at(row[columns[0]]):.1f}" cy="{y_at(row[columns[1]]):.1f}" r="{radius:.1f}" '
            f'fill="{colour}" fill-opacity="0.85" stroke="#fff">{tip}</circle>')


def _names(best: list[Row], columns: list[str], x_at: Callable[[float], float], y_at: Callable[[float], float],
           design: list[str], edge: float) -> list[str]:
    """Names beside points of the front, where they do not lie on each other."""
    parts, taken = [], []
    step = max(1, -(-len(best) // MOST_NAMES))
    for row in [*best[::step], *([best[-1]] if best and (len(best) - 1) % step else [])]:
        x, y = x_at(row[columns[0]]), y_at(row[columns[1]])
        name = label(row, design)
        width = 5.6 * len(name)
        start = x + 8 if x + 8 + width < edge else x - 8 - width
        above = y - 7
        if any(abs(above - other) < 12 and start < end and begin < start + width for other, begin, end in taken):
            continue
        taken.append((above, start, start + width))
        parts.append(text(round(start, 1), round(above, 1), name, size=10, colour=INK))
    return parts


def _scale(values: list[float], begin: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """(place of a value, ticks); logarithmic where the values span more than `_DECADES` decades."""
    low, high = min(values), max(values)
    if low > 0 and math.log10(high / low) > _DECADES:
        first, last = math.log10(low) - 0.08, math.log10(high) + 0.08
        powers = [factor * 10.0 ** power for power in range(math.floor(first), math.ceil(last) + 1)
                  for factor in ((1, 3) if last - first < 2.5 else (1,))]
        return (lambda value: round(begin + (math.log10(value) - first) / (last - first) * (end - begin), 1),
                [power for power in powers if first <= math.log10(power) <= last])
    top = high * 1.08 if high > 0 else 1.0
    bottom = 0.0 if low >= 0 else low * 1.08
    return (lambda value: round(begin + (value - bottom) / (top - bottom) * (end - begin), 1),
            [value for value in ticks(top) if value >= bottom])


def _title(name: str) -> str:
    unit = COLUMNS[name].unit if name in COLUMNS else ""
    return f"{name} [{unit}]" if unit not in ("", "1", name) else name


def _escaped(content: str) -> str:
    return content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
