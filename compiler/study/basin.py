"""Which shape of array does most per area."""

from ..sweep.table import Row, SweepTable
from .study import MODELS, POINTS, Answer, Series, Study, decode, good, point_name

SHAPES = ({"rows": 8, "cols": 32}, {"rows": 16, "cols": 16}, {"rows": 32, "cols": 8})
"""Arrays of as many multipliers, on the memories of `edge`."""


def _answer(table: SweepTable) -> Answer:
    def shape(row: Row) -> str:
        return f"{row['rows']} x {row['cols']}"

    shapes = list(dict.fromkeys(map(shape, table.rows)))
    keyed = {(row["model"], point_name(row), shape(row)): row for row in good(table)}
    rows, drawn, best, least = [], [], [], []
    for model, point in dict.fromkeys(key[:2] for key in keyed):
        cells = [keyed.get((model, point, name)) for name in shapes]
        found = [row for row in cells if row is not None]
        winner = max(found, key=lambda row: row["tops_per_mm2"])
        best.append(shape(winner))
        least.append({shape(min(found, key=lambda row: row[f"energy_{end}pj"])) for end in ("low_", "high_")})
        rows.append([model, point, *("-" if row is None else f"{100 * row['utilization']:.1f} %, "
                                     f"{row['tops_per_mm2']:.3f}" for row in cells), shape(winner)])
        drawn.append((f"{model}, {point}", [None if row is None else 100 * row["utilization"] for row in cells]))
    areas = {shape(row): row["area_mm2"] for row in good(table)}
    wins = {name: best.count(name) for name in shapes}
    same = sum(len(ends) == 1 for ends in least)
    return Answer(
        stands=wins[shapes[0]] == len(best),
        sentences=["Areas: " + ", ".join(f"{name} {area:.3f} mm2" for name, area in areas.items()) + "; throughput is "
                   "compared per area, which every shape has of its own.",
                   "Most throughput per area: " + ", ".join(f"{name} at {count} of {len(best)} points"
                                                            for name, count in wins.items()) + "."],
        energy="No energy enters the claim; area does, and its constants scale all shapes nearly alike. The shape that "
               f"takes least energy is the same at both ends of the range at {same} of {len(least)} points.",
        head=["model", "point", *(f"{name}: utilization, Top/s/mm2" for name in shapes), "best per area"], rows=rows,
        drawn=Series(unit="% of the array's peak", names=tuple(shapes), rows=drawn))


STUDY = Study(
    name="basin", title="Which shape of array",
    claimed="Of arrays with as many multipliers, the one with the fewest rows does most per area at every point: "
            "few rows are full at small batches.",
    refuted="One point at which another shape does more per area.",
    models=MODELS, points=lambda models: (
        {"model": models, "layer": ["attention"], "tile": ["edge"]},
        [{**point, **shape} for point in (*POINTS, decode(8, 1024)) for shape in SHAPES]), answer=_answer)
