"""One layer, one tile: tensors, scales, routing, schedule, program.

`compile_layer` is what the command line, the benchmarks and the tests call. With ``data`` it builds the float64
layer, calibrates the activation scales on it and puts every tensor into the program's DRAM; without, the program
has the same instructions and no values, which is all that the timing model needs.
"""

from dataclasses import dataclass

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError
from ..sim.program import Program
from . import auto
from .attention.lower import lower_attention
from .fit import Change, smallest_change
from .graph.calibrate import Scales, calibrate
from .graph.evaluate import float64_layer
from .layers import Workload
from .moe.flips import flipped_tokens, float64_logits, float64_routed
from .moe.logits import tile_logits
from .moe.lower import lower_moe
from .numerics import DEFAULT, Numerics
from .products import check_built
from .routing import Routing, forced_choice, forced_route, topk_softmax_route
from .schedule import AttentionSchedule, MoESchedule
from .tensors import AttentionTensors, LayerTensors, MoETensors, synthetic


@dataclass(frozen=True, kw_only=True)
class CompiledLayer:
    """A program and what it was made from.

    tensors, expected, expected_routed: None without data; ``expected`` is the float64 layer's output, (rows, hidden),
    with this layer's routing, ``expected_routed`` with its own. routing: None for attention; routing_source: the name
    or file it was forced by, None for the router's own choice. flipped: number of tokens that float64 logits send to
    other experts; it and ``expected_routed`` are None for attention and forced routings.
    numerics: also in the program's ``meta``.
    """

    workload: Workload
    program: Program
    schedule: AttentionSchedule | MoESchedule
    routing: Routing | None = None
    routing_source: str | None = None
    numerics: Numerics = DEFAULT
    tensors: LayerTensors | None = None
    expected: np.ndarray | None = None
    expected_routed: np.ndarray | None = None
    flipped: int | None = None

    def __repr__(self) -> str:
        return f"CompiledLayer({self.workload}, {self.program}, {'with' if self.tensors else 'without'} data)"


def compile_layer(workload: Workload, config: TileConfig, *, tensors: LayerTensors | None = None,
                  schedule: AttentionSchedule | MoESchedule | None = None, routing: str | None = None, seed: int = 0,
                  data: bool = True, numerics: Numerics = DEFAULT) -> CompiledLayer:
    """Compile ``workload`` for ``config``.

    tensors: default, seeded synthetic ones. schedule: default, chosen by `auto`. routing: a name or file for
    `forced_choice`; default, the top k of the tile's own logits. numerics: what decides the result's bits.
    Raises `CompileError` or `WorkloadError`.
    """
    kind = workload.layer.kind
    if schedule is not None and not isinstance(schedule, AttentionSchedule if kind == "attention" else MoESchedule):
        raise CompileError(f"schedule: expected one for {kind}, got {type(schedule).__name__}")
    if routing is not None and kind != "moe":
        raise CompileError(f"routing {routing!r}: only an MoE layer is routed, this one is {kind}")
    if tensors is not None and tensors.workload != workload:
        raise CompileError(f"tensors: expected those of {workload}, got those of {tensors.workload}")
    check_built(workload, config, numerics)
    if kind == "attention":
        compiled = _compile_attention(workload, config, tensors, schedule, seed, data, numerics)
    else:
        compiled = _compile_moe(workload, config, tensors, schedule, routing, seed, data, numerics)
    compiled.program.meta["numerics"] = numerics.to_dict()
    return compiled


def _compile_attention(workload: Workload, config: TileConfig, tensors, schedule, seed: int,
                       data: bool, numerics: Numerics) -> CompiledLayer:
    schedule = schedule or auto.attention_schedule(workload, config, numerics)
    if not data:
        program = lower_attention(workload, config, schedule, Scales(), None, numerics)
        return CompiledLayer(workload=workload, program=program, schedule=schedule, numerics=numerics)
    tensors = tensors or synthetic(workload, seed)
    if not isinstance(tensors, AttentionTensors):
        raise CompileError(f"tensors: expected those of an attention layer, got {type(tensors).__name__}")
    trace = float64_layer(tensors)
    program = lower_attention(workload, config, schedule, calibrate(trace.ranges, numerics),
                              tensors, numerics)
    return CompiledLayer(workload=workload, program=program, schedule=schedule, tensors=tensors, expected=trace.out,
                         numerics=numerics)


def _compile_moe(workload: Workload, config: TileConfig, tensors, schedule, routing: str | None, seed: int,
                 data: bool, numerics: Numerics) -> CompiledLayer:
    tensors = tensors or synthetic(workload, seed)
    if not isinstance(tensors, MoETensors):
        raise CompileError(f"tensors: expected those of an MoE layer, got {type(tensors).__name__}")
    choice = _choice(workload, tensors, routing, seed, numerics)
    flips = None if routing else flipped_tokens(float64_logits(tensors), choice.chosen)
    flipped = None if flips is None else int(flips.sum())
    schedule = schedule or auto.moe_schedule(workload, choice, config, numerics)
    if not data:
        program = lower_moe(workload, choice, config, schedule, Scales(), None, numerics)
        return CompiledLayer(workload=workload, program=program, schedule=schedule, routing=choice,
                             routing_source=routing, numerics=numerics, flipped=flipped)
    trace = float64_layer(tensors, choice)
    program = lower_moe(workload, choice, config, schedule, calibrate(trace.ranges, numerics), tensors, numerics)
    return CompiledLayer(workload=workload, program=program, schedule=schedule, routing=choice,
                         routing_source=routing, tensors=tensors, expected=trace.out, numerics=numerics,
                         flipped=flipped,
                         expected_routed=None if flips is None else float64_routed(tensors, trace.out, flips))


def _choice(workload: Workload, tensors: MoETensors, routing: str | None, seed: int, numerics: Numerics) -> Routing:
    layer, logits = workload.moe, tile_logits(tensors, numerics.router_terms)
    if routing is None:
        return topk_softmax_route(logits, layer.top_k, norm_topk=layer.norm_topk)
    chosen = forced_choice(routing, tokens=workload.rows, experts=layer.experts, top_k=layer.top_k, seed=seed)
    return forced_route(logits, chosen, norm_topk=layer.norm_topk)


def fitting_change(workload: Workload, config: TileConfig, *, tensors: LayerTensors | None = None,
                   schedule: AttentionSchedule | MoESchedule | None = None, routing: str | None = None, seed: int = 0,
                   numerics: Numerics = DEFAULT) -> Change | None:
    """After `compile_layer` raised `DoesNotFit` for these arguments: the smallest change of one key that helps."""
    def compiles(tile: TileConfig) -> object:
        return compile_layer(workload, tile, tensors=tensors, schedule=schedule, routing=routing, seed=seed, data=False,
                             numerics=numerics)

    if schedule is not None:
        return smallest_change(config, compiles, compiles)
    if workload.layer.kind == "attention":
        return smallest_change(config, lambda tile: auto.attention_schedule(workload, tile, numerics), compiles)
    tensors = tensors or synthetic(workload, seed)
    if not isinstance(tensors, MoETensors):
        raise CompileError(f"tensors: expected those of an MoE layer, got {type(tensors).__name__}")
    choice = _choice(workload, tensors, routing, seed, numerics)
    return smallest_change(config, lambda tile: auto.moe_schedule(workload, choice, tile, numerics), compiles)
