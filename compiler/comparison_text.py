"""A comparison as text for a terminal, and as Markdown for a pull request.

Both show rows of `Comparison.rows` and nothing else: the totals, and of the rest what differs.
"""

from collections.abc import Callable, Sequence

from .aligned import aligned
from .comparison import Comparison, Row, growth

_ALWAYS = ("totals",)
_DECIMALS = {"%": 2, "us": 2, "pJ": 1, "uJ": 2, "W": 3, "cycles": 0, "B": 0, "MAC": 0}


def number(value: float | int | None, unit: str = "") -> str:
    """``1,234.5``; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if unit == "pJ" and abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.{_DECIMALS[unit]}f}" if unit in _DECIMALS else f"{value:.4g}"


def change(row: Row, position: int) -> str:
    """``+12 (+1.5 %)``; empty where nothing changes."""
    difference, old = row.change(position), row.values[0]
    if not difference:
        return ""
    sign = "+" if difference > 0 else "-"
    share = f" ({sign}{100 * abs(difference) / abs(old):.2f} %)" if old else ""
    return f"{sign}{number(abs(difference), row.unit)}{share}"


def text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    return "\n\n".join("\n".join([*([title] if title else []), *aligned(cells)]) if cells else title
                       for title, cells in parts(comparison)) + "\n"


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown tables."""
    blocks = []
    for title, cells in parts(comparison):
        lines = [f"**{title}**", ""] if title and cells else [title] if title else []
        if cells:
            head, *rest = cells
            lines += ["| " + " | ".join(line) + " |" for line in [head, ["---"] + ["---:"] * (len(head) - 1), *rest]]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def parts(comparison: Comparison) -> list[tuple[str, list[list[str]]]]:
    """(title or sentence, table cells with the head first) of each part."""
    head = ["", *_with_changes(comparison.names, lambda i: "change")]
    found: list[tuple[str, list[list[str]]]] = [(f"note: {note}", []) for note in comparison.notes]
    settings = [[key, *values] for key, values in comparison.settings if len(set(values)) > 1]
    if settings:
        found.append(("settings that differ", [["", *comparison.names], *settings]))
    for section in dict.fromkeys(row.section for row in comparison.rows):
        rows = [row for row in comparison.rows if row.section == section and (section in _ALWAYS or row.differs)]
        if rows:
            cells = [[label(row), *_with_changes([number(v, row.unit) for v in row.values],
                                                  lambda i, row=row: change(row, i))] for row in rows]
            found.append((section, [head, *cells]))
    for position, name in enumerate(comparison.names[1:], 1):
        found += [(sentence, []) for sentence in sentences(comparison, position, name)]
    return found


def sentences(comparison: Comparison, position: int, name: str) -> list[str]:
    """Where a growth comes from, how the schedules differ, and the first instruction that does."""
    first, found = comparison.names[0], []
    grown = [(phase, unit, cycles) for phase, unit, cycles in growth(comparison, position) if cycles > 0]
    if grown and (comparison.row("cycles").change(position) or 0) > 0:
        phase, unit, cycles = grown[0]
        found.append(f"{name}: the growth of cycles comes from the {unit} unit in phase {phase}: {cycles:+,} cycles on "
                     "the critical path")
    for what, total, part in (("DRAM bytes", "dram_bytes", ".dram_bytes"),
                              ("energy", "energy.total_pj", ".energy_pj")):
        if (comparison.row(total).change(position) or 0) > 0:
            rows = [row for row in comparison.rows if row.section == "phases" and row.name.endswith(part)]
            most = max(rows, key=lambda row: row.change(position) or 0)
            found.append(f"{name}: the growth of {what} comes from phase {most.name.removesuffix(part)}: "
                         f"{change(most, position)} {most.unit}")
    if comparison.schedules[position]:
        found.append(f"schedule, {first} -> {name}: " + "; ".join(comparison.schedules[position]))
    where = comparison.partings[position]
    if where is not None:
        found.append(f"first difference, {first} -> {name}: {where}")
    return found


def label(row: Row) -> str:
    return f"{row.name} [{row.unit}]" if row.unit else row.name


def _with_changes(values: Sequence[str], make: Callable[[int], str]) -> list[str]:
    """The values, and behind each but the first its change."""
    return [values[0], *(cell for i, value in enumerate(values[1:], 1) for cell in (value, make(i)))]
