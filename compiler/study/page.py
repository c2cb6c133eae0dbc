"""The page of a study: Markdown with the claim, what is measured, the table and the drawing."""

from collections.abc import Sequence

from ...sim.visual.bars import WIDTH
from ...sim.visual.svg import FAINT, RULE, SERIES, box, drawing, legend, line, short, text, ticks
from ..sweep.table import SweepTable
from .studies import Answer, Series, Study

_LEFT, _BAR, _GAP = 290, 9, 8


def study_page(study: Study, table: SweepTable) -> str:
    """Markdown; the drawing is the file NAME.svg beside it."""
    answer = study.answer(table)
    verdict = "The claim stands." if answer.stands else "The claim is refuted."
    lines = [f"# {study.title}", "", f"Made by `tilescore study {study.name}`: {len(table.rows)} points"
             + (f", {len(table.errors)} of them without a program." if table.errors else "."), "",
             f"**Claimed.** {study.claimed}", "", f"**Measured.** {verdict} {' '.join(answer.sentences)}", "",
             f"**What would have refuted it.** {study.refuted}", "",
             f"![{study.title}]({study.name}.svg)", "", *_table(answer)]
    lines += [f"* Without a program: {row['model']}, {row['tile']}: {row['error']}" for row in table.errors]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(answer: Answer) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [row(answer.head), row(["---"] * len(answer.head)), *map(row, answer.rows), ""]


def study_svg(study: Study, table: SweepTable) -> str:
    """A group of bars per row of the answer's drawing."""
    return _bars(study.answer(table).drawn, study.title)


def _bars(series: Series, label: str) -> str:
    top = max(value for _, values in series.rows for value in values if value is not None)
    scale = (WIDTH - _LEFT - 60) / top
    height = 34 + sum(_BAR * len(values) + _GAP for _, values in series.rows)
    parts = []
    for value in ticks(top):
        x = _LEFT + value * scale
        parts += [line([(x, 20), (x, height)], RULE), text(x, 14, short(value), anchor="middle", size=10, colour=FAINT)]
    y = 26.0
    for name, values in series.rows:
        parts.append(text(_LEFT - 8, y + _BAR * len(values) / 2 + 4, name, anchor="end"))
        for number, value in enumerate(values):
            if value is not None:
                parts += [box(_LEFT, y, round(value * scale, 2), _BAR - 1, SERIES[2 * number % len(SERIES)],
                              f"{name}: {series.names[number]} {value:.4g}"),
                          text(_LEFT + value * scale + 4, y + 8, f"{value:.3g}", size=9, colour=FAINT)]
            y += _BAR
        y += _GAP
    keys, used = legend([(SERIES[2 * i % len(SERIES)], name) for i, name in enumerate(series.names)], _LEFT, y + 14,
                        WIDTH - _LEFT)
    parts.append(text(_LEFT - 8, y + 14, series.unit, anchor="end", colour=FAINT))
    return drawing(WIDTH, y + used + 10, parts + keys, label)
