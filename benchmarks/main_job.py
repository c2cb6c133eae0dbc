"""CPU seconds of what `tilescore run` does, and products per second of the reference level.

    python benchmarks/main_job.py [--write] [--layer NAME]

Seconds are those of the process (user and system), so that other work on the machine counts little; BLAS has one
thread, because a thread that waits spins. ``--write`` puts the tables into benchmarks/main_job.md. ``--layer`` measures
one row. To compare two versions, run the older one's sources in front of the path, one after the other.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import argparse
import itertools
import time
from pathlib import Path

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import AttentionLayer, Layer, Workload
from tilescore.compiler.listing import listing
from tilescore.compiler.models import load_model
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import State, execute
from tilescore.sim.timing import time_program


def _smollm2() -> Layer:
    """The attention of SmolLM2-135M."""
    return AttentionLayer(model="smollm2-135m", hidden=576, heads=9, kv_heads=3, head_dim=64, rope_theta=100000.0)


CASES = {
    "qwen3-30b-a3b attention": (lambda: attention_layer(load_model("qwen3-30b-a3b")), "edge", 128),
    "qwen3-30b-a3b moe": (lambda: moe_layer(load_model("qwen3-30b-a3b")), "edge", 128),
    "smollm2-135m attention": (_smollm2, "server", 2048),
    "qwen3-30b-a3b attention, long": (lambda: attention_layer(load_model("qwen3-30b-a3b")), "server", 2048),
}
PROJECTIONS = ("q", "k", "v", "out")
"""Phases of an attention layer that are nothing but projections and what follows one in its epilogue."""


def play(program: Program) -> tuple[float, dict[str, float]]:
    """CPU seconds of making the initial memories, and of the instructions of each phase (the reference level)."""
    start = time.process_time()
    state = State.initial(program)
    state.filling.whole()
    made = time.process_time() - start
    execute(state, program.boot_load())
    seconds: dict[str, float] = {}
    for phase, group in itertools.groupby(zip(program.phases, program.instructions, strict=True), lambda pair: pair[0]):
        start = time.process_time()
        for _, instruction in group:
            if instruction.spec.name != "HALT":
                execute(state, instruction)
        seconds[phase] = seconds.get(phase, 0.0) + time.process_time() - start
    return made, seconds


def products(program: Program) -> dict[str, int]:
    """MACs that the MATMULs of each phase make, those with padding and of masked values included."""
    config, macs = program.config, dict.fromkeys(program.phases, 0)
    for phase, i in zip(program.phases, program.instructions, strict=True):
        if i.spec.name == "MATMUL":
            macs[phase] += i.m_rows * i.n_tiles * config.cols * i.k_steps * config.lanes
    return macs


def measure(name: str) -> dict:
    """The figures of one row of `CASES`."""
    make, tile, tokens = CASES[name]
    workload, marks = Workload(layer=make(), tokens=tokens), [time.process_time()]
    program = compile_layer(workload, load_tile(tile)).program
    marks.append(time.process_time())
    verify(program)
    timing = time_program(program)
    marks.append(time.process_time())
    listing(program, timing)
    marks.append(time.process_time())
    made, phases = play(program)
    macs, row = products(program), {"case": f"{name.split(',')[0]}, {tokens} tokens, {tile}", "initial": made}
    row |= dict(zip(("compile", "check", "listing"), (b - a for a, b in itertools.pairwise(marks)), strict=True))
    row |= {"instructions": sum(phases.values()), "gmac": sum(macs.values()) / 1e9 / (made + sum(phases.values()))}
    named = [phase for phase in PROJECTIONS if phase in phases]
    row["projections"] = (sum(macs[phase] for phase in named) / 1e9 / sum(phases[phase] for phase in named)
                          if named else None)
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true")
    options.add_argument("--layer", choices=CASES)
    arguments = options.parse_args()
    lines = ["| layer | compile s | verify, time s | listing s | initial memories s | instructions s | GMAC/s, all | "
             "GMAC/s, projections |", "|---|---|---|---|---|---|---|---|"]
    for name in [arguments.layer] if arguments.layer else CASES:
        row = measure(name)
        rate = "-" if row["projections"] is None else f"{row['projections']:.2f}"
        lines.append(f"| {row['case']} | {row['compile']:.2f} | {row['check']:.2f} | {row['listing']:.2f} | "
                     f"{row['initial']:.2f} | {row['instructions']:.2f} | {row['gmac']:.2f} | {rate} |")
    print("\n".join(lines))
    if arguments.write:
        page = Path(__file__).with_suffix(".md")
        head = page.read_text().rpartition("Now:\n")  # the text and the table of the version before stay
        page.write_text("".join(head[:2]) + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
