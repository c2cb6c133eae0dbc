"""Every file of `examples/` runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"


def test_every_example_is_named_here_and_in_the_readme() -> None:
    files = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    baselines = {f"gate/tilescore_baselines/{name}.json" for name in ("attention", "experts")}
    assert files == {"README.md", "gate/test_schedules.py", "gate/slow_down.py", "gate/walk.sh"} | baselines


def test_the_gates_hold(tmp_path: Path) -> None:
    """With the committed baselines: pass, fail after `slow_down.py`, pass again."""
    folder = shutil.copytree(EXAMPLES / "gate", tmp_path / "gate", ignore=shutil.ignore_patterns("__pycache__"))

    def gates() -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=folder,
                              capture_output=True, text=True)

    done = gates()
    assert done.returncode == 0, done.stdout
    slowed = subprocess.run([sys.executable, "slow_down.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert slowed.stdout.startswith("out.m_tile: ")
    done = gates()
    assert done.returncode == 1 and "gate attention: " in done.stdout and "phase out" in done.stdout
    (folder / "attention.toml").unlink()
    assert gates().returncode == 0


@pytest.mark.slow
def test_a_new_users_walk(tmp_path: Path) -> None:
    """`walk.sh` as it stands: a venv with only the wheel and pytest, a gate that fails and is mended."""
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", tmp_path / "probe", "iniconfig"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no package index can be reached")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(
        ".git", ".venv", "*.egg-info", "__pycache__", "out", ".hypothesis", ".pytest_cache"))
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(source)],
                   check=True)
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("test_schedules.py", "slow_down.py", "walk.sh"):
        shutil.copy(EXAMPLES / "gate" / name, folder)
    wheel = next(tmp_path.glob("tilescore-*.whl"))
    lines = (folder / "walk.sh").read_text().splitlines()
    assert len([line for line in lines if line and not line.startswith(("#", "set"))]) <= 12
    done = subprocess.run(["bash", "walk.sh", str(wheel)], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 passed in") == 3 and "above the limit" in done.stdout
