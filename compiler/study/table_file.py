"""A sweep's table read back from its CSV."""

import csv
import io

from ...rtl.spec.errors import ConfigError
from ...rtl.spec.tile_keys import KEYS as TILE_KEYS
from ..sweep.columns import COLUMNS
from ..sweep.keys import OWN_KEYS
from ..sweep.table import Row, SweepTable


def read_table(text: str, source: str) -> SweepTable:
    """The table whose `SweepTable.csv` is ``text``. Raises `ConfigError` naming ``source`` for a column that no sweep
    has, or a line that is not as long as the head."""
    lines = list(csv.reader(io.StringIO(text)))
    head, *body = lines or [[]]
    keys = [name for name in head if name in OWN_KEYS or name in TILE_KEYS]
    for name in head:
        if name not in keys and name not in COLUMNS and name not in ("error", "point"):
            raise ConfigError(f"{source}: unknown column {name!r}")
    rows: list[Row] = []
    for number, cells in enumerate(body, 2):
        if len(cells) != len(head):
            raise ConfigError(f"{source}: line {number}: expected {len(head)} cells, got {len(cells)}")
        row = {name: _value(name, cell) for name, cell in zip(head, cells, strict=True) if cell != ""}
        rows.append({"point": None, **row, "error": row.get("error")})
    return SweepTable(given=tuple(keys), rows=rows)


def _value(name: str, text: str) -> object:
    if name in OWN_KEYS:
        return int(text) if OWN_KEYS[name].low is not None else text
    if name in TILE_KEYS:
        return tuple(text.split("+")) if TILE_KEYS[name].kind == "texts" else TILE_KEYS[name].from_text(text)
    if name in ("error", "point"):
        return text
    return int(text) if text.lstrip("-").isdecimal() else float(text)
