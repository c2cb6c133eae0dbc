"""The special functions of the vector unit in numpy: twin of `rtl/arith/functions.py`, integer by integer.

The same tables (`function_tables.py`), the same fixed-point widths and the same truncations as the hardware, so
that the results are equal bit for bit. Use it through `arithmetic.special_function`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...rtl.spec import function_tables as tables
from ...rtl.spec.function_codes import Function

_DOUBLE_BIAS, _DOUBLE_MANTISSA_BITS = 1023, 52

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def special_function(func: Function | int, u: ArrayLike) -> F64:
    """Unpacked result of a special function of FP32 values, as float64 with a 24-bit significand.

    It is not rounded to FP32: its exponent may lie far outside the FP32 range, and `mul_unpacked` rounds
    once. The float64 equals the hardware's unpacked operand exactly. Accuracy and special values:
    `rtl/arith/functions.py`.
    """
    func = Function(func)
    u = np.asarray(u, order="C")
    if u.dtype != np.float32:
        raise TypeError(f"expected an array of float32, not {u.dtype}")
    with np.errstate(all="ignore"):
        if func is Function.NONE:
            return u.astype(np.float64)
        return _direct(func, u) if func in (Function.RECIPROCAL, Function.RSQRT) else _exponential(func, u)


def _exponential(func: Function, u: F32) -> F64:
    """EXP2 and SIGMOID: the logarithm in fixed point, then its antilogarithm."""
    if func is Function.SIGMOID:
        y = _sigmoid_exponent(_fixed_magnitude(u, tables.log2e()), np.signbit(u))
        ceiling = 1.0
    else:
        y = (u * np.float64(1 << tables.Y_FRACTION_BITS)).astype(np.int64)  # its magnitude is truncated
        ceiling = np.inf
    index = (y >> (tables.Y_FRACTION_BITS - 7)) & 127
    position = y & (2**tables.MAIN_X_BITS - 1)
    value = _interpolate(_main_columns(), index, position, tables.MAIN_X_BITS)
    result = _assemble(value, y >> tables.Y_FRACTION_BITS)
    special = ~(np.abs(u) < np.float32(512))
    if special.any():
        result = np.where(special, np.where(np.signbit(u), 0.0, ceiling), result)
        result = np.where(np.isnan(u), np.nan, result)
    return result


def _fixed_magnitude(u: F32, factor: int) -> I64:
    """|u| * factor / 2**32 in units of 2**-24, truncated; meaningless from |u| = 512 on."""
    bits = u.view(np.uint32).astype(np.int64)
    exponent = (bits >> 23 & 0xFF) - 127
    significand = (bits & 0x7FFFFF) | 0x800000
    product = (significand * factor) >> 23
    return product >> np.clip(8 - exponent, 0, 63)


def _sigmoid_exponent(t: I64, negative: NDArray[np.bool_]) -> I64:
    """log2(sigmoid) in units of 2**-24, from |y| in the same units and the sign of y."""
    integer = t >> tables.Y_FRACTION_BITS
    index = np.select([integer < 8, integer < 16, integer < 32],
                      [t >> 20 & 127, 128 + (t >> 21 & 63), 192 + (t >> 23 & 31)], tables.SOFTPLUS_ZERO_ENTRY)
    position = np.select([integer < 8, integer < 16], [t, t >> 1], t >> 3) & (2**tables.SOFTPLUS_X_BITS - 1)
    correction = _interpolate(_softplus_columns(), index, position, tables.SOFTPLUS_X_BITS)
    extra = tables.FRACTION_BITS - tables.Y_FRACTION_BITS
    return ((np.where(negative, -t, 0) << extra) + correction) >> extra


def _direct(func: Function, u: F32) -> F64:
    """RECIPROCAL and RSQRT: a table of the significand itself, in RSQRT of [1, 2) or [2, 4)."""
    mantissa, above = np.frexp(np.abs(u).astype(np.float64))
    fraction = np.ldexp(mantissa, 24).astype(np.int64) & 0x7FFFFF
    finite = np.isfinite(u) & (u != 0)
    fraction, exponent = np.where(finite, fraction, 0), np.where(finite, above.astype(np.int64) - 1, 0)
    if func is Function.RSQRT:
        table, exponent, invalid = 2 + (exponent & 1), exponent >> 1, u < 0
    else:
        table, invalid = 1, False
    index, position = tables.EXPONENT_ENTRIES * table + (fraction >> 16), (fraction & 0xFFFF) << 1
    value = _interpolate(_main_columns(), index, position, tables.MAIN_X_BITS)
    result = np.where(finite, _assemble(value, -1 - exponent), np.where(u == 0, np.inf, 0.0))
    return np.where(np.isnan(u) | invalid, np.nan, np.copysign(result, u.astype(np.float64)))


Columns = tuple[I64, I64, I64]


def _columns(segments: tuple[tables.Segment, ...]) -> Columns:
    table = np.array([(segment.c0, segment.c1, segment.c2) for segment in segments], np.int64)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


@cache
def _main_columns() -> Columns:
    return _columns(tables.main_table())


@cache
def _softplus_columns() -> Columns:
    return _columns(tables.softplus_table())


def _interpolate(columns: Columns, index: I64, x: I64, x_bits: int) -> I64:
    """Twin of `QuadraticInterpolator`: every shift truncates towards minus infinity."""
    c0, c1, c2 = columns
    value = c2.take(index, mode="clip")
    for column in (c1, c0):
        value *= x
        value >>= x_bits
        value += column.take(index, mode="clip")
    return value


def _assemble(value: I64, exponent: I64) -> F64:
    """(value in units of 2**-27, truncated to 2**-23) * 2**exponent; a carry to 2.0 is a larger exponent by
    itself."""
    power = (exponent + (_DOUBLE_BIAS - 23)) << _DOUBLE_MANTISSA_BITS
    return (value >> (tables.FRACTION_BITS - 23)) * power.view(np.float64)
