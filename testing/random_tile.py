"""Random tiles: `TileConfig`s that differ in every key, for tests of what must work on any tile.

Every key is drawn over its own range (`tile_keys.KEYS`), within the relations that `TileConfig` checks: powers of two
by their exponents, other counts and depths so that each order of magnitude is as likely, few of them powers of two. So
most tiles are unlike any that a person would draw: many banks of a few groups, one of thousands, a bus wider than the
array, fewer statistics than rows.
"""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from ..rtl.spec.config import TileConfig, least_acc_bits
from ..rtl.spec.errors import ConfigError
from ..rtl.spec.formats import BUILD_NAMES, PAIRS, SCALE_NAMES, SCALE_PAIRS, fits_dsp
from ..rtl.spec.tile_keys import KEYS, plain

ATTEMPTS = 2_000
"""Draws until one is accepted."""

_PAGE_BYTES = 4096
_T = TypeVar("_T")


def large_enough(tile: TileConfig) -> bool:
    """Is a tile above the size from which at least 95 % of such tiles compile a layer at once (docs/tile.md)?

    A slice of A and of B holds 1 KiB, in banks of at least 256 bytes; there are as many accumulator banks as two
    regions of raw accumulators need, of at least 16 rows.
    """
    a, b = tile.a_buffer_bytes // tile.rows, tile.b_buffer_bytes // tile.cols
    return (min(a, b) >= 1024 and min(a // tile.a_banks, b // tile.b_banks) >= 256
            and tile.acc_banks >= 2 * tile.acc_planes and tile.acc_bank_rows >= 16)


def random_tile(seed: int, *, accept: Callable[[TileConfig], bool] = lambda tile: True,
                build: Sequence[str] = ("e4m3",), most_bytes: int = 1 << 20) -> TileConfig:
    """The tile ``random SEED``: the first that validates and that ``accept`` takes; the same for the same arguments.

    build: element formats that it has in any case, others at random. most_bytes: of an operand buffer, since the
    simulators hold a tile's memories. Raises `ValueError` after `ATTEMPTS` draws without a tile.
    """
    rng = np.random.default_rng(seed)
    for _ in range(ATTEMPTS):
        try:
            tile = TileConfig(**_Draw(rng, build, most_bytes).values(f"random {seed}"))
        except ConfigError:
            continue  # an address that is too wide, as a rule
        if accept(tile):
            return tile
    raise ValueError(f"accept: expected at least one of {ATTEMPTS} random tiles to be taken, got none")


@dataclasses.dataclass(frozen=True)
class _Draw:
    """One attempt."""

    rng: np.random.Generator
    build: Sequence[str]
    most_bytes: int

    def values(self, name: str) -> dict:
        """Arguments of a `TileConfig`, which may refuse them for their addresses' width."""
        formats, scales = self._formats()
        rows, cols = self._power("rows"), self._power("cols")
        lanes = 8 if scales else self._power("lanes", high=4 * cols)
        bus = self._power("bus_bytes", low=lanes, high=4 * cols)
        acc_bits = self._pick([bits for bits in KEYS["acc_bits"].choices if bits >= least_acc_bits(formats)])
        planes = -(-acc_bits // 32)
        a_banks, b_banks = self._count("a_banks"), self._count("b_banks")
        return {
            "name": name, "rows": rows, "cols": cols, "lanes": lanes, "acc_bits": acc_bits, "formats": formats,
            "scales": scales, "multiplier": self._pick(
                [kind for kind in KEYS["multiplier"].choices if kind == "fabric" or all(map(fits_dsp, formats))]),
            "a_buffer_bytes": self._buffer("a_buffer_bytes", rows * a_banks * max(bus, cols)), "a_banks": a_banks,
            "b_buffer_bytes": self._buffer("b_buffer_bytes", cols * b_banks * bus), "b_banks": b_banks,
            "acc_banks": self._count("acc_banks", unit=planes), "bus_bytes": bus,
            "index_entries": self._count("index_entries", unit=bus // 4),
            "imem_page": self._power("imem_page"), "max_burst": self._power("max_burst", high=_PAGE_BYTES // bus),
            "counters": self._pick(KEYS["counters"].choices), "clock_mhz": float(self.rng.integers(10, 2000)),
            **{key: self._count(key) for key in (
                "acc_bank_rows", "stat_banks", "stat_bank_rows", "queue_depth", "dram_latency", "dma_outstanding",
                "max_outstanding", "recorder_depth")},
            "dram_bytes_per_cycle": self._pick((0, plain(Fraction(int(self.rng.integers(7, 7 * bus + 1)), 7)))),
            "dram_shared": self._pick((False, True))}

    def _formats(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Element formats, and block scales that they can have."""
        formats = [name for name in BUILD_NAMES if name in self.build or self.rng.random() < 0.25]
        usable = [SCALE_NAMES[scale] for scale, pairs in SCALE_PAIRS.items()
                  if {PAIRS[pair].build_name for pair in pairs} & set(formats)]
        return tuple(formats), tuple(name for name in usable if self.rng.random() < 0.25)

    def _pick(self, choices: Sequence[_T]) -> _T:
        return choices[int(self.rng.integers(len(choices)))]

    def _power(self, key: str, *, low: int = 0, high: int = 1 << 30) -> int:
        """A power of two within the key's range and these limits."""
        low, high = max(KEYS[key].low, low), min(KEYS[key].high, high)
        return 1 << int(self.rng.integers(low.bit_length() - 1, high.bit_length()))

    def _count(self, key: str, *, unit: int = 1) -> int:
        """A multiple of ``unit`` in the key's range, of any order of magnitude alike."""
        low, high = -(-KEYS[key].low // unit), KEYS[key].high // unit
        return unit * self._order(low, high)

    def _order(self, low: int, high: int) -> int:
        """An integer of ``low`` to ``high`` whose logarithm is uniform."""
        return min(high, int(np.exp(self.rng.uniform(np.log(low + 1), np.log(high + 2)))) - 1)

    def _buffer(self, key: str, unit: int) -> int:
        """Bytes of a buffer: some words per bank, of ``unit`` bytes in all."""
        return unit * self._order(1, max(1, min(KEYS[key].high, self.most_bytes) // unit))
