"""An attention workload and its schedule to a program."""

from ...rtl.spec.config import TileConfig
from ...sim.program import Program
from ..builder import ProgramBuilder
from ..dram import float_output
from ..emitter import Emitter
from ..formats import query_format
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..schedule import AttentionSchedule
from ..tensors import AttentionTensors
from .core import AttentionCore
from .inputs import lay_out
from .problems import projection_problems
from .project import emit_output, emit_rotated, emit_values


def lower_attention(workload: Workload, config: TileConfig, schedule: AttentionSchedule, scales: Scales,
                    tensors: AttentionTensors | None = None, numerics: Numerics = DEFAULT) -> Program:
    """The program of an attention layer; its result is the region ``out``, (rows, hidden) FP32.

    Without ``tensors`` the program has the same instructions and zero data: for timing only.
    """
    layer = workload.attention
    builder, formats = ProgramBuilder(config), numerics.formats
    emitter = Emitter(builder)
    memory = lay_out(builder, workload, schedule, scales, tensors, numerics)
    problems = projection_problems(workload, config, formats)
    with builder.phase("k"):
        emit_rotated(emitter, workload, memory, scales, problems["k"], schedule.k, formats.kv)
    with builder.phase("v"):
        emit_values(emitter, workload, memory, scales, problems["v"], schedule.v, formats.kv)
    with builder.phase("q"):
        emit_rotated(emitter, workload, memory, scales, problems["q"], schedule.q, query_format(formats))
    with builder.phase("core"):
        AttentionCore(emitter, workload, memory, scales, schedule.core, numerics).emit()
    with builder.phase("out"):
        emit_output(emitter, workload, memory, scales, problems["out"], schedule.out)
    float_output(builder, "out", memory.out, workload.rows, layer.hidden)
    return builder.finish()
