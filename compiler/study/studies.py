"""The studies: each a claim, the points that test it, and how the page reads the table.

Every study covers at least three models, three operating points and two tiles. Energies are judged at both ends of the
table's range: a ratio that lies on one side of 1 at either end does not depend on the constants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..sweep.plan import SweepPlan
from ..sweep.table import Row, SweepTable

MODELS = ("llama-3-8b", "qwen3-30b-a3b", "olmoe-1b-7b")
POINTS = {
    "prefill of 128": {"phase": "prefill", "tokens": 128},
    "decode, batch 16": {"phase": "decode", "context": 1024, "batch": 16},
    "decode, batch 1": {"phase": "decode", "context": 1024, "batch": 1},
}
"""{name: keys} of the usual operating points, attention layers."""
TILES = ("edge", "server")


@dataclass(frozen=True, kw_only=True)
class Series:
    """One figure of a page: a bar per row and name. unit: of the values, "" for ratios. ends: (low, high) per value."""

    unit: str
    names: tuple[str, ...]
    rows: list[tuple[str, list[float | None]]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a table says: sentences, a table of texts, a drawing, and whether the claim stands."""

    sentences: list[str]
    head: list[str]
    rows: list[list[str]]
    drawn: Series
    stands: bool


@dataclass(frozen=True, kw_only=True)
class Study:
    """claimed: the claim; refuted: what in the table would refute it; keys, cases: the points; answer: of a table."""

    name: str
    title: str
    claimed: str
    refuted: str
    keys: dict[str, Sequence[object]]
    cases: list[dict[str, object]]
    answer: Callable[[SweepTable], Answer]

    def plan(self, models: Sequence[str] | None = None) -> SweepPlan:
        """The points. models: in place of the study's own."""
        keys = dict(self.keys) | ({} if models is None else {"model": models})
        return SweepPlan(axes=keys, cases=self.cases, source=f"study {self.name}")


def point_name(row: Row) -> str:
    """The operating point of a row in words."""
    if row["phase"] == "decode":
        return f"decode, batch {row['batch']}"
    return f"prefill of {row['tokens']}"


def good(table: SweepTable) -> list[Row]:
    return [row for row in table.rows if row["error"] is None]


def _ratio(row: Row, base: Row, column: str) -> float:
    return row[column] / base[column]


# ---- formats ----


def _formats(table: SweepTable) -> Answer:
    keyed = {(row["model"], point_name(row), row["tile"], row["format"]): row for row in good(table)}
    names = list(dict.fromkeys(row["format"] for row in table.rows))
    rows, drawn, decode, energies = [], [], [], []
    for model, point, tile, name in keyed:
        if name == "e4m3" or (model, point, tile, "e4m3") not in keyed:
            continue
        row, base = keyed[model, point, tile, name], keyed[model, point, tile, "e4m3"]
        time = _ratio(row, base, "time_us")
        ends = [_ratio(row, base, column) for column in ("energy_low_pj", "energy_pj", "energy_high_pj")]
        rows.append([model, point, tile, name, f"{time:.3f}", f"{_ratio(row, base, 'read_bytes'):.3f}",
                     f"{ends[1]:.3f}", f"{min(ends):.3f} to {max(ends):.3f}"])
        energies.append(ends)
        if name == "w4a8-nvfp4" and point.startswith("decode"):
            decode.append((time, f"{model}, {point}, {tile}"))
    for model, point, tile in dict.fromkeys(key[:3] for key in keyed):
        base = keyed.get((model, point, tile, "e4m3"))
        drawn.append((f"{model}, {point}, {tile}", [
            _ratio(row, base, "time_us") if base and (row := keyed.get((model, point, tile, name))) else None
            for name in names]))
    fast, slow = min(decode), max(decode)
    certain = sum(max(ends) < 1 or min(ends) > 1 for ends in energies)
    return Answer(
        sentences=[
            f"With 4-bit weights and 8-bit activations decode takes {fast[0]:.3f} ({fast[1]}) to {slow[0]:.3f} "
            f"({slow[1]}) of its time in E4M3.",
            f"The energy moves to the same side of E4M3's at both ends of the table's range in {certain} of "
            f"{len(energies)} comparisons; in the others the answer depends on the constants."],
        head=["model", "point", "tile", "format", "time / e4m3", "bytes read / e4m3", "energy / e4m3",
              "energy, over the range"],
        rows=rows, drawn=Series(unit="time / e4m3", names=tuple(names), rows=drawn), stands=slow[0] < 0.75)


# ---- prefill and decode ----


