"""CPU seconds of a sweep of 200 points of layers: `python benchmarks/sweep.py [--write]`.

Attention and MoE layers of two models, prefill and decode, on variants of two tiles; every point is compiled, verified
and timed. CPU seconds are those of all processes, their start included, so that they depend little on what else runs.
"""

import argparse
import os
import tempfile
from pathlib import Path

from tilescore.compiler.sweep.plan import SweepPlan
from tilescore.compiler.sweep.run import sweep

TILES = [{"tile": tile, "bus_bytes": bus} for tile, buses in (("edge", (8, 16, 32, 64)), ("server", (16, 64)))
         for bus in buses]
ATTENTION = [{"layer": "attention", "phase": "prefill", "tokens": tokens} for tokens in (16, 64, 128, 256, 512)]
ATTENTION += [{"layer": "attention", "phase": "decode", "context": context, "batch": batch}
              for context in (512, 2048) for batch in (1, 8, 32)]
MOE = [{"layer": "moe", "phase": "decode", "batch": batch, "routing": routing}
       for batch in (1, 2) for routing in ("balanced", "zipf-0.5", "zipf-1")]
MODELS = ("qwen3-30b-a3b", "olmoe-1b-7b")
POINTS = 200


def cases() -> list[dict]:
    """`POINTS` cases, nearly evenly over all combinations of the above."""
    made = [{"model": model, **layer, **tile} for layer in (*ATTENTION, *MOE) for model in MODELS for tile in TILES]
    return [made[i * len(made) // POINTS] for i in range(POINTS)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    write = options.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        table = sweep(SweepPlan(axes={}, cases=cases()), folder=folder)
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    kinds = [sum(row["layer"] == kind for row in table.rows) for kind in ("attention", "moe")]
    text = (f"# A sweep of {len(table.rows)} points\n\nMade by `python benchmarks/sweep.py --write`: {kinds[0]} "
            f"attention and {kinds[1]} MoE layers, {len(table.errors)} with an error, "
            f"{sum(row.get('instructions', 0) for row in table.rows):,} instructions, each compiled, verified and "
            f"timed, in {seconds:.0f} CPU seconds of all processes.\n")
    print(text)
    if write:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
