"""An MoE workload, its routing and its schedule to a program."""

from ...rtl.spec.config import TileConfig
from ...sim.program import Program
from ..builder import ProgramBuilder
from ..dram import float_output
from ..emitter import Emitter
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..routing import Routing
from ..schedule import MoESchedule
from ..tensors import MoETensors
from .combine import emit_combine
from .experts import Experts
from .inputs import lay_out
from .problems import router_problem
from .router import emit_router


def lower_moe(workload: Workload, routing: Routing, config: TileConfig, schedule: MoESchedule, scales: Scales,
              tensors: MoETensors | None = None, numerics: Numerics = DEFAULT) -> Program:
    """The program of an MoE layer; its result is the region ``out``, (rows, hidden) FP32.

    Without ``tensors`` the program has the same instructions and zero weights: for timing only.
    """
    builder = ProgramBuilder(config)
    emitter = Emitter(builder)
    memory = lay_out(builder, workload, routing, schedule, scales, tensors, numerics)
    with builder.phase("router"):
        emit_router(emitter, workload, memory, scales, router_problem(workload, config, numerics), schedule.router)
    with builder.phase("experts"):
        Experts(emitter, workload, routing, memory, scales, schedule, numerics).emit()
    with builder.phase("combine"):
        emit_combine(emitter, workload, routing, memory, schedule)
    float_output(builder, "out", memory.out, workload.rows, workload.moe.hidden)
    return builder.finish()
