"""The weighted combine: each token's ``top_k`` slots, added in the order of their experts.

The order is fixed (ascending expert), so the FP32 sum does not depend on any schedule.
"""

import numpy as np

from ...rtl.spec.errors import CompileError, DoesNotFit
from ...rtl.spec.isa import Combine
from ..dram import index_list
from ..emitter import VECTOR_TILES, Emitter, acc
from ..layers import Workload
from ..placement import AccPlacer, align
from ..routing import Routing
from ..schedule import MoESchedule
from .inputs import MoEMemory

REGIONS = 3
"""Regions that slots are gathered into in turn."""


def token_slots(routing: Routing) -> np.ndarray:
    """(T, k) slot numbers of every token, in ascending order of its experts."""
    slot_of = np.empty(routing.chosen.shape, np.int64)
    first = 0
    for expert in routing.active:
        tokens, ranks = routing.tokens_of(expert)
        slot_of[tokens, ranks] = first + np.arange(len(tokens))
        first += len(tokens)
    return np.sort(slot_of, axis=1)


def emit_combine(emitter: Emitter, workload: Workload, routing: Routing, memory: MoEMemory,
                 schedule: MoESchedule) -> None:
    """out[t] = sum of token t's slots."""
    config, moe = emitter.config, workload.moe
    placer = AccPlacer(config, "combine")
    rows_max, tiles = min(schedule.combine_rows, workload.rows), schedule.combine_tiles
    if tiles > VECTOR_TILES:
        raise CompileError(f"combine: combine_tiles must be at most {VECTOR_TILES}, got {tiles}")
    sums = [placer.take(rows_max * tiles, what="sums (combine_rows * combine_tiles)").addr for _ in range(2)]
    parts = [placer.take(rows_max * tiles, what="gathered slots (combine_rows * combine_tiles)").addr
             for _ in range(REGIONS)]
    step = align(rows_max, config.bus_bytes // 4)
    if 2 * step * moe.top_k > config.index_entries:
        raise DoesNotFit(f"combine: two lists of {step * moe.top_k} indices do not fit index_entries = "
                         f"{config.index_entries}; use a smaller combine_rows than {schedule.combine_rows}")
    slots = token_slots(routing)
    starts = range(0, workload.rows, rows_max)
    lists = np.zeros((len(starts), moe.top_k, step), np.uint32)
    for block, start in enumerate(starts):
        part = slots[start:start + rows_max]
        lists[block, :, :len(part)] = part.T
    matrix = index_list(emitter.builder, "combine_slots", lists.reshape(-1))
    width, turn, call = tiles * config.cols, 0, 0
    for block, start in enumerate(starts):
        rows, index = min(rows_max, workload.rows - start), block % 2 * step * moe.top_k
        emitter.load_index(matrix, first=block * step * moe.top_k, count=step * moe.top_k, addr=index,
                           label=f"combine list {start}")
        for n0 in range(0, moe.hidden, width):
            columns = min(width, moe.hidden - n0)
            total, turn = sums[turn % 2], turn + 1
            for j in range(moe.top_k):
                target = total if j == 0 else parts[call % REGIONS]
                call += j > 0
                emitter.load_rows(memory.slots, first_row=0, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                                  addr=target, pitch=rows, index_addr=index + j * step, label=f"combine slot {j}")
                if j:
                    emitter.vector(rows=rows, tiles=-(-columns // config.cols), pitch=rows, x=total,
                                   combine=Combine.ADD, z=acc(target), to_acc=total, dst_pitch=rows, label="add")
            emitter.store_acc(memory.out, first_row=start, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                              addr=total, pitch=rows, label="store out")
