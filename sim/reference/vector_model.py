"""What one VECTOR instruction does to the memories, in numpy, equal to `rtl/vector/` bit for bit.

Per element (row i, column tile j, lane c), each line rounded once to FP32, every NaN 0x7FC00000::

    t   = x * y                                            (x_swap: x from lane c XOR 2**(x_swap - 1))
    u   = t | t + z | t - z | z - t | max(t, z)            (combine)
    out = func(u) * w                                      (func(u) is not rounded; for SILU w is u)

With destination A ``out`` is quantized (`vector_codes`), by blocks or without block scales. The *written value* is
``out``, or the value of its code without a block scale. A row reduction is over the written values of all tiles and
lanes: MAX in the total order (-0 below +0, NaN wins), ABSMAX that of magnitudes, or SUM on a 48-bit grid of 2**-24
that wraps and does not depend on the order (an infinity or NaN among the elements gives NaN), then rounded once.

All operands are read before anything is written. The hardware reads row i while it writes rows before it, so
the two agree for programs in which an instruction's results and operands do not overlap, except element by
element in place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.config import TileConfig
from ...rtl.spec.formats import FP32_INF
from ...rtl.spec.function_codes import Function
from ...rtl.spec.isa import Combine, Dest, Func, Instruction, Quant, Reduce, ScaleRule, Source
from ...rtl.spec.tensor_formats import QUANT_FORMATS
from ..numerics import arithmetic
from ..numerics.arithmetic import F32, F64
from ..numerics.block_scales import anchor_exponent, block_amax
from . import vector_codes

_NEGATE = np.uint32(1 << 31)


def run_vector(
    instruction: Instruction,
    config: TileConfig,
    acc: NDArray[np.uint32],
    a: NDArray[np.uint8],
    flags: NDArray[np.uint8] | None = None,
    a_scale: NDArray[np.uint8] | None = None,
) -> None:
    """Execute a VECTOR instruction on the memories, in place.

    acc: (1 << acc_addr_bits, cols) uint32, data bits of the accumulator words; row = address.
    a: (rows, (1 << a_addr_bits) * lanes) uint8, slices of operand buffer A; byte = group address * lanes.
    flags: like acc, uint8, upper bits of the accumulator words; cleared wherever a word is written. Optional.
    a_scale: (rows, 1 << a_addr_bits) uint8, the scale byte of each group of A; needed for block quantizers.

    Addresses wrap at the width of their memory. Raises ValueError for another instruction, wrong
    arrays, or a swap of more lanes than there are.
    """
    if instruction.spec.name != "VECTOR":
        raise ValueError(f"expected a VECTOR instruction, got {instruction.spec.name}")
    _check("acc", acc, (1 << config.acc_addr_bits, config.cols), np.uint32)
    _check("a", a, (config.rows, (1 << config.a_addr_bits) * config.lanes), np.uint8)
    if flags is not None:
        _check("flags", flags, acc.shape, np.uint8)
    out = compute(instruction, config, acc)
    written = out
    dest = Dest(instruction.dest)
    if dest is Dest.A and QUANT_FORMATS[Quant(instruction.quant)].block:
        if a_scale is None:
            raise ValueError(f"a_scale is needed for quant {Quant(instruction.quant).name}")
        _check("a_scale", a_scale, (config.rows, 1 << config.a_addr_bits), np.uint8)
        z = _operand(instruction, config, acc, instruction.z_kind, instruction.z)
        vector_codes.write_blocks(instruction, config, out, z, a, a_scale)
    elif dest is Dest.A:
        written = vector_codes.write_casts(instruction, config, out, a)
    elif dest is Dest.ACC:
        rows = _acc_rows(instruction, config, instruction.dst_addr, instruction.dst_pitch)
        acc[rows] = out.view(np.uint32)
        if flags is not None:
            flags[rows] = 0
    if instruction.reduce != Reduce.NONE:
        row = np.arange(instruction.rows)
        where = _wrap_acc(instruction.reduce_addr + row // config.cols, config), row % config.cols
        acc[where] = reduce_rows(Reduce(instruction.reduce), written).view(np.uint32)
        if flags is not None:
            flags[where] = 0


def compute(instruction: Instruction, config: TileConfig, acc: NDArray[np.uint32]) -> F32:
    """``out`` of every element, before quantization: (rows, tiles, cols) float32."""
    x = acc[_acc_rows(instruction, config, instruction.x_addr, instruction.pitch)].view(np.float32)
    if instruction.x_swap:
        x = x[..., _swapped_lanes(instruction.x_swap, config)]
    t = arithmetic.fp32_mul(x, _operand(instruction, config, acc, instruction.y_kind, instruction.y))
    u = t
    combine = Combine(instruction.combine)
    if combine is not Combine.NONE:
        z = _operand(instruction, config, acc, instruction.z_kind, instruction.z)
        u = _combine(combine, t, z)
    if instruction.func == Func.SILU:
        return arithmetic.mul_unpacked(arithmetic.special_function(Function.SIGMOID, u), u)
    w = _operand(instruction, config, acc, instruction.w_kind, instruction.w)
    if instruction.func == Func.ANCHOR:
        return arithmetic.mul_unpacked(_anchors(u, Quant(instruction.quant), ScaleRule(instruction.scale_rule)), w)
    return arithmetic.mul_unpacked(arithmetic.special_function(Function[Func(instruction.func).name], u), w)


def _anchors(u: F32, quant: Quant, rule: ScaleRule) -> F64:
    """The anchor for each largest magnitude; NaN where that is infinite or NaN."""
    magnitude = np.ascontiguousarray(u).view(np.uint32) & np.uint32(0x7FFFFFFF)
    exponent = anchor_exponent(np.minimum(magnitude, np.uint32(FP32_INF)), QUANT_FORMATS[quant], rule)
    return np.where(magnitude >= FP32_INF, np.nan, np.ldexp(1.0, exponent))


def reduce_rows(kind: Reduce, values: F32) -> F32:
    """Maximum, largest magnitude or sum of each row of (rows, ...) float32: (rows,) float32."""
    flat = values.reshape(values.shape[0], -1)
    if kind is Reduce.ABSMAX:
        return arithmetic.canonical(block_amax(np.ascontiguousarray(flat)).view(np.float32))
    if kind is Reduce.SUM:
        total = arithmetic.to_fixed(flat).sum(axis=1, dtype=np.int64)
        return arithmetic.fixed_to_fp32(total, arithmetic.not_finite(flat).any(axis=1))
    return arithmetic.fp32_row_max(flat)


def _check(name: str, array: NDArray, shape: tuple[int, ...], dtype: type) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {np.dtype(dtype).name} of shape {shape}, got {array.dtype} of shape "
            f"{array.shape}"
        )


def _wrap_acc(addresses: NDArray, config: TileConfig) -> NDArray:
    return addresses & ((1 << config.acc_addr_bits) - 1)


def _acc_rows(instruction: Instruction, config: TileConfig, addr: int, pitch: int) -> NDArray:
    """ACC addresses of row i, tile j: (rows, tiles)."""
    rows, tiles = np.arange(addr, addr + instruction.rows), np.arange(instruction.tiles) * pitch
    return _wrap_acc(rows[:, None] + tiles, config)


def _swapped_lanes(x_swap: int, config: TileConfig) -> NDArray:
    """Lane of the memory that each lane of x reads."""
    if x_swap >= config.cols.bit_length():
        raise ValueError(f"expected x_swap up to {config.cols.bit_length() - 1}, got {x_swap}")
    return np.arange(config.cols) ^ ((1 << x_swap) >> 1)


def _operand(
    instruction: Instruction, config: TileConfig, acc: NDArray[np.uint32], kind: int, value: int
) -> F32:
    """Operand y, z or w, broadcastable to (rows, tiles, cols)."""
    if kind == Source.IMM:
        return np.full((1, 1, 1), value, np.uint32).view(np.float32)
    if kind == Source.ACC:
        words = acc[_acc_rows(instruction, config, value, instruction.pitch)]
    elif kind == Source.ROW:
        row = np.arange(instruction.rows)
        words = acc[_wrap_acc(value + row // config.cols, config), row % config.cols][:, None, None]
    else:
        tile = np.arange(instruction.tiles)
        words = acc[_wrap_acc(value + tile * instruction.pitch, config)][None]
    return words.view(np.float32)


def _combine(combine: Combine, t: F32, z: F32) -> F32:
    if combine is Combine.MAX:
        return arithmetic.fp32_max(t, z)
    if combine is Combine.SUB:
        z = (z.view(np.uint32) ^ _NEGATE).view(np.float32)
    elif combine is Combine.RSUB:
        t = (t.view(np.uint32) ^ _NEGATE).view(np.float32)
    return arithmetic.fp32_add(t, z)
