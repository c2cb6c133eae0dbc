"""Pace: beats leave when the DRAM has had its time for them, alone and in bursts, from one instruction to the next."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.dma.pace import Pace
from tilescore.rtl.spec.config import load_tile

NANO = load_tile("nano")


def bursts_of(beats: int, rng: np.random.Generator) -> list[int]:
    """Lengths of random bursts, ``beats`` in all."""
    lengths = []
    while sum(lengths) < beats:
        lengths.append(min(int(rng.integers(1, 20)), beats - sum(lengths)))
    return lengths


def run(config, instructions: list[list[int]], held: set[int], count: int) -> list[int]:
    """Cycles in which beats leave; instructions are lists of bursts. held: cycles in which the port is not ready."""
    dut = Pace(config)
    waiting = [(length - 1, n == len(bursts) - 1, k == length - 1)
               for bursts in instructions for n, length in enumerate(bursts) for k in range(length)]
    more = [length - 1 - k for bursts in instructions for length in bursts for k in range(length)]
    sent: list[int] = []

    async def bench(ctx) -> None:
        for cycle in range(count):
            beat = len(sent)
            ctx.set(dut.valid, int(beat < len(waiting)))
            taken = 0
            if beat < len(waiting):
                # Within a burst what is announced may grow: rows that touch are counted up to a limit.
                ctx.set(dut.more, more[beat] + (3 if more[beat] < waiting[beat][0] else 0))
                ctx.set(dut.last, int(waiting[beat][1] and waiting[beat][2]))
                taken = ctx.get(dut.go) and cycle not in held
            ctx.set(dut.taken, int(taken))
            if taken:
                sent.append(cycle)
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return sent


@pytest.mark.parametrize("rate", [1, 12.8, "16/3", "47/3", "1000001/1000000"])
def test_beats_end_with_their_time_and_bursts_have_no_pause(rate, rng: np.random.Generator) -> None:
    config = dataclasses.replace(NANO, dram_bytes_per_cycle=rate)
    instructions = [bursts_of(int(rng.integers(1, 40)), rng) for _ in range(6)]
    cycles = [math.ceil(sum(bursts) * config.beat_cycles) for bursts in instructions]
    sent = run(config, instructions, set(), sum(cycles) + 5)
    start, expected = 0, []
    for bursts, length in zip(instructions, cycles, strict=True):
        beats = 0
        for burst in bursts:
            beats += burst
            end = start + math.ceil(beats * config.beat_cycles)
            expected += range(end - burst, end)
        start += length
        assert expected[-1] == start - 1
    assert sent == expected


def test_a_port_that_is_not_ready_only_delays(rng: np.random.Generator) -> None:
    """A beat that was held up leaves at once; none leaves before its time."""
    config = dataclasses.replace(NANO, dram_bytes_per_cycle=5)
    instructions = [bursts_of(20, rng) for _ in range(4)]
    held = set(rng.integers(0, 250, 80).tolist())
    late, prompt = run(config, instructions, held, 600), run(config, instructions, set(), 600)
    assert len(late) == len(prompt) == 80
    assert all(a >= b for a, b in zip(late, prompt, strict=True)) and late[-1] <= prompt[-1] + len(held)
    assert not held & set(late)
