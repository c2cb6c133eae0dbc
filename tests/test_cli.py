"""The command line: every command on layers of a few thousand MACs, its files, its JSON and its exit status."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tilescore.cli import inventory
from tilescore.cli import layer as cli_layer
from tilescore.cli import play as cli_play
from tilescore.cli import run as cli_run
from tilescore.cli.main import main
from tilescore.cli.parser import parser
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.models import list_models, load_model
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import describe, rel_rms_error
from tilescore.compiler.schedule import save_schedule
from tilescore.compiler.slices import SLICE_NUMERICS
from tilescore.rtl.spec.config import PRESETS, load_tile
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.rtl.spec.isa import INSTRUCTIONS, reference_page
from tilescore.rtl.spec.ledger import LEDGER_UNITS
from tilescore.sim.energy import load_table
from tilescore.sim.energy_components import COMPONENTS
from tilescore.sim.hardware.toolchain import doctor_report, missing_for_verilator
from tilescore.sim.program import Program
from tilescore.sim.simulate import simulate
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.tiny import tiny_config, tiny_weights, write_model, write_safetensors

ROOT = Path(__file__).resolve().parent.parent
NANO = load_tile("nano")
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3-MoE model of 48 features, 4 heads and 6 experts: config.json and model.safetensors."""
    return str(write_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3_moe", seed=1))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must succeed and print nothing on standard error; what it prints, parsed if --json."""
    def call(*argv: object) -> Any:
        assert main([str(a) for a in argv]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return strict_json(printed.out) if "--json" in argv else printed.out
    return call


def strict_json(text: str) -> Any:
    """Parsed JSON; NaN and Infinity, which Python would let through, are errors."""
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")
    return json.loads(text, parse_constant=refuse)


def layer(model: str, kind: str, *options: object) -> list[object]:
    return ["--model", model, "--layer", kind, "--tokens", 5, "--tile", "nano", *options]


# ---- run: the report ----

NUMBER = (int, float)
FIELDS: dict[str, Any] = {
    "layer": str, "model": str, "phase": str, "tokens": int, "tile": str, "cycles": int, "useful_macs": int,
    "peak_macs_per_cycle": int, "utilization": float,
    "bounds": {"compute_cycles": int, "dram_cycles": int, "vector_cycles": int},
    "dram_bytes": {"read": int, "write": int, "scales": int},
    "format": str, "bandwidth_gain": (float, type(None)),
    "ledger": dict,
    "energy": {"total_pj": float, "pj_per_mac": float, "pj_per_op": float, "components": dict, "table": str,
               "low_pj": float, "high_pj": float, "average_watt": float, "leakage_watt": float, "idle_pj": dict,
               "digest": str},
    "area": {"total_mm2": float, "low_mm2": float, "high_mm2": float, "mm2_per_tops": float, "parts": dict,
             "table": str},
    "numerics": {"digest": str, "formats": str, "softmax_block": int, "router_terms": int, "scale_rule": str,
                 "rel_rms_error": float, "finite": bool, "flags": list, "routing_flips": (float, type(None)),
                 "rel_rms_error_float64_routing": (float, type(None))},
    "experts": (dict, type(None)), "phases": list, "critical_path": dict, "tilescore": str, "command": list,
    "tile_digest": str, "layer_index": (int, type(None)), "layer_of_model": (str, type(None)),
    "tile_parameters": dict, "schedule": dict, "routing": (str, type(None)),
    "instructions": int, "levels": dict,
    "wall_s": {"compile": NUMBER, "simulate": NUMBER},
    "context": int, "batch": int, "mask": str, "seed": int, "clock_mhz": float, "events": dict,
}
"""Every field of a report and its type. Scripts read them: a name may be added, never changed."""


def check_types(value: dict[str, Any], fields: dict[str, Any]) -> None:
    assert set(value) == set(fields)
    for name, kind in fields.items():
        if isinstance(kind, dict):
            check_types(value[name], kind)
        else:
            assert isinstance(value[name], kind) and (kind is bool or not isinstance(value[name], bool)), name


@pytest.mark.parametrize("options", [
    ["--layer", "attention", "--tokens", 5],
    ["--layer", "attention", "--tokens", 5, "--mask", "none", "--batch", 2],
    ["--layer", "attention", "--phase", "decode", "--context", 7, "--batch", 2],
    ["--layer", "attention", "--tokens", 3, "--context", 6],
    ["--layer", "moe", "--tokens", 5],
    ["--layer", "moe", "--phase", "decode", "--batch", 3],
    ["--layer", "moe", "--tokens", 6, "--routing", "balanced"],
    ["--layer", "moe", "--tokens", 6, "--routing", "zipf-0.3"],
], ids=lambda options: " ".join(str(o).strip("-") for o in options[1:]))
def test_report(options: list[object], model: str, run: Run) -> None:
    report = run("run", "--model", model, "--tile", "nano", *options, "--json")
    check_types(report, FIELDS)
    given = dict(zip(options[::2], options[1::2], strict=True))
    decode = given.get("--phase") == "decode"
    assert (report["layer"], report["model"], report["tile"]) == (given["--layer"], "tiny", "nano")
    assert report["phase"] == ("decode" if decode else "prefill")
    assert report["tokens"] == given.get("--tokens", 1) and report["batch"] == given.get("--batch", 1)
    assert report["context"] == given.get("--context", 0) and report["mask"] == given.get("--mask", "causal")

    cycles, peak = report["cycles"], report["peak_macs_per_cycle"]
    assert peak == 4 * 4 * 8
    assert report["utilization"] == report["useful_macs"] / (peak * cycles) <= 1
    alone = math.ceil(report["useful_macs"] / peak)  # an MoE layer's router multiplies its terms besides
    assert (report["bounds"]["compute_cycles"] > alone) if report["layer"] == "moe" else (
        report["bounds"]["compute_cycles"] == alone)
    assert cycles >= max(report["bounds"].values())
    assert set(report["ledger"]) == set(LEDGER_UNITS)
    for causes in report["ledger"].values():
        assert sum(causes.values()) == cycles and min(causes.values()) >= 0
    events = report["events"]
    assert set(events) == set(EVENT_NAMES)
    assert report["dram_bytes"] == {"read": 16 * events["dram_read_beats"], "write": 16 * events["dram_write_beats"],
                                    "scales": 0}
    assert report["format"] == "e4m3:e4m3:e4m3" and report["bandwidth_gain"] is None
    choice = given["--layer"] == "moe" and "--routing" not in given
    for field in ("routing_flips", "rel_rms_error_float64_routing"):
        assert (report["numerics"][field] is None) == (not choice)
    energy = report["energy"]
    assert set(energy["components"]) == set(COMPONENTS) and energy["table"] == "7nm"
    assert math.isclose(sum(energy["components"].values()), energy["total_pj"])
    assert math.isclose(energy["pj_per_op"] * 2 * report["useful_macs"], energy["total_pj"])
    assert energy["low_pj"] < energy["total_pj"] < energy["high_pj"]
    assert list(report["levels"]) == ["reference", "timing"]
    assert report["levels"]["timing"] == {"cycles": cycles, "result_sha256": None,
                                          "numerics": report["numerics"]["digest"]}
    assert report["levels"]["reference"]["cycles"] is None
    assert len(bytes.fromhex(report["levels"]["reference"]["result_sha256"])) == 32
    assert 0 < report["numerics"]["rel_rms_error"] < 0.25 and report["numerics"]["finite"]


@pytest.mark.parametrize("kind", ["attention", "moe"])
def test_timing_alone_has_the_same_times_and_no_results(kind: str, model: str, run: Run) -> None:
    both = run("run", *layer(model, kind), "--json")
    timing = run("run", *layer(model, kind), "--level", "timing", "--json")
    flips = {"routing_flips": timing["numerics"]["routing_flips"], "rel_rms_error_float64_routing": None}
    assert timing["numerics"] == Numerics().to_dict() | flips | {"rel_rms_error": None, "finite": None, "flags": None}
    assert timing["levels"] == {"timing": both["levels"]["timing"]}
    for changing in ("numerics", "levels", "wall_s", "command"):
        del both[changing], timing[changing]
    assert timing == both


def test_reference_alone_still_reports_cycles(model: str, run: Run) -> None:
    report = run("run", *layer(model, "attention"), "--level", "reference", "--json")
    assert list(report["levels"]) == ["reference"] and report["cycles"] > 0


def test_table_shows_the_figures_of_the_json(model: str, run: Run) -> None:
    report = run("run", *layer(model, "attention"), "--json")
    table = run("run", *layer(model, "attention"))
    rows = dict(line.split("  ", 1) for line in table.partition("\n\n")[0].splitlines()[2:])
    assert "tiny attention" in table.splitlines()[0]
    assert rows["cycles"].strip() == f"{report['cycles']:,}"
    assert rows["utilization"].strip() == f"{100 * report['utilization']:.1f} %"
    assert rows["relative RMS error"].strip() == f"{report['numerics']['rel_rms_error']:.4f}"
    assert f"{report['energy']['pj_per_op']:.3f} (" in rows["pJ per useful op (range)"]
    assert rows["levels that agree"].strip() == "reference, timing"


def test_seed_decides_the_synthetic_tensors(model: str, run: Run) -> None:
    def sha(*options: object) -> str:
        report = run("run", *layer(model, "moe"), "--routing", "balanced", "--json", *options)
        assert report["seed"] == (options[1] if options else 0)
        return report["levels"]["reference"]["result_sha256"]

    assert sha() == sha("--seed", 0) != sha("--seed", 1)


def test_weights_from_a_file(model: str, run: Run) -> None:
    """The file's weights are used, whatever the seed: the float64 layer is computed from them."""
    shas = {}
    for name, options in {"synthetic": [], "file": ["--weights", f"{model}/model.safetensors"],
                          "folder": ["--weights", model, "--layer-index", 0]}.items():
        report = run("run", *layer(model, "moe"), *options, "--json")
        assert report["numerics"]["rel_rms_error"] < 0.25
        shas[name] = report["levels"]["reference"]["result_sha256"]
    assert shas["file"] == shas["folder"] != shas["synthetic"]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_result_that_overflows_is_reported_in_valid_json(model: str, run: Run, tmp_path: Path) -> None:
    """Weights near the largest FP32: down(silu(gate) * up) is infinite, which JSON has no number for."""
    weights = tiny_weights(tiny_config("qwen3_moe"), 1)
    for name in weights:
        weights[name] *= 1e37 if "experts" in name else 1
    path = write_safetensors(tmp_path / "huge.safetensors", weights)
    report = run("run", *layer(model, "moe"), "--weights", path, "--json")
    assert report["numerics"] | {"flags": []} == Numerics().to_dict() | {
        "routing_flips": 0, "rel_rms_error_float64_routing": None, "rel_rms_error": None, "finite": False, "flags": []}
    assert "the result is not finite" in run("run", *layer(model, "moe"), "--weights", path)


def test_routing_from_a_file(model: str, run: Run, tmp_path: Path) -> None:
    """Five tokens to the same two experts: four experts' weights are never read."""
    path = tmp_path / "routing.json"
    path.write_text(json.dumps([[3, 1]] * 5))
    few = run("run", *layer(model, "moe"), "--routing", path, "--json")
    all_six = run("run", *layer(model, "moe"), "--routing", "balanced", "--json")
    assert few["useful_macs"] == all_six["useful_macs"]
    assert all_six["dram_bytes"]["read"] - few["dram_bytes"]["read"] > 4 * 3 * 48 * 32 * 0.9


@pytest.mark.parametrize("kind", ["attention", "moe"])
def test_schedule_from_a_file(kind: str, model: str, run: Run, tmp_path: Path) -> None:
    """A saved automatic schedule gives the same program; another one other cycles and the same result."""
    config = load_model(model)
    if kind == "attention":
        workload = Workload(layer=attention_layer(config), tokens=5)
        schedule = choose_schedule(workload, NANO)
        changed = schedule.change("q", k_tile=16)
    else:
        workload = Workload(layer=moe_layer(config), tokens=5)
        schedule = choose_schedule(workload, NANO, routing=compile_layer(workload, NANO).routing)
        changed = schedule.change("experts.down", k_tile=16)
    save_schedule(schedule, tmp_path / "same.toml")
    save_schedule(changed, tmp_path / "other.toml")
    auto, same, split = (run("run", *layer(model, kind), *options, "--json") for options in (
        [], ["--schedule", tmp_path / "same.toml"], ["--schedule", tmp_path / "other.toml"]))
    assert same["levels"] == auto["levels"] and same["ledger"] == auto["ledger"]
    assert split["levels"]["reference"] == auto["levels"]["reference"]
    assert split["cycles"] != auto["cycles"]


def test_own_tile_and_energy_table(model: str, run: Run, tmp_path: Path) -> None:
    tile = tmp_path / "mine.toml"
    text = (ROOT / "rtl/spec/presets/nano.toml").read_text()
    tile.write_text(text.replace('"nano"', '"mine"').replace("dram_latency = 20", "dram_latency = 60"))
    slow = run("run", *layer(model, "attention", "--tile", tile), "--energy", "130nm", "--json")
    fast = run("run", *layer(model, "attention"), "--json")
    assert slow["tile"] == "mine" and slow["cycles"] > fast["cycles"]
    assert slow["energy"]["table"] == "130nm" and slow["energy"]["total_pj"] > fast["energy"]["total_pj"]
    table = tmp_path / "table.toml"
    table.write_text((ROOT / "sim/energy_tables/130nm.toml").read_text().replace('"130nm"', '"own"'))
    own = run("run", *layer(model, "attention", "--tile", tile), "--energy", table, "--json")
    assert own["energy"] == slow["energy"] | {"table": "own"}


def test_out_writes_report_and_listing(model: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    report = run("run", *layer(model, "attention"), "--out", out, "--json")
    assert sorted(p.name for p in out.iterdir()) == ["attention.schedule.toml", "attention.txt", "report.html",
                                                     "report.json", "tile.toml"]
    written = strict_json((out / "report.json").read_text())
    assert written["layers"][0].pop("timeline")["instructions"] == report["instructions"]
    assert written == {"layers": [report], "cross_checks": []}
    lines = (out / "attention.txt").read_text().splitlines()
    assert len([line for line in lines if not line.startswith(("#", ";"))]) == report["instructions"]
    said = run("run", *layer(model, "moe"), "--out", out)
    assert f"Written to {out}/: report.json, moe.txt, moe.schedule.toml, tile.toml" in said
    assert f"Page to look at: {out}/report.html" in said
    assert len(list(out.iterdir())) == 7


def test_a_full_disk_costs_the_files_not_the_report(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """The table is there, the error names the file, and neither half a file nor the new folder stays."""
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "deep" / "out"
    assert main([str(a) for a in ["run", *layer(model, "attention"), "--out", out]]) == 2
    printed = capsys.readouterr()
    assert "tiny attention" in printed.out and "Written" not in printed.out
    assert printed.err == f"tilescore: {out}/report.json: cannot be written: No space left on device\n"
    assert not any(tmp_path.iterdir())


# ---- run without a model: the demo ----


@pytest.fixture
def small_demo(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The demo of a tiny model, its cross-checks without the hardware, in an empty folder and one process."""
    monkeypatch.setattr(cli_run, "DEFAULT_MODEL", model)
    monkeypatch.setattr(cli_run, "DEFAULT_TOKENS", 7)
    monkeypatch.setattr(cli_play, "LEVELS", ("reference", "timing"))
    monkeypatch.setattr(cli_play, "processors", lambda: 1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("count", [1, 2])
def test_demo(count: int, small_demo: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_play, "processors", lambda: count)
    text = run("run", "--tile", "nano")
    assert "tiny attention" in text and "tiny moe" in text
    assert text.count("Cross-check on nano") == 2 and "equal at reference, timing" in text
    assert sorted(str(p.relative_to(small_demo)) for p in small_demo.rglob("*.*")) == [
        "out/attention.schedule.toml", "out/attention.txt", "out/moe.schedule.toml", "out/moe.txt", "out/report.html",
        "out/report.json", "out/tile.toml"]
    report = strict_json((small_demo / "out/report.json").read_text())
    for part in ("layers", "cross_checks"):
        assert [r["layer"] for r in report[part]] == ["attention", "moe"]
    for whole, part in zip(report["layers"], report["cross_checks"], strict=True):
        check_types(whole, FIELDS | {"timeline": dict})
        check_types(part, FIELDS)
        assert (whole["tokens"], part["tokens"]) == (7, 7 if part["layer"] == "attention" else 6)
        assert part["tile"] == "nano"
        assert part["useful_macs"] < whole["useful_macs"]


def test_demo_says_what_a_layer_gave_before_the_next_is_compiled(small_demo: Path, run: Run,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    build = cli_play.build

    def marked(arguments: Any, layer: str, *rest: Any, **more: Any) -> Any:
        print(f"compile {layer}")
        return build(arguments, layer, *rest, **more)

    monkeypatch.setattr(cli_play, "build", marked)
    lines = run("run", "--tile", "nano").splitlines()
    report = strict_json((small_demo / "out/report.json").read_text())["layers"][0]
    assert lines[0] == "compile attention" and lines[2] == "compile moe"
    assert lines[1].startswith(f"{report['model']} attention on nano: {report['cycles']:,} cycles, utilization ")
    assert lines[1].endswith(f"relative RMS error {report['numerics']['rel_rms_error']:.4f}")


def test_demo_as_json_is_a_list(small_demo: Path, run: Run) -> None:
    reports = run("run", "--tile", "nano", "--json", "--out", "elsewhere")
    assert [r["layer"] for r in reports] == ["attention", "moe"]
    written = strict_json((small_demo / "elsewhere/report.json").read_text())["layers"]
    assert all(report.pop("timeline") for report in written) and reports == written


def test_demo_with_timing_alone_has_no_cross_check(small_demo: Path, run: Run) -> None:
    assert "No cross-check" in run("run", "--tile", "nano", "--level", "timing")
    assert strict_json((small_demo / "out/report.json").read_text())["cross_checks"] == []


def test_the_demo_is_the_one_documented() -> None:
    """Qwen3-30B-A3B, 128 tokens, on `edge`."""
    arguments = parser().parse_args(["run"])
    cli_run._fill_in_demo(arguments)
    assert (arguments.model, arguments.tokens, arguments.tile) == ("qwen3-30b-a3b", 128, "edge")
    assert (arguments.phase, str(arguments.out)) == ("prefill", "out")


@pytest.mark.skipif(bool(missing_for_verilator()),
                    reason="a cross-check under Amaranth's simulator takes minutes; Verilator lacks "
                    + ", ".join(missing_for_verilator()))
@pytest.mark.parametrize("kind", ["attention", "moe"])
def test_cross_check_includes_the_hardware(kind: str, model: str) -> None:
    """The slice runs at rtl level with the result of the reference and the cycles of the timing model."""
    arguments = parser().parse_args(["run", "--model", model, "--layer", kind, "--tokens", "4"])
    arguments.words = ["run"]
    report = cli_play.cross_check(kind, arguments)
    check_types(report, FIELDS)
    levels = report["levels"]
    assert list(levels) == ["reference", "timing", "rtl"]
    assert levels["rtl"] == {"cycles": report["cycles"], "result_sha256": levels["reference"]["result_sha256"],
                             "numerics": SLICE_NUMERICS.digest}
    assert report["numerics"]["softmax_block"] == SLICE_NUMERICS.softmax_block
    assert report["tokens"] == 4 and "equal at reference, timing, rtl" in cli_run._agreement(report)


def test_without_a_compiler_the_simulator_is_named(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Only where the rtl level is asked for; on standard error, so that JSON stays JSON."""
    monkeypatch.setattr(cli_layer, "missing_for_verilator", lambda: ["g++ (apt install g++)"])
    monkeypatch.setattr(cli_layer, "simulate", lambda *arguments, **options: SimpleNamespace(timing=None))
    monkeypatch.setattr(cli_layer, "layer_report", lambda *arguments, **options: {})
    program, energy = SimpleNamespace(meta={"layer": "moe"}), load_table("7nm")
    for levels, said in ((("timing",), ""), (("timing", "rtl"), "Amaranth's simulator")):
        cli_layer.report(program, energy, expected=None, expected_routed=None, compile_s=0.0, levels=levels,
                         command=[])
        printed = capsys.readouterr()
        assert printed.out == "" and said in printed.err and ("g++" in printed.err) == bool(said)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_verilator()), reason="needs Verilator, a C++ compiler and make")
def test_the_whole_demo(run: Run, tmp_path: Path) -> None:
    reports = run("run", "--json", "--out", tmp_path)
    assert [(r["layer"], r["tile"], r["tokens"]) for r in reports] == [("attention", "edge", 128), ("moe", "edge", 128)]
    checks = strict_json((tmp_path / "report.json").read_text())["cross_checks"]
    assert [list(check["levels"]) for check in checks] == [["reference", "timing", "rtl"]] * 2


# ---- compile and simulate ----


@pytest.mark.parametrize("kind", ["attention", "moe"])
def test_a_program_file_simulates_to_the_same_report(kind: str, model: str, run: Run, tmp_path: Path) -> None:
    path, text = tmp_path / "layer.tsp", tmp_path / "layer.txt"
    said = run("compile", *layer(model, kind), "--seed", 3, "-o", path, "--listing", text)
    direct = run("run", *layer(model, kind), "--seed", 3, "--json")
    again = run("simulate", path, "--json")
    assert again["wall_s"]["compile"] == 0
    for changing in ("wall_s", "command"):
        del direct[changing], again[changing]
    assert again == direct
    assert f"{direct['instructions']} instructions for tile nano" in said
    assert "DRAM" in run("simulate", path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["layer.tsp", "layer.txt"]
    assert text.read_text().count("\n") == direct["instructions"] + 1


def test_a_program_file_is_reproducible(model: str, run: Run, tmp_path: Path) -> None:
    for name in ("a.tsp", "b.tsp"):
        run("compile", *layer(model, "attention"), "-o", tmp_path / name)
    assert (tmp_path / "a.tsp").read_bytes() == (tmp_path / "b.tsp").read_bytes()


@pytest.mark.parametrize("kind", ["attention", "moe"])
def test_instructions_without_data(kind: str, model: str, run: Run, tmp_path: Path) -> None:
    """`--no-data` has the instructions of the full program; only timing accepts it."""
    path = tmp_path / "bare.tsp"
    run("compile", *layer(model, kind), "--no-data", "-o", path)
    full = run("run", *layer(model, kind), "--json")
    bare = run("simulate", path, "--level", "timing", "--json")
    assert bare["cycles"] == full["cycles"] and bare["instructions"] == full["instructions"]
    flips = {"routing_flips": full["numerics"]["routing_flips"], "rel_rms_error_float64_routing": None}
    assert bare["numerics"] == Numerics().to_dict() | flips | {"rel_rms_error": None, "finite": None, "flags": None}


def test_a_program_keeps_its_description(model: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "layer.tsp"
    run("compile", *layer(model, "moe"), "--routing", "balanced", "-o", path)
    program = Program.load(path)
    workload = Workload(layer=moe_layer(load_model(model)), tokens=5)
    compiled = compile_layer(workload, NANO, routing="balanced")
    assert program.meta == describe(compiled, NANO, seed=0) | {
        "data": True, "layer_index": 0, "layer_of_model": "0 of 1"}
    assert time_program(program).cycles == time_program(compiled.program).cycles


def test_large_values_have_a_short_repr(model: str, run: Run, tmp_path: Path) -> None:
    """One line for what holds thousands of instructions or megabytes of data."""
    path = tmp_path / "layer.tsp"
    run("compile", *layer(model, "attention"), "-o", path)
    program = Program.load(path)
    compiled = compile_layer(Workload(layer=attention_layer(load_model(model)), tokens=5), NANO)
    result = simulate(program, ("reference", "timing"))
    for value in (program, program.segments, compiled, compiled.schedule, result, result.timing):
        assert len(repr(value)) < 1500 and "\n" not in repr(value), type(value)
    assert repr(program) == (f"Program(tile='nano', instructions={len(program.instructions)}, "
                             f"dram_bytes={program.dram_bytes}, segments={len(program.segments)}, outputs=1)")
    assert repr(result).startswith("Result(tile='nano', levels=['reference', 'timing'], cycles=")


def test_seed_beside_a_file_that_holds_everything(model: str, tmp_path: Path, run: Run,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """Weights alone: the input is drawn. With the input too: the seed would be ignored, but not by a zipf routing."""
    weights = tiny_weights(tiny_config("qwen3_moe"), 1)
    part, whole = tmp_path / "part.safetensors", tmp_path / "whole.safetensors"
    write_safetensors(part, weights)
    write_safetensors(whole, weights | {"x": np.ones((5, 48), np.float32)})
    run("run", *layer(model, "moe"), "--weights", part, "--seed", 3, "--json")
    run("run", *layer(model, "moe"), "--weights", whole, "--json")
    run("run", *layer(model, "moe"), "--weights", whole, "--seed", 3, "--routing", "zipf-0.3", "--json")
    assert main([str(a) for a in ["run", *layer(model, "moe"), "--weights", whole, "--seed", 3]]) == 2
    assert "--seed 3" in (error := capsys.readouterr().err) and "nothing is drawn" in error


def test_tile(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(run("tile", "edge"))
    assert load_tile(path) == load_tile("edge")
    assert run("tile", path, "--json") == load_tile("edge").to_dict()


# ---- the other commands ----


def test_verilog(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "nano.v"
    assert run("verilog", "--tile", "nano", "-o", path) == ""
    text = path.read_text()
    assert "tile 'nano'" in text.splitlines()[0]
    assert text.count("\nmodule ") == text.count("\nendmodule") > 10
    assert [p.name for p in tmp_path.iterdir()] == ["nano.v"]


def test_isa(run: Run) -> None:
    assert run("isa", "--markdown") == reference_page()
    summary = run("isa").splitlines()
    entries = run("isa", "--json")
    assert len(summary) == len(entries) == len(INSTRUCTIONS)
    for line, entry, spec in zip(summary, entries, INSTRUCTIONS, strict=True):
        assert line.split()[:2] == [str(spec.opcode), spec.name]
        assert (entry["name"], entry["opcode"], entry["unit"]) == (spec.name, spec.opcode, spec.unit.name.lower())
        covered = 0
        for field in entry["fields"]:
            assert field["low"] == covered and field["bits"] > 0
            covered += field["bits"]
        assert covered <= 256


def test_formats(model: str, run: Run, rng: np.random.Generator, tmp_path: Path) -> None:
    """All formats; their errors on a tensor from two kinds of file; their cost on a layer or why not."""
    (rows,) = run("formats", "--json").values()
    names = [row["format"] for row in rows]
    assert names[0] == "e4m3" and len(set(names)) == len(names) >= 6
    numbers, meanings = run("formats").split("\n\n")
    assert [line.split()[0] for line in numbers.splitlines()] == ["format", *names]
    assert [line.split()[0] for line in meanings.splitlines() if line[0] != " "] == ["format", *names]
    assert all(len(line) <= 120 for line in [*numbers.splitlines(), *meanings.splitlines()])
    costs = run("formats", *layer(model, "attention"))
    assert "not_built" in costs and all(len(line) <= 120 for line in costs.splitlines())
    values = rng.standard_normal((4, 256)).astype(np.float32)
    np.save(tmp_path / "t.npy", values)
    write_safetensors(tmp_path / "t.safetensors", {"t": values})
    for name in ("t.npy", "t.safetensors"):
        errors = run("formats", "--tensor", tmp_path / name, "--json")["tensor"]
        assert [row["format"] for row in errors] == names
        assert 0.01 < errors[0]["rel_rms_error"] < 0.05 and errors[0]["bytes"] == values.size
    costs = run("formats", *layer(model, "attention"), "--json")["layer"]
    direct = run("run", *layer(model, "attention"), "--json")
    assert costs[0]["format"] == "e4m3" and costs[0]["cycles"] == direct["cycles"]
    assert costs[0]["read_bytes"] == direct["dram_bytes"]["read"]
    assert all("tile nano does not build" in row["not_built"] for row in costs if "not_built" in row)


def test_the_numerics_of_a_report(model: str, run: Run, tmp_path: Path) -> None:
    """Option, report and program file say the same; the digests of result and numerics change together."""
    options = [*layer(model, "attention"), "--context", 50]
    usual, blocks = (run("run", *options, *more, "--json") for more in ([], ["--softmax-block", 16]))
    assert usual["numerics"]["softmax_block"] == 256 and blocks["numerics"]["softmax_block"] == 16
    assert {key: blocks["numerics"][key] for key in Numerics().to_dict()} == Numerics(softmax_block=16).to_dict()
    a, b = (report["levels"]["reference"] for report in (usual, blocks))
    assert a["numerics"] != b["numerics"] and a["result_sha256"] != b["result_sha256"]
    run("compile", *options, "--softmax-block", 16, "-o", tmp_path / "p.tsp")
    again = run("simulate", tmp_path / "p.tsp", "--json")
    assert again["numerics"] == blocks["numerics"] and again["levels"]["reference"] == b


@pytest.mark.slow
def test_scale_rules_change_bytes_errors_and_results(model: str, run: Run, rng: np.random.Generator,
                                                     tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", rng.standard_normal((8, 256)).astype(np.float32))
    found, digests = {}, set()
    for rule in ("floor", "rceil", "even"):
        rows = run("formats", "--tensor", tmp_path / "t.npy", "--scale-rule", rule, "--json")["tensor"]
        found[rule] = {row["format"]: row["rel_rms_error"] for row in rows}
        report = run("run", "--model", model, "--layer", "moe", "--tokens", 5, "--tile", "edge", "--format", "mxfp4",
                     "--scale-rule", rule, "--json")
        assert report["numerics"]["scale_rule"] == rule
        digests.add(report["levels"]["reference"]["result_sha256"])
    assert len(digests) == 3
    assert len({errors["mxfp4"] for errors in found.values()}) == 3 and len({e["nvfp4"] for e in found.values()}) == 1
@pytest.mark.sampled
def test_every_command_with_a_tile_takes_changes_to_it(model: str, run: Run, tmp_path: Path) -> None:
    """The name shows the change, and formats that the tile lacks become possible."""
    change = ("--tile-set", "formats=e4m3+e2m1", "--tile-set", "scales=e4m3")
    report = run("run", *layer(model, "moe"), "--format", "nvfp4", *change, "--level", "timing", "--json")
    assert report["tile"] == "nano+formats+scales"
    path = tmp_path / "p.tsp"
    assert "tile nano+formats+scales" in run("compile", *layer(model, "moe"), "--format", "nvfp4", *change, "-o", path)
    assert Program.load(path).config.formats == ("e4m3", "e2m1")
    costs = {row["format"]: row for row in run("formats", *layer(model, "moe"), *change, "--json")["layer"]}
    assert costs["nvfp4"]["cycles"] == report["cycles"] and "--tile-set " in costs["e5m2"]["not_built"]
    run("verilog", "--tile", "nano", "--tile-set", "queue_depth=2", "-o", tmp_path / "t.v")
    run("verilog", "--tile", "nano", "-o", tmp_path / "nano.v")
    assert (tmp_path / "t.v").read_text() != (tmp_path / "nano.v").read_text()
    text = run("export", tmp_path / "ip", "--tile", "nano", "--tile-set", "queue_depth=2")
    assert "tile nano+queue_depth, " in text
    assert load_tile(tmp_path / "ip" / "tile.toml").queue_depth == 2


def test_models(run: Run) -> None:
    rows = run("models", "--json")
    assert [row["model"] for row in rows] == list(list_models())
    built = {row["model"]: (row["attention"] is None, row["moe"] is None) for row in rows}
    assert built["llama-3-8b"] == (True, False) and built["qwen3-30b-a3b"] == built["olmoe-1b-7b"] == (True, True)
    assert "sparse attention indexer" in next(r["attention"] for r in rows if r["model"] == "deepseek-v3.2")
    text = run("models")
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == list(list_models())
    assert next(line for line in lines if line.startswith("llama-3-8b ")).split()[1:] == [
        "attention:", "built", "moe:", "not", "built", "mlp:", "built", "norm:", "built", "decoder:", "built",
        "embedding:", "built", "head:", "built", "whole", "model:", "built"]
    assert next(row["whole_model"] for row in rows if row["model"] == "qwen3-30b-a3b") is None
    assert not any(row["attention_exceptions"] for row in rows)
    of_many_experts = {"kimi-k2", "qwen3-next-80b-a3b"}  # 384 and 512
    assert {row["model"] for row in rows if row["moe_exceptions"]} == of_many_experts
    for row in rows:
        for layer in ("attention", "moe"):
            assert row[layer] is None or f"{layer} not built: {row[layer]}\n" in text


def test_doctor(run: Run) -> None:
    checks = run("doctor", "--json")
    assert [c["name"] for c in checks] == [c.name for c in doctor_report()]
    assert all(set(c) == {"name", "found", "detail", "needed_for", "skipped_without", "how_to_get"} for c in checks)
    assert {c["name"] for c in checks if c["found"]} >= {"python", "amaranth", "numpy"}
    text = run("doctor")
    assert text.count("missing ") == len([c for c in checks if not c["found"]])
    for check in checks:
        assert check["name"] in text and (check["found"] or check["how_to_get"] in text)


# ---- exit status ----


@pytest.mark.parametrize("command", ["", *parser().commands])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"usage: tilescore {command}".rstrip() in capsys.readouterr().out


def test_help_names_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    for word in (*PRESETS, "attention", "moe", "prefill", "decode", "balanced", "reference,timing", "130nm, 7nm"):
        assert word in text


def test_levels_that_differ_give_status_1(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    def differ(*_: object, **__: object) -> None:
        raise SimulationError("instruction 3 (MATMUL): retire at cycle 7 in the timing model, 8 in the rtl")

    monkeypatch.setattr(cli_layer, "simulate", differ)
    assert main([str(a) for a in ["run", *layer(model, "moe"), "--out", tmp_path / "out"]]) == 1
    assert capsys.readouterr().err == (
        "tilescore: instruction 3 (MATMUL): retire at cycle 7 in the timing model, 8 in the rtl\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "status"), [(MemoryError(), 2), (KeyboardInterrupt(), 130)])
def test_interrupted(error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch,
                     capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise error

    monkeypatch.setattr(inventory, "list_models", stop)
    assert main(["models"]) == status
    assert capsys.readouterr().err.count("\n") == (status == 2)


def test_an_error_of_several_lines_is_printed_as_one(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir("/")
    assert main(["verilog", "--tile", "a\nb"]) == 2
    assert main(["run", "--model", "a\nb", "--layer", "moe", "--tokens", "1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def module(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tilescore", *argv], capture_output=True, text=True, **options)


def test_as_a_module(tmp_path: Path) -> None:
    done = module("isa", cwd=tmp_path)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(INSTRUCTIONS) and done.stderr == ""
    wrong = module("run", "--model", "gpt-5", "--layer", "moe", "--tokens", "1", cwd=tmp_path)
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert len(wrong.stderr.splitlines()) == 1 and wrong.stderr.startswith("tilescore: unknown model 'gpt-5'")


def test_a_reader_that_leaves_is_no_traceback(tmp_path: Path) -> None:
    """`tilescore isa --markdown | head -0`: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "tilescore", "isa", "--markdown"], stdout=write,
                              stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_error_of_a_result_that_is_not_finite(rng: np.random.Generator) -> None:
    exact = rng.standard_normal((3, 4))
    assert rel_rms_error(exact.copy(), exact) == 0
    assert math.isclose(rel_rms_error(exact * 1.5, exact), 0.5)
    exact_with_nan = exact.copy()
    exact_with_nan[1, 2] = math.nan
    assert rel_rms_error(exact_with_nan, exact) == math.inf


# ---- export ----

def test_export_refuses_a_folder_that_holds_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any work, and nothing in the folder is touched; `rtl/export/test_folder.py` tests what is written."""
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["export", str(tmp_path), "--tile", "nano"]) == 2
    error = capsys.readouterr().err
    assert "mine.txt" in error and "--force" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
