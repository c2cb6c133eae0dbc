"""What a report needs so that its figures can be had again: versions, parameters, schedule, seeds, command line."""

import hashlib
import json
from dataclasses import asdict

from ..rtl.spec.errors import ConfigError
from ..rtl.spec.version import version
from ..sim.energy import EnergyTable
from ..sim.program import Program

REQUIRED = {
    "tilescore": str, "model": str, "layer": str, "phase": str, "tokens": int, "context": int, "batch": int,
    "mask": str, "tile": str, "tile_digest": str, "tile_parameters": dict, "cycles": int, "clock_mhz": (int, float),
    "useful_macs": int, "utilization": (int, float), "dram_bytes": dict, "ledger": dict, "energy": dict,
    "numerics": dict, "phases": list, "critical_path": dict, "instructions": int, "schedule": dict,
}
"""Keys of a report that a comparison reads, and their types."""


def provenance(meta: dict, program: Program, command: list[str] | None) -> dict:
    """Keys of a layer's report: see docs/report.md. command: the arguments of the command line, if there was one."""
    config = program.config
    return {"tilescore": version(), "command": command, "tile_digest": config.digest,
            "tile_parameters": config.to_dict(), "schedule": meta["schedule"], "routing": meta["routing"],
            "seed": meta["seed"]}


def table_digest(table: EnergyTable) -> str:
    """12 hexadecimal digits of an energy table's constants, whatever it is called."""
    values = {name: asdict(constant) for name, constant in table.constants.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def check_report(values: object, source: str) -> None:
    """Raise `ConfigError` naming ``source`` and the key unless ``values`` is a layer's report that can be compared."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected the report of a layer, an object, got {str(values)[:60]}")
    for key, kind in REQUIRED.items():
        value = values.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise ConfigError(f"{source}: not the report of a layer: {key}: expected {names}, got {str(value)[:60]}")
    for key, parts in {"dram_bytes": ("read", "write"), "energy": ("total_pj", "components", "table", "digest"),
                       "numerics": ("digest", "rel_rms_error")}.items():
        for part in parts:
            if part not in values[key]:
                raise ConfigError(f"{source}: not the report of a layer: {key}.{part} is missing")
    try:
        phases = [(p["phase"] + "", p["cycles"] + 0, p["energy_pj"] + 0, sum(p["dram_bytes"].values()))
                  for p in values["phases"]]
        numbers = [cycles + 0 for units in (*values["critical_path"].values(), *values["ledger"].values())
                   for cycles in units.values()]
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{source}: not the report of a layer: phases, critical_path or ledger: {error}") from None
    if not phases or not numbers or not values["critical_path"]:
        raise ConfigError(f"{source}: not the report of a layer: phases and critical_path must not be empty")
