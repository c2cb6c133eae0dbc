"""Slews and arrival times of a netlist from a library's tables; the longest path between registers.

One figure for each net: the later of rise and fall, with the slower of both slews. Wires are capacitance only. Ports
and the clock have the slew of an inverter that drives four of its kind, which also gives the unit FO4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilescore.benchmarks.gates import expression
from tilescore.benchmarks.gates.liberty import Arc, Cell, Library
from tilescore.benchmarks.gates.netlist import Instance, Netlist
from tilescore.rtl.spec.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Delays:
    """By net: load in fF (pins and wire), slew in ps. path_ps: clock to output, gates, setup."""

    loads: dict[int, float]
    slews: dict[int, float]
    default_slew: float
    path_ps: float


def find_delays(netlist: Netlist, library: Library, wire_ff: float) -> Delays:
    """``wire_ff``: capacitance of the wire to each sink."""
    _, slew = inverter_of_four(library)
    loads = {net: sum(instance.cell.pins[pin].capacitance + wire_ff for instance, pin in sinks)
             for net, sinks in netlist.sinks.items()}
    slews: dict[int, float] = {}
    arrivals: dict[int, float] = {}
    path = 0.0
    for instance in in_order(netlist):
        clock = instance.cell.clock_pin
        for pin, net in instance.outputs:
            load = loads.get(net, 0.0)
            for arc in instance.cell.pins[pin].arcs:
                source = instance.pins.get(arc.related)
                if not isinstance(source, int) or (clock is not None and arc.related != clock):
                    continue
                start, in_slew = (0.0, slew) if clock else (arrivals.get(source, 0.0), slews.get(source, slew))
                delay, out_slew = _through(arc, in_slew, load)
                arrivals[net] = max(arrivals.get(net, 0.0), start + delay)
                slews[net] = max(slews.get(net, 0.0), out_slew)
    for instance in (*netlist.flip_flops, *netlist.clock_gates):
        gate = instance.cell.clock_gate
        for pin, net in instance.inputs:
            if pin != (gate.clock if gate else instance.cell.clock_pin):
                path = max(path, arrivals.get(net, 0.0) + _setup(instance.cell, pin, slews.get(net, slew), slew))
    for nets in netlist.outputs.values():
        path = max([path, *(arrivals.get(net, 0.0) for net in nets if isinstance(net, int))])
    return Delays(loads=loads, slews=slews, default_slew=slew, path_ps=path)


def in_order(netlist: Netlist) -> Iterator[Instance]:
    """Flip-flops, then every gate after those that drive it. Raises `ConfigError` for a loop of gates."""
    yield from netlist.flip_flops
    driven_by_gates = {net for gate in netlist.gates for _, net in gate.outputs}
    missing = {id(gate): sum(net in driven_by_gates for _, net in gate.inputs) for gate in netlist.gates}
    ready = [gate for gate in netlist.gates if not missing[id(gate)]]
    done = 0
    while ready:
        gate = ready.pop()
        done += 1
        yield gate
        for _, net in gate.outputs:
            for sink, _ in netlist.sinks.get(net, ()):
                if not sink.cell.flip_flop:
                    missing[id(sink)] -= 1
                    if not missing[id(sink)]:
                        ready.append(sink)
    if done != len(netlist.gates):
        raise ConfigError(f"netlist: {len(netlist.gates) - done} gates form a loop")


def inverter_of_four(library: Library) -> tuple[float, float]:
    """FO4 delay and slew in ps: the smallest inverter, driving four of its kind, driven by the same."""
    cell = smallest_inverter(library)
    output = next(pin for pin in cell.pins.values() if pin.direction == "output")
    arc = output.arcs[0]
    load = 4 * cell.pins[arc.related].capacitance
    delay, slew = 0.0, 0.0
    for _ in range(10):
        delay, slew = _through(arc, slew, load)
    return delay, slew


def smallest_inverter(library: Library) -> Cell:
    """Raises `ConfigError` if there is none."""
    inverters = [cell for cell in library.cells.values() if cell.usable and _is_inverter(cell)]
    if not inverters:
        raise ConfigError(f"library {library.name}: no inverter with delays")
    return min(inverters, key=lambda cell: cell.area)


def _is_inverter(cell: Cell) -> bool:
    outputs = [pin for pin in cell.pins.values() if pin.direction == "output"]
    inputs = [pin for pin in cell.pins.values() if pin.direction == "input"]
    if cell.flip_flop or len(outputs) != 1 or len(inputs) != 1 or not outputs[0].function or not outputs[0].arcs:
        return False
    function = expression.parse(outputs[0].function)
    return [expression.evaluate(function, {inputs[0].name: value}) for value in (0, 1)] == [1, 0]


def _through(arc: Arc, slew: float, load: float) -> tuple[float, float]:
    """Delay and slew at the output: of rise and fall the larger."""
    delay, out = (max((arc.tables[name].at(slew=slew, load=load) for name in names if name in arc.tables), default=0.0)
                  for names in (("cell_rise", "cell_fall"), ("rise_transition", "fall_transition")))
    return delay, out


def _setup(cell: Cell, pin: str, slew: float, clock_slew: float) -> float:
    return max((table.at(slew=slew, clock_slew=clock_slew)
                for arc in cell.pins[pin].arcs if arc.kind.startswith("setup")
                for table in arc.tables.values()), default=0.0)
