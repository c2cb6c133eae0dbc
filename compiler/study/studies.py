"""All studies, by name."""

from ..sweep.plan import SweepPlan
from . import (
    activation,
    alignment,
    basin,
    depth,
    formats,
    hundredfold,
    prefill_decode,
    rounding,
    sram_machine,
    wide_mlp,
)

STUDIES = {module.STUDY.name: module.STUDY for module in (
    activation, alignment, basin, depth, formats, hundredfold, prefill_decode, rounding, sram_machine, wide_mlp)}


def points_of_all() -> SweepPlan:
    """The points of all studies, each once: one sweep of them leaves nothing to measure for any."""
    cases = [{name: list(value) if isinstance(value, tuple) else value for name, value in point.items()}
             for study in STUDIES.values() for point in study.plan().points()]
    return SweepPlan(axes={}, cases=cases, source="studies")
