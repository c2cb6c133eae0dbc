"""HTML tables, and what notebooks show of a result."""

import html
from collections.abc import Mapping, Sequence

from .bars import energy_bars, ledger_bars

Cell = str | int | float | None


def shown(value: Cell) -> str:
    """``1,234``; two decimals of a float, four digits of a small one; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) >= 100 or value == 0 else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], total: Sequence[Cell] = (), *,
          sortable: bool = False) -> str:
    """Numbers carry their exact value in ``data-value``: what a script sorts by, and what a reader can take."""
    def cell(value: Cell) -> str:
        exact = f' data-value="{value!r}"' if isinstance(value, int | float) else ""
        return f"<td{exact}>{html.escape(shown(value))}</td>"

    def line(cells: Sequence[Cell]) -> str:
        return f"<tr>{''.join(map(cell, cells))}</tr>"

    foot = f"<tfoot>{line(total)}</tfoot>" if total else ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return (f'<table{" class=sortable" if sortable else ""}><thead><tr>{heads}</tr></thead>'
            f"<tbody>{''.join(map(line, rows))}</tbody>{foot}</table>")


def pairs(values: Mapping[str, object]) -> str:
    """Names and values as two columns."""
    rows = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
                   for name, value in values.items())
    return f'<table class="plain">{rows}</table>'


def result_html(tile: str, totals: Mapping[str, Cell], ledger: Mapping[str, Mapping[str, int]],
                components: Mapping[str, float]) -> str:
    """A result as a fragment of HTML: totals, where the cycles and the energy went."""
    return (f"<div><b>{html.escape(tile)}</b>{table(list(totals), [list(totals.values())])}"
            f"{ledger_bars([('', ledger)])}{energy_bars([('energy', components)])}</div>")