def _phases(table: SweepTable) -> Answer:
    rows, drawn = [], []
    bound: dict[str, set[str]] = {}
    for row in good(table):
        limits = {name: row[f"{name}_bound_cycles"] for name in ("compute", "dram", "vector")}
        by = max(limits, key=limits.__getitem__)
        bound.setdefault(row["phase"], set()).add(by)
        macs = 2 * row["useful_macs"]
        rows.append([row["model"], point_name(row), row["tile"], by, f"{100 * row['utilization']:.1f} %",
                     f"{row['bound_cycles'] / row['cycles']:.2f}", f"{row['pj_per_op']:.2f}",
                     f"{row['energy_low_pj'] / macs:.2f} to {row['energy_high_pj'] / macs:.2f}"])
        drawn.append((f"{row['model']}, {point_name(row)}, {row['tile']}", [100 * row["utilization"]]))
    worst = {}
    for phase in ("prefill", "decode"):
        found = [row for row in good(table) if row["phase"] == phase]
        worst[phase] = (min(r["utilization"] for r in found), max(r["utilization"] for r in found),
                        min(r["energy_low_pj"] / r["useful_macs"] / 2 for r in found),
                        max(r["energy_high_pj"] / r["useful_macs"] / 2 for r in found))
    lines = [f"{phase.capitalize()}: utilization {100 * low:.1f} to {100 * high:.1f} %, {cheap:.2f} to {dear:.2f} pJ "
             f"per operation over the range of the table; the largest bound is {' or '.join(sorted(bound[phase]))}."
             for phase, (low, high, cheap, dear) in worst.items()]
    return Answer(sentences=lines, rows=rows,
                  head=["model", "point", "tile", "largest bound", "utilization", "bound / cycles", "pJ per op",
                        "pJ per op, over the range"],
                  drawn=Series(unit="% of the array's peak", names=("utilization",), rows=drawn),
                  stands=bound["decode"] == {"dram"} and bound["prefill"] == {"compute"})


# ---- basin ----

SHAPES = ({"rows": 8, "cols": 32}, {"rows": 16, "cols": 16}, {"rows": 32, "cols": 8})
"""Arrays of as many multipliers, on the memories of `edge`."""


def _basin(table: SweepTable) -> Answer:
    def shape(row: Row) -> str:
        return f"{row['rows']} x {row['cols']}"

    shapes = list(dict.fromkeys(map(shape, table.rows)))
    keyed = {(row["model"], point_name(row), shape(row)): row for row in good(table)}
    rows, drawn, best = [], [], []
    for model, point in dict.fromkeys(key[:2] for key in keyed):
        cells = [keyed.get((model, point, name)) for name in shapes]
        found = [row for row in cells if row is not None]
        winner = max(found, key=lambda row: row["tops_per_mm2"])
        best.append(shape(winner))
        rows.append([model, point, *("-" if row is None else f"{100 * row['utilization']:.1f} %, "
                                     f"{row['tops_per_mm2']:.3f}" for row in cells), shape(winner)])
        drawn.append((f"{model}, {point}", [None if row is None else 100 * row["utilization"] for row in cells]))
    areas = {shape(row): row["area_mm2"] for row in good(table)}
    wins = {name: best.count(name) for name in shapes}
    return Answer(
        sentences=["Areas: " + ", ".join(f"{name} {area:.3f} mm2" for name, area in areas.items()) + "; throughput is "
                   "compared per area, which every shape has of its own.",
                   "Most throughput per area: " + ", ".join(f"{name} at {count} of {len(best)} points"
                                                            for name, count in wins.items()) + ".",
                   "No energy enters this comparison; area does, and its constants scale all shapes nearly alike."],
        head=["model", "point", *(f"{name}: utilization, Top/s/mm2" for name in shapes), "best per area"], rows=rows,
        drawn=Series(unit="% of the array's peak", names=tuple(shapes), rows=drawn),
        stands=wins[shapes[0]] == len(best))


STUDIES = {study.name: study for study in (
    Study(name="formats", title="What formats save",
          claimed="Weights of 4 bits take at least a quarter of the time off decode, whose bytes are mostly weights.",
          refuted="One decode in the table whose w4a8-nvfp4 takes 0.75 of the time of E4M3 or more.",
          keys={"model": MODELS, "layer": ["attention"], "tile": TILES,
                "format": ["e4m3", "mxfp8", "nvfp4", "w4a8-nvfp4"]},
          cases=list(POINTS.values()), answer=_formats),
    Study(name="prefill-decode", title="Prefill and decode",
          claimed="Prefill is bound by multiply-accumulates and decode by bytes of DRAM.",
          refuted="One prefill whose largest bound is not compute, or one decode whose largest bound is not DRAM.",
          keys={"model": MODELS, "layer": ["attention"], "tile": TILES}, cases=list(POINTS.values()), answer=_phases),
    Study(name="basin", title="Which shape of array",
          claimed="Of arrays with as many multipliers, the one with the fewest rows does most per area at every point: "
                  "few rows are full at small batches.",
          refuted="One point at which another shape does more per area.",
          keys={"model": MODELS, "layer": ["attention"], "tile": ["edge"]},
          cases=[{**point, **shape} for point in (*POINTS.values(), {"phase": "decode", "context": 1024, "batch": 8})
                 for shape in SHAPES], answer=_basin),
)}

