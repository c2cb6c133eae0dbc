"""The arithmetic of the tile in numpy, vectorised, equal to the hardware bit for bit.

Each function is the twin of one component in `rtl/arith/` and takes arrays of any (broadcastable) shape:

==========================  =========================  =====================================================
function                    hardware twin              meaning
==========================  =========================  =====================================================
`e4m3_products`             `DotProduct`, one lane     exact products, units of 2**-18
`exact_matmul_e4m3`         array of `DotProduct`      exact accumulators, wrapping at 64 bits
`round_acc_to_fp32`         `RoundToFp32`              one rounding of an integer to FP32
`fp32_mul`, `mul_unpacked`  `Fp32Mul`                  one rounding of the exact product
`fp32_add`                  `Fp32Add`                  one rounding of the exact sum
`fp32_max`                  `Fp32Max`                  maximum, NaN wins
`special_function`          `SpecialFunction`          exp2, reciprocal, ...: same tables, same integers
`quantize_e4m3`             `QuantizeE4M3`             FP32 to E4M3, saturating
`to_fixed`                  `Fp32ToFixed`              FP32 to 48-bit fixed point on the grid 2**-24
`fixed_to_fp32`             `FixedToFp32`              and back
==========================  =========================  =====================================================

FP32 is IEEE binary32 with round to nearest even and gradual underflow. Every NaN result is 0x7FC00000. Where
numpy's own operation is used, it is because it does exactly one rounding: float32 operations, and conversion
to float32 of a float64 that holds the exact result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...rtl.spec.element_values import decode_e4m3
from ...rtl.spec.formats import E4M3, E4M3_MAX_CODE, E4M3_NAN_CODE, FP32_INF, FP32_NAN, PRODUCT_LSB_EXPONENT
from .special_functions import special_function

__all__ = [
    "FIXED_BITS",
    "FIXED_FRACTION_BITS",
    "FLAG_INEXACT",
    "FLAG_NAN",
    "FLAG_NINF",
    "FLAG_PINF",
    "canonical",
    "e4m3_products",
    "exact_matmul_e4m3",
    "fixed_to_fp32",
    "fp32_add",
    "fp32_bits",
    "fp32_from_bits",
    "fp32_max",
    "fp32_mul",
    "fp32_row_max",
    "mul_unpacked",
    "not_finite",
    "quantize_e4m3",
    "round_acc_to_fp32",
    "special_function",
    "to_fixed",
    "wrap",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FLAG_NAN, FLAG_PINF, FLAG_NINF, FLAG_INEXACT = 1, 2, 4, 8
"""Bits of the sticky accumulator flags, as in `rtl/arith/round_fp32.py`."""

FIXED_BITS = 48
FIXED_FRACTION_BITS = 24
"""The fixed-point grid of row sums: signed 48 bits in units of 2**-24."""

_EXACT_CHUNK = 2**17
"""Terms that a float64 sums exactly: each product is below 2**36, and 2**36 * 2**17 = 2**53."""


# ---- helpers ------------------------------------------

def fp32_bits(values: ArrayLike) -> I64:
    """Bit patterns of FP32 values, as non-negative int64."""
    array = np.asarray(_fp32(values), order="C")
    return array.view(np.uint32).astype(np.int64)


def fp32_from_bits(bits: ArrayLike) -> F32:
    """FP32 values of 32-bit patterns (any integer dtype)."""
    return np.asarray(bits).astype(np.uint32).view(np.float32)


def wrap(values: ArrayLike, bits: int) -> I64:
    """Two's complement wrap of int64 values to `bits` (1 to 64) bits, sign extended."""
    if not 1 <= bits <= 64:
        raise ValueError(f"bits must be in 1..64, not {bits}")
    shift = np.int64(64 - bits)
    return np.asarray(values, np.int64) << shift >> shift


def canonical(values: ArrayLike) -> F32:
    """FP32 values with every NaN replaced by 0x7FC00000; ``values`` itself if it has none."""
    array = _fp32(values)
    nan = np.isnan(array)
    return np.where(nan, _NAN32, array) if nan.any() else array


def _fp32(values: ArrayLike) -> F32:
    array = np.asarray(values)
    if array.dtype != np.float32:
        raise TypeError(f"expected an array of float32, not {array.dtype}")
    return array


_NAN32 = fp32_from_bits(FP32_NAN)[()]


# ---- FP32 ------------------------------------------

def fp32_mul(a: ArrayLike, b: ArrayLike) -> F32:
    """FP32 product, rounded once."""
    with np.errstate(all="ignore"):
        return canonical(_fp32(a) * _fp32(b))


def fp32_add(a: ArrayLike, b: ArrayLike) -> F32:
    """FP32 sum, rounded once; x + (-x) = +0."""
    with np.errstate(all="ignore"):
        return canonical(_fp32(a) + _fp32(b))


