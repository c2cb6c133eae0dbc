"""The page of a study: Markdown with the claim, what is measured, the table and the drawing; its points as CSV."""

from collections.abc import Sequence
from dataclasses import replace

from ...sim.visual.bars import WIDTH
from ...sim.visual.svg import FAINT, INK, RULE, SERIES, box, drawing, legend, line, short, text, ticks
from ..sweep.table import SweepTable
from .study import Answer, Series, Study

_LETTER, _BAR, _GAP = 6.2, 11, 8


def study_files(study: Study, table: SweepTable) -> dict[str, str]:
    """{name: content} of page, drawing and points."""
    answer = study.answer(table)
    return {f"{study.name}.md": _page(study, table, answer), f"{study.name}.svg": _bars(answer.drawn, study.title),
            f"{study.name}.csv": _points(table)}


def _page(study: Study, table: SweepTable, answer: Answer) -> str:
    verdict = "The claim stands." if answer.stands else "The claim is refuted."
    lines = [f"# {study.title}", "", f"Made by `tilescore study {study.name}`: {len(table.rows)} points"
             + (f", {len(table.errors)} of them without a program" if table.errors else "")
             + f" ([all values]({study.name}.csv)).", "",
             f"**Claimed.** {study.claimed}", "", f"**Measured.** {verdict} {' '.join(answer.sentences)}", "",
             f"**Energy.** {answer.energy}", "", f"**What would have refuted it.** {study.refuted}", "",
             f"![{study.title}]({study.name}.svg)", "", *_table(answer)]
    lines += [f"* Without a program: {row['model']}, {row['tile']}: {row['error']}" for row in table.errors]
    return "\n".join(lines).rstrip("\n") + "\n"


def _points(table: SweepTable) -> str:
    """As CSV, without the digests, which change with every source file."""
    return replace(table, rows=[row | {"point": None} for row in table.rows]).csv()


def _table(answer: Answer) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [row(answer.head), row(["---"] * len(answer.head)), *map(row, answer.rows), ""]


def _bars(series: Series, label: str) -> str:
    """A group of bars per row; a dashed line at 1 where values are ratios to a base."""
    relative = " / " in series.unit
    top = max(float(relative), *(value for _, values in series.rows for value in values if value is not None))
    left = 14 + _LETTER * max(len(name) for name, _ in series.rows)
    scale = (WIDTH - left - 60) / top
    bottom = 26 + sum(_BAR * len(values) + _GAP for _, values in series.rows) - _GAP
    parts = []
    for value in ticks(top):
        x = left + value * scale
        parts += [line([(x, 20), (x, bottom)], RULE), text(x, 14, short(value), anchor="middle", size=10, colour=FAINT)]
    if relative:
        parts.append(line([(left + scale, 20), (left + scale, bottom)], INK, 1, "4 3"))
    y = 26.0
    for name, values in series.rows:
        parts.append(text(left - 8, y + _BAR * len(values) / 2 + 4, name, anchor="end"))
        for number, value in enumerate(values):
            if value is not None:
                parts += [box(left, y, round(value * scale, 2), _BAR - 1, SERIES[2 * number % len(SERIES)],
                              f"{name}: {series.names[number]} {value:.4g}"),
                          text(left + value * scale + 4, y + _BAR - 2, f"{value:.3g}", size=9, colour=FAINT)]
            y += _BAR
        y += _GAP
    keys, used = legend([(SERIES[2 * i % len(SERIES)], name) for i, name in enumerate(series.names)], left, y + 12,
                        WIDTH - left)
    parts.append(text(left - 8, y + 12, series.unit, anchor="end", colour=FAINT))
    return drawing(WIDTH, y + used + 6, parts + keys, label)
