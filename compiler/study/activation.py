"""Swish against ReLU in feed-forward layers."""

from ..families import FAMILIES
from ..models import load_model
from ..sweep.table import SweepTable
from .study import FEED_FORWARD_POINTS, SMALL_MODELS, TILES, Answer, Study, balanced, model_of, span
from .versus import certainty, extremes, versus, versus_drawing, versus_table

NAMES = ("silu", "relu", "gelu")

_SAVED = 0.99


def _points(models) -> tuple[dict, list[dict]]:
    cases = []
    for name in models:
        model = load_model(name)
        key = FAMILIES[model.model_type].activation_key
        cases += [{"model": name, "layer": "moe" if model.num_experts else "mlp", **balanced(name), **point,
                   "model_set": f"{key}={activation}"} for point in FEED_FORWARD_POINTS for activation in NAMES]
    return {"tile": TILES}, cases


def _answer(table: SweepTable) -> Answer:
    found = versus(table, lambda row: model_of(row).activation, "silu")
    relu = [one for one in found if one.name == "relu"]
    vector = [one.base["vector_busy"] for one in relu]
    head, rows = versus_table(found, "activation", "swish")
    return Answer(
        stands=all(min(one.time, *one.energies) <= _SAVED for one in relu),
        sentences=[f"With ReLU a layer takes {extremes(relu)} of its time with swish, and "
                   f"{span([one.energies[1] for one in relu], 4)} of its energy: the vector unit, which works in "
                   f"{100 * min(vector):.1f} to {100 * max(vector):.1f} % of the cycles, takes a row per cycle "
                   "whatever the function.",
                   "The zeros that ReLU leaves save nothing here: no tile has an array that skips them, since no time "
                   "depends on data."],
        energy=certainty(found, "swish"), head=head, rows=rows, drawn=versus_drawing(found, "swish"))


STUDY = Study(
    name="activation", title="Swish against ReLU",
    claimed="ReLU in place of swish makes a feed-forward layer cheaper: it takes at least 1 % off its time or its "
            "energy.",
    refuted="One layer in the table whose time and energy with ReLU, at every end of the range, are more than 0.99 of "
            "those with swish.",
    models=SMALL_MODELS, points=_points, answer=_answer)
