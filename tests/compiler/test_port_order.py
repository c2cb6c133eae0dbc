"""Programs for a shared DRAM port: stores where their results are ready, each unit in its own order, the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilescore.compiler import builder
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, MlpLayer, Workload
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import QUEUE_UNITS, Space
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.timing import time_program

EDGE = load_tile("edge")
SHARED = dataclasses.replace(EDGE, dram_shared=True)
ATTENTION = Workload(layer=AttentionLayer(hidden=128, heads=4, kv_heads=2, head_dim=32), tokens=96)
MLP = Workload(layer=MlpLayer(hidden=256, intermediate=512), tokens=64)


def own(program: Program, unit: int) -> list:
    """The unit's instructions without page loads, which stand where pages begin."""
    return [instruction for instruction in program.instructions
            if instruction.spec.unit == unit and getattr(instruction, "space", None) != Space.PROGRAM]


@pytest.mark.parametrize("workload", [ATTENTION, MLP], ids=["attention", "mlp"])
def test_units_do_the_same_and_results_have_the_same_bits(workload: Workload) -> None:
    apart, placed = (compile_layer(workload, tile, seed=1).program for tile in (EDGE, SHARED))
    verify(placed)
    for unit in QUEUE_UNITS:
        assert own(placed, unit) == own(apart, unit)
    assert [i.spec.name for i in placed.instructions] != [i.spec.name for i in apart.instructions]
    ends = [run_reference(program).dram for program in (apart, placed)]
    for region, other in zip(apart.outputs, placed.outputs, strict=True):
        assert np.array_equal(region.read(ends[0]), other.read(ends[1]))


def test_stores_do_not_hold_up_loads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer takes hardly more than with a port each and its written beats; in the order of emission far more."""
    apart, placed = (time_program(compile_layer(MLP, tile, data=False).program) for tile in (EDGE, SHARED))
    monkeypatch.setattr(builder, "in_port_order", lambda instructions, notes, config: (instructions, notes))
    emitted = time_program(compile_layer(MLP, SHARED, data=False).program)
    assert apart.cycles < placed.cycles < 1.01 * (apart.cycles + apart.events["dram_write_beats"])
    assert placed.ledger["load"]["wait_port"] < emitted.ledger["load"]["wait_port"] / 2
    assert placed.cycles < emitted.cycles and placed.events == emitted.events
