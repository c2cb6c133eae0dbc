"""The time contract: when an instruction frees its unit and when its tokens are given.

Everything here is a pure function of the instruction's fields and the `TileConfig`; no data, no history. The RTL
sequencers take their slot lengths and the timing model its durations from here, and tests compare the two cycle
by cycle.

Cycle 0 is the cycle in which the tile sees ``start``. "At cycle t" means that a signal is high during cycle t.

* Instruction i is pushed into its queue at D(i); D(i) >= D(i-1) + 1; a full queue blocks: with depth Q,
  D(i) >= I(i-Q of the same unit) + 1.
* It issues at I(i) >= D(i) + 1, I(i) >= I(previous of the unit) + occupancy, and when every token it waits for
  is visible. A token given at S is visible from S + 1.
* A DMA instruction of n beats occupies its unit for as long as the DRAM takes for them, ceil(n * `beat_cycles`): n
  cycles, or more if ``dram_bytes_per_cycle`` is below ``bus_bytes``. A GATHER takes `GATHER_SETUP` more.
* It gives its rd tokens at I + rd and its wr tokens at I + wr; I + wr is also when it retires.
* A DMA port keeps at most ``dma_outstanding`` instructions in flight: I(i) >= retire(i - dma_outstanding) + 1.
* With ``dram_shared`` the port is granted to LOADs, GATHERs, STOREs and SCATTERs in program order, whichever unit they
  are of: I(i) >= I(the one before) + its occupancy. A STORE's beats reach the port `STORE_DEPTH` cycles later than a
  LOAD's would, through the queue of the store unit, so some of them may pass the first beats of the LOAD that follows:
  n cycles never see more than n + `STORE_DEPTH` beats' time.
* Before the program, the dispatcher itself pushes a LOAD of page 0 at cycle `BOOT_DISPATCH`.
* After the boot token or a SYNC is taken at cycle t, the next instruction is dispatched at t + `REFETCH` at the
  earliest.
* HALT ends the program at the first cycle, `HALT_CHECK` or more after it could be dispatched, in which every
  retirement is visible (retire + 1); ``cycles`` is that cycle's number + 1.
"""

import math
from dataclasses import dataclass

from .matrix import timing as matrix_timing
from .spec.config import TileConfig
from .spec.events import dma_beats
from .spec.isa import Instruction
from .spec.scale_layout import scale_beats
from .vector import timing as vector_timing

BOOT_DISPATCH = 1
REFETCH = 2
HALT_CHECK = 0

GATHER_SETUP = 4
"""Cycles that a GATHER occupies its unit beyond its beats: index read, product with the stride (2), sum.

A SCATTER needs none: its addresses are ready before its data.
"""


STORE_DEPTH = 4
"""Cycles from an on-chip read of the store unit to its request: read (2), rotation (1) and queue (1)."""


@dataclass(frozen=True, slots=True)
class Duration:
    """occupancy: issue to next issue; rd, wr: issue to rd and wr tokens, in cycles."""

    occupancy: int
    rd: int
    wr: int


def matmul_slot(k_steps: int, config: TileConfig) -> int:
    """Cycles per result tile: k steps, but at least one per row, the time a tile needs to drain.

    The idle steps come first, so that the last k step always ends the slot and two captures are at least
    ``rows`` cycles apart.
    """
    return max(k_steps, config.rows)


def matmul_occupancy(instruction: Instruction, config: TileConfig) -> int:
    panels = -(-instruction.m_rows // config.rows)
    return panels * instruction.n_tiles * matmul_slot(instruction.k_steps, config)


def duration(instruction: Instruction, config: TileConfig) -> Duration:
    """`Duration` of a LOAD, GATHER, STORE, SCATTER, MATMUL or VECTOR with the reference DRAM."""
    name = instruction.spec.name
    if name == "MATMUL":
        occupancy = matmul_occupancy(instruction, config)
        return Duration(occupancy, occupancy + matmul_rd_tail(config), occupancy + matmul_wr_tail(config))
    if name == "VECTOR":
        occupancy = instruction.rows * instruction.tiles
        return Duration(occupancy, occupancy + vector_rd_tail(config), occupancy + vector_wr_tail(config))
    cycles = math.ceil((dma_beats(instruction, config) + scale_beats(instruction, config)) * config.beat_cycles)
    indexed = int(name in ("GATHER", "SCATTER"))
    if name in ("LOAD", "GATHER"):
        occupancy = cycles + GATHER_SETUP * indexed
        return Duration(occupancy, occupancy + load_rd_tail(indexed),
                        occupancy + load_wr_tail(indexed, config))
    return Duration(cycles, cycles + store_rd_tail(indexed), cycles + store_wr_tail(indexed, config))


# Tails: from the end of the occupancy to the token. Each is a sum of pipeline depths of the named component.


def matmul_rd_tail(config: TileConfig) -> int:
    """Operand reads run skewed through the slices: the last slice reads max(rows, cols) - 1 cycles later."""
    return matrix_timing.rd_tail(config)


def matmul_wr_tail(config: TileConfig) -> int:
    """Array skew and pipeline, drain of one panel, column skew, rounding, row maximum and its write."""
    return matrix_timing.wr_tail(config)


def vector_rd_tail(config: TileConfig) -> int:
    """Operand w is read this long after the last row's turn."""
    return vector_timing.rd_tail()


def vector_wr_tail(config: TileConfig) -> int:
    """Depth of the vector pipe including the reduction tree, the block quantizer and the last write."""
    return vector_timing.wr_tail(config)


def load_rd_tail(indexed: int) -> int:
    """The pulse is one register after the last request; a GATHER's indices are all read before that."""
    return 1


def load_wr_tail(indexed: int, config: TileConfig) -> int:
    """DRAM latency from the last request, which is in the last cycle of the occupancy; write register."""
    return config.dram_latency + 1


def store_rd_tail(indexed: int) -> int:
    """The pulse is one register after the last on-chip read."""
    return 1


def store_wr_tail(indexed: int, config: TileConfig) -> int:
    """The way of the last beat to the port, DRAM latency, response register (1)."""
    return STORE_DEPTH + config.dram_latency + 1
