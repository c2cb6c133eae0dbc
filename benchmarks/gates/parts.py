"""Parts of the tile that are mapped, the runs that each is priced on, and what is recorded of them.

A run is a whole program on a whole tile, so that a part's energy is that of the tile's own events and cycles. Tables
are fitted to processing elements (PEs) of one format set each, on Gaussian operands, and to VECTORs of one kind. The
runs on a layer's operands, and PEs of other format sets, are there to be compared with what the tables say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilescore import rtl
from tilescore.benchmarks.gates import judge, programs
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
    """runs: names of the programs that it is priced on, see `runs_of`. fitted: tables may use its runs; else it is only
    compared with what they say."""

    name: str
    label: str
    config: TileConfig
    place: Place
    runs: tuple[str, ...]
    fitted: bool = True


_PE = Place(kind=ProcessingElement)


def _pe(name: str, label: str, config: TileConfig, *formats: str, fitted: bool = True) -> Part:
    """A part that tables are not fitted to sees the operands of a real layer, the others normal ones."""
    kind = "gaussian" if fitted else "real"
    return Part(name=name, label=f"PE, {label}", config=config, place=_PE, fitted=fitted,
                runs=tuple(f"{kind} {name}" for name in formats))


def _unit(name: str, label: str, kind: type, *runs: str, without: tuple[type, ...] = (),
          where: Callable = lambda component: True) -> Part:
    return Part(name=name, label=label, config=NANO, place=Place(kind=kind, without=without, where=where), runs=runs)


_VECTOR_RUNS = tuple(f"vector {kind}" for kind in programs.VECTOR_KINDS)


PARTS = {part.name: part for part in (
    Part(name="pe", label="PE, E4M3", config=NANO, place=_PE, runs=("gaussian e4m3", "short e4m3", "layer e4m3")),
    _pe("pe-nvfp4", "E2M1, E4M3 scales", tile("e2m1", "e4m3"), "nvfp4"),
    _pe("pe-mxfp8", "E4M3, E8M0 scales", tile("e4m3", "e8m0"), "mxfp8"),
    _pe("pe-e5m2", "E5M2, W = 80", tile("e5m2", acc_bits=80), "e5m2"),
    Part(name="pe-presets", label="PE, E4M3 + E2M1 + E4M3xE2M1, E4M3 and E8M0 scales",
         config=tile(W4A8, "e4m3 e8m0"), place=_PE, fitted=False,
         runs=("gaussian e4m3", "gaussian nvfp4", "gaussian mxfp8")),
    _pe("pe-mxfp4", "E2M1, E8M0 scales", tile("e2m1", "e8m0"), "mxfp4", fitted=False),
    _pe("pe-e4m3-e2m1", "E4M3 + E2M1", tile("e4m3 e2m1"), "e4m3", fitted=False),
    _pe("pe-mx", "E4M3 + E2M1, E8M0 scales", tile("e4m3 e2m1", "e8m0"), "mxfp8", "mxfp4", fitted=False),
    Part(name="pe-programs", label="PE, E4M3, in other programs", config=NANO, place=_PE, fitted=False,
         runs=("real e4m3", "program 1", "program 2", "program 3")),
    Part(name="pe-4x8", label="PE, E4M3, in an array of 4 x 8", config=replace(NANO, name="4x8", cols=8), place=_PE,
         fitted=False, runs=("real e4m3", "program 4", "program 5")),
    _unit("vector", "vector lane", VectorLane, *_VECTOR_RUNS),
    _unit("acc", "ACC lane with drain (without memories)", AccLane, "gaussian e4m3", "short e4m3", "vector copy"),
    _unit("a-slice", "A slice (without memories)", OperandSlice, "gaussian e4m3", "vector codes",
          where=lambda component: component.is_a),
    _unit("b-slice", "B slice (without memories)", OperandSlice, "gaussian e4m3", "short e4m3",
          where=lambda component: not component.is_a),
    _unit("load", "load unit (without memories)", LoadUnit, "gaussian e4m3", "vector copy"),
    _unit("store", "store unit (without memories)", StoreUnit, "gaussian e4m3", "vector copy"),
    _unit("vector-control", "vector unit without lanes", VectorUnit, "vector copy", "vector sum",
          without=(VectorLane,)),
    _unit("control", "the rest of the tile: dispatch, issue, sequencers, counters", Tile,
          "gaussian e4m3", "vector copy",
          without=(ProcessingElement, OperandSlice, AccLane, LoadUnit, StoreUnit, VectorUnit)),
)}

M, N = 8, 8
"""Rows of the operands of a product."""


def program_of(name: str, config: TileConfig) -> Program:
    """"vector KIND": see `programs.vector_program`. "gaussian FORMAT", "short FORMAT", with
    results that leave every few steps, "layer FORMAT" and "real FORMAT": a product on operands of that kind. "program
    NUMBER": see `judge.program`."""
    kind, _, what = name.partition(" ")
    if kind == "program":
        return judge.program(config, int(what))
    if kind == "vector":
        return programs.vector_program(config, what)
    k = 32 if kind == "short" else 256 if what in ("nvfp4", "mxfp4") else 128
    operands = {"layer": programs.layer_operands, "real": programs.real_operands}.get(kind, programs.gaussian_operands)
    return programs.product_program(config, what, *operands(M, N, k))


def is_judge(run: str) -> bool:
    """Tables are not fitted to the runs on a layer's operands."""
    return run.startswith(("layer ", "real ", "program "))


@dataclass(frozen=True)
class Run:
    """What a program did: cycles, events of the whole tile, and by part the inputs of its components in each cycle.
    key: digest of what that depends on."""

    name: str
    key: str
    cycles: int
    events: dict[str, int]
    inputs: dict[str, list[list[dict[str, int]]]]


def record_parts(parts: Sequence[Part], store: Store) -> Iterator[tuple[Part, str, list[Run]]]:
    """Every part with its design's text and its runs. Parts of one configuration share the runs' recordings."""
    for config in dict.fromkeys(part.config for part in parts):
        group = [part for part in parts if part.config == config]
        names = list(dict.fromkeys(name for part in group for name in part.runs))
        found = {name: record_run(program_of(name, config), [part for part in group if name in part.runs], name, store)
                 for name in names}
        for part in group:
            yield part, found[part.runs[0]][1][part.name], [found[name][0] for name in part.runs]


def record_run(program: Program, parts: Sequence[Part], name: str, store: Store) -> tuple[Run, dict[str, str]]:
    """The run, and the text of each part's design."""
    key = f"{_digest(program)} {name} {[part.name for part in parts]}"

    def make() -> tuple[Run, dict[str, str]]:
        recordings = record(program, [part.place for part in parts])
        timing = time_program(program)
        inputs = {part.name: [component[:timing.cycles] for component in recording.inputs]
                  for part, recording in zip(parts, recordings, strict=True)}
        run = Run(name, key, timing.cycles, {event: count for event, count in timing.events.items() if count}, inputs)
        return run, {part.name: recording.rtlil for part, recording in zip(parts, recordings, strict=True)}

    return store.get("run", key, make)


def _digest(program: Program) -> str:
    """Of the program, its data, and the sources of the hardware that it runs on."""
    found = hashlib.sha256(repr((program.config, program.instructions)).encode())
    found.update(program.initial_dram().tobytes())
    for path in sorted(RTL.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
