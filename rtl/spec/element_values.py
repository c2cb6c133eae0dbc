"""What the codes of the element formats mean, as table look-ups for numpy: the twin of `rtl/arith/decode.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import E4M3, ELEMENTS, FormatSpec

Decoded = tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]
"""Arrays of sign, significand, shift and NaN flag."""


def _decode_tables(spec: FormatSpec) -> Decoded:
    codes = np.arange(2**spec.bits)
    mantissa = codes & (2**spec.mantissa_bits - 1)
    exponent = (codes >> spec.mantissa_bits) & (2**spec.exponent_bits - 1)
    normal = exponent > 0
    nan = np.isin(codes, spec.nan_codes)
    sign = (codes >> (spec.bits - 1)).astype(bool) if spec.signed else np.zeros(codes.shape, bool)
    significand = (mantissa | (normal.astype(np.int64) << spec.mantissa_bits)).astype(np.uint8)
    return sign, significand, (exponent - normal).astype(np.uint8), nan


_TABLES = {spec.name: _decode_tables(spec) for spec in ELEMENTS}


def infinite_codes(spec: FormatSpec) -> NDArray[np.bool_]:
    """Which of the 2**bits codes are infinities."""
    codes = np.arange(2**spec.bits)
    ones = (codes >> spec.mantissa_bits) & (2**spec.exponent_bits - 1) == 2**spec.exponent_bits - 1
    return ones & ~np.isin(codes, spec.nan_codes) if spec.has_infinity else np.zeros(codes.shape, bool)


def integers_of(spec: FormatSpec) -> NDArray[np.int64]:
    """Value of every code in units of 2**lsb_exponent; 0 for NaN and infinities."""
    sign, significand, shift, nan = _TABLES[spec.name]
    magnitude = np.where(nan | infinite_codes(spec), 0, significand.astype(np.int64) << shift)
    return np.where(sign, -magnitude, magnitude)


def _values(spec: FormatSpec) -> NDArray[np.float64]:
    sign, significand, shift, nan = _TABLES[spec.name]
    magnitude = np.ldexp(significand.astype(np.float64), shift.astype(np.int64) + spec.lsb_exponent)
    magnitude = np.where(infinite_codes(spec), np.inf, magnitude)
    return np.where(nan, np.nan, np.where(sign, -magnitude, magnitude))


_VALUES = {spec.name: _values(spec) for spec in ELEMENTS}


def _index(codes: Any, spec: FormatSpec) -> NDArray[np.uint8]:
    array = np.asarray(codes)
    if array.dtype != np.uint8:
        raise TypeError(f"{spec.name.upper()} codes must be an array of uint8, not {array.dtype}")
    return array & np.uint8(2**spec.bits - 1) if spec.bits < 8 else array


def decode(codes: NDArray[np.uint8], spec: FormatSpec) -> Decoded:
    """Split codes of E4M3, E5M2 or E2M1 (any shape, one per byte) into (sign, significand, shift, nan).

    The significand and shift of a NaN or infinity are what its bits say; a user of the value must look at
    ``nan`` and `infinite_codes`. Raises TypeError unless the codes are uint8.
    """
    index = _index(codes, spec)
    sign, significand, shift, nan = _TABLES[spec.name]
    return sign[index], significand[index], shift[index], nan[index]


def decode_float(codes: NDArray[np.uint8], spec: FormatSpec) -> NDArray[np.float64]:
    """Exact value of codes of E4M3, E5M2 or E2M1, one per byte; NaN codes give NaN, a negative zero -0.0."""
    return _VALUES[spec.name][_index(codes, spec)]


def decode_e4m3(codes: NDArray[np.uint8]) -> Decoded:
    """`decode` of E4M3: (sign, significand 0..15, shift 0..14, nan)."""
    return decode(codes, E4M3)


def decode_e4m3_float(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`decode_float` of E4M3."""
    return decode_float(codes, E4M3)
