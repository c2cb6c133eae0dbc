"""What a MATMUL adds up: products of any element pair, block scales, flags. The twin of the array.

A *term* is the exact sum of a block's products times the block's scales (the whole product if there are none). Terms
are integers on one grid; what falls below the grid is rounded once per term, to nearest even, and flagged. Terms are
added modulo 2**acc_bits, so their order cannot matter.

Scales that only multiply or shift up can be multiplied into the operands first. That turns a whole MATMUL into one
exact integer matrix product (`exact_matmul`), and is done wherever it is possible: always with E4M3 scales, and with
E8M0 scales in every block whose terms all stay on the grid. The other blocks are added one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.element_values import infinite_codes, integers_of
from ...rtl.spec.formats import E2M1, E4M3, E5M2, PAIRS, FormatSpec, result_lsb
from ...rtl.spec.isa import Instruction, Pair, Scale
from ..numerics.arithmetic import FLAG_INEXACT, FLAG_NAN, FLAG_NINF, FLAG_PINF
from ..numerics.exact_matmul import I64, CodeTable, integer_matmul, table_matmul

U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NAN_DELTA = 0xFF
"""E8M0 scale byte that means NaN."""

_FP32_SIGNIFICAND = 24
_LOW = (1 << _FP32_SIGNIFICAND) - 1
_MOST_SHIFT = 50
"""E2M1 products in blocks of 32 have this headroom at W = 64; operands shifted by it still fit an int64."""


@dataclass(frozen=True, kw_only=True)
class TermFormat:
    """The fields of a MATMUL that say what its operands mean."""

    pair: Pair = Pair.E4M3
    scale: Scale = Scale.NONE
    a_scaled: bool = False
    b_scaled: bool = False
    block: int = 0
    headroom: int = 0

    @classmethod
    def of(cls, i: Instruction) -> TermFormat:
        return _term_format(i.pair, i.scale, i.a_scaled, i.b_scaled, i.block, i.headroom)

    @property
    def lsb(self) -> int:
        """Weight of the lowest accumulator bit, as a power of two relative to the anchors."""
        return result_lsb(self.pair, self.scale, self.a_scaled, self.b_scaled, self.headroom)

    def b_groups(self, k_steps: int) -> int:
        """Groups of B that ``k_steps`` steps read."""
        return -(-k_steps // PAIRS[self.pair].b_steps)


@cache
def _term_format(pair: int, scale: int, a_scaled: int, b_scaled: int, block: int, headroom: int) -> TermFormat:
    return TermFormat(pair=Pair(pair), scale=Scale(scale), a_scaled=bool(a_scaled), b_scaled=bool(b_scaled),
                      block=block, headroom=headroom)


def matmul_terms(a: U8, b: U8, a_scales: U8, b_scales: U8, fmt: TermFormat, *, lanes: int,
                 acc_bits: int) -> tuple[NDArray[Any], U8]:
    """Accumulators of ``A @ B.T``.

    a: (m, k_steps * lanes) and b: (n, groups * lanes) bytes as in the operand slices; a_scales: (m, k_steps) and
    b_scales: (n, groups) their scale bytes, looked at only if ``fmt`` says so. Returns the (m, n) sums in units of
    2**fmt.lsb, wrapped to ``acc_bits`` (int64, floats below 2**53 in magnitude where that is quicker, or above 64 bits
    where needed Python integers), and uint8 flags.
    """
    pair = PAIRS[fmt.pair]
    special = pair.a.has_infinity or pair.b.has_infinity
    if fmt.scale == Scale.NONE and pair.b_steps == 1 and not special:
        total = table_matmul(a, b, _TABLES[pair.a.name], _TABLES[pair.b.name])
        if total is not None:
            return total, np.zeros(total.shape, np.uint8)
    flags = _nan_flags(_any_nan(a, pair.a), _any_nan(b, pair.b))
    left = _TABLES[pair.a.name].integers[a].reshape(len(a), -1)
    right = _TABLES[pair.b.name].integers[b].reshape(len(b), -1)[:, :left.shape[1]]
    if special:
        flags |= _infinities(_signs(a, left, pair.a), _signs(b, right, pair.b))
    wide = acc_bits > 64
    if fmt.scale == Scale.NONE:
        total = integer_matmul(left, right, wide=wide)
    else:
        blocks = a.shape[1] // lanes >> fmt.block
        x, y = ((values.reshape(len(values), blocks, -1), _block_scales(scales, blocks, fmt.scale) if scaled else None)
                for values, scales, scaled in ((left, a_scales, fmt.a_scaled), (right, b_scales, fmt.b_scaled)))
        add = {Scale.E4M3: _e4m3_terms, Scale.E8M0: _e8m0_terms, Scale.FP32: _fp32_terms}[fmt.scale]
        total, more = add(x, y, fmt.headroom, wide)
        flags |= more
    return (wrap_object(total, acc_bits) if total.dtype == object else total), flags


def wrap_object(total: NDArray[Any], bits: int) -> NDArray[Any]:
    """Python integers modulo 2**bits, two's complement."""
    half = 1 << (bits - 1)
    return (total + half) % (2 * half) - half


