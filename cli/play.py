"""The layers of a run, played: compiled, verified, simulated and drawn, in several processes where that is faster."""

import argparse
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..compiler.compile import compile_layer
from ..compiler.listing import listing
from ..compiler.report import describe, headline
from ..compiler.schedule import Schedule, to_text
from ..compiler.slices import SLICE_NUMERICS, slice_tensors, slice_workload
from ..compiler.tensors import synthetic
from ..rtl.spec.config import load_tile
from ..rtl.spec.errors import SimulationError
from ..sim.energy import load_table
from ..sim.legality.verifier import verify
from ..sim.lib.threads import processors
from ..sim.lib.workers import worker_pool
from ..sim.names import LEVELS
from ..sim.program import Program
from ..sim.timeline import timeline_of
from ..sim.timing import time_program
from .layer import build, chosen_layer, data_needed, model_of, report, workload_of
from .tiles import tile_of

if TYPE_CHECKING:
    from ..compiler.visual.run_page import LayerView

Announce = Callable[[dict], None]
"""Called with a layer's report as soon as it is there."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was made of a layer's program and its times, as asked for: a view, a trace, a packed timeline, texts by
    file."""

    view: "LayerView | None"
    trace: bytes
    timeline: dict
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Played:
    """What was made of one layer."""

    report: dict
    drawn: Drawn


def play_in_turn(arguments: argparse.Namespace, layers: tuple[str, ...], announce: Announce) -> list[Played]:
    """The layers, one after another."""
    made = []
    for number, layer in enumerate(layers, 1):
        made.append(_play(arguments, layer, number))
        announce(made[-1].report)
    return made


def play_beside(arguments: argparse.Namespace, layers: tuple[str, ...], announce: Announce) -> list[Played]:
    """The last layer here, the others in processes of their own at the same time, if there is more than one processor.

    Raises `SimulationError` when such a process dies.
    """
    if processors() < 2:
        return play_in_turn(arguments, layers, announce)

    def ended(other: Future) -> None:
        if not other.cancelled() and other.exception() is None:
            announce(other.result().report)

    with worker_pool(len(layers) - 1) as pool:
        try:
            others = [pool.submit(_play, _options(arguments), layer, number)
                      for number, layer in enumerate(layers[:-1], 1)]
            for other in others:
                other.add_done_callback(ended)
            here = _play(arguments, layers[-1], len(layers), pool)
            made = [other.result() for other in others]
        except BrokenProcessPool:
            raise SimulationError(f"the process that simulated {' or '.join(layers[:-1])} ended, perhaps out of memory"
                                  ) from None
    announce(here.report)
    return [*made, here]


def print_headline(made: dict) -> None:
    """A layer's result in one line. Output that is closed is no reason to end: whoever prints the table will say so."""
    with contextlib.suppress(OSError):
        print(headline(made), flush=True)


def _play(arguments: argparse.Namespace, layer: str, number: int, idle: Executor | None = None) -> Played:
    """Compile, simulate and draw one layer, the ``number``-th of the run. idle: who may draw meanwhile."""
    config, energy, data = tile_of(arguments), load_table(arguments.energy), data_needed(arguments)
    built = build(arguments, layer, data, config, levels=arguments.level)
    compiled = built.layer
    to_draw = _options(arguments), compiled.program.without_data(), compiled.schedule, number
    drawing = idle.submit(_draw, *to_draw) if idle else None
    made = report(compiled.program, energy, expected=compiled.expected, expected_routed=compiled.expected_routed,
                  compile_s=built.seconds, levels=arguments.level, command=arguments.words, filling=built.filling)
    return Played(report=made, drawn=drawing.result() if drawing else _draw(*to_draw))


def _options(arguments: argparse.Namespace) -> argparse.Namespace:
    """Those that another process can be given."""
    return argparse.Namespace(**{name: value for name, value in vars(arguments).items() if not callable(value)})


def _draw(arguments: argparse.Namespace, program: Program, schedule: Schedule, number: int) -> Drawn:
    layer, view, drawn, timeline, files = program.meta["layer"], None, b"", {}, {}
    timing = time_program(program)
    if arguments.out or arguments.html:
        from ..compiler.visual.run_page import view_of  # as what draws a trace, loaded only where it is asked for

        view = view_of(program, timing)
    if arguments.trace:
        from ..sim.visual.trace import trace

        drawn = trace(program, timing, f"{program.meta['model']} {layer} on {program.config.name}", number)
    if arguments.out:
        timeline = timeline_of(program, timing).to_dict()
        files = {f"{layer}.txt": listing(program, timing), f"{layer}.schedule.toml": to_text(schedule)}
    return Drawn(view=view, trace=drawn, timeline=timeline, files=files)


def cross_check(layer: str, arguments: argparse.Namespace) -> dict:
    """A slice of the same layer on `nano` at every level. `simulate` raises when two levels differ."""
    chosen, nano = chosen_layer(arguments, layer, model_of(arguments)), load_tile("nano")
    whole = workload_of(arguments, chosen)
    workload, start = slice_workload(whole), time.perf_counter()
    sliced = compile_layer(workload, nano, tensors=slice_tensors(synthetic(whole, arguments.seed), workload),
                           numerics=SLICE_NUMERICS)
    sliced.program.meta.update(describe(sliced, nano, seed=arguments.seed))
    sliced.program.meta.update(layer_index=chosen.index, layer_of_model=str(chosen))
    verify(sliced.program)
    return report(sliced.program, load_table(arguments.energy), expected=sliced.expected,
                  expected_routed=sliced.expected_routed, compile_s=time.perf_counter() - start, levels=LEVELS,
                  command=arguments.words)
