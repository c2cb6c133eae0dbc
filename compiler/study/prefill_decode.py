"""What bounds prefill and decode."""

from ..sweep.table import SweepTable
from .study import MODELS, POINTS, TILES, Answer, Series, Study, good, point_name


def _answer(table: SweepTable) -> Answer:
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
    sentences, energies = [], []
    for phase in ("prefill", "decode"):
        found = [row for row in good(table) if row["phase"] == phase]
        use = [100 * row["utilization"] for row in found]
        sentences.append(f"{phase.capitalize()}: utilization {min(use):.1f} to {max(use):.1f} %; the largest bound is "
                         f"{' or '.join(sorted(bound[phase]))}.")
        cheap = min(row["energy_low_pj"] / row["useful_macs"] / 2 for row in found)
        dear = max(row["energy_high_pj"] / row["useful_macs"] / 2 for row in found)
        energies.append(f"{cheap:.2f} to {dear:.2f} pJ in {phase}")
    wide = max(row["energy_high_pj"] / row["energy_low_pj"] for row in good(table))
    return Answer(
        stands=bound["decode"] == {"dram"} and bound["prefill"] == {"compute"}, sentences=sentences,
        energy=f"No energy enters the claim. An operation takes {' and '.join(energies)}; the range of one point is at "
               f"most a factor of {wide:.2f}.",
        head=["model", "point", "tile", "largest bound", "utilization", "bound / cycles", "pJ per op",
              "pJ per op, over the range"],
        rows=rows, drawn=Series(unit="% of the array's peak", names=("utilization",), rows=drawn))


STUDY = Study(
    name="prefill-decode", title="Prefill and decode",
    claimed="Prefill is bound by multiply-accumulates and decode by bytes of DRAM.",
    refuted="One prefill whose largest bound is not compute, or one decode whose largest bound is not DRAM.",
    models=MODELS, points=lambda models: ({"model": models, "layer": ["attention"], "tile": TILES}, list(POINTS)),
    answer=_answer)
