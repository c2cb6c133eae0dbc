"""Block formats and their scales: which there are, what scale a block gets, and how scales are stored.

The tile stores power-of-two and FP32 scales relative to the *anchor* of their row, the power of two of the row's
largest block scale (docs/decisions/0008-anchors.md). Conversion from and to standard E8M0 bytes is lossless.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.formats import FP32_NAN, FormatSpec
from ...rtl.spec.isa import Scale, ScaleRule
from ...rtl.spec.tensor_formats import TensorFormat
from .element_codes import decode

__all__ = [
    "anchor_exponent",
    "block_amax",
    "e8m0_from_deltas",
    "e8m0_to_deltas",
    "fp32_bytes",
    "fp32_to_relative",
    "power_of_two",
    "scale_exponent",
    "scale_values",
]

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

MIN_FP32_SCALE = np.float32(2.0**-126)
"""Smallest FP32 scale: below it float32 is subnormal and x / scale loses bits. Also that of a block of zeros."""

MIN_E8M0_EXPONENT = -127
"""Exponent of the smallest MX scale, and of a block of zeros."""

E8M0_NAN = 0xFF
"""Scale byte of a block that is NaN: standard E8M0 and delta alike."""

NAN32 = np.array(FP32_NAN, np.uint32).view(np.float32)[()]
"""FP32 scale of a block that is NaN."""


def block_amax(x: F32) -> U32:
    """Largest |x| over the last axis, as FP32 bits; above 0x7F7FFFFF if the block holds an infinity or a NaN."""
    bits = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
    size = bits.shape[-1]
    while size > 1 and size % 2 == 0:
        size //= 2
        bits = np.maximum(bits[..., :size], bits[..., size:])
    return bits.max(axis=-1)


def scale_exponent(amax: U32, element: FormatSpec, rule: ScaleRule) -> NDArray[np.int32]:
    """Exponent of the power-of-two block scale, -127..126; of a NaN or an infinity a number without meaning.

    FLOOR: floor(log2(amax)) - emax. RCEIL: ceil(log2(amax / max)). EVEN: FLOOR of amax rounded to the element's
    mantissa. All three are the exponent field plus a comparison of the mantissa field.
    """
    exponent = (amax >> np.uint32(23)).astype(np.int32) - (127 + element.emax)
    mantissa = amax & np.uint32(0x7FFFFF)
    if rule == ScaleRule.RCEIL:
        exponent += mantissa > _max_mantissa(element)
    elif rule == ScaleRule.EVEN:
        exponent += mantissa >= (1 << 23) - (1 << 22 - element.mantissa_bits)
    return np.maximum(exponent, MIN_E8M0_EXPONENT)


def _max_mantissa(element: FormatSpec) -> int:
    """FP32 mantissa field of the largest finite value."""
    return int(np.float32(element.max_finite).view(np.uint32)) & 0x7FFFFF


def anchor_exponent(amax: U32, fmt: TensorFormat, rule: ScaleRule) -> NDArray[np.int32]:
    """Exponent of the scale that a block of this amax would get, rounded down to a power of two for FP32 scales."""
    if fmt.scale != Scale.FP32:
        return scale_exponent(amax, fmt.element, rule)
    exponent = (amax >> np.uint32(23)).astype(np.int32) - (127 + fmt.element.emax)
    exponent -= (amax & np.uint32(0x7FFFFF)) < _max_mantissa(fmt.element)
    return np.maximum(exponent, -126)


def scale_values(scales: U8, fmt: TensorFormat) -> F32 | F64:
    """Numbers that stored scale bytes (..., blocks * scale_bytes) mean, relative to anchors: (..., blocks).

    float32, but float64 for E8M0, of which the smallest, 2**-254, is below float32.
    """
    if fmt.scale == Scale.E4M3:
        return np.abs(decode(scales, "e4m3"))
    if fmt.scale == Scale.E8M0:
        values = np.ldexp(np.float64(1), -scales.astype(np.int32))
        return np.where(scales == E8M0_NAN, np.nan, values).astype(np.float64)
    return np.ascontiguousarray(scales).view("<f4")


def e8m0_to_deltas(e8m0: U8) -> tuple[F32, U8]:
    """Standard E8M0 bytes (rows, blocks) to (anchors (rows,) float32, deltas (rows, blocks)); lossless.

    The anchor of a row is its largest scale that is not NaN, 2**-127 if there is none.
    """
    if e8m0.dtype != np.uint8 or e8m0.ndim != 2:
        raise ValueError(f"e8m0: expected (rows, blocks) uint8, got {e8m0.dtype} of shape {e8m0.shape}")
    nan = e8m0 == E8M0_NAN
    largest = np.where(nan, 0, e8m0).max(axis=1, initial=0)
    deltas = np.where(nan, E8M0_NAN, largest[:, None] - np.minimum(e8m0, largest[:, None]))
    return power_of_two(largest.astype(np.int32) - 127), deltas.astype(np.uint8)


def e8m0_from_deltas(anchors: F32, deltas: U8) -> U8:
    """Inverse of `e8m0_to_deltas`. Raises ValueError unless anchors are powers of two and scales at least 2**-127."""
    mantissa, exponent = np.frexp(anchors)
    if (mantissa != 0.5).any():
        raise ValueError("anchors: expected powers of two")
    nan = deltas == E8M0_NAN
    codes = exponent.astype(np.int32)[:, None] + 126 - deltas
    if (codes[~nan] < 0).any():
        raise ValueError("deltas: a scale would be below 2**-127")
    return np.where(nan, E8M0_NAN, codes).astype(np.uint8)


def fp32_to_relative(scales: F32) -> tuple[F32, U8]:
    """FP32 block scales (rows, blocks), zero or positive, to (anchors (rows,), scale bytes (rows, 4 * blocks)).

    The anchor is the largest scale that is not NaN, rounded down to a power of two. Exact, but for scales more than
    2**126 below it. Raises ValueError for negative scales.
    """
    if scales.dtype != np.float32 or scales.ndim != 2:
        raise ValueError(f"scales: expected (rows, blocks) float32, got {scales.dtype} of shape {scales.shape}")
    if (scales < 0).any():
        raise ValueError(f"scales: expected no negative block scale, got {scales.min()}")
    usable = np.where(np.isfinite(scales), scales, 0).max(axis=1, initial=0)
    exponent = np.frexp(np.maximum(usable, MIN_FP32_SCALE))[1].astype(np.int32) - 1
    anchors = power_of_two(exponent)
    return anchors, fp32_bytes(np.where(np.isfinite(scales), scales / anchors[:, None], NAN32))


def power_of_two(exponent: NDArray[np.int32]) -> F32:
    """2**exponent as float32, exponents -149..127."""
    return np.ldexp(np.float32(1), exponent).astype(np.float32)


def fp32_bytes(values: F32) -> U8:
    """Little-endian bytes of float32 values: (..., n) to (..., 4n)."""
    return np.ascontiguousarray(values.astype("<f4")).view(np.uint8)
