"""How long compiling, verifying and timing a layer takes, how much memory, and how much of it was done by induction.

    python benchmarks/compile_and_time.py [--write] [--long]

Seconds are CPU seconds of a process of its own per layer. The machine is shared, so they alone mean little: each row
also gives their sum as a multiple of a fixed piece of Python work measured in the same process. ``--long`` adds the
long contexts; ``--write`` puts the table into benchmarks/compile_and_time.md.
"""

import argparse
import itertools
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import load_model
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.legality.verifier import verify
from tilescore.sim.timing import time_program

CASES = (
    ("qwen3-30b-a3b", "attention", "server", {"tokens": 2048}, {}),
    ("llama-3-8b", "attention", "server", {"tokens": 2048, "mask": "none"}, {}),
    ("olmoe-1b-7b", "moe", "server", {"tokens": 512}, {"routing": "balanced"}),
    ("qwen3-30b-a3b", "moe", "edge", {"tokens": 128}, {"routing": "zipf-0.3"}),
)
LONG = (
    ("llama-3-8b", "attention", "server", {"tokens": 8192, "mask": "none"}, {}),
    ("llama-3-8b", "attention", "server", {"tokens": 32768, "mask": "none"}, {}),
    ("llama-3-8b", "attention", "server", {"tokens": 32768, "mask": "causal"}, {}),
    ("llama-3-8b", "attention", "server", {"tokens": 1, "context": 131071}, {}),
)


def yardstick() -> float:
    """Seconds of a million additions in a Python loop."""
    start, total = time.process_time(), 0
    for i in range(1_000_000):
        total += i
    return time.process_time() - start


def measure(model: str, kind: str, tile: str, request: dict, options: dict) -> dict:
    """CPU seconds of each step, cold caches; peak memory of the process in MiB."""
    unit, described = yardstick(), load_model(model)
    layer = attention_layer(described) if kind == "attention" else moe_layer(described)
    marks = [time.process_time()]
    program = compile_layer(Workload(layer=layer, **request), load_tile(tile), data=False, **options).program
    marks.append(time.process_time())
    verify(program)
    marks.append(time.process_time())
    timing = time_program(program)
    marks.append(time.process_time())
    compile_s, verify_s, timing_s = (b - a for a, b in itertools.pairwise(marks))
    what = ", ".join(f"{key} {value}" for key, value in request.items())
    return {"case": f"{model} {kind}, {what}, {tile}", "instructions": len(program.instructions),
            "cycles": timing.cycles, "compile": compile_s, "verify": verify_s, "timing": timing_s,
            "repeated": timing.repeated / len(program.instructions), "units": (marks[-1] - marks[0]) / unit,
            "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    options.add_argument("--long", action="store_true")
    arguments = options.parse_args()
    lines = ["# Compile and time", "",
             "Made by `python benchmarks/compile_and_time.py --write --long`, in CPU seconds of a process per layer. "
             "One *unit* is a million additions in a Python loop in the same process. *Repeated* is the share of "
             "instructions that are timed by induction ([0018](../docs/decisions/0018-recurrences-by-content.md)).", "",
             "| layer | instructions | cycles | compile s | verify s | timing s | all, units | peak MiB | repeated |",
             "|---|---|---|---|---|---|---|---|---|"]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for row in pool.map(measure, *zip(*(CASES + LONG if arguments.long else CASES), strict=True)):
            lines.append(f"| {row['case']} | {row['instructions']:,} | {row['cycles']:,} | {row['compile']:.2f} | "
                         f"{row['verify']:.2f} | {row['timing']:.2f} | {row['units']:.0f} | {row['mib']:.0f} | "
                         f"{row['repeated']:.0%} |")
            print(lines[-1], flush=True)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
