"""The page of a comparison: sides next to each other, what differs, and where a growth comes from."""

import html
from collections.abc import Sequence

from ...sim.visual.bars import energy_bars, ledger_bars, phase_bars
from ...sim.visual.tables import Cell, pairs, table
from ..comparison import Comparison
from ..comparison_text import label, parts
from .comparison_tables import comparison_html
from .layout import card, csv_link, fold, page
from .roofline import roofline
from .run_page import key_figures, provenance_values


def comparison_page(comparison: Comparison, reports: Sequence[dict]) -> str:
    """The document; ``reports`` are those that were compared, in order."""
    names = comparison.names
    sides = list(zip(names, reports, strict=True))
    title = f"{reports[0]['model']} {reports[0]['layer']}: {' · '.join(names)}"
    header = f"<h1>{html.escape(title)}</h1><p class=faint>Changes are against {html.escape(names[0])}.</p>"
    keys = "".join(f"<h2>{html.escape(name)}</h2>{key_figures(report, reports[0] if i else None)}"
                   for i, (name, report) in enumerate(sides))
    phases = [(name, {p["phase"]: p["cycles"] for p in r["phases"]}) for name, r in sides]
    body = "".join([
        keys, _words(comparison),
        card("Cycles by phase", phase_bars(phases, "cycles", "Cycles by phase"), figure="phases"),
        card("Where the cycles go", ledger_bars([(name, r["ledger"]) for name, r in sides]),
             "Every cycle of every unit has one cause; each bar is 100 % of its own run.", figure="ledger"),
        card("Energy", phase_bars([(name, {c: v / 1e6 for c, v in r["energy"]["components"].items()})
                                   for name, r in sides], "uJ", "Energy by component"), figure="energy"),
        card("Where the energy goes", energy_bars([(name, r["energy"]["components"]) for name, r in sides]),
             figure="energy-shares"),
        card("Roofline", roofline(sides), figure="roofline"), _rows(comparison),
        f'<section class="card"><h3>What differs</h3>{comparison_html(comparison)}</section>',
        *(f'<section class="card"><h3>To have {html.escape(name)} again</h3>{pairs(provenance_values(report))}'
          + fold("schedule", pairs(dict(_flat(report["schedule"])))) + "</section>" for name, report in sides)])
    return page(f"{title} · tilescore", header, body,
                {"comparison": comparison.to_dict(), "reports": [{k: v for k, v in report.items() if k != "timeline"}
                                                                 for report in reports]})


def _words(comparison: Comparison) -> str:
    said = [title for title, cells in parts(comparison) if title and not cells]
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in said)
    return f'<section class="card"><h3>In words</h3><ul>{items}</ul></section>' if said else ""


def _rows(comparison: Comparison) -> str:
    """Every row of the comparison."""
    names = comparison.names
    head = ["section", "quantity", *names, *(f"change of {name}" for name in names[1:])]
    rows: list[list[Cell]] = [[row.section, label(row), *row.values,
                               *(row.change(i) for i in range(1, len(names)))] for row in comparison.rows]
    link = csv_link("comparison", head, rows)
    return card("Every quantity", f'<details><summary>{len(rows)} rows</summary>{table(head, rows, sortable=True)}'
                "</details>", link)


def _flat(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
