"""Figures of a part in the cells of a library: size, path, energy of every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from math import sqrt

from tilescore.benchmarks.gates.delays import find_delays, inverter_of_four, smallest_inverter
from tilescore.benchmarks.gates.energy import find_energy
from tilescore.benchmarks.gates.judge import frozen
from tilescore.benchmarks.gates.liberty import Library
from tilescore.benchmarks.gates.mapping import SCRIPTS, Mapping, map_design
from tilescore.benchmarks.gates.netlist import Netlist
from tilescore.benchmarks.gates.parts import Part, Run
from tilescore.benchmarks.gates.simulation import LANES, Simulation
from tilescore.benchmarks.gates.store import Store

PERIOD_FO4 = 20
"""Period that ABC sizes gates for, in delays of an inverter that drives four."""

FF_PER_UM = 0.2
"""Capacitance of a micrometre of wire, at any node: assumed."""

IDLE_CYCLES = 32
SETTLE = 48
"""Cycles before them: longer than every pipeline."""

DELAYS = {"zero": False, "unit": True}


def design_digest(rtlil: str) -> str:
    """What a part's figures remember of the hardware that they were measured on."""
    return hashlib.sha256(rtlil.encode()).hexdigest()[:16]


def wire_ff(library: Library, pitches: float) -> float:
    """fF of the wire to each sink: so many times the side of the smallest inverter, as there is no layout."""
    return FF_PER_UM * pitches * sqrt(smallest_inverter(library).area)


def measure_part(part: Part, rtlil: str, runs: Sequence[Run], library: Library, text: str, pitches: Sequence[float],
                 store: Store, *, gated: bool = True) -> dict:
    """Figures of JSON types; ``pitches``: lengths of the wire to each sink (`wire_ff`), energies are lists in that
    order.
    """
    how = Mapping(period_ps=round(PERIOD_FO4 * inverter_of_four(library)[0]), gated=gated)
    unusable = [name for name, cell in library.cells.items() if not cell.usable]
    key = f"{how} {SCRIPTS} {unusable} {hashlib.sha256(text.encode()).hexdigest()} {rtlil}"
    netlist = store.get("netlist", key, lambda: map_design(rtlil, library, text, how))
    wires = [wire_ff(library, length) for length in pitches]
    delays = {wire: find_delays(netlist, library, wire) for wire in wires}
    simulation = Simulation(netlist)

    def energies(toggles: dict[int, int], cycles: int) -> dict[str, list[float]]:
        found = [find_energy(netlist, library, toggles, cycles, delays[wire], wire) for wire in wires]
        return {name: [round(asdict(energy)[name], 4) for energy in found]
                for name in ("clock", "combinational", "flip_flops")}

    rest = simulation.count([[runs[0].inputs[part.name][0][-1]] * (SETTLE + IDLE_CYCLES)], skip=SETTLE, delay=False)
    return {
        "label": part.label, "design": design_digest(rtlil), "instances": len(runs[0].inputs[part.name]),
        **({} if part.fitted else {"judges": frozen()}), **_sizes(netlist),
        "path_ps": [round(found.path_ps, 1) for found in delays.values()],
        "leakage_nw": sum(instance.cell.leakage for instance in netlist.instances),
        "idle": energies(rest, IDLE_CYCLES),
        "runs": [{"name": run.name, "cycles": run.cycles, "events": run.events,
                  **{name: energies(_toggles(simulation, key, part, run, name, store),
                                    run.cycles * len(run.inputs[part.name])) for name in DELAYS}} for run in runs]}


def _sizes(netlist: Netlist) -> dict:
    gated = sum(netlist.clock != instance.pins[instance.cell.clock_pin or ""] for instance in netlist.flip_flops)
    return {"area": netlist.area, "gates": len(netlist.gates), "flip_flops": len(netlist.flip_flops),
            "flip_flop_area": sum(instance.cell.area for instance in netlist.flip_flops), "gated_flip_flops": gated,
            "clock_gates": len(netlist.clock_gates)}


def _toggles(simulation: Simulation, key: str, part: Part, run: Run, delay: str, store: Store) -> dict[int, int]:
    """Of all instances together, in the whole run."""
    stimuli = run.inputs[part.name]

    def make() -> dict[int, int]:
        total: dict[int, int] = {}
        for first in range(0, len(stimuli), LANES):
            counted = simulation.count(stimuli[first:first + LANES], skip=0, delay=DELAYS[delay])
            total = {net: total.get(net, 0) + counted.get(net, 0) for net in total.keys() | counted.keys()}
        return total

    return store.get("toggles", f"{key} {part.name} {delay} {run.key}", make)
