"""What the ports of a part see in the tile: recorded from a run of the whole tile in Amaranth's simulator.

So operands are as the compiler quantizes and places them, tags and addresses as the sequencers make them, and lanes as
the edge of the array decodes them, for any part and any set of formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

from amaranth.hdl import Fragment, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator

from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.tile import Tile
from tilescore.sim.hardware.amaranth_run import _Bench  # the tile's DRAM and start, cycle by cycle
from tilescore.sim.hardware.run import DramModel
from tilescore.sim.program import Program

MAX_CYCLES = 20_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A part in the tile: the first component of class ``kind``, or the last. An *event* is a cycle in which ``event``,
    a path of members of that component or of the first one of class ``owner``, is not 0.
    """

    kind: type[wiring.Component]
    event: str
    owner: type[wiring.Component] | None = None
    last: bool = False


@dataclass(frozen=True)
class Recording:
    """component: that which was recorded. inputs: values of its input ports in each cycle; events: 1 in its cycles."""

    component: wiring.Component
    inputs: list[dict[str, int]]
    events: list[int]

    def busiest(self, cycles: int) -> int:
        """First cycle of the window with most events, the earliest of several. Raises `SimulationError` if the run is
        shorter."""
        if len(self.inputs) < cycles:
            raise SimulationError(f"a run of {len(self.inputs)} cycles has no window of {cycles}")
        totals = [0]
        for event in self.events:
            totals.append(totals[-1] + event)
        return max(range(len(self.inputs) - cycles + 1), key=lambda first: totals[first + cycles] - totals[first])


def record(program: Program, places: Sequence[Place]) -> list[Recording]:
    """Run ``program`` on its tile and record all places at once; the run ends when the program does."""
    tile = Tile(program.config)
    fragment = Fragment.get(tile, None)
    components = list(_components(fragment))
    recordings = [Recording(_first(components[::-1] if place.last else components, place.kind), [], [])
                  for place in places]
    signals = [_input_ports(recording.component) for recording in recordings]
    events = [reduce(_member, place.event.split("."),
                     _first(components, place.owner) if place.owner else recording.component)
              for place, recording in zip(places, recordings, strict=True)]
    samples = [value for ports in signals for value in ports.values()] + [Value.cast(event) for event in events]

    async def watch(ctx: Any) -> None:
        async for _, _, *values in ctx.tick().sample(*samples):
            found = iter(values)
            for recording, ports in zip(recordings, signals, strict=True):
                recording.inputs.append({name: next(found) % (1 << len(port)) for name, port in ports.items()})
            for recording in recordings:
                recording.events.append(int(next(found) != 0))

    bench = _Bench(tile, program, MAX_CYCLES, DramModel())
    simulator = Simulator(fragment)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.run)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    if not bench.result().finished:
        raise SimulationError(f"{program} is not finished after {MAX_CYCLES} cycles")
    return recordings


def _member(value: Any, name: str) -> Any:
    return getattr(value, name)


def _components(fragment: Fragment) -> Iterator[object]:
    """All components of an elaborated design, parents first."""
    yield from fragment.origins or ()
    for inner, _, _ in fragment.subfragments:
        yield from _components(inner)


def _first(components: list[object], kind: type) -> wiring.Component:
    found = next((c for c in components if type(c) is kind), None)
    if not isinstance(found, wiring.Component):
        raise SimulationError(f"the tile has no {kind.__name__}")
    return found


def _input_ports(component: wiring.Component) -> dict[str, Value]:
    """Ports by their names in a netlist: members joined by two underscores."""
    return {"__".join(map(str, path)): Value.cast(value)
            for path, member, value in component.signature.flatten(component) if member.flow == wiring.In}
