"""A mapped netlist, and its Verilog with models of the cells, for simulation.

Nets are numbers; in Verilog net 5 is ``n5``. So toggles counted in a VCD belong to nets without any names of the
design.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tilescore.benchmarks.gates import expression
from tilescore.benchmarks.gates.liberty import Cell, Library
from tilescore.rtl.spec.errors import ConfigError, ToolError

Net = int | str
"""A net's number, or the constant "0", "1" or "x"."""

CLOCK = "clk"


@dataclass(frozen=True, kw_only=True)
class Instance:
    cell: Cell
    pins: dict[str, Net]

    @property
    def inputs(self) -> Iterator[tuple[str, int]]:
        """Pins and nets, those at constants left out."""
        return self._of("input")

    @property
    def outputs(self) -> Iterator[tuple[str, int]]:
        return self._of("output")

    def _of(self, direction: str) -> Iterator[tuple[str, int]]:
        for pin, net in self.pins.items():
            if isinstance(net, int) and self.cell.pins[pin].direction == direction:
                yield pin, net


@dataclass(frozen=True)
class Netlist:
    """instances, and the nets of each port, lowest bit first; ``clock`` is the net of the port `CLOCK`."""

    instances: tuple[Instance, ...]
    inputs: dict[str, tuple[Net, ...]]
    outputs: dict[str, tuple[Net, ...]]

    @property
    def clock(self) -> Net | None:
        return self.inputs.get(CLOCK, (None,))[0]

    @cached_property
    def sinks(self) -> dict[int, list[tuple[Instance, str]]]:
        """Input pins at each net."""
        result: dict[int, list[tuple[Instance, str]]] = {}
        for instance in self.instances:
            for pin, net in instance.inputs:
                result.setdefault(net, []).append((instance, pin))
        return result

    @property
    def flip_flops(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.cell.flip_flop]

    @property
    def gates(self) -> list[Instance]:
        """All but flip-flops."""
        return [instance for instance in self.instances if not instance.cell.flip_flop]

    @property
    def area(self) -> float:
        return sum(instance.cell.area for instance in self.instances)

    @property
    def data_inputs(self) -> dict[str, tuple[Net, ...]]:
        """All but the clock, in the order of a stimulus' bits."""
        return {name: nets for name, nets in self.inputs.items() if name != CLOCK}


def from_json(text: str, library: Library, top: str) -> Netlist:
    """Of Yosys' `write_json`. Raises `ToolError` for a cell that the library does not have."""
    module = json.loads(text)["modules"][top]
    instances = []
    for name, cell in module["cells"].items():
        known = library.cells.get(cell["type"])
        if known is None:
            raise ToolError(f"cell {name} is a {cell['type']}, which library {library.name} does not have")
        instances.append(Instance(cell=known, pins={pin: nets[0] for pin, nets in cell["connections"].items() if nets}))
    ports = {direction: {name: tuple(port["bits"]) for name, port in module["ports"].items()
                         if port["direction"] == direction} for direction in ("input", "output")}
    return Netlist(tuple(instances), ports["input"], ports["output"])


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
    """Verilog of one cell. Raises `ConfigError` for an output without a function."""
    pins = [pin for pin in cell.pins.values() if pin.direction in ("input", "output")]
    lines = [f"module {cell.name} ({', '.join(f'{pin.direction} {pin.name}' for pin in pins)});"]
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
            if not pin.function:
                raise ConfigError(f"library: cell {cell.name}: output {pin.name} has no function")
            lines.append(f"assign {delay}{pin.name} = {expression.verilog(expression.parse(pin.function))};")
    return "\n".join([*lines, "endmodule"])
