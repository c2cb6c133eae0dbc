"""`tilescore compare` and the files of `run --out`: figures equal to those of `run`, from separate processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tilescore.compiler.comparison_text import number
from tilescore.compiler.schedule import load_schedule, save_schedule
from tilescore.rtl.spec.config import load_tile

LAYER = ("--model", "qwen3-30b-a3b", "--layer", "moe", "--tokens", "4", "--tile", "edge")


def tilescore(*arguments: object, cwd: Path | None = None, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "tilescore", *map(str, arguments)], capture_output=True, text=True,
                          cwd=cwd)
    assert done.returncode == status, done.stderr
    return done.stdout if status != 2 else done.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tilescore("run", *LAYER, "--level", "timing", "--out", folder / "before")
    tilescore("run", *LAYER, "--level", "timing", "--format", "nvfp4", "--out", folder / "fp4")
    return folder


def test_table_json_and_markdown_have_the_figures_of_run(saved: Path) -> None:
    """Five processes, one set of numbers."""
    reports = [json.loads(tilescore("run", *LAYER, "--level", "timing", "--json", *more))
               for more in ((), ("--format", "nvfp4"))]
    found = json.loads(tilescore("compare", saved / "before", "format=nvfp4", *LAYER, "--json"))
    rows = {(row["section"], row["name"]): row["values"] for row in found["rows"]}
    assert rows["totals", "cycles"] == [report["cycles"] for report in reports]
    assert rows["totals", "energy.total_pj"] == [report["energy"]["total_pj"] for report in reports]
    assert rows["totals", "dram_bytes.read"] == [report["dram_bytes"]["read"] for report in reports]
    assert rows["totals", "utilization"] == [100 * report["utilization"] for report in reports]
    for unit, causes in reports[1]["ledger"].items():
        for cause, cycles in causes.items():
            assert rows["ledger", f"{unit}.{cause}"][1] == cycles
    for phase in reports[1]["phases"]:
        assert rows["phases", f"{phase['phase']}.cycles"][1] == phase["cycles"]
    table = tilescore("compare", saved / "before", saved / "fp4")
    page = tilescore("compare", saved / "before", saved / "fp4", "--markdown")
    for row in found["rows"]:
        if row["section"] == "totals" or row["values"][0] != row["values"][1]:
            cells = [number(value, row["unit"]) for value in row["values"]]
            label = f"{row['name']} [{row['unit']}]" if row["unit"] else row["name"]
            assert re.search(rf"^  {re.escape(label)} +{'  +'.join(map(re.escape, cells))}", table, re.M), label
            assert f"| {label} | {cells[0]} | {cells[1]} |" in page, label
    assert "another numeric definition" in table and "format" in table


def test_phases_in_the_report_add_up_and_are_printed(saved: Path) -> None:
    (report,) = json.loads((saved / "before/report.json").read_text())["layers"]
    assert [phase["phase"] for phase in report["phases"]] == ["router", "experts", "combine", "program"]
    assert sum(phase["cycles"] for phase in report["phases"]) == report["cycles"]
    assert sum(sum(phase["dram_bytes"].values()) for phase in report["phases"]) == (
        report["dram_bytes"]["read"] + report["dram_bytes"]["write"])
    shown = tilescore("run", *LAYER, "--level", "timing")
    for phase in report["phases"]:
        assert re.search(rf"^{phase['phase']} +{phase['cycles']:,} ", shown, re.M)
    assert re.search(rf"^sum +{report['cycles']:,} ", shown, re.M)


def test_a_run_can_be_had_again_from_its_files(saved: Path, tmp_path: Path) -> None:
    """Provenance: tile, schedule and command line in the folder of one run give another with equal figures."""
    folder = saved / "before"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["moe.schedule.toml", "moe.txt", "report.html", "report.json", "tile.toml"]
    (report,) = json.loads((folder / "report.json").read_text())["layers"]
    assert load_tile(folder / "tile.toml").digest == report["tile_digest"]
    assert load_schedule(folder / "moe.schedule.toml") is not None
    assert report["tile_parameters"] == load_tile("edge").to_dict() and report["command"][0] == "run"
    again = tilescore(*report["command"][:-2], "--tile", folder / "tile.toml", "--schedule",
                      folder / "moe.schedule.toml", "--json")
    values = json.loads(again)
    for key in ("cycles", "ledger", "events", "energy", "phases", "schedule", "numerics", "critical_path"):
        assert values[key] == report[key], key


def test_the_listing_has_cycles_and_stalls(saved: Path) -> None:
    lines = (saved / "before/moe.txt").read_text().splitlines()
    (report,) = json.loads((saved / "before/report.json").read_text())["layers"]
    assert lines[1] == f"# cycles {report['cycles']}; columns: index, issue, retire, stall"
    rows = [line.split(maxsplit=4) for line in lines[2:]]
    assert len(rows) == report["instructions"] and int(rows[-1][2]) == report["cycles"] - 1
    assert any(re.search(r" wait_(load|matrix) \d+ ", line) for line in lines)
    assert any("# experts: " in row[4] for row in rows)


def test_schedules_are_compared_and_a_limit_sets_the_status(saved: Path, tmp_path: Path) -> None:
    schedule = load_schedule(saved / "before/moe.schedule.toml").change("combine", n_tiles=1)
    save_schedule(schedule, tmp_path / "slow.toml")
    shown = tilescore("compare", "before", tmp_path / "slow.toml", *LAYER, "--fail=cycles:0%", cwd=saved, status=1)
    assert "combine.n_tiles: " in shown and "phase combine" in shown and "limit +0 %" in shown
    tilescore("compare", tmp_path / "slow.toml", "before", *LAYER, "--fail=cycles:0%", cwd=saved)
    failed = json.loads(tilescore("compare", "before", tmp_path / "slow.toml", *LAYER, "--fail=cycles:0%", "--json",
                                  cwd=saved, status=1))["failed"]
    assert failed == {str(tmp_path / "slow.toml"): ["cycles"]}


@pytest.mark.parametrize(("arguments", "text"), [
    (("base",), "expected at least two sides"),
    (("base", "nothing", *LAYER), "compare 'nothing': expected a saved report"),
    (("base", "nothing.json", *LAYER), "compare 'nothing.json': expected a saved report"),
    (("base", "speed=3", *LAYER), "unrecognized arguments: --speed=3"),
    (("base", "tile=edgy", *LAYER), "edgy"),
    (("base", "tile=nano"), "--model is needed"),
    (("base", "base", *LAYER, "--fail=x"), "limit 'x'"),
    (("base", "base", *LAYER, "--json", "--markdown"), "not allowed with"),
])
def test_wrong_sides_are_one_line(arguments: tuple, text: str) -> None:
    said = tilescore("compare", *arguments, status=2)
    assert text in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(("content", "text"), [
    ("{", "not valid JSON"), ("[]", "expected the report of a layer"), ('{"layers": []}', "layers: expected a list"),
    ('{"layers": [{}]}', "tilescore: expected str"), ('{"kind": "core"}', "is a schedule of an earlier version"),
])
def test_damaged_files_are_named(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "x.json").write_text(content)
    said = tilescore("compare", "x.json", "base", *LAYER, cwd=tmp_path, status=2)
    assert "x.json" in said and text in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("option", [("--tile", "edge"), ("--model", "llama-3-8b"), ("--energy", "130nm"),
                                    ("--format", "nvfp4"), ("--schedule", "nothing.toml"), ("--tokens", "9")],
                         ids=" ".join)
def test_saved_reports_take_no_options_of_a_layer(option: tuple[str, str], saved: Path) -> None:
    said = tilescore("compare", "before", "before", *option, cwd=saved, status=2)
    assert said == (f"tilescore: {' '.join(option)}: only saved reports are compared, each with the options that made "
                    "it\n")


def test_a_folder_of_two_layers_needs_a_choice(saved: Path, tmp_path: Path) -> None:
    values = json.loads((saved / "before/report.json").read_text())
    values["layers"].append(values["layers"][0] | {"layer": "attention"})
    (tmp_path / "report.json").write_text(json.dumps(values))
    assert "choose one with --layer" in tilescore("compare", tmp_path, tmp_path, status=2)
    tilescore("compare", tmp_path, tmp_path, "--layer", "moe")
