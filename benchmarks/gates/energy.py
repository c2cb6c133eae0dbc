"""Energy of a netlist per cycle, from toggles and a library's tables.

A transition costs half of (load) x (voltage) squared, at the net's driver, and the driver's internal power at that slew
and load, where several conditions or inputs have tables their mean. The same internal power of an input pin is counted
at flip-flops only: at gates, tables of inputs are for transitions that do not reach the output, and are small.

Clock: the clock pins and their wires, twice a pulse, the flip-flops' internal power at the edges, and clock gates. A
flip-flop that takes over a new value is priced by its output's tables; tables of the clock pin whose condition says
that the value changes, or that it stays, count for that share of the cycles; likewise tables of a clock gate's clock
pin for pulses that pass and that do not. The clock tree is not in the netlist. Nets that input ports drive count as
combinational: in a larger design another part's register would drive them, and the loads of output ports count in the
part that they lead to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from tilescore.benchmarks.gates import expression
from tilescore.benchmarks.gates.delays import Delays
from tilescore.benchmarks.gates.liberty import Cell, Library, Power
from tilescore.benchmarks.gates.netlist import Instance, Netlist


@dataclass(frozen=True, kw_only=True)
class Energy:
    """fJ per cycle of one stimulus. flip_flops: their data inputs and outputs. leakage_nw: power, not energy."""

    clock: float
    combinational: float
    flip_flops: float
    leakage_nw: float

    @property
    def total(self) -> float:
        """Without leakage, which takes time and no event."""
        return self.clock + self.combinational + self.flip_flops


def find_energy(netlist: Netlist, library: Library, toggles: Mapping[int, int], cycles: int, delays: Delays,
                wire_ff: float) -> Energy:
    """``toggles`` of every net in ``cycles``; ``delays`` of the same wire."""
    half = library.voltage**2 / 2
    clock = combinational = flip_flops = 0.0
    driven = {net for instance in netlist.instances for _, net in instance.outputs}
    for net in {n for bits in netlist.data_inputs.values() for n in bits if isinstance(n, int)} - driven:
        combinational += toggles.get(net, 0) * delays.loads.get(net, 0.0) * half
    for instance in netlist.instances:
        if instance.cell.clock_gate:
            clock += _clock_gate(instance, toggles, cycles, delays, wire_ff, half)
            continue
        out = _outputs(instance, toggles, delays, half)
        if not instance.cell.flip_flop:
            combinational += out
            continue
        for pin, net in instance.inputs:
            spec = instance.cell.pins[pin]
            if pin != instance.cell.clock_pin:
                flip_flops += toggles.get(net, 0) * _mean(spec.power, delays.slews.get(net, delays.default_slew), 0.0)
        pulses = toggles.get(_net(instance, instance.cell.clock_pin), 0) / 2
        changes = min(pulses, max((toggles.get(net, 0) for _, net in instance.outputs), default=0))
        clock += _clock(instance.cell, pulses, changes, delays.default_slew, wire_ff, half)
        flip_flops += out
    return Energy(clock=clock / cycles, combinational=combinational / cycles, flip_flops=flip_flops / cycles,
                  leakage_nw=sum(instance.cell.leakage for instance in netlist.instances))


def _net(instance: Instance, pin: str | None) -> int:
    net = instance.pins[pin or ""]
    return net if isinstance(net, int) else -1


def _outputs(instance: Instance, toggles: Mapping[int, int], delays: Delays, half: float) -> float:
    """fJ of the transitions of an instance's outputs."""
    result = 0.0
    for pin, net in instance.outputs:
        if count := toggles.get(net, 0):
            load = delays.loads.get(net, 0.0)
            result += count * (load * half + _mean(instance.cell.pins[pin].power, _slew(instance, delays), load))
    return result


def _clock_gate(instance: Instance, toggles: Mapping[int, int], cycles: int, delays: Delays, wire_ff: float,
                half: float) -> float:
    """fJ of a clock gate's own pins; the load of its output counts as the clock pins behind it."""
    gate = instance.cell.clock_gate
    assert gate is not None
    result = 0.0
    for pin, net in instance.outputs:
        power = instance.cell.pins[pin].power
        result += toggles.get(net, 0) * _mean(power, delays.default_slew, delays.loads.get(net, 0.0))
    for pin, net in instance.inputs:
        if pin != gate.clock:
            result += toggles.get(net, 0) * _mean(instance.cell.pins[pin].power, delays.default_slew, 0.0)
    passed = toggles.get(_net(instance, gate.output), 0) / 2
    pin = instance.cell.pins[gate.clock]
    for share, enabled in ((cycles - passed, 0), (passed, 1)):
        values = dict.fromkeys(expression.names(gate.enable), 0) | {next(iter(expression.names(gate.enable))): enabled}
        found = [p for p in pin.power if not p.when or expression.evaluate(expression.parse(p.when), values) != 0]
        if found:
            result += share * fmean(p.rise(slew=delays.default_slew) + p.fall(slew=delays.default_slew) for p in found)
    return result + cycles * 2 * (pin.capacitance + wire_ff) * half


def _slew(instance: Instance, delays: Delays) -> float:
    """Mean over the inputs that decide the output: of a flip-flop, the clock."""
    if instance.cell.flip_flop:
        return delays.default_slew
    slews = [delays.slews.get(net, delays.default_slew) for _, net in instance.inputs]
    return fmean(slews) if slews else delays.default_slew


def _mean(power: tuple[Power, ...], slew: float, load: float) -> float:
    """fJ per transition, half of them up."""
    return fmean((p.rise(slew=slew, load=load) + p.fall(slew=slew, load=load)) / 2 for p in power) if power else 0.0


def _clock(cell: Cell, pulses: float, changes: float, slew: float, wire_ff: float, half: float) -> float:
    """fJ of one flip-flop's clock pin in that many pulses, at ``changes`` of which its value changes."""
    internal = sum(
        share * fmean(p.rise(slew=slew) + p.fall(slew=slew) for p in power)
        for share, power in zip((pulses - changes, changes), clock_power(cell), strict=True) if power)
    return pulses * 2 * (cell.pins[cell.clock_pin or ""].capacitance + wire_ff) * half + internal


def clock_power(cell: Cell) -> tuple[tuple[Power, ...], tuple[Power, ...]]:
    """Entries of a flip-flop's clock pin that hold while its value stays, and while it changes."""
    ff = cell.flip_flop
    assert ff is not None and cell.clock_pin is not None
    next_state = expression.parse(ff.next_state)
    outputs = {pin.name: expression.parse(pin.function) for pin in cell.pins.values() if pin.function}
    conditions = [(power, expression.parse(power.when) if power.when else ("constant", 1))
                  for power in cell.pins[cell.clock_pin].power]
    found: tuple[dict[int, Power], dict[int, Power]] = {}, {}
    for state in (0, 1):
        for value in (0, 1):
            values = dict.fromkeys(expression.names(next_state), value) | {ff.state: state, ff.inverse: 1 - state}
            changes = expression.evaluate(next_state, values) != state
            pins = values | {name: out for name, function in outputs.items()
                             if (out := expression.evaluate(function, values)) is not None}
            for number, (power, when) in enumerate(conditions):
                if expression.evaluate(when, pins) != 0:
                    found[changes][number] = power
    return tuple(found[0].values()), tuple(found[1].values())
