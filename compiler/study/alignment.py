"""Widths of experts that are no multiple of the array's columns."""

from ...rtl.spec.config import load_tile
from ..models import load_model
from ..sweep.table import Row, SweepTable
from .study import FEED_FORWARD_POINTS, MIXTURES, TILES, Answer, Study, feed_forward_width, model_of, span
from .versus import Versus, certainty, extremes, versus, versus_drawing, versus_table

WIDER = (0, 8, 64)
"""Elements that are added to the published width, which is a multiple of every array's columns: 64 is one of edge's."""

_LOST = 1.05


def _wider(row: Row) -> int:
    return _width(row) - (load_model(row["model"]).expert_width or 0)


def _width(row: Row) -> int:
    return model_of(row).expert_width or 0


def _points(models) -> tuple[dict, list[dict]]:
    cases = []
    for name in models:
        key, width = feed_forward_width(load_model(name))
        cases += [{"model": name, "model_set": f"{key}={width + more}", **point}
                  for point in FEED_FORWARD_POINTS for more in WIDER]
    return {"layer": ["moe"], "routing": ["balanced"], "tile": TILES}, cases


def _odd(one: Versus) -> bool:
    """Is the width no multiple of the array's columns?"""
    return bool(_width(one.row) % load_tile(one.tile).cols)


def _answer(table: SweepTable) -> Answer:
    found = versus(table, lambda row: f"+{_wider(row)}", "+0", _width)
    odd, even = [one for one in found if _odd(one)], [one for one in found if not _odd(one)]
    late = [one for one in odd if one.point.startswith("decode")]
    early = [one for one in odd if one not in late]
    head, rows = versus_table(found, "width", "published, per weight")
    return Answer(
        stands=min(one.time for one in odd) >= _LOST,
        sentences=[f"Per weight, widths that are no multiple of the columns take {extremes(early)} of the time of the "
                   f"published width in prefill, and {span([one.time for one in late])} in decode; widths that are one "
                   f"take {span([one.time for one in even])}.",
                   f"{sum(one.time >= _LOST for one in odd)} of {len(odd)} such widths lose 5 % or more. They read "
                   f"{span([one.ratio('read_bytes') for one in odd])} of the bytes per weight: weights lie in DRAM "
                   "in whole column tiles: decode, which is bound by them, loses as much as prefill."],
        energy=certainty(odd, "the published width"), head=head, rows=rows,
        drawn=versus_drawing(found, "published, per weight"))


STUDY = Study(
    name="alignment", title="Width of experts against the array",
    claimed="An expert width that is no multiple of the array's columns wastes the array: at least 5 % more time per "
            "weight.",
    refuted="One width in the table that is no multiple of the tile's columns (16 of edge, 128 of server) and takes "
            "less than 1.05 of the published width's time per weight.",
    models=MIXTURES, points=_points, answer=_answer)
