# amaranth: UnusedElaboratable=no
"""Scales and divisors of blocks against `sim.numerics.block_codes`."""

import numpy as np
import pytest

from tilescore.rtl.arith.quotient import Divisor
from tilescore.rtl.spec.isa import Quant, Scale, ScaleRule
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.rtl.vector.block_scale import BlockScale
from tilescore.sim.numerics.block_codes import quantize_blocks
from tilescore.sim.numerics.element_codes import code_values
from tilescore.tests.rtl.arith.streams import hard_fp32, run_pipeline

BLOCKS = tuple(quant for quant, fmt in QUANT_FORMATS.items() if fmt.block)
MX = (Quant.MXFP8, Quant.MXFP8_E5M2, Quant.MXFP4, Quant.BLOCK128_E8M0)


def operands(rng, count):
    """amax and z: everything, but mostly magnitudes not far from each other, so that scales are in range."""
    z = hard_fp32(rng, count)
    near = (rng.integers(100, 160, count) << 23 | rng.integers(0, 1 << 23, count)).astype(np.uint32)
    z = np.where(rng.random(count) < 0.7, near, z)
    exponent = (z >> 23 & 0xFF).astype(np.int64) + rng.integers(-12, 24, count)
    amax = (exponent.clip(0, 255) << 23 | rng.integers(0, 1 << 23, count)).astype(np.uint32)
    amax = np.where(rng.random(count) < 0.3, hard_fp32(rng, count), amax) & np.uint32(0x7FFFFFFF)
    amax[rng.random(count) < 0.05] = 0
    return amax, z


def expected_divisor(amax, z, fmt, rule, scales) -> np.ndarray:
    """D of every block, from the stored scale where that says it all."""
    z = np.abs(z.view(np.float32))
    if fmt.scale == Scale.E4M3:
        z = np.where(np.isfinite(z), z, 0)
        return np.maximum(code_values("e4m3")[scales[:, 0]] * z, np.float32(2.0**-149)).astype(np.float64)
    if fmt.scale == Scale.E8M0:
        anchor = np.maximum((z.view(np.uint32) >> 23).astype(np.int64) - 127, -127)
        return np.ldexp(1.0, anchor - scales[:, 0])
    with np.errstate(invalid="ignore"):
        return np.maximum(amax.view(np.float32) / np.float32(448), np.float32(2.0**-126)).astype(np.float64)


def run_scale(dut, amax, z, quant, rule):
    inputs = {"amax": amax, "z": z, "quant": [int(q) for q in quant], "rule": rule}
    return run_pipeline(dut, inputs, ["divisor", "scale", "nan", "divisor4", "scale4"], dut.LATENCY)


def value_of(word: int) -> float:
    fields = Divisor.from_bits(word)
    assert fields.significand >> 23 == 1
    return np.ldexp(float(fields.significand), fields.exponent - 23)


def test_only_block_quantizers_have_scales():
    for quantizers in ((), (Quant.E4M3,)):
        with pytest.raises(ValueError, match="block scales"):
            BlockScale(quantizers)


@pytest.mark.always("all")
@pytest.mark.parametrize(
    ("built", "latency"),
    [(MX, 2), ((Quant.NVFP4,), 27), ((Quant.BLOCK128,), 27), ((Quant.NVFP4_46,), 27), (BLOCKS, 27)],
    ids=["mx", "nvfp4", "block128", "four-six", "all"],
)
def test_scales_of_changing_formats(built, latency, rng):
    count = 4000
    dut = BlockScale(built)
    assert latency == dut.LATENCY
    amax, z = operands(rng, count)
    quant = rng.choice(np.array(built), count)
    rule = rng.integers(0, 3, count)
    got = run_scale(dut, amax, z, quant, rule)
    for kind in built:
        fmt = QUANT_FORMATS[Quant.NVFP4 if kind == Quant.NVFP4_46 else kind]
        for scale_rule in ScaleRule:
            chosen = np.flatnonzero((quant == kind) & (rule == scale_rule))
            x = amax[chosen].view(np.float32)[:, None]
            _, scales = quantize_blocks(x, amax[chosen], z[chosen].view(np.float32), fmt, scale_rule)
            nan = scales.view("<u4")[:, 0] == 0x7FC00000 if fmt.scale == Scale.FP32 else (
                scales[:, 0] == (0x7F if fmt.scale == Scale.E4M3 else 0xFF))
            divisor = expected_divisor(amax[chosen], z[chosen], fmt, scale_rule, scales)
            for place, index in enumerate(chosen.tolist()):
                stored = int.from_bytes(scales[place].tobytes(), "little")
                shown = (kind.name, hex(amax[index]), hex(z[index]))
                assert got["nan"][index] == nan[place], shown
                assert got["scale"][index] == stored, (*shown, hex(got["scale"][index]), hex(stored))
                if not nan[place]:
                    assert value_of(got["divisor"][index]) == divisor[place], shown


def test_the_second_scale_is_for_a_maximum_of_four(rng):
    dut = BlockScale((Quant.NVFP4, Quant.NVFP4_46))
    amax, z = operands(rng, 1500)
    got = run_scale(dut, amax, z, [Quant.NVFP4_46] * 1500, [0] * 1500)
    with np.errstate(all="ignore"):
        six = amax.view(np.float32) / np.float32(4) * np.float32(6)  # an amax whose sixth is this one's quarter
    six = np.where(np.isfinite(six), six, 0)
    usable = (np.abs(six) > 2.0**-100) & ~np.array(got["nan"], bool)
    again = run_scale(dut, six.view(np.uint32), z, [Quant.NVFP4_46] * 1500, [0] * 1500)
    quarter = np.where(usable, amax, 0).astype(np.uint32).view(np.float32).astype(np.float64) / 4
    exact = usable & (six.astype(np.float64) / 6 == quarter)
    assert exact.sum() > 200
    for index in np.flatnonzero(exact).tolist():
        assert got["scale4"][index] == again["scale"][index]
        assert got["divisor4"][index] == again["divisor"][index]
