"""The `reference` level: a program's results, bit for bit those of the tile, in numpy.

Instructions are executed one after another in program order, which is one of the orders that the tokens of a
verified program allow, and all of them give the same bits. Memories are arrays laid out as in the hardware
(`State`); addresses are the hardware's, so a wrong placement shows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError, SimulationError
from ...rtl.spec.isa import INSTRUCTION_BYTES, Instruction, ScaleLayout, Space
from ...rtl.spec.scale_layout import scale_groups, scale_row_bytes
from ..legality.indexed_rows import Extents
from ..lib.filled_array import FilledArray
from ..program import Program
from .matmul_model import Status, run_matmul
from .vector_model import run_vector

_ADDRESS_MASK = (1 << 40) - 1


@dataclass(eq=False)
class State:
    """Memories of the tile and the DRAM.

    acc: (1 << acc_addr_bits, cols) uint32, row = accumulator address; flags: like acc, uint8, the bits
    above 31.
    a: (rows, (1 << a_addr_bits) * lanes) uint8, slices of A, byte = group address * lanes; b: likewise,
    (cols, ...). a_scale: (rows, 1 << a_addr_bits) uint8, the scale byte of each group; b_scale: likewise.
    Nothing reads them in a tile without block scales.
    status: the tile's sticky status outputs.
    index: (index_entries,) uint32. program: (2 * page_bytes,) uint8. dram: (dram_bytes,) uint8, of which every
    instruction asks ``filling`` for the bytes that it touches.
    """

    config: TileConfig
    acc: np.ndarray
    flags: np.ndarray
    a: np.ndarray
    b: np.ndarray
    index: np.ndarray
    program: np.ndarray
    filling: FilledArray
    a_scale: np.ndarray
    b_scale: np.ndarray
    status: Status

    @property
    def dram(self) -> np.ndarray:
        return self.filling.array

    @classmethod
    def initial(cls, program: Program, poison: bool = False, filling: FilledArray | None = None) -> "State":
        """All on-chip memories zero, as after configuration of an FPGA, and the program's DRAM, or that being made.

        poison: all bits of the memories one instead, which are NaNs, the largest addresses and every flag: what
        another program may have left at the worst.
        """
        config = program.config
        rows, share = 1 << config.acc_addr_bits, config.acc_word_bits - 32

        def memory(shape: tuple[int, ...], dtype: type, ones: int | None = None) -> np.ndarray:
            fill = np.iinfo(dtype).max if ones is None else ones
            return np.full(shape, fill, dtype) if poison else np.zeros(shape, dtype)

        return cls(
            config=config, acc=memory((rows, config.cols), np.uint32),
            flags=memory((rows, config.cols), np.uint8, (1 << share) - 1),
            a=memory((config.rows, config.lanes << config.a_addr_bits), np.uint8),
            b=memory((config.cols, config.lanes << config.b_addr_bits), np.uint8),
            index=memory((config.index_entries,), np.uint32),
            program=memory((2 * config.page_bytes,), np.uint8),
            filling=filling or program.filling_dram(),
            a_scale=memory((config.rows, 1 << config.a_addr_bits), np.uint8),
            b_scale=memory((config.cols, 1 << config.b_addr_bits), np.uint8), status=Status(0))


def run_reference(program: Program, progress: Callable[[int, int], None] | None = None, *,
                  poison: bool = False, filling: FilledArray | None = None) -> State:
    """Execute ``program``; returns the final state. A verified program's results do not depend on ``poison``.

    poison: as in `State.initial`. progress: called now and then with (instructions done, instructions). filling: the
    program's `Program.filling_dram`, if that has been begun.

    Raises `SimulationError` naming the instruction when an address lies outside its memory, an index leads out of the
    extent that the program names, a page of the program is not in the instruction memory when its first instruction is
    reached, or there is no HALT.
    """
    state = State.initial(program, poison, filling)
    try:
        _run(program, state, progress)
        state.filling.whole()
    finally:
        state.filling.stop()
    return state


def _run(program: Program, state: State, progress: Callable[[int, int], None] | None) -> None:
    config = program.config
    total, extents = len(program.instructions), Extents(program)
    image = state.dram[program.program_addr:program.program_addr + program.image_bytes].copy()
    execute(state, program.boot_load())
    for number, instruction in enumerate(program.columns.views()):
        if number % config.imem_page == 0:
            _check_page(state, program, image, number)
        if instruction.spec.name == "HALT":
            return
        try:
            extents.check(number, state.index)
            execute(state, instruction)
        except (IndexError, ProgramError) as error:
            raise SimulationError(f"{program.describe(number)}: {error}") from None
        if progress and number % 64 == 63:
            progress(number + 1, total)
    raise SimulationError(f"{program.describe(total - 1)} is the last instruction, expected a HALT")


def execute(state: State, instruction: Instruction) -> None:
    """Effect of one instruction on the memories. Raises IndexError for an address outside its memory."""
    name = instruction.spec.name
    if name == "MATMUL":
        state.status |= run_matmul(instruction, state.config, state.acc, state.flags, state.a, state.b, state.a_scale,
                                   state.b_scale)
    elif name == "VECTOR":
        run_vector(instruction, state.config, state.acc, state.a, state.flags, state.a_scale)
    elif name in ("LOAD", "GATHER"):
        _load(state, instruction)
    elif name in ("STORE", "SCATTER"):
        _store(state, instruction)


def _check_page(state: State, program: Program, image: np.ndarray, number: int) -> None:
    size = state.config.page_bytes
    page = number * INSTRUCTION_BYTES // size
    held = state.program[page % 2 * size:][:size]
    if not np.array_equal(held, image[page * size:][:size]):
        raise SimulationError(f"{program.describe(number)}: page {page} is not in the instruction memory")


# ---- DMA -----------------------------------------------------------------------------------------------


def _dram_rows(state: State, i: Instruction, addr: int, stride: int) -> np.ndarray:
    """(rows,) int64 DRAM address of every row, or every row's scale bytes."""
    if i.spec.name in ("GATHER", "SCATTER"):
        if i.index_addr + i.rows > state.index.size:
            raise IndexError(f"entries {i.index_addr}..{i.index_addr + i.rows - 1} of the "
                             f"{state.index.size}-entry index memory")
        number = state.index[i.index_addr:i.index_addr + i.rows].astype(np.int64)
    else:
        number = np.arange(i.rows, dtype=np.int64)
    return (addr + number * stride) & _ADDRESS_MASK


