"""Reports side by side: what differs, by how much, and where from.

A comparison takes the JSON objects that `run` writes (`report.layer_report`), the first of them as the base of every
change, so live runs, saved reports and baselines are compared by the same code. Its rows are plain numbers with a name
and a unit; text, Markdown and JSON all print these rows.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..rtl.spec.errors import CompileError, ConfigError
from ..sim.timeline import Parting, Timeline, parting
from .schedule import schedule_differences

LIMITED = {"cycles": "cycles", "energy": "energy.total_pj", "bytes": "dram_bytes"}
"""What a limit can be set on, and the row that it holds for."""


@dataclass(frozen=True)
class Row:
    """One quantity. values: a number per report, None where a report has none."""

    section: str
    name: str
    unit: str
    values: tuple[float | int | None, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1

    def change(self, position: int) -> float | None:
        """Difference of the report at ``position`` to the first."""
        old, new = self.values[0], self.values[position]
        return None if old is None or new is None else new - old


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """names: of the reports. settings: (key, value per report) of what was asked for. rows: see `Row`.

    schedules: per report, the values of its schedule that differ from the first's, as ``q.k_tile: 256 -> 512``.
    partings: per report, the first instruction that differs from the first report's; None where nothing does or a
    report has no timeline. notes: what a reader must know before comparing numbers.
    """

    names: tuple[str, ...]
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[Row, ...]
    schedules: tuple[tuple[str, ...], ...]
    partings: tuple[Parting | None, ...]
    notes: tuple[str, ...]

    def row(self, name: str) -> Row:
        """The row of that name. Raises `KeyError`."""
        return {row.name: row for row in self.rows}[name]

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from .visual.comparison_tables import comparison_html  # it shows what this module defines

        return comparison_html(self)

    def to_dict(self) -> dict:
        """Of JSON types; every row, also the equal ones."""
        return {
            "names": list(self.names),
            "settings": {key: list(values) for key, values in self.settings},
            "rows": [{"section": row.section, "name": row.name, "unit": row.unit, "values": list(row.values),
                      "changes": [row.change(i) for i in range(len(row.values))]} for row in self.rows],
            "schedules": [list(lines) for lines in self.schedules],
            "first_difference": [None if found is None else str(found) for found in self.partings],
            "notes": list(self.notes),
        }


def compare(reports: Sequence[dict], names: Sequence[str]) -> Comparison:
    """Compare reports of one layer each, two at least. Raises `CompileError` when there are fewer."""
    if len(reports) < 2:
        raise CompileError(f"compare: expected at least two reports, got {len(reports)}")
    rows = []
    found = [dict(quantities(report)) for report in reports]
    for key in dict.fromkeys(itertools.chain.from_iterable(found)):
        section, name, unit = key
        # A cause, component or phase that a report does not have took no cycles and no energy there.
        absent = None if section in ("totals", "numerics") else 0
        rows.append(Row(section, name, unit, tuple(values.get(key, absent) for values in found)))
    lines = [_timeline(report, name) for report, name in zip(reports, names, strict=True)]
    first = lines[0]
    partings = [None if first is None or line is None else parting(first, line) for line in lines]
    schedules = [tuple(schedule_differences(reports[0]["schedule"], r["schedule"])) for r in reports]
    return Comparison(names=tuple(names), settings=tuple(_settings(reports)), rows=tuple(rows),
                      schedules=tuple(schedules), partings=tuple(partings), notes=tuple(_notes(reports, names)))


def _timeline(report: dict, name: str) -> Timeline | None:
    return None if report.get("timeline") is None else Timeline.from_dict(report["timeline"], f"{name}: timeline")


_SETTINGS = ("model", "layer", "phase", "tokens", "context", "batch", "mask", "tile", "format", "routing", "seed",
             "clock_mhz")


def _settings(reports: Sequence[dict]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for key in _SETTINGS:
        yield key, tuple(str(report.get(key)) for report in reports)
    yield "numerics", tuple(str(report.get("numerics", {}).get("digest")) for report in reports)
    yield "energy table", tuple(str(report["energy"]["table"]) for report in reports)


def quantities(report: dict) -> Iterator[tuple[tuple[str, str, str], float | int | None]]:
    """((section, name, unit), value) of everything that is compared."""
    totals, energy = "totals", report["energy"]
    dram = report["dram_bytes"]
    yield (totals, "cycles", "cycles"), report["cycles"]
    yield (totals, "time", "us"), report["cycles"] / report["clock_mhz"]
    yield (totals, "utilization", "%"), 100 * report["utilization"]
    yield (totals, "useful_macs", "MAC"), report["useful_macs"]
    yield (totals, "dram_bytes", "B"), dram["read"] + dram["write"]
    for direction in ("read", "write"):
        yield (totals, f"dram_bytes.{direction}", "B"), dram[direction]
    for key, unit in (("total_pj", "pJ"), ("pj_per_op", "pJ"), ("average_watt", "W")):
        yield (totals, f"energy.{key}", unit), energy[key]
    if "area" in report:  # reports of earlier versions have none
        yield (totals, "area", "mm2"), report["area"]["total_mm2"]
    yield (totals, "instructions", ""), report["instructions"]
    yield ("numerics", "rel_rms_error", ""), report["numerics"]["rel_rms_error"]
    for phase in report["phases"]:
        yield ("phases", f"{phase['phase']}.cycles", "cycles"), phase["cycles"]
    for phase in report["phases"]:
        yield ("phases", f"{phase['phase']}.energy_pj", "pJ"), phase["energy_pj"]
        yield ("phases", f"{phase['phase']}.dram_bytes", "B"), sum(phase["dram_bytes"].values())
    for phase, units in report["critical_path"].items():
        for unit, cycles in units.items():
            yield ("critical path", f"{phase}.{unit}", "cycles"), cycles
    for unit, causes in report["ledger"].items():
        for cause, cycles in causes.items():
            yield ("ledger", f"{unit}.{cause}", "cycles"), cycles
    for component, picojoule in energy["components"].items():
        yield ("energy", component, "pJ"), picojoule


def _notes(reports: Sequence[dict], names: Sequence[str]) -> Iterator[str]:
    first = reports[0]
    for report, name in zip(reports[1:], names[1:], strict=True):
        if report.get("numerics", {}).get("digest") != first.get("numerics", {}).get("digest"):
            yield f"{name} is another numeric definition than {names[0]}: their results differ by intent"
        if report.get("tilescore") != first.get("tilescore"):
            yield f"{name} was made by tilescore {report.get('tilescore')}, {names[0]} by {first.get('tilescore')}"
        workloads = [tuple(r.get(key) for key in _SETTINGS[:7]) for r in (first, report)]
        if workloads[0] != workloads[1]:
            yield f"{name} is another workload than {names[0]}"


# Where a growth comes from -------------------------------------------------------------------------------


def growth(comparison: Comparison, position: int = 1) -> list[tuple[str, str, int]]:
    """(phase, unit, cycles) by which the critical path grew, most first; shrunk parts last, equal ones left out."""
    parts = []
    for row in comparison.rows:
        change = row.change(position)
        if row.section == "critical path" and change:
            phase, _, unit = row.name.rpartition(".")
            parts.append((phase, unit, int(change)))
    return sorted(parts, key=lambda part: -part[2])


# Limits ------------------------------------------------------------------------------------------------


def parse_limits(text: str) -> dict[str, float]:
    """``cycles:0%,energy:1%`` as {"cycles": 0.0, "energy": 0.01}. Raises `ConfigError` naming the wrong part."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, colon, percent = part.strip().partition(":")
        if name not in LIMITED or not colon:
            raise ConfigError(f"limit {part.strip()!r}: expected NAME:PERCENT% with NAME one of {', '.join(LIMITED)}, "
                              "as in cycles:0%,energy:1%")
        number = percent.strip()
        try:
            value = float(number.removesuffix("%"))
        except ValueError:
            value = -1.0
        if not number.endswith("%") or not 0 <= value < float("inf"):
            raise ConfigError(f"limit {part.strip()!r}: expected a percentage of at least 0, as in {name}:1%")
        if name in limits:
            raise ConfigError(f"limit {part.strip()!r}: {name} is given twice")
        limits[name] = value / 100
    return limits


@dataclass(frozen=True)
class Excess:
    """A quantity above its limit: old and new value, and the limit as a share of old."""

    name: str
    old: float
    new: float
    limit: float


def exceeded(comparison: Comparison, limits: dict[str, float], position: int = 1) -> list[Excess]:
    """The limits that the report at ``position`` exceeds."""
    found = []
    for name, limit in limits.items():
        values = comparison.row(LIMITED[name]).values
        old, new = values[0], values[position]
        if old is not None and new is not None and new > old * (1 + limit):
            found.append(Excess(name, old, new, limit))
    return found
