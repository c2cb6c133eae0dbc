"""Compiled models in the cache: built once, never stale, nothing left of a build that failed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ToolError
from tilescore.sim.hardware import verilator_build
from tilescore.sim.hardware.processes import run_quietly
from tilescore.sim.hardware.toolchain import missing_for_verilator, require_verilator
from tilescore.sim.hardware.verilator_build import Model, build_executable, key, rtl_digest
from tilescore.sim.hardware.verilator_run import MODEL
from tilescore.sim.host import verilator_bus

NANO = load_tile("nano")
needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="compiled models lack " + ", ".join(missing_for_verilator()))


@needs_verilator
def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TILESCORE_CACHE", str(tmp_path))
    broken = replace(MODEL, verilog=lambda config: "module tile(; endmodule\n")
    with pytest.raises(ToolError, match="failed on tile nano"):
        build_executable(broken, NANO)
    assert [p.name for p in (tmp_path / "verilator").iterdir() if p.is_dir()] == []


@needs_verilator
def test_the_key_follows_sources_driver_and_ports(tmp_path, monkeypatch) -> None:
    """Another configuration or another RTL source gives another model."""
    install = require_verilator()
    (tmp_path / "other.cpp").write_text("changed")
    keys = {key(MODEL, NANO, install), key(replace(MODEL, driver=tmp_path / "other.cpp"), NANO, install),
            key(replace(MODEL, ports=("clk",)), NANO, install), key(verilator_bus.MODEL, NANO, install),
            key(MODEL, NANO, replace(install, version="0")), key(MODEL, replace(NANO, max_burst=32), install)}
    (tmp_path / "pe.py").write_text("changed")
    before = rtl_digest()
    monkeypatch.setattr(verilator_build, "_RTL", tmp_path)
    assert rtl_digest() != before
    assert len(keys | {key(MODEL, NANO, install)}) == 7
    assert replace(NANO, queue_depth=4).digest != NANO.digest


def test_without_verilator_the_error_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match=r"needs .*g\+\+"):
        build_executable(MODEL, NANO)


TINY = """module tiny(input clk, output reg [7:0] count);
  initial count = 0;
  always @(posedge clk) count <= count + 1;
endmodule
"""
DRIVER = """#include <cstdio>
#include "Vtiny.h"
#include "ports.h"
int main() {
    Vtiny tile;
    for (int i = 0; i < 10; i++) { tile.TINY_clk = i & 1; tile.eval(); }
    std::printf("%d\\n", tile.TINY_count);
}
"""


@pytest.mark.slow
@needs_verilator
def test_paths_that_make_cannot_take(tmp_path, monkeypatch) -> None:
    """A cache, a temporary folder and a Verilator whose paths have a space and a letter outside ASCII; the finished
    model runs from there, and nothing else is left."""
    odd = tmp_path / "Mes données, v1 é"
    (odd / "tmp").mkdir(parents=True)
    (odd / "driver.cpp").write_text(DRIVER)
    install = require_verilator()
    (odd / "verilator").symlink_to(install.root, target_is_directory=True)
    root = odd / "verilator"
    moved = replace(install, root=root, binary=root / install.binary.relative_to(install.root)
                    if install.binary.is_relative_to(install.root) else install.binary)
    monkeypatch.setattr(verilator_build, "require_verilator", lambda: moved)
    monkeypatch.delenv("TILESCORE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(odd / "cache"))
    monkeypatch.setattr(verilator_build.tempfile, "tempdir", str(odd / "tmp"))
    before = {path.name for path in Path("/var/tmp").glob("tilescore-build-*")}
    model = Model(kind="tiny", verilog=lambda config: TINY, top="tiny", driver=odd / "driver.cpp", prefix="TINY",
                  ports=("clk", "count"))
    binary = build_executable(model, NANO)
    assert binary.is_relative_to(odd / "cache" / "tilescore")
    assert run_quietly([str(binary)]).stdout == "5\n"
    assert sorted(p.name for p in binary.parent.iterdir()) == ["tiny", "tiny.v"]
    assert [p.name for p in binary.parents[1].iterdir() if p.is_dir()] == [binary.parent.name]
    assert not any((odd / "tmp").iterdir())
    assert {path.name for path in Path("/var/tmp").glob("tilescore-build-*")} <= before
    assert build_executable(model, NANO) == binary


@pytest.mark.parametrize(("path", "plain"), [
    ("/srv/user/.cache", True), ("/a b", False), ("/é", False), ("/a$b", False), ("/a#b", False), ("/a:b", False),
    ("/a%b", False), ("/a\tb", False), ("/srv/x-1_2.3+4", True),
])
def test_what_make_can_take(path: str, plain: bool) -> None:
    assert verilator_build._is_plain(Path(path)) == plain


def test_no_folder_that_make_can_take(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verilator_build, "_is_plain", lambda path: False)
    with pytest.raises(ToolError, match=r"neither spaces nor .*set TILESCORE_CACHE or TMPDIR"):
        verilator_build.work_parent(tmp_path)


@pytest.mark.parametrize(("output", "reason"), [
    ("", "it printed nothing"),
    ("a\nmain.cpp:3: error: no x\nb\nc\nd\n", "main.cpp:3: error: no x | b | c | d"),
    ("make: *** No rule to make target 'x'.  Stop.\n", "make: *** No rule to make target 'x'.  Stop."),
    ("one\n\ntwo\n", "one | two"),
])
def test_the_reason_of_a_failed_build(output: str, reason: str) -> None:
    assert verilator_build._reason(output) == reason
