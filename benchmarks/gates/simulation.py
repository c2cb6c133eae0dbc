"""Toggles of every net of a netlist on given inputs, from Icarus Verilog.

Inputs change where registers before the part would change them: just after the rising edge. In zero delay a net moves
at most once per cycle; with one unit of delay in every cell it may move more often, as glitches do. Unit delays are not
those of the cells: the true number of glitches lies elsewhere, and wires balance or unbalance paths as well.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tilescore.benchmarks.gates.netlist import Net, Netlist, to_verilog
from tilescore.benchmarks.gates.vcd import count_toggles
from tilescore.rtl.spec.errors import ToolError

RESET_CYCLES = 4

_BENCH = """\
module bench;
  reg [{top}:0] stimulus [0:{last}];
  reg [{top}:0] in;
  reg clk = 0;
  integer i;
  netlist dut (.clk(clk), .in(in));
  initial begin
    $readmemh("stimulus.hex", stimulus);
    in = stimulus[0];
    for (i = 1; i <= {last}; i = i + 1) begin
      if (i == {first}) begin $dumpfile("toggles.vcd"); $dumpvars(1, dut); end
      #100000 clk = 1; in <= {delay}stimulus[i];
      #100000 clk = 0;
    end
    $finish;
  end
endmodule
"""


def check_tools() -> None:
    """Raises `ToolError` if Icarus is missing."""
    for tool in ("iverilog", "vvp"):
        if shutil.which(tool) is None:
            raise ToolError(f"{tool} is not installed (Debian: apt install iverilog)")


def count(netlist: Netlist, cycles: Sequence[dict[str, int]], *, skip: int, delay: bool) -> dict[int, int]:
    """Toggles by net in the cycles from ``skip`` on; nets without any are left out.

    cycles: values of the input ports (`Netlist.data_inputs`) in each cycle; a port that is not named is 0. A port
    ``rst`` is high for `RESET_CYCLES` cycles before the first.
    Raises `ToolError` if Icarus is missing or fails.
    """
    check_tools()
    words = [_word(netlist, {**cycles[0], "rst": 1})] * RESET_CYCLES + [_word(netlist, c) for c in cycles]
    words.append(words[-1])  # its edge takes the last word
    bits = sum(map(len, netlist.data_inputs.values()))
    bench = _BENCH.format(top=bits - 1, last=len(words) - 1, first=RESET_CYCLES + skip + 1,
                          delay="#1 " if delay else "")
    with TemporaryDirectory() as name:
        folder = Path(name)
        text = f"`timescale 1ps/1ps\n{to_verilog(netlist, delay=delay)}{bench}"
        (folder / "design.v").write_text(text, encoding="utf-8")
        (folder / "stimulus.hex").write_text("".join(f"{word:x}\n" for word in words), encoding="utf-8")
        for command in (["iverilog", "-g2005", "-s", "bench", "-o", "bench.vvp", "design.v"],
                        ["vvp", "-n", "bench.vvp"]):
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if result.returncode:
                raise ToolError(f"{command[0]} failed: {(result.stderr or result.stdout)[-300:]}")
        with (folder / "toggles.vcd").open(encoding="ascii") as file:
            toggles = count_toggles(file)
    return {int(name[1:]): number for name, number in toggles.items()
            if number and name[0] == "n" and name[1:].isdigit()}


def _word(netlist: Netlist, values: dict[str, int]) -> int:
    """Ports side by side, the first lowest. Raises `ValueError` for a value that does not fit its port."""
    word, low = 0, 0
    ports: dict[str, tuple[Net, ...]] = netlist.data_inputs
    for name, nets in ports.items():
        value = values.get(name, 0)
        if not 0 <= value < 1 << len(nets):
            raise ValueError(f"port {name} of {len(nets)} bits: {value} does not fit")
        word |= value << low
        low += len(nets)
    return word
