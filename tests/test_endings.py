"""However a command ends, nothing is left and nothing is said but what is true: full disks, closed pipes, signals,
terminals without letters."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.program import Program
from tilescore.tests.compiler.tiny import tiny_config, write_config, write_model
from tilescore.tests.processes import AS_ON_A_TERMINAL

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def tilescore(folder: Path, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tilescore", *argv]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.run(command, cwd=folder, check=False, **options)


@needs_full
@pytest.mark.parametrize("argv", [["isa", "--markdown"], ["formats"], ["tile", "nano"], ["completion", "zsh"],
                                  ["--version"], ["run", "--help"]], ids=" ".join)
def test_full_standard_output(argv: list[str], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = tilescore(tmp_path, *argv, stdout=full)
    assert (done.returncode, done.stderr) == (2, "tilescore: standard output: No space left on device\n")


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    """A closed standard output is refused before any work; a closed standard error is done without."""
    redirection = {"stdout": ">&-", "stderr": "2>&-", "both": ">&- 2>&-"}[closed]
    done = subprocess.run(["sh", "-c", f'"$0" -m tilescore tile nano {redirection}', sys.executable], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == (0 if closed == "stderr" else 2)
    assert done.stderr == ("tilescore: standard output: is closed\n" if closed == "stdout" else "")
    assert done.stdout.count("\n") > 20 if closed == "stderr" else done.stdout == ""


@needs_full
def test_a_report_that_cannot_be_printed_is_still_written(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "qwen3_moe", seed=1)
    argv = shlex.split("run --model m --layer attention --tokens 2 --tile nano --out out")
    with FULL.open("w") as full:
        done = tilescore(tmp_path, *argv, stdout=full)
    assert (done.returncode, done.stderr) == (2, "tilescore: standard output: No space left on device\n")
    assert {"attention.txt", "report.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("variables", [
    {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
], ids=["io", "locale"])
def test_terminals_without_letters(variables: dict[str, str], tmp_path: Path) -> None:
    """Letters that the terminal lacks are printed as codes, in results and in errors; files have them all."""
    if "LC_ALL" in variables and not sys.executable.isascii():
        pytest.skip("in this locale Python finds no module below a path with such letters")
    text = tilescore(tmp_path, "tile", "nano", encoding="utf-8").stdout
    (tmp_path / "t.toml").write_text(text.replace('"nano"', '"naïve"'), encoding="utf-8")
    environment = os.environ | variables
    done = tilescore(tmp_path, "tile", "t.toml", env=environment)
    assert done.returncode == 0 and 'name = "na\\xefve"' in done.stdout and done.stderr == ""
    wrong = tilescore(tmp_path, "tile", "naïve", env=environment)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and wrong.stderr.isascii()
    page = tilescore(tmp_path, "isa", "--markdown", env=environment)
    assert page.returncode == 0 and page.stderr == "" and page.stdout.isascii()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_written_files_have_the_permissions_of_new_files(umask: int, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_config(tmp_path / "m", tiny_config("qwen3_moe"))
    argv = shlex.split("compile --model m --layer attention --tokens 2 --tile nano --no-data -o p.tsp --listing p.txt")
    (tmp_path / "p.txt").write_text("old")
    (tmp_path / "p.txt").chmod(0o600)
    assert tilescore(tmp_path, *argv, umask=umask).returncode == 0
    for name in ("p.tsp", "p.txt"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "p.tsp", "p.txt"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "real").mkdir()
    write_config(tmp_path / "m", tiny_config("qwen3_moe"))
    (tmp_path / "real" / "p.tsp").write_text("old")
    (tmp_path / "p.tsp").symlink_to("real/p.tsp")
    argv = shlex.split("compile --model m --layer attention --tokens 2 --tile nano --no-data -o p.tsp")
    assert tilescore(tmp_path, *argv).returncode == 0
    assert (tmp_path / "p.tsp").is_symlink() and Program.load(tmp_path / "real" / "p.tsp").instructions


# ---- signals ----

SLOW_BUILD = """
import sys
from dataclasses import replace
from tilescore.sim.hardware import verilator_run
verilator_run.MODEL = replace(verilator_run.MODEL, verilog=lambda config: "module tile(input clk); endmodule\\n")
from tilescore.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""The command line, with a model whose Verilog is there at once."""


@pytest.mark.skipif(bool(missing_for_verilator()), reason="compiled models need Verilator, a C++ compiler and make")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopped_while_a_model_is_built(number: int, status: int, tmp_path: Path) -> None:
    """The compiler hangs; the signal ends it too, and nothing is left in the cache or among temporary files."""
    write_model(tmp_path / "m", "qwen3_moe", seed=1)
    cache, temporary = tmp_path / "my cache", tmp_path / "tmp"
    cache.mkdir()
    temporary.mkdir()
    (tmp_path / "started").unlink(missing_ok=True)
    compiler = tmp_path / "g++"
    compiler.write_text(f'#!/bin/sh\necho $$ > "{tmp_path}/started.new"\nmv "{tmp_path}/started.new" '
                        f'"{tmp_path}/started"\nexec sleep 1000\n')
    compiler.chmod(0o755)
    environment = os.environ | {"CXX": str(compiler), "TILESCORE_CACHE": str(cache), "TMPDIR": str(temporary)}
    argv = shlex.split("run --model m --layer attention --tokens 2 --tile nano --level timing,rtl --out out")
    process = subprocess.Popen([*AS_ON_A_TERMINAL, sys.executable, "-c", SLOW_BUILD, *argv], cwd=tmp_path,
                               env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (status, "", "")
    assert not Path(f"/proc/{(tmp_path / 'started').read_text().strip()}").exists()
    assert not any(temporary.iterdir()) and not (tmp_path / "out").exists()
    assert [path.suffix for path in (cache / "verilator").iterdir()] == [".lock"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_while_it_waits(number: int, status: int, tmp_path: Path) -> None:
    """A command that reads from a pipe which nobody writes."""
    os.mkfifo(tmp_path / "tile.toml")
    code = ("import sys\nfrom pathlib import Path\nfrom tilescore.cli import hardware\n"
            "from tilescore.cli.main import main\n"
            "def wait(arguments):\n    Path('started').touch()\n    return Path(arguments.tile).read_text()\n"
            "hardware.tile_of = wait\nsys.exit(main(sys.argv[1:]))")
    process = subprocess.Popen([*AS_ON_A_TERMINAL, sys.executable, "-c", code, "tile", "tile.toml"], cwd=tmp_path,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.communicate() == ("", "") and process.returncode == status
