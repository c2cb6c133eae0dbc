"""A feed-forward layer five times as wide, in decode."""

from ..models import load_model
from ..sweep.table import Row, SweepTable
from .study import SMALL_MODELS, TILES, Answer, Study, balanced, decode, feed_forward_width, span
from .versus import certainty, extremes, versus, versus_drawing, versus_table

FACTOR = 5
LONG = 8192
_FREE = 1.1


def _points(models) -> tuple[dict, list[dict]]:
    cases = []
    for name in models:
        key, width = feed_forward_width(load_model(name))
        for point in (decode(1, 1024), decode(16, LONG), decode(16, 4 * LONG)):
            cases += [{"model": name, **balanced(name), **point, "model_set": f"{key}={factor * width}"}
                      for factor in (1, FACTOR)]
    return {"layer": ["decoder"], "tile": TILES}, cases


def _name(row: Row) -> str:
    key, width = feed_forward_width(load_model(row["model"]))
    return "wide" if row["model_set"] == f"{key}={FACTOR * width}" else "published"


def _answer(table: SweepTable) -> Answer:
    found = versus(table, _name, "published")
    long = [one for one in found if one.row["context"] >= LONG]
    short = [one.time for one in found if one not in long]
    read = [one.ratio("read_bytes") for one in found]
    head, rows = versus_table(found, "width", "published")
    return Answer(
        stands=max(one.time for one in long) <= _FREE,
        sentences=[f"Five times the width takes {extremes(long)} of the time at contexts from {LONG:,} on, and "
                   f"{span(short)} at batch 1 with a short context.",
                   f"The weights come from DRAM in every step, which then reads {span(read)} times the bytes: only a "
                   "cache far larger than the feed-forward weights hides them."],
        energy=certainty(found, "the published width"), head=head, rows=rows, drawn=versus_drawing(found, "published"))


STUDY = Study(
    name="wide-mlp-decode", title="A wider MLP in decode",
    claimed="In decode with a long context a feed-forward layer five times as wide is nearly free, at most a tenth "
            "more time, since the KV cache bounds the step.",
    refuted=f"One decode of the table with a context from {LONG:,} on that takes more than 1.1 of the published "
            "width's time.",
    models=SMALL_MODELS, points=_points, answer=_answer)
