"""The lane: the decoder of codes exhaustively, and every output at its stated lane cycle."""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.formats import E4M3, E5M2, FP32_NAN
from tilescore.rtl.spec.isa import Combine, Func
from tilescore.rtl.vector import timing
from tilescore.rtl.vector.lane import TWINS, VectorLane, fp32_of_code
from tilescore.sim.numerics import arithmetic
from tilescore.sim.numerics.element_codes import code_values


@pytest.mark.parametrize("spec", [E4M3, E5M2], ids=lambda spec: spec.name)
def test_every_code_as_fp32(spec):
    m = Module()
    code = Signal(8)
    word = fp32_of_code(m, code, spec)
    expected = code_values(spec.name)

    async def testbench(ctx):
        for value in np.flatnonzero(~np.isinf(expected)).tolist():
            ctx.set(code, value)
            if np.isnan(expected[value]):
                assert ctx.get(word) == FP32_NAN
            else:
                assert ctx.get(word) == expected.view(np.uint32)[value]

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()


def test_every_function_has_its_hardware():
    assert set(TWINS) == set(Func)


@pytest.mark.parametrize("quantized", [False, True])
def test_outputs_come_in_their_lane_cycles(quantized):
    """One element, with everything else zero before and after it: silu(3 * 0.5 - 0.25)."""
    dut = VectorLane()
    bits = {
        name: int(np.float32(value).view(np.uint32)) for name, value in (("x", 3), ("y", 0.5), ("z", 0.25))
    }
    use = {"x": 0, "y": 0, "z": timing.LANE_Z_SELECT - timing.OPERAND_LATENCY}
    controls = {
        "combine": (timing.LANE_Z_SELECT, Combine.SUB.value),
        "func": (timing.LANE_U, Func.SILU.value),
        "silu": (timing.LANE_W_SELECT, 1),
        "quantized": (timing.LANE_CODE, int(quantized)),
    }
    u = np.array([1.25], np.float32)
    out = arithmetic.mul_unpacked(arithmetic.special_function(3, u), u)
    code = arithmetic.quantize_e4m3(out)
    written = decode_e4m3_float(code).astype(np.float32) if quantized else out
    expected = {
        "out": (timing.LANE_OUT, int(arithmetic.fp32_bits(out)[0])),
        "code": (timing.LANE_CODE, int(code[0])),
        "written": (timing.LANE_WRITTEN, int(arithmetic.fp32_bits(written)[0])),
        "fixed": (timing.LANE_FIXED, int(arithmetic.to_fixed(written)[0])),
    }

    async def testbench(ctx):
        for cycle in range(timing.LANE_FIXED + 3):
            for name, when in use.items():
                ctx.set(getattr(dut, name), bits[name] if cycle == when else 0)
            for name, (when, value) in controls.items():
                ctx.set(getattr(dut, name), value if cycle == when else 0)
            for name, (when, value) in expected.items():
                assert (ctx.get(getattr(dut, name)) == value) == (cycle == when), (name, cycle)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
