"""`tilescore sweep`: its files and figures, and sweeps that are killed, here and on a cluster."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tilescore.cli.main import main
from tilescore.tests.compiler.tiny import tiny_config, write_config
from tilescore.tests.processes import AS_ON_A_TERMINAL

FILES = ["pareto.csv", "pareto.svg", "points.jsonl", "table.csv", "table.json"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the commands, with a model in it."""
    (tmp_path / "m").mkdir()
    write_config(tmp_path / "m", tiny_config("qwen3_moe"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str, capsys: pytest.CaptureFixture[str], status: int = 0) -> tuple[str, str]:
    assert main(shlex.split(line)) == status
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_files_and_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "grid.toml").write_text('model = "m"\nlayer = ["attention", "moe"]\ntokens = [2, 3]\ntile = "nano"\n')
    line = "sweep grid.toml --set dram_latency=20,90 --pareto cycles,energy_pj --workers 1"
    out, _ = run(line, capsys)
    assert "8 points, 0 known before, 0 with an error" in out and "Pareto front over cycles, energy_pj" in out
    assert sorted(path.name for path in (folder / "out/sweep").iterdir()) == FILES
    rows = list(csv.DictReader((folder / "out/sweep/table.csv").open()))
    assert [(row["layer"], row["tokens"], row["dram_latency"]) for row in rows[:3]] == [
        ("attention", "2", "20"), ("attention", "2", "90"), ("attention", "3", "20")]
    for row in rows[1], rows[6]:
        report = json.loads(run(f"run --model m --layer {row['layer']} --tokens {row['tokens']} --tile nano --tile-set "
                                f"dram_latency={row['dram_latency']} --level timing --json", capsys)[0])
        assert int(row["cycles"]) == report["cycles"] and float(row["energy_pj"]) == report["energy"]["total_pj"]
        assert float(row["area_mm2"]) == report["area"]["total_mm2"]
    made = json.loads(run(line + " --json", capsys)[0])
    saved = json.loads((folder / "out/sweep/table.json").read_text())
    assert made["rows"] == saved["rows"] and saved["command"][0] == "sweep"
    best = list(csv.DictReader((folder / "out/sweep/pareto.csv").open()))
    assert [row["point"] for row in best] == made["pareto"] and {row["dram_latency"] for row in best} == {"20"}


