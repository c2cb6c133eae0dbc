"""What a sweep measures at a point: one declaration per column, from which values, tables, checks and pages derive."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...rtl.spec.config import TileConfig
from ...sim.area import AreaReport
from ...sim.result import Result
from ..bounds import Bounds
from ..layers import Workload

LOW, HIGH = "min", "max"


class Measured(NamedTuple):
    """What the columns are made of."""

    workload: Workload
    config: TileConfig
    result: Result
    bounds: Bounds
    peak: int
    useful: int
    area: AreaReport

    @property
    def seconds(self) -> float:
        """Of the layer at the tile's clock."""
        return self.result.cycles / (self.config.clock_mhz * 1e6)


@dataclass(frozen=True)
class Column:
    """One column. better: `LOW` or `HIGH`, or "" where neither is better. of: its value; None where there is none."""

    name: str
    unit: str
    better: str
    meaning: str
    of: Callable[[Measured], int | float | None]


def _busy(unit: str) -> Callable[[Measured], float]:
    return lambda m: sum(m.result.ledger[unit].get(cause, 0) for cause in ("busy", "compute", "fill")) / m.result.cycles


COLUMNS = {column.name: column for column in (
    Column("cycles", "cycles", LOW, "length of the run", lambda m: m.result.cycles),
    Column("time_us", "us", LOW, "the cycles at the tile's clock", lambda m: m.seconds * 1e6),
    Column("tokens_per_s", "1/s", HIGH, "new tokens of all sequences through this layer per second",
           lambda m: m.workload.rows / m.seconds),
    Column("useful_macs", "MAC", "", "multiply-accumulates that the layer defines", lambda m: m.useful),
    Column("utilization", "1", HIGH, "useful MACs over cycles times the peak of the layer's formats",
           lambda m: m.useful / (m.peak * m.result.cycles)),
    Column("tops", "Top/s", HIGH, "useful operations, two per MAC, per second", lambda m: 2e-12 * m.useful / m.seconds),
    Column("bound_cycles", "cycles", LOW, "largest lower bound, which no schedule beats", lambda m: m.bounds.cycles),
    Column("compute_bound_cycles", "cycles", LOW, "lower bound by multiply-accumulates",
           lambda m: m.bounds.compute_cycles),
    Column("dram_bound_cycles", "cycles", LOW, "lower bound by bytes that must move", lambda m: m.bounds.dram_cycles),
    Column("vector_bound_cycles", "cycles", LOW, "lower bound by elements of the vector unit",
           lambda m: m.bounds.vector_cycles),
    Column("matrix_busy", "1", "", "share of the cycles in which the array works", _busy("matrix")),
    Column("vector_busy", "1", "", "share of the cycles in which the vector unit works", _busy("vector")),
    Column("load_busy", "1", "", "share of the cycles in which the load unit moves data", _busy("load")),
    Column("store_busy", "1", "", "share of the cycles in which the store unit moves data", _busy("store")),
    Column("read_bytes", "B", LOW, "read from DRAM",
           lambda m: m.result.events["dram_read_beats"] * m.config.bus_bytes),
    Column("write_bytes", "B", LOW, "written to DRAM",
           lambda m: m.result.events["dram_write_beats"] * m.config.bus_bytes),
    Column("energy_pj", "pJ", LOW, "energy of the run", lambda m: m.result.energy.total_pj),
    Column("energy_low_pj", "pJ", LOW, "with every constant at its low end", lambda m: m.result.energy.low_pj),
    Column("energy_high_pj", "pJ", LOW, "with every constant at its high end", lambda m: m.result.energy.high_pj),
    Column("pj_per_op", "pJ", LOW, "energy per useful operation, two per MAC", lambda m: m.result.energy.pj_per_op),
    Column("average_watt", "W", LOW, "energy over time", lambda m: m.result.energy.average_watt),
    Column("area_mm2", "mm2", LOW, "cells of the tile", lambda m: m.area.total_mm2),
    Column("area_low_mm2", "mm2", LOW, "with every constant at its low end", lambda m: m.area.low_mm2),
    Column("area_high_mm2", "mm2", LOW, "with every constant at its high end", lambda m: m.area.high_mm2),
    Column("tops_per_mm2", "Top/s/mm2", HIGH, "`tops` over `area_mm2`: tiles of different sizes at equal area",
           lambda m: 2e-12 * m.useful / m.seconds / m.area.total_mm2),
    Column("instructions", "", "", "of the program", lambda m: m.result.instructions),
)}
"""In the order of a table's columns."""


def columns_page() -> str:
    """The columns as a Markdown table."""
    rows = [f"| `{c.name}` | {c.unit or '-'} | {c.better or '-'} | {c.meaning} |" for c in COLUMNS.values()]
    return "\n".join(["| column | unit | better | meaning |", "|---|---|---|---|", *rows]) + "\n"
