"""What formats save: time, bytes and energy of attention against E4M3."""

from ..sweep.table import SweepTable
from .study import MODELS, POINTS, TILES, Answer, Study
from .versus import certainty, extremes, versus, versus_drawing, versus_table


def _answer(table: SweepTable) -> Answer:
    found = versus(table, lambda row: row["format"], "e4m3")
    decode = [one for one in found if one.name == "w4a8-nvfp4" and one.point.startswith("decode")]
    head, rows = versus_table(found, "format", "e4m3")
    return Answer(
        stands=max(one.time for one in decode) < 0.75,
        sentences=[f"With 4-bit weights and 8-bit activations decode takes {extremes(decode)} of its time in E4M3."],
        energy=certainty(found, "E4M3"), head=head, rows=rows, drawn=versus_drawing(found, "e4m3"))


STUDY = Study(
    name="formats", title="What formats save",
    claimed="Weights of 4 bits take at least a quarter of the time off decode, whose bytes are mostly weights.",
    refuted="One decode in the table whose w4a8-nvfp4 takes 0.75 of the time of E4M3 or more.",
    models=MODELS, points=lambda models: (
        {"model": models, "layer": ["attention"], "tile": TILES, "format": ["e4m3", "mxfp8", "nvfp4", "w4a8-nvfp4"]},
        list(POINTS)), answer=_answer)
