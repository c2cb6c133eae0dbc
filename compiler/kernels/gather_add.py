"""Rows of a result as the sum of ``k`` gathered rows each, added in the order of their list, times a factor.

The order is fixed, so the FP32 sum does not depend on any schedule.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ..dram import Matrix, index_list
from ..emitter import VECTOR_TILES, Emitter
from ..schedule import GatherAddSchedule
from ..tiles.buffers import Buffer, Memory, align
from ..tiles.expr import Assign, Elem, Shape

REGIONS = 3
"""Regions that rows are gathered into in turn."""


@dataclass(frozen=True, kw_only=True)
class GatherAdd:
    """``rows`` rows of ``columns`` FP32 values, each ``scale`` times the sum of ``terms`` rows."""

    name: str
    rows: int
    columns: int
    terms: int
    scale: float = 1.0

    def buffers(self, config: TileConfig, schedule: GatherAddSchedule) -> list[Buffer]:
        rows, keys = min(schedule.m_tile, self.rows), "m_tile * n_tiles"
        entries = align(rows, config.bus_bytes // 4) * self.terms_at_once(config, schedule)
        size = (rows * schedule.n_tiles,)
        return [Buffer(name="sums", memory=Memory.ACC, sizes=size, least=2, most=2, keys=keys, few=1),
                Buffer(name="gathered slots", memory=Memory.ACC, sizes=size, least=REGIONS, most=REGIONS, keys=keys,
                       few=1),
                Buffer(name="lists of slots", memory=Memory.INDEX, sizes=(entries,), least=2, most=2, keys="m_tile",
                       few=1)]

    def terms_at_once(self, config: TileConfig, schedule: GatherAddSchedule) -> int:
        """Terms whose indices are on chip at once: all, or one where the index memory does not hold those of all."""
        return self.terms if align(min(schedule.m_tile, self.rows), config.bus_bytes // 4
                                   ) * self.terms <= config.index_entries else 1

    def emit(self, emitter: Emitter, schedule: GatherAddSchedule, lists: np.ndarray, source: Matrix,
             target: Matrix, regions: Mapping[str, list[int]], base: Matrix | None = None) -> None:
        """lists: (rows, terms) numbers of rows of ``source``; base: rows that the sums begin with; regions: of
        `buffers`."""
        config, rows_max, tiles = emitter.config, min(schedule.m_tile, self.rows), schedule.n_tiles
        if tiles > VECTOR_TILES:
            raise CompileError(f"{self.name}: n_tiles must be at most {VECTOR_TILES}, got {tiles}")
        sums, parts, indices = regions["sums"], regions["gathered slots"], regions["lists of slots"]
        step, at_once = align(rows_max, config.bus_bytes // 4), self.terms_at_once(config, schedule)
        starts = range(0, self.rows, rows_max)
        blocks = np.zeros((len(starts), self.terms, step), np.uint32)
        for block, start in enumerate(starts):
            part = lists[start:start + rows_max]
            blocks[block, :, :len(part)] = part.T
        matrix = index_list(emitter.builder, f"{self.name}_slots", blocks.reshape(-1))
        width, turn, call = tiles * config.cols, 0, 0
        for block, start in enumerate(starts):
            rows, index = min(rows_max, self.rows - start), indices[block % len(indices)]
            if at_once == self.terms:
                emitter.load_index(matrix, first=block * step * self.terms, count=step * self.terms, addr=index,
                                   label=f"{self.name} list {start}")
            for n0 in range(0, self.columns, width):
                columns = min(width, self.columns - n0)
                total, turn = sums[turn % len(sums)], turn + 1
                if base is not None:
                    emitter.load_rows(base, first_row=start, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                                      addr=total, pitch=rows, label=f"{self.name} base")
                for j in range(self.terms):
                    begun = j > 0 or base is not None
                    to = parts[call % len(parts)] if begun else total
                    call += begun
                    if at_once < self.terms:
                        index = indices[call % len(indices)]
                        emitter.load_index(matrix, first=(block * self.terms + j) * step, count=step, addr=index,
                                           label=f"{self.name} list {start} slot {j}")
                    emitter.load_rows(source, first_row=0, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                                      addr=to, pitch=rows, index_addr=index + j % at_once * step,
                                      label=f"{self.name} slot {j}")
                    if begun:
                        emitter.compute(Shape(rows=rows, tiles=-(-columns // config.cols), pitch=rows), Assign(
                            to=Elem(total), value=Elem(total) + Elem(to), label="add"))
                if self.scale != 1.0:
                    emitter.compute(Shape(rows=rows, tiles=-(-columns // config.cols), pitch=rows), Assign(
                        to=Elem(total), value=Elem(total), scale=self.scale, label="scale"))
                emitter.store_acc(target, first_row=start, rows=rows, first_byte=4 * n0, row_bytes=4 * columns,
                                  addr=total, pitch=rows, label="store out")
