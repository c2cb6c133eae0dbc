"""Quantizers: float32 tensors to the block formats of the tile, and back, for whole tensors.

Every element code is ``RNE_element(RNE32(x / D))``, saturating, where D is one FP32 number per block. What differs is
how D and the stored scale follow from the block's largest magnitude (``amax``, an integer maximum of FP32 bits):

=============  ========  =====  ===========================================================  =========================
format         element   block  D                                                            scale byte(s)
=============  ========  =====  ===========================================================  =========================
e4m3, e5m2     -         -      tensor scale, max(RNE32(amax_tensor / max), 2**-126)         none
mxfp8[-e5m2]   E4M3/5M2  32     2**e, e from amax by FLOOR, RCEIL or EVEN                    log2(anchor) - e, 255 NaN
mxfp4          E2M1      32     same                                                         same
nvfp4          E2M1      16     RNE32(s * g), s = RNE_e4m3(RNE32(RNE32(amax / 6) / g)),      E4M3 code of s
                                2**-9 <= s <= 448; g the tensor scale
nvfp4-46       E2M1      16     as nvfp4, or with amax / 4: the smaller squared error        E4M3 code of s
deepseek       E4M3      128    s = max(RNE32(amax / 448), 2**-126)                          FP32, RNE32(s / anchor)
deepseek-      E4M3      128    2**e, as mxfp8                                               as mxfp8
ue8m0
=============  ========  =====  ===========================================================  =========================

A NaN or an infinity in a block makes the scale NaN (255, 0x7F, FP32 NaN) and its elements 0. The *anchor* of a row is
the power of two of its largest block scale over the whole of k; the tile stores scales relative to it
(docs/decisions/0008-anchors.md). The hardware twin of `block_codes` is `rtl/vector/block.py`.

Division, not multiplication by a reciprocal: libraries differ there on ties, see docs/numerics.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.formats import FP32_INF
from ...rtl.spec.isa import ScaleRule
from ...rtl.spec.tensor_formats import TensorFormat
from .block_codes import quantize_blocks
from .block_scales import (
    F32,
    MIN_FP32_SCALE,
    U8,
    U32,
    anchor_exponent,
    block_amax,
    e8m0_to_deltas,
    fp32_to_relative,
    power_of_two,
    scale_values,
)
from .element_codes import CHUNK, cast_into, decode, pack, unpack

__all__ = [
    "BlockTensor",
    "dequantize",
    "e8m0_to_deltas",
    "fp32_to_relative",
    "quantize_block",
]

@dataclass(frozen=True, kw_only=True, eq=False)
class BlockTensor:
    """A quantized matrix, as the tile stores it.

    shape: (rows, k) of the values. Below, K is k rounded up to whole blocks; the elements added are zeros.
    codes: (rows, K * element bits / 8) uint8; two E2M1 codes per byte, the even k in the low nibble.
    scales: (rows, K / block * scale_bytes) uint8: E4M3 codes, E8M0 deltas log2(anchor) - exponent (255 NaN), or FP32
    values relative to the anchor, little-endian.
    anchors: (rows,) float32 powers of two; ones where scales are not relative.
    tensor_scale: float32; 1 for formats with anchors.
    The value of an element is code * scale * anchor * tensor_scale.
    """

    format: TensorFormat
    shape: tuple[int, int]
    codes: U8 = field(repr=False)
    scales: U8 = field(repr=False)
    anchors: F32 = field(repr=False)
    tensor_scale: np.float32

    @property
    def blocks(self) -> int:
        """Blocks per row."""
        return self.scales.shape[1] // self.format.scale_bytes if self.format.scale_bytes else 0

    def relative_scales(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """(rows, blocks), of the type of `scale_values`: the stored scales relative to the anchors, or NaN."""
        return scale_values(self.scales, self.format)


def quantize_block(x: F32, fmt: TensorFormat, *, rule: ScaleRule = ScaleRule.FLOOR, tensor_scale: float | None = None,
                   anchors: F32 | None = None, block_rows: int = 1) -> BlockTensor:
    """Quantize (rows, k) float32 along k.

    rule: for power-of-two scales. tensor_scale: of formats without anchors, instead of the tensor's own; anchors:
    (rows,) powers of two, instead of the rows' own (blocks above them saturate). block_rows: so many rows share a scale
    (DeepSeek weights: 128); the last such block of rows may be smaller.

    NaN and infinities make their block NaN; without block scales, NaN becomes a NaN code and infinities saturate.
    Raises TypeError for another dtype, ValueError for another shape or a scale that is not positive and finite.
    """
    x, k = _padded(x, fmt)
    rows = x.shape[0]
    if block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    if not fmt.block:
        scale = _tensor_scale(block_amax_of_tensor(x) if tensor_scale is None else 0, fmt, tensor_scale)
        with np.errstate(over="ignore"):
            codes = _chunked_cast(x, scale, fmt)
        return BlockTensor(format=fmt, shape=(rows, k), codes=codes, scales=np.zeros((rows, 0), np.uint8),
                           anchors=np.ones(rows, np.float32), tensor_scale=scale)
    blocks = x.shape[1] // fmt.block
    amax = _amax_of_blocks(x, blocks, block_rows)
    finite = np.where(amax < FP32_INF, amax, 0)
    scale = np.float32(1)
    if fmt.anchored:
        if tensor_scale is not None:
            raise ValueError(f"tensor_scale: format {fmt.name} has none")
        if anchors is None:
            anchors = power_of_two(anchor_exponent(finite.max(axis=1, initial=0), fmt, rule))
        z = _checked_anchors(anchors, rows)
    else:
        if anchors is not None:
            raise ValueError(f"anchors: format {fmt.name} has none")
        scale = _tensor_scale(int(finite.max(initial=0)), fmt, tensor_scale)
        anchors, z = np.ones(rows, np.float32), np.full(rows, scale)
    codes, scales = _quantize_rows(x.reshape(rows, blocks, fmt.block), amax, z, fmt, rule)
    return BlockTensor(format=fmt, shape=(rows, k), codes=codes, scales=scales, anchors=anchors, tensor_scale=scale)


def dequantize(tensor: BlockTensor, dtype: type = np.float32) -> NDArray:
    """(rows, k) values, exact in float64 and rounded once for float32; NaN where a block's scale is NaN."""
    fmt, (rows, k) = tensor.format, tensor.shape
    values = decode(unpack(tensor.codes, fmt.element.name), fmt.element.name).astype(np.float64)
    if fmt.block:
        values = values.reshape(rows, tensor.blocks, fmt.block) * tensor.relative_scales()[:, :, None]
        values = values.reshape(rows, -1)
    return (values[:, :k] * tensor.anchors.astype(np.float64)[:, None] * float(tensor.tensor_scale)).astype(dtype)


