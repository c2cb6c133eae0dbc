"""Explanations: every number in a sentence is measured, and every saving is had by making the change."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tilescore.cli.main import main
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.explain.changes import KINDS, changes_of
from tilescore.compiler.explain.explanation import Explanation, explain
from tilescore.compiler.explain.operands import operands_of, union_bytes
from tilescore.compiler.report import report_compiled
from tilescore.compiler.schedule import from_dict
from tilescore.compiler.sweep.plan import SweepPlan
from tilescore.compiler.sweep.tasks import Task, task_of
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import Halt, Load, Space
from tilescore.rtl.spec.tile_settings import change_tile
from tilescore.sim.program import Program, Segment
from tilescore.tests.compiler.tiny import tiny_config, write_config


def task(folder: Path, family: str, **keys: object) -> Task:
    write_config(folder, tiny_config(family))
    axes = {"model": [str(folder)], "tile": ["nano"], **{name: [value] for name, value in keys.items()}}
    (point,) = SweepPlan(axes=axes).points()
    return task_of(point)


def check_savings(base: Task, found: Explanation) -> None:
    """Each change once more, by the ways of a user: settings of the tile, or the schedule as its JSON."""
    for saving in found.savings:
        shown = saving.to_dict()
        schedule = base.schedule if shown["schedule"] is None else from_dict(json.loads(json.dumps(shown["schedule"])))
        config = base.config if saving.change.kind == "schedule" else change_tile(base.config, [saving.change.text])
        compiled = compile_layer(base.workload, config, schedule=schedule, data=False, numerics=base.numerics,
                                 routing=base.routing, seed=base.seed)
        report = report_compiled(compiled, energy=base.energy)
        assert (shown["cycles"], shown["energy_pj"], shown["area_mm2"]) == (
            report["cycles"], report["energy"]["total_pj"], report["area"]["total_mm2"]), saving.change.text
        assert shown["time_us"] == pytest.approx(report["cycles"] / config.clock_mhz, rel=1e-12)
    for kind in KINDS:
        best = found.best(kind)
        times = [s.values["time_us"] for s in found.savings if s.change.kind == kind]
        saved = min(times, default=found.values["time_us"]) < found.values["time_us"]
        assert (best is not None) == saved
        if best is not None:
            (line,) = (line for line in found.sentences() if line.startswith(f"Of {KINDS[kind]}, "))
            assert f"{best.change.text} saves most: {found.values['cycles']:,} -> " in line
            assert f" -> {best.values['cycles']:,} cycles" in line
            assert f"time {100 * (min(times) / found.values['time_us'] - 1):+.1f} %" in line


@pytest.mark.parametrize(("family", "keys"), [
    ("qwen3_moe", {"layer": "attention", "tokens": 6}),
    ("olmoe", {"layer": "moe", "tokens": 3, "routing": "balanced"}),
])
def test_a_saving_is_had_by_making_the_change(tmp_path: Path, family: str, keys: dict) -> None:
    base = task(tmp_path, family, **keys)
    found = explain(base, workers=1)
    kinds = {saving.change.kind for saving in found.savings}
    assert {"sram", "latency", "clock", "schedule", "array"} <= kinds and len(found.savings) > 15
    check_savings(base, found)


LAYERS = [(family, {"layer": layer, **keys}) for family in ("llama", "granite", "mixtral", "qwen3_moe", "olmoe")
          for layer in ("attention", "moe") for keys in ({"tokens": 40}, {"phase": "decode", "batch": 5})
          if layer == "attention" or family not in ("llama", "granite")]
LAYERS += [("qwen3", {"layer": "attention", "tokens": 9, "batch": 2, "rows": 8, "a_buffer_bytes": 16384}),
           ("mistral", {"layer": "attention", "tokens": 64, "bus_bytes": 8}),
           ("qwen3", {"layer": "attention", "tokens": 5, "format": "e4m3", "energy": "130nm"}),
           ("olmoe", {"layer": "moe", "tokens": 30, "routing": "zipf-1"})]


@pytest.mark.sampled
@pytest.mark.parametrize(("family", "keys"), LAYERS)
def test_savings_of_twenty_layers(tmp_path: Path, family: str, keys: dict) -> None:
    assert len(LAYERS) >= 20
    base = task(tmp_path, family, **keys)
    check_savings(base, explain(base, workers=1))


def test_every_change_is_one_step(tmp_path: Path) -> None:
    base = task(tmp_path, "llama", layer="attention", tokens=8)
    schedule = compile_layer(base.workload, base.config, data=False).schedule
    changes = changes_of(base, schedule)
    assert len({change.task.digest for change in changes}) == len(changes)
    for change in changes:
        assert change.kind in KINDS
        if change.kind == "schedule":
            assert change.text.count(" -> ") == 1 and change.task.config == base.config
        else:
            assert change.task.schedule is None and change.task.config.digest != base.config.digest
    assert {change.kind for change in changes_of(base, schedule, ("sram",))} == {"sram"}
    slow = replace(base, config=replace(base.config, dram_bytes_per_cycle="29/3", dram_shared=True))
    assert [change.text for change in changes_of(slow, schedule, ("bandwidth",))] == [
        "dram_bytes_per_cycle=16", "dram_shared=false"]
    (clock,) = changes_of(slow, schedule, ("clock",))
    assert clock.task.config.dram_rate == slow.config.dram_rate / 2


# ---- operands ----


def test_union_against_a_set(rng: np.random.Generator) -> None:
    assert union_bytes([]) == 0
    for _ in range(30):
        streams = rng.integers([0, 1, 0, 1], [50, 9, 12, 6], (rng.integers(1, 6), 4)).tolist()
        wanted = {addr + r * stride + b
                  for addr, size, stride, rows in streams for r in range(rows) for b in range(size)}
        assert union_bytes(streams) == len(wanted)


def test_operands_of_a_program_by_hand() -> None:
    """16 rows of 32 bytes of w twice, with 64 bytes of x in between; x once."""
    config = load_tile("nano")
    load_w = Load(space=Space.B, dram_addr=1024, rows=16, row_bytes=32, row_stride=32)
    load_x = Load(space=Space.B, dram_addr=64, rows=2, row_bytes=32, row_stride=32)
    page = Load(space=Space.PROGRAM, dram_addr=4096, rows=1, row_bytes=512)
    program = Program(config=config, instructions=[load_w, load_x, page, load_w, Halt()],
                      segments=[Segment("x", 64, None, 64), Segment("w3", 1024, None, 512)],
                      outputs=[], dram_bytes=8192, program_addr=4096, phases=["q", "q", "", "v", ""])
    w, x = operands_of(program)
    assert (w.name, w.read_bytes, w.stored_bytes, w.times, w.space) == ("w*", 1024, 512, 2, "B")
    assert w.between_bytes == 64 and w.capacity_bytes == 8192 and w.phases == {"q": 512, "v": 512}
    assert (x.name, x.read_bytes, x.times, x.between_bytes) == ("x", 64, 1, None)


def test_operands_add_up_to_the_rows_that_are_loaded(tmp_path: Path) -> None:
    base = task(tmp_path, "llama", layer="attention", tokens=16)
    compiled = compile_layer(base.workload, base.config, data=False)
    rows = [(i.space in (Space.PROGRAM, Space.INDEX), i.rows * i.row_bytes) for i in compiled.program.instructions
            if i.spec.name in ("LOAD", "GATHER")]
    operands = operands_of(compiled.program)
    assert sum(operand.read_bytes for operand in operands) == sum(size for other, size in rows if not other)
    assert sum(size for _, size in rows) <= report_compiled(compiled)["dram_bytes"]["read"]
    assert {"wq", "wk", "wv", "wo", "x"} <= {operand.name for operand in operands}
    assert all(sum(operand.phases.values()) == operand.read_bytes for operand in operands)


# ---- the command ----


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, tiny_config("qwen3_moe"))
    line = ["--model", ".", "--layer", "attention", "--tokens", "5", "--tile", "nano", "--workers", "1"]
    assert main(["explain", *line, "--only", "schedule,latency", "--schedule-out", "best.toml"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert main(["explain", *line, "--only", "schedule,latency", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert text == " ".join(" ".join(found["sentences"]).split())
    assert {change["kind"] for change in found["changes"]} == {"schedule", "latency"}
    assert main(["run", *line[:-2], "--level", "timing", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert found["values"]["cycles"] == report["cycles"] and found["ledger"] == report["ledger"]
    assert found["critical_path"] == report["critical_path"]
    assert {f"{name}_cycles": value for name, value in found["bounds"].items()} == report["bounds"]
    assert re.search(rf"takes {report['cycles']:,} cycles .* to {100 * report['utilization']:.1f} %", text)
    assert main(["run", *line[:-2], "--level", "timing", "--json", "--schedule", "best.toml"]) == 0
    best = min(change["cycles"] for change in found["changes"] if change["kind"] == "schedule")
    assert json.loads(capsys.readouterr().out)["cycles"] == min(best, report["cycles"])


@pytest.mark.parametrize(("options", "message"), [
    ("--layer moe --tokens 2", "explain needs --model"),
    ("--model . --layer moe --tokens 2 --only srm", "--only srm: unknown kind 'srm'; allowed: bandwidth, sram"),
    ("--model . --layer moe --tokens 2 --mask none", "--mask none: only attention has one"),
    ("--model . --layer attention --tokens 2 --only sram --schedule-out a.json", "--only leaves the schedule out"),
    ("--model . --layer attention --tokens 2 --tile nano --tile-set b_buffer_bytes=256", "buffer"),
])
def test_wrong_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str,
                     message: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, tiny_config("qwen3_moe"))
    assert main(["explain", *options.split()]) == 2
    assert message in capsys.readouterr().err
