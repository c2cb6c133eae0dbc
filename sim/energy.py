"""Energy of a run: counted events and cycles times constants from a TOML table, by component.

The counts are those of `rtl/spec/events.py`, equal in the timing model and in the hardware. A table in `energy_tables/`
gives every constant with unit, source, status and range; `energy_components` says how often a run pays for each.

Leakage is the one component that is power times time: it follows from the cycles and the tile's clock, and from no
event. At half the clock a program leaks twice the energy and everything else stays as it is.

The totals with every constant at its low and at its high end bound the result. They are wide on purpose: a
figure without its range would claim more than anybody knows about a chip that does not exist. Ratios
between two programs on one table are far more certain than their absolute values.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import ConfigError, did_you_mean
from ..rtl.spec.events import EVENT_NAMES
from .energy_components import components, idle_of, leakage_mw, macs_of, time_ns, total
from .names import TABLES

CONSTANTS = {
    "pe_idle": "pJ/bit", "e4m3_bit": "pJ/bit", "e5m2_bit": "pJ/bit", "e2m1_bit": "pJ/bit", "term_bit": "pJ/bit",
    "shadow_bit": "pJ/bit", "drain_value": "pJ", "acc_idle": "pJ/bit", "acc_byte": "pJ/byte", "slice_idle": "pJ/bit",
    "slice_byte": "pJ/byte", "vector_idle": "pJ/bit", "vector_element": "pJ", "vector_add": "pJ",
    "vector_function": "pJ", "vector_reduction": "pJ", "vector_code": "pJ", "block_code": "pJ",
    "vector_control": "pJ/bit",
    "dma_idle": "pJ/bit", "dma_byte": "pJ/byte", "control_idle": "pJ/bit", "instruction": "pJ", "sequencer_step": "pJ",
    "sram_byte_8kib": "pJ/byte", "sram_capacity_exponent": "1", "sram_write_ratio": "1", "dram_byte": "pJ/byte",
    "register_area": "um2/bit", "transistor_area": "um2", "sram_area": "um2/byte", "leakage": "nW/um2",
}
"""Every constant that a table must have, and its unit. The `*_idle` are paid per register and cycle."""

STATUSES = ("measured", "derived", "assumed")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """value, low, high in ``unit``; status is one of `STATUSES`; source says where it comes from."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    status: str
    source: str


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Constants of one technology."""

    name: str
    node_nm: float
    constants: dict[str, Constant]

    def at(self, end: str) -> dict[str, float]:
        """{name: number} with every constant at its "value", "low" or "high".

        The exponent stays at its value: whether a larger one costs more depends on the memory's size, and
        the range of ``sram_byte_8kib`` covers it.
        """
        numbers = {name: getattr(constant, end) for name, constant in self.constants.items()}
        return numbers | {"sram_capacity_exponent": self.constants["sram_capacity_exponent"].value}


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """Picojoules of one run.

    components: pJ by `energy_components.COMPONENTS`; they sum to total_pj. low_pj, high_pj: totals with all constants
    at an end. idle_pj: by unit ("array", "vector"), what of its clock was spent on cycles in which it had nothing to
    do. pj_per_mac: per multiply-accumulate that the array executed; pj_per_op: per useful operation, two per useful
    MAC. Both are None when there was none. average_watt: total over the time at the tile's clock. leakage_watt: what
    the tile leaks, whatever it runs and at any clock.
    """

    table: str
    total_pj: float
    low_pj: float
    high_pj: float
    components: dict[str, float]
    idle_pj: dict[str, float]
    macs: int
    pj_per_mac: float | None
    pj_per_op: float | None
    average_watt: float
    leakage_watt: float

    def to_dict(self) -> dict:
        return {"total_pj": self.total_pj, "low_pj": self.low_pj, "high_pj": self.high_pj,
                "pj_per_mac": self.pj_per_mac, "pj_per_op": self.pj_per_op,
                "components": dict(self.components), "idle_pj": dict(self.idle_pj), "table": self.table,
                "average_watt": self.average_watt, "leakage_watt": self.leakage_watt}


def energy_of(events: Mapping[str, int], cycles: int, config: TileConfig, table: EnergyTable,
              useful_macs: int | None = None) -> EnergyReport:
    """Energy of a run with these event counts. ``useful_macs`` defaults to what the array executed."""
    missing = [name for name in EVENT_NAMES if name not in events]
    if missing:
        raise ValueError(f"event counts are missing: {', '.join(missing)}")
    found = {end: components(events, cycles, config, table.at(end)) for end in ("value", "low", "high")}
    total_pj = total(found["value"])
    macs = macs_of(events, config)
    useful = macs if useful_macs is None else useful_macs
    return EnergyReport(
        table=table.name, total_pj=total_pj, low_pj=total(found["low"]), high_pj=total(found["high"]),
        components=found["value"], idle_pj=idle_of(events, cycles, config, table.at("value")), macs=macs,
        pj_per_mac=total_pj / macs if macs else None, pj_per_op=total_pj / (2 * useful) if useful else None,
        average_watt=total_pj / time_ns(cycles, config) * 1e-3 if cycles else 0.0,
        leakage_watt=leakage_mw(config, table.at("value")) * 1e-3)


def load_table(name_or_path: str | Path) -> EnergyTable:
    """The built-in table of that name, or the TOML file at that path.

    Raises `ConfigError` naming the file, the constant, the key and what is allowed.
    """
    text = str(name_or_path)
    if text in TABLES:
        raw, source = _builtin(text), text
    else:
        source = f"energy table {text}"
        try:
            raw = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{source}: neither a built-in table ({', '.join(TABLES)}) nor a readable "
                              f"file{did_you_mean(text, TABLES)}") from None
    try:
        return _parse(tomllib.loads(raw), source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None


def _builtin(name: str) -> str:
    package = __name__.rpartition(".")[0]
    return resources.files(package).joinpath("energy_tables", f"{name}.toml").read_text("utf-8")


def _parse(values: dict, source: str) -> EnergyTable:
    for key in ("name", "node_nm", "constants"):
        if key not in values:
            raise ConfigError(f"{source}: missing key {key!r}")
    if not isinstance(values["constants"], dict):
        raise ConfigError(f"{source}: constants must be tables, got {values['constants']!r}")
    for name in values["constants"]:
        if name not in CONSTANTS:
            raise ConfigError(f"{source}: unknown constant {name!r}; allowed: {', '.join(CONSTANTS)}")
    constants = {}
    for name, unit in CONSTANTS.items():
        if name not in values["constants"]:
            raise ConfigError(f"{source}: missing constant {name!r}")
        constants[name] = _constant(name, unit, values["constants"][name], f"{source}: {name}")
    return EnergyTable(name=str(values["name"]), node_nm=values["node_nm"], constants=constants)


def _constant(name: str, unit: str, entry: dict, where: str) -> Constant:
    keys = {"value", "low", "high", "unit", "status", "source"}
    if not isinstance(entry, dict) or set(entry) != keys:
        found = ", ".join(sorted(entry)) if isinstance(entry, dict) else repr(entry)
        raise ConfigError(f"{where}: expected the keys {', '.join(sorted(keys))}, got {found}")
    for key in ("value", "low", "high"):
        if not isinstance(entry[key], (int, float)) or isinstance(entry[key], bool) or not entry[key] >= 0:
            raise ConfigError(f"{where}: {key} must be a number >= 0, got {entry[key]!r}")
    if not entry["low"] <= entry["value"] <= entry["high"]:
        raise ConfigError(f"{where}: expected low <= value <= high, got {entry['low']}, {entry['value']}, "
                          f"{entry['high']}")
    if entry["unit"] != unit:
        raise ConfigError(f"{where}: unit must be {unit!r}, got {entry['unit']!r}")
    if entry["status"] not in STATUSES:
        raise ConfigError(f"{where}: status must be one of {', '.join(STATUSES)}, got {entry['status']!r}")
    if not entry["source"] or not isinstance(entry["source"], str):
        raise ConfigError(f"{where}: source must say where the value comes from")
    return Constant(name=name, **entry)