def block_amax_of_tensor(x: F32) -> int:
    """FP32 bits of the largest finite magnitude."""
    bits = x.view(np.uint32) & np.uint32(0x7FFFFFFF)
    largest = int(bits.max(initial=0))
    return largest if largest < FP32_INF else int(bits[bits < FP32_INF].max(initial=0))


def _padded(x: F32, fmt: TensorFormat) -> tuple[F32, int]:
    """x with k rounded up to whole blocks (two elements at least for 4-bit codes), and k."""
    if x.dtype != np.float32:
        raise TypeError(f"expected an array of float32, not {x.dtype}")
    if x.ndim != 2 or not x.size:
        raise ValueError(f"expected a matrix (rows, k) with elements, got shape {x.shape}")
    k = x.shape[1]
    missing = -k % (fmt.block or 1)
    return np.ascontiguousarray(np.pad(x, ((0, 0), (0, missing))) if missing else x), k


def _tensor_scale(amax: int, fmt: TensorFormat, given: float | None) -> np.float32:
    if given is not None:
        if not (np.isfinite(given) and given > 0 and np.float32(given) > 0):
            raise ValueError(f"tensor_scale: expected a positive finite float32, got {given}")
        return np.float32(given)
    if amax == 0:
        return np.float32(1)
    return np.maximum(np.uint32(amax).view(np.float32) / np.float32(fmt.tensor_divisor), MIN_FP32_SCALE)


def _checked_anchors(anchors: F32, rows: int) -> F32:
    if anchors.shape != (rows,) or anchors.dtype != np.float32:
        raise ValueError(f"anchors: expected ({rows},) float32, got {anchors.dtype} of shape {anchors.shape}")
    if (np.frexp(anchors)[0] != 0.5).any() or not np.isfinite(anchors).all():
        raise ValueError("anchors: expected powers of two")
    return anchors


def _amax_of_blocks(x: F32, blocks: int, block_rows: int) -> U32:
    rows, k = x.shape
    amax = np.empty((rows, blocks), np.uint32)
    step = max(1, CHUNK // k)
    for start in range(0, rows, step):
        part = x[start : start + step]
        amax[start : start + step] = block_amax(part.reshape(len(part), blocks, -1))
    if block_rows > 1:
        starts = np.arange(0, rows, block_rows)
        amax = np.repeat(np.maximum.reduceat(amax, starts, axis=0), block_rows, axis=0)[:rows]
    return amax


def _quantize_rows(x: NDArray, amax: U32, z: F32, fmt: TensorFormat, rule: ScaleRule) -> tuple[U8, U8]:
    """Packed codes and scale bytes, per row, of (rows, blocks, block) values, a few rows at a time."""
    rows, blocks, block = x.shape
    codes = np.empty((rows, blocks * block * fmt.element.bits // 8), np.uint8)
    scales = np.empty((rows, blocks * fmt.scale_bytes), np.uint8)
    step = max(1, CHUNK // (blocks * block))
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        count = part.stop - start
        found, scale = quantize_blocks(x[part].reshape(-1, block), amax[part].reshape(-1), np.repeat(z[part], blocks),
                                       fmt, rule)
        codes[part] = pack(found.reshape(count, -1), fmt.element.name)
        scales[part] = scale.reshape(count, -1)
    return codes, scales


def _chunked_cast(x: F32, scale: np.float32, fmt: TensorFormat) -> U8:
    flat, codes = x.reshape(-1), np.empty(x.size, np.uint8)
    for start in range(0, flat.size, CHUNK):
        part = slice(start, start + CHUNK)
        cast_into(flat[part] / scale, fmt.element.name, codes[part])
    return codes.reshape(x.shape)
