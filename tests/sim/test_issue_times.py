"""Timing by induction equals timing instruction by instruction, and induction is what repeated programs get."""

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.sim import issue_times
from tilescore.sim.program import Program
from tilescore.sim.stretches import Stretch, stretches
from tilescore.sim.timing import Timing, time_program
from tilescore.testing.random_program import random_program

NANO = load_tile("nano")


def plainly(program: Program, monkeypatch: pytest.MonkeyPatch) -> Timing:
    """The timing with the whole program as one stretch: nothing can be taken from an earlier one."""
    with monkeypatch.context() as patch:
        patch.setattr(issue_times, "stretches", lambda kinds, longest: [Stretch(0, len(kinds), -1)])
        return time_program(program)


def check_equal(found: Timing, plain: Timing) -> None:
    for name in ("dispatch", "issue", "rd", "retire", "stalls"):
        assert np.array_equal(getattr(found, name), getattr(plain, name)), name
    assert (found.cycles, found.ledger, found.events) == (plain.cycles, plain.ledger, plain.events)


def repeated_program(config: TileConfig, rng: np.random.Generator) -> Program:
    """Random bodies, repeated, also in each other, with random instructions in between."""
    drawn = random_program(config, rng, int(rng.integers(20, 60)))
    source = [i for i in drawn.instructions if i.spec.name not in ("SYNC", "HALT") and not
              (i.spec.name == "LOAD" and i.space == 4)]
    builder = ProgramBuilder(config)
    for segment in drawn.segments:
        assert builder.dram(segment.name, segment.size, segment.data).addr == segment.addr
    for instruction in source:
        instruction.wait_rd = instruction.wait_wr = instruction.signal_rd = instruction.signal_wr = 0
        builder.emit(instruction)
    for _ in range(int(rng.integers(1, 4))):
        low = int(rng.integers(0, len(source)))
        body = source[low:low + int(rng.integers(2, 24))]
        inner, times = int(rng.integers(1, 4)), int(rng.integers(12, 48))
        for _ in range(times):
            for instruction in body:
                builder.emit(instruction)
            for _ in range(inner):
                for instruction in body[:3]:
                    builder.emit(instruction)
    return builder.finish()


def check(config: TileConfig, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> int:
    """Instructions timed by induction; the cycles are compared."""
    program = repeated_program(config, rng)
    found, plain = time_program(program), plainly(program, monkeypatch)
    check_equal(found, plain)
    assert plain.repeated == 0
    return found.repeated


def test_stretches_cover_the_program_and_equal_ones_have_one_number(rng: np.random.Generator) -> None:
    body = rng.integers(0, 9, 200).astype(np.int32)
    kinds = np.concatenate([body, rng.integers(0, 9, 37).astype(np.int32), body, body])
    parts = stretches(kinds)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])] and parts[-1].end == len(kinds)
    content: dict[int, bytes] = {}
    for part in parts:
        if part.number >= 0:
            assert content.setdefault(part.number, kinds[part.start:part.end].tobytes()) == kinds[
                part.start:part.end].tobytes()
    assert sum(part.end - part.start for part in parts if part.number >= 0) > 400


def test_random_repeated_programs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(check(NANO, rng, monkeypatch) > 0 for _ in range(12)) >= 3


@pytest.mark.slow
def test_many_random_repeated_programs(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    found = [check(NANO, rng, monkeypatch) for _ in range(200 * depth)]
    assert sum(repeated > 0 for repeated in found) >= 80 * depth
