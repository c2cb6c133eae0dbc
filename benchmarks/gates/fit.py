"""Constants of an energy table, fitted to the figures of one library.

Of every run there are two equations' worth of knowledge: what its cycles cost at rest, which is measured apart, and
what its events cost above that. The first gives the `*_idle` constants by division, the second the others by least
squares over the runs, each run weighted by its own energy, with no constant below zero. A constant's value is that of
the middle wire and of the mean of both delay models; its low end is that without wires and glitches, its high end that
with the longer wires and with glitches, each widened to where the parts differ.

Runs on the operands of layers, and parts that are not `fitted`, are left out: they are what the table is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilescore.benchmarks.gates.parts import PARTS, is_judge
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.sim.energy_components import COMPONENTS, array_energy
from tilescore.sim.structure import tile_sizes

ENDS = ("value", "low", "high")
_WIRES = {"value": 1, "low": 0, "high": 2}


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """pJ. parts: what it was fitted to."""

    value: float
    low: float
    high: float
    parts: tuple[str, ...]


def total(energies: Mapping[str, Sequence[float]], wire: int) -> float:
    """fJ per cycle."""
    return sum(values[wire] for values in energies.values())


def run_energy(run: Mapping, end: str) -> float:
    """fJ per cycle of one instance: of the mean of both delay models, or at an end."""
    zero, unit = (total(run[delay], _WIRES[end]) for delay in ("zero", "unit"))
    return {"value": (zero + unit) / 2, "low": zero, "high": unit}[end]


def idle_energy(part: Mapping, end: str) -> float:
    """fJ per cycle of one instance that rests."""
    return total(part["idle"], _WIRES[end])


def above_idle(part: Mapping, run: Mapping, end: str) -> float:
    """pJ of one instance's events in the whole run."""
    return (run_energy(run, end) - idle_energy(part, end)) * run["cycles"] / 1000


Features = Callable[[TileConfig, Mapping[str, int]], dict[str, float]]
"""Of one instance: {constant: how often it is paid}."""


