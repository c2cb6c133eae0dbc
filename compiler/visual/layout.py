"""The frame of a page: style, script, embedded data; nothing in it is fetched, and the page forbids itself to fetch."""

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from importlib import resources

from ...sim.visual.tables import Cell

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, header: str, body: str, data: dict[str, object]) -> str:
    """A whole document. data: {id: object of JSON types}, each in a script element that holds it as JSON."""
    held = "".join(f'<script type="application/json" id="{name}">{_json(value)}</script>\n'
                   for name, value in data.items())
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<title>{html.escape(title)}</title>\n<link rel="icon" href="data:,">\n'
            f"<style>\n{_file('page.css')}</style></head>\n<body><header>{header}</header>\n<main>{body}</main>\n{held}"
            f"<script>\n{_file('page.js')}</script></body></html>\n")


def card(title: str, content: str, note: str = "", *, figure: str = "") -> str:
    """A titled box. figure: file name under which a script lets its drawing be saved."""
    save = f' <a class="save" hidden download="{html.escape(figure)}.svg" href="#">SVG</a>' if figure else ""
    said = f'<p class="faint">{note}</p>' if note else ""
    return (f'<section class="card"><h3>{html.escape(title)}{save}</h3>{said}<div class="scroll">{content}</div>'
            "</section>")


def fold(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def csv_text(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Exact values, a line per row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([repr(v) if isinstance(v, float) else v for v in row] for row in rows)
    return out.getvalue()


def csv_link(name: str, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A link that saves the rows, without any script."""
    data = base64.b64encode(csv_text(head, rows).encode()).decode()
    return f'<a download="{html.escape(name)}.csv" href="data:text/csv;base64,{data}">CSV</a>'


def _json(value: object) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (resources.files(__name__.rpartition(".")[0]) / "files" / name).read_text(encoding="utf-8")
