"""tilescore: compile transformer layers for a matmul tile, play them cycle by cycle, report the score.

The public names. Everything else may change between versions. Each is imported when it is first used, so that
``import tilescore`` costs nothing and a run of the timing model never loads the hardware.

Describe: `load_model`, `list_models`, `attention_layer`, `moe_layer`, `mlp_layer`, `norm_layer`, `decoder_layer`,
`embedding_layer`, `head_layer`, `Workload`, `load_tile`, `TileConfig`.
Compile: `compile_layer`, `CompiledLayer`, `Schedule`, `GemmSchedule`, `FlashSchedule`, `GatherAddSchedule`,
`RowwiseSchedule`, `Numerics`, `bounds`.
Schedules: `load_schedule`, `save_schedule`, `schedule_differences`, `listing`.
Check and run: `verify`, `simulate`, `Program`, `Result`.
Report and compare: `report_compiled`, `compare`, `Comparison`, `model_report`.
Many points, and why: `sweep`, `SweepTable`.
Errors: `TilescoreError` and its subclasses.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from tilescore.compiler.bounds import bounds
    from tilescore.compiler.comparison import Comparison, compare
    from tilescore.compiler.compile import CompiledLayer, compile_layer
    from tilescore.compiler.feed_forward import MlpLayer, MoELayer
    from tilescore.compiler.layer_readers import (
        attention_layer,
        decoder_layer,
        embedding_layer,
        head_layer,
        mlp_layer,
        moe_layer,
        norm_layer,
    )
    from tilescore.compiler.layers import AttentionLayer, DecoderLayer, EmbeddingLayer, HeadLayer, NormLayer, Workload
    from tilescore.compiler.listing import listing
    from tilescore.compiler.model_report import model_report
    from tilescore.compiler.models import list_models, load_model
    from tilescore.compiler.numerics import Numerics
    from tilescore.compiler.report import report_compiled
    from tilescore.compiler.schedule import (
        FlashSchedule,
        GatherAddSchedule,
        GemmSchedule,
        RowwiseSchedule,
        Schedule,
        load_schedule,
        save_schedule,
        schedule_differences,
    )
    from tilescore.compiler.sweep.run import sweep
    from tilescore.compiler.sweep.table import SweepTable
    from tilescore.rtl.spec.config import TileConfig, load_tile
    from tilescore.rtl.spec.errors import (
        CompileError,
        ConfigError,
        DoesNotFit,
        ProgramError,
        SimulationError,
        TilescoreError,
        ToolError,
        WorkloadError,
    )
    from tilescore.sim.legality.verifier import verify
    from tilescore.sim.program import Program
    from tilescore.sim.result import Result
    from tilescore.sim.simulate import simulate

__version__ = "0.1.0"

__all__ = [
    "AttentionLayer", "Comparison", "CompileError", "CompiledLayer", "ConfigError", "DecoderLayer", "DoesNotFit",
    "EmbeddingLayer", "FlashSchedule", "GatherAddSchedule", "GemmSchedule", "HeadLayer", "MlpLayer", "MoELayer",
    "NormLayer", "Numerics", "Program", "ProgramError", "Result", "RowwiseSchedule", "Schedule", "SimulationError",
    "SweepTable", "TileConfig", "TilescoreError", "ToolError", "Workload", "WorkloadError", "attention_layer",
    "bounds", "compare", "compile_layer", "decoder_layer", "embedding_layer", "head_layer", "list_models", "listing",
    "load_model", "load_schedule", "load_tile", "mlp_layer", "model_report", "moe_layer", "norm_layer",
    "report_compiled", "save_schedule", "schedule_differences", "simulate", "sweep", "verify",
]

_HOME = {
    "compiler.bounds": ("bounds",),
    "compiler.compile": ("CompiledLayer", "compile_layer"),
    "compiler.feed_forward": ("MlpLayer", "MoELayer"),
    "compiler.layer_readers": ("attention_layer", "decoder_layer", "embedding_layer", "head_layer", "mlp_layer",
                               "moe_layer", "norm_layer"),
    "compiler.layers": ("AttentionLayer", "DecoderLayer", "EmbeddingLayer", "HeadLayer", "NormLayer", "Workload"),
    "compiler.models": ("list_models", "load_model"),
    "compiler.comparison": ("Comparison", "compare"),
    "compiler.listing": ("listing",),
    "compiler.model_report": ("model_report",),
    "compiler.numerics": ("Numerics",),
    "compiler.report": ("report_compiled",),
    "compiler.schedule": ("FlashSchedule", "GatherAddSchedule", "GemmSchedule", "RowwiseSchedule", "Schedule",
                          "load_schedule", "save_schedule", "schedule_differences"),
    "compiler.sweep.run": ("sweep",),
    "compiler.sweep.table": ("SweepTable",),
    "rtl.spec.config": ("TileConfig", "load_tile"),
    "rtl.spec.errors": ("CompileError", "ConfigError", "DoesNotFit", "ProgramError", "SimulationError",
                        "TilescoreError", "ToolError", "WorkloadError"),
    "sim.legality.verifier": ("verify",),
    "sim.program": ("Program",),
    "sim.result": ("Result",),
    "sim.simulate": ("simulate",),
}
"""{module: public names that it defines}: what the imports above say to type checkers."""


def __getattr__(name: str) -> typing.Any:
    for module, names in _HOME.items():
        if name in names:
            value = getattr(importlib.import_module(f"tilescore.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
