"""A performance gate: the figures of a compiled layer against a committed baseline.

Cycle counts here are exact, so a test can hold them to the last one. A baseline is a small JSON file: a report
(docs/report.md) without what a comparison does not need, with the packed timeline of every instruction, so that a
failing gate can say what grew, in which unit and phase, and which instruction is the first that differs. It is
written in one piece: a process that dies leaves the old one, and workers of a parallel run cannot mix theirs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..compiler.comparison import LIMITED, Comparison, compare, exceeded, parse_limits
from ..compiler.comparison_text import change, number, sentences
from ..compiler.provenance import check_report
from ..rtl.spec.errors import ConfigError
from ..sim.lib.atomic_file import write_text
from ..sim.lib.json_file import read_json

DEFAULT_LIMITS = {"cycles": 0.0, "energy": 0.01, "bytes": 0.0}
"""Allowed growth as a share: cycles and bytes are exact, constants of energy may be revised."""

_LEFT_OUT = ("wall_s", "levels", "command", "events")
_WORKLOAD = ("model", "layer", "phase", "tokens", "context", "batch", "mask", "routing", "seed")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """passed: within every limit. text: why not, or empty. notes: what to know even so, one sentence each."""

    passed: bool
    text: str
    notes: tuple[str, ...] = ()


def baseline_path(folder: Path, name: str) -> Path:
    """Where the baseline ``name`` lies. Raises `ConfigError` when that is no file name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"gate {name!r}: expected a name of letters, digits, '.', '_' and '-'")
    return folder / f"{name}.json"


def limits_of(given: str | Mapping[str, float] | None) -> dict[str, float]:
    """`DEFAULT_LIMITS` with those that are given: ``"cycles:0%,energy:2%"`` or {"energy": 0.02}."""
    if given is None:
        return dict(DEFAULT_LIMITS)
    if isinstance(given, str):
        return DEFAULT_LIMITS | parse_limits(given)
    for name, value in given.items():
        if name not in LIMITED or isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            raise ConfigError(f"limit {name} = {value!r}: expected a share of at least 0 of {', '.join(LIMITED)}")
    return DEFAULT_LIMITS | dict(given)


def save_baseline(path: Path, report: dict) -> None:
    """Write ``report``, of one layer and with its timeline, as a baseline; folders are made."""
    values = {key: value for key, value in report.items() if key not in _LEFT_OUT}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")


def load_baseline(path: Path) -> dict:
    """The report of a baseline file. Raises `ConfigError` naming the file and what is wrong with it."""
    values = read_json(path, ConfigError, "baseline")
    check_report(values, f"baseline {path}")
    return values


def judge(name: str, baseline: dict, report: dict, limits: Mapping[str, float]) -> Verdict:
    """Is ``report`` within ``limits`` of ``baseline``?"""
    comparison = compare([baseline, report], ["baseline", "now"])
    notes = []
    if baseline["tilescore"] != report["tilescore"]:
        notes.append(f"gate {name}: the baseline was made by tilescore {baseline['tilescore']}, this is "
                     f"{report['tilescore']}")
    if baseline["energy"]["digest"] != report["energy"]["digest"]:
        notes.append(f"gate {name}: the energy table {report['energy']['table']} is not that of the baseline")
    other = _other_definition(name, baseline, report)
    if other:
        return Verdict(passed=False, text="\n".join([*other, *notes]), notes=tuple(notes))
    excess = exceeded(comparison, dict(limits))
    if not excess:
        return Verdict(passed=True, text="", notes=tuple(notes))
    names = ", ".join(found.name for found in excess)
    lines = [f"gate {name}: {names} above the limit", "", *_table(comparison, limits), "",
             *sentences(comparison, 1, "now"), *notes,
             "accept the new figures with --tilescore-update"]
    return Verdict(passed=False, text="\n".join(lines), notes=tuple(notes))


def _other_definition(name: str, baseline: dict, report: dict) -> list[str]:
    """Why the two cannot be compared at all; empty when they can."""
    lines = []
    old, new = ({key: r[key] for key in _WORKLOAD} for r in (baseline, report))
    if old != new:
        lines.append(f"gate {name}: another workload than the baseline's: " + ", ".join(
            f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key]))
    if baseline["numerics"]["digest"] != report["numerics"]["digest"]:
        different = [f"{key} {value} -> {report['numerics'].get(key)}" for key, value in baseline["numerics"].items()
                     if key in _NUMERICS and report["numerics"].get(key) != value]
        lines.append(f"gate {name}: another numeric definition, not a regression: {', '.join(different)}")
    if baseline["tile_digest"] != report["tile_digest"]:
        old, new = baseline["tile_parameters"], report["tile_parameters"]
        lines.append(f"gate {name}: another tile than the baseline's: " + ", ".join(
            f"{key} {old.get(key)} -> {new.get(key)}" for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)))
    if lines:
        lines.append("if that is wanted, renew the baseline with --tilescore-update")
    return lines


_NUMERICS = ("formats", "softmax_block", "router_terms", "scale_rule")


def _table(comparison: Comparison, limits: Mapping[str, float]) -> list[str]:
    """Old, new, change and limit of everything that has a limit."""
    cells = [["", "baseline", "now", "change", "limit"]]
    for name, limit in limits.items():
        row = comparison.row(LIMITED[name])
        cells.append([f"{name} [{row.unit}]", *(number(value, row.unit) for value in row.values),
                      change(row, 1) or "0", f"+{100 * limit:g} %"])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  " + "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                             for i, (cell, width) in enumerate(zip(line, widths, strict=True))) for line in cells]
