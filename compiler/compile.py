"""One layer, one tile: tensors, scales, routing, schedule, program.

`compile_layer` is what the command line, the benchmarks and the tests call. With ``data`` it builds the float64
layer, calibrates the activation scales on it and puts every tensor into the program's DRAM; without, the program
has the same instructions and no values, which is all that the timing model needs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError
from ..sim.program import Program
from .choice import choose_experts, experts_by_load, given_to_router, own_route
from .fit import Change, smallest_change
from .flips import flipped_tokens, float64_logits, float64_routed
from .graph.calibrate import Scales, calibrate
from .graph.evaluate import float64_layer
from .graph.layers import layer_graph
from .graph.ops.router import Router
from .kept_codes import KeptCodes
from .layers import Workload
from .lowering.plan import plan
from .numerics import DEFAULT, Numerics
from .products import check_built
from .routing import Routing, depends_on_data
from .schedule import Schedule
from .tensors import LayerTensors, synthetic


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A program and what it was made from.

    tensors, expected, expected_routed: None without data; ``expected`` is the float64 layer's output, (rows, hidden),
    with this layer's routing, ``expected_routed`` with its own. routing: None for attention; routing_source: the name
    or file it was forced by, None for the router's own choice. flipped: number of tokens that float64 logits send to
    other experts; it and ``expected_routed`` are None for attention and forced routings.
    numerics: also in the program's ``meta``. scales: the static factors of its operands, None without data.
    """

    workload: Workload
    program: Program
    schedule: Schedule
    routing: Routing | None = None
    routing_source: str | None = None
    numerics: Numerics = DEFAULT
    tensors: LayerTensors | None = None
    scales: Scales | None = None
    expected: np.ndarray | None = None
    expected_routed: np.ndarray | None = None
    flipped: int | None = None

    def __repr__(self) -> str:
        return f"CompiledLayer({self.workload}, {self.program}, {'with' if self.tensors else 'without'} data)"


def compile_layer(workload: Workload, config: TileConfig, *, tensors: LayerTensors | None = None,
                  schedule: Schedule | None = None, routing: str | None = None, seed: int = 0,
                  data: bool = True, numerics: Numerics = DEFAULT) -> CompiledLayer:
    """Compile ``workload`` for ``config``.

    tensors: default, seeded synthetic ones. schedule: default, chosen by `auto`. routing: a name or file for
    `forced_choice`; default, the top k of the tile's own logits, or of the float64
    layer's where the tile makes what its router reads. numerics: what decides the result's bits.
    Raises `CompileError` or `WorkloadError`.
    """
    if schedule is not None and not isinstance(schedule, Schedule):
        raise CompileError(f"schedule: expected a Schedule or None, got {type(schedule).__name__}")
    graph = layer_graph(workload)
    routed = any(isinstance(node.op, Router) for node in graph.nodes)
    if routing is not None and not routed:
        raise CompileError(f"routing {routing!r}: only an MoE layer is routed, this one is {workload.layer.kind}")
    if tensors is not None and tensors.workload != workload:
        raise CompileError(f"tensors: expected those of {workload}, got those of {tensors.workload}")
    check_built(workload, config, numerics)
    timed = not data and routing is not None and not depends_on_data(routing)
    if tensors is None and (data or (routed and not timed)):
        tensors = synthetic(workload, seed)
    choice, flips = None, None
    if timed and routing is not None:
        choice = experts_by_load(graph, routing, seed)
    elif routed:
        assert tensors is not None
        choice = choose_experts(graph, tensors, routing, seed, numerics)
        if routing is None and given_to_router(graph):
            own = own_route(tensors, float64_logits(tensors))
            flips = flipped_tokens(own.chosen, choice.chosen)
    steps = plan(graph, config, numerics, choice)
    schedule = schedule or steps.schedule()
    if not data:
        return _compiled(workload, steps.program(schedule, Scales()), schedule, numerics, routing=choice,
                         routing_source=routing, flipped=None if flips is None else int(flips.sum()))
    assert tensors is not None
    kept = KeptCodes(numerics.formats.weights, numerics.scale_rule)
    trace = float64_layer(tensors, choice, kept)
    scales = calibrate(trace.ranges, numerics)
    program = steps.program(schedule, scales, tensors, kept)
    return _compiled(workload, program, schedule, numerics, routing=choice, routing_source=routing, tensors=tensors,
                     scales=scales, expected=trace.out, flipped=None if flips is None else int(flips.sum()),
                     expected_routed=None if flips is None else
                     float64_routed(tensors, trace.out, flips))


def _compiled(workload: Workload, program: Program, schedule: Schedule, numerics: Numerics,
              **values: Any) -> CompiledLayer:
    program.meta["numerics"] = numerics.to_dict()
    return CompiledLayer(workload=workload, program=program, schedule=schedule, numerics=numerics, **values)


def fitting_change(workload: Workload, config: TileConfig, *, tensors: LayerTensors | None = None,
                   schedule: Schedule | None = None, routing: str | None = None, seed: int = 0,
                   numerics: Numerics = DEFAULT) -> Change | None:
    """After `compile_layer` raised `DoesNotFit` for these arguments: the smallest change of one key, or else
    of two, that helps."""
    graph, choice = layer_graph(workload), None
    if any(isinstance(node.op, Router) for node in graph.nodes):
        choice = choose_experts(graph, tensors or synthetic(workload, seed), routing, seed, numerics)

    def schedules(tile: TileConfig) -> Schedule:
        return schedule or plan(graph, tile, numerics, choice).schedule()

    def compiles(tile: TileConfig) -> Program:
        steps = plan(graph, tile, numerics, choice)
        return steps.program(schedule or steps.schedule(), Scales(), hints=False)

    return smallest_change(config, schedules, compiles)
