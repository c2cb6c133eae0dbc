"""Buffers: what a kernel needs on chip, and where it lies.

A kernel declares `Buffer`s, `place` gives them addresses, and `fits` says whether it can: the one place that knows what
fits, which lowerings and the choice of schedules both ask. Every region starts at a bank, because a bank belongs to one
unit at a time: two tiles in one bank could not be worked on by two units. Buffers that are never alive together share
banks. Ordering in time is not decided here; the program builder derives it from the banks that instructions touch.

Rules of placement: buffers are placed as they are declared, all copies of one after another; in the accumulator buffer
raw ones from the bottom, since they need the banks of all planes, and FP32 ones from the top; in other memories from
the bottom. A buffer with a range of copies gets as many as fit beside the least of all others; those of lower ``rank``
choose first, then those declared first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import DoesNotFit


class Memory(enum.Enum):
    """A memory of the tile."""

    A = "A"
    """Sizes count groups per slice, as those of B."""
    B = "B"
    ACC = "accumulator"
    """Sizes count rows."""
    STATISTICS = "statistics"
    """Sizes count words, of ``cols`` row scalars or column values; a region lies in one bank."""
    INDEX = "index"
    """Sizes count entries."""


AS_MANY_AS_FIT = 1 << 20
"""For ``most``."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Regions of one purpose.

    name: unique in its kernel; errors show it with ``keys``, those of the schedule (or words) that decide its size.
    sizes: of the parts of one copy, each a region of its own. least, most: copies. raw: holds raw partial accumulators,
    in all planes. alive: when, as names that the kernel chooses; empty for always. rank: see the module docstring.
    """

    name: str
    memory: Memory
    sizes: tuple[int, ...]
    least: int = 1
    most: int = 1
    keys: str = ""
    raw: bool = False
    alive: frozenset[str] = frozenset()
    rank: int = 0

    @property
    def what(self) -> str:
        return f"{self.name} ({self.keys})" if self.keys else self.name

    def alive_with(self, other: Buffer) -> bool:
        return not (self.alive and other.alive) or not self.alive.isdisjoint(other.alive)


def place(buffers: Sequence[Buffer], config: TileConfig, purpose: str) -> dict[str, list[int]]:
    """{name: addresses of its parts, copy by copy}. Raises `DoesNotFit` naming ``purpose`` and the buffer."""
    found: dict[str, list[int]] = {}
    for memory in Memory:
        own = [buffer for buffer in buffers if buffer.memory is memory]
        if own:
            bank = _bank(memory, config, purpose)
            found |= _place(own, _copies(own, bank, purpose), bank, purpose)
    return found


def fits(buffers: Sequence[Buffer], config: TileConfig, purpose: str) -> bool:
    """Can `place` place them?"""
    try:
        for memory in Memory:
            own = [buffer for buffer in buffers if buffer.memory is memory]
            if own:
                _place(own, [buffer.least for buffer in own], _bank(memory, config, purpose), purpose)
    except DoesNotFit:
        return False
    return True


def copies_that_fit(buffer: Buffer, config: TileConfig, purpose: str) -> int:
    """Copies of a buffer that fit when nothing else is placed; 0 to its ``most``. Raises `DoesNotFit` naming
    ``purpose`` where the memory cannot hold regions of several banks."""
    bank = _bank(buffer.memory, config, purpose)
    return _largest(0, buffer.most, lambda copies: _placeable([buffer], [copies], bank))


@dataclass(frozen=True)
class _Banks:
    """The banks of a memory: how many, of which size, how their addresses and planes lie."""

    memory: Memory
    config: TileConfig
    count: int
    size: int
    planes: int = 1

    def addr(self, number: int) -> int:
        """Address of a bank's first group, row, word or entry."""
        if self.memory is Memory.ACC:
            return self.config.acc_addr(number)
        if self.memory is Memory.STATISTICS:
            return self.config.acc_addr(self.config.acc_banks + number)
        return number * self.size

    def masks(self, size: int, raw: bool) -> Iterator[tuple[int, int]]:
        """(first bank, set of banks) of every place for ``size``, in order of preference."""
        count = -(-size // self.size)
        if self.memory is Memory.STATISTICS and count > 1:
            return
        limit = self.count // self.planes if raw else self.count
        starts = range(limit - count + 1)
        own = (1 << count) - 1
        if raw:
            own = sum(own << plane * limit for plane in range(self.planes))
        for start in starts if raw or self.memory is not Memory.ACC else reversed(starts):
            yield start, own << start


def _bank(memory: Memory, config: TileConfig, purpose: str) -> _Banks:
    """The banks of ``memory``. Raises `DoesNotFit` where regions of several would have gaps in their addresses."""
    if memory is Memory.ACC:
        if config.acc_bank_rows != 1 << config.acc_offset_bits:
            raise DoesNotFit(f"{purpose}: the compiler needs accumulator banks of a power of two of rows, at least "
                             f"stat_bank_rows = {config.stat_bank_rows}; tile {config.name} has acc_bank_rows = "
                             f"{config.acc_bank_rows}")
        return _Banks(memory, config, config.acc_banks, config.acc_bank_rows, config.acc_planes)
    if memory is Memory.STATISTICS:
        return _Banks(memory, config, config.stat_banks, config.stat_bank_rows)
    if memory is Memory.INDEX:
        return _Banks(memory, config, config.index_entries, 1)
    groups, bits = ((config.a_bank_groups, config.a_offset_bits) if memory is Memory.A else
                    (config.b_bank_groups, config.b_offset_bits))
    if groups != 1 << bits:
        raise DoesNotFit(f"{purpose}: the compiler needs banks of a power of two of groups, at least 2, in buffer "
                         f"{memory.name}, tile {config.name} has {groups}")
    return _Banks(memory, config, config.a_banks if memory is Memory.A else config.b_banks, groups)


def _copies(buffers: list[Buffer], banks: _Banks, purpose: str) -> list[int]:
    """How many of each: see the module docstring."""
    counts = [buffer.least for buffer in buffers]
    for index in sorted(range(len(buffers)), key=lambda i: buffers[i].rank):
        buffer = buffers[index]
        if buffer.most > buffer.least:
            def works(copies: int, index: int = index) -> bool:
                return _placeable(buffers, [*counts[:index], copies, *counts[index + 1:]], banks)
            counts[index] = max(buffer.least, _largest(buffer.least, buffer.most, works))
    return counts


def _largest(low: int, high: int, works: Callable[[int], bool]) -> int:
    """The largest number from ``low`` to ``high`` that works, ``low`` if none does; all below it work too."""
    step = 1
    while low < high and works(min(low + step, high)):
        low, step = min(low + step, high), 2 * step
    high = min(high, low + step - 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low


def _placeable(buffers: list[Buffer], counts: list[int], banks: _Banks) -> bool:
    try:
        _place(buffers, counts, banks, "")
    except DoesNotFit:
        return False
    return True


def _place(buffers: list[Buffer], counts: list[int], banks: _Banks, purpose: str) -> dict[str, list[int]]:
    """Addresses of ``counts`` copies of each."""
    taken: list[tuple[Buffer, int]] = []
    found: dict[str, list[int]] = {buffer.name: [] for buffer in buffers}
    for buffer, count in zip(buffers, counts, strict=True):
        busy = 0
        for other, used in taken:
            if buffer.alive_with(other):
                busy |= used
        own = 0
        places = {size: banks.masks(size, buffer.raw) for size in buffer.sizes}  # what is refused once stays so
        for size in buffer.sizes * count:
            for start, mask in places[size]:
                if not mask & (busy | own):
                    own |= mask
                    found[buffer.name].append(banks.addr(start))
                    break
            else:
                raise DoesNotFit(_no_room(buffer, size, banks, busy | own, purpose))
        taken.append((buffer, own))
    return found


def _no_room(buffer: Buffer, size: int, banks: _Banks, busy: int, purpose: str) -> str:
    config, what = banks.config, buffer.what
    free = [number for number in range(banks.count) if not busy >> number & 1]
    if banks.memory is Memory.ACC:
        planes = banks.planes if buffer.raw else 1
        return (f"{purpose}: no room for {what}: {size} accumulator rows{' with raw partials' if buffer.raw else ''} "
                f"need {-(-size // banks.size) * planes} banks of {banks.size} rows; free banks: {free}")
    if banks.memory is Memory.INDEX:
        return (f"{purpose}: no room for {what}: {size} indices, {len(free)} entries free of index_entries = "
                f"{config.index_entries}")
    if banks.memory is not Memory.STATISTICS:
        return (f"{purpose}: no room for {what} in buffer {banks.memory.name}: {size} groups per slice, "
                f"{len(free) * banks.size} free")
    if size > banks.size:
        return (f"{purpose}: {what} needs {size} words in a statistics bank, the tile has stat_bank_rows = "
                f"{banks.size}")
    return f"{purpose}: no statistics bank left for {what}: the tile has stat_banks = {config.stat_banks}"


def align(value: int, step: int) -> int:
    """``value`` rounded up to a multiple of ``step``."""
    return -(-value // step) * step
