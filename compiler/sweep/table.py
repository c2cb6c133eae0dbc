"""The table of a sweep: a row per point, a column per key and per measured quantity; as CSV, JSON, text and HTML."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...rtl.spec.errors import ConfigError, did_you_mean
from ...sim.visual.tables import shown
from ...sim.visual.tables import table as html_table
from .columns import COLUMNS, LOW
from .keys import NAMES, OWN_KEYS, TILE_NAMES
from .pareto import front

DESIGN = ("format", "softmax_block", "scale_rule", "schedule", "tile", "energy", *TILE_NAMES)
"""Keys that say how a layer is done; the others say which layer it is."""

MAIN = ("cycles", "utilization", "pj_per_op", "area_mm2")
"""Columns that a terminal shows."""

Row = dict


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """given: keys that the sweep set. rows: per point {"point": digest or None, key: value, column: value, "error":
    text or None}, without keys that the point does not have, and without columns where there is an error.
    known: outcomes that were there before; failed: points whose measurement broke off, which the next one tries again.
    """

    given: tuple[str, ...]
    rows: list[Row]
    known: int = 0
    failed: int = 0

    @property
    def keys(self) -> list[str]:
        """Key columns: all that some point has, but a tile's only where they are set."""
        there = set().union(*self.rows)
        return [name for name in NAMES if name in there]

    @property
    def head(self) -> list[str]:
        """Names of all columns, in order."""
        return [*self.keys, *COLUMNS, "error", "point"]

    @property
    def errors(self) -> list[Row]:
        """Rows that have no values."""
        return [row for row in self.rows if row["error"] is not None]

    def values(self) -> list[list]:
        """The cells of every row in the order of `head`; None where there is none; lists of a tile as A+B."""
        return [[_plain(row.get(name)) for name in self.head] for row in self.rows]

    def csv(self, rows: Sequence[Row] | None = None) -> str:
        """Exact values, a line per row; an empty cell where there is none. rows: by default all."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.head)
        for row in self.rows if rows is None else rows:
            cells = [_plain(row.get(name)) for name in self.head]
            writer.writerow(["" if v is None else repr(v) if isinstance(v, float) else v for v in cells])
        return out.getvalue()

    def to_dict(self) -> dict:
        """Of JSON types: the columns with their units, and a row per point."""
        units = {name: COLUMNS[name].unit if name in COLUMNS else "" for name in self.head}
        return {"columns": units, "rows": [dict(zip(self.head, cells, strict=True)) for cells in self.values()]}

    def text(self, rows: Sequence[Row] | None = None, columns: Sequence[str] = MAIN) -> str:
        """Plain text: the keys that differ between points, and ``columns``; an error in place of its values."""
        shown_rows = self.rows if rows is None else list(rows)
        names = self.varying or ["model", "layer"]
        head = [*names, *(f"{name} [{COLUMNS[name].unit}]" if name in COLUMNS and COLUMNS[name].unit not in (
            "", "1", name) else name for name in columns)]
        lines = [[*(_key_text(row.get(name)) for name in names), *(_number(row.get(name)) for name in columns)]
                 for row in shown_rows]
        widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
        out = ["  ".join(cell.ljust(width) if i < len(names) else cell.rjust(width)
                         for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
               for line in [head, *lines]]
        for number, row in enumerate(shown_rows, 1):
            if row["error"] is not None:
                left = "  ".join(cell.ljust(width) for cell, width in zip(lines[number - 1], widths, strict=False))
                out[number] = f"{left[:sum(widths[:len(names)]) + 2 * len(names)]}error: {row['error']}"
        return "\n".join([out[0], "-" * len(out[0]), *out[1:]])

    @property
    def varying(self) -> list[str]:
        """Keys whose value is not the same in every row."""
        return [name for name in self.keys if len({row.get(name) for row in self.rows}) > 1]

    def check_columns(self, names: Sequence[str], what: str) -> dict[str, str]:
        """{column: `LOW` or `HIGH`} of two or three ``NAME`` or ``NAME:min`` or ``NAME:max``. Raises `ConfigError`."""
        if not 2 <= len(names) <= 3:
            raise ConfigError(f"{what} {','.join(names)}: expected two or three columns, got {len(names)}")
        chosen = {}
        for text in names:
            name, _, better = text.partition(":")
            numeric = [*COLUMNS, *(k for k in self.keys if any(type(row.get(k)) in (int, float) for row in self.rows))]
            if name not in numeric:
                raise ConfigError(f"{what} {text}: unknown column {name!r}{did_you_mean(name, numeric)}; allowed: "
                                  f"{', '.join(numeric)}")
            better = better or (COLUMNS[name].better if name in COLUMNS else "")
            if better not in ("min", "max"):
                raise ConfigError(f"{what} {text}: expected {name}:min or {name}:max, which of them is better")
            if name in chosen:
                raise ConfigError(f"{what} {','.join(names)}: {name} is named twice")
            chosen[name] = better
        return chosen

    def groups(self, per: Sequence[str] | None = None) -> list[tuple[dict, list[Row]]]:
        """Rows with values that may be compared: ({key: value} they share, rows). per: the keys that must be equal; by
        default those that say which layer it is."""
        for name in per or ():
            if name not in NAMES:
                raise ConfigError(f"--per {name}: unknown key{did_you_mean(name, NAMES)}; allowed: {', '.join(NAMES)}")
        names = [name for name in self.varying if (name not in DESIGN if per is None else name in per)]
        found: dict[tuple, list[Row]] = {}
        for row in self.rows:
            if row["error"] is None:
                found.setdefault(tuple(row.get(name) for name in names), []).append(row)
        return [(dict(zip(names, key, strict=True)), rows) for key, rows in found.items()]

    def pareto(self, columns: Sequence[str], per: Sequence[str] | None = None) -> list[Row]:
        """Rows of the Pareto front over two or three columns, ``NAME`` or ``NAME:min`` or ``NAME:max``: those that no
        other row of their group (`groups`) equals or betters in all columns and betters in one."""
        signs = self.check_columns(columns, "pareto")
        kept = []
        for _, rows in self.groups(per):
            rows = [row for row in rows if all(row.get(name) is not None for name in signs)]
            scores = [[row[name] if better == LOW else -row[name] for name, better in signs.items()] for row in rows]
            kept += sorted((rows[i] for i in front(scores)), key=lambda row: row[next(iter(signs))])
        return kept

    def _repr_html_(self) -> str:
        names = [*self.varying, *MAIN, *(["error"] if self.errors else [])]
        return html_table(names, [[_plain(row.get(name)) for name in names] for row in self.rows])


def label(row: Row, names: Sequence[str]) -> str:
    """A row in a few words: the values of ``names``, a tile's with their keys."""
    return ", ".join(_key_text(row[name]) if name in OWN_KEYS and name not in ("tokens", "context", "batch", "seed")
                     else f"{name} {_key_text(row[name])}" for name in names if name in row)


def _plain(value: Any) -> Any:
    return "+".join(value) if isinstance(value, tuple) else value


def _key_text(value: object) -> str:
    return "-" if value is None else str(_plain(value))


def _number(value: int | float | None) -> str:
    return shown(value)
