"""When a tile is too small for a layer: the smallest change of one of its keys with which the layer fits.

Found by trying larger values of each buffer and bank key, least growth first, through the same compiler. The schedule
is tried first, because that is quick and rules out most; then the program is made in full, since a schedule by rule may
still find no room for a detail.
"""

import dataclasses
from collections.abc import Callable, Iterator

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ConfigError
from ..rtl.spec.tile_keys import KEYS

GROWING = ("a_buffer_bytes", "a_banks", "b_buffer_bytes", "b_banks", "acc_banks", "acc_bank_rows", "stat_banks",
           "stat_bank_rows", "index_entries")
"""Keys that decide whether a layer fits, in order of preference among equal growth."""

_STEPS = 4
"""Values just above the present one that are tried beside the doublings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One key with a larger value, and the tile with it."""

    key: str
    value: int
    tile: TileConfig

    def __str__(self) -> str:
        return f"{self.key} = {self.value}"


def smallest_change(config: TileConfig, schedules: Callable[[TileConfig], object],
                    compiles: Callable[[TileConfig], object]) -> Change | None:
    """The change of one key with the least growth (new value over old) with which ``compiles`` raises no CompileError.

    schedules: a quick check that raises it whenever ``compiles`` would for want of a schedule. None: no single change
    within the range of the key is enough.
    """
    changes = [change for key in GROWING for change in _changes(config, key)]
    growth = {change: change.value / getattr(config, change.key) for change in changes}
    for change in sorted(changes, key=growth.__getitem__):  # stable: then by GROWING
        if _works(schedules, change.tile) and _works(compiles, change.tile):
            return change
    return None


def _changes(config: TileConfig, key: str) -> Iterator[Change]:
    """Tiles with a larger ``key``, ascending; values with which there is no tile are left out."""
    for value in _larger(getattr(config, key), KEYS[key].high):
        try:
            tile = dataclasses.replace(config, **{key: value})
        except ConfigError:
            continue  # such as a buffer that does not divide into so many banks
        yield Change(key=key, value=value, tile=tile)


def _larger(value: int, high: int) -> Iterator[int]:
    """The next values and the doublings up to ``high``, ascending."""
    doublings = {value << power for power in range(1, high.bit_length())}
    yield from sorted(v for v in {*range(value + 1, value + 1 + _STEPS), *doublings} if v <= high)


def _works(attempt: Callable[[TileConfig], object], tile: TileConfig) -> bool:
    try:
        attempt(tile)
    except CompileError:
        return False
    return True
