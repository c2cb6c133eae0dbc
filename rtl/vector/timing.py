"""Depths of the vector pipe, as sums of the latencies of its parts.

*Lane cycles* count from the cycle in which the data of operand x arrives at a lane. *Stages* count from the
cycle in which the addresses of x and y are at the read ports: data arrives one cycle later, so lane cycle n
is stage n + 1. Stage 0 of an instruction's first row is `FIRST_STAGE` cycles after its issue.

Operands z and w are not delayed; their addresses are, by cheaper registers of which there is one set for all
lanes. So they are read `Z_READ` and `W_READ` stages later than x.
"""

from functools import cache

from ..arith import latency
from ..arith.latency import ceil_log2
from ..spec.config import TileConfig
from ..spec.tensor_formats import block_quantizers
from .block_latency import BlockLatency

FIRST_STAGE = 2
"""Counters of the sequencer, then address registers."""

MEMORY_LATENCY = 1
"""Address at a read port to data."""

OPERAND_LATENCY = 1
"""Register after the memory; for ROW operands it follows the lane multiplexer."""

# Lane cycles in which an operand or a control signal is used.
LANE_Y_SELECT = OPERAND_LATENCY
LANE_Z_SELECT = LANE_Y_SELECT + latency.UNPACK_FP32 + latency.FP32_MUL
LANE_U = LANE_Z_SELECT + latency.FP32_MAX + latency.FP32_ADD
LANE_V = LANE_U + latency.SPECIAL_FUNCTION
LANE_W_SELECT = LANE_V - latency.UNPACK_FP32
LANE_OUT = LANE_V + latency.FP32_MUL
LANE_CODE = LANE_OUT + latency.QUANTIZE_FP8
LANE_WRITTEN = LANE_CODE + 1
LANE_FIXED = LANE_WRITTEN + latency.FP32_TO_FIXED

# Stages of the unit.
Z_READ = LANE_Z_SELECT - OPERAND_LATENCY
W_READ = LANE_W_SELECT - OPERAND_LATENCY
ACC_WRITE = LANE_OUT + MEMORY_LATENCY
REDUCE_START = LANE_WRITTEN + MEMORY_LATENCY


def reduce_latency(cols: int) -> int:
    """Cycles from written values to their reduction: grid, tree over lanes, sum over tiles, rounding."""
    return latency.FP32_TO_FIXED + ceil_log2(cols) + 1 + latency.FIXED_TO_FP32


def reduce_write(cols: int) -> int:
    """Stage of the write of a row's reduction."""
    return REDUCE_START + reduce_latency(cols)


@cache
def a_write(config: TileConfig) -> int:
    """Stage of the write of codes to A: the codes', or with block quantizers that of theirs."""
    if not block_quantizers(config):
        return LANE_CODE + MEMORY_LATENCY
    return LANE_OUT + MEMORY_LATENCY + BlockLatency(config).total


def last_write(config: TileConfig) -> int:
    """Stage of the last write of a row, whatever it writes: tokens are given in order."""
    return max(reduce_write(config.cols), a_write(config))


# Tails count from the issue of an instruction that follows without a gap; the last row is one cycle ahead of
# that one's first row.


def rd_tail() -> int:
    """The last row's address of operand w is at the read port."""
    return FIRST_STAGE - 1 + W_READ


def wr_tail(config: TileConfig) -> int:
    """The last row's last write, of its reduction or of its codes, is at the write port."""
    return FIRST_STAGE - 1 + last_write(config)
