"""The processing element against integers: accumulate, capture, hold, shift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.matrix.timing import pe_latency
from tilescore.rtl.spec.config import TileConfig
from tilescore.sim.numerics import arithmetic
from tilescore.tests.rtl.matrix.bench import NANO, random_codes

CYCLES = 400


def word(codes: np.ndarray) -> int:
    return int.from_bytes(codes.tobytes(), "little")


class Stimulus:
    """Random inputs of every cycle: groups and tags, drain control, values from the PE above."""

    def __init__(self, config: TileConfig, rng: np.random.Generator) -> None:
        self.a = random_codes(rng, (CYCLES, config.lanes), 0.002)
        self.b = random_codes(rng, (CYCLES, config.lanes), 0.002)
        self.valid, self.first, self.last = (rng.random((3, CYCLES)) < [[0.7], [0.2], [0.2]]).astype(int)
        self.start, self.shift = (rng.random((2, CYCLES)) < [[0.15], [0.6]]).astype(int)
        self.above = [(int(v), int(f)) for v, f in zip(
            rng.integers(-1 << 62, 1 << 62, CYCLES), rng.integers(0, 16, CYCLES), strict=True)]
        self.first[np.argmax(self.valid)] = 1


def expected_shadow(config: TileConfig, s: Stimulus) -> list[tuple[int, int] | None]:
    """(value, flags) of the shadow register in every cycle; None before its first capture."""
    products, nans = arithmetic.e4m3_products(s.a, s.b)
    capture = {}
    value, flags = 0, 0
    half = 1 << (config.acc_bits - 1)
    for t in range(CYCLES):
        if not s.valid[t]:
            continue
        if s.first[t]:
            value, flags = 0, 0
        value = (value + int(products[t].sum()) + half) % (2 * half) - half
        flags |= int(nans[t].any())
        if s.last[t]:
            capture[t + pe_latency(config) - 1] = (value, flags)
    shadow, held, seen = None, False, []
    for t in range(CYCLES):
        seen.append(shadow)
        if t in capture:
            shadow, held = capture[t], True
            continue
        if s.shift[t] and (s.start[t] or not held):
            shadow = s.above[t] if shadow is not None else None
        if s.start[t]:
            held = False
    return seen


@pytest.mark.parametrize(("lanes", "acc_bits"), [(8, 64), (2, 80)])
def test_random_steps_and_drains(lanes: int, acc_bits: int, rng: np.random.Generator) -> None:
    config = replace(NANO, lanes=lanes, acc_bits=acc_bits, acc_banks=12)
    dut = ProcessingElement(config)
    s = Stimulus(config, rng)
    expected = expected_shadow(config, s)
    checked = 0

    async def testbench(ctx) -> None:
        nonlocal checked
        for t in range(CYCLES):
            ctx.set(dut.a_in.data, word(s.a[t]))
            ctx.set(dut.b_in, word(s.b[t]))
            for name in ("valid", "first", "last"):
                ctx.set(dut.a_in.tags[name], int(getattr(s, name)[t]))
            ctx.set(dut.start, int(s.start[t]))
            ctx.set(dut.shift, int(s.shift[t]))
            ctx.set(dut.drain_in.value, s.above[t][0])
            ctx.set(dut.drain_in.flags.as_value(), s.above[t][1])
            if t:
                assert ctx.get(dut.a_out.tags.valid) == s.valid[t - 1]
                latest = max((i for i in range(t) if s.valid[i]), default=None)
                if latest is not None:  # what is not valid does not move
                    assert ctx.get(dut.a_out.data) == word(s.a[latest])
                    tags = ctx.get(dut.a_out.tags.first), ctx.get(dut.a_out.tags.last)
                    assert tags == (s.first[latest], s.last[latest])
                    assert ctx.get(dut.b_out) == word(s.b[latest])
            if expected[t] is not None:
                seen = ctx.get(dut.drain_out.value), ctx.get(dut.drain_out.flags.as_value())
                assert seen == expected[t], f"cycle {t}"
                checked += 1
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert checked > CYCLES // 2
