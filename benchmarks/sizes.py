"""Registers and gates of the tile's units for several tiles, and the sizes that `sim.structure` interpolates from them.

    python benchmarks/sizes.py [--write] [--store DIR]

``--write`` puts the table into benchmarks/sizes.md. Prints `UNIT_SIZES` of sim/structure.py. Several minutes; needs
Yosys.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from amaranth.hdl import Fragment
from amaranth.lib import wiring

from tilescore.benchmarks.gates.cuts import cut
from tilescore.benchmarks.gates.store import Store
from tilescore.benchmarks.synthesis import Gates, measure_design
from tilescore.rtl.dma.load_unit import LoadUnit
from tilescore.rtl.dma.store_unit import StoreUnit
from tilescore.rtl.matrix.acc_lane import AccLane
from tilescore.rtl.matrix.operand_slice import OperandSlice
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.tensor_formats import built_quantizers
from tilescore.rtl.tile import Tile
from tilescore.rtl.vector.lane import VectorLane
from tilescore.rtl.vector.unit import VectorUnit
from tilescore.sim.structure import UNIT_SIZES, tile_sizes, unit_features

FLIP_FLOP_TRANSISTORS = 16
"""As Yosys counts them."""

NANO, EDGE = load_tile("nano"), load_tile("edge")
_SCALED = {"formats": EDGE.formats, "scales": EDGE.scales}
_WIDE = replace(NANO, name="wide", cols=8, bus_bytes=32, b_buffer_bytes=16384)

TILES = (
    NANO,
    replace(NANO, name="nano, formats of edge", **_SCALED),
    _WIDE,
    replace(_WIDE, name="wide, formats of edge", **_SCALED),
    replace(NANO, name="tall", rows=8, a_buffer_bytes=16384, a_banks=4),
    replace(NANO, name="nano, W = 96", acc_bits=96, acc_banks=24),
    EDGE,
)

FEWER = {"vector": TILES[:2], "vector_control": TILES[:3], "control": (TILES[0], TILES[2])}
"""Of units that are large, or hardly depend on the tile."""

MAKERS: dict[str, tuple[Callable[[TileConfig], wiring.Component], tuple[type, ...]]] = {
    "vector": (lambda config: VectorLane(built_quantizers(config)), ()),
    "acc": (AccLane, ()),
    "a_slice": (lambda config: OperandSlice(config, buffer="a"), ()),
    "b_slice": (lambda config: OperandSlice(config, buffer="b"), ()),
    "load": (LoadUnit, ()),
    "store": (StoreUnit, ()),
    "vector_control": (VectorUnit, (VectorLane,)),
    "control": (Tile, (ProcessingElement, OperandSlice, AccLane, LoadUnit, StoreUnit, VectorUnit)),
}


def measure(unit: str, config: TileConfig, store: Store) -> Gates:
    make, without = MAKERS[unit]
    component = make(config)
    rtlil = cut(Fragment.get(component, None), component, without).rtlil()
    return store.get("gates", rtlil, lambda: measure_design(rtlil))


def fitted(unit: str, found: dict[TileConfig, Gates]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Coefficients of registers and transistors, least squares of the relative errors."""
    features = np.array([unit_features(unit, config) for config in found], float)
    result = []
    for sizes in ([g.flip_flops for g in found.values()],
                  [g.transistors - FLIP_FLOP_TRANSISTORS * g.flip_flops for g in found.values()]):
        wanted = np.array(sizes, float)
        values = np.linalg.lstsq(features / wanted[:, None], np.ones(len(wanted)), rcond=None)[0]
        result.append(tuple(float(f"{value:.4g}") for value in values))
    return result[0], result[1]


def page(found: dict[str, dict[TileConfig, Gates]]) -> Iterator[str]:
    yield from ("# Registers and gates of the tile's units", "",
                "Made by `python benchmarks/sizes.py --write`: each unit without its memories and without the units "
                "in it "
                "that have a row of their own, mapped to generic gates as in [area.md](area.md). *model*: what "
                "`sim.structure` interpolates, and the error.", "",
                "| unit | tile | registers | model | transistors of gates | model |", "|---|---|---|---|---|---|")
    for unit, sizes in found.items():
        for config, gates in sizes.items():
            model = tile_sizes(config)[unit]
            transistors = gates.transistors - FLIP_FLOP_TRANSISTORS * gates.flip_flops
            yield (f"| {unit} | {config.name} | {gates.flip_flops:,} | {model.registers:,.0f} "
                   f"({model.registers / gates.flip_flops - 1:+.1%}) | {transistors:,} | {model.transistors:,.0f} "
                   f"({model.transistors / transistors - 1:+.1%}) |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true", help="write benchmarks/sizes.md")
    options.add_argument("--units", help="comma-separated; default: all")
    options.add_argument("--store", type=Path, metavar="DIR", help="keep results in DIR")
    given = options.parse_args()
    store = Store(given.store)
    found: dict[str, dict[TileConfig, Gates]] = {}
    for unit in given.units.split(",") if given.units else MAKERS:
        found[unit] = {config: measure(unit, config, store) for config in FEWER.get(unit, TILES)}
        print(f'    "{unit}": {fitted(unit, found[unit])},', flush=True)
    UNIT_SIZES.update({unit: fitted(unit, sizes) for unit, sizes in found.items()})
    tile_sizes.cache_clear()
    text = "\n".join([*page(found), ""])
    print(text, end="")
    if given.write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
