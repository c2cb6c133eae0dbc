"""The codes and scale bytes that a VECTOR instruction writes to operand buffer A."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import Instruction, Quant, Reduce, ScaleRule
from ...rtl.spec.tensor_formats import QUANT_FORMATS
from ..numerics import arithmetic
from ..numerics.arithmetic import F32
from ..numerics.block_codes import quantize_blocks
from ..numerics.block_scales import block_amax
from ..numerics.element_codes import cast, decode, pack

U8 = NDArray[np.uint8]


def write_casts(instruction: Instruction, config: TileConfig, out: F32, a: U8) -> F32:
    """Write (rows, tiles, cols) float32 as codes without block scales. Returns their values if they are reduced."""
    element = QUANT_FORMATS[Quant(instruction.quant)].element.name
    codes = cast(out, element)
    _write_rows(instruction, config, codes.reshape(len(out), -1), a)
    return out if instruction.reduce == Reduce.NONE else arithmetic.canonical(decode(codes, element))


def write_blocks(instruction: Instruction, config: TileConfig, out: F32, z: F32, a: U8, a_scale: U8) -> None:
    """Write (rows, tiles, cols) float32 as codes with block scales along the rows.

    z: (rows or 1, 1, 1) float32, anchor or tensor scale of each row. a: (rows, bytes), a_scale: (rows, groups).
    Raises ValueError if a row is not a whole number of blocks, or z has more than one value per row.
    """
    fmt, rows = QUANT_FORMATS[Quant(instruction.quant)], len(out)
    values = np.ascontiguousarray(out.reshape(rows, -1))
    if values.shape[1] % fmt.block or z.shape[1:] != (1, 1):
        raise ValueError(f"quant {fmt.quant.name}: expected rows of blocks of {fmt.block} elements and one z per row, "
                         f"got {values.shape[1]} elements and z of shape {z.shape}")
    blocks = values.reshape(-1, fmt.block)
    per_block = np.broadcast_to(z.reshape(-1, 1), (rows, len(blocks) // rows)).reshape(-1)
    codes, scales = quantize_blocks(blocks, block_amax(blocks), np.ascontiguousarray(per_block), fmt,
                                    ScaleRule(instruction.scale_rule))
    _write_rows(instruction, config, pack(codes.reshape(rows, -1), fmt.element.name), a)
    scales = scales.reshape(rows, -1)
    group = np.arange(scales.shape[1])
    group = group // fmt.scale_bytes * fmt.block_groups + group % fmt.scale_bytes
    row = np.arange(rows)[:, None]
    where = _first_group(instruction, config, row) + group
    a_scale[row % config.rows, where & ((1 << config.a_addr_bits) - 1)] = scales


def _first_group(instruction: Instruction, config: TileConfig, row: NDArray | int) -> NDArray | int:
    return instruction.dst_addr + row // config.rows * instruction.dst_pitch


def _write_rows(instruction: Instruction, config: TileConfig, row_bytes: U8, a: U8) -> None:
    """Row i of (rows, bytes) to slice i % rows, panel i // rows."""
    size = row_bytes.shape[1]
    for first in range(0, len(row_bytes), config.rows):
        panel = row_bytes[first : first + config.rows]
        start = int(_first_group(instruction, config, first)) * config.lanes % a.shape[1]
        if start + size <= a.shape[1]:
            a[: len(panel), start : start + size] = panel
        else:
            a[: len(panel), (start + np.arange(size)) % a.shape[1]] = panel
