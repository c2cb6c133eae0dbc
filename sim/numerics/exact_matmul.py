"""Exact integer matrix products through floating-point BLAS.

numpy has no BLAS for integers: an int64 matrix product is 50 times slower than a float64 one. A float64 sums integers
exactly below 2**53, and a float32 below 2**24, so operands that are too wide are cut into limbs, and the partial
products are put together in integers. Two E4M3 operands need one product for 2**17 terms, two E2M1 operands one in
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

_DOUBLE_BITS, _SINGLE_BITS = 53, 24
_CHUNK = 1 << 17
"""Terms per product; a longer sum is cut."""

_ONE_THREAD_MACS = 1 << 17


def integer_matmul(a: I64, b: I64, *, wide: bool = False) -> NDArray[Any]:
    """``a @ b.T`` for (m, k) and (n, k) int64 of magnitudes below 2**62, exact.

    The result is int64 if it cannot be too wide for that. Otherwise it is int64 modulo 2**64 (two's complement), or
    with ``wide`` exact Python integers in an object array.
    """
    total: NDArray[Any] = np.zeros((len(a), len(b)), np.int64)
    bits = magnitude_bits(a) + magnitude_bits(b) + max(0, a.shape[1] - 1).bit_length()
    if wide and bits > 63:
        total = total.astype(object)
    for start in range(0, a.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        for shift, partial in _partial_products(a[:, part], b[:, part]):
            total = total + (partial.astype(total.dtype) << shift)
    return total


class CodeTable:
    """The integers that each byte of codes stands for: (256,) or, of codes that share bytes, (256, codes per byte).

    nan: (256,) which bytes are NaN; their integers are 0, their floats NaN.
    """

    def __init__(self, integers: I64, nan: NDArray[np.bool_]) -> None:
        self.integers = integers
        self.bits = magnitude_bits(integers)
        self.per_byte = integers.size // len(integers)
        self._floats = {True: integers.astype(np.float32), False: integers.astype(np.float64)}
        for values in self._floats.values():
            values[nan] = np.nan

    def floats(self, codes: NDArray[np.uint8], single: bool) -> NDArray[Any]:
        """(rows, k) float32 if ``single``, else float64, of (rows, bytes)."""
        return self._floats[single].take(codes, axis=0, mode="clip").reshape(len(codes), -1)


def table_matmul(a: NDArray[np.uint8], b: NDArray[np.uint8], a_table: CodeTable,
                 b_table: CodeTable) -> NDArray[Any] | None:
    """Integers of ``a`` times those of ``b``, transposed, for (m, .) and (n, .) codes.

    It saves the integers: codes become floats at once, and the result stays one, integers in a float array, if one
    product holds all terms; else it is int64. None if that takes limbs, or if a code is NaN, which shows in the result
    at no cost.
    """
    bits = a_table.bits + b_table.bits
    k = a.shape[1] * a_table.per_byte
    single = bits + max(0, k - 1).bit_length() <= _SINGLE_BITS
    if not single and bits + _CHUNK.bit_length() - 1 > _DOUBLE_BITS:
        return None
    x, y = a_table.floats(a, single), b_table.floats(b, single)
    total: NDArray[Any] | None = None
    for start in range(0, k, _CHUNK):
        part = float_matmul(x[:, start:start + _CHUNK], y[:, start:start + _CHUNK])
        if np.isnan(part.max(initial=0)):
            return None
        if k <= _CHUNK:
            return part
        total = part.astype(np.int64) if total is None else total + part.astype(np.int64)
    return total


def float_matmul(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """``a @ b.T`` of floats whose sums are exact. Middling ones go to BLAS in parts too small for its threads.

    Two threads that wait for each other on a busy machine took 8 ms for 8 x 64 x 2048 instead of 0.06.
    """
    m, n, k = a.shape[0], b.shape[0], a.shape[1]
    size = _ONE_THREAD_MACS // max(1, m * n)
    if size < 32 or size >= k:
        return a @ b.T
    parts, whole = k // size, k // size * size
    total = np.matmul(a[:, :whole].reshape(m, parts, size).transpose(1, 0, 2),
                      b[:, :whole].reshape(n, parts, size).transpose(1, 2, 0)).sum(axis=0)
    return total if whole == k else total + a[:, whole:] @ b[:, whole:].T


def magnitude_bits(values: NDArray[Any]) -> int:
    """Bits of the largest magnitude; 0 for zeros or no values."""
    return max(int(values.max()), -int(values.min())).bit_length() if values.size else 0


def _partial_products(a: I64, b: I64) -> Iterator[tuple[int, I64]]:
    """(shift, product) of limbs: the sum of ``product << shift`` is a @ b.T."""
    a_bits, b_bits = max(1, magnitude_bits(a)), max(1, magnitude_bits(b))
    growth = max(0, a.shape[1] - 1).bit_length()
    kind = np.float32 if a_bits + b_bits + growth <= _SINGLE_BITS else np.float64
    a_limbs, b_limbs = min(
        ((i, j) for i, j in product(range(1, 9), repeat=2)
         if -(-a_bits // i) + -(-b_bits // j) + growth <= _DOUBLE_BITS),
        key=lambda counts: counts[0] * counts[1])
    b_parts = list(_limbs(b, b_bits, b_limbs, kind))
    for a_shift, x in _limbs(a, a_bits, a_limbs, kind):
        for b_shift, y in b_parts:
            yield a_shift + b_shift, float_matmul(x, y).astype(np.int64)


def _limbs(values: I64, bits: int, count: int, kind: type) -> Iterator[tuple[int, NDArray[Any]]]:
    """(shift, limb): all limbs but the last are not negative; the sum of ``limb << shift`` is ``values``."""
    size = -(-bits // count)
    for index in range(count):
        limb = values >> index * size
        if index + 1 < count:
            limb = limb & (1 << size) - 1
        yield index * size, limb.astype(kind)
