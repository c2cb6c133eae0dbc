"""What interleaving saves at the seams of decoder layers, against what the units' idle cycles there allow.

    python benchmarks/seams.py [--write] [--model NAME]

*Apart*: the cycles of all steps, each run alone, one after another. *Allowed*: at a seam two steps can overlap by as
many cycles as each unit that both use is idle at the end of the one and the begin of the other; the least of these,
summed over the seams. Dependencies and room on chip are not looked at, so that it is a bound. *Saved*: by the program
of the whole layer against the steps apart, its steps one after another and interleaved (`compiler/streams.py`).
Loads of pages count; the boot does not. ``--write`` puts the table into benchmarks/seams.md. Routings are balanced.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.choice import experts_by_load
from tilescore.compiler.graph.calibrate import Scales
from tilescore.compiler.graph.layers import layer_graph
from tilescore.compiler.graph.ops.router import Router
from tilescore.compiler.layers import Workload
from tilescore.compiler.lowering.plan import Plan, plan
from tilescore.compiler.lowering.steps import Step
from tilescore.compiler.model_layers import layer_of
from tilescore.compiler.models import load_model
from tilescore.compiler.schedule import Schedule
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.isa import QUEUE_UNITS
from tilescore.sim.program import Program
from tilescore.sim.timing import time_program

MODELS, TILES = ("llama-3-8b", "qwen3-30b-a3b", "mixtral-8x7b"), ("edge", "server")
REQUESTS = {"prefill, 16 tokens": {"tokens": 16}, "prefill, 256 tokens": {"tokens": 256},
            "decode, context 256": {"phase": "decode", "tokens": 1, "context": 256}}
HEADER = """# Seams of decoder layers

Cycles, timing model. `python benchmarks/seams.py --write` makes this file; its first lines say what the columns are.

| model | tile | request | apart | allowed | saved one after another | saved interleaved | of allowed | whole layer |
|---|---|---|---:|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Span:
    """Cycles from the first issue of a program's steps to their last retirement; idle: of each unit that they use, the
    cycles before its first instruction and behind its last."""

    cycles: int
    idle: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, program: Program) -> "Span":
        timing = time_program(program)
        own = np.array([bool(phase) for phase in program.phases])
        start, end = int(timing.issue[own].min()), int(timing.retire[own].max()) + 1
        idle = {}
        for unit in QUEUE_UNITS:
            used = own & (program.columns.units == unit)
            if used.any():
                idle[int(unit)] = (int(timing.issue[used].min()) - start,
                                   end - int((timing.issue + timing.occupancy)[used].max()))
        return cls(end - start, idle)


@dataclass(frozen=True)
class Saving:
    """apart, allowed: see the module docstring; joined, interleaved: cycles of the whole layer."""

    apart: int
    allowed: int
    joined: int
    interleaved: int

    @property
    def share(self) -> float:
        """What interleaving saves of what is allowed."""
        return (self.apart - self.interleaved) / self.allowed


def alone(steps: Plan, schedule: Schedule, step: Step) -> Span:
    """A step as a program of its own."""
    builder = ProgramBuilder(steps.layer.config)
    job = steps.lay_out(builder, schedule, Scales())
    with builder.phase(step.name):
        step.emit(job)
    return Span.of(builder.finish())


def saving(workload: Workload, tile: TileConfig) -> Saving:
    """Of a layer, with the schedule by rule."""
    graph = layer_graph(workload)
    routed = any(isinstance(node.op, Router) for node in graph.nodes)
    steps = plan(graph, tile, routing=experts_by_load(graph, "balanced", 0) if routed else None)
    schedule = steps.schedule()
    by_name = {step.name: step for step in steps.steps}
    spans = [alone(steps, schedule, by_name[name]) for name in schedule.order]
    allowed = sum(min((before.idle[unit][1] + after.idle[unit][0] for unit in before.idle if unit in after.idle),
                      default=0) for before, after in itertools.pairwise(spans))
    joined, interleaved = (Span.of(steps.program(replace(schedule, interleave=names), Scales())).cycles
                           for names in ((), schedule.order[1:]))
    return Saving(sum(span.cycles for span in spans), allowed, joined, interleaved)


def rows(models: tuple[str, ...]) -> Iterator[str]:
    for model in models:
        layer = layer_of(load_model(model), "decoder").layer
        for tile in TILES:
            for name, request in REQUESTS.items():
                found = saving(Workload(layer=layer, **request), load_tile(tile))
                cells = (found.apart, found.allowed, found.apart - found.joined, found.apart - found.interleaved)
                yield (f"| {model} | {tile} | {name} | {' | '.join(f'{cell:,}' for cell in cells)} | "
                       f"{found.share:.0%} | {found.interleaved:,} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--model", choices=MODELS)
    arguments = parser.parse_args()
    lines = []
    for row in rows((arguments.model,) if arguments.model else MODELS):
        print(row, flush=True)
        lines.append(row)
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
