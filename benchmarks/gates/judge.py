"""Runs that no table has seen: what a processing element does with the operands of a real layer, in format sets, on an
array and in programs that come after the tables.

The programs' sizes, tokens and weights follow from the constants of the tables themselves (`seed`), so that they cannot
have been there when these were made; figures keep the `frozen` constants that they judge, and a test says when tables
have been fitted anew since.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tilescore.benchmarks.gates import programs
from tilescore.rtl.spec.config import TileConfig
from tilescore.sim.energy import load_table
from tilescore.sim.program import Program

TABLES = ("7nm", "130nm")

CONSTANTS = ("pe_idle", "e4m3_bit", "e2m1_bit", "term_bit", "shadow_bit")
"""What a table says of the array, but for formats that no judge runs."""


def frozen() -> str:
    """A digest of the constants as they are now."""
    values = [load_table(table).at("value")[name] for table in TABLES for name in CONSTANTS]
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def seed(number: int) -> int:
    """Of program ``number``."""
    return int.from_bytes(hashlib.sha256(f"{frozen()} {number}".encode()).digest()[:4])


def program(config: TileConfig, number: int) -> Program:
    """An E4M3 product of random size on operands of a real layer."""
    rng = np.random.default_rng(seed(number))
    m, n, k = int(4 * rng.integers(1, 16)), int(8 * rng.integers(1, 8)), int(16 * rng.integers(2, 16))
    return programs.product_program(config, "e4m3", *programs.real_operands(m, n, k, seed(number)))