# ---- operands --------------------------------------------------------------------------------------------


def _tables() -> tuple[dict[str, CodeTable], dict[str, Mask]]:
    """Of each element format: (256,) or (256, 2) integers in a byte, and which bytes are NaN."""
    integers, nans = {}, {}
    for spec in (E2M1, E4M3, E5M2):
        integers[spec.name] = integers_of(spec)
        nans[spec.name] = np.isin(np.arange(256), spec.nan_codes)
    low, high = np.arange(256) & 15, np.arange(256) >> 4
    integers[E2M1.name] = np.stack([integers[E2M1.name][low], integers[E2M1.name][high]], axis=1)
    return {name: CodeTable(values, nans[name]) for name, values in integers.items()}, nans


_TABLES, _NAN = _tables()


def _block_scales(scales: U8, blocks: int, kind: Scale) -> U8:
    """Scale bytes of each block, from those of every group: (rows, blocks), FP32 (rows, blocks, 4)."""
    by_block = scales.reshape(len(scales), blocks, -1)
    return by_block[:, :, :4] if kind == Scale.FP32 else by_block[:, :, 0]


def _any_nan(codes: U8, spec: FormatSpec) -> Mask:
    """Which rows have a NaN among their elements."""
    if not spec.nan_codes:
        return np.zeros(len(codes), bool)
    lowest = min(code & 0x7F for code in spec.nan_codes)
    if int((codes & np.uint8(0x7F)).max(initial=0)) < lowest:  # NaNs are the largest magnitudes
        return np.zeros(len(codes), bool)
    return np.asarray(_NAN[spec.name][codes].any(axis=1))


def _nan_flags(a_nan: Mask, b_nan: Mask) -> U8:
    if not (a_nan.any() or b_nan.any()):
        return np.zeros((len(a_nan), len(b_nan)), np.uint8)
    return (a_nan[:, None] | b_nan).astype(np.uint8) * np.uint8(FLAG_NAN)


def _infinities(x: NDArray[np.int8], y: NDArray[np.int8]) -> U8:
    """Flags of the products with an infinity: its sign, or NaN when the other operand is zero. See `_signs`."""
    where = np.flatnonzero((np.abs(x) > 1).any(axis=0) | (np.abs(y) > 1).any(axis=0))
    x, y = x[:, where], y[:, where]
    flags = np.zeros((len(x), len(y)), np.uint8)

    def mark(flag: int, left: Mask, right: Mask) -> None:
        nonlocal flags
        hit = left.astype(np.float32) @ right.astype(np.float32).T > 0
        flags |= hit.astype(np.uint8) * np.uint8(flag)

    if where.size:
        for sign in (1, -1):
            for flag, other in ((FLAG_PINF, sign), (FLAG_NINF, -sign)):
                mark(flag, x == 2 * sign, np.sign(y) == other)
                mark(flag, np.sign(x) == sign, y == 2 * other)
        mark(FLAG_NAN, np.abs(x) == 2, y == 0)
        mark(FLAG_NAN, x == 0, np.abs(y) == 2)
    return flags


def _signs(codes: U8, integers: I64, spec: FormatSpec) -> NDArray[np.int8]:
    """(rows, k): sign of each element, 0 for zero and NaN (which flags its row anyway), +-2 for infinities."""
    signs = np.sign(integers).astype(np.int8)
    if not spec.has_infinity:
        return signs
    mark = 2 * infinite_codes(spec).astype(np.int8)
    mark[128:] *= -1
    return signs + mark[codes]


# ---- terms -----------------------------------------------------------------------------------------------

_Blocks = tuple[I64, U8 | None]
"""(rows, blocks, elements) integers, and their scale bytes (`_block_scales`), None if there are none."""


def _e4m3_terms(left: _Blocks, right: _Blocks, headroom: int, wide: bool) -> tuple[NDArray[Any], U8]:
    """Scales are integers in units of 2**-9, signs ignored; always exact."""
    integers = np.abs(integers_of(E4M3))
    sides, nans = [], []
    for values, scales in (left, right):
        if scales is None:
            nans.append(np.zeros(len(values), bool))
        else:
            values = values * integers[scales][:, :, None]
            nans.append(((scales & 0x7F) == 0x7F).any(axis=1))
        sides.append(values.reshape(len(values), -1))
    return integer_matmul(*sides, wide=wide), _nan_flags(*nans)


def _e8m0_terms(left: _Blocks, right: _Blocks, headroom: int, wide: bool) -> tuple[NDArray[Any], U8]:
    (a, a_delta, a_nan), (b, b_delta, b_nan) = _deltas(left), _deltas(right)
    flags = _nan_flags(a_nan, b_nan)
    a_most, b_most = a_delta.max(axis=0), b_delta.max(axis=0)
    room = headroom - a_most - b_most
    exact = (room >= 0) & (headroom <= _MOST_SHIFT)
    common = int(room[exact].min()) if exact.any() else 0
    x = a[:, exact] << (a_most[exact] - a_delta[:, exact])[:, :, None]
    y = b[:, exact] << (room[exact] - common + b_most[exact] - b_delta[:, exact])[:, :, None]
    total = integer_matmul(x.reshape(len(a), -1), y.reshape(len(b), -1), wide=wide)
    total = (total.astype(object) if wide else total) << common
    for j in np.flatnonzero(~exact):
        sums = integer_matmul(a[:, j], b[:, j], wide=True)
        shift = headroom - a_delta[:, j][:, None] - b_delta[:, j]
        terms, inexact = _shifted(sums.astype(object) if wide else sums, shift)
        total = total + terms
        flags |= inexact.astype(np.uint8) * np.uint8(FLAG_INEXACT)
    return total, flags


