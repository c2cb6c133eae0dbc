"""Reports: numbers that follow from each other, the numerical error, the table, the description in a program."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.products import useful_macs
from tilescore.compiler.report import check_description, describe, layer_report, rel_rms_error, table
from tilescore.rtl.spec.errors import ProgramError
from tilescore.sim.energy import load_table
from tilescore.sim.program import Program
from tilescore.sim.simulate import simulate
from tilescore.tests.compiler.play import EDGE, NANO

ATTENTION = Workload(layer=AttentionLayer(model="tiny", hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=9,
                     context=3, batch=2)
MOE = Workload(layer=MoELayer(model="tiny", hidden=48, experts=4, top_k=2, intermediate=16, norm_topk=True), tokens=7)


def report_of(workload: Workload, levels: tuple[str, ...] = ("reference", "timing")) -> tuple[CompiledLayer, dict]:
    compiled = compile_layer(workload, NANO, seed=5)
    meta = describe(compiled, NANO, seed=5)
    compiled.program.meta.update(meta)
    result = simulate(compiled.program, levels)
    return compiled, layer_report(meta, compiled.program, result, load_table("7nm"), expected=compiled.expected,
                                  expected_routed=compiled.expected_routed, compile_s=0.12345, simulate_s=1.5)


@pytest.fixture(scope="module", params=[ATTENTION, MOE], ids=["attention", "moe"])
def made(request: pytest.FixtureRequest) -> tuple[CompiledLayer, dict]:
    return report_of(request.param)


def test_figures_follow_from_each_other(made: tuple[CompiledLayer, dict]) -> None:
    compiled, report = made
    workload, limit = compiled.workload, bounds(compiled.workload, NANO, compiled.routing)
    assert report["useful_macs"] == useful_macs(workload)
    assert report["utilization"] == useful_macs(workload) / (128 * report["cycles"])
    assert report["bounds"] == {"compute_cycles": limit.compute_cycles, "dram_cycles": limit.dram_cycles,
                                "vector_cycles": limit.vector_cycles}
    assert report["cycles"] >= limit.cycles and 0 < report["utilization"] < 1
    for causes in report["ledger"].values():
        assert sum(causes.values()) == report["cycles"]
    assert report["dram_bytes"]["read"] == 16 * report["events"]["dram_read_beats"] >= limit.read_bytes
    assert report["instructions"] == len(compiled.program.instructions)
    assert (report["model"], report["layer"], report["tile"]) == ("tiny", workload.layer.kind, "nano")
    assert report["wall_s"] == {"compile": 0.123, "simulate": 1.5} and report["seed"] == 5


def test_energy_follows_from_the_macs(made: tuple[CompiledLayer, dict]) -> None:
    compiled, report = made
    energy = report["energy"]
    assert math.isclose(sum(energy["components"].values()), energy["total_pj"])
    assert math.isclose(energy["pj_per_op"], energy["total_pj"] / (2 * useful_macs(compiled.workload)))
    assert energy["low_pj"] < energy["total_pj"] < energy["high_pj"]


def test_the_object_is_valid_json(made: tuple[CompiledLayer, dict]) -> None:
    assert json.loads(json.dumps(made[1], allow_nan=False)) == made[1]


def test_error_is_null_when_only_timing_ran() -> None:
    _, report = report_of(MOE, ("timing",))
    assert report["numerics"] == Numerics().to_dict() | {"rel_rms_error": None, "finite": None, "flags": None,
                                                         "routing_flips": 0, "rel_rms_error_float64_routing": None}
    assert report["levels"]["timing"]["numerics"] == Numerics().digest
    assert list(report["levels"]) == ["timing"] and report["levels"]["timing"]["result_sha256"] is None


def test_error_is_that_of_the_result(made: tuple[CompiledLayer, dict]) -> None:
    compiled, report = made
    out = simulate(compiled.program).outputs
    assert out is not None and compiled.expected is not None
    assert report["numerics"]["rel_rms_error"] == rel_rms_error(out["out"], compiled.expected)
    assert 0.01 < report["numerics"]["rel_rms_error"] < 0.5 and report["numerics"]["finite"]


def test_flips_and_the_error_with_float64_s_routing() -> None:
    """One term of the router flips tokens of this layer; attention and a forced routing have no flips."""
    workload = Workload(layer=replace(MOE.moe, experts=12), tokens=50, batch=2)
    compiled = compile_layer(workload, NANO, seed=1, numerics=Numerics(router_terms=1))
    compiled.program.meta.update(describe(compiled, NANO, seed=1))
    check_description(compiled.program)
    result = simulate(compiled.program)
    report = layer_report(compiled.program.meta, compiled.program, result, load_table("7nm"),
                          expected=compiled.expected, expected_routed=compiled.expected_routed, compile_s=0,
                          simulate_s=0)
    numerics, whole = report["numerics"], float64_layer(compiled.tensors).out
    assert compiled.flipped and numerics["routing_flips"] == compiled.flipped / 100
    assert result.outputs is not None
    assert numerics["rel_rms_error_float64_routing"] == pytest.approx(rel_rms_error(result.outputs["out"], whole))
    assert numerics["rel_rms_error_float64_routing"] > 1.2 * numerics["rel_rms_error"]
    assert f"{compiled.flipped}.00 %, error with its routing " in table([report])


@pytest.mark.parametrize("workload, routing", [(ATTENTION, None), (MOE, "balanced")])
def test_no_flips_without_a_choice(workload: Workload, routing: str | None) -> None:
    compiled = compile_layer(workload, NANO, data=False, routing=routing)
    assert describe(compiled, NANO, seed=0)["flipped_tokens"] is None


# The error ---------------------------------------------------------------------------------------------


def test_rel_rms_error_by_hand() -> None:
    expected = np.array([[3.0, 4.0]])
    assert rel_rms_error(np.array([[3.0, 4.0]], np.float32), expected) == 0
    assert rel_rms_error(np.array([[3.0, 5.0]], np.float32), expected) == pytest.approx(1 / 5)
    assert rel_rms_error(-expected, expected) == pytest.approx(2)
    assert rel_rms_error(2 * expected, expected) == pytest.approx(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_results_that_are_not_finite_are_infinitely_wrong(bad: float) -> None:
    assert rel_rms_error(np.array([1.0, bad], np.float32), np.array([1.0, 1.0])) == math.inf


def test_error_of_a_zero_layer_is_absolute() -> None:
    assert rel_rms_error(np.zeros(4, np.float32), np.zeros(4)) == 0
    assert rel_rms_error(np.full(4, 0.5, np.float32), np.zeros(4)) == 0.5


def test_error_does_not_depend_on_scale(rng: np.random.Generator) -> None:
    expected, noise = rng.standard_normal((2, 100))
    base = rel_rms_error(expected + noise, expected)
    assert rel_rms_error(2.0**40 * (expected + noise), 2.0**40 * expected) == base
    assert base == pytest.approx(np.linalg.norm(noise) / np.linalg.norm(expected))


# The table ---------------------------------------------------------------------------------------------


def test_table_has_a_column_per_layer_and_aligned_rows() -> None:
    reports = [report_of(workload)[1] for workload in (ATTENTION, MOE)]
    lines = table(reports).splitlines()
    assert "tiny attention" in lines[0] and "tiny moe" in lines[0] and set(lines[1]) == {"-"}
    assert len({len(line) for line in lines}) == 1
    cells = {line[:32].strip(): line for line in lines}
    for report in reports:
        assert f"{report['cycles']:,}" in cells["cycles"]
        assert f"{100 * report['utilization']:.1f} %" in cells["utilization"]
        assert f"{report['numerics']['rel_rms_error']:.4f}" in cells["relative RMS error"]


def test_table_of_a_run_without_results() -> None:
    lines = {line[:32].strip(): line.split()[-1] for line in table([report_of(MOE, ("timing",))[1]]).splitlines()}
    assert lines["relative RMS error"] == "-" and lines["levels that agree"] == "timing"


# The description in a program --------------------------------------------------------------------------


def program_with(**changes: Any) -> Program:
    compiled = compile_layer(MOE, EDGE, data=False)
    meta = describe(compiled, EDGE, seed=None) | changes
    return Program(**{**vars(compiled.program), "meta": {k: v for k, v in meta.items() if v is not ...}})


def test_a_description_is_accepted() -> None:
    check_description(program_with())
    check_description(program_with(seed=None, extra=1))


@pytest.mark.parametrize("changes, message", [
    ({"layer": ...}, "expected layer in its description, a string, got None"),
    ({"model": 3}, "expected model in its description, a string, got 3"),
    ({"tokens": 0}, "expected tokens in its description, an integer of at least 1 and below 2**63, got 0"),
    ({"tokens": True}, "expected tokens in its description, an integer of at least 1 and below 2**63, got True"),
    ({"context": -1}, "expected context in its description, an integer of at least 0 and below 2**63, got -1"),
    ({"useful_macs": "many"}, "expected useful_macs in its description"),
    ({"bounds": [1, 2]}, "expected bounds in its description, an object"),
    ({"bounds": {"compute_cycles": 5}}, "expected bounds.dram_cycles in its description, an integer of at least 1"),
])
def test_a_wrong_description_names_the_key(changes: dict, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(f"not made by `tilescore compile`: {message}")):
        check_description(program_with(**changes))


def test_a_program_without_the_result_is_named() -> None:
    program = program_with()
    with pytest.raises(ProgramError, match="expected a result named out, got none"):
        check_description(Program(**{**vars(program), "outputs": []}))
