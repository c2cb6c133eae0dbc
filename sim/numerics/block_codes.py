"""From the values of blocks to their element codes and scale bytes: the kernel that tensors and the VECTOR model share.

`quantizers` documents the formats. Hardware twin: `rtl/vector/block.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.formats import FP32_INF
from ...rtl.spec.isa import Quant, Scale, ScaleRule
from ...rtl.spec.tensor_formats import TensorFormat
from .block_scales import (
    E8M0_NAN,
    F32,
    MIN_E8M0_EXPONENT,
    MIN_FP32_SCALE,
    NAN32,
    U8,
    U32,
    fp32_bytes,
    power_of_two,
    scale_exponent,
)
from .element_codes import cast, cast_into, code_values

_MIN_E4M3_CODE = 1
_E4M3_NAN = 0x7F
_SMALLEST = np.float32(2.0**-149)


def quantize_blocks(x: F32, amax: U32, z: F32, fmt: TensorFormat, rule: ScaleRule) -> tuple[U8, U8]:
    """Codes (n, block), one per byte, and scale bytes (n, scale_bytes) of n blocks.

    x: (n, block) float32, contiguous. amax: (n,) as from `block_amax`. z: (n,) float32, the anchor of the block's row
    (of which the exponent counts for E8M0) or the tensor scale; its sign does not matter. An E8M0 scale above the
    anchor becomes the anchor, and the block saturates. A block whose z is zero, infinite or NaN is as one with a NaN.
    """
    z = np.abs(z)
    bad = (amax >= FP32_INF) | (z == 0) | ~np.isfinite(z)
    amax, z = np.where(bad, np.uint32(0), amax), np.where(bad, np.float32(1), z)
    if fmt.scale == Scale.E4M3:
        codes, scales = _nvfp4(x, amax, z, fmt)
        nan: int | U8 = _E4M3_NAN
    elif fmt.scale == Scale.E8M0:
        anchor = np.maximum(np.frexp(z)[1].astype(np.int32) - 1, MIN_E8M0_EXPONENT)
        exponent = np.minimum(scale_exponent(amax, fmt.element, rule), anchor)
        codes, scales = _codes(x, power_of_two(exponent), fmt), (anchor - exponent).astype(np.uint8)[:, None]
        nan = E8M0_NAN
    else:
        scale: F32 = np.maximum(amax.view(np.float32) / np.float32(fmt.element.max_finite), MIN_FP32_SCALE)
        with np.errstate(over="ignore"):
            scales = fp32_bytes((scale / z)[:, None])
        codes, nan = _codes(x, scale, fmt), fp32_bytes(np.array([NAN32]))
    if bad.any():
        codes[bad], scales[bad] = 0, nan
    return codes, scales


def _codes(x: F32, divisor: F32, fmt: TensorFormat) -> U8:
    codes = np.empty(x.shape, np.uint8)
    with np.errstate(all="ignore"):  # infinities saturate; NaN only in blocks that become NaN
        cast_into(x / divisor[:, None], fmt.element.name, codes)
    return codes


def _nvfp4(x: F32, amax: U32, z: F32, fmt: TensorFormat) -> tuple[U8, U8]:
    scale, divisor = _e4m3_scale(amax, z, 6.0)
    codes = _codes(x, divisor, fmt)
    if fmt.quant == Quant.NVFP4_46:
        scale4, divisor4 = _e4m3_scale(amax, z, 4.0)
        codes4 = _codes(x, divisor4, fmt)
        error, error4 = squared_errors(x, amax, ((codes, divisor), (codes4, divisor4)))
        better = error4 < error
        codes = np.where(better[:, None], codes4, codes)
        scale = np.where(better, scale4, scale)
    return codes, scale[:, None]


def _e4m3_scale(amax: U32, z: F32, maximum: float) -> tuple[U8, F32]:
    """Code of the E4M3 block scale that maps amax to ``maximum``, and D."""
    with np.errstate(over="ignore"):
        scale = cast(amax.view(np.float32) / np.float32(maximum) / z, "e4m3")
        scale = np.maximum(scale, np.uint8(_MIN_E4M3_CODE))
        return scale, np.maximum(code_values("e4m3")[scale] * z, _SMALLEST)


ERROR_BITS = 15
"""`squared_errors` measures in units of 2**-15 of the power of two at or below amax."""


def squared_errors(x: F32, amax: U32, candidates: tuple[tuple[U8, F32], ...]) -> list[NDArray[np.int32]]:
    """How far E2M1 ``codes * divisor`` are from x, for each (codes, divisor): (n,) integers, exact in hardware.

    Per element ``(abs(X - 2*|code| * G) // 8)**2`` with X = |x| and G = divisor / 2, both rounded to the nearest
    integer in units of 2**(E - 15), where 2**E <= amax < 2**(E+1) and E >= -111; G at most 2**17.
    """
    field_bits = np.maximum(amax >> np.uint32(23), np.uint32(ERROR_BITS + 1))
    unit = (np.uint32(254 + ERROR_BITS) - field_bits << np.uint32(23)).view(np.float32)  # 2**(15 - E)
    with np.errstate(all="ignore"):  # whatever comes of infinities, their blocks become NaN
        position = np.rint(np.minimum(np.abs(x) * unit[:, None], np.float32(1 << 17)))
    results = []
    for codes, divisor in candidates:
        with np.errstate(over="ignore"):
            level = np.rint(np.minimum(divisor * np.float32(0.5) * unit, np.float32(1 << 17)))
        distance = _DOUBLED_E2M1[codes]  # all values below are integers that float32 holds
        distance *= level[:, None]
        distance -= position
        with np.errstate(invalid="ignore"):
            error = np.abs(distance, out=distance).astype(np.int32)
        error >>= 3
        error *= error
        while error.shape[1] > 1:
            error = error[:, : error.shape[1] // 2] + error[:, error.shape[1] // 2 :]
        results.append(error[:, 0])
    return results


_DOUBLED_E2M1 = np.abs(2 * np.concatenate([code_values("e2m1")] * 16))
