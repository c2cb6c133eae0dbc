"""Instructions with legal values in the fields that a test does not name: four rows of 16 bytes, one column tile."""

from __future__ import annotations

from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.isa import Gather, Load, Matmul, Scatter, Space, Store, Vector

ONE = fp32_bits(1.0)
_ROWS = {"rows": 4, "row_bytes": 16, "row_stride": 16}


def load(**fields: int) -> Load:
    return Load(**{"space": Space.A, **_ROWS, **fields})


def gather(**fields: int) -> Gather:
    return Gather(**{"space": Space.A, **_ROWS, **fields})


def store(**fields: int) -> Store:
    return Store(**{"space": Space.ACC, **_ROWS, **fields})


def scatter(**fields: int) -> Scatter:
    return Scatter(**{"space": Space.ACC, **_ROWS, **fields})


def matmul(**fields: int) -> Matmul:
    return Matmul(**{"k_steps": 2, "m_rows": 4, "n_tiles": 1, **fields})


def vector(**fields: int) -> Vector:
    return Vector(**{"rows": 4, "tiles": 1, "y": ONE, "w": ONE, **fields})
