"""Where tiles lie on chip: operand regions, accumulator regions, statistics.

Placement is static within a lowering. Regions start at bank boundaries, because a bank belongs to one unit at a
time: two tiles in one bank could not be worked on by two units. Ordering is not decided here; the builder
derives it from the banks that instructions touch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, DoesNotFit


@dataclass(frozen=True)
class AccRegion:
    """``rows`` accumulator rows from ``addr``; raw partials of them use the same rows of the upper planes."""

    addr: int
    rows: int


class AccPlacer:
    """Hands out accumulator regions, bank by bank.

    A raw region lies in the banks of plane 0 and reserves the partner banks of the other planes. Regions of several
    banks need banks that follow each other in address space without gaps, which excludes tiles whose bank is not
    as deep as its address field.
    """

    def __init__(self, config: TileConfig, purpose: str):
        self._config, self.purpose = config, purpose
        self._free = set(range(config.acc_banks))
        if config.acc_bank_rows != 1 << config.acc_offset_bits:
            raise DoesNotFit(f"{purpose}: the compiler needs accumulator banks of a power of two of rows, at least "
                             f"stat_bank_rows = {config.stat_bank_rows}; tile {config.name} has acc_bank_rows = "
                             f"{config.acc_bank_rows}")

    def take(self, rows: int, *, raw: bool = False, what: str = "tile") -> AccRegion:
        """A region of ``rows`` rows. Raises `CompileError` when there is no run of free banks."""
        config = self._config
        count = -(-rows // config.acc_bank_rows)
        planes = config.acc_planes if raw else 1
        limit = config.acc_plane_banks if raw else config.acc_banks
        # FP32 regions come from the top, so that plane 0 stays free for raw ones.
        starts = range(limit - count + 1) if raw else range(limit - count, -1, -1)
        for start in starts:
            banks = {start + i + p * config.acc_plane_banks for i in range(count) for p in range(planes)}
            if banks <= self._free:
                self._free -= banks
                return AccRegion(config.acc_addr(start), rows)
        raise DoesNotFit(f"{self.purpose}: no room for {what}: {rows} accumulator rows"
                         f"{' with raw partials' if raw else ''} need {count * planes} banks of "
                         f"{config.acc_bank_rows} rows; free banks: {sorted(self._free)}")


class StatPlacer:
    """Hands out statistics banks (one array of row scalars per bank)."""

    def __init__(self, config: TileConfig, purpose: str):
        self._config, self._purpose, self._next = config, purpose, 0

    def take(self, words: int, what: str) -> int:
        """Address of a bank with room for ``words`` words of ``cols`` scalars."""
        config = self._config
        if self._next >= config.stat_banks:
            raise DoesNotFit(f"{self._purpose}: no statistics bank left for {what}: "
                             f"the tile has stat_banks = {config.stat_banks}")
        if words > config.stat_bank_rows:
            raise DoesNotFit(f"{self._purpose}: {what} needs {words} words in a statistics bank, "
                             f"the tile has stat_bank_rows = {config.stat_bank_rows}")
        self._next += 1
        return config.acc_addr(config.acc_banks + self._next - 1)


class OperandPlacer:
    """Hands out regions of operand buffer A or B, in groups, each starting at a bank boundary."""

    def __init__(self, config: TileConfig, buffer: str, purpose: str):
        self._buffer, self._purpose = buffer, purpose
        self.bank_groups = config.a_bank_groups if buffer == "A" else config.b_bank_groups
        self.banks = config.a_banks if buffer == "A" else config.b_banks
        self._next = 0
        if self.bank_groups != 1 << (config.a_offset_bits if buffer == "A" else config.b_offset_bits):
            raise DoesNotFit(f"{purpose}: the compiler needs banks of a power of two of groups, at least 2, in "
                             f"buffer {buffer}, tile {config.name} has {self.bank_groups}")

    @property
    def free_groups(self) -> int:
        return (self.banks - self._next) * self.bank_groups

    def take(self, groups: int, what: str) -> int:
        """Address of a region of ``groups`` groups per slice."""
        count = -(-groups // self.bank_groups)
        if self._next + count > self.banks:
            raise DoesNotFit(f"{self._purpose}: no room for {what} in buffer {self._buffer}: {groups} groups "
                             f"per slice, {self.free_groups} free")
        self._next += count
        return (self._next - count) * self.bank_groups


def places_fit(config: TileConfig, purpose: str, takes: Iterable[tuple[int, bool]]) -> bool:
    """Can an `AccPlacer` hand out these regions, (rows, raw), in this order?"""
    placer = AccPlacer(config, purpose)
    try:
        for rows, raw in takes:
            placer.take(rows, raw=raw)
    except CompileError:
        return False
    return True


def align(value: int, step: int) -> int:
    """``value`` rounded up to a multiple of ``step``."""
    return -(-value // step) * step
