"""MATMUL of every element pair and block scale in hardware: bits, flags, cycles and status of random programs."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.rtl import plan
from tilescore.rtl.spec.formats import headroom
from tilescore.rtl.spec.isa import Matmul, Pair, Scale
from tilescore.tests.rtl.matrix.bench import (
    FORMAT_CONFIGS,
    FORMATS,
    NVFP4,
    MatmulModel,
    UnitBench,
    random_matmul,
    scale_of_bank,
)
from tilescore.tests.rtl.matrix.test_unit import check_trace


@pytest.mark.always("everything")
@pytest.mark.parametrize("name", FORMAT_CONFIGS)
def test_random_programs_mix_formats(name: str, rng: np.random.Generator) -> None:
    """Formats change from one instruction to the next, without a gap."""
    config = FORMAT_CONFIGS[name]
    model = MatmulModel(config, rng, nan_rate=0.0005)
    program = [random_matmul(config, rng) for _ in range(16)]
    bench = UnitBench(config, model)

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issues = []
        for instruction in program:
            issues.append(await bench.issue(ctx, instruction))
            model.matmul(instruction)
        await bench.drain(ctx, program[-1], issues[-1])
        check_trace(bench, program, issues)
        await bench.check_acc(ctx)
        assert bench.trace.status == model.status

    bench.run(testbench)


def test_fp4_takes_half_the_cycles_of_fp8(rng: np.random.Generator) -> None:
    """The same m, n and k = 256 in E4M3, W4A8, NVFP4 and MXFP4, back to back: cycles between the wr pulses."""
    common = {"m_rows": 6, "n_tiles": 3, "acc_pitch": 8}
    program = [Matmul(**common, **fields) for fields in (
        {"k_steps": 32, "a_pitch": 32},
        {"k_steps": 32, "a_pitch": 32, "b_pitch": 16, "pair": Pair.E4M3_E2M1, "scale": Scale.E4M3, "b_scaled": 1,
         "block": 1},
        {"k_steps": 16, "a_pitch": 16, "b_pitch": 16, "pair": Pair.E2M1, "scale": Scale.E4M3, "a_scaled": 1,
         "b_scaled": 1},
        {"k_steps": 16, "a_pitch": 16, "b_pitch": 16, "pair": Pair.E2M1, "scale": Scale.E8M0, "a_scaled": 1,
         "b_scaled": 1, "block": 1, "headroom": 47})]
    fp8, w4a8, nvfp4, mxfp4 = (plan.duration(i, FORMATS).occupancy for i in program)
    assert fp8 == w4a8 == 2 * nvfp4 == 2 * mxfp4 == 2 * 3 * 32
    model = MatmulModel(FORMATS, rng, nan_rate=0)
    bench = UnitBench(FORMATS, model)

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issued = 0
        for instruction in program:
            issued = await bench.issue(ctx, instruction)
            model.matmul(instruction)
        await bench.drain(ctx, program[-1], issued)
        await bench.check_acc(ctx)
        first, *later = [cycle for cycle, _ in bench.trace.wr]
        assert np.diff([first, *later]).tolist() == [w4a8, nvfp4, mxfp4]
        assert bench.trace.events["b_group_reads"] == 2 * 3 * (32 + 16 + 16 + 16) * FORMATS.cols

    bench.run(testbench)


@pytest.mark.always("nvfp4")
@pytest.mark.parametrize("mode", [
    {"scale": Scale.E8M0, "block": 2}, {"pair": Pair.E2M1, "scale": Scale.E4M3},
    {"pair": Pair.E4M3_E2M1, "scale": Scale.E8M0, "block": 2}], ids=["mxfp8", "nvfp4", "w4a8-mx"])
def test_a_split_along_k_in_any_order_has_the_bits_of_the_whole(mode: dict, rng: np.random.Generator) -> None:
    """24 steps in one instruction, and in three, last part first, through raw partial accumulators."""
    config, every = FORMATS, 2 if mode.get("pair") == Pair.E4M3_E2M1 else 1
    bank = next(b for b in range(config.a_banks) if scale_of_bank(config, b) == mode["scale"])
    a, b = bank << config.a_offset_bits, bank << config.b_offset_bits
    fields = {"m_rows": 4, "n_tiles": 1, "a_scaled": 1, "b_scaled": 1, **mode}
    if mode["scale"] == Scale.E8M0:
        fields["headroom"] = headroom(mode.get("pair", Pair.E4M3), Scale.E8M0, 32, 6, 64)
    program = [Matmul(k_steps=24, a_addr=a, b_addr=b, acc_addr=0, **fields)]
    for number, (start, steps) in enumerate(((16, 8), (0, 12), (12, 4))):
        program.append(Matmul(k_steps=steps, a_addr=a + start, b_addr=b + start // every, acc_addr=8,
                              raw=int(number < 2), merge=int(number > 0), **fields))
    model = MatmulModel(config, rng, nan_rate=0)
    bench = UnitBench(config, model)

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issued = 0
        for instruction in program:
            issued = await bench.issue(ctx, instruction)
        await bench.drain(ctx, program[-1], issued)
        rows = [[await bench.read_row(ctx, addr + row) for row in range(4)] for addr in (0, 8)]
        assert rows[0] == rows[1] and any(map(any, rows[0]))

    bench.run(testbench)


def test_status_names_what_a_result_has_met(rng: np.random.Generator) -> None:
    """One cause at a time: a NaN scale is NaN; raw rows and masked values do not count."""
    config = NVFP4
    model = MatmulModel(config, rng, nan_rate=0)
    model.a_scale[:, :8], model.b_scale[:, :8] = 0x38, 0x38
    model.b_scale[1, 0] = 0x7F  # column 1 of every result
    bench = UnitBench(config, model)
    fields = {"k_steps": 4, "m_rows": 4, "n_tiles": 1, "pair": Pair.E2M1, "scale": Scale.E4M3, "a_scaled": 1,
              "b_scaled": 1}
    seen = []

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        for more in ({"raw": 1}, {"mask": 1, "mask_base": 0}, {"b_scaled": 0}, {}):
            bench.trace.status.clear()
            instruction = Matmul(**fields | more)
            issued = await bench.issue(ctx, instruction)
            model.matmul(instruction)
            await bench.drain(ctx, instruction, issued)
            seen.append(bench.trace.status["nan"])
            assert not any(bench.trace.status[name] for name in ("inexact", "overflow", "inf"))

    bench.run(testbench)
    assert seen == [False, False, False, True]
