# amaranth: UnusedElaboratable=no
"""The exported Verilog: the same every time, one module per cell, accepted by tools that are not ours."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from tilescore.rtl.export.verilog import TOP, tile_verilog
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.tile import Tile
from tilescore.tests.rtl.export.lint_tools import check_slang, check_yosys, verilator

NANO = load_tile("nano")
ODD = dataclasses.replace(NANO, name="odd", rows=8, cols=8, lanes=4, bus_bytes=32, a_banks=1, b_banks=2,
                          a_buffer_bytes=4096, b_buffer_bytes=4096, queue_depth=3, dma_outstanding=1,
                          index_entries=8, imem_page=8, stat_banks=1, stat_bank_rows=1)
"""Sizes at which Amaranth declares vectors of no bits: one bank, one statistics row, one DMA in flight."""


@pytest.fixture(scope="module")
def nano_text() -> str:
    return tile_verilog(NANO)


@pytest.fixture(scope="module")
def files(nano_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nano.v and odd.v."""
    folder = tmp_path_factory.mktemp("verilog")
    (folder / "nano.v").write_text(nano_text)
    (folder / "odd.v").write_text(tile_verilog(ODD))
    return folder


def module_names(text: str) -> list[str]:
    return re.findall(r"^module\s+(\S+?)\s*\(", text, re.MULTILINE)


def test_one_module_per_cell(nano_text: str) -> None:
    """Every module is defined once, has a plain name, and the 16 processing elements share one."""
    names = module_names(nano_text)
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]\w*", name) for name in names), names
    assert names[0] == TOP
    for cell, count in (("tilescore_pe", 16), ("tilescore_a_slice", 4), ("tilescore_b_slice", 4),
                        ("tilescore_acc_lane", 4), ("tilescore_vector_lane", 4)):
        assert names.count(cell) == 1
        assert len(re.findall(rf"^  {cell} \S+ \($", nano_text, re.MULTILINE)) == count, cell
    assert "[-1:0]" not in nano_text


def test_ports_are_those_of_the_tile(nano_text: str) -> None:
    """clk, rst and the members of Tile, under exactly these names and widths."""
    top = nano_text[:nano_text.index("endmodule")]
    ports = {name: (direction, int(high or 0) + 1) for direction, high, name in
             re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", top, re.MULTILINE)}
    expected = {"clk": ("input", 1), "rst": ("input", 1)}
    tile = Tile(NANO)
    for path, member, value in tile.signature.flatten(tile):
        expected["__".join(map(str, path))] = ("input" if member.flow.name == "In" else "output", len(value))
    assert ports == expected


@pytest.mark.sampled
def test_text_is_the_same_in_another_process(nano_text: str) -> None:
    """Another hash seed, Yosys and folder: the same text, no path in it."""
    code = ("import sys; from tilescore.rtl.spec.config import load_tile;"
            "from tilescore.rtl.export.verilog import tile_verilog;"
            "sys.stdout.write(tile_verilog(load_tile('nano')))")
    environment = os.environ | {"PYTHONHASHSEED": "77", "AMARANTH_USE_YOSYS": "system"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment,
                         cwd=Path(__file__).parent, check=True)
    assert run.stdout == nano_text
    assert not re.search(r"(?:/home|/root|/usr|/tmp|\.py)\b", nano_text)


@pytest.mark.always("odd")
@pytest.mark.parametrize("name", ["nano", "odd"])
def test_verilator_lint(name: str, files: Path) -> None:
    """`--lint-only -Wall` with the published waivers prints no warning."""
    with resources.as_file(resources.files("tilescore.rtl.export").joinpath("tilescore.vlt")) as path:
        assert "%Warning" not in verilator(files, "--lint-only", "-Wall", "--top-module", TOP, str(path), f"{name}.v")


def test_waivers_are_all_needed(files: Path) -> None:
    """Each waived rule has a warning to waive: none is there for later."""
    rules = re.findall(r"^lint_off -rule (\w+)$", resources.files("tilescore.rtl.export").joinpath(
        "tilescore.vlt").read_text(), re.MULTILINE)
    bare = verilator(files, "--lint-only", "-Wall", "--top-module", TOP, "nano.v", check=False)
    assert set(re.findall(r"%Warning-(\w+)", bare)) == set(rules)


@pytest.mark.parametrize("name", ["nano", "odd"])
def test_slang(name: str, files: Path) -> None:
    check_slang([files / f"{name}.v"], TOP)


@pytest.mark.parametrize("name", ["nano", "odd"])
def test_yosys_check(name: str, files: Path) -> None:
    check_yosys(files, f"{name}.v", TOP)
