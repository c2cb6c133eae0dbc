"""Whole layers at the RTL level: the tiles on which headlines rest have run as hardware."""

from __future__ import annotations

import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.hardware.verilator_run import run_verilator
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_events, check_results, check_status, check_times
from tilescore.sim.timing import time_program

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    bool(missing_for_verilator()), reason="Verilator level: missing " + ", ".join(missing_for_verilator()))]


def check_whole(program: Program, *, dot_at_once: bool) -> int:
    """Every issue and retire cycle, event and byte; the cycles."""
    timing, state = time_program(program), run_reference(program)
    found = run_verilator(program, 2 * timing.cycles, dot_at_once=dot_at_once)
    check_times(program, timing, found)
    check_events(timing, found)
    check_status(state.status, found.status)
    check_results(program, state.dram, found.dram)
    return found.cycles


@pytest.mark.sampled
def test_the_main_jobs_attention_layer_on_edge() -> None:
    """Its PEs are the real ones. 64 tokens of Qwen3-30B-A3B."""
    layer = attention_layer(load_model("qwen3-30b-a3b"))
    assert check_whole(compile_layer(Workload(layer=layer, tokens=64), load_tile("edge")).program,
                       dot_at_once=False) > 600_000


@pytest.mark.sampled
def test_attention_on_the_whole_server() -> None:
    """16 x 128 PEs and all memories; four projections and the attention core, with products at once in the PEs."""
    layer = AttentionLayer(hidden=2048, heads=8, kv_heads=2, head_dim=128)
    program = compile_layer(Workload(layer=layer, tokens=128), load_tile("server")).program
    assert set(program.phases) >= {"q", "k", "v", "core", "out"}
    assert check_whole(program, dot_at_once=True) > 100_000
