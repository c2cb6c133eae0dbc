"""Compiled models in the cache: built once, never stale, nothing left of a build that failed."""

from dataclasses import replace

import pytest

from tilescore.rtl.config import load_tile
from tilescore.rtl.errors import ToolError
from tilescore.sim import verilator_build
from tilescore.sim.host import verilator_bus
from tilescore.sim.rtl_verilator import MODEL
from tilescore.sim.toolchain import missing_for_verilator, require_verilator
from tilescore.sim.verilator_build import build_executable, key, rtl_digest

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
    keys = {key(MODEL, install), key(replace(MODEL, driver=tmp_path / "other.cpp"), install),
            key(replace(MODEL, ports=("clk",)), install), key(verilator_bus.MODEL, install),
            key(MODEL, replace(install, version="0"))}
    (tmp_path / "pe.py").write_text("changed")
    before = rtl_digest()
    monkeypatch.setattr(verilator_build, "_RTL", tmp_path)
    assert rtl_digest() != before
    assert len(keys | {key(MODEL, install)}) == 6
    assert replace(NANO, queue_depth=4).digest != NANO.digest


def test_without_verilator_the_error_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match=r"needs .*g\+\+"):
        build_executable(MODEL, NANO)
