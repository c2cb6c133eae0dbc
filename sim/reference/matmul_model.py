"""MATMUL on the memories of the reference: operands, accumulators, drain. The twin of the matrix unit."""

import enum

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import Instruction
from ..numerics.accumulators import drain_fp32, merged, planes_of
from ..numerics.arithmetic import FLAG_INEXACT, FLAG_NAN, FLAG_NINF, FLAG_PINF, fp32_max, fp32_row_max
from .matmul_terms import TermFormat, matmul_terms

_MINUS_INFINITY = np.float32(-np.inf)


class Status(enum.IntFlag):
    """What drained FP32 results of valid rows have met since the start: the tile's ``status_*`` outputs.

    Masked values do not count; columns without data do, with whatever their slices hold.
    """

    INEXACT = 1
    """A block's term fell below the grid and was rounded."""
    OVERFLOW = 2
    """A finite accumulator was rounded to infinity."""
    NAN = 4
    INF = 8
    """An infinity among the operands."""


def run_matmul(i: Instruction, config: TileConfig, acc: np.ndarray, flags: np.ndarray, a: np.ndarray, b: np.ndarray,
               a_scale: np.ndarray, b_scale: np.ndarray) -> Status:
    """Execute a MATMUL on memories laid out as in `reference.State`; returns the status bits it sets.

    Raises IndexError for an address outside its memory.
    """
    total, new_flags = _product(i, config, a, b, a_scale, b_scale)
    target = i.acc_addr + np.arange(i.m_rows)[:, None] + np.arange(i.n_tiles) * i.acc_pitch
    planes = config.acc_planes if i.raw or i.merge else 1
    if int(target.max()) + (planes - 1) * config.acc_addr(config.acc_plane_banks) >= acc.shape[0]:
        raise IndexError(f"ACC rows up to {int(target.max())} of {acc.shape[0]}")
    if i.merge:
        total, new_flags = merged(total, new_flags, acc, flags, target, config)
    if i.raw:
        for plane, (words, upper) in enumerate(planes_of(total, new_flags, config)):
            row = target + plane * config.acc_addr(config.acc_plane_banks)
            acc[row], flags[row] = words, upper
        return Status(0)
    values = drain_fp32(total, new_flags, TermFormat.of(i).lsb)
    masked = _masked(i, config) if i.mask or i.mask_low else None
    status = _status(values, new_flags, masked)
    if masked is not None:
        values = np.where(masked, _MINUS_INFINITY, values)
    acc[target], flags[target] = values.view(np.uint32), 0
    if i.rowmax:
        _row_maximum(i, config, acc, flags, values)
    return status


def _masked(i: Instruction, config: TileConfig) -> np.ndarray:
    """(m_rows, n_tiles, cols) bool: above the upper limit or below the lower one."""
    column = np.arange(i.n_tiles * config.cols).reshape(i.n_tiles, config.cols)
    row = np.arange(i.m_rows)[:, None, None]
    masked = np.zeros((i.m_rows, i.n_tiles, config.cols), bool)
    if i.mask:
        masked |= column > i.mask_base + i.mask_step * row
    if i.mask_low:
        masked |= column < i.mask_low_base + i.mask_low_step * row
    return masked


def _product(i: Instruction, config: TileConfig, a: np.ndarray, b: np.ndarray, a_scale: np.ndarray,
             b_scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(m_rows, n_tiles, cols) accumulators and flags."""
    fmt, lanes = TermFormat.of(i), config.lanes
    panels, groups = -(-i.m_rows // config.rows), fmt.b_groups(i.k_steps)

    def operands(a: np.ndarray, b: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
        return (_operand(a, i.a_addr, i.a_pitch, panels, i.k_steps, lanes)[:i.m_rows],
                _operand(b, i.b_addr, i.b_pitch, i.n_tiles, groups, lanes))

    scales = operands(a_scale, b_scale, 1) if fmt.scale else (a_scale[:0], b_scale[:0])
    total, flags = matmul_terms(*operands(a, b, lanes), *scales, fmt, lanes=lanes, acc_bits=config.acc_bits)
    shape = (i.m_rows, i.n_tiles, config.cols)
    return total.reshape(shape), flags.reshape(shape)


def _operand(buffer: np.ndarray, addr: int, pitch: int, panels: int, groups: int, lanes: int) -> np.ndarray:
    """(panels * slices, groups * lanes) bytes: panel after panel, slice after slice."""
    size, last = groups * lanes, (addr + (panels - 1) * pitch + groups) * lanes
    if last > buffer.shape[1]:
        raise IndexError(f"operand slice bytes up to {last - 1} of {buffer.shape[1]}")
    starts = [(addr + p * pitch) * lanes for p in range(panels)]
    return buffer[:, addr * lanes:last] if panels == 1 else np.concatenate([buffer[:, s:s + size] for s in starts])


def _status(values: np.ndarray, flags: np.ndarray, masked: np.ndarray | None) -> Status:
    infinite = np.isinf(values)
    if not infinite.any() and not flags.any():
        return Status(0)
    counted = True if masked is None else ~masked
    special = flags & np.uint8(FLAG_NAN | FLAG_PINF | FLAG_NINF) != 0
    found = ((Status.INEXACT, flags & np.uint8(FLAG_INEXACT) != 0), (Status.OVERFLOW, infinite & ~special),
             (Status.NAN, np.isnan(values)), (Status.INF, infinite & special))
    status = Status(0)
    for bit, where in found:
        status |= bit if (where & counted).any() else Status(0)
    return status


def _row_maximum(i: Instruction, config: TileConfig, acc: np.ndarray, flags: np.ndarray, values: np.ndarray) -> None:
    """Running maximum of each row, kept one per lane from ``rowmax_addr`` on."""
    row = np.arange(i.m_rows)
    where = i.rowmax_addr + row // config.cols, row % config.cols
    result = fp32_row_max(values.reshape(i.m_rows, -1))
    if not i.rowmax_init:
        result = fp32_max(result, acc[where].view(np.float32))
    acc[where], flags[where] = result.view(np.uint32), 0
