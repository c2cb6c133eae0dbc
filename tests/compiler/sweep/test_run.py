"""Sweeps: figures equal to a report's, errors kept, outcomes kept, dead workers, fronts and drawings."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.report import report_compiled
from tilescore.compiler.schedule import unblocked
from tilescore.compiler.sweep import pool, tasks
from tilescore.compiler.sweep.columns import COLUMNS
from tilescore.compiler.sweep.pareto import front
from tilescore.compiler.sweep.plan import SweepPlan
from tilescore.compiler.sweep.plot import pareto_svg
from tilescore.compiler.sweep.run import sweep
from tilescore.compiler.sweep.store import FILE
from tilescore.compiler.sweep.table import SweepTable
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError, ToolError
from tilescore.tests.compiler.tiny import tiny_config, write_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, tiny_config("qwen3_moe"))
    return str(folder)


@pytest.fixture(scope="module")
def table(model: str) -> SweepTable:
    return sweep({"model": model, "layer": ["attention", "moe"], "tokens": [2, 5], "tile": "nano",
                  "bus_bytes": [8, 16], "b_buffer_bytes": [8192, 256]}, workers=1)


def test_figures_are_those_of_a_report(model: str) -> None:
    (row,) = sweep({"model": model, "layer": "attention", "tokens": 3, "tile": "nano"}, workers=1).rows
    report = report_compiled(compile_layer(Workload(layer=attention_layer(load_model(model)), tokens=3),
                                           load_tile("nano"), data=False))
    for name, expected in {
            "cycles": report["cycles"], "utilization": report["utilization"], "useful_macs": report["useful_macs"],
            "compute_bound_cycles": report["bounds"]["compute_cycles"],
            "dram_bound_cycles": report["bounds"]["dram_cycles"],
            "vector_bound_cycles": report["bounds"]["vector_cycles"], "bound_cycles": max(report["bounds"].values()),
            "read_bytes": report["dram_bytes"]["read"], "write_bytes": report["dram_bytes"]["write"],
            "energy_pj": report["energy"]["total_pj"], "energy_low_pj": report["energy"]["low_pj"],
            "energy_high_pj": report["energy"]["high_pj"], "pj_per_op": report["energy"]["pj_per_op"],
            "average_watt": report["energy"]["average_watt"], "area_mm2": report["area"]["total_mm2"],
            "area_low_mm2": report["area"]["low_mm2"], "area_high_mm2": report["area"]["high_mm2"],
            "instructions": report["instructions"]}.items():
        assert row[name] == expected, name
    clock = report["clock_mhz"]
    ledger = report["ledger"]
    for name, wanted in {
            "time_us": report["cycles"] / clock, "tokens_per_s": 3e6 * clock / report["cycles"],
            "tops": 2e-6 * report["useful_macs"] * clock / report["cycles"],
            "tops_per_mm2": 2e-6 * report["useful_macs"] * clock / report["cycles"] / report["area"]["total_mm2"],
            "matrix_busy": (ledger["matrix"]["compute"] + ledger["matrix"]["fill"]) / report["cycles"],
            "vector_busy": ledger["vector"]["busy"] / report["cycles"],
            "load_busy": ledger["load"]["busy"] / report["cycles"],
            "store_busy": ledger["store"]["busy"] / report["cycles"]}.items():
        assert row[name] == pytest.approx(wanted, rel=1e-12), name
    assert set(COLUMNS) < set(row) and row["error"] is None


def test_errors_of_points_are_kept_and_do_not_end_the_sweep(table: SweepTable) -> None:
    assert len(table.rows) == 16 and 0 < len(table.errors) < 16
    for row in table.errors:
        assert row["b_buffer_bytes"] == 256 and "cycles" not in row and row["error"]
    assert "error: " in table.text() and table.text().count("\n") == 17
    read = list(csv.DictReader(io.StringIO(table.csv())))
    assert [line["error"] for line in read] == [row["error"] or "" for row in table.rows]
    for line, row in zip(read, table.rows, strict=True):
        assert [float(line[name]) if line[name] else None for name in COLUMNS] == [row.get(name) for name in COLUMNS]
    held = json.loads(json.dumps(table.to_dict()))
    assert list(held["columns"]) == table.head and held["columns"]["energy_pj"] == "pJ"
    assert [list(row.values()) for row in held["rows"]] == table.values()


def test_outcomes_are_kept_by_content(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"model": model, "layer": "attention", "tokens": [1, 2], "tile": "nano", "a_banks": [4, 1]}
    first = sweep(keys, folder=tmp_path, workers=1)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert first.known == 0 and len(lines) == len({json.loads(line)["point"] for line in lines}) == 4
    monkeypatch.setattr(tasks, "values_of", lambda task: pytest.fail("measured again"))
    again = sweep(keys | {"tokens": [2, 1]}, folder=tmp_path, workers=1)
    assert again.known == 4
    assert {tuple(r.items()) for r in again.rows} == {tuple(r.items()) for r in first.rows}
    tile = tmp_path / "mine.toml"
    tile.write_text(load_tile_text("nano"))
    assert sweep(keys | {"tile": str(tile)}, folder=tmp_path, workers=1).known == 4  # the same tile by another name
    tile.write_text(load_tile_text("nano").replace("dram_latency = ", "dram_latency = 1"))
    measured = []
    monkeypatch.setattr(tasks, "values_of", lambda task: measured.append(task) or {})
    assert sweep(keys | {"tile": str(tile)}, folder=tmp_path, workers=1).known == 0 and len(measured) == 4


def load_tile_text(name: str) -> str:
    from tilescore.rtl.spec.tile_file import tile_toml

    return tile_toml(load_tile(name))


def test_the_digest_covers_everything(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"model": model, "layer": "moe", "tokens": 2, "tile": "nano"}
    choice = tmp_path / "choice.json"
    choice.write_text("[[0, 1], [2, 3]]")
    changes = [{}, {"tokens": 3}, {"batch": 2}, {"phase": "decode"}, {"routing": "balanced"}, {"routing": "zipf-1"},
               {"routing": str(choice)}, {"seed": 1}, {"energy": "130nm"}, {"queue_depth": 3}, {"clock_mhz": 7},
               {"layer": "attention"}, {"layer": "attention", "mask": "none"},
               {"model_set": "moe_intermediate_size=48"}, {"schedule": "unblocked"},
               {"layer": "attention", "softmax_block": 8}, {"format": "e5m2"}]

    def digest(change: dict) -> str:
        axes = {name: [value] for name, value in (base | change).items()}
        (point,) = SweepPlan(axes=axes).points()
        return tasks.task_of(point).digest

    found = [digest(change) for change in changes]
    choice.write_text("[[0, 2], [2, 3]]")
    found.append(digest({"routing": str(choice)}))
    monkeypatch.setattr(tasks, "sources_digest", lambda: "others")
    found.append(digest({}))
    assert len(set(found)) == len(changes) + 2


def test_a_routing_file_travels_with_the_task(model: str, tmp_path: Path) -> None:
    choice = tmp_path / "choice.json"
    choice.write_text("[[0, 1], [0, 1]]")
    keys = {"model": model, "layer": "moe", "tokens": [2, 3], "tile": "nano", "routing": str(choice)}
    good, bad = sweep(keys, workers=1).rows
    assert good["error"] is None and bad["error"] == f"{choice}: expected a list of 3 tokens, got 2 entries"


def test_keys_of_the_model_s_configuration(model: str, tmp_path: Path) -> None:
    """As if the file had them; what cannot be is the point's error."""
    changes = {"num_key_value_heads": 4, "hidden_act": "relu", "rms_norm_eps": 1e-5}
    write_config(tmp_path, tiny_config("qwen3_moe") | changes)
    keys = {"layer": ["attention", "moe"], "tokens": 3, "tile": "nano"}
    wanted = sweep(keys | {"model": str(tmp_path)}, workers=1).rows
    text = "+".join(f"{key}={value}" for key, value in changes.items())
    found = sweep(keys | {"model": model, "model_set": [text, "num_key_value_heads=3", "hiden_act=relu"]},
                  workers=1).rows
    assert [row["cycles"] for row in found[::3]] == [row["cycles"] for row in wanted]
    assert "num_key_value_heads" in found[1]["error"] and f"{model}/config.json with num_key" in found[1]["error"]
    assert "hiden_act" in found[2]["error"] and found[2]["error"].count("\n") == 0