def fp32_max(a: ArrayLike, b: ArrayLike) -> F32:
    """Larger of two FP32 values in the total order (-0 < +0); NaN if either is NaN."""
    a, b = _fp32(a), _fp32(b)
    with np.errstate(all="ignore"):
        larger = np.maximum(a, b)
    if (larger == 0).any():  # of equal operands only zeros differ
        both = np.asarray(a, order="C").view(np.uint32) & np.asarray(b, order="C").view(np.uint32)
        larger = np.where(a == b, both.view(np.float32), larger)
    return canonical(larger)


def fp32_row_max(values: F32) -> F32:
    """`fp32_max` of all elements of each row of (rows, n) float32, n at least 1: (rows,) float32."""
    with np.errstate(all="ignore"):
        largest = values.max(axis=1)
    zero = largest == 0
    if zero.any():
        rows = values[zero]
        positive = ((rows == 0) & ~np.signbit(rows)).any(axis=1)
        largest[zero] = np.where(positive, np.float32(0.0), np.float32(-0.0))
    return canonical(largest)


def mul_unpacked(value: F64, factor: ArrayLike) -> F32:
    """Product of a result of `special_function` and an FP32 factor, rounded once to FP32.

    The product of two 24-bit significands is exact in float64 at every exponent that can occur (above
    2**-900).
    """
    with np.errstate(all="ignore"):
        product = np.asarray(value, np.float64) * _fp32(factor).astype(np.float64)
        return canonical(product.astype(np.float32))


# ---- E4M3 ------------------------------------------

def _integer_table() -> tuple[I64, NDArray[np.bool_]]:
    """Of every code: the signed integer in units of 2**-9 (0 for NaN), and whether it is NaN."""
    sign, significand, shift, nan = decode_e4m3(np.arange(256, dtype=np.uint8))
    magnitude = np.where(nan, 0, significand.astype(np.int64) << shift)
    return np.where(sign, -magnitude, magnitude), nan


_INTEGERS, _IS_NAN = _integer_table()
_FLOAT_INTEGERS = _INTEGERS.astype(np.float64)


