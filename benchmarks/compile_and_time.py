"""How long compiling and timing a layer takes, and at how many instructions per second.

    python benchmarks/compile_and_time.py [--write]

The machine is shared, so seconds alone mean little: each row also gives the time as a multiple of a fixed piece of
Python work measured in the same run. ``--write`` puts the table into benchmarks/compile_and_time.md.
"""

import argparse
import itertools
import time
from pathlib import Path

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import attention_layer, load_model, moe_layer
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.legality.verifier import verify
from tilescore.sim.timing import time_program

CASES = (
    ("qwen3-30b-a3b", "attention", "server", {"tokens": 2048}, {}),
    ("llama-3-8b", "attention", "server", {"tokens": 2048, "mask": "none"}, {}),
    ("olmoe-1b-7b", "moe", "server", {"tokens": 512}, {"routing": "balanced"}),
    ("qwen3-30b-a3b", "moe", "edge", {"tokens": 128}, {"routing": "zipf-0.3"}),
)


def yardstick() -> float:
    """Seconds of a million additions in a Python loop."""
    start, total = time.perf_counter(), 0
    for i in range(1_000_000):
        total += i
    return time.perf_counter() - start


def measure(model: str, kind: str, tile: str, request: dict, options: dict) -> dict:
    """Seconds of each step, in one process, cold caches."""
    described = load_model(model)
    layer = attention_layer(described) if kind == "attention" else moe_layer(described)
    marks = [time.perf_counter()]
    program = compile_layer(Workload(layer=layer, **request), load_tile(tile), data=False, **options).program
    marks.append(time.perf_counter())
    verify(program)
    marks.append(time.perf_counter())
    timing = time_program(program)
    marks.append(time.perf_counter())
    compile_s, verify_s, timing_s = (b - a for a, b in itertools.pairwise(marks))
    return {"case": f"{model} {kind}, {request['tokens']} tokens, {tile}", "instructions": len(program.instructions),
            "cycles": timing.cycles, "compile": compile_s, "verify": verify_s, "timing": timing_s}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    write = options.parse_args().write
    unit = yardstick()
    lines = ["# Compile and time", "",
             "Made by `python benchmarks/compile_and_time.py --write`. One *unit* is a million additions in a Python "
             "loop in the same run.", "",
             "| layer | instructions | cycles | compile s | verify s | timing s | all, units | timing instr/s |",
             "|---|---|---|---|---|---|---|---|"]
    for case in CASES:
        row = measure(*case)
        total = row["compile"] + row["verify"] + row["timing"]
        lines.append(f"| {row['case']} | {row['instructions']:,} | {row['cycles']:,} | {row['compile']:.2f} | "
                     f"{row['verify']:.2f} | {row['timing']:.2f} | {total / unit:.0f} | "
                     f"{row['instructions'] / row['timing']:,.0f} |")
    print("\n".join(lines))
    if write:
        Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
