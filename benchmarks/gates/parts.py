"""Parts of the tile that are mapped, and the stimuli that each is priced on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amaranth.lib import wiring

from tilescore.benchmarks.gates import programs
from tilescore.benchmarks.gates.stimuli import Place, Recording, record
from tilescore.rtl.dma.address import ChipWalk, DramWalk, RowAddress
from tilescore.rtl.matrix.drain import DrainLane
from tilescore.rtl.matrix.operand_edge import OperandEdge
from tilescore.rtl.matrix.pe import ProcessingElement, a_operand_layout
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import PAIRS
from tilescore.rtl.spec.isa import Pair
from tilescore.rtl.vector.lane import VectorLane
from tilescore.rtl.vector.unit import VectorUnit

NANO = load_tile("nano")
MIXED = replace(NANO, formats=("e4m3", "e2m1", "e4m3xe2m1"), scales=("e4m3",))
"""The formats of `edge` and the scales of NVFP4."""

WINDOW = 128
"""Cycles that are counted."""

SETTLE = 48
"""Cycles before them: longer than every pipeline."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """event: what one event is. products: formats of the operands that the part multiplies; none: it sees the layer.
    whole_run: the part has state that only the run from its start brings about."""

    name: str
    label: str
    config: TileConfig
    place: Place
    event: str
    products: tuple[str, ...] = ()
    whole_run: bool = False


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """cycles: inputs of the component, counted from ``skip`` on; events: in the counted ones. macs: of one event, and
    the element pair, if it multiplies. glitches: also counted with unit delays."""

    name: str
    cycles: list[dict[str, int]]
    skip: int
    events: int
    macs: int = 0
    pair: Pair | None = None
    glitches: bool = False


@dataclass(frozen=True)
class Stimulated:
    """component: the part as it was recorded, to be mapped."""

    component: wiring.Component
    stimuli: list[Stimulus]


_PE = Place(kind=ProcessingElement, event="a_in.tags.valid", last=True)
"""That of the last row and column: the results of those above pass through it."""

PARTS = {part.name: part for part in (
    Part(name="pe", label="PE, E4M3", config=NANO, place=_PE, event="k step", products=("e4m3",)),
    Part(name="pe-mixed", label="PE, E4M3 + E2M1 + E4M3xE2M1, E4M3 scales", config=MIXED, place=_PE, event="k step",
         products=("e4m3", "nvfp4")),
    Part(name="vector", label="vector lane", config=NANO, event="element",
         place=Place(kind=VectorLane, event="acc_x.en", owner=VectorUnit)),
    Part(name="drain", label="drain lane (merge, round, mask, row maximum)", config=NANO, event="result",
         place=Place(kind=DrainLane, event="control_in.valid")),
    Part(name="edge", label="edge of an A slice (without its memories)", config=NANO, event="group",
         place=Place(kind=OperandEdge, event="step.rows")),
    Part(name="chip-walk", label="DMA: on-chip address", config=NANO, event="beat", whole_run=True,
         place=Place(kind=ChipWalk, event="step")),
    Part(name="dram-walk", label="DMA: DRAM address", config=NANO, event="beat", whole_run=True,
         place=Place(kind=DramWalk, event="step")),
    Part(name="row-address", label="DMA: address of an indexed row", config=NANO, event="advance",
         place=Place(kind=RowAddress, event="advance")),
)}

_OPERANDS = {"gaussian": programs.gaussian_operands, "layer": programs.layer_operands}
_PAIRS = {"e4m3": Pair.E4M3, "nvfp4": Pair.E2M1}


def stimulate(parts: list[Part], window: int = WINDOW) -> dict[str, Stimulated]:
    """By part. Parts that see the layer share its run."""
    result = {part.name: _with_products(part, window) for part in parts if part.products}
    others = [part for part in parts if not part.products]
    for config in dict.fromkeys(part.config for part in others):
        group = [part for part in others if part.config == config]
        recordings = record(programs.layer_program(config), [part.place for part in group])
        for part, recording in zip(group, recordings, strict=True):
            result[part.name] = Stimulated(recording.component, [
                _window(part, "layer", recording, window), _idle(recording, "idle", window)])
    return result


def _with_products(part: Part, window: int) -> Stimulated:
    component, stimuli = None, []
    for tensor_format in part.products:
        pair = _PAIRS[tensor_format]
        for name, operands in _OPERANDS.items():
            program = programs.product_program(part.config, tensor_format, *operands(tensor_format))
            recording, = record(program, [part.place])
            component = component or recording.component
            found = replace(_window(part, f"{tensor_format} {name}", recording, window), pair=pair,
                            macs=PAIRS[pair].products_per_step(part.config.lanes))
            stimuli.append(found)
            if name == "gaussian":
                stimuli += [
                    replace(found, name=f"{tensor_format} zeros", cycles=_zeroed(part, found.cycles), glitches=False),
                    _idle(recording, f"{tensor_format} idle", window)]
    assert component is not None
    return Stimulated(component, stimuli)


def _zeroed(part: Part, cycles: list[dict[str, int]]) -> list[dict[str, int]]:
    """The same steps of a PE on zeros: tags and drain control stay, operands, scales and sums are 0."""
    tags = a_operand_layout(part.config)["tags"]
    kept = {"a_in": ((1 << tags.width) - 1) << tags.offset, "start": 1, "shift": 1}
    return [{name: value & kept.get(name, 0) for name, value in cycle.items()} for cycle in cycles]


def _window(part: Part, name: str, recording: Recording, window: int) -> Stimulus:
    first = recording.busiest(window)
    start = 0 if part.whole_run else max(0, first - SETTLE)
    return Stimulus(name=name, cycles=recording.inputs[start:first + window], skip=first - start,
                    events=sum(recording.events[first:first + window]), glitches=True)


def _idle(recording: Recording, name: str, window: int) -> Stimulus:
    """Clocked, with the inputs that the end of the run leaves."""
    return Stimulus(name=name, cycles=[recording.inputs[-1]] * (SETTLE + window // 4), skip=SETTLE, events=0)
