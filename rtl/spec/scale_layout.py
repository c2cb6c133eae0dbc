"""Which groups of a row have scale bytes in DRAM, and how many bytes and beats that makes.

On chip every group of `lanes` bytes has one scale byte beside it. In DRAM only those are kept that a block scale uses:
the first of each block, or for FP32 scales the first four. A block here is what one entry of the row's scale bytes
belongs to.
"""

from dataclasses import dataclass

import numpy as np

from .config import TileConfig
from .formats import SCALE_BYTES, SCALE_NAMES
from .isa import Instruction, ScaleLayout


@dataclass(frozen=True)
class ScaleBlock:
    """Every ``groups`` groups the first ``size`` of them have a scale byte; both are powers of two."""

    groups: int
    size: int

    @property
    def group_mask(self) -> int:
        """Group g of a row has a scale byte when ``g & group_mask`` is 0."""
        return self.groups - self.size

    @property
    def groups_per_byte(self) -> int:
        return self.groups // self.size


SCALE_BLOCKS = {
    ScaleLayout.G1: ScaleBlock(1, 1), ScaleLayout.G2: ScaleBlock(2, 1), ScaleLayout.G4: ScaleBlock(4, 1),
    ScaleLayout.G16: ScaleBlock(16, 1), ScaleLayout.FP32: ScaleBlock(16, 4),
}


def built_layouts(config: TileConfig) -> tuple[ScaleLayout, ...]:
    """Layouts that a tile builds: FP32 with FP32 scales, the others with scales of one byte."""
    sizes = {SCALE_BYTES[scale] for scale, name in SCALE_NAMES.items() if name in config.scales}
    return tuple(code for code, block in SCALE_BLOCKS.items() if block.size in sizes)


def scale_row_bytes(instruction: Instruction, config: TileConfig) -> int:
    """Scale bytes that come with a row of a LOAD, GATHER, STORE or SCATTER."""
    if instruction.scale == ScaleLayout.NONE:
        return 0
    block = SCALE_BLOCKS[ScaleLayout(instruction.scale)]
    groups = -(-instruction.row_bytes // config.lanes)
    return -(-groups // block.groups) * block.size


def scale_groups(layout: ScaleLayout, count: int) -> np.ndarray:
    """(count,) int64: the group, counted from the row's first, that each of a row's ``count`` scale bytes is for."""
    block, byte = SCALE_BLOCKS[layout], np.arange(count)
    return byte // block.size * block.groups + byte % block.size


def scale_beats(instruction: Instruction, config: TileConfig) -> int:
    """Bus beats that carry scale bytes, beside `events.dma_beats`.

    A LOAD or GATHER reads them into a register of one beat, again whenever the next row's bytes are not in it: once
    for stride 0, every bus_bytes/stride rows for rows packed into beats, else once per row and bus_bytes of its bytes.
    A STORE or SCATTER writes a beat per row and bus_bytes of its scale bytes.
    """
    size, bus = scale_row_bytes(instruction, config), config.bus_bytes
    if not size:
        return 0
    if instruction.spec.name in ("LOAD", "GATHER") and instruction.scale_stride < bus:
        return -(-instruction.rows * instruction.scale_stride // bus) or 1
    return instruction.rows * -(-size // bus)
