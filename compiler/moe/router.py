"""The router: logits (`logits.py`), softmax over the counted experts, combine weights to DRAM.

The bias matrix is 0 for experts that the softmax counts (the chosen ones when the layer renormalizes, all of them
otherwise) and -inf elsewhere, so one softmax serves both rules and padding columns never count.
"""

import math

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..emitter import Emitter
from ..gemm import GemmProblem, Group, emit_gemm
from ..graph.calibrate import Scales
from ..layers import Workload
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer, Memory, place
from ..tiles.expr import Assign, Elem, Reduction, Row, Shape, exp2, reciprocal
from .inputs import MoEMemory


def router_buffers(config: TileConfig, problem: GemmProblem, schedule: GemmSchedule) -> list[Buffer]:
    """The GEMM's, its bias, and three statistics per row."""
    rows = problem.rows(schedule)
    words = -(-rows // config.cols)
    bias = Buffer(name="the router's bias", memory=Memory.ACC, sizes=(problem.n // config.cols * rows,))
    statistics = [Buffer(name=name, memory=Memory.STATISTICS, sizes=(words,))
                  for name in ("maxima", "sums", "inverse sums")]
    return problem.buffers(schedule, config, [bias, *statistics])


def emit_router(emitter: Emitter, workload: Workload, memory: MoEMemory, scales: Scales,
                problem: GemmProblem, schedule: GemmSchedule) -> None:
    """Logits to combine weights for every row."""
    config, tiles = emitter.config, problem.n // emitter.config.cols
    if schedule.group_tiles < tiles:
        raise CompileError(f"router: group_tiles must be at least {tiles}, the softmax is over all experts, "
                           f"got {schedule.group_tiles}")
    regions = place(router_buffers(config, problem, schedule), config, "router")
    (bias,), (maxima,), (sums,), (inverse,) = (regions[name] for name in (
        "the router's bias", "maxima", "sums", "inverse sums"))
    factor = scales["x terms"] * scales["router terms"] * math.log2(math.e)

    def finish(group: Group) -> None:
        x = Elem(group.addr)
        emitter.load_rows(memory.bias, first_row=group.m0, rows=group.rows, addr=bias, pitch=group.pitch,
                          label="router bias")
        emitter.compute(
            group.shape,
            Assign(to=x, value=x * factor + Elem(bias), reduce=Reduction(Reduce.MAX, maxima), label="logits"),
            Assign(to=x, value=exp2(x - Row(maxima)), reduce=Reduction(Reduce.SUM, sums), label="exponentials"))
        emitter.compute(Shape(rows=-(-group.rows // config.cols)),
                        Assign(to=Elem(inverse), value=reciprocal(Elem(sums)), label="1 / sum"))
        emitter.compute(group.shape, Assign(to=x, value=x * Row(inverse), label="combine weights"))
        emitter.store_acc(memory.weights, first_row=group.m0, rows=group.rows, first_byte=0,
                          row_bytes=memory.weights.row_bytes, addr=group.addr, pitch=group.pitch,
                          label="store combine weights")

    emit_gemm(emitter, problem, schedule, memory.x_router, memory.router, regions, finish)
