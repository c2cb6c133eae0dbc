"""Tensors to the bytes that the tile stores: codes, block-scale bytes, one FP32 factor.

Every format comes down to: value = code * block scale * factor. For per-tensor formats there is no block scale and the
factor is the tensor's scale; for NVFP4 it is the tensor scale; for MX and DeepSeek blocks it is the anchor, the power
of two of the tensor's largest block scale, to which the stored scales are relative (`docs/numerics.md`). The hardware
takes an anchor per row; the lowerings use one per tensor, the largest, so that it is part of the epilogue's constant.
"""

from dataclasses import dataclass

import numpy as np

from ..rtl.spec.isa import Scale, ScaleRule
from ..rtl.spec.tensor_formats import QUANT_FORMATS, TensorFormat
from ..sim.numerics.block_scales import anchor_exponent, power_of_two
from ..sim.numerics.quantizers import dequantize, quantize_block
from .tensors import MIN_SCALE

DEEPSEEK_ROWS = 128
"""Rows of a weight matrix that share an FP32 (or E8M0) scale with 128 columns."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """codes: (rows, bytes) uint8, 4-bit codes two per byte; scales: (rows, bytes) uint8, no columns without blocks."""

    codes: np.ndarray
    scales: np.ndarray


def tensor_factor(tensor_format: TensorFormat, amax: float, rule: ScaleRule = ScaleRule.FLOOR) -> float:
    """The FP32 factor of a tensor whose largest magnitude is ``amax``; 1 for an all-zero tensor."""
    if amax == 0:
        return 1.0
    block_format = QUANT_FORMATS[tensor_format.quant]
    if block_format.anchored:
        bits = np.array([amax], np.float32).view(np.uint32)
        return float(power_of_two(anchor_exponent(bits, block_format, rule))[0])
    return max(float(np.float32(amax) / np.float32(block_format.tensor_divisor)), MIN_SCALE)


def made_factor(tensor_format: TensorFormat, amax: float, rule: ScaleRule = ScaleRule.FLOOR) -> float:
    """`tensor_factor` of a tensor that the tile makes itself; ``amax`` is that of the float64 layer.

    The tile's values may be larger by their quantization errors. Most formats saturate then. An FP32 block scale that
    is twice its anchor counts as NaN (docs/numerics.md), so the anchor is twice as large as ``amax`` asks for.
    """
    factor = tensor_factor(tensor_format, amax, rule)
    return 2 * factor if tensor_format.scale == Scale.FP32 else factor


def _quantize(x: np.ndarray, tensor_format: TensorFormat, factor: float, rule: ScaleRule, square: bool):
    block_format = QUANT_FORMATS[tensor_format.quant]
    rows = DEEPSEEK_ROWS if square and block_format.block == 128 else 1
    if block_format.anchored:
        return quantize_block(x, block_format, rule=rule, anchors=np.full(len(x), factor, np.float32), block_rows=rows)
    return quantize_block(x, block_format, rule=rule, tensor_scale=factor, block_rows=rows)


def store(x: np.ndarray, tensor_format: TensorFormat, factor: float, rule: ScaleRule = ScaleRule.FLOOR,
          square: bool = False) -> StoredTensor:
    """(rows, k) float32 to the tile's bytes with a given `tensor_factor`.

    square: DeepSeek weights share a scale per 128 x 128 block instead of 1 x 128.
    """
    block = _quantize(x, tensor_format, factor, rule, square)
    return StoredTensor(block.codes, block.scales)


def stored_values(x: np.ndarray, tensor_format: TensorFormat, factor: float, rule: ScaleRule = ScaleRule.FLOOR,
                  square: bool = False) -> np.ndarray:
    """(rows, k) float64: what `store`'s bytes mean."""
    if not x.size:
        return np.zeros(x.shape)
    return dequantize(_quantize(np.asarray(x, np.float32), tensor_format, factor, rule, square), np.float64)
