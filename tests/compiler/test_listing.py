"""Listings: assembler text that can be read back, with the times of the timing model."""

from __future__ import annotations

import re

import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.listing import listing
from tilescore.rtl.spec.assembly import assemble
from tilescore.sim.program import Program
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import NANO


@pytest.fixture(scope="module")
def program() -> Program:
    layer = AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=16)
    return compile_layer(Workload(layer=layer, tokens=6), NANO, data=False).program


def test_head_names_tile_and_length(program: Program) -> None:
    first, *rest = listing(program).splitlines()
    assert first == f"# tile nano ({NANO.digest}), {len(program.instructions)} instructions"
    assert len(rest) == len(program.instructions)


def test_lines_assemble_to_the_instructions(program: Program) -> None:
    text = "\n".join(re.sub(r"^ *\d+ ", "", line) for line in listing(program).splitlines())
    assert assemble(text) == program.instructions


def test_labels_are_comments(program: Program) -> None:
    for line, phase, label in zip(listing(program).splitlines()[1:], program.phases, program.labels, strict=True):
        note = ": ".join(text for text in (phase, label) if text)
        assert line.endswith(f"  # {note}") if note else "# " not in line


def test_times_are_those_of_the_timing_model(program: Program) -> None:
    timing = time_program(program)
    lines = listing(program, timing).splitlines()
    assert lines[1] == f"# cycles {timing.cycles}; columns: index, issue, retire, stall"
    found = [tuple(int(word) for word in line.split()[:3]) for line in lines[2:]]
    assert found == list(zip(range(len(found)), timing.issue.tolist(), timing.retire.tolist(), strict=True))


def test_a_program_without_labels() -> None:
    layer = AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=16)
    whole = compile_layer(Workload(layer=layer, tokens=6), NANO, data=False).program
    bare = Program(**{**vars(whole), "labels": [], "phases": []})
    assert listing(bare).count("# ") == 1
