"""Bugs planted in the hardware that the monitor must see, each by the rule that it is there for.

All bugs are in one tile, each behind a comparison with the number in register COUNTER_SELECT; 0 is the tile without a
bug. They are planted in a copy of ``rtl/`` by replacing an expression, which must be there once.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tilescore import rtl
from tilescore.rtl.spec.isa import Halt, Load, Space, Store, Unit
from tilescore.sim.hardware.toolchain import cache_dir
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.tests.cosim.axi_rules import Rule
from tilescore.tests.cosim.simulators import cached_text, needs, run_job
from tilescore.tests.cosim.tiles import NANO


@dataclass(frozen=True)
class Bug:
    """In ``file`` of ``rtl/axi``, ``right`` becomes ``wrong``; N is the bug's number. ``rule`` finds it."""

    name: str
    rule: Rule
    edits: tuple[tuple[str, str, str], ...]


BUGS = (
    Bug("read address withdrawn", Rule.VALID, ((
        "master_read.py", "with m.If(axi.arready):\n            m.d.sync += axi.arvalid.eq(0)",
        "with m.If(axi.arready | (BUG == N)):\n            m.d.sync += axi.arvalid.eq(0)"),)),
    Bug("write data change while they wait", Rule.PAYLOAD, ((
        "master_write.py", "with m.If(axi.wready):\n            m.d.sync += axi.wvalid.eq(0)",
        "with m.If((BUG == N) & axi.wvalid & ~axi.wready):\n            m.d.sync += axi.wdata.eq(axi.wdata + 1)\n"
        "        with m.If(axi.wready):\n            m.d.sync += axi.wvalid.eq(0)"),)),
    Bug("register data change while they wait", Rule.PAYLOAD, ((
        "lite.py", "with m.If(axi.rvalid & axi.rready):",
        "with m.If((BUG == N) & axi.rvalid & ~axi.rready):\n            m.d.sync += axi.rdata.eq(~axi.rdata)\n"
        "        with m.If(axi.rvalid & axi.rready):"),)),
    Bug("bursts cross 4 KiB", Rule.BOUNDARY, ((
        "../dma/run_ahead.py", "return Mux(more < to_boundary, more, to_boundary)",
        "return Mux((BUG == N) & (more < 16) | (more < to_boundary), more, to_boundary)"),)),
    Bug("bursts of more than 16 beats", Rule.SHAPE, ((
        "../dma/run_ahead.py", "to_boundary = (~address[bus_bits:bus_bits + burst_bits])[:burst_bits]",
        "to_boundary = (~address[bus_bits:bus_bits + burst_bits])[:burst_bits] | ((BUG == N) << burst_bits)"),)),
    Bug("WLAST a beat early", Rule.WLAST, ((
        "master_write.py", "axi.wlast.eq(Mux(covered, left == 1, length == 0))",
        "axi.wlast.eq(Mux(covered, left == Mux(BUG == N, 2, 1), length == 0))"),)),
    Bug("register response before the data", Rule.ORDER, ((
        "lite.py", "bus.write_en.eq(has_address & has_data)",
        "bus.write_en.eq(has_address & (has_data | (BUG == N)))"),)),
    Bug("the program goes on after an error response", Rule.AFTER_ERROR, (
        ("supervisor.py", "enter.eq(self.soft_reset | new.any())",
         "enter.eq(self.soft_reset | (new.any() & (BUG != N)))"),
        ("supervisor.py", "self.halt.eq(new.any() | self.errors.any())",
         "self.halt.eq((new.any() | self.errors.any()) & (BUG != N))"))),
)


def plant(folder: Path) -> None:
    """Copy ``rtl/`` to ``folder`` with every bug in it."""
    shutil.copytree(Path(rtl.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "planted.py").write_text('"""Selects a planted bug."""\nfrom amaranth.hdl import Mux, Signal\n\n'
                                       'BUG = Signal(8, name="bug")\n')
    edits = [(bug.name, file, right, wrong.replace("== N)", f"== {number})").replace("!= N)", f"!= {number})")
              .replace("== N,", f"== {number},"))
             for number, bug in enumerate(BUGS, 1) for file, right, wrong in bug.edits]
    edits.append(("selector", "top.py", "tile.counter_select.eq(registers.counter_select),",
                  "tile.counter_select.eq(registers.counter_select), BUG.eq(registers.counter_select),"))
    for name, file, right, wrong in edits:
        path = folder / "axi" / file
        text = path.read_text()
        assert text.count(right) == 1, f"{name}: {right!r} is in {file} {text.count(right)} times"
        path.write_text(text.replace(right, wrong))
    for file in {file for _, file, _, _ in edits}:
        path = folder / "axi" / file
        lines = path.read_text().splitlines(keepends=True)
        first = next(n for n, line in enumerate(lines) if line.startswith(("from ", "import ")))
        path.write_text("".join([*lines[:first], "from ..planted import BUG, Mux\n", *lines[first:]]))


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verilog of the tile with all bugs, from the cache when nothing changed."""
    package = tmp_path_factory.mktemp("mutants") / "rtl_with_planted_axi_bugs"
    plant(package)
    digest = hashlib.sha256(NANO.digest.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())

    def export() -> str:
        sys.path.insert(0, str(package.parent))
        try:
            config = importlib.import_module(f"{package.name}.spec.config").load_tile("nano")
            return importlib.import_module(f"{package.name}.export.folder").axi_verilog(config)
        finally:
            sys.path.remove(str(package.parent))

    return cached_text(cache_dir("cosim") / f"planted-{digest.hexdigest()[:16]}.v", export)


def traffic() -> Program:
    """Rows that lie close together, across 4 KiB, in and out, more instructions than may be in flight."""
    fields = {"space": Space.ACC, "rows": 16, "row_bytes": 16, "row_stride": 16}
    loads = [Load(**fields, dram_addr=4096 - 64 + 256 * n, addr=NANO.acc_addr(n), signal_wr=1 << Unit.STORE)
             for n in range(8)]
    stores = [Store(**fields, dram_addr=8192 - 96 + 256 * n, addr=NANO.acc_addr(n), wait_wr=1 << Unit.LOAD)
              for n in range(8)]
    program = Program(config=NANO, instructions=[*loads, *stores, Halt()], program_addr=0, dram_bytes=12288)
    verify(program)
    return program


def test_every_bug_has_its_place(tmp_path: Path) -> None:
    """Without building anything: the expressions are there, and what replaces them is Python."""
    plant(tmp_path / "planted")
    for path in (tmp_path / "planted" / "axi").glob("*.py"):
        compile(path.read_text(), str(path), "exec")


@pytest.mark.slow
@needs("icarus")
@pytest.mark.parametrize("number", range(len(BUGS) + 1))
def test_each_bug_is_seen_by_its_rule(number: int, mutant: Path, tmp_path: Path) -> None:
    """The third-party models may notice too, and end the simulation; what the monitor saw until then counts."""
    run_job("icarus", mutant, tmp_path, "planted", [traffic()], may_fail=number > 0, bug=number)
    found = json.loads((tmp_path / "job.violations").read_text())
    if number == 0:
        assert found == [], "the tile without a bug"
    else:
        assert any(BUGS[number - 1].rule.value in violation for violation in found), (BUGS[number - 1].name, found[:5])