@pytest.mark.parametrize(("line", "message"), [
    ("sweep", "sweep: expected FILE.toml or --set KEY=VALUE"),
    ("sweep none.toml", "none.toml: cannot be read: No such file"),
    ("sweep --set model=m --set layer=moe --set tokens=1 --workers 0", "--workers 0: expected an integer of at"),
    ("sweep --set model=m --set layer=moe --set tokens=1 --per model", "--per model: --pareto is needed too"),
    ("sweep --set model=m --set layer=moe --set tokens=1 --pareto cycles,aera", "--pareto aera: unknown column"),
    ("sweep --set model=m --set layer=moe --set tokens=1 --out m/config.json", "--out m/config.json: is a file"),
    ("sweep --set model=m --set layer=moe --set tokens=1 --scheduler tcp://a --workers 2", "are those of --scheduler"),
])
def test_wrong_lines(folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    _, err = run(line, capsys, status=2)
    assert message in err and err.count("\n") == 1 and not (folder / "out").exists()


def test_status_where_no_point_has_values(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("sweep --set model=m --set layer=attention --set tokens=1 --set tile=nano --set b_buffer_bytes={} "
            "--workers 1")
    out, _ = run(line.format("256"), capsys, status=1)
    assert "error: " in out
    out, err = run(line.format("256,8192") + " --json", capsys)
    assert "1 of 2 points have an error" in err and len(json.loads(out)["rows"]) == 2


# ---- killed ----


def grid(folder: Path, points: int) -> list[str]:
    """A command that measures that many points of some milliseconds each."""
    latencies = ",".join(map(str, range(1, 1 + points // 2)))
    return [sys.executable, "-m", "tilescore", "sweep", "--set", "model=m", "--set", "layer=attention,moe", "--set",
            f"dram_latency={latencies}", "--set", "tokens=2", "--set", "tile=nano", "--workers", "2"]


def lines_of(folder: Path) -> list[bytes]:
    """The whole lines that a sweep has kept so far."""
    file = folder / "points.jsonl"
    content = file.read_bytes() if file.exists() else b""
    return content[:content.rfind(b"\n") + 1].splitlines()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def killed_again_and_again(folder: Path, points: int, kills: int, rng: np.random.Generator) -> None:
    """Kill a sweep when it has kept a random number of points; then let it end."""
    command = grid(folder, points)
    subprocess.run([*command, "--out", "alone"], check=True, capture_output=True)
    moments = sorted(rng.choice(np.arange(1, points), kills, replace=False).tolist())
    kept: list[bytes] = []
    for moment in moments:
        process = subprocess.Popen([*command, "--out", "killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(lines_of(folder / "killed")) < moment and process.poll() is None:
            time.sleep(0.002)
        workers = children(process.pid) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.wait()
        while any(Path(f"/proc/{worker}").exists() for worker in workers):  # they end by themselves
            time.sleep(0.002)
        now = lines_of(folder / "killed")
        assert now[:len(kept)] == kept, "an outcome was lost"
        kept = now
    subprocess.run([*command, "--out", "killed"], check=True, capture_output=True)
    assert (folder / "killed/table.csv").read_bytes() == (folder / "alone/table.csv").read_bytes()
    digests = [json.loads(line)["point"] for line in lines_of(folder / "killed")]
    assert len(digests) == len(set(digests)) == points
    assert lines_of(folder / "killed")[:len(kept)] == kept


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the workers")


@needs_proc
def test_a_sweep_that_is_killed_goes_on(folder: Path, rng: np.random.Generator) -> None:
    killed_again_and_again(folder, 12, 1, rng)


@needs_proc
@pytest.mark.slow
def test_a_long_sweep_is_killed_five_times(folder: Path, rng: np.random.Generator) -> None:
    killed_again_and_again(folder, 200, 5, rng)


@pytest.mark.slow
def test_interrupted_it_ends_with_its_workers(folder: Path) -> None:
    """As Ctrl-C on a terminal does: to all processes of the group."""
    process = subprocess.Popen([*AS_ON_A_TERMINAL, *grid(folder, 400), "--out", "stopped"], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while len(lines_of(folder / "stopped")) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and "Traceback" not in err and out == ""
    assert 3 <= len(lines_of(folder / "stopped")) < 400
    with pytest.raises(ProcessLookupError):
        while True:  # they end by themselves
            os.killpg(process.pid, 0)
            time.sleep(0.01)


# ---- on a cluster ----


@pytest.fixture
def cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """(address of a scheduler, its two workers, which nobody starts again)."""
    pytest.importorskip("distributed", reason="Dask is not installed: make dask")
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard", "--no-show",
             "--scheduler-file", "scheduler.json"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(start, **quiet)
    processes = [scheduler]
    try:
        while not (folder / "scheduler.json").exists() or not (folder / "scheduler.json").read_text().endswith("}"):
            assert scheduler.poll() is None
            time.sleep(0.01)
        address = json.loads((folder / "scheduler.json").read_text())["address"]
        (folder / "elsewhere").mkdir()
        workers = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1",
                                     "--no-nanny", "--no-dashboard"], cwd=folder / "elsewhere", **quiet)
                   for _ in range(2)]
        processes += workers
        yield address, workers
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker(folder: Path, cluster: tuple[str, list[subprocess.Popen]],
                                       rng: np.random.Generator) -> None:
    """The same table as from processes; the workers stand in another folder, so that they see none of its files."""
    address, workers = cluster
    command = grid(folder, 200)
    subprocess.run([*command, "--out", "alone"], check=True, capture_output=True)
    moment = int(rng.integers(2, 150))
    process = subprocess.Popen([*command[:-2], "--scheduler", address, "--out", "cluster"], stderr=subprocess.PIPE)
    while len(lines_of(folder / "cluster")) < moment:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    workers[0].kill()
    assert process.wait() == 0, process.communicate()
    assert (folder / "cluster/table.csv").read_bytes() == (folder / "alone/table.csv").read_bytes()
    digests = [json.loads(line)["point"] for line in lines_of(folder / "cluster")]
    assert len(digests) == len(set(digests)) == 200 and workers[1].poll() is None


def test_a_scheduler_that_does_not_answer(folder: Path, capsys: pytest.CaptureFixture[str],
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    line = "sweep --set model=m --set layer=moe --set tokens=1 --set tile=nano --scheduler {}"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        _, err = run(line.format("tcp://a:1"), capsys, status=2)
        assert "--scheduler: needs the package distributed: pip install 'tilescore[dask]'" in err
    pytest.importorskip("distributed", reason="Dask is not installed: make dask")
    _, err = run(line.format("nonsense://a:1"), capsys, status=2)
    assert "--scheduler nonsense://a:1: no scheduler answers" in err and err.count("\n") == 1
