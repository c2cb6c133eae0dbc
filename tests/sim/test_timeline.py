"""Timelines: what they keep, that they come back, and the first instruction that differs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ProgramError
from tilescore.sim.program import Program
from tilescore.sim.timeline import Timeline, parting, timeline_of
from tilescore.sim.timing import time_program
from tilescore.testing.random_program import random_program

NANO = load_tile("nano")


@pytest.fixture
def program(rng: np.random.Generator) -> Program:
    made = random_program(NANO, rng, 50)
    count = len(made.instructions)
    return replace(made, labels=[f"step {n % 7}" for n in range(count)], phases=["a"] * (count // 2) + ["b"] * (
        count - count // 2))


def line(program: Program) -> Timeline:
    return timeline_of(program, time_program(program))


def test_it_keeps_times_and_texts(program: Program) -> None:
    timing, made = time_program(program), line(program)
    assert len(made) == len(program.instructions)
    assert np.array_equal(made.issue, timing.issue) and np.array_equal(made.retire, timing.retire)
    assert made.describe(3) == f"instruction 3 ({program.instructions[3].spec.name}, step 3, phase a)"


def test_packed_and_back(program: Program) -> None:
    made = line(program)
    back = Timeline.from_dict(json.loads(json.dumps(made.to_dict())))
    assert back.texts == made.texts and parting(made, back) is None
    for column in ("name", "label", "phase", "checksum", "issue", "retire"):
        assert np.array_equal(getattr(back, column), getattr(made, column))


def test_addresses_in_dram_do_not_matter_and_fields_do(program: Program) -> None:
    made = line(program)
    moved = copy.deepcopy(program)
    for i in moved.instructions:
        if i.spec.name == "LOAD":
            i.dram_addr += 64
    assert parting(made, line(moved)) is None
    other = copy.deepcopy(program)
    index = next(n for n, i in enumerate(other.instructions) if i.spec.name == "LOAD" and n > 5)
    other.instructions[index].addr += 1
    found = parting(made, line(other))
    assert found is not None and found.index == index and found.fields and "other fields" in str(found)


def test_the_first_later_cycle_is_found(program: Program) -> None:
    made = line(program)
    late = replace(made, issue=made.issue + (np.arange(len(made)) >= 11))
    found = parting(made, late)
    assert found is not None and found.index == 11 and not found.fields
    assert f"issues at cycle {made.issue[11]:,} and {made.issue[11] + 1:,}" in str(found)


def test_a_longer_program(program: Program) -> None:
    made = line(program)
    shorter = Timeline(texts=made.texts, **{c: getattr(made, c)[:-2] for c in (
        "name", "label", "phase", "checksum", "issue", "retire")})
    for old, new, text in ((made, shorter, "the second program ends"), (shorter, made, "the first program ends")):
        found = parting(old, new)
        assert found is not None and found.index == len(shorter) and text in str(found)


@pytest.mark.parametrize(("key", "value", "text"), [
    ("instructions", 0, "instructions must be a positive integer"), ("instructions", True, "instructions"),
    ("columns", "!", "columns cannot be unpacked"), ("columns", "AAAA", "columns cannot be unpacked"),
    ("texts", None, "texts cannot be unpacked"), ("instructions", 5, "expected 240 bytes for 5 instructions"),
])
def test_a_damaged_file_is_one_error(program: Program, key: str, value: object, text: str) -> None:
    with pytest.raises(ProgramError, match=f"^base: .*{text}"):
        Timeline.from_dict(line(program).to_dict() | {key: value}, "base")


def test_text_numbers_are_checked(program: Program) -> None:
    made = line(program)
    with pytest.raises(ProgramError, match="label names no text"):
        Timeline.from_dict(replace(made, label=made.label + 10**6).to_dict())
