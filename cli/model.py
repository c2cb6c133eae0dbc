"""`tilescore model`: a whole model on a tile, prefill and decode."""

import argparse
import json

from ..compiler.model_report import model_report
from ..compiler.model_text import model_text
from ..compiler.numerics import from_options
from ..rtl.spec.errors import ConfigError
from ..sim.energy import load_table
from ..sim.lib.progress import Progress
from .layer import model_of, note
from .tiles import tile_of

UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4,
         "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
"""Bytes by the letters before an optional B."""


def run(arguments: argparse.Namespace) -> int:
    """Time every distinct layer in both phases and print the sums."""
    batches = _batches(arguments.batch)
    dram_bytes = None if arguments.dram is None else _bytes(arguments.dram)
    model, config = model_of(arguments), tile_of(arguments)
    numerics = from_options(arguments.format, softmax_block=arguments.softmax_block, scale_rule=arguments.scale_rule)
    with Progress(f"model {model.name}") as progress:
        found = model_report(
            model, config, prefill=arguments.prefill, decode_context=arguments.decode_context, batch=batches,
            prefill_batch=arguments.prefill_batch, numerics=numerics, energy=load_table(arguments.energy),
            routing=arguments.routing, seed=arguments.seed, dram_bytes=dram_bytes, progress=progress)
    note(model)
    print(json.dumps(found, indent=2) if arguments.json else model_text(found))
    return 0


def _batches(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--batch {text}: expected positive integers, separated by commas")
    return [int(part) for part in parts]


def _bytes(text: str) -> int:
    number = text.upper().removesuffix("B").rstrip("KMGTI")
    unit = text.upper().removesuffix("B").removeprefix(number)
    try:
        size = int(float(number) * UNITS[unit])
        if size <= 0:
            raise ValueError
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(f"--dram {text}: expected a size such as 80GiB or 96GB, units K, M, G, T with or without "
                          "i") from None
    return size
