"""Area of a tile by parts: sizes of its units (`structure`) times the area of a register and of a gate's transistor in
the cells of an energy table's library, and bytes of memory times the area of SRAM.

Cells alone: no wires, no clock tree, no room between cells, which together take a placed design to 1.3 to 1.6 times
this. What the formula says of parts that were mapped, and its error, stands in benchmarks/gates.md; tiles compared with
each other share most of it.
"""

import math
from dataclasses import dataclass

from ..rtl.spec.config import TileConfig
from .energy import EnergyTable
from .structure import tile_sizes

PEAK_OPS_PER_MAC = 2


@dataclass(frozen=True, kw_only=True)
class AreaReport:
    """mm2. parts: by unit of `structure.tile_sizes`, all of that kind, and "sram"; they sum to total_mm2. low_mm2,
    high_mm2: totals with all constants at an end. mm2_per_tops: per 10**12 operations a second at the tile's clock and
    its FP8 rate, two per multiply-accumulate."""

    table: str
    total_mm2: float
    low_mm2: float
    high_mm2: float
    parts: dict[str, float]
    mm2_per_tops: float

    def to_dict(self) -> dict:
        return {"total_mm2": self.total_mm2, "low_mm2": self.low_mm2, "high_mm2": self.high_mm2,
                "mm2_per_tops": self.mm2_per_tops, "parts": dict(self.parts), "table": self.table}


def area_of(config: TileConfig, table: EnergyTable) -> AreaReport:
    ends = {end: _parts(config, table.at(end)) for end in ("value", "low", "high")}
    total = {end: math.fsum(parts.values()) for end, parts in ends.items()}
    tops = PEAK_OPS_PER_MAC * config.macs_per_cycle * config.clock_mhz * 1e-6
    return AreaReport(table=table.name, total_mm2=total["value"], low_mm2=total["low"], high_mm2=total["high"],
                      parts=ends["value"], mm2_per_tops=total["value"] / tops)


def _parts(config: TileConfig, c: dict[str, float]) -> dict[str, float]:
    parts = {unit: size.count * (size.registers * c["register_area"] + size.transistors * c["transistor_area"]) * 1e-6
             for unit, size in tile_sizes(config).items()}
    return parts | {"sram": memory_bytes(config) * c["sram_area"] * 1e-6}


def memory_bytes(config: TileConfig) -> float:
    """Of all memories: operand buffers with scale bytes, accumulators with flags, indices, two pages of
    instructions."""
    operands = config.a_buffer_bytes + config.b_buffer_bytes
    scales = operands / config.lanes if config.scales else 0
    accumulators = config.cols * (config.acc_banks * config.acc_bank_rows * config.acc_word_bits
                                  + config.stat_banks * config.stat_bank_rows * 32) / 8
    return operands + scales + accumulators + 4 * config.index_entries + 2 * config.page_bytes