def _deltas(blocks: _Blocks) -> tuple[I64, I64, Mask]:
    """Integers (0 in a block whose scale is NaN), how far each block lies below its anchor, rows with a NaN scale."""
    values, scales = blocks
    if scales is None:
        return values, np.zeros(values.shape[:2], np.int64), np.zeros(len(values), bool)
    nan = scales == NAN_DELTA
    if nan.any():
        values = np.where(nan[:, :, None], 0, values)
    return values, np.where(nan, 0, scales).astype(np.int64), np.asarray(nan.any(axis=1))


def _shifted(sums: NDArray[Any], shift: I64) -> tuple[NDArray[Any], Mask]:
    """``sums * 2**shift`` rounded to nearest even, and where that is not exact.

    int64 sums are below 2**61; their results are modulo 2**64.
    """
    down, up = np.maximum(-shift, 0), np.maximum(shift, 0)
    if sums.dtype == object:
        down, up = down.astype(object), up.astype(object)
    else:
        down, up = np.minimum(down, 62), np.minimum(up, 63)
    quotient = sums >> down
    rest = sums - (quotient << down)
    twice = (rest << 1) - (np.ones_like(rest) << down)
    inexact = (rest != 0).astype(bool)
    increment = inexact & ((twice > 0) | ((twice == 0) & (quotient & 1 == 1))).astype(bool)
    return quotient + increment.astype(sums.dtype) << up, inexact


def _fp32_terms(left: _Blocks, right: _Blocks, headroom: int, wide: bool) -> tuple[NDArray[Any], U8]:
    """A block's factor is the product of its scales, rounded to 24 significant bits; its exponent has no limits."""
    (a, a_scale, a_nan), (b, b_scale, b_nan) = _fp32_scales(left), _fp32_scales(right)
    flags = _nan_flags(a_nan, b_nan)
    total = np.zeros((len(a), len(b)), object if wide else np.int64)
    for j in range(a.shape[1]):
        sums = integer_matmul(a[:, j], b[:, j])
        fraction, exponent = np.frexp(np.multiply.outer(a_scale[:, j], b_scale[:, j]))  # exact: 48 bits
        factor = np.rint(fraction * (1 << _FP32_SIGNIFICAND)).astype(np.int64)
        shift = headroom + exponent.astype(np.int64) - _FP32_SIGNIFICAND
        if wide:
            terms, inexact = _shifted(sums.astype(object) * factor, shift)
        else:
            terms, inexact = _product_shifted(sums, factor, -shift)
        total = total + terms
        flags |= inexact.astype(np.uint8) * np.uint8(FLAG_INEXACT)
    return total, flags


def _fp32_scales(blocks: _Blocks) -> tuple[I64, NDArray[np.float64], Mask]:
    """Integers (0 where the scale is not finite or not below 2), |scale|, rows with such a scale."""
    values, scales = blocks
    if scales is None:
        return values, np.ones(values.shape[:2]), np.zeros(len(values), bool)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        scale = np.abs(np.ascontiguousarray(scales).view("<f4")[:, :, 0]).astype(np.float64)
    nan = ~(scale < 2.0)
    return np.where(nan[:, :, None], 0, values), np.where(nan, 0.0, scale), np.asarray(nan.any(axis=1))


def _product_shifted(sums: I64, factor: I64, down: I64) -> tuple[I64, Mask]:
    """``sums * factor / 2**down`` rounded to nearest even, and where that is not exact.

    |sums| < 2**44, 0 <= factor <= 2**24, down >= 1: the headroom at W = 64 is at most 18. The product has 68 bits: a
    signed upper part in units of 2**24 and a lower part of 24 bits.
    """
    low = (sums & _LOW) * factor
    high = (sums >> _FP32_SIGNIFICAND) * factor + (low >> _FP32_SIGNIFICAND)
    low &= _LOW
    near, far = np.minimum(down, _FP32_SIGNIFICAND), np.clip(down - _FP32_SIGNIFICAND, 0, 62)
    # A shift by up to 24 is in the lower part; a longer one leaves the lower part as a mere tail.
    short = far == 0
    quotient = np.where(short, (high << _FP32_SIGNIFICAND - near) + (low >> near), high >> far)
    rest = np.where(short, low & (np.int64(1) << near) - 1, high - (high >> far << far))
    tail = ~short & (low != 0)
    twice = (rest << 1) - (np.int64(1) << np.where(short, near, far))
    inexact = (rest != 0) | tail
    up = (twice > 0) | ((twice == 0) & (tail | (quotient & 1 == 1)))
    return quotient + up, inexact
