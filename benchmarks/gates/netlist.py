"""A mapped netlist: cells of a library and numbered nets, without any names of the design."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tilescore.benchmarks.gates.liberty import Cell, Library
from tilescore.rtl.spec.errors import ToolError

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
    def clock_gates(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.cell.clock_gate]

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
