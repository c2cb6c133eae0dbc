"""What the ports of a part see in the tile: recorded from a run of the whole tile in Amaranth's simulator.

So operands are as the compiler quantizes and places them, tags and addresses as the sequencers make them, and lanes as
the edge of the array decodes them, for any part and any set of formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Fragment, Value
from amaranth.lib import wiring
from amaranth.sim import Simulator

from tilescore.benchmarks.gates.cuts import cut, fragments
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.tile import Tile
from tilescore.sim.hardware.amaranth_run import _Bench  # the tile's DRAM and start, cycle by cycle
from tilescore.sim.hardware.run import DramModel
from tilescore.sim.program import Program

MAX_CYCLES = 20_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """A part in the tile: the components of class ``kind`` for which ``where`` holds, without the parts ``without``."""

    kind: type[wiring.Component]
    where: Callable[[Any], bool] = lambda component: True
    without: tuple[type[wiring.Component], ...] = ()


@dataclass(frozen=True)
class Recording:
    """rtlil: of the first component (`cuts.Design`). inputs: of every component, values of the design's input ports in
    each cycle."""

    rtlil: str
    inputs: list[list[dict[str, int]]]


def record(program: Program, places: Sequence[Place]) -> list[Recording]:
    """Run ``program`` on its tile and record all places at once, from the cycle of ``start`` to the end of the run."""
    tile = Tile(program.config)
    fragment = Fragment.get(tile, None)
    components = [origin for part in fragments(fragment) for origin in part.origins or ()]
    recordings: list[Recording] = []
    watched: list[tuple[list[dict[str, int]], dict[str, Value]]] = []
    for place in places:
        found = [c for c in components if type(c) is place.kind and place.where(c)]
        if not found:
            raise SimulationError(f"the tile has no {place.kind.__name__}")
        designs = [cut(fragment, component, place.without) for component in found]
        recordings.append(Recording(designs[0].rtlil(), [[] for _ in designs]))
        watched += [(inputs, design.inputs) for inputs, design in zip(recordings[-1].inputs, designs, strict=True)]
    samples = [value for _, ports in watched for value in ports.values()]

    async def watch(ctx: Any) -> None:
        async for _, _, *values in ctx.tick().sample(*samples):
            found = iter(values)
            for inputs, ports in watched:
                inputs.append({name: next(found) % (1 << len(port)) for name, port in ports.items()})

    bench = _Bench(tile, program, MAX_CYCLES, DramModel())
    simulator = Simulator(fragment)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench.run)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    if not bench.result().finished:
        raise SimulationError(f"{program} is not finished after {MAX_CYCLES} cycles")
    return recordings
