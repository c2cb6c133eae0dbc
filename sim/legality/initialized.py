"""What a program has written, so that the verifier can refuse reads of anything else.

On-chip memories keep what earlier programs left, also through a reset, so a program that reads what it has not written
itself has no defined result, and shows its reader another program's data. Tracked is every place that can be written
alone: bytes of the slices of A and B and the scale byte of each of their groups, lanes of ACC rows (the planes of raw
accumulators and the statistics rows are ACC rows), entries of the index memory.

An instruction reads what can change a result, a status flag or memory:

* MATMUL: of A the slices of its ``m_rows`` rows only; of B every slice, because a column without data has results
  and status flags too; of both all bytes of ``k_steps`` steps, so bytes behind a ragged k must be written. When B
  advances every second step and ``k_steps`` is odd, the upper half of the last group is not used. Scale bytes: those
  of each block's first group, or first four. With ``merge`` all planes of every lane of the result rows, and the old
  row maxima unless ``rowmax_init``.
* VECTOR: every lane of every operand row, the row's own lane of a ROW operand. It computes all lanes of every tile
  and reduces over them, so lanes behind a ragged edge must be written.
* STORE, SCATTER: the bytes that go to DRAM, no others of their beats. GATHER, SCATTER: the index entries of their
  rows.

Writes are exact likewise: a LOAD of 3 bytes writes 3 bytes. DRAM is not tracked: all of a program's DRAM that no
segment fills is zero before it starts.

A place that is written stays written, and an instruction's reads and writes depend on its shape
(`accesses.Accesses.serial`) alone, so each shape is looked at once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.formats import PAIRS, SCALE_BYTES
from ...rtl.spec.isa import Dest, Instruction, Pair, Quant, Reduce, Scale, ScaleLayout, Source, Space
from ...rtl.spec.scale_layout import SCALE_BLOCKS, scale_row_bytes
from ...rtl.spec.tensor_formats import QUANT_FORMATS
from ..lib.strided import Strided
from .accesses import Accesses


class Memory(NamedTuple):
    """A memory, or one side of it, as (slices, addresses). ``places`` and ``slices`` are their names in messages."""

    name: str
    places: str
    slices: str


A, B = (Memory(name, "bytes", "slices") for name in ("A", "B"))
A_SCALES, B_SCALES = (Memory(name, "scale bytes of groups", "slices") for name in ("A", "B"))
ACC = Memory("ACC", "rows", "lanes")
INDEX = Memory("INDEX", "entries", "")


class Places(NamedTuple):
    """The same addresses in ``count`` slices from ``first`` on. role: the instruction's field that means them."""

    role: str
    memory: Memory
    first: int
    count: int
    run: Strided


def nothing(config: TileConfig) -> dict[Memory, NDArray[np.bool_]]:
    """A (slices, addresses) map of every memory, all False."""
    a, b, lanes = 1 << config.a_addr_bits, 1 << config.b_addr_bits, config.lanes
    shapes = {A: (config.rows, a * lanes), B: (config.cols, b * lanes), A_SCALES: (config.rows, a),
              B_SCALES: (config.cols, b), ACC: (config.cols, 1 << config.acc_addr_bits),
              INDEX: (1, config.index_entries)}
    return {memory: np.zeros(shape, np.bool_) for memory, shape in shapes.items()}


