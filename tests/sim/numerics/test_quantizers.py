"""Quantized tensors: shapes, the contract's formulas in plain Python, special values, dequantization."""

import math

import numpy as np
import pytest

from tilescore.rtl.spec.isa import Quant, Scale, ScaleRule
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.numerics.block_scales import e8m0_from_deltas
from tilescore.sim.numerics.element_codes import cast, decode, unpack
from tilescore.sim.numerics.quantizers import dequantize, fp32_to_relative, quantize_block

FORMATS = list(QUANT_FORMATS.values())
BLOCKED = [f for f in FORMATS if f.block]


def name(fmt) -> str:
    return fmt.name


def wide(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Normal values whose blocks of 16 have scales from 2**-30 to 2**10."""
    spread = np.exp2(rng.integers(-30, 11, (shape[0], -(-shape[1] // 16)))).repeat(16, axis=1)[:, : shape[1]]
    return (rng.standard_normal(shape) * spread).astype(np.float32)


def test_wrong_arguments():
    mx, nv = QUANT_FORMATS[Quant.MXFP8], QUANT_FORMATS[Quant.NVFP4]
    x = np.ones((2, 32), np.float32)
    with pytest.raises(TypeError, match="float32, not float64"):
        quantize_block(np.ones((2, 32)), mx)
    with pytest.raises(ValueError, match=r"matrix \(rows, k\) with elements, got shape \(32,\)"):
        quantize_block(x[0], mx)
    with pytest.raises(ValueError, match="block_rows must be at least 1, got 0"):
        quantize_block(x, mx, block_rows=0)
    with pytest.raises(ValueError, match="tensor_scale: format mxfp8 has none"):
        quantize_block(x, mx, tensor_scale=1.0)
    with pytest.raises(ValueError, match="anchors: format nvfp4 has none"):
        quantize_block(x, nv, anchors=np.ones(2, np.float32))
    for scale in (0.0, -1.0, math.inf, math.nan, 1e-60):
        with pytest.raises(ValueError, match="tensor_scale: expected a positive finite float32"):
            quantize_block(x, nv, tensor_scale=scale)
    with pytest.raises(ValueError, match="anchors: expected powers of two"):
        quantize_block(x, mx, anchors=np.array([1, 3], np.float32))
    with pytest.raises(ValueError, match=r"anchors: expected \(2,\) float32, got float64"):
        quantize_block(x, mx, anchors=np.ones(2))


@pytest.mark.parametrize("fmt", FORMATS, ids=name)
@pytest.mark.parametrize("k", [128, 130, 256])
def test_shapes(fmt, k, rng):
    tensor = quantize_block(wide(rng, (5, k)), fmt)
    blocks = -(-k // fmt.block) if fmt.block else 0
    padded = blocks * fmt.block or k
    assert tensor.codes.shape == (5, padded * fmt.element.bits // 8)
    assert tensor.scales.shape == (5, blocks * fmt.scale_bytes)
    assert tensor.blocks == blocks
    assert tensor.anchors.shape == (5,) and tensor.anchors.dtype == np.float32
    assert dequantize(tensor).shape == (5, k)


@pytest.mark.parametrize("fmt", FORMATS, ids=name)
def test_error_is_at_most_half_a_step(fmt, rng):
    """Within half a step of the element format and half a smallest step, at the block's own scale."""
    x = rng.standard_normal((40, 256)).astype(np.float32)
    tensor = quantize_block(x, fmt, rule=ScaleRule.RCEIL)
    values = dequantize(tensor, np.float64)
    scale = float(tensor.tensor_scale) * tensor.anchors.astype(np.float64)[:, None]
    if fmt.block:
        scale = scale * tensor.relative_scales().repeat(fmt.block, axis=1)
    relative = 2.0 ** -(fmt.element.mantissa_bits + 1)
    slack = 1.07 if fmt.scale == Scale.E4M3 else 1 + 2**-20  # an E4M3 scale rounded down: the maximum saturates
    step = np.maximum(np.abs(x) * relative, scale * 2.0 ** (fmt.element.lsb_exponent - 1))
    saturated = np.abs(x) - scale * fmt.element.max_finite
    assert (np.abs(values - x) <= np.maximum(step * slack, saturated)).all()
    if fmt.scale == Scale.E8M0:
        assert (saturated <= 0).all()


@pytest.mark.parametrize("rule", list(ScaleRule), ids=lambda rule: rule.name.lower())
@pytest.mark.parametrize("fmt", [f for f in BLOCKED if f.scale == Scale.E8M0], ids=name)
def test_mx_elements_are_casts_of_exact_quotients(fmt, rule, rng):
    x = wide(rng, (20, 256))
    tensor = quantize_block(x, fmt, rule=rule)
    exponent = e8m0_from_deltas(tensor.anchors, tensor.scales).astype(np.int64).repeat(fmt.block, axis=1) - 127
    quotient = np.ldexp(x.astype(np.float64), -exponent).astype(np.float32)
    np.testing.assert_array_equal(unpack(tensor.codes, fmt.element.name), cast(quotient, fmt.element.name))


def test_nvfp4_by_its_formula(rng):
    fmt, x = QUANT_FORMATS[Quant.NVFP4], wide(rng, (10, 64))
    tensor = quantize_block(x, fmt)
    g = np.float32(np.abs(x).max()) / np.float32(448 * 6)
    assert tensor.tensor_scale == g
    codes = unpack(tensor.codes, "e2m1").reshape(10, 4, 16)
    for row in range(10):
        for block in range(4):
            part = x[row, 16 * block : 16 * block + 16]
            amax = np.abs(part).max()
            code = max(int(cast((amax / np.float32(6) / g)[None], "e4m3")[0]), 1)
            assert tensor.scales[row, block] == code
            divisor = decode(np.array([code], np.uint8), "e4m3")[0] * g
            np.testing.assert_array_equal(codes[row, block], cast(part / divisor, "e2m1"))


def test_four_over_six_takes_the_better_scale(rng):
    x = rng.standard_normal((64, 512)).astype(np.float32)
    adaptive = quantize_block(x, QUANT_FORMATS[Quant.NVFP4_46])
    plain = quantize_block(x, QUANT_FORMATS[Quant.NVFP4], tensor_scale=adaptive.tensor_scale)
    assert adaptive.tensor_scale == np.abs(x).max() / np.float32(256 * 6)

    def errors(tensor) -> np.ndarray:
        return ((dequantize(tensor, np.float64) - x) ** 2).reshape(64, 32, 16).sum(axis=-1)

    changed = adaptive.scales != plain.scales
    assert 0.1 < changed.mean() < 0.6
    better, worse = errors(adaptive)[changed], errors(plain)[changed]
    assert (better < worse * 1.02).all()
    assert errors(adaptive).sum() < 0.95 * errors(quantize_block(x, QUANT_FORMATS[Quant.NVFP4])).sum()


def test_four_over_six_prefers_six_at_a_tie():
    """A block of one magnitude is represented exactly with both scales."""
    x = np.full((1, 16), 1.0, np.float32)
    tensor = quantize_block(x, QUANT_FORMATS[Quant.NVFP4_46], tensor_scale=1 / 24)
    assert tensor.scales.tolist() == [[cast(np.array([4.0], np.float32), "e4m3")[0]]]
    np.testing.assert_allclose(dequantize(tensor), x, rtol=1e-7)


def test_deepseek_by_its_formula(rng):
    fmt, x = QUANT_FORMATS[Quant.BLOCK128], wide(rng, (6, 256))
    tensor = quantize_block(x, fmt)
    scales = np.abs(x.reshape(6, 2, 128)).max(axis=-1) / np.float32(448)
    anchors, stored = fp32_to_relative(scales)
    np.testing.assert_array_equal(tensor.anchors, anchors)
    np.testing.assert_array_equal(tensor.scales, stored)
    np.testing.assert_array_equal(tensor.codes, cast(x / scales.repeat(128, axis=1), "e4m3"))


@pytest.mark.parametrize("quant", [Quant.BLOCK128, Quant.BLOCK128_E8M0])
def test_weights_share_scales_over_block_rows(quant, rng):
    x = wide(rng, (200, 256))
    tensor = quantize_block(x, QUANT_FORMATS[quant], block_rows=128)
    absolute = tensor.relative_scales() * tensor.anchors[:, None]
    assert (absolute[:128] == absolute[0]).all() and (absolute[128:] == absolute[128]).all()
    single = np.zeros_like(x)
    for first in (0, 128):  # one row that has each block's amax in each block of 128 columns
        for column in (0, 128):
            block = np.s_[first : first + 128, column : column + 128]
            single[block] = np.abs(x[block]).max()
    expected = quantize_block(single, QUANT_FORMATS[quant])
    np.testing.assert_array_equal(tensor.scales, expected.scales)
    np.testing.assert_array_equal(tensor.anchors, expected.anchors)


@pytest.mark.parametrize("fmt", BLOCKED, ids=name)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_special_value_makes_its_block_nan_and_no_other(fmt, special, rng):
    x = wide(rng, (4, 256))
    with_special = x.copy()
    with_special[1, 7] = special
    with_special[:, -1], x[:, -1] = 2.0**12, 2.0**12  # the tensor's largest value stays
    clean, tensor = quantize_block(x, fmt), quantize_block(with_special, fmt)
    values = dequantize(tensor)
    assert np.isnan(values[1, : fmt.block]).all()
    assert np.isfinite(np.delete(values, 1, axis=0)).all() and np.isfinite(values[1, fmt.block :]).all()
    np.testing.assert_array_equal(np.delete(tensor.codes, 1, axis=0), np.delete(clean.codes, 1, axis=0))
    assert not tensor.codes[1, : fmt.block * fmt.element.bits // 8].any()
    nan = {Scale.E8M0: [0xFF], Scale.E4M3: [0x7F], Scale.FP32: [0, 0, 0xC0, 0x7F]}[fmt.scale]
    assert tensor.scales[1, : fmt.scale_bytes].tolist() == nan


@pytest.mark.parametrize("fmt", FORMATS, ids=name)
def test_zeros(fmt):
    x = np.zeros((3, 128), np.float32)
    x[1] = -0.0
    tensor = quantize_block(x, fmt)
    assert (dequantize(tensor) == 0).all() and np.signbit(dequantize(tensor)[1]).all()
    if fmt.scale == Scale.E4M3:
        assert (tensor.scales == 1).all()  # 2**-9
    if fmt.scale == Scale.E8M0:
        assert (e8m0_from_deltas(tensor.anchors, tensor.scales) == 0).all()
    if fmt.scale == Scale.FP32:
        assert (tensor.relative_scales() * tensor.anchors[:, None] == 2.0**-126).all()


@pytest.mark.parametrize("fmt", BLOCKED, ids=name)
def test_a_given_anchor_or_tensor_scale_caps_the_blocks(fmt, rng):
    x = rng.standard_normal((3, 256)).astype(np.float32)
    x[:, :128] *= 64
    if fmt.anchored:
        anchors = np.full(3, 2.0**-6, np.float32)
        tensor = quantize_block(x, fmt, anchors=anchors)
        np.testing.assert_array_equal(tensor.anchors, anchors)
        if fmt.scale == Scale.E8M0:
            assert (e8m0_from_deltas(anchors, tensor.scales) <= 121).all()
    else:
        tensor = quantize_block(x, fmt, tensor_scale=2.0**-12)
        assert (tensor.scales[:, :8] == 0x7E).all()
        assert tensor.tensor_scale == 2.0**-12
    limit = fmt.element.max_finite * {Scale.E8M0: 2.0**-6, Scale.E4M3: 448 * 2.0**-12, Scale.FP32: 1e9}[fmt.scale]
    assert np.abs(dequantize(tensor)).max() <= limit


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f.scale in (Scale.NONE, Scale.E8M0)], ids=name)
def test_dequantized_values_quantize_to_themselves(fmt, rng):
    """The same values: the largest code gives the scale (with FLOOR; other scales are rounded, and may move)."""
    values = dequantize(quantize_block(wide(rng, (8, 256)), fmt))
    again = quantize_block(values, fmt)
    np.testing.assert_array_equal(dequantize(again), values)


@pytest.mark.parametrize("fmt", FORMATS, ids=name)
def test_extremes_of_float32(fmt):
    """Largest and smallest values in one tensor: nothing overflows, and the large ones keep their precision."""
    x = np.zeros((2, 256), np.float32)
    x[0, :128], x[0, 128:], x[1] = np.finfo(np.float32).max, 2.0**-149, 2.0**-149
    values = dequantize(quantize_block(x, fmt, rule=ScaleRule.RCEIL), np.float64)
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[0, :128], x[0, :128], rtol=0.07)