@pytest.mark.parametrize("layer", ["attention", "moe", "decoder"])
def test_without_blocking(model: str, layer: str) -> None:
    """The same program as with that schedule given; no kernel has more than a panel of rows at once."""
    points = SweepPlan(axes={"model": [model], "layer": [layer], "tokens": [11], "tile": ["nano"], "rows": [4],
                             "schedule": ["auto", "unblocked"]}).points()
    blocked, plain = (tasks.compile_task(tasks.task_of(point)) for point in points)
    rows = [value for kernel in plain.schedule.kernels.values() for name, value in kernel.values().items()
            if name in ("m_tile", "q_rows")]
    assert max(rows) <= 4 and plain.schedule == unblocked(blocked.schedule, 4) != blocked.schedule
    assert plain.program.instructions != blocked.program.instructions
    slow, quick = (tasks.values_of(tasks.task_of(point))["read_bytes"] for point in reversed(points))
    assert slow >= quick  # type: ignore[operator]


def test_a_line_without_its_end_is_measured_again(model: str, tmp_path: Path) -> None:
    keys = {"model": model, "layer": "attention", "tokens": [1, 2, 3], "tile": "nano"}
    whole = sweep(keys, folder=tmp_path, workers=1)
    content = (tmp_path / FILE).read_bytes()
    for cut in (1, len(content) // 2, len(content) - 1):
        (tmp_path / FILE).write_bytes(content[:cut])
        again = sweep(keys, folder=tmp_path, workers=1)
        assert again.rows == whole.rows and again.known == content[:cut].count(b"\n")
        assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize("line", ["{}", "3", "not JSON", '{"point": "a"}', '{"point": 1, "values": {}}',
                                  '{"point": "a", "values": {}, "more": 1}'])
def test_a_file_that_is_not_a_sweep_s_is_refused_and_left_alone(model: str, tmp_path: Path, line: str) -> None:
    (tmp_path / FILE).write_text(line + "\n")
    with pytest.raises(ConfigError, match="line 1: expected an outcome of a sweep"):
        sweep({"model": model, "layer": "attention", "tokens": 1, "tile": "nano"}, folder=tmp_path, workers=1)
    assert (tmp_path / FILE).read_text() == line + "\n"


def test_two_sweeps_do_not_write_one_file(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl", reason="this system has no locks on files")
    keys = {"model": model, "layer": "attention", "tokens": 1, "tile": "nano"}

    def inner(task: object) -> dict:
        with pytest.raises(ConfigError, match="another sweep writes it"):
            sweep(keys, folder=tmp_path, workers=1)
        return {}

    monkeypatch.setattr(tasks, "values_of", inner)
    assert sweep(keys, folder=tmp_path, workers=1).rows[0]["error"] is None


def test_other_sources_are_refused() -> None:
    with pytest.raises(ToolError, match="a worker has other sources of tilescore: expected x, got"):
        tasks.outcome_of(None, "x")  # type: ignore[arg-type]


def test_a_defect_is_told_and_tried_again(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(task: object) -> dict:
        raise ZeroDivisionError("no\nluck")

    keys = {"model": model, "layer": "attention", "tokens": 1, "tile": "nano"}
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "values_of", broken)
        table = sweep(keys, folder=tmp_path, workers=1)
    assert table.failed == 1 and table.rows[0]["error"] == "ZeroDivisionError: no luck"
    assert (tmp_path / FILE).read_text() == ""
    assert sweep(keys, folder=tmp_path, workers=1).rows[0]["error"] is None


class Deadly:
    """A task that ends the process that reads it."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.slow
def test_a_worker_that_dies_takes_no_other_task_with_it(model: str) -> None:
    points = SweepPlan(axes={"model": [model], "layer": ["attention"], "tokens": [1, 2, 3], "tile": ["nano"]}).points()
    good = {str(i): tasks.task_of(point) for i, point in enumerate(points)}
    done: dict[str, object] = {}
    pool.run_here({"0": good["0"], "deadly": Deadly(), "1": good["1"], "2": good["2"]}, 2,  # type: ignore[dict-item]
                  lambda digest, outcome: done.update({digest: outcome}))
    assert set(done) == {"0", "1", "2", "deadly"} and isinstance(done["deadly"], pool.WorkerDied)
    assert all(done[name] == {"values": tasks.values_of(task)} for name, task in good.items())


# ---- fronts ----


@pytest.mark.parametrize("dimensions", [2, 3])
def test_front_against_its_definition(dimensions: int, rng: np.random.Generator) -> None:
    assert front([]) == []
    for size in (1, 2, 9, 60):
        scores = rng.integers(0, 6, (size, dimensions)).tolist()
        wanted = [i for i, a in enumerate(scores) if not any(
            all(y <= x for x, y in zip(a, b, strict=True)) and b != a for b in scores)]
        assert front(scores) == wanted


def test_fronts_are_per_layer_unless_said_otherwise(table: SweepTable) -> None:
    good = [row for row in table.rows if row["error"] is None]
    best = table.pareto(["time_us", "area_mm2"])
    for layer, tokens in itertools.product(("attention", "moe"), (2, 5)):
        group = [row for row in good if (row["layer"], row["tokens"]) == (layer, tokens)]
        assert min(group, key=lambda row: row["time_us"]) in best and min(group, key=lambda r: r["area_mm2"]) in best
    (most,) = table.pareto(["tops:max", "tokens:max"], per=[])[:1]
    assert most["tokens"] == 5
    wide = table.pareto(["utilization", "tops_per_mm2", "energy_pj"], per=["tokens"])
    assert max((row for row in good if row["tokens"] == 5), key=lambda row: row["utilization"]) in wide


@pytest.mark.parametrize(("columns", "message"), [
    (["cycles"], "expected two or three columns, got 1"),
    (["cycles", "energy"], "unknown column 'energy'; did you mean energy_pj"),
    (["cycles", "tokens"], "expected tokens:min or tokens:max"),
    (["cycles", "tokens:most"], "expected tokens:min or tokens:max"),
    (["cycles", "cycles:max"], "cycles is named twice"),
])
def test_wrong_columns(table: SweepTable, columns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        table.pareto(columns)


@pytest.mark.parametrize("columns", [["time_us", "area_mm2"], ["cycles", "energy_pj", "area_mm2"]])
def test_the_drawing_has_a_dot_per_point(table: SweepTable, columns: list[str]) -> None:
    root = ElementTree.fromstring(pareto_svg(table, columns))
    dots = root.findall("{http://www.w3.org/2000/svg}circle")
    assert len(dots) == len(table.rows) - len(table.errors)
    red = [dot for dot in dots if dot.get("fill") == "#c4553b"]
    assert len(red) == len(table.pareto(columns))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert all(0 < float(dot.get("cx", -1)) < width and 0 < float(dot.get("cy", -1)) < height for dot in dots)