class Initialized:
    """What the instructions added so far have written."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self._written = nothing(config)
        self._added: set[int] = set()

    def add(self, instruction: Instruction, touched: Accesses) -> None:
        """Add the next instruction of the program; ``touched`` is its `Accesses`, all of one `AccessTable`.

        Raises `ProgramError` when it reads a place that no earlier instruction has written.
        """
        if touched.serial in self._added:
            return
        for places, missing in self.missing(instruction):
            raise ProgramError(_message(places, missing))
        for places in writes(instruction, self.config):
            self.mark(places)
        self._added.add(touched.serial)

    def missing(self, instruction: Instruction) -> Iterator[tuple[Places, NDArray[np.bool_]]]:
        """What the instruction reads and nothing has written: bool (slices, blocks, length) of its `Places`."""
        for places in reads(instruction, self.config):
            view = self.written(places)
            if not view.all():
                yield places, ~view

    def written(self, places: Places) -> NDArray[np.bool_]:
        """(slices, blocks, length), a view."""
        return view_of(self._written[places.memory], places)

    def mark(self, places: Places) -> None:
        """Take ``places`` for written."""
        self.written(places)[...] = True


def view_of(memory: NDArray[np.bool_], places: Places) -> NDArray[np.bool_]:
    """(slices, blocks, length) of a memory (slices, addresses)."""
    width, run = memory.shape[1], places.run
    return np.ndarray((places.count, run.blocks, run.length), np.bool_, memory, places.first * width + run.addr,
                      (width, run.pitch, 1))


def _message(places: Places, missing: NDArray[np.bool_]) -> str:
    """Names the first addresses that are missing, and the slices in which they are."""
    memory, run = places.memory, places.run
    by_address: NDArray[np.bool_] = np.logical_or.reduce(missing, axis=0)
    block = int(by_address.any(axis=1).argmax())
    low = int(by_address[block].argmax())
    length = int((~by_address[block, low:]).argmax()) or run.length - low
    slices = places.first + np.flatnonzero(missing[:, block, low:low + length].any(axis=1))
    start = run.addr + block * run.pitch + low
    where = f", {memory.slices} {slices[0]}..{slices[-1]}" if memory.slices else ""
    return (f"{places.role}: reads {memory.places} {start}..{start + length - 1}{where} of {memory.name}, which no "
            "earlier instruction has written")


# What instructions read and write ------------------------------------------------------------------------


def reads(i: Instruction, config: TileConfig) -> Iterator[Places]:
    """What a legal instruction reads on chip."""
    name = i.spec.name
    if name in ("GATHER", "SCATTER"):
        yield Places("index_addr", INDEX, 0, 1, Strided(i.index_addr, i.rows))
    if name in ("STORE", "SCATTER"):
        yield from _dma(i, config)
    elif name == "MATMUL":
        yield from _matmul_reads(i, config)
    elif name == "VECTOR":
        yield from _vector_reads(i, config)


def writes(i: Instruction, config: TileConfig) -> Iterator[Places]:
    """What a legal instruction writes on chip."""
    name = i.spec.name
    if name in ("LOAD", "GATHER"):
        yield from _dma(i, config)
    elif name == "MATMUL":
        yield from _results(i, config, planes=config.acc_planes if i.raw else 1)
        if i.rowmax:
            yield from _one_per_row("rowmax_addr", i.rowmax_addr, i.m_rows, config)
    elif name == "VECTOR":
        yield from _vector_writes(i, config)


def _panels(rows: int, slices: int, first: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Rows that go round the slices, from slice ``first`` of panel 0 on: (slice, slices, panel, equal panels)."""
    panel = 0
    if first:
        yield first, min(slices - first, rows), 0, 1
        rows, panel = max(0, rows - (slices - first)), 1
    if rows >= slices:
        yield 0, slices, panel, rows // slices
    if rows % slices:
        yield 0, rows % slices, panel + rows // slices, 1


def _one_per_row(role: str, addr: int, rows: int, config: TileConfig) -> Iterator[Places]:
    """A word per row: row r at ACC row addr + r // cols, lane r % cols."""
    for first, count, panel, panels in _panels(rows, config.cols):
        yield Places(role, ACC, first, count, Strided(addr + panel, panels))


def _blocks(memory: Memory, role: str, panel: tuple[int, int, int, int], addr: int, pitch: int,
            block: tuple[int, int, int]) -> Iterator[Places]:
    """Scale bytes in panels: block = (groups, scale bytes, number of blocks) of a row."""
    first, count, number, panels = panel
    groups, size, blocks = block
    for p in range(number, number + panels):
        yield Places(role, memory, first, count, Strided(addr + p * pitch, size, groups, blocks))