def _codes(codes: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(codes)
    if array.dtype != np.uint8:
        raise TypeError(f"E4M3 codes must be an array of uint8, not {array.dtype}")
    return array


def e4m3_products(a_codes: ArrayLike, b_codes: ArrayLike) -> tuple[I64, NDArray[np.bool_]]:
    """Exact products in units of 2**-18 (0 where a code is NaN) and the mask of NaN products."""
    a, b = _codes(a_codes), _codes(b_codes)
    return _INTEGERS[a] * _INTEGERS[b], np.logical_or(_IS_NAN[a], _IS_NAN[b])


def exact_matmul_e4m3(a_codes: ArrayLike, b_codes: ArrayLike) -> tuple[I64, NDArray[np.bool_]]:
    """Exact accumulators of ``A @ B.T`` for codes A (M, K) and B (N, K).

    Returns (M, N) int64 in units of 2**-18, wrapping at 64 bits, and the (M, N) sticky NaN flags. A NaN
    operand contributes 0 to the sum. Raises ValueError for shapes that do not match.
    """
    a, b = _codes(a_codes), _codes(b_codes)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected codes of shapes (m, k) and (n, k), got {a.shape} and {b.shape}")
    total = np.zeros((a.shape[0], b.shape[0]), np.int64)
    for start in range(0, a.shape[1], _EXACT_CHUNK):
        part = slice(start, start + _EXACT_CHUNK)
        total += (_FLOAT_INTEGERS[a[:, part]] @ _FLOAT_INTEGERS[b[:, part]].T).astype(np.int64)
    return total, np.logical_or.outer(_IS_NAN[a].any(axis=1), _IS_NAN[b].any(axis=1))


def quantize_e4m3(values: ArrayLike) -> NDArray[np.uint8]:
    """FP32 to E4M3 codes: nearest even, saturating to +-448 (infinities too), sign of zero kept, NaN ->
    0x7F."""
    values = np.asarray(_fp32(values), order="C")
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    # From 2**-6 on: three fraction bits are kept, and a carry runs into the exponent as it should.
    keep_even = np.uint32(0x7FFFF) + (magnitude >> np.uint32(20) & np.uint32(1))
    normal = (magnitude + keep_even >> np.uint32(20)) - np.uint32((127 - E4M3.bias) << 3)
    # Below: an FP32 addition of 2**14 rounds to multiples of 2**-9, which then are the low bits.
    with np.errstate(all="ignore"):
        subnormal = (magnitude.view(np.float32) + np.float32(2**14)).view(np.uint32) & np.uint32(0xF)
    code = np.where(magnitude < (127 - 6) << 23, subnormal, np.minimum(normal, np.uint32(E4M3_MAX_CODE)))
    code |= bits >> np.uint32(24) & np.uint32(0x80)
    return np.where(magnitude > FP32_INF, E4M3_NAN_CODE, code).astype(np.uint8)


# ---- integers to FP32 and back ------------------------------------------

def _shift_right_rne(magnitude: NDArray[np.uint64], shift: I64) -> NDArray[np.uint64]:
    """`magnitude` / 2**shift, rounded to nearest even; any shift >= 0."""
    shift = np.broadcast_to(np.asarray(shift, np.int64), magnitude.shape)
    amount = np.clip(shift, 0, 63).astype(np.uint64)
    one = np.uint64(1)
    quotient = magnitude >> amount
    remainder = magnitude & ((one << amount) - one)
    half = np.where(amount > 0, one << (np.maximum(amount, one) - one), np.uint64(0))
    up = (amount > 0) & ((remainder > half) | ((remainder == half) & (quotient & one != 0)))
    quotient = quotient + up.astype(np.uint64)
    # At a shift of 64 the half is 2**63; above that, everything rounds to zero.
    beyond = (shift == 64) & (magnitude > np.uint64(1 << 63))
    return np.where(shift < 64, quotient, beyond.astype(np.uint64))


def _bit_length(magnitude: NDArray[np.uint64]) -> I64:
    high = (magnitude >> np.uint64(32)).astype(np.float64)
    low = (magnitude & np.uint64(0xFFFFFFFF)).astype(np.float64)
    return np.where(high > 0, np.frexp(high)[1] + 32, np.frexp(low)[1]).astype(np.int64)


def round_acc_to_fp32(acc: ArrayLike, lsb: int = PRODUCT_LSB_EXPONENT, flags: ArrayLike | None = None) -> F32:
    """``acc * 2**lsb`` rounded once to FP32, for int64 accumulators of any shape.

    Zero is +0. `flags` (integers or booleans, broadcastable; bits FLAG_NAN, FLAG_PINF, FLAG_NINF,
    FLAG_INEXACT) override the value: nan, or both infinities, give NaN; one infinity gives that infinity; a
    boolean array is taken as FLAG_NAN.
    """
    if not -512 <= lsb <= 511:
        raise ValueError(f"lsb must be a 10-bit signed exponent in -512..511, not {lsb}")
    acc = np.asarray(acc, np.int64)
    with np.errstate(all="ignore"):
        if lsb >= -126:  # no subnormal results: the conversion is the one rounding, the scaling is exact
            result = np.ldexp(acc.astype(np.float32), lsb)
        else:
            magnitude = np.asarray(np.abs(acc)).astype(np.uint64)  # the most negative integer wraps to 2**63
            drop = np.maximum(np.maximum(_bit_length(magnitude) - 24, -149 - lsb), 0)
            scaled = np.ldexp(_shift_right_rne(magnitude, drop).astype(np.float64), drop + lsb)
            result = np.where(acc < 0, -scaled, scaled).astype(np.float32)
    if flags is None:
        return result
    bits = np.asarray(flags).astype(np.uint8)
    result = np.where(bits & FLAG_PINF != 0, np.float32(np.inf), result)
    result = np.where(bits & FLAG_NINF != 0, np.float32(-np.inf), result)
    both = FLAG_PINF | FLAG_NINF
    return np.where((bits & FLAG_NAN != 0) | (bits & both == both), _NAN32, result)


def to_fixed(values: ArrayLike) -> I64:
    """FP32 to signed 48-bit fixed point in units of 2**-24, nearest even, wrapping at +-2**23.

    NaN and infinities give 0; `not_finite` is the flag that the hardware raises for them.
    """
    values = _fp32(values)
    with np.errstate(all="ignore"):
        scaled = values.astype(np.float64) * 2.0**FIXED_FRACTION_BITS
        if np.abs(scaled).max(initial=0.0) < 2.0 ** (FIXED_BITS - 2):  # not so for a NaN
            return np.rint(scaled).astype(np.int64)
        scaled = np.where(not_finite(values), 0.0, scaled)
        if (np.abs(scaled) >= 2.0**62).any():
            scaled = np.fmod(scaled, 2.0**FIXED_BITS)  # exact: these are multiples of 2**39
        return wrap(np.rint(scaled).astype(np.int64), FIXED_BITS)


def not_finite(values: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the NaNs and infinities, which `to_fixed` cannot represent."""
    return ~np.isfinite(_fp32(values))


def fixed_to_fp32(fixed: ArrayLike, nan: ArrayLike | None = None) -> F32:
    """Fixed point (units of 2**-24, wrapped to 48 bits first) to FP32, rounded once; NaN where `nan` is
    set."""
    return round_acc_to_fp32(wrap(fixed, FIXED_BITS), -FIXED_FRACTION_BITS, nan)
