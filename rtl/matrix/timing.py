"""Depths of the matrix unit, as sums of the latencies of its parts.

A k step is sequenced in a cycle of its slot; `SEQUENCER` cycles later slice 0 of both operand buffers reads.
From there it moves one slice per cycle, and one processing element (PE) per cycle.

A result row is drained in *stages*, which count from the cycle in which its control is at the first lane's
input. Lane c is c cycles behind.
"""

from functools import cache

from ..arith import latency
from ..spec.array_formats import TermShape, is_expanded
from ..spec.config import TileConfig

SEQUENCER = 1
"""Slot cycle to the step's register."""

OPERAND_READ = 2
"""Address at an operand slice to the group behind the bank multiplexer: memory, register."""

SCALE_HELD = OPERAND_READ
"""Read of a group to its scale byte in a register beside the group."""

DRAIN_HEAD = 1
"""Tile descriptor to the control of its first row."""

# Stages of the drain.
STAGE_READ = 0
"""Read of a raw partial row."""

STAGE_SELECT = STAGE_READ + 1
"""Its data leaves the memory; bank multiplexer, register."""

STAGE_MERGE = STAGE_SELECT + 1
"""Partial plus the value at the column's end."""

STAGE_ROUND = STAGE_MERGE + 1

STAGE_WRITE = STAGE_ROUND + latency.ROUND_FP32
"""Mask and write; raw rows are written in the same stage, so that no two rows meet at a bank."""

STAGE_MAXIMUM = STAGE_WRITE + latency.FP32_MAX
"""The last lane's maximum meets the old one."""

STAGE_STAT_READ = STAGE_MAXIMUM - 2
"""Read of the old maximum: memory, then a register behind the lane multiplexer."""

STAGE_STAT_WRITE = STAGE_MAXIMUM + latency.FP32_MAX
"""Four stages after its read becomes visible; a row of the next result tile is ``rows`` >= 4 cycles later."""


def operand_read(config: TileConfig) -> int:
    """Address at an operand slice to operand at the array's edge; operands that are expanded take one register more."""
    return OPERAND_READ + int(is_expanded(config))


def block_term(config: TileConfig) -> int:
    """Group sum to term: 0 without block scales, else sum of the block's steps, product with the scales, shift."""
    return 2 + int(TermShape(config).factor_bits > 0) if config.scales else 0


def scale_read(config: TileConfig) -> int:
    """Read of a block's last group to its scale at the array's edge: when the first processing element has the sum.

    FP32 scales come one cycle earlier, because their product is rounded.
    """
    return operand_read(config) + latency.dot_product(config.lanes) - int(TermShape(config).fp32)


def pe_latency(config: TileConfig) -> int:
    """Operands at a PE to the value in its shadow register: dot product, term, accumulator, shadow."""
    return latency.dot_product(config.lanes) + block_term(config) + 2


def forward_distances(config: TileConfig) -> range:
    """Distances in rows at which a raw row can be merged before it can be read: empty from 8 rows on."""
    return range(config.rows, STAGE_WRITE + 1)


@cache
def tile_delay(config: TileConfig) -> int:
    """Last k step's register to the drain head: the last row's value is at the column's end in `STAGE_MERGE`.
    """
    return config.rows - 1 + operand_read(config) + pe_latency(config) - STAGE_MERGE - DRAIN_HEAD


def rd_tail(config: TileConfig) -> int:
    """End of the occupancy to the last operand read, that of the last slice."""
    return SEQUENCER + max(config.rows, config.cols) - 1


def wr_tail(config: TileConfig) -> int:
    """End of the occupancy to the last write, that of the row maximum of row 0 of the last panel."""
    last_row_at_last_lane = config.rows - 1 + config.cols - 1
    return SEQUENCER + tile_delay(config) + DRAIN_HEAD + last_row_at_last_lane + STAGE_STAT_WRITE
