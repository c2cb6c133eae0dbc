"""Energy tables from figures: constants of the logic by `fit`, of memories, wires to DRAM and the like from
literature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilescore.benchmarks.gates.fit import fit
from tilescore.benchmarks.gates.parts import PARTS
from tilescore.rtl.spec.errors import ConfigError
from tilescore.sim.energy import CONSTANTS, Constant
from tilescore.sim.structure import tile_sizes

FOLDER = Path(__file__).resolve().parents[2] / "sim" / "energy_tables"


@dataclass(frozen=True, kw_only=True)
class Technology:
    """A table's library, by name, and the constants that no library gives: value, low, high, source, all derived."""

    table: str
    node_nm: float
    library: str
    given: dict[str, tuple[float, float, float, str]]


_HOROWITZ = ("Horowitz ISSCC 2014, 8 KiB, 10 pJ per 64-bit read at 45 nm and 0.9 V (1.25 pJ per byte; PMC8934428 "
             "table 3)")
_TPU = "the 4 MiB SRAM of AccelForge's TPUv4i"
_BLOCK = ("180 registers at the price of e4m3_bit: a block's quantizer divides, compares and delays; the ends are 60 "
          "at half the price and 360 at twice")

_130NM = {
    "sram_capacity_exponent": (0.48, 0.45, 0.5, "energy ~ capacity^x through 8 KiB 10 pJ, 32 KiB 20 pJ and 1 MiB "
                               "100 pJ (Horowitz): ln 10 / ln 128 = 0.475"),
    "sram_write_ratio": (1.1, 1.0, 1.2, f"0.29 / 0.25 pJ/bit = 1.16 of {_TPU}, rounded towards 1"),
    "sram_area": (139.0, 100.0, 186.0, "OpenRAM macros of SkyWater: 2 KiB in 683.1 x 416.54 um; high: 1 KiB in "
                  "479.78 x 397.5 um; low: larger macros"),
    "dram_byte": (60.0, 48.0, 325.0, "memory of its own node: GDDR6, 7.5 pJ/bit (Micron); low: HBM2E, 6.0 pJ/bit "
                  "(Micron); high: 2.6 nJ per 64 bits (Horowitz, LPDDR2 era)"),
}
"""Of any 130 nm library: memories by literature."""

TECHNOLOGIES = (
    Technology(table="7nm", node_nm=7, library="asap7", given={
        "sram_byte_8kib": (0.66, 0.35, 1.25, "geometric mean of no improvement over 45 nm and of as much as published "
                           f"logic, 3.6 times; the ends are these two. {_HOROWITZ}"),
        "sram_capacity_exponent": (0.18, 0.12, 0.3, f"from sram_byte_8kib to {_TPU}, 0.25 pJ/bit: ln(2.0 / 0.66) / "
                                   "ln 512"),
        "sram_write_ratio": (1.16, 1.0, 1.25, f"0.29 / 0.25 pJ/bit of {_TPU}"),
        "sram_area": (0.4, 0.216, 1.27, "low: 8 cells of 0.027 um2; high: a whole die of 42.64 mm2 with 256 Mbit "
                      "(Chang et al., ISSCC 2017); value: cells take 54 % of a macro"),
        "dram_byte": (48.0, 48.0, 60.0, "HBM2E, 6.0 pJ/bit (Micron); high: GDDR6, 7.5 pJ/bit; AccelForge's TPUv4i has "
                      "7.03 pJ/bit for HBM2"),
    }),
    Technology(table="130nm", node_nm=130, library="sky130_fd_sc_hd__tt_025C_1v80", given=_130NM | {
        "sram_byte_8kib": (14.4, 7.2, 28.8, "by capacitance and voltage, (130 / 45) x (1.8 / 0.9)^2 = 11.6 times; the "
                           f"ends are half and twice as much. {_HOROWITZ}"),
    }),
    Technology(table="130nm-ihp", node_nm=130, library="sg13g2_stdcell_typ_1p20V_25C", given=_130NM | {
        "sram_byte_8kib": (6.42, 3.21, 12.84, "by capacitance and voltage, (130 / 45) x (1.2 / 0.9)^2 = 5.14 times; "
                           f"the ends are half and twice as much. {_HOROWITZ}"),
    }),
)

_BLOCK_BITS = (180, 60 / 2, 360 * 2)
"""Of `block_code`, whose unit is in no part: value, low, high."""

_UNMEASURED = {
    "drain_value": 500, "acc_byte": 10, "slice_byte": 8, "vector_element": 800, "vector_add": 160,
    "vector_function": 500, "vector_reduction": 100, "vector_code": 60, "vector_control": 0.5, "dma_byte": 24,
    "instruction": 1000, "sequencer_step": 300,
}
"""Registers that take over something with an event: what it is priced by as long as figures lack the event's unit."""

_REFERENCE = TECHNOLOGIES[0]
"""Its library has the figures of most units."""

_Entry = tuple[float, float, float, str, str]


