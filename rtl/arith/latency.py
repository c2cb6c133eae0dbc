"""Latencies of the arithmetic units, in cycles, without the units.

The time contract is made of these numbers, and a run of the timing model must not load the hardware (Amaranth takes
longer to import than most programs take to time). Each component takes its LATENCY from here; its test measures it.
"""

UNPACK_FP32 = 1
FP32_MUL = 3
FP32_ADD = 4
FP32_MAX = 1
ROUND_FP32 = 4
FP32_TO_FIXED = 2
FIXED_TO_FP32 = ROUND_FP32
QUANTIZE_FP8 = 2
QUOTIENT = 6
"""`QuotientQuantizer`: five pairs of quotient bits and their ties, then rounding."""

INTERPOLATE = 4
"""memory | slope | product | sum."""

SPECIAL_FUNCTION = UNPACK_FP32 + 1 + 2 * INTERPOLATE + 1
"""unpack and multiply | fixed point | log2(1 + 2**-t) | exp2, reciprocal or rsqrt | pack."""

FP32_DIV_STAGES = 13
"""26 quotient bits, two per stage."""

FP32_DIV = FP32_DIV_STAGES + 2
FP32_DIV_CONSTANT = 3


def ceil_log2(count: int) -> int:
    """Levels of a tree of ``count`` >= 1 leaves."""
    return (count - 1).bit_length()


def dot_product(lanes: int) -> int:
    """`DotProduct`: product | shift | adder tree."""
    return 2 + ceil_log2(lanes)