def pe_features(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    """By what the energy model itself pays for each constant of the array."""
    names = ("e4m3_bit", "e5m2_bit", "e2m1_bit", "term_bit", "shadow_bit")
    found = {}
    for name in names:
        result = dict.fromkeys(COMPONENTS, 0.0)
        array_energy(result, n, config, dict.fromkeys((*names, "drain_value"), 0.0) | {name: 1.0})
        found[name] = sum(result.values()) / (config.rows * config.cols)
    return found


def _vector(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    return {"vector_element": n["vector_rows"], "vector_add": n["vector_adds"],
            "vector_function": n["vector_functions"], "vector_reduction": n["vector_reductions"],
            "vector_code": n["vector_quantizations"]}


def _acc(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    words = (n["acc_row_reads"] + n["acc_row_writes"]
             + (n["acc_beat_reads"] + n["acc_beat_writes"]) * config.bus_bytes / 4 / config.cols)
    return {"drain_value": n["drain_rows"], "acc_byte": 4 * words}


def _a_slice(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    size = (n["a_group_reads"] * config.lanes + (n["a_beat_reads"] + n["a_beat_writes"]) * config.bus_bytes
            + n["a_row_writes"] * config.cols)
    return {"slice_byte": size / config.rows}


def _b_slice(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    return {"slice_byte": (n["b_group_reads"] * config.lanes + n["b_beat_writes"] * config.bus_bytes) / config.cols}


def _control(config: TileConfig, n: Mapping[str, int]) -> dict[str, float]:
    steps = sum(n[name] for name in EVENT_NAMES if name.endswith("_row_steps")) / config.rows
    return {"instruction": n["instructions"], "sequencer_step": steps}


UNITS: dict[str, tuple[str, tuple[str, ...], Features]] = {
    "pe": ("pe_idle", tuple(name for name, part in PARTS.items() if part.label.startswith("PE,")), pe_features),
    "vector": ("vector_idle", ("vector",), _vector),
    "acc": ("acc_idle", ("acc",), _acc),
    "a_slice": ("slice_idle", ("a-slice",), _a_slice),
    "b_slice": ("slice_idle", ("b-slice",), _b_slice),
    "load": ("dma_idle", ("load",), lambda config, n: {"dma_byte": n["dram_read_beats"] * config.bus_bytes}),
    "store": ("dma_idle", ("store",), lambda config, n: {"dma_byte": n["dram_write_beats"] * config.bus_bytes}),
    "vector_control": ("control_idle", ("vector-control",),
                       lambda config, n: {
                           "vector_control": n["vector_rows"] * tile_sizes(config)["vector_control"].registers}),
    "control": ("control_idle", ("control",), _control),
}
"""By unit of `structure.tile_sizes`: constant of its clock, its parts, its features."""


def clocked_of(unit: str, name: str) -> float:
    """Of an instance: what the model multiplies the constant of its clock at rest by."""
    return tile_sizes(PARTS[name].config)[unit].clocked


def fit(library: Mapping) -> dict[str, Fitted]:
    """{constant: fit} for all constants whose parts the figures have."""
    found: dict[str, list[tuple[str, Mapping]]] = {}
    result: dict[str, Fitted] = {}
    groups: dict[frozenset[str], list[str]] = {}
    for unit, (idle, names, _) in UNITS.items():
        parts = [(name, library["parts"][name]) for name in names if name in library["parts"] and PARTS[name].fitted]
        found[unit] = parts
        groups.setdefault(frozenset([idle]), []).append(unit)
    for (idle,), units in ((tuple(key), units) for key, units in groups.items()):
        per_bit = {end: [idle_energy(part, end) / clocked_of(unit, name) / 1000
                         for unit in units for name, part in found[unit]] for end in ENDS}
        if per_bit["value"]:
            result[idle] = Fitted(value=float(np.mean(per_bit["value"])), low=min(per_bit["low"]),
                                  high=max(per_bit["high"]),
                                  parts=tuple(name for unit in units for name, _ in found[unit]))
    for units in (("pe",), ("vector",), ("acc",), ("a_slice", "b_slice"), ("load", "store"), ("vector_control",),
                  ("control",)):
        result |= _events(units, found)
    return result


def _events(units: Sequence[str], found: Mapping[str, list[tuple[str, Mapping]]]) -> dict[str, Fitted]:
    rows: list[dict[str, float]] = []
    energies: dict[str, list[float]] = {end: [] for end in ENDS}
    for unit in units:
        for name, part in found[unit]:
            for run in part["runs"]:
                if is_judge(run["name"]):
                    continue
                features = UNITS[unit][2](PARTS[name].config, dict.fromkeys(EVENT_NAMES, 0) | run["events"])
                if any(features.values()):
                    rows.append(features)
                    for end in ENDS:
                        energies[end].append(above_idle(part, run, end))
    if not rows:
        return {}
    names = [name for name in rows[0] if any(row[name] for row in rows)]
    matrix = np.array([[row[name] for name in names] for row in rows])
    ends = {end: solve(matrix, np.array(values)) for end, values in energies.items()}
    parts = tuple(name for unit in units for name, _ in found[unit])
    result = {}
    for i, name in enumerate(names):
        values = [ends[end][i] for end in ENDS]
        unexplained = _unexplained(matrix, np.array(energies["value"]), ends["value"], i) if min(values) == 0 else 0.0
        result[name] = Fitted(value=values[0], low=min(values), high=max(*values, unexplained), parts=parts)
    return result


def _unexplained(matrix: np.ndarray, wanted: np.ndarray, found: Sequence[float], number: int) -> float:
    """Of an unknown that came out as 0: what it would be if all that a run leaves open, of either sign, were its."""
    runs = matrix[:, number] > 0
    return float((np.abs(wanted - matrix @ np.array(found))[runs] / matrix[runs, number]).max())


def solve(matrix: np.ndarray, wanted: np.ndarray) -> list[float]:
    """Least squares of the relative errors, without negative values: the most negative unknown is 0, then again."""
    weighted, ones = matrix / wanted[:, None], np.ones(len(wanted))
    left = list(range(matrix.shape[1]))
    result = np.zeros(matrix.shape[1])
    while left:
        scale = np.abs(weighted[:, left]).max(axis=0)
        values = np.linalg.lstsq(weighted[:, left] / scale, ones, rcond=None)[0] / scale
        if values.min() >= 0:
            result[left] = values
            break
        left.pop(int(values.argmin()))
    return [float(value) for value in result]
