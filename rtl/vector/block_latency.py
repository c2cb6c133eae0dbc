"""Depths of the block quantizer, as sums of the latencies of its parts."""

from collections.abc import Sequence

from ..arith import latency
from ..arith.latency import ceil_log2
from ..spec.config import TileConfig
from ..spec.isa import Quant, Scale
from ..spec.tensor_formats import QUANT_FORMATS, TensorFormat, block_quantizers

LARGEST_BLOCK = 128
"""Elements of the largest block of any format."""

CHOICE_BLOCK = 16
"""Elements of a block that has two candidate scales."""


ERROR_LATENCY = latency.QUOTIENT + 3
"""Divisor to squared error: both codes, their distance from x, its square."""

POWER_LATENCY = 2
"""Largest magnitude to a power-of-two scale."""

FIRST_DIVISION = latency.UNPACK_FP32 + latency.FP32_DIV_CONSTANT
"""amax / 6 or amax / 448."""

SECOND_DIVISION = FIRST_DIVISION + latency.UNPACK_FP32 + latency.FP32_DIV
"""And divided by z."""

SCALE_PRODUCT = SECOND_DIVISION + latency.QUANTIZE_FP8 + latency.UNPACK_FP32 + latency.FP32_MUL
"""The E4M3 scale times z."""

DIVISION_LATENCY = SCALE_PRODUCT + latency.UNPACK_FP32


def scale_kinds(quantizers: tuple[Quant, ...]) -> set[Scale]:
    """Kinds of scales that these block quantizers make."""
    return {QUANT_FORMATS[quant].scale for quant in quantizers}


def scale_latency(quantizers: tuple[Quant, ...]) -> int:
    """Cycles from amax to divisor and bytes, for a tile with these block quantizers."""
    return POWER_LATENCY if scale_kinds(quantizers) == {Scale.E8M0} else DIVISION_LATENCY


def reduce_latency(cols: int, sizes: Sequence[int]) -> int:
    """Cycles from a block's first tile to its result, with ``cols`` lanes and blocks of these sizes."""
    tiles = max(1, max(sizes) // cols)
    return ceil_log2(cols) + (tiles - 1) + ceil_log2(tiles) + 1


def tile_bits(config: TileConfig) -> int:
    """Low bits of a column tile's number that say where in a block, or in a row of operand buffer A, it lies."""
    return max(1, ceil_log2(max(1, LARGEST_BLOCK // config.cols)))


def block_sizes(formats: tuple[TensorFormat, ...]) -> tuple[int, ...]:
    """Sizes of their blocks in elements, ascending."""
    return tuple(sorted({fmt.block for fmt in formats}))


class BlockLatency:
    """Depths of the stage, in cycles. amax: words to largest magnitudes; divisor: words to divisors; choice: codes to
    the choice between two scales, None without; total: words to writes."""

    def __init__(self, config: TileConfig) -> None:
        formats = block_quantizers(config)
        quantizers = tuple(fmt.quant for fmt in formats)
        self.amax = reduce_latency(config.cols, block_sizes(formats))
        self.divisor = self.amax + scale_latency(quantizers)
        self.choice = None
        if Quant.NVFP4_46 in quantizers:
            wait = reduce_latency(config.cols, (CHOICE_BLOCK,))
            self.choice = ERROR_LATENCY - latency.QUOTIENT + wait + 1
        self.total = self.divisor + latency.QUOTIENT + (self.choice or 0)