def _dram_view(state: State, i: Instruction) -> tuple[np.ndarray, np.ndarray | None]:
    """A (rows, row_bytes) view and None for evenly spaced rows, else the flat DRAM and byte addresses."""
    last = i.dram_addr + (i.rows - 1) * i.row_stride
    if i.spec.name in ("LOAD", "STORE") and max(i.dram_addr, last) <= _ADDRESS_MASK:
        _use_dram(state, min(i.dram_addr, last), max(i.dram_addr, last) + i.row_bytes)
        return np.ndarray((i.rows, i.row_bytes), np.uint8, state.dram, i.dram_addr, (i.row_stride, 1)), None
    start = _dram_rows(state, i, i.dram_addr, i.row_stride)
    _use_dram(state, int(start.min()), int(start.max()) + i.row_bytes)
    return state.dram, start[:, None] + np.arange(i.row_bytes)


def _use_dram(state: State, low: int, high: int) -> None:
    """Wait for the bytes from ``low`` to ``high`` - 1."""
    if high > state.dram.size:
        raise IndexError(f"DRAM address {high - 1}, DRAM has {state.dram.size} bytes")
    state.filling.need(low, high)


def _load(state: State, i: Instruction) -> None:
    view, where = _dram_view(state, i)
    data = view if where is None else view[where]
    space = Space(i.space)
    if space in (Space.A, Space.B):
        for rows, part, target in _slice_parts(state, i):
            target[part] = data[rows]
        for scales, where, dram in _scale_parts(state, i):
            scales[where] = state.dram[dram]
    elif space == Space.ACC:
        for row, lanes, chunk in _acc_parts(state, i):
            state.acc[row, lanes] = np.ascontiguousarray(data[:, chunk]).view("<u4")
            state.flags[row, lanes] = 0
    else:
        index = space == Space.INDEX
        memory, unit = (state.index.view(np.uint8), 4) if index else (state.program, INSTRUCTION_BYTES)
        start = i.addr * unit
        if start + i.row_bytes > memory.size or i.rows != 1:
            raise IndexError(f"{space.name}: {i.rows} rows, bytes {start}..{start + i.row_bytes - 1} "
                             f"of {memory.size}")
        memory[start:start + i.row_bytes] = data[0]


