"""The weighted combine: each token's ``top_k`` slots, added in the order of their experts.

The order is fixed (ascending expert), so the FP32 sum does not depend on any schedule.
"""

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ..dram import index_list
from ..emitter import VECTOR_TILES, Emitter
from ..layers import Workload
from ..routing import Routing
from ..schedule import MoESchedule
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Elem, Shape
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


def combine_buffers(workload: Workload, config: TileConfig, combine_rows: int, combine_tiles: int) -> list[Buffer]:
    """For steps of ``combine_rows`` tokens and ``combine_tiles`` column tiles."""
    rows, keys = min(combine_rows, workload.rows), "combine_rows * combine_tiles"
    entries = align(rows, config.bus_bytes // 4) * workload.moe.top_k
    return [Buffer(name="sums", memory=Memory.ACC, sizes=(rows * combine_tiles,), least=2, most=2, keys=keys),
            Buffer(name="gathered slots", memory=Memory.ACC, sizes=(rows * combine_tiles,), least=REGIONS,
                   most=REGIONS, keys=keys),
            Buffer(name="lists of slots", memory=Memory.INDEX, sizes=(entries,), least=2, most=2,
                   keys="combine_rows")]


def emit_combine(emitter: Emitter, workload: Workload, routing: Routing, memory: MoEMemory,
                 schedule: MoESchedule) -> None:
    """out[t] = sum of token t's slots."""
    config, moe = emitter.config, workload.moe
    rows_max, tiles = min(schedule.combine_rows, workload.rows), schedule.combine_tiles
    if tiles > VECTOR_TILES:
        raise CompileError(f"combine: combine_tiles must be at most {VECTOR_TILES}, got {tiles}")
    regions = place(combine_buffers(workload, config, schedule.combine_rows, tiles), config, "combine")
    sums, parts, indices = regions["sums"], regions["gathered slots"], regions["lists of slots"]
    step = align(rows_max, config.bus_bytes // 4)
    slots = token_slots(routing)
    starts = range(0, workload.rows, rows_max)
    lists = np.zeros((len(starts), moe.top_k, step), np.uint32)
    for block, start in enumerate(starts):
        part = slots[start:start + rows_max]
        lists[block, :, :len(part)] = part.T
    matrix = index_list(emitter.builder, "combine_slots", lists.reshape(-1))
    width, turn, call = tiles * config.cols, 0, 0
    for block, start in enumerate(starts):
        rows, index = min(rows_max, workload.rows - start), indices[block % 2]
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
                    emitter.compute(Shape(rows=rows, tiles=-(-columns // config.cols), pitch=rows), Assign(
                        to=Elem(total), value=Elem(total) + Elem(target), label="add"))
            emitter.store_acc(memory.out, first_row=start, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                              addr=total, pitch=rows, label="store out")
