"""What of the operand formats a tile's array has to be built for: widths, ranges and options, from its `TileConfig`.

A tile that multiplies E4M3 by E4M3 without block scales has none of the hardware for anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from .config import TileConfig
from .formats import (
    BLOCK_ELEMENTS,
    E4M3,
    FP32_SCALE_ORDERS,
    PAIRS,
    SCALE_NAMES,
    SCALE_PAIRS,
    block_magnitude_bits,
    built_with,
    carries_codes,
    headroom,
    step_bits,
)
from .isa import Pair, Scale

FP32_SIGNIFICAND = 24

E8M0_LARGEST = 255
"""Distances below the anchor are at most 254; 255 is NaN and is not distinguished where only the value matters."""

_FP32_SMALLEST = -149
"""Exponent of the smallest FP32 scale; the largest is 0, see `ScaleEdge`."""


def built_pairs(config: TileConfig) -> tuple[Pair, ...]:
    """Element pairs, in the order of their codes."""
    return tuple(spec.pair for spec in built_with(config.formats))


def built_scales(config: TileConfig) -> tuple[Scale, ...]:
    """Kinds of block scales, `Scale.NONE` not included."""
    return tuple(scale for scale, name in SCALE_NAMES.items() if name in config.scales)


def is_expanded(config: TileConfig) -> bool:
    """Operands are decoded at the edge of the array, which takes a register."""
    return not all(carries_codes(built_pairs(config), side, config.multiplier) for side in "ab")


@dataclass(frozen=True, kw_only=True)
class BlockUse:
    """A legal combination of elements, scales and block: ``steps`` k steps of ``elements`` products in all."""

    pair: Pair
    scale: Scale
    elements: int
    steps: int


@cache
def block_uses(config: TileConfig) -> tuple[BlockUse, ...]:
    """All combinations that a tile builds."""
    uses = []
    for pair in built_pairs(config):
        for scale in built_scales(config):
            if pair in SCALE_PAIRS[scale]:
                step = PAIRS[pair].products_per_step(config.lanes)
                uses += [BlockUse(pair=pair, scale=scale, elements=elements, steps=elements // step)
                         for elements in BLOCK_ELEMENTS[scale] if elements >= step]
    return tuple(uses)


@dataclass(frozen=True)
class TermShape:
    """Widths of the way from a step's sum to a term, for a tile with block scales."""

    config: TileConfig

    @property
    def adds_steps(self) -> bool:
        """Some blocks have more than one step."""
        return any(use.steps > 1 for use in block_uses(self.config))

    @property
    def block_bits(self) -> int:
        """Signed width of a block's sum."""
        step = step_bits(self.config.lanes, built_pairs(self.config))
        return max([step, *(PAIRS[use.pair].sum_bits(use.elements) for use in block_uses(self.config))])

    @property
    def fp32(self) -> bool:
        return Scale.FP32 in built_scales(self.config)

    @property
    def factor_bits(self) -> int:
        """Width of the product of two scales' significands; 0 if scales are powers of two."""
        if self.fp32:
            return FP32_SIGNIFICAND
        return 2 * E4M3.significand_bits if Scale.E4M3 in built_scales(self.config) else 0

    @property
    def factor_one(self) -> int:
        """The factor of blocks without one."""
        return 1 << (FP32_SIGNIFICAND - 1) if self.fp32 else 1

    @property
    def multiplied_bits(self) -> int:
        """Signed width of the sums that are ever multiplied by another factor than one."""
        return max((PAIRS[use.pair].sum_bits(use.elements) for use in block_uses(self.config)
                    if use.scale in (Scale.E4M3, Scale.FP32)), default=0)

    @property
    def product_bits(self) -> int:
        """Signed width of a block's sum times its factor."""
        if not self.factor_bits:
            return self.block_bits
        return max(self.block_bits + self.factor_one.bit_length() - 1, self.multiplied_bits + self.factor_bits)

    @property
    def rounds(self) -> bool:
        """Terms may be shifted down."""
        return built_scales(self.config) != (Scale.E4M3,)

    @property
    def most_headroom(self) -> int:
        """Largest headroom that an instruction can have."""
        return max((headroom(use.pair, use.scale, use.elements, 1, self.config.acc_bits)
                    for use in block_uses(self.config)), default=0)

    @property
    def most_shift(self) -> int:
        """Largest shift up of a product."""
        shifts = [0]
        for use in block_uses(self.config):
            if use.scale == Scale.E4M3:
                shifts.append(2 * E4M3.max_shift + self._one_up)
            else:
                used = block_magnitude_bits(use.pair, use.elements) + 1
                used += FP32_SCALE_ORDERS if use.scale == Scale.FP32 else 0
                shifts.append(self.config.acc_bits - used + int(use.scale == Scale.FP32))
        return max(0, max(shifts) - (FP32_SIGNIFICAND - 1 if self.fp32 else 0))

    @property
    def _one_up(self) -> int:
        """An E4M3 significand of 4 bits becomes the upper end of one of 24, with 3 bits before the point, twice."""
        return 7 if self.fp32 else 0

    def exponent_range(self, side: str) -> tuple[int, int]:
        """Smallest and largest exponent of a scale operand of side "a" (headroom included) or "b"."""
        scales = built_scales(self.config)
        low, high = 0, self.most_headroom if side == "a" else 0
        if Scale.E4M3 in scales:
            high = max(high, E4M3.max_shift + (3 if self.fp32 else 0))
        if Scale.E8M0 in scales:
            low = -E8M0_LARGEST
        if self.fp32:
            low = min(low, _FP32_SMALLEST)
        return low, high


def has_one_lsb(config: TileConfig) -> bool:
    """Is the weight of an accumulator's lowest bit the same in every instruction?"""
    return len(built_pairs(config)) == 1 and not config.scales
