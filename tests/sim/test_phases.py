"""Phases, stalls and the critical path: each sums to the whole, and each part is what an own calculation gives."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.rtl.plan import duration
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.events import EVENT_NAMES, event_counts
from tilescore.rtl.spec.isa import Unit
from tilescore.sim.critical_path import critical_path
from tilescore.sim.energy import energy_of, load_table
from tilescore.sim.phases import OVERHEAD, phases_of
from tilescore.sim.program import Program
from tilescore.sim.timing import BOOT, STALL_CAUSES, time_program
from tilescore.testing.random_program import random_program

NANO, TABLE = load_tile("nano"), load_table("7nm")
ATTENTION = Workload(layer=AttentionLayer(model="tiny", hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=9,
                     context=3, batch=2)
MOE = Workload(layer=MoELayer(model="tiny", hidden=48, experts=4, top_k=2, intermediate=16, norm_topk=True), tokens=7)
LAYERS = {"attention": (ATTENTION, ["k", "v", "q", "core", "out"]), "moe": (MOE, ["router", "experts", "combine"])}


def layer(name: str) -> Program:
    return compile_layer(LAYERS[name][0], NANO, data=False).program


def with_random_phases(rng: np.random.Generator, size: int = 60) -> Program:
    program = random_program(NANO, rng, size)
    return replace(program, phases=rng.choice(["", "one", "two", "three"], len(program.instructions)).tolist())


@pytest.fixture(params=["attention", "moe", "random", "without phases"])
def program(request: pytest.FixtureRequest, rng: np.random.Generator) -> Program:
    if request.param == "without phases":
        return random_program(NANO, rng, 40)
    return with_random_phases(rng) if request.param == "random" else layer(request.param)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_its_phases_in_order(name: str) -> None:
    program = layer(name)
    found = [phase.name for phase in phases_of(program, time_program(program), TABLE)]
    assert found == [*LAYERS[name][1], OVERHEAD]
    outside = [i.spec.name for i, phase in zip(program.instructions, program.phases, strict=True) if not phase]
    assert set(outside) <= {"LOAD", "SYNC", "HALT"} and outside[-1] == "HALT"


def test_phases_sum_to_the_whole(program: Program) -> None:
    timing = time_program(program)
    phases = phases_of(program, timing, TABLE)
    assert sum(phase.cycles for phase in phases) == timing.cycles
    assert sum(phase.instructions for phase in phases) == len(program.instructions) + 1
    for name in EVENT_NAMES:
        assert sum(phase.events[name] for phase in phases) == timing.events[name]
    for unit, causes in timing.ledger.items():
        for cause, cycles in causes.items():
            assert sum(phase.ledger[unit][cause] for phase in phases) == cycles
    whole = energy_of(timing.events, timing.cycles, program.config, TABLE)
    assert math.isclose(math.fsum(phase.energy_pj for phase in phases), whole.total_pj, rel_tol=1e-12)


def test_events_and_busy_cycles_are_those_of_the_instructions(program: Program) -> None:
    """Counted instruction by instruction; nothing but the boot LOAD and idle ends is left over for `OVERHEAD`."""
    timing = time_program(program)
    phases = {phase.name: phase for phase in phases_of(program, timing, TABLE)}
    busy: Counter = Counter({(OVERHEAD, Unit.LOAD): duration(program.boot_load(), program.config).occupancy})
    events = {name: Counter() for name in phases}
    events[OVERHEAD].update(event_counts(program.boot_load(), program.config))
    for n, i in enumerate(program.instructions):
        name = (program.phases[n] if program.phases else "") or OVERHEAD
        events[name].update(event_counts(i, program.config))
        if i.spec.unit != Unit.DISPATCH:
            busy[name, i.spec.unit] += duration(i, program.config).occupancy
    for name, phase in phases.items():
        assert {key: count for key, count in phase.events.items() if count} == +events[name]
        for unit in (Unit.LOAD, Unit.STORE, Unit.MATRIX, Unit.VECTOR):
            causes = phase.ledger[unit.name.lower()]
            assert busy[name, unit] == sum(causes.get(cause, 0) for cause in ("busy", "compute", "fill"))
            assert min(causes.values()) >= 0


def test_stalls_lie_before_the_issue(program: Program) -> None:
    """Each instruction issues when its unit is free and every stall before it is over, no later."""
    timing = time_program(program)
    held: Counter = Counter()
    for index, cause, cycles in timing.stalls.tolist():
        if STALL_CAUSES[cause] not in ("queue_full", "sync", "fetch", "halt"):
            assert cycles > 0
            held[index] += cycles
    load = program.boot_load()
    free = dict.fromkeys(Unit, 0) | {Unit.LOAD: timing.boot[1] + duration(load, program.config).occupancy}
    assert timing.boot[1] == held[BOOT]
    for n, i in enumerate(program.instructions):
        if i.spec.unit != Unit.DISPATCH:
            assert timing.issue[n] == free[i.spec.unit] + held[n]
            free[i.spec.unit] = timing.issue[n] + timing.occupancy[n]


def test_phases_one_after_the_other_take_their_time() -> None:
    """For phases that do not interleave, cycles run from the last retirement of one to that of the next.

    On a tile whose instruction memory holds the program, since page loads count as `OVERHEAD`.
    """
    program = compile_layer(MOE, replace(NANO, imem_page=2048), data=False).program
    timing = time_program(program)
    phases = phases_of(program, timing, TABLE)
    end = {name: int(timing.retire[[n for n, p in enumerate(program.phases) if p == name]].max())
           for name in LAYERS["moe"][1]}
    assert phases[1].cycles == end["experts"] - end["router"]
    assert phases[2].cycles == end["combine"] - end["experts"]


# The critical path --------------------------------------------------------------------------------------


def test_critical_path_sums_to_cycles(program: Program) -> None:
    timing = time_program(program)
    path = critical_path(program, timing)
    assert sum(cycles for units in path.values() for cycles in units.values()) == timing.cycles
    assert all(cycles > 0 for units in path.values() for cycles in units.values())


@pytest.mark.parametrize("name", LAYERS)
def test_a_longer_instruction_on_the_path_lengthens_the_program(name: str) -> None:
    """The path holds: one more cycle for a DMA of a unit that is on it costs a cycle, in the phase that is charged."""
    program = layer(name)
    timing = time_program(program)
    path = critical_path(program, timing)
    for n in range(len(program.instructions) - 1, -1, -1):
        i = program.instructions[n]
        phase = program.phases[n] or OVERHEAD
        if i.spec.unit != Unit.LOAD or (phase != "combine" and phase != "k"):
            continue
        d = duration(i, NANO)
        later = time_program(program, recorded={n: replace(d, occupancy=d.occupancy + 1, rd=d.rd + 1, wr=d.wr + 1)})
        grown = critical_path(program, later)
        if later.cycles > timing.cycles:
            assert later.cycles == timing.cycles + 1
            assert grown[phase]["load"] == path[phase]["load"] + 1
            return
    pytest.fail("no load of the phase is on the path")


def test_what_is_not_on_the_path_does_not_matter(rng: np.random.Generator) -> None:
    """DMA instructions of a unit and phase without a charge: a cycle less for each of them changes nothing."""
    checked = 0
    for _ in range(4):
        program = random_program(NANO, rng, 40)
        program = replace(program, phases=[f"part {n // 4}" for n in range(len(program.instructions))])
        timing = time_program(program)
        path = critical_path(program, timing)
        for unit in (Unit.LOAD, Unit.STORE):
            for name in dict.fromkeys(program.phases):
                if unit.name.lower() in path.get(name, {}):
                    continue
                shorter = {}
                for n, i in enumerate(program.instructions):
                    if i.spec.unit == unit and program.phases[n] == name and duration(i, NANO).occupancy > 1:
                        d = duration(i, NANO)
                        shorter[n] = replace(d, occupancy=d.occupancy - 1, rd=d.rd - 1, wr=d.wr - 1)
                assert time_program(program, recorded=shorter).cycles == timing.cycles
                checked += len(shorter)
    assert checked
