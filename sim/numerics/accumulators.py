"""W-bit accumulators of the reference: merging raw partials, splitting into planes, rounding to FP32.

At W = 64 an accumulator is an int64 and wraps by itself. At 80 and 96 bits a merge may exceed it, so there
the
merged accumulators are Python integers in object arrays: 100 times slower, exact, and used by no preset.
"""

from collections.abc import Iterator

import numpy as np

from ...rtl.spec.config import ACC_FLAG_BITS, TileConfig
from ...rtl.spec.formats import PRODUCT_LSB_EXPONENT
from .arithmetic import FLAG_NAN, FLAG_NINF, FLAG_PINF, round_acc_to_fp32

_EXACT_DOUBLE = 1 << 53
_NAN = np.array(0x7FC00000, np.uint32).view(np.float32)


def merged(total: np.ndarray, flags: np.ndarray, acc: np.ndarray, upper: np.ndarray, rows: np.ndarray,
           config: TileConfig) -> tuple[np.ndarray, np.ndarray]:
    """``total`` plus the raw partials at ``rows``, wrapped to W bits, and the union of the flags.

    total: (..., cols), as from `matmul_terms`; flags: likewise uint8; acc, upper: the accumulator memory and the bits
    above 31; rows: (...) addresses of plane 0.
    """
    step, share = config.acc_addr(config.acc_plane_banks), config.acc_word_bits - 32
    planes = [acc[rows + p * step] for p in range(config.acc_planes)]
    for p in range(config.acc_planes):
        flags = flags | (upper[rows + p * step] << np.uint8(p * share))
    flags = flags & np.uint8((1 << ACC_FLAG_BITS) - 1)
    if config.acc_bits == 64:
        old = (planes[0].astype(np.uint64) | planes[1].astype(np.uint64) << np.uint64(32)).view(np.int64)
        return _integers(total) + old, flags
    exact = _integers(total).astype(object)
    for p, words in enumerate(planes):
        exact = exact + words.astype(object) * (1 << (32 * p))
    half = 1 << (config.acc_bits - 1)
    return (exact + half) % (2 * half) - half, flags


def planes_of(total: np.ndarray, flags: np.ndarray,
              config: TileConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """uint32 words and uint8 upper bits of each plane of raw accumulators, sign-extended to whole planes."""
    share, total = config.acc_word_bits - 32, _integers(total)
    for plane in range(config.acc_planes):
        if total.dtype == object:
            words = ((total >> (32 * plane)) & 0xFFFFFFFF).astype(np.uint32)
        else:
            words = (total >> min(32 * plane, 63)).astype(np.uint32)
        yield words, flags >> np.uint8(plane * share) & np.uint8((1 << share) - 1)


def _integers(total: np.ndarray) -> np.ndarray:
    """Sums of `matmul_terms`, those in floats as int64."""
    return total.astype(np.int64) if total.dtype.kind == "f" else total


def drain_fp32(total: np.ndarray, flags: np.ndarray, lsb: int = PRODUCT_LSB_EXPONENT) -> np.ndarray:
    """Accumulators in units of 2**lsb, as from `matmul_terms`, rounded once to FP32; flags override."""
    if total.dtype == object:
        return _round_wide(total, flags, lsb)
    small = total.dtype.kind == "f" or (total.size and total.min() > -_EXACT_DOUBLE and total.max() < _EXACT_DOUBLE)
    flagged = flags.any()
    if small and not (flagged and (flags & np.uint8(FLAG_PINF | FLAG_NINF)).any()):
        exact = total * np.float64(2.0**lsb)
        exact += 0.0  # a float sum of products with zeros may be -0
        with np.errstate(over="ignore", under="ignore"):
            values = exact.astype(np.float32)
        return np.where(flags & np.uint8(FLAG_NAN) != 0, _NAN, values) if flagged else values
    return round_acc_to_fp32(total, lsb, flags).astype(np.float32)


def _round_wide(total: np.ndarray, flags: np.ndarray, lsb: int) -> np.ndarray:
    """Drop 32 bits, keeping their OR in the lowest bit, where an accumulator does not fit in an int64."""
    big = ((total >> 63) != 0) & ((total >> 63) != -1)
    jammed = np.where(big, (total >> 32) | ((total & 0xFFFFFFFF) != 0).astype(int).astype(object), 0)
    small = np.where(big, 0, total).astype(np.int64)
    rounded = round_acc_to_fp32(jammed.astype(np.int64), lsb + 32, flags)
    return np.where(big, rounded, round_acc_to_fp32(small, lsb, flags)).astype(np.float32)