def constants_of(technology: Technology, figures: Mapping) -> dict[str, Constant]:
    """Constants of parts that the library's figures lack are those of `_REFERENCE` times the ratio of what a register
    at rest, or a bit of an E4M3 step, takes. Raises `ConfigError` naming a constant that is not there either."""
    found = _measured(technology, figures)
    if technology is _REFERENCE:
        found = _by_size(found) | found
    else:
        reference = _by_size(found := _measured(_REFERENCE, figures)) | found
        found = _measured(technology, figures)
        for name in (name for name in reference if name not in found):
            ratio = "pe_idle" if name.endswith("_idle") else "e4m3_bit" if "e4m3_bit" in found else "e2m1_bit"
            if ratio in found:
                value, low, high = (reference[name][i] * found[ratio][i] / reference[ratio][i] for i in range(3))
                found[name] = (value, low, high, "derived", f"that of {_REFERENCE.library} times the ratio of {ratio}")
    if bit := found.get("e4m3_bit") or found.get("e2m1_bit"):
        value, low, high = (bits * end for bits, end in zip(_BLOCK_BITS, bit, strict=False))
        found["block_code"] = (value, low, high, "assumed", _BLOCK)
    missing = [name for name in CONSTANTS if name not in found]
    if missing:
        raise ConfigError(f"table {technology.table}: the figures have no part that gives {', '.join(missing)}")
    return {name: Constant(name=name, value=_short(value), low=min(_short(value), _short(low)),
                           high=max(_short(value), _short(high)), unit=unit, status=status, source=source)
            for name, unit in CONSTANTS.items() for value, low, high, status, source in [found[name]]}


def _by_size(found: Mapping[str, _Entry]) -> dict[str, _Entry]:
    """What stands for constants of units that were not measured: registers priced as a bit of an E4M3 step, from half
    to twice as much; clocked at rest as in a PE."""
    value, low, high, *_ = found.get("e4m3_bit") or found["e2m1_bit"]
    result: dict[str, _Entry] = {
        name: (bits * value, bits * low / 2, bits * high * 2, "assumed",
               f"{bits} registers at the price of e4m3_bit, from half to twice as much")
        for name, bits in _UNMEASURED.items()}
    for name in ("e5m2_bit", "e2m1_bit"):
        result[name] = value, low / 2, high * 2, "assumed", "as much as e4m3_bit, from half to twice as much"
    idle = found["pe_idle"][:3]
    return result | {name: (*idle, "derived", "a clocked register as in a PE") for name in CONSTANTS
                     if name.endswith("_idle")}


def _measured(technology: Technology, figures: Mapping) -> dict[str, _Entry]:
    library = next((entry for entry in figures["libraries"] if entry["name"] == technology.library), None)
    if library is None:
        raise ConfigError(f"table {technology.table}: the figures have no library {technology.library}")
    where = f"{library['name']}, {library['corner']}, {library['voltage']:g} V"
    found: dict[str, _Entry] = {name: (value, low, high, "derived", source)
                                for name, (value, low, high, source) in technology.given.items()}
    for name, fitted in fit(library).items():
        found[name] = (fitted.value, fitted.low, fitted.high, "measured",
                       f"gates of {', '.join(fitted.parts)} in {where}")
    return found | {name: (*ends, "measured", f"mapped cells of all parts in {where}")
                    for name, ends in _sizes(library).items()}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _sizes(library: Mapping) -> dict[str, tuple[float, float, float]]:
    """Areas of a register and of a generic transistor of gates, um2, and leakage, nW/um2; ends are those of parts."""
    registers, gates, leakages, weights = [], [], [], []
    for name, part in library["parts"].items():
        if name not in PARTS or PARTS[name].label.endswith(("programs", "4 x 8")):
            continue  # those of "pe" again, or without clock gates
        unit = "pe" if PARTS[name].label.startswith("PE,") else name.replace("-", "_")
        size = tile_sizes(PARTS[name].config)[unit]
        registers.append(part["flip_flop_area"] / part["flip_flops"])
        gates.append((part["area"] - part["flip_flop_area"]) / size.transistors)
        leakages.append(part["leakage_nw"] / part["area"])
        weights.append(part["area"])

    def ends(values: list[float]) -> tuple[float, float, float]:
        mean = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
        return mean, min(values), max(values)

    return {"register_area": ends(registers), "transistor_area": ends(gates), "leakage": ends(leakages)}


def text(technology: Technology, constants: Mapping[str, Constant]) -> str:
    return "\n".join([*_lines(technology, constants), ""])


def _lines(technology: Technology, constants: Mapping[str, Constant]) -> Iterator[str]:
    yield from (
        f"# Energy constants at {technology.node_nm:g} nm. Written by `python benchmarks/gates/run.py --write`.",
        "#", '# status: "measured" figures are those of benchmarks/gates; "derived" ones follow from published ones by',
        '# the formula in `source`; "assumed" ones are a choice whose range says how little is known.',
        f'name = "{technology.table}"', f"node_nm = {technology.node_nm:g}")
    for c in constants.values():
        yield from ("", f"[constants.{c.name}]", f"value = {c.value!r}", f"low = {c.low!r}", f"high = {c.high!r}",
                    f'unit = "{c.unit}"', f'status = "{c.status}"', f'source = "{c.source}"')


def write(figures: Mapping) -> None:
    for technology in TECHNOLOGIES:
        (FOLDER / f"{technology.table}.toml").write_text(text(technology, constants_of(technology, figures)),
                                                         encoding="utf-8")
