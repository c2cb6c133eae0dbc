"""Toggles of a netlist by Icarus Verilog, from a VCD: the independent counterpart of
`benchmarks/gates/simulation.py`."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tilescore.benchmarks.gates import expression
from tilescore.benchmarks.gates.liberty import Cell
from tilescore.benchmarks.gates.netlist import Net, Netlist
from tilescore.benchmarks.gates.simulation import RESET_CYCLES

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


def count(netlist: Netlist, cycles: Sequence[dict[str, int]], folder: Path, *, skip: int,
          delay: bool) -> dict[int, int]:
    """As `Simulation.count` of one stimulus."""
    words = [_word(netlist, {**cycles[0], "rst": 1})] * RESET_CYCLES + [_word(netlist, c) for c in cycles]
    words.append(words[-1])
    bits = sum(map(len, netlist.data_inputs.values()))
    bench = _BENCH.format(top=bits - 1, last=len(words) - 1, first=RESET_CYCLES + skip + 1,
                          delay="#1 " if delay else "")
    (folder / "design.v").write_text(f"`timescale 1ps/1ps\n{to_verilog(netlist, delay=delay)}{bench}", encoding="utf-8")
    (folder / "stimulus.hex").write_text("".join(f"{word:x}\n" for word in words), encoding="utf-8")
    for command in (["iverilog", "-g2005", "-s", "bench", "-o", "bench.vvp", "design.v"], ["vvp", "-n", "bench.vvp"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    with (folder / "toggles.vcd").open(encoding="ascii") as file:
        toggles = count_toggles(file)
    return {int(name[1:]): number for name, number in toggles.items()
            if number and name[0] == "n" and name[1:].isdigit()}


def _word(netlist: Netlist, values: dict[str, int]) -> int:
    word, low = 0, 0
    for name, nets in netlist.data_inputs.items():
        word |= values.get(name, 0) << low
        low += len(nets)
    return word


def to_verilog(netlist: Netlist, *, delay: bool) -> str:
    """Modules of the cells and the module ``netlist (clk, in)``; ``in`` is `Netlist.data_inputs`, first port lowest.

    delay: every output follows its inputs one unit of time later, instead of at once.
    """
    nets = sorted({net for instance in netlist.instances for net in instance.pins.values() if isinstance(net, int)}
                  | {net for bits in netlist.inputs.values() for net in bits if isinstance(net, int)})
    bits = [net for nets in netlist.data_inputs.values() for net in nets]
    lines = [f"module netlist (input clk, input [{max(0, len(bits) - 1)}:0] in);"]
    lines += [f"wire n{net};" for net in nets]
    if isinstance(netlist.clock, int):
        lines.append(f"assign n{netlist.clock} = clk;")
    lines += [f"assign n{net} = in[{i}];" for i, net in enumerate(bits) if isinstance(net, int)]
    for number, instance in enumerate(netlist.instances):
        pins = ", ".join(f".{pin}({_wire(net)})" for pin, net in instance.pins.items())
        lines.append(f"{instance.cell.name} u{number} ({pins});")
    cells = {instance.cell.name: instance.cell for instance in netlist.instances}
    models = [_model(cell, "#1 " if delay else "") for cell in cells.values()]
    return "\n".join([*models, *lines, "endmodule", ""])


def _wire(net: Net) -> str:
    return f"n{net}" if isinstance(net, int) else f"1'b{net}"


def _model(cell: Cell, delay: str) -> str:
    """Verilog of one cell. """
    pins = [pin for pin in cell.pins.values() if pin.direction in ("input", "output")]
    lines = [f"module {cell.name} ({', '.join(f'{pin.direction} {pin.name}' for pin in pins)});"]
    if gate := cell.clock_gate:
        enable = expression.verilog(gate.enable)
        lines.append(f"reg latched; always @* if (~{gate.clock}) latched = {enable};")
        lines.append(f"assign {gate.output} = {gate.clock} & latched;")
        return "\n".join([*lines, "endmodule"])
    if ff := cell.flip_flop:
        text = {name: expression.verilog(expression.parse(value)) if value else "1'b0" for name, value in (
            ("clock", ff.clocked_on), ("next", ff.next_state), ("clear", ff.clear), ("preset", ff.preset))}
        lines += [
            f"reg {ff.state}; wire {ff.inverse} = ~{ff.state};",
            f"wire clock_ = {text['clock']}; wire clear_ = {text['clear']}; wire preset_ = {text['preset']};",
            f"always @(posedge clock_ or posedge clear_ or posedge preset_) if (clear_) {ff.state} <= 0; "
            f"else if (preset_) {ff.state} <= 1; else {ff.state} <= {text['next']};"]
    for pin in pins:
        if pin.direction == "output":
            lines.append(f"assign {delay}{pin.name} = {expression.verilog(expression.parse(pin.function))};")
    return "\n".join([*lines, "endmodule"])


def count_toggles(lines: Iterable[str]) -> Counter[str]:
    """Of all wires of all scopes; wires that share an identifier share their toggles. Bits are numbered from 0."""
    wires: dict[str, list[tuple[str, int]]] = {}
    source = iter(lines)
    for line in source:
        words = line.split()
        if words[:1] == ["$var"]:
            wires.setdefault(words[3], []).append((words[4], int(words[2])))
        elif words[:1] == ["$enddefinitions"]:
            break
    last: dict[str, str] = {}
    toggles: Counter[tuple[str, int]] = Counter()
    for line in source:
        kind = line[0]
        if kind in "01xz":
            value, identifier = kind, line[1:].strip()
        elif kind in "bB":
            value, identifier = line[1:].split()
            width = wires[identifier][0][1]
            value = value.rjust(width, value[0] if value[0] in "xz" else "0")
        else:
            continue
        before = last.get(identifier)
        last[identifier] = value
        if before is not None and before != value:
            for bit, (old, new) in enumerate(zip(reversed(before), reversed(value), strict=True)):
                if old != new and old in "01" and new in "01":
                    toggles[identifier, bit] += 1
    result: Counter[str] = Counter()
    for identifier, named in wires.items():
        for name, width in named:
            for bit in range(width):
                result[name if width == 1 else f"{name}[{bit}]"] = toggles[identifier, bit]
    return result
