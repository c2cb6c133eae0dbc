"""From the options of a command to a compiled layer and its report: what `run`, `compile` and `formats` share."""

import argparse
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..compiler.checkpoint import from_safetensors
from ..compiler.compile import CompiledLayer, compile_layer, fitting_change
from ..compiler.layers import ATTENDING, ROUTED, Workload
from ..compiler.model_layers import ChosenLayer, layer_of
from ..compiler.models import ModelConfig, load_model
from ..compiler.numerics import from_options
from ..compiler.report import describe, layer_report
from ..compiler.schedule import load_schedule
from ..compiler.stored_weight import as_stored
from ..compiler.tensors import LayerTensors
from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import DoesNotFit, WorkloadError
from ..sim.energy import EnergyTable
from ..sim.hardware.toolchain import missing_for_verilator
from ..sim.legality.verifier import verify
from ..sim.lib.filled_array import FilledArray
from ..sim.lib.progress import Progress
from ..sim.program import Program
from ..sim.simulate import simulate
from .ignored import check_seed


def data_needed(arguments: argparse.Namespace) -> bool:
    """Results are computed, not only times."""
    return arguments.level != ("timing",)


def model_of(arguments: argparse.Namespace) -> ModelConfig:
    """The model that the options name, with the keys that they say do not matter."""
    return load_model(arguments.model, arguments.ignore_key or ())


def note(model: ModelConfig, weights: Path | None = None, layer: CompiledLayer | None = None) -> None:
    """On standard error, what a reader of the result would not expect of its model: said once all has gone well.
    weights: where those of ``layer`` are from."""
    if model.part:
        print(f"tilescore: {model.source}: this part of the configuration is read", file=sys.stderr)
    if weights is not None and model.quantization is not None:
        kept = as_stored(layer.tensors, layer.numerics) if layer is not None and layer.tensors is not None else ()
        print(f"tilescore: {model.source} says that its checkpoint is quantized ({model.quantization}); weights of "
              f"this layer in {weights} that are used as stored, not by their values: {', '.join(kept) or 'none'}",
              file=sys.stderr)


def chosen_layer(arguments: argparse.Namespace, layer: str, model: ModelConfig) -> ChosenLayer:
    """The layer of the model that the options name."""
    return layer_of(model, layer, arguments.layer_index)


def workload_of(arguments: argparse.Namespace, chosen: ChosenLayer) -> Workload:
    """What the layer options describe; only attention has a mask and a context."""
    description = chosen.layer
    tokens = arguments.tokens
    if tokens is None:
        if arguments.phase != "decode":
            raise WorkloadError("--tokens is needed for prefill")
        tokens = 1
    if description.kind not in ATTENDING:
        return Workload(layer=description, phase=arguments.phase, tokens=tokens, batch=arguments.batch)
    return Workload(layer=description, phase=arguments.phase, tokens=tokens, context=arguments.context,
                    batch=arguments.batch, mask=arguments.mask)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A verified layer, the seconds that took, and its memory for the reference level, which is being made."""

    layer: CompiledLayer
    seconds: float
    filling: FilledArray | None


def build(arguments: argparse.Namespace, layer: str, data: bool, config: TileConfig, *,
          levels: Collection[str] = ()) -> Built:
    """Compile and verify one layer, for simulation at ``levels``."""
    start = time.perf_counter()
    with Progress(f"compile {layer}"):
        model = model_of(arguments)
        chosen = chosen_layer(arguments, layer, model)
        compiled = _compiled(arguments, chosen, data, config, model)
        compiled.program.meta.update(describe(compiled, config, seed=arguments.seed))
        compiled.program.meta.update(layer_index=chosen.index, layer_of_model=str(chosen))
        compiled.program.meta["data"] = data
        filling = compiled.program.filling_dram() if "reference" in levels else None
        try:
            verify(compiled.program)
        except BaseException:
            if filling:
                filling.stop()
            raise
    note(model, arguments.weights, compiled)
    return Built(layer=compiled, seconds=time.perf_counter() - start, filling=filling)


def _weights(arguments: argparse.Namespace, model: ModelConfig, workload: Workload, index: int | None) -> LayerTensors:
    try:
        return from_safetensors(arguments.weights, workload, layer_index=index or 0, seed=arguments.seed)
    except WorkloadError as error:
        if model.quantization is None:
            raise
        raise WorkloadError(f"{error} (quantization_config: the checkpoint is quantized, {model.quantization}; "
                            "expected F32, F16, BF16, or a layout of docs/models.md)") from None


def _compiled(arguments: argparse.Namespace, chosen: ChosenLayer, data: bool, config: TileConfig,
              model: ModelConfig) -> CompiledLayer:
    workload = workload_of(arguments, chosen)
    check_seed(arguments, workload)
    schedule = load_schedule(arguments.schedule) if arguments.schedule else None
    tensors = None
    if arguments.weights:
        tensors = _weights(arguments, model, workload, chosen.index)
    given = {"tensors": tensors, "schedule": schedule,
             "routing": arguments.routing if chosen.layer.kind in ROUTED else None, "seed": arguments.seed,
             "numerics": from_options(arguments.format, softmax_block=arguments.softmax_block,
                                      scale_rule=arguments.scale_rule)}
    try:
        return compile_layer(workload, config, data=data, **given)
    except DoesNotFit as error:
        change = fitting_change(workload, config, **given)
        hint = f"{change} would fit" if change else "no larger values of one or two buffer or bank keys would fit"
        raise DoesNotFit(f"{error}; {hint}") from None


def report(program: Program, energy: EnergyTable, *, expected: np.ndarray | None,
           expected_routed: np.ndarray | None, compile_s: float, levels: tuple[str, ...],
           command: list[str], filling: FilledArray | None = None) -> dict:
    """Simulate ``program``, which carries its description, at ``levels``; the report."""
    if "rtl" in levels and (missing := missing_for_verilator()):
        print("tilescore: the rtl level runs in Amaranth's simulator, some 1000 times slower than under Verilator, "
              f"which lacks: {', '.join(missing)}", file=sys.stderr)
    start = time.perf_counter()
    with Progress(f"simulate {program.meta['layer']}") as progress:
        result = simulate(program, levels, energy_table=energy, progress=progress, filling=filling)
    return layer_report(program.meta, program, result, energy, expected=expected, expected_routed=expected_routed,
                        compile_s=compile_s, simulate_s=time.perf_counter() - start, command=command)
