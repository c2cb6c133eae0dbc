"""The float64 result inside a program file: there after a round trip, invisible to the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import Workload
from tilescore.compiler.store import ROUTED_SEGMENT, SEGMENT, embed_expected, expected_of
from tilescore.rtl.spec.errors import ProgramError
from tilescore.sim.program import Program, Segment
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EDGE, NANO, play, same_bits


@pytest.fixture(scope="module")
def compiled() -> CompiledLayer:
    layer = MoELayer(hidden=20, experts=3, top_k=2, intermediate=16, norm_topk=True)
    return compile_layer(Workload(layer=layer, tokens=5), NANO)


def embedded(compiled: CompiledLayer) -> Program:
    assert compiled.expected is not None
    return embed_expected(compiled.program, compiled.expected)


def test_round_trip_through_a_file(compiled: CompiledLayer, tmp_path: Path) -> None:
    embedded(compiled).save(tmp_path / "layer.score")
    loaded = Program.load(tmp_path / "layer.score")
    held = expected_of(loaded)
    assert held is not None and compiled.expected is not None and same_bits(held, compiled.expected)
    assert loaded.instructions == compiled.program.instructions and loaded.labels == compiled.program.labels


def test_both_references_lie_beside_each_other(compiled: CompiledLayer) -> None:
    assert compiled.expected is not None
    both = embed_expected(embedded(compiled), 2 * compiled.expected, ROUTED_SEGMENT)
    one, other = expected_of(both), expected_of(both, ROUTED_SEGMENT)
    assert one is not None and other is not None
    assert same_bits(one, compiled.expected) and same_bits(other, 2 * compiled.expected)
    assert expected_of(embedded(compiled), ROUTED_SEGMENT) is None


def test_the_program_does_not_notice(compiled: CompiledLayer) -> None:
    program = embedded(compiled)
    assert same_bits(play(program), play(compiled.program))
    assert time_program(program).cycles == time_program(compiled.program).cycles


def test_the_original_is_not_changed(compiled: CompiledLayer) -> None:
    before = (len(compiled.program.segments), compiled.program.dram_bytes)
    program = embedded(compiled)
    assert (len(compiled.program.segments), compiled.program.dram_bytes) == before
    assert expected_of(compiled.program) is None
    assert program.segments[-1].name == SEGMENT and program.segments[-1].addr >= compiled.program.dram_bytes
    assert program.segments[-1].addr % NANO.bus_bytes == 0


def test_a_program_for_timing_only_holds_nothing() -> None:
    layer = MoELayer(hidden=20, experts=3, top_k=2, intermediate=16, norm_topk=True)
    assert expected_of(compile_layer(Workload(layer=layer, tokens=5), EDGE, data=False).program) is None


@pytest.mark.parametrize("data", [None, np.zeros(8, np.uint8), np.zeros(808, np.uint8)], ids=["none", "short", "long"])
def test_a_wrong_size_is_an_error(compiled: CompiledLayer, data: np.ndarray | None) -> None:
    program = compiled.program
    size = 800 if data is None else data.size
    wrong = Program(**{**vars(program), "dram_bytes": program.dram_bytes + 1600, "segments": [
        *program.segments, Segment(SEGMENT, program.dram_bytes, data, size)]})
    with pytest.raises(ProgramError, match=r"segment expected \(float64 layer\): expected 800 bytes of float64 for "
                                           r"\(5, 20\), got"):
        expected_of(wrong)