def _store(state: State, i: Instruction) -> None:
    data = np.zeros((i.rows, i.row_bytes), np.uint8)
    if i.space == Space.ACC:
        first = i.src_byte
        if first:
            rows = state.acc[_acc_rows(state, i, 0)].view(np.uint8)
            data[:] = rows[:, first:first + i.row_bytes]
        else:
            for row, lanes, chunk in _acc_parts(state, i):
                data[:, chunk] = np.ascontiguousarray(state.acc[row, lanes]).view(np.uint8)
    else:
        for rows, part, source in _slice_parts(state, i):
            data[rows] = source[part]
        for scales, where, dram in _scale_parts(state, i):
            state.dram[dram] = scales[where]
    view, where = _dram_view(state, i)
    if where is None:
        view[:] = data
    else:
        view[where] = data


def _slice_parts(state: State, i: Instruction):
    """(rows of the instruction, (slices, bytes), buffer) for every panel of A or B that it touches."""
    buffer = state.a if i.space == Space.A else state.b
    slices, lanes = buffer.shape[0], state.config.lanes
    done, panel = 0, 0
    while done < i.rows:
        low = i.row_offset if panel == 0 else 0
        count = min(slices - low, i.rows - done)
        start = (i.addr + panel * i.pitch) * lanes + getattr(i, "src_byte", 0)
        if start + i.row_bytes > buffer.shape[1]:
            raise IndexError(f"{Space(i.space).name} slice bytes {start}..{start + i.row_bytes - 1} "
                             f"of {buffer.shape[1]}")
        yield slice(done, done + count), (slice(low, low + count), slice(start, start + i.row_bytes)), buffer
        done, panel = done + count, panel + 1


def _scale_parts(state: State, i: Instruction):
    """(scale memory, (slices, groups), DRAM addresses) for every panel of A or B whose rows have scale bytes."""
    size = scale_row_bytes(i, state.config)
    if not size:
        return
    memory = state.a_scale if i.space == Space.A else state.b_scale
    start = _dram_rows(state, i, i.scale_addr, i.scale_stride)
    _use_dram(state, int(start.min()), int(start.max()) + size)
    dram, groups = start[:, None] + np.arange(size), scale_groups(ScaleLayout(i.scale), size)
    for panel, (rows, (slices, _), _) in enumerate(_slice_parts(state, i)):
        number = np.arange(slices.start, slices.stop)[:, None]
        yield memory, (number, i.addr + panel * i.pitch + groups), dram[rows]


def _acc_rows(state: State, i: Instruction, chunk: int) -> slice:
    row = i.addr + chunk * i.pitch
    if row + i.rows > state.acc.shape[0]:
        raise IndexError(f"ACC rows {row}..{row + i.rows - 1} of {state.acc.shape[0]}")
    return slice(row, row + i.rows)


def _acc_parts(state: State, i: Instruction):
    """(ACC rows, lanes, bytes of the DRAM row) for every chunk of 4*cols bytes."""
    chunk_bytes = 4 * state.config.cols
    for chunk, start in enumerate(range(0, i.row_bytes, chunk_bytes)):
        size = min(chunk_bytes, i.row_bytes - start)
        yield _acc_rows(state, i, chunk), slice(0, size // 4), slice(start, start + size)
