"""Power-of-two block scales and anchors against `sim.numerics.block_scales`."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from tilescore.rtl.arith.block_scale import anchor_word, scale_field
from tilescore.rtl.spec.isa import Quant, ScaleRule
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.numerics.block_scales import anchor_exponent
from tilescore.tests.rtl.arith.streams import hard_fp32

ANCHORED = tuple(quant for quant, fmt in QUANT_FORMATS.items() if fmt.anchored)


def words_near_boundaries(rng) -> np.ndarray:
    fractions = np.array([0, 1 << 22, 0x600000, 0x700000, 0x780000, 0x7FFFFF], np.int64)
    words = rng.integers(0, 255, 60)[:, None] * (1 << 23) + fractions + rng.integers(-1, 2, (60, 6))
    return np.concatenate([words.ravel().clip(0).astype(np.uint32), hard_fp32(rng, 200)])


@pytest.mark.parametrize("quant", ANCHORED, ids=lambda quant: quant.name.lower())
def test_scales_and_anchors_follow_the_rules(quant, rng):
    m, fmt = Module(), QUANT_FORMATS[quant]
    word, kind, rule = Signal(32), Signal(4, init=quant), Signal(2)
    field = scale_field(m, word[:31], kind, rule, built=ANCHORED, name="scale")
    anchor = anchor_word(m, word, kind, rule, built=ANCHORED)
    words = words_near_boundaries(rng)
    magnitude = words & np.uint32(0x7FFFFFFF)
    finite = magnitude < 0x7F800000
    lowest = -126 if quant == Quant.BLOCK128 else -127

    async def testbench(ctx):
        for scale_rule in ScaleRule:
            expected = anchor_exponent(np.where(finite, magnitude, 0), fmt, scale_rule)
            ctx.set(rule, scale_rule)
            for index, value in enumerate(words.tolist()):
                ctx.set(word, value)
                if finite[index]:
                    assert max(ctx.get(field) - 127, lowest) == expected[index]
                    power = np.array(ctx.get(anchor), np.uint32).view(np.float32)
                    assert float(power) == 2.0 ** int(expected[index])
                else:
                    assert ctx.get(anchor) == 0x7FC00000

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
