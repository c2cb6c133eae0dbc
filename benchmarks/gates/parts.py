"""Parts of the tile that are mapped, the runs that each is priced on, and what is recorded of them.

A run is a whole program on a whole tile, so that a part's energy is that of the tile's own events and cycles. Gaussian
operands and the VECTORs of one kind are what tables are fitted to; the runs on a layer's operands are there to be
compared with what the tables say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilescore import rtl
from tilescore.benchmarks.gates import programs
from tilescore.benchmarks.gates.stimuli import Place, record
from tilescore.benchmarks.gates.store import Store
from tilescore.rtl.dma.load_unit import LoadUnit
from tilescore.rtl.dma.store_unit import StoreUnit
from tilescore.rtl.matrix.acc_lane import AccLane
from tilescore.rtl.matrix.operand_slice import OperandSlice
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.tile import Tile
from tilescore.rtl.vector.lane import VectorLane
from tilescore.rtl.vector.unit import VectorUnit
from tilescore.sim.program import Program
from tilescore.sim.timing import time_program

RTL = Path(rtl.__file__).parent
NANO = load_tile("nano")


def tile(formats: str, scales: str = "", acc_bits: int = 64) -> TileConfig:
    """`nano` with other formats; 12 ACC banks divide by every number of planes."""
    return replace(NANO, formats=tuple(formats.split()), scales=tuple(scales.split()), acc_bits=acc_bits, acc_banks=12)


W4A8 = "e4m3 e2m1 e4m3xe2m1"


@dataclass(frozen=True, kw_only=True)
class Part:
    """products: tensor formats of the products it is priced on; none: it is priced on `_OTHER_RUNS`. fitted: tables may
    use its runs; else it is only compared with what they say."""

    name: str
    label: str
    config: TileConfig
    place: Place
    products: tuple[str, ...] = ()
    fitted: bool = True


_PE = Place(kind=ProcessingElement)


def _pe(name: str, label: str, config: TileConfig, *products: str, fitted: bool = True) -> Part:
    return Part(name=name, label=f"PE, {label}", config=config, place=_PE, products=products, fitted=fitted)


def _place(kind: type, *without: type, where: Callable = lambda component: True) -> Place:
    return Place(kind=kind, without=without, where=where)


PARTS = {part.name: part for part in (
    _pe("pe", "E4M3", NANO, "e4m3"),
    _pe("pe-nvfp4", "E2M1, E4M3 scales", tile("e2m1", "e4m3"), "nvfp4"),
    _pe("pe-mxfp8", "E4M3, E8M0 scales", tile("e4m3", "e8m0"), "mxfp8", "e4m3"),
    _pe("pe-e5m2", "E5M2, W = 80", tile("e5m2", acc_bits=80), "e5m2"),
    _pe("pe-presets", "E4M3 + E2M1 + E4M3xE2M1, E4M3 and E8M0 scales", tile(W4A8, "e4m3 e8m0"),
        "e4m3", "nvfp4", "mxfp8", "mxfp4"),
    _pe("pe-mxfp4", "E2M1, E8M0 scales", tile("e2m1", "e8m0"), "mxfp4", fitted=False),
    _pe("pe-w4a8", "E4M3 + E2M1 + E4M3xE2M1, E4M3 scales", tile(W4A8, "e4m3"), "e4m3", "nvfp4", fitted=False),
    Part(name="vector", label="vector lane", config=NANO, place=_place(VectorLane)),
    Part(name="acc", label="ACC lane with drain (without memories)", config=NANO, place=_place(AccLane)),
    Part(name="a-slice", label="A slice (without memories)", config=NANO,
         place=_place(OperandSlice, where=lambda component: component.is_a)),
    Part(name="b-slice", label="B slice (without memories)", config=NANO,
         place=_place(OperandSlice, where=lambda component: not component.is_a)),
    Part(name="load", label="load unit (without memories)", config=NANO, place=_place(LoadUnit)),
    Part(name="store", label="store unit (without memories)", config=NANO, place=_place(StoreUnit)),
    Part(name="vector-control", label="vector unit without lanes", config=NANO, place=_place(VectorUnit, VectorLane)),
    Part(name="control", label="the rest of the tile: dispatch, issue, sequencers, counters", config=NANO,
         place=_place(Tile, ProcessingElement, OperandSlice, AccLane, LoadUnit, StoreUnit, VectorUnit)),
)}

_ATTENTION = "attention layer"
_OTHER_RUNS: dict[str, Callable[[TileConfig], Program]] = {
    _ATTENTION: programs.layer_program,
    **{f"vector {kind}": lambda config, kind=kind: programs.vector_program(config, kind)
       for kind in programs.VECTOR_KINDS},
}

M, N = 16, 16
"""Rows of the operands of a product."""


def _product(kind: str, tensor_format: str) -> Callable[[TileConfig], Program]:
    """kind: "gaussian"; "short", with results that leave every four steps; "layer"."""
    def make(config: TileConfig) -> Program:
        k = 64 if kind == "short" else 512 if tensor_format in ("nvfp4", "mxfp4") else 256
        operands = programs.layer_operands if kind == "layer" else programs.gaussian_operands
        return programs.product_program(config, tensor_format, *operands(M, N, k))
    return make


def runs_of(part: Part) -> dict[str, Callable[[TileConfig], Program]]:
    """By name. The first format's product also comes with short sums and on a layer's operands; parts that tables are
    not fitted to see only these operands."""
    formats = part.products or ("e4m3",)
    if not part.fitted:
        return {f"layer {name}": _product("layer", name) for name in formats}
    found = {f"gaussian {name}": _product("gaussian", name) for name in formats}
    found |= {f"{kind} {formats[0]}": _product(kind, formats[0]) for kind in ("short", "layer")}
    return found if part.products else found | _OTHER_RUNS


def is_judge(run: str) -> bool:
    """Tables are not fitted to the runs on a layer's operands."""
    return run.startswith("layer ")


