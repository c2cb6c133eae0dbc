"""When a tile is too small for a layer: the smallest change of one of its keys, or else of two, with which it fits.

Found by trying larger values of each buffer and bank key, least growth first, through the same compiler. The schedule
is tried first, because that is quick and rules out most; then the program is made in full, since a schedule by rule may
still find no room for a detail. Of two keys only doublings are tried, which are a tenth of all pairs.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ConfigError
from ..rtl.spec.tile_keys import KEYS

GROWING = ("a_buffer_bytes", "a_banks", "b_buffer_bytes", "b_banks", "acc_banks", "acc_bank_rows", "stat_banks",
           "stat_bank_rows", "index_entries")
"""Keys that decide whether a layer fits, in order of preference among equal growth."""

_STEPS = 4
"""Values just above the present one that are tried beside the doublings, of one key."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One key or two with larger values, and the tile with them."""

    values: Mapping[str, int]
    tile: TileConfig

    def __str__(self) -> str:
        return " and ".join(f"{key} = {value}" for key, value in self.values.items())


def smallest_change(config: TileConfig, schedules: Callable[[TileConfig], object],
                    compiles: Callable[[TileConfig], object]) -> Change | None:
    """The change of one key, or else of two, with the least growth (new value over old, multiplied) with which
    ``compiles`` raises no CompileError.

    schedules: a quick check that raises it whenever ``compiles`` would for want of a schedule. None: no such change
    within the range of the keys is enough.
    """
    for count in (1, 2):
        tried = [change for keys in itertools.combinations(GROWING, count) for change in _changes(config, keys)]
        tried.sort(key=lambda values: math.prod(value / getattr(config, key) for key, value in values.items()))
        for values in tried:  # sorting is stable: then by GROWING
            try:
                tile = dataclasses.replace(config, **values)
            except ConfigError:
                continue  # such as a buffer that does not divide into so many banks
            if _works(schedules, tile) and _works(compiles, tile):
                return Change(values=values, tile=tile)
    return None


def _changes(config: TileConfig, keys: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Larger values of all of these keys, ascending."""
    steps = _STEPS if len(keys) == 1 else 0
    larger = [_larger(getattr(config, key), KEYS[key].high, steps) for key in keys]
    yield from (dict(zip(keys, values, strict=True)) for values in itertools.product(*larger))


def _larger(value: int, high: int, steps: int) -> Iterator[int]:
    """The next values, so many, and the doublings up to ``high``, ascending."""
    doublings = {value << power for power in range(1, high.bit_length())}
    yield from sorted(v for v in {*range(value + 1, value + 1 + steps), *doublings} if v <= high)


def _works(attempt: Callable[[TileConfig], object], tile: TileConfig) -> bool:
    try:
        attempt(tile)
    except CompileError:
        return False
    return True
