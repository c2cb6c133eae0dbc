"""The gate: verdicts on changed schedules, and the plug-in in a project of its own."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import report_compiled
from tilescore.rtl.spec.errors import CompileError, ConfigError
from tilescore.testing.gate import DEFAULT_LIMITS, baseline_path, judge, limits_of, load_baseline, save_baseline
from tilescore.tests.compiler.play import EDGE, NANO

NUMERICS = Numerics(softmax_block=32)
ATTENTION = Workload(layer=AttentionLayer(model="tiny", hidden=256, heads=8, kv_heads=2, head_dim=32), tokens=48)
MOE = Workload(layer=MoELayer(model="tiny", hidden=128, experts=6, top_k=2, intermediate=64, norm_topk=True), tokens=40)
LAYERS = {"attention": ATTENTION, "moe": MOE}


def compiled(name: str, schedule: object = None) -> CompiledLayer:
    return compile_layer(LAYERS[name], EDGE, data=False, numerics=NUMERICS, schedule=schedule)


@pytest.fixture(scope="module")
def bases() -> dict[str, dict]:
    return {name: report_compiled(compiled(name)) for name in LAYERS}


def mutations(name: str, rng: random.Random) -> Iterator[tuple[str, CompiledLayer]]:
    """(kernel of the schedule, layer) with one value of it changed, as long as the compiler accepts that."""
    schedule = compiled(name).schedule
    while True:
        kernel = rng.choice(list(schedule.kernels))
        field, value = rng.choice(list(schedule[kernel].values().items()))
        new = not value if isinstance(value, bool) else rng.choice([value // 2, value - 1, value + 1, value * 2])
        try:
            yield kernel, compiled(name, schedule.change(kernel, **{field: new}))
        except CompileError:
            continue


@pytest.mark.parametrize("name", LAYERS)
def test_every_slower_schedule_is_caught_and_named(name: str, bases: dict[str, dict]) -> None:
    """At least 15 changed schedules of each kind of layer, 5 of them slower: one cycle more is caught, with the phase
    that was changed and the unit whose share of the critical path grew most there; no cycle more passes."""
    base, seen = bases[name], []
    for part, layer in mutations(name, random.Random(7)):
        report = report_compiled(layer)
        verdict = judge("tiny", base, report, {"cycles": 0.0})
        grew = report["cycles"] > base["cycles"]
        seen.append(grew)
        assert verdict.passed != grew
        if grew:
            shares = [(units.get(unit, 0) - base["critical_path"].get(phase, {}).get(unit, 0), phase, unit)
                      for phase, units in report["critical_path"].items() for unit in units]
            _, phase, unit = max(shares)
            assert f"the growth of cycles comes from the {unit} unit in phase {phase}" in verdict.text
            assert phase in (part.partition(".")[0], "program"), (part, verdict.text)
            assert f"{part}" in verdict.text.partition("schedule, ")[2]
            assert f"{base['cycles']:,}" in verdict.text and f"{report['cycles']:,}" in verdict.text
            assert "first difference" in verdict.text
        if len(seen) >= 15 and sum(seen) >= 5:
            break
    assert not all(seen)


def test_one_cycle_is_enough(bases: dict[str, dict]) -> None:
    base = bases["moe"]
    for change, passes in ((1, False), (0, True), (-1, True)):
        assert judge("x", base, base | {"cycles": base["cycles"] + change}, DEFAULT_LIMITS).passed == passes


def test_another_order_with_equal_cycles_passes(bases: dict[str, dict]) -> None:
    """A tie that is broken otherwise changes instructions, not figures: the timelines part, the gate passes."""
    base = bases["moe"]
    others = (report_compiled(layer) for _, layer in mutations("moe", random.Random(5)))
    tie = next(other for other in others
               if other["cycles"] == base["cycles"] and other["timeline"] != base["timeline"])
    assert judge("tiny", base, tie, {"cycles": 0.0}).passed


def test_energy_and_bytes_have_limits_of_their_own(bases: dict[str, dict]) -> None:
    base = bases["moe"]
    energy = base["energy"]
    for share, passes in ((1.009, True), (1.011, False)):
        report = base | {"energy": energy | {"total_pj": share * energy["total_pj"]}}
        assert judge("x", base, report, DEFAULT_LIMITS).passed == passes
    more = base | {"dram_bytes": base["dram_bytes"] | {"write": base["dram_bytes"]["write"] + 1}}
    verdict = judge("x", base, more, DEFAULT_LIMITS)
    assert not verdict.passed and verdict.text.startswith("gate x: bytes above the limit")
    assert judge("x", base, more, DEFAULT_LIMITS | {"bytes": 0.01}).passed


def test_other_numerics_are_not_called_a_regression(bases: dict[str, dict]) -> None:
    layer = compile_layer(ATTENTION, EDGE, data=False, numerics=Numerics(softmax_block=64))
    verdict = judge("x", bases["attention"], report_compiled(layer), DEFAULT_LIMITS)
    assert not verdict.passed and "another numeric definition, not a regression" in verdict.text
    assert "softmax_block 32 -> 64" in verdict.text and "above the limit" not in verdict.text


def test_another_tile_and_another_workload_are_named(bases: dict[str, dict]) -> None:
    tile = dataclasses.replace(EDGE, dram_latency=EDGE.dram_latency + 1)
    verdict = judge("x", bases["moe"], report_compiled(compile_layer(MOE, tile, data=False, numerics=NUMERICS)),
                    DEFAULT_LIMITS)
    assert not verdict.passed and f"dram_latency {EDGE.dram_latency} -> {tile.dram_latency}" in verdict.text
    verdict = judge("x", bases["moe"], bases["moe"] | {"tokens": 41}, DEFAULT_LIMITS)
    assert not verdict.passed and "tokens 40 -> 41" in verdict.text


def test_a_baseline_of_another_version_is_said_and_not_failed(bases: dict[str, dict]) -> None:
    base = bases["moe"]
    verdict = judge("x", base | {"tilescore": "0.0.1"}, base, DEFAULT_LIMITS)
    assert verdict.passed and "made by tilescore 0.0.1" in verdict.notes[0]
    other = base | {"energy": base["energy"] | {"digest": "0" * 12}}
    assert "energy table" in judge("x", other, base, DEFAULT_LIMITS).notes[0]


def test_a_baseline_comes_back(tmp_path: Path, bases: dict[str, dict]) -> None:
    path = baseline_path(tmp_path / "new", "tiny-moe.1")
    save_baseline(path, bases["moe"])
    assert judge("x", load_baseline(path), bases["moe"], DEFAULT_LIMITS).passed
    assert list(path.parent.iterdir()) == [path] and path.stat().st_size < 60_000


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a b"])
def test_a_name_is_a_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="expected a name of letters"):
        baseline_path(tmp_path, name)


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\xff", "[" * 100_000])
def test_a_damaged_baseline_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=f"^baseline {path}: "):
        load_baseline(path)


def test_limits_of() -> None:
    assert limits_of(None) == DEFAULT_LIMITS
    assert limits_of("energy:5%") == DEFAULT_LIMITS | {"energy": 0.05}
    assert limits_of({"cycles": 0.1}) == DEFAULT_LIMITS | {"cycles": 0.1}
    for wrong in ({"time": 0.1}, {"cycles": -1}, {"cycles": "1%"}, {"cycles": True}, {"cycles": float("nan")}):
        with pytest.raises(ConfigError, match=r"^limit "):
            limits_of(wrong)


# The plug-in -------------------------------------------------------------------------------------------

PROJECT = '''
import dataclasses, json, pathlib
import pytest
from tilescore import AttentionLayer, MoELayer, Numerics, Workload, compile_layer, load_schedule, load_tile

TILE = load_tile("nano")
LAYER = Workload(layer=AttentionLayer(model="mine", hidden=64, heads=4, kv_heads=2, head_dim=16), tokens=12)
MOE = Workload(layer=MoELayer(model="mine", hidden=64, experts=4, top_k=2, intermediate=32, norm_topk=True), tokens=12)

def compiled():
    file = pathlib.Path(__file__).with_name("schedule.toml")
    schedule = load_schedule(file) if file.exists() else None
    return compile_layer(LAYER, TILE, data=False, schedule=schedule, numerics=Numerics(softmax_block=16))

def test_attention(tilescore_gate):
    tilescore_gate("attention", compiled())

@pytest.mark.parametrize("tokens", [8, 12])
def test_moe(tilescore_gate, tokens):
    layer = dataclasses.replace(MOE, tokens=tokens)
    tilescore_gate(f"moe-{tokens}", compile_layer(layer, TILE, data=False))
'''


class Project:
    """A project in a folder of its own, tested in processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "test_mine.py").write_text(PROJECT)
        (folder / "pytest.ini").write_text("[pytest]\n")

    def run(self, *arguments: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
                              cwd=self.folder, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def worsen(self) -> None:
        from tilescore.compiler.schedule import save_schedule

        numerics = Numerics(softmax_block=16)
        workload = Workload(layer=AttentionLayer(model="mine", hidden=64, heads=4, kv_heads=2, head_dim=16), tokens=12)
        schedule = compile_layer(workload, NANO, data=False, numerics=numerics).schedule
        save_schedule(schedule.change("out", m_tile=4), self.folder / "schedule.toml")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.slow
def test_a_project_of_its_own(project: Project) -> None:
    """No baseline, written, passing, passing in two processes, failing with the table, renewed: six runs."""
    status, shown = project.run()
    assert status == 1 and "no baseline tilescore_baselines/attention.json; write it with --tilescore-update" in shown
    status, shown = project.run("--tilescore-update", "-n", "2")
    assert status == 0 and "3 updated" in shown, shown
    files = sorted(path.name for path in (project.folder / "tilescore_baselines").iterdir())
    assert files == ["attention.json", "moe-12.json", "moe-8.json"]
    for options in ((), ("-n", "2")):
        status, shown = project.run(*options)
        assert status == 0 and "tilescore gates" in shown and "3 passed" in shown, shown
    project.worsen()
    status, shown = project.run("-n", "2")
    assert status == 1 and "gate attention: " in shown and "above the limit" in shown
    for part in ("baseline", "now", "change", "limit", "comes from phase out", "out.m_tile: ", "first difference"):
        assert part in shown, part
    assert "Traceback" not in shown and "2 passed, 1 failed" in shown
    assert project.run("--tilescore-fail=cycles:900%,energy:900%,bytes:900%", "-k", "attention")[0] == 0
    status, shown = project.run("--tilescore-update", "-k", "attention")
    assert status == 0 and project.run()[0] == 0


def test_wrong_use_is_one_line(project: Project) -> None:
    status, shown = project.run("--tilescore-fail=time:1%", "-k", "attention")
    assert status == 1 and "gate attention: limit 'time:1%': expected NAME:PERCENT%" in shown
    (project.folder / "test_twice.py").write_text(
        "from test_mine import MOE, TILE, compile_layer\n\n"
        "def test_a(tilescore_gate):\n    tilescore_gate('same', compile_layer(MOE, TILE, data=False))\n\n"
        "def test_b(tilescore_gate):\n    tilescore_gate('same', compile_layer(MOE, TILE, data=False))\n")
    status, shown = project.run("--tilescore-update", "test_twice.py")
    assert status == 1 and "the name is used by test_twice.py::test_a too" in shown


def test_nothing_heavy_is_imported_at_the_start(tmp_path: Path) -> None:
    """A project that does not use the fixture pays for nothing."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_it():\n    assert 'tilescore.testing.pytest_plugin' in sys.modules\n"
        "    assert not {'numpy', 'amaranth'} & set(sys.modules)\n"
        "    assert not any(name.startswith(('tilescore.compiler', 'tilescore.sim', 'tilescore.rtl'))\n"
        "                   for name in sys.modules)\n")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest",
                           "test_other.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