@dataclass(frozen=True)
class Run:
    """What a program did: cycles, events of the whole tile, and by part the inputs of its components in each cycle."""

    name: str
    cycles: int
    events: dict[str, int]
    inputs: dict[str, list[list[dict[str, int]]]]


def record_parts(parts: Sequence[Part], store: Store) -> Iterator[tuple[Part, str, list[Run]]]:
    """Every part with its design's text and its runs. Parts of one configuration share the runs' recordings."""
    for config in dict.fromkeys(part.config for part in parts):
        group = [part for part in parts if part.config == config]
        names = list(dict.fromkeys(name for part in group for name in runs_of(part)))
        makers = {name: make for part in group for name, make in runs_of(part).items()}
        found = {name: record_run(makers[name](config), [p for p in group if name in runs_of(p)], name, store)
                 for name in names}
        for part in group:
            runs = [found[name] for name in runs_of(part)]
            yield part, runs[0][1][part.name], [run for run, _ in runs]


def record_run(program: Program, parts: Sequence[Part], name: str, store: Store) -> tuple[Run, dict[str, str]]:
    """The run, and the text of each part's design."""
    def make() -> tuple[Run, dict[str, str]]:
        recordings = record(program, [part.place for part in parts])
        timing = time_program(program)
        inputs = {part.name: [component[:timing.cycles] for component in recording.inputs]
                  for part, recording in zip(parts, recordings, strict=True)}
        run = Run(name, timing.cycles, {event: count for event, count in timing.events.items() if count}, inputs)
        return run, {part.name: recording.rtlil for part, recording in zip(parts, recordings, strict=True)}

    return store.get("run", f"{_digest(program)} {name} {[part.name for part in parts]}", make)


def _digest(program: Program) -> str:
    """Of the program, its data, and the sources of the hardware that it runs on."""
    found = hashlib.sha256(repr((program.config, program.instructions)).encode())
    found.update(program.initial_dram().tobytes())
    for path in sorted(RTL.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
