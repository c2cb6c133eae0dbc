"""All studies, by name."""

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
