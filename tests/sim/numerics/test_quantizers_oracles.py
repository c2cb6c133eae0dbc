"""Quantizers against other libraries, bit for bit, on more than 10**6 random elements per format.

The values are continuous random numbers; where libraries disagree with each other (ties, zero blocks, the ends of the
scale range) is listed in docs/numerics.md. Blocks so close to a rounding boundary of the *scale* that a library's own
float arithmetic decides are left out; a test checks how few those are.
"""

import os

import numpy as np
import pytest

from tilescore.rtl.spec.isa import Quant, ScaleRule
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.numerics.block_scales import e8m0_from_deltas
from tilescore.sim.numerics.element_codes import decode, unpack
from tilescore.sim.numerics.quantizers import block_amax, dequantize, quantize_block

MX = [QUANT_FORMATS[quant] for quant in (Quant.MXFP8, Quant.MXFP8_E5M2, Quant.MXFP4)]
ROWS, K = 512, 512
KINDS = ("ordinary", "heavy-tailed", "wide", "tiny", "huge")
"""5 * ROWS * K = 1.3e6 elements per format and rule."""


def name(value) -> str:
    return value.name.lower()


def tensor_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(ROWS, K) float32. wide: block magnitudes over 2**+-40; tiny, huge: to the ends of FP32's range."""
    x = rng.standard_normal((ROWS, K))
    if kind == "heavy-tailed":
        x = rng.standard_t(2, (ROWS, K))
    if kind == "wide":
        x *= np.exp2(rng.integers(-40, 41, (ROWS, K // 16))).repeat(16, axis=1)
    if kind == "tiny":
        x *= np.exp2(rng.integers(-140, -100, (ROWS, K // 16))).repeat(16, axis=1)
    if kind == "huge":
        x *= np.exp2(rng.integers(100, 125, (ROWS, K // 16))).repeat(16, axis=1)
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch: extra oracle")


@pytest.fixture(scope="module")
def to_mx(torch):
    module = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", reason="torchao: extra oracle")
    return module.to_mx


@pytest.fixture(scope="module")
def nvfp4(torch):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    module = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor",
                                 reason="nvidia-modelopt: extra oracle")
    return module.NVFP4QTensor


def torchao_mx(torch, to_mx, x: np.ndarray, fmt, rule: ScaleRule) -> tuple[np.ndarray, np.ndarray]:
    """Standard E8M0 bytes (rows, blocks) and element codes (rows, k), one per byte."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode

    element = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m1": torch.float4_e2m1fn_x2}[fmt.element.name]
    scale, codes = to_mx(torch.from_numpy(x), element, fmt.block, ScaleCalculationMode[rule.name])
    return (scale.view(torch.uint8).numpy(),
            unpack(codes.reshape(len(x), -1).view(torch.uint8).numpy(), fmt.element.name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", list(ScaleRule), ids=name)
@pytest.mark.parametrize("fmt", MX, ids=name)
def test_mx_equals_torchao(torch, to_mx, fmt, rule, kind, rng):
    x = tensor_of(kind, rng)
    tensor = quantize_block(x, fmt, rule=rule)
    scales, codes = e8m0_from_deltas(tensor.anchors, tensor.scales), unpack(tensor.codes, fmt.element.name)
    their_scales, their_codes = torchao_mx(torch, to_mx, x, fmt, rule)
    decided = np.ones(scales.shape, bool)
    if rule == ScaleRule.RCEIL:  # torchao takes a float32 logarithm
        amax = block_amax(x.reshape(ROWS, -1, fmt.block)).view(np.float32).astype(np.float64)
        log2 = np.log2(amax / fmt.element.max_finite)
        decided = np.abs(log2 - np.rint(log2)) > 1e-4
        assert decided.mean() > 0.999
    np.testing.assert_array_equal(scales[decided], their_scales[decided])
    decided &= scales > 0  # at 2**-127 torchao divides by another number
    if kind != "tiny":
        assert decided.mean() > 0.99
    elements = decided.repeat(fmt.block, axis=1)
    np.testing.assert_array_equal(codes[elements], their_codes[elements])


@pytest.mark.parametrize("fmt", MX, ids=name)
def test_mx_elements_equal_gfloat(fmt, rng):
    """The OCP rule once more, from an independent code base that also covers the smallest scale."""
    gfloat = pytest.importorskip("gfloat", reason="gfloat: extra test")
    formats = pytest.importorskip("gfloat.formats")
    info = {"mxfp8": formats.format_info_mxfp8_e4m3, "mxfp8-e5m2": formats.format_info_mxfp8_e5m2,
            "mxfp4": formats.format_info_mxfp4_e2m1}[fmt.name]
    x = np.concatenate([tensor_of(kind, rng)[:2] for kind in KINDS])
    ours = dequantize(quantize_block(x, fmt), np.float64).reshape(-1, fmt.block)
    for block, expected in zip(x.astype(np.float64).reshape(-1, fmt.block), ours, strict=True):
        np.testing.assert_array_equal(gfloat.quantize_block(info, block, gfloat.compute_scale_amax), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_nvfp4_equals_modelopt(torch, nvfp4, kind, rng):
    """modelopt divides once by RNE32(6 * g), the contract by 6 and then by g: scales may differ beside a tie."""
    fmt, x = QUANT_FORMATS[Quant.NVFP4], tensor_of(kind, rng)
    if kind == "tiny":
        x[0, 0] = 2.0**-100  # a tensor scale that is not subnormal
    tensor = quantize_block(x, fmt)
    quantized, scales, tensor_scale = nvfp4.quantize(torch.from_numpy(x.copy()), 16)
    assert tensor.tensor_scale == np.float32(tensor_scale.item())

    amax = block_amax(x.reshape(ROWS, -1, 16)).view(np.float32).astype(np.float64)
    exact = amax / 6 / float(tensor.tensor_scale)
    code = tensor.scales & 0x7F
    neighbours = [decode(np.clip(code.astype(int) + d, 1, 126).astype(np.uint8), "e4m3") for d in (-1, 0, 1)]
    ties = [(neighbours[1] + n.astype(np.float64)) / 2 for n in (neighbours[0], neighbours[2])]
    decided = np.all([np.abs(exact - tie) > 1e-6 * exact for tie in ties], axis=0) & (amax > 0)
    assert decided.mean() > 0.99
    np.testing.assert_array_equal(tensor.scales[decided], scales.view(torch.uint8).numpy()[decided])
    theirs = unpack(quantized._quantized_data.numpy().reshape(ROWS, -1), "e2m1")
    elements = decided.repeat(16, axis=1) & (x != 0)  # modelopt drops the sign of -0
    np.testing.assert_array_equal(unpack(tensor.codes, "e2m1")[elements], theirs[elements])


@pytest.mark.parametrize("kind", ["ordinary", "heavy-tailed", "wide"])
def test_casts_equal_torch(torch, kind, rng):
    """Per tensor: a division and a saturating cast."""
    x = tensor_of(kind, rng)
    for quant, dtype in ((Quant.E4M3, torch.float8_e4m3fn), (Quant.E5M2, torch.float8_e5m2)):
        tensor = quantize_block(x, QUANT_FORMATS[quant])
        limit = tensor.format.element.max_finite
        assert tensor.tensor_scale == np.abs(x).max() / np.float32(limit)
        expected = (torch.from_numpy(x) / tensor.tensor_scale.item()).clamp(-limit, limit).to(dtype)
        np.testing.assert_array_equal(tensor.codes, expected.view(torch.uint8).numpy())


def test_what_the_libraries_do_where_they_disagree(torch, to_mx, nvfp4):
    """The table in docs/numerics.md, executed: ties, zero blocks, infinities, the smallest scale."""
    zeros, mxfp4 = np.zeros((1, 32), np.float32), QUANT_FORMATS[Quant.MXFP4]
    assert quantize_block(zeros, QUANT_FORMATS[Quant.NVFP4]).scales.tolist() == [[1, 1]]  # 2**-9
    nonzero = np.concatenate([zeros, np.ones((1, 32), np.float32)])
    _, scales, _ = nvfp4.quantize(torch.from_numpy(nonzero), 16)
    assert scales.float()[0].tolist() == [1.0, 1.0]

    infinite = np.ones((1, 32), np.float32)
    infinite[0, 3] = np.inf
    assert quantize_block(infinite, mxfp4).scales.tolist() == [[0xFF]]
    assert torchao_mx(torch, to_mx, infinite, mxfp4, ScaleRule.FLOOR)[0].tolist() == [[127 + 128 - 2]]

    smallest = np.full((1, 32), 2.0**-126, np.float32)  # scale 2**-127, so the element is 2
    ours = quantize_block(smallest, mxfp4)
    assert e8m0_from_deltas(ours.anchors, ours.scales).tolist() == [[0]] and (dequantize(ours) == smallest).all()
    scales, codes = torchao_mx(torch, to_mx, smallest, mxfp4, ScaleRule.FLOOR)
    assert scales.tolist() == [[0]] and (decode(codes, "e2m1") == 1).all()

    just_above = np.full((1, 32), np.nextafter(np.float32(6 * 2**20), np.float32(np.inf)), np.float32)
    ours = quantize_block(just_above, mxfp4, rule=ScaleRule.RCEIL)
    assert e8m0_from_deltas(ours.anchors, ours.scales).tolist() == [[148]]
    assert torchao_mx(torch, to_mx, just_above, mxfp4, ScaleRule.RCEIL)[0].tolist() == [[147]]

    minus_zero = np.full((1, 32), -0.0, np.float32)
    minus_zero[0, 0] = 6.0
    assert unpack(quantize_block(minus_zero, QUANT_FORMATS[Quant.NVFP4]).codes, "e2m1")[0, 1] == 0x8
    quantized, _, _ = nvfp4.quantize(torch.from_numpy(minus_zero), 16)
    assert unpack(quantized._quantized_data.numpy().reshape(1, -1), "e2m1")[0, 1] == 0
