"""Depths of the block quantizer, as sums of the latencies of its parts."""

from amaranth.utils import ceil_log2

from ..arith.quotient import QuotientQuantizer
from ..block_formats import BlockFormat, block_quantizers
from ..config import TileConfig
from ..isa import Quant
from .block_lane import ERROR_LATENCY
from .block_reduce import reduce_latency
from .block_scale import scale_latency

LARGEST_BLOCK = 128
"""Elements of the largest block of any format."""

CHOICE_BLOCK = 16
"""Elements of a block that has two candidate scales."""


def tile_bits(config: TileConfig) -> int:
    """Low bits of a column tile's number that say where in a block, or in a row of operand buffer A, it lies."""
    return max(1, ceil_log2(max(1, LARGEST_BLOCK // config.cols)))


def block_sizes(formats: tuple[BlockFormat, ...]) -> tuple[int, ...]:
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
            self.choice = ERROR_LATENCY - QuotientQuantizer.LATENCY + wait + 1
        self.total = self.divisor + QuotientQuantizer.LATENCY + (self.choice or 0)
