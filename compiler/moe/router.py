"""The router: logits (`logits.py`), softmax over the counted experts, combine weights to DRAM.

The bias matrix is 0 for experts that the softmax counts (the chosen ones when the layer renormalizes, all of them
otherwise) and -inf elsewhere, so one softmax serves both rules and padding columns never count.
"""

import math
from typing import Any

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Combine, Func, Reduce
from ..emitter import Emitter, acc, imm, row
from ..gemm import Group, acc_regions, emit_gemm
from ..layers import Workload
from ..placement import AccPlacer, OperandPlacer, StatPlacer
from ..schedule import GemmSchedule
from .inputs import MoEMemory, MoEScales
from .logits import term_products


def emit_router(emitter: Emitter, workload: Workload, memory: MoEMemory, scales: MoEScales,
                schedule: GemmSchedule, terms: int) -> None:
    """Logits to combine weights for every row. terms: E4M3 terms of x and of the router."""
    config = emitter.config
    placer, stats = AccPlacer(config, "router"), StatPlacer(config, "router")
    a = OperandPlacer(config, "A", "router")
    rows = min(schedule.m_tile, workload.rows)
    n = memory.router.rows
    if schedule.group_tiles < n // config.cols:
        raise CompileError(f"router: group_tiles must be at least {n // config.cols}, the softmax is over all experts, "
                           f"got {schedule.group_tiles}")
    products = term_products(terms)
    regions = acc_regions(placer, schedule, memory.x_router.k // terms, rows, n, config.cols, products=products)
    bias = placer.take(n // config.cols * rows, what="the router's bias").addr
    words = -(-rows // config.cols)
    maxima, sums, inverse = (stats.take(words, what) for what in ("maxima", "sums", "inverse sums"))
    factor = scales.x_router * scales.router * math.log2(math.e)

    def finish(group: Group) -> None:
        fields: dict[str, Any] = {"rows": group.rows, "tiles": group.tiles, "pitch": group.pitch, "x": group.addr}
        in_place: dict[str, Any] = {"to_acc": group.addr, "dst_pitch": group.pitch}
        emitter.load_rows(memory.bias, first_row=group.m0, rows=group.rows, addr=bias, pitch=group.pitch,
                          label="router bias")
        emitter.vector(**fields, y=imm(factor), combine=Combine.ADD, z=acc(bias), **in_place, reduce=Reduce.MAX,
                       reduce_addr=maxima, label="logits")
        emitter.vector(**fields, combine=Combine.SUB, z=row(maxima), func=Func.EXP2, **in_place, reduce=Reduce.SUM,
                       reduce_addr=sums, label="exponentials")
        emitter.vector(rows=-(-group.rows // config.cols), x=sums, func=Func.RECIPROCAL, to_acc=inverse,
                       label="1 / sum")
        emitter.vector(**fields, y=row(inverse), **in_place, label="combine weights")
        emitter.store_acc(memory.weights, first_row=group.m0, rows=group.rows, first_byte=0,
                          row_bytes=memory.weights.row_bytes, addr=group.addr, pitch=group.pitch,
                          label="store combine weights")

    emit_gemm(emitter, schedule, name="router", a=memory.x_router, b=memory.router, m=workload.rows, n=n,
              layer_k=workload.moe.hidden, epilogue=finish, regions=regions, a_placer=a, products=products)