def _dma(i: Instruction, config: TileConfig) -> Iterator[Places]:
    space, lanes = Space(i.space), config.lanes
    start = getattr(i, "src_byte", 0)
    if space == Space.INDEX:
        yield Places("addr", INDEX, 0, 1, Strided(i.addr, i.row_bytes // 4))
    elif space == Space.ACC:
        words = start // 4 + i.row_bytes // 4
        for chunk, low in enumerate(range(0, words, config.cols)):
            first = start // 4 if chunk == 0 else 0
            yield Places("addr", ACC, first, min(words - low, config.cols) - first,
                         Strided(i.addr + chunk * i.pitch, i.rows))
    elif space in (Space.A, Space.B):
        is_a = space == Space.A
        layout = ScaleLayout(i.scale)
        for panel in _panels(i.rows, config.rows if is_a else config.cols, i.row_offset):
            first, count, number, panels = panel
            run = Strided((i.addr + number * i.pitch) * lanes + start, i.row_bytes, i.pitch * lanes, panels)
            yield Places("addr", A if is_a else B, first, count, run)
            if layout != ScaleLayout.NONE:
                block = SCALE_BLOCKS[layout]
                yield from _blocks(A_SCALES if is_a else B_SCALES, "scale", panel, i.addr, i.pitch,
                                   (block.groups, block.size, scale_row_bytes(i, config) // block.size))


def _matmul_reads(i: Instruction, config: TileConfig) -> Iterator[Places]:
    lanes, scale = config.lanes, Scale(i.scale)
    size = i.k_steps * lanes
    half = PAIRS[Pair(i.pair)].b_steps
    blocks = i.k_steps >> i.block
    sides = (("a", A, A_SCALES, 1, list(_panels(i.m_rows, config.rows))),
             ("b", B, B_SCALES, half, [(0, config.cols, 0, i.n_tiles)]))
    for side, memory, scales, steps, panels in sides:
        addr, pitch = getattr(i, f"{side}_addr"), getattr(i, f"{side}_pitch")
        for panel in panels:
            first, count, number, equal = panel
            yield Places(f"{side}_addr", memory, first, count,
                         Strided((addr + number * pitch) * lanes, size // steps, pitch * lanes, equal))
            if scale != Scale.NONE and getattr(i, f"{side}_scaled"):
                yield from _blocks(scales, f"{side}_addr", panel, addr, pitch,
                                   ((1 << i.block) // steps, SCALE_BYTES[scale], blocks))
    if i.merge:
        yield from _results(i, config, planes=config.acc_planes)
    if i.rowmax and not i.rowmax_init:
        yield from _one_per_row("rowmax_addr", i.rowmax_addr, i.m_rows, config)


def _results(i: Instruction, config: TileConfig, planes: int) -> Iterator[Places]:
    for plane in range(planes):
        addr = i.acc_addr + plane * config.acc_addr(config.acc_plane_banks)
        yield Places("acc_addr", ACC, 0, config.cols, Strided(addr, i.m_rows, i.acc_pitch, i.n_tiles))


def _vector_reads(i: Instruction, config: TileConfig) -> Iterator[Places]:
    walk = Strided(i.x_addr, i.rows, i.pitch, i.tiles)
    yield Places("x_addr", ACC, 0, config.cols, walk)
    for role in "yzw":
        kind, addr = Source(getattr(i, f"{role}_kind")), getattr(i, role)
        if kind == Source.ROW:
            yield from _one_per_row(role, addr, i.rows, config)
        elif kind != Source.IMM:
            length = i.rows if kind == Source.ACC else 1
            yield Places(role, ACC, 0, config.cols, Strided(addr, length, i.pitch, i.tiles))


def _vector_writes(i: Instruction, config: TileConfig) -> Iterator[Places]:
    if i.dest == Dest.ACC:
        yield Places("dst_addr", ACC, 0, config.cols, Strided(i.dst_addr, i.rows, i.dst_pitch, i.tiles))
    elif i.dest == Dest.A:
        fmt, lanes, elements = QUANT_FORMATS[Quant(i.quant)], config.lanes, i.tiles * config.cols
        for panel in _panels(i.rows, config.rows):
            first, count, number, equal = panel
            run = Strided((i.dst_addr + number * i.dst_pitch) * lanes, fmt.bytes_of(elements),
                          i.dst_pitch * lanes, equal)
            yield Places("dst_addr", A, first, count, run)
            if fmt.block:
                yield from _blocks(A_SCALES, "dst_addr", panel, i.dst_addr, i.dst_pitch,
                                   (fmt.block_groups, fmt.scale_bytes, elements // fmt.block))
    if i.reduce != Reduce.NONE:
        yield from _one_per_row("reduce_addr", i.reduce_addr, i.rows, config)
