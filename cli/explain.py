"""`tilescore explain`: what bounds a layer, and what the next changes would save."""

import argparse
import json
import textwrap

from ..compiler.explain.changes import KINDS
from ..compiler.explain.explanation import Explanation, explain
from ..compiler.layers import LAYER_KINDS
from ..compiler.numerics import from_options
from ..compiler.schedule import load_schedule, to_text
from ..compiler.sweep.tasks import Task, routing_content
from ..rtl.spec.errors import ConfigError, WorkloadError, did_you_mean
from ..sim.energy import load_table
from ..sim.lib.progress import Progress
from .files import check_targets, write_text
from .ignored import check_layer_options, refuse
from .layer import chosen_layer, model_of, note, workload_of
from .tiles import tile_of

WIDTH = 100


def run(arguments: argparse.Namespace) -> int:
    if arguments.model is None or arguments.layer is None:
        raise WorkloadError(f"explain needs --model (see `tilescore models`) and --layer ({', '.join(LAYER_KINDS)})")
    refuse(arguments, ("weights",), "times that depend on weights are those of the routing: write one to "
           "a file and name it with --routing")
    check_layer_options(arguments, (arguments.layer,), data=False)
    kinds = _kinds(arguments.only)
    if arguments.schedule_out is not None:
        if "schedule" not in kinds:
            refuse(arguments, ("schedule_out",), "--only leaves the schedule out")
        check_targets([arguments.schedule_out])
    model = model_of(arguments)
    schedule = load_schedule(arguments.schedule) if arguments.schedule else None
    task = Task(workload=workload_of(arguments, chosen_layer(arguments, arguments.layer, model)),
                config=tile_of(arguments),
                numerics=from_options(arguments.format, softmax_block=arguments.softmax_block,
                                      scale_rule=arguments.scale_rule),
                schedule=schedule, routing=arguments.routing,
                routing_file=None if arguments.routing is None else routing_content(arguments.routing),
                seed=arguments.seed, energy=load_table(arguments.energy))
    with Progress("explain") as progress:
        found = explain(task, kinds=kinds, workers=arguments.workers, progress=progress)
    note(model)
    best = found.best("schedule")
    if arguments.schedule_out is not None:
        write_text(arguments.schedule_out, to_text(best.change.task.schedule if best else found.schedule))  # type: ignore[arg-type]
    print(json.dumps(found.to_dict(), indent=2) if arguments.json else _text(found))
    return 0


def _kinds(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(KINDS)
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"--only {text}: unknown kind {name!r}; allowed: {', '.join(KINDS)}"
                              f"{did_you_mean(name, KINDS)}")
    return names


def _text(found: Explanation) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in found.sentences())
