"""`simulate`: the levels agree on hand-written programs, and every disagreement is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError, SimulationError
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.rtl.spec.ledger import LEDGER_UNITS
from tilescore.sim.hardware.run import DramModel, RtlRun
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.reference.matmul_model import Status
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_events, check_results, check_status, check_times, status_names
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import Timing, time_program

NANO, EDGE = load_tile("nano"), load_tile("edge")

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="the rtl level under Verilator lacks " + ", ".join(missing_for_verilator()))


def hardware(timing: Timing, dram: np.ndarray) -> RtlRun:
    """A hardware run that agrees with the model."""
    return RtlRun(dispatch=timing.dispatch, issue=timing.issue, rd=timing.rd, retire=timing.retire, boot=timing.boot,
                  cycles=timing.cycles, ledger=timing.ledger, events=timing.events, dram=dram,
                  status=0)


def test_reference_and_timing(tiny_program, rng: np.random.Generator) -> None:
    for config in (NANO, EDGE):
        program = tiny_program(config, rng)
        verify(program)
        result = simulate(program)
        assert list(result.levels) == ["reference", "timing"] and result.rtl is None
        assert result.levels["timing"].cycles == result.cycles and result.levels["timing"].result_sha256 is None
        dram = run_reference(program).dram
        assert result.levels["reference"].result_sha256 == program.result_sha256(dram)
        assert result.outputs is not None
        for region in program.outputs:
            assert result.outputs[region.name].shape == region.shape
            assert np.array_equal(result.outputs[region.name], region.read(dram), equal_nan=region.dtype == "float32")


def test_timing_alone_needs_no_data(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    without = replace(program, segments=[replace(s, data=None) for s in program.segments])
    result = simulate(without, ["timing"])
    assert result.outputs is None and list(result.levels) == ["timing"]
    assert result.cycles == simulate(program).cycles


def test_to_dict_is_json_with_the_agreed_names(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["attention"](NANO, rng)
    result = simulate(replace(program, meta={"useful_macs": 1234}), energy_table="130nm")
    report = json.loads(json.dumps(result.to_dict()))
    assert {"cycles", "dram_bytes", "ledger", "energy", "instructions", "levels", "wall_s"} <= set(report)
    assert set(report["levels"]["reference"]) == {"cycles", "result_sha256"}
    assert set(report["ledger"]) == set(LEDGER_UNITS) and set(report["events"]) == set(EVENT_NAMES)
    assert report["energy"]["table"] == "130nm"
    assert report["energy"]["pj_per_op"] == pytest.approx(report["energy"]["total_pj"] / 2468)
    assert report["dram_bytes"]["read"] == result.events["dram_read_beats"] * NANO.bus_bytes


def test_status_flags_are_compared() -> None:
    assert status_names(Status.INEXACT | Status.NAN) == ("inexact", "nan") and status_names(0) == ()
    check_status(int(Status.NAN), 4)
    with pytest.raises(SimulationError, match="overflow and inf at the reference level, none in the rtl"):
        check_status(int(Status.OVERFLOW | Status.INF), 0)


def test_status_flags_of_a_program(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    for code, status in ((0x7E, ()), (0x7F, ("nan",))):
        codes = [replace(s, data=np.full(s.size, code, np.uint8)) for s in program.segments]
        result = simulate(replace(program, segments=codes))
        assert result.status == status == tuple(result.to_dict()["status"])
    assert simulate(program, ["timing"]).status is None


def test_progress_reaches_the_instructions(tiny_programs, rng: np.random.Generator) -> None:
    seen: list[tuple[int, int]] = []
    program = tiny_programs["gather"](EDGE, rng)
    simulate(program, ["reference"], progress=lambda done, total: seen.append((done, total)))
    assert seen and all(0 < done <= total == len(program.instructions) for done, total in seen)


@needs_verilator
def test_all_levels_agree(tiny_program, rng: np.random.Generator) -> None:
    """Results, cycles of every instruction, ledger and events: `simulate` raises where they differ."""
    for _ in range(3):
        program = tiny_program(NANO, rng)
        verify(program)
        result = simulate(program, LEVELS)
        assert list(result.levels) == list(LEVELS)
        assert result.levels["rtl"].cycles == result.levels["timing"].cycles == result.cycles
        assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256
        assert result.rtl is not None and result.rtl.events == result.events


@needs_verilator
@pytest.mark.parametrize("stall", [30, 300, 850])
def test_random_stalls_change_times_but_not_results(stall: int, tiny_program, seed: int,
                                                    rng: np.random.Generator) -> None:
    program = tiny_program(NANO, rng)
    result = simulate(program, LEVELS, dram=DramModel(stall_per_mille=stall, seed=seed))
    assert result.rtl is not None and result.rtl.cycles >= result.cycles
    if stall > 100:
        assert result.rtl.cycles > result.cycles
    for unit, causes in result.rtl.ledger.items():
        assert sum(causes.values()) == result.rtl.cycles, unit


@pytest.mark.slow
@needs_verilator
def test_all_levels_agree_on_edge(tiny_program, rng: np.random.Generator) -> None:
    simulate(tiny_program(EDGE, rng), LEVELS)


@pytest.mark.sampled
def test_amaranth_simulator_agrees(tiny_program, seed: int, rng: np.random.Generator) -> None:
    program = tiny_program(NANO, rng)
    simulate(program, LEVELS, backend="amaranth")
    simulate(program, LEVELS, backend="amaranth", dram=DramModel(stall_per_mille=200, seed=seed))


def test_amaranth_simulator_on_one_program(tiny_programs, rng: np.random.Generator) -> None:
    result = simulate(tiny_programs["matmul"](NANO, rng), LEVELS, backend="amaranth")
    assert result.levels["rtl"].cycles == result.cycles


@pytest.mark.parametrize(("levels", "options", "text"), [
    (["reference", "spice"], {}, "unknown level 'spice'; allowed: reference, timing, rtl"),
    ([], {}, "levels must be a list"),
    ("timing", {}, "levels must be a list"),
    (["timing"], {"backend": "icarus"}, "unknown backend 'icarus'"),
])
def test_wrong_arguments(levels, options: dict, text: str, tiny_programs, rng: np.random.Generator) -> None:
    with pytest.raises(SimulationError, match=text):
        simulate(tiny_programs["matmul"](NANO, rng), levels, **options)


def test_wrong_energy_table_and_stall(tiny_programs, rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match=r"2nm"):
        simulate(tiny_programs["matmul"](NANO, rng), ["timing"], energy_table="2nm")
    with pytest.raises(SimulationError, match=r"stall_per_mille must be in 0..900, got 1000"):
        DramModel(stall_per_mille=1000)


@pytest.mark.parametrize("name", ["dispatch", "issue", "rd", "retire"])
def test_a_cycle_that_differs_is_named(name: str, tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    timing = time_program(program)
    rtl = hardware(timing, program.initial_dram())
    check_times(program, timing, rtl)
    late = getattr(rtl, name).copy()
    late[2:4] += 1
    with pytest.raises(SimulationError, match=rf"instruction 2 \(MATMUL\): {name} at cycle {late[2] - 1} in the "
                                              rf"timing model, {late[2]} in the rtl"):
        check_times(program, timing, replace(rtl, **{name: late}))
    with pytest.raises(SimulationError, match="boot LOAD: retire"):
        check_times(program, timing, replace(rtl, boot=(*timing.boot[:3], 0)))


def test_cycles_ledger_and_events_that_differ_are_named(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    timing = time_program(program)
    rtl = hardware(timing, program.initial_dram())
    with pytest.raises(SimulationError, match=r"[0-9]+ cycles in the timing model, 7 in"):
        check_times(program, timing, replace(rtl, cycles=7))
    ledger = {unit: dict(causes) for unit, causes in timing.ledger.items()}
    ledger["vector"]["idle"] += 1
    with pytest.raises(SimulationError, match="ledger of the vector unit: idle is"):
        check_times(program, timing, replace(rtl, ledger=ledger))
    check_events(timing, rtl)
    with pytest.raises(SimulationError, match="events: drain_rows is"):
        check_events(timing, replace(rtl, events={**timing.events, "drain_rows": 0}))


def test_a_result_that_differs_is_named(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    dram = run_reference(program).dram
    check_results(program, dram, dram.copy())
    region = program.outputs[0]
    wrong = dram.copy()
    wrong[region.addr + 2 * region.row_stride + 5] ^= 0x80
    with pytest.raises(SimulationError, match=r"result c, row 2, element 1: 0x.* \(1 bytes differ\)"):
        check_results(program, dram, wrong)
    stray = dram.copy()
    stray[0] ^= 1
    with pytest.raises(SimulationError, match="DRAM byte 0, outside of the results"):
        check_results(program, dram, stray)
