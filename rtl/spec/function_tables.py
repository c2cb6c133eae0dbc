"""Coefficient tables of the special functions, shared by the hardware and by `sim/numerics/arithmetic.py`.

Every segment holds a quadratic ``c0 + c1*x + c2*x**2`` in the position x in [0, 1) inside the segment. It
goes through the exact value of the function at both ends and in the middle of the segment. A minimax fit has
two thirds of the error, but interpolation makes neighbours meet and makes the ends exact: 2**0 = 1, 1/1 = 1
and sigmoid(0) = 1/2 come out exact.

The values come from `decimal`, whose ``ln``, ``exp`` and ``sqrt`` are correctly rounded by definition, with
50 digits, and are then rounded to multiples of 2**-27. So the tables are the same on every platform; no libm
is involved.

Four functions are tabulated:

=============  ==========================  ===============================  ============================
table          function                    segments                         worst interpolation error
=============  ==========================  ===============================  ============================
exp2           2**f, f in [0, 1)           128 of 1/128                     0.67/125 * 2**-21 = 2**-28.5
reciprocal     2/m, m in [1, 2)            128 of 1/128                     12/125 * 2**-21 = 2**-24.4
rsqrt          2/sqrt(m), m in [1, 4)      128 of 1/128 on [1, 2), 128 of   3.75/125 * 2**-21 = 2**-26.1
                                           1/64 on [2, 4)
softplus2      -log2(1 + 2**-t)            128 of 1/16 on [0, 8), 64 of     0.046/125 * 2**-12 = 2**-23.4
               t in [0, 32)                1/8 on [8, 16), 32 of 1/2
=============  ==========================  ===============================  ============================

(an interpolating quadratic errs by at most h**3 * max|f'''| * 0.0481 / 6). From t = 32 on, softplus2 is below
2**-31 and its last 32 entries are zero; they also serve a function that bypasses it.

The first three share one memory of 512 words, the depth of an ECP5 block RAM that is 36 bits wide. Fewer
segments would keep rsqrt within 2**-20 too, but the memory would not become smaller: its depth is a power
of two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

FRACTION_BITS = 27
"""Tables and interpolated values are in units of 2**-27."""

Y_FRACTION_BITS = 24
"""Fraction bits of the base-2 exponent y = u * log2(e) and of what follows from it."""

EXPONENT_ENTRIES = 128
"""Segments of exp2, of the reciprocal, and of each of the two binades of rsqrt."""

MAIN_X_BITS = 17
"""Position inside a segment of exp2, reciprocal or rsqrt."""

SOFTPLUS_X_BITS = 20
"""Position inside a segment of softplus2."""

SOFTPLUS_ZERO_ENTRY = 255
"""An entry of the softplus2 table with three zero coefficients."""

C0_BITS, C1_BITS, C2_BITS = 30, 23, 17
"""Signed widths of the coefficients: 70 bits together, within two 36-bit block RAMs of an ECP5."""

LOG2E_FRACTION_BITS = 32
"""Fraction bits of `log2e()`: at |u| = 512 its rounding moves y by 2**-24."""

_CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Coefficients of one quadratic, integers in units of 2**-27."""

    c0: int
    c1: int
    c2: int

    def __post_init__(self) -> None:
        for name, bits in (("c0", C0_BITS), ("c1", C1_BITS), ("c2", C2_BITS)):
            value = getattr(self, name)
            if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
                raise ValueError(f"coefficient {name} must fit in {bits} signed bits, not {value}")

    def packed(self) -> int:
        """One memory word: c0 in the low bits, then c1, then c2, each in two's complement."""
        word = self.c0 & (2**C0_BITS - 1)
        word |= (self.c1 & (2**C1_BITS - 1)) << C0_BITS
        return word | (self.c2 & (2**C2_BITS - 1)) << (C0_BITS + C1_BITS)


ZERO_SEGMENT = Segment(c0=0, c1=0, c2=0)


def _to_fixed(value: Decimal, fraction_bits: int = FRACTION_BITS) -> int:
    return int((value * 2**fraction_bits).to_integral_value(rounding=ROUND_HALF_EVEN))


def _segment(function: Callable[[Decimal], Decimal], start: Decimal, width: Decimal,
             rounding: int) -> Segment:
    """Quadratic through both ends and the middle; `rounding` units are added to c0, so that truncation
    rounds."""
    first, middle, last = (function(start + width * step / 2) for step in range(3))
    return Segment(c0=_to_fixed(first) + rounding, c1=_to_fixed(4 * middle - 3 * first - last),
                   c2=_to_fixed(2 * first - 4 * middle + 2 * last))


def _exp2(exponent: Decimal) -> Decimal:
    return (exponent * Decimal(2).ln()).exp()


def _softplus2(t: Decimal) -> Decimal:
    return -(1 + _exp2(-t)).ln() / Decimal(2).ln()


@cache
def log2e() -> int:
    """log2(e) in units of 2**-32, rounded to nearest."""
    with localcontext(_CONTEXT):
        return _to_fixed(1 / Decimal(2).ln(), LOG2E_FRACTION_BITS)


@cache
def main_table() -> tuple[Segment, ...]:
    """512 segments: exp2 in entries 0..127, 2/m in 128..255, 2/sqrt(m) in 256..383 for m in [1, 2) and in
    384..511 for m in [2, 4). Truncating to 2**-23 rounds to nearest."""
    rounding = 1 << (FRACTION_BITS - 23 - 1)
    width = Decimal(1) / EXPONENT_ENTRIES
    with localcontext(_CONTEXT):
        indices = range(EXPONENT_ENTRIES)
        exp2 = [_segment(_exp2, i * width, width, rounding) for i in indices]
        reciprocal = [_segment(lambda m: 2 / m, 1 + i * width, width, rounding) for i in indices]
        rsqrt = [_segment(lambda m: 2 / m.sqrt(), scale * (1 + i * width), scale * width, rounding)
                 for scale in (1, 2) for i in indices]
    return (*exp2, *reciprocal, *rsqrt)


@cache
def softplus_table() -> tuple[Segment, ...]:
    """256 segments of -log2(1 + 2**-t); see the module docstring. Truncating to 2**-24 rounds to nearest."""
    rounding = 1 << (FRACTION_BITS - Y_FRACTION_BITS - 1)
    segments: list[Segment] = []
    with localcontext(_CONTEXT):
        for start, per_unit, count in ((0, 16, 128), (8, 8, 64), (16, 2, 32)):
            width = Decimal(1) / per_unit
            segments += [_segment(_softplus2, start + i * width, width, rounding) for i in range(count)]
    return (*segments, *[ZERO_SEGMENT] * (256 - len(segments)))
