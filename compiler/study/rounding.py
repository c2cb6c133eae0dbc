"""What becomes of a choice of experts: dropless, with a capacity, or rounded to whole tiles of tokens (`dispatch`)."""

from ..dispatch import split_dispatch
from ..sweep.table import Row, SweepTable
from .study import MIXTURES, TILES, Answer, Study, prefill, span
from .versus import certainty, extremes, versus, versus_drawing, versus_table

LOAD = "zipf-0.5"
DROPLESS = "dropless"
MODES = ("capacity-1", "round-16")
"""16: the rows of both tiles."""

_SAVED = 0.95


def mode_of(row: Row) -> str:
    _, mode = split_dispatch(row["routing"])
    return DROPLESS if mode is None else f"{mode.kind}-{mode.number:g}"


def _answer(table: SweepTable) -> Answer:
    found = versus(table, mode_of, DROPLESS, lambda row: row["useful_macs"])
    rounded = [one for one in found if one.name == "round-16"]
    capped = [one for one in found if one.name == "capacity-1"]
    raw = [one.time * one.work for one in rounded]
    head, rows = versus_table(found, "mode", "dropless, per MAC")
    for cells, one in zip(rows, found, strict=True):
        cells.insert(4, f"{one.work:.3f}")
    return Answer(
        stands=all(one.time <= _SAVED for one in rounded),
        sentences=[f"Rounded to the nearest 16 tokens, a layer takes {extremes(rounded)} of the dropless time per MAC; "
                   f"it does {span([one.work for one in rounded])} of the MACs and takes {span(raw)} of the time.",
                   f"With a capacity of the mean, it does {span([one.work for one in capped])} of the MACs at "
                   f"{span([one.time for one in capped])} of the time per MAC."],
        energy=certainty(found, "the dropless layer"), head=[*head[:4], "MACs / dropless", *head[4:]], rows=rows,
        drawn=versus_drawing(found, "dropless, per MAC"))


STUDY = Study(
    name="rounding", title="Rounding of tokens",
    claimed="When each expert's tokens are rounded to whole tiles of the array's rows, the same work takes at least "
            "5 % less time, since no panel is padded.",
    refuted="One layer in the table that takes more than 0.95 of the dropless time per multiply-accumulate with "
            "round-16.",
    models=MIXTURES, points=lambda models: (
        {"model": models, "layer": ["moe"], "tile": TILES,
         "routing": [LOAD, *(f"{LOAD}:{mode}" for mode in MODES)]}, [prefill(32), prefill(64), prefill(128)]),
    answer=_answer)
