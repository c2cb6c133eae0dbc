"""Model, kernel, chip and format together: what each gains, and whether the gains multiply."""

from collections.abc import Sequence

from ..models import load_model
from ..sweep.table import Row, SweepTable
from .factorial import Cell, Effects, cells, effects
from .study import ENDS, MODELS, Answer, Case, Series, Study, decode, point_name, prefill, span

FACTORS = ("model", "kernel", "chip", "format")
LEVELS = {"model": ("as many KV heads as query heads", "an eighth of them"),
          "kernel": ("one panel of rows at a time", "blocked by rule"),
          "chip": ("edge", "server"), "format": ("e4m3", "nvfp4")}
"""{factor: (low, high)}."""

POINTS = (prefill(64), decode(1, 1024), decode(4, 4096))
GATES = ({"format": "nvfp4", "formats": "e4m3", "scales": "e8m0"}, {"format": "mxfp8", "scales": "e4m3"},
         {"format": "e5m2"})
"""Formats with a tile `edge` that lacks what they need."""

_HUNDRED, _OFF = 100, 0.1


def _kv_heads(name: str) -> tuple[int, int]:
    """As many as query heads, and an eighth."""
    heads = load_model(name).num_attention_heads
    return heads, max(1, heads // 8)


def _levels(name: str, cell: Cell) -> Case:
    model, kernel, chip, form = cell
    return {"model": name, "model_set": f"num_key_value_heads={_kv_heads(name)[model]}",
            "schedule": ("unblocked", "auto")[kernel], "tile": LEVELS["chip"][chip], "format": LEVELS["format"][form]}


def cell_of(row: Row) -> Cell:
    """The inverse of `_levels`."""
    return (row["model_set"] == f"num_key_value_heads={_kv_heads(row['model'])[1]}", row["schedule"] == "auto",
            row["tile"] == LEVELS["chip"][1], row["format"] == LEVELS["format"][1])


def _points(models: Sequence[str]) -> tuple[dict, list[Case]]:
    cases: list[Case] = [{**_levels(name, cell), **point}
                         for name in models for point in POINTS for cell in cells(len(FACTORS))]
    gates: list[Case] = [{"model": models[0], "tile": "edge", **decode(1, 1024), **gate} for gate in GATES]
    return {"layer": ["attention"]}, cases + gates


def factorials(table: SweepTable) -> dict[str, dict[Cell, Row]]:
    """{model and point: {cell: row}}, of those in which every cell has values."""
    found: dict[str, dict[Cell, Row]] = {}
    for row in table.rows:
        if row["error"] is None and "model_set" in row:
            found.setdefault(f"{row['model']}, {point_name(row)}", {})[cell_of(row)] = row
    return {where: rows for where, rows in found.items() if len(rows) == 1 << len(FACTORS)}


def _reason(row: Row) -> str:
    """The first half of an error: what the tile does not build."""
    return row["error"].partition("; ")[0].rpartition(": ")[2]


def _of(rows: dict[Cell, Row], column: str) -> Effects:
    return effects({cell: row[column] for cell, row in rows.items()}, FACTORS)


def _answer(table: SweepTable) -> Answer:
    designs = factorials(table)
    times = {where: _of(rows, "time_us") for where, rows in designs.items()}
    energies = {where: [_of(rows, column) for column in ENDS] for where, rows in designs.items()}
    pairs = list(next(iter(times.values())).pairs)
    best = max(times, key=lambda where: times[where].whole)
    off = {where: e.product / e.whole - 1 for where, e in times.items()}
    worst = max(off, key=lambda where: abs(off[where]))
    strong = max(times, key=lambda where: abs(times[where].pairs[times[where].strongest] - 1))
    i, j = times[strong].strongest
    gated = [row for row in table.errors if "model_set" not in row]
    rows = [[where, *(f"{gain:.2f}" for gain in e.gains), *(f"{e.pairs[pair]:.2f}" for pair in pairs),
             f"{e.product:.1f}", f"{e.whole:.1f}", f"{100 * e.explained:.1f} %", f"{three[1].whole:.1f}",
             span([one.whole for one in three], 1)]
            for (where, e), three in zip(times.items(), energies.values(), strict=True)]
    wide = max(max(one.whole for one in three) / min(one.whole for one in three) for three in energies.values())
    return Answer(
        stands=times[best].whole >= _HUNDRED and abs(off[worst]) <= _OFF,
        sentences=[*(f"{name.capitalize()}: from {LEVELS[name][0]} to {LEVELS[name][1]} gains "
                     f"{span([e.gains[n] for e in times.values()], 2)} in time." for n, name in enumerate(FACTORS)),
                   f"All four gain {span([e.whole for e in times.values()], 1)}, the most for {best}. The product of "
                   f"the gains alone is off by {100 * off[worst]:+.1f} % for {worst}; the log-additive model explains "
                   f"{span([100 * e.explained for e in times.values()], 1)} % of the variance.",
                   f"The strongest interaction is {FACTORS[i]} x {FACTORS[j]}, a factor of "
                   f"{times[strong].pairs[i, j]:.2f} for {strong}.",
                   "Gated by missing hardware: "
                   + "; ".join(f"format {row['format']} ({_reason(row)})" for row in gated) + "."],
        energy=f"In energy all four gain {span([one.whole for three in energies.values() for one in three], 1)}; from "
               f"one end of the table's range to the other a gain changes by at most a factor of {wide:.2f}.",
        head=["model, point", *FACTORS, *(f"{FACTORS[i]} x {FACTORS[j]}" for i, j in pairs), "product of gains alone",
              "all four, time", "explained", "all four, energy", "energy, over the range"], rows=rows,
        drawn=Series(unit="times less time", names=(*FACTORS, "all four"),
                     rows=[(where, [*e.gains, e.whole]) for where, e in times.items()]))


STUDY = Study(
    name="hundredfold", title="A hundredfold by model, kernel, chip and format",
    claimed="Changed together, model, kernel, chip and format take attention to a hundredth of its time, and their "
            "gains multiply.",
    refuted="No point of the table with a hundredfold, or one at which the product of the gains alone is off by more "
            "than 10 % from the gain of all four.",
    models=MODELS, points=_points, answer=_answer)
