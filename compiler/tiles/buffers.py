"""Buffers: what a kernel needs on chip, and where it lies.

A kernel declares `Buffer`s, `place` gives them addresses, and `fits` says whether it can: the one place that knows what
fits, which lowerings and the choice of schedules both ask. Ordering in time is not decided here; the program builder
derives it from the banks that instructions touch.

*Apart*, every region starts at a bank, because a bank belongs to one unit at a time: two regions in one bank cannot be
worked on by two units. Buffers that are never alive together share banks. A region longer than a bank takes neighbours,
where their addresses follow each other: an address is a bank's number and an offset of whole bits, so banks whose depth
is no power of two have gaps between them. There a region lies in one bank, unless its parts are as far apart as `pitch`
says, so that none lies in a gap.

*Packed*, for memories that have too few banks for that, regions follow each other in a bank; units then take turns.
Only what one instruction reads together stays in banks of its own, since it reads each bank once. Statistics that find
no room in their banks lie in accumulator banks, and FP32 rows in those of statistics: to an instruction they are alike.

Rules of placement: buffers are placed as they are declared, all copies of one after another; in the accumulator buffer
raw ones from the bottom, since they need the banks of all planes, and FP32 ones from the top; in other memories from
the bottom. A buffer with a range of copies gets as many as fit beside the least of all others; those of lower ``rank``
choose first, then those declared first.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

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

PACKED_COPIES = 4
"""Copies of a packed buffer, unless it needs more: in one bank no two units can work on them."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Regions of one purpose.

    name: unique in its kernel; errors show it with ``keys``, those of the schedule (or words) that decide its size.
    sizes: of the parts of one copy, each a region of its own. least, most: copies. raw: holds raw partial accumulators,
    in all planes. alive: when, as names that the kernel chooses; empty for always. rank: see the module docstring.
    beside: buffers in ACC or STATISTICS that some instruction reads together with this one, itself if several copies
    are; None for all others of its memory. In A, B and INDEX an instruction uses one region. few: as ``least``, when
    packed; None for as many. pitched: no part of a region lies in a gap between banks, if it starts at a bank.
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
    beside: frozenset[str] | None = None
    few: int | None = None
    pitched: bool = False

    @property
    def what(self) -> str:
        return f"{self.name} ({self.keys})" if self.keys else self.name

    def at_least(self, copies: int) -> Buffer:
        """The same with so many copies at least."""
        return self if copies == self.least else replace(self, least=copies)

    def alive_with(self, other: Buffer) -> bool:
        return not (self.alive and other.alive) or not self.alive.isdisjoint(other.alive)

    def read_with(self, other: Buffer) -> bool:
        """Does some instruction read both?"""
        if self.memory not in (Memory.ACC, Memory.STATISTICS):
            return False
        return any((one.beside is not None and two.name in one.beside) or (one.beside is None and one.name != two.name)
                   for one, two in ((self, other), (other, self)))


def place(buffers: Sequence[Buffer], config: TileConfig, purpose: str, packed: bool = True) -> dict[str, list[int]]:
    """{name: addresses of its parts, copy by copy}: apart where there is room, else ``packed``, memory by memory.
    Raises `DoesNotFit` naming ``purpose`` and the buffer."""
    found: dict[str, list[int]] = {}
    for memories in _PORTS:
        parts = [part for memory in memories if (part := _part(buffers, memory, config))]
        if packed and not all(_placeable(own, _least(own), banks, _place) for own, banks in parts):
            own, banks = _few(buffers, memories, config)
            found |= _pack(own, _copies(own, banks, _pack), banks, purpose)
        else:
            for own, banks in parts:
                found |= _place(own, _copies(own, banks, _place), banks, purpose)
    return found


def fits(buffers: Sequence[Buffer], config: TileConfig, packed: bool = False) -> bool:
    """Can `place` place them apart; or ``packed``?"""
    for memories in _PORTS:
        parts = [part for memory in memories if (part := _part(buffers, memory, config))]
        if all(_placeable(own, _least(own), banks, _place) for own, banks in parts):
            continue
        if not packed:
            return False
        own, banks = _few(buffers, memories, config)
        if not _placeable(own, _least(own), banks, _pack):
            return False
    return True


def why_not(buffers: Sequence[Buffer], config: TileConfig, purpose: str) -> str:
    """For an error: what has no room, in a sentence that follows one about ``purpose``; empty where all fits."""
    try:
        place(buffers, config, purpose)
    except DoesNotFit as error:
        return f"; {str(error).removeprefix(f'{purpose}: ')}"
    return ""


def copies_that_fit(buffer: Buffer, config: TileConfig, packed: bool = False) -> int:
    """Copies of a buffer that fit when nothing else is placed, apart or ``packed``; 0 to its ``most``."""
    banks, place = _bank(buffer.memory, config), _pack if packed else _place
    return _largest(0, buffer.most, lambda copies: _placeable([buffer], [copies], banks, place))


_PORTS = ((Memory.A,), (Memory.B,), (Memory.ACC, Memory.STATISTICS), (Memory.INDEX,))
"""Memories that instructions address alike."""


def _part(buffers: Sequence[Buffer], memory: Memory, config: TileConfig) -> tuple[list[Buffer], _Banks] | None:
    """The buffers of a memory, and its banks; None without any."""
    own = [buffer for buffer in buffers if buffer.memory is memory]
    return (own, _bank(memory, config)) if own else None


def _least(buffers: list[Buffer]) -> list[int]:
    return [buffer.least for buffer in buffers]


def _few(buffers: Sequence[Buffer], memories: Sequence[Memory], config: TileConfig) -> tuple[list[Buffer], _Banks]:
    """The buffers of these memories as they are packed (`Buffer.few`, `PACKED_COPIES`), and the banks of all."""
    few = [replace(buffer, least=buffer.least if buffer.few is None else buffer.few)
           for memory in memories for buffer in buffers if buffer.memory is memory]
    return ([replace(buffer, most=min(buffer.most, max(buffer.least, PACKED_COPIES))) for buffer in few],
            _bank(memories[0], config))


@dataclass(frozen=True)
class _Banks:
    """The banks of a memory: how many, of which size, how far apart in address space (``step``); where regions of raw
    accumulators lie, in how many planes."""

    memory: Memory
    config: TileConfig
    count: int
    size: int
    step: int
    first: int = 0
    planes: int = 1

    def addr(self, number: int) -> int:
        """Address of a bank's first group, row, word or entry."""
        return (self.first + number) * self.step

    def depths(self, memory: Memory) -> list[tuple[int, int]]:
        """(number of a bank, its size) for packed buffers of a memory, in order of preference."""
        own = [(number, self.size) for number in range(self.count)]
        if self.memory is not Memory.ACC:
            return own
        shallow = [(self.count + number, self.config.stat_bank_rows) for number in range(self.config.stat_banks)]
        return shallow + own[::-1] if memory is Memory.STATISTICS else own[::-1] + shallow

    @property
    def gaps(self) -> bool:
        """Do addresses of neighbouring banks not follow each other?"""
        return self.size < self.step

    @property
    def raw_count(self) -> int:
        """Banks of a plane of raw accumulators."""
        return self.count // self.planes

    @property
    def unit(self) -> int:
        """Addresses that start a word of the memory are a multiple of this."""
        if self.memory is Memory.A:
            return self.config.a_word_bytes // self.config.lanes
        if self.memory is Memory.B:
            return self.config.b_word_bytes // self.config.lanes
        return self.config.bus_bytes // 4 if self.memory is Memory.INDEX else 1

    def masks(self, size: int, raw: bool, pitched: bool) -> Iterator[tuple[int, int]]:
        """(first bank, set of banks) of every place for ``size``, in order of preference."""
        count = -(-size // self.step)
        if size > self.size and self.gaps and not pitched:
            return
        limit = self.raw_count if raw else self.count
        starts = range(limit - count + 1)
        own = (1 << count) - 1
        if raw:
            own = sum(own << plane * limit for plane in range(self.planes))
        for start in starts if raw or self.memory is not Memory.ACC else reversed(starts):
            yield start, own << start


def _bank(memory: Memory, config: TileConfig) -> _Banks:
    """The banks of ``memory``."""
    if memory is Memory.INDEX:
        return _Banks(memory, config, config.index_entries, 1, 1)
    if memory is Memory.A:
        return _Banks(memory, config, config.a_banks, config.a_bank_groups, 1 << config.a_offset_bits)
    if memory is Memory.B:
        return _Banks(memory, config, config.b_banks, config.b_bank_groups, 1 << config.b_offset_bits)
    step = 1 << config.acc_offset_bits
    if memory is Memory.ACC:
        return _Banks(memory, config, config.acc_banks, config.acc_bank_rows, step, planes=config.acc_planes)
    return _Banks(memory, config, config.stat_banks, config.stat_bank_rows, step, first=config.acc_banks)


_Place = Callable[[list[Buffer], list[int], _Banks, str], dict[str, list[int]]]
"""`_place` or `_pack`. Without a purpose their error says nothing: who only asks reads none."""


def _copies(buffers: list[Buffer], banks: _Banks, place: _Place) -> list[int]:
    """How many of each: see the module docstring."""
    counts = [buffer.least for buffer in buffers]
    for index in sorted(range(len(buffers)), key=lambda i: buffers[i].rank):
        buffer = buffers[index]
        if buffer.most > buffer.least:
            def works(copies: int, index: int = index) -> bool:
                return _placeable(buffers, [*counts[:index], copies, *counts[index + 1:]], banks, place)
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


def _placeable(buffers: list[Buffer], counts: list[int], banks: _Banks, place: _Place) -> bool:
    try:
        place(buffers, counts, banks, "")
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
        places = {size: banks.masks(size, buffer.raw, buffer.pitched)  # what is refused once stays so
                  for size in buffer.sizes}
        for size in buffer.sizes * count:
            for start, mask in places[size]:
                if not mask & (busy | own):
                    own |= mask
                    found[buffer.name].append(banks.addr(start))
                    break
            else:
                raise DoesNotFit(_no_room(buffer, size, banks, busy | own, purpose) if purpose else "")
        taken.append((buffer, own))
    return found


class _Taken:
    """Spans of addresses that are taken, for one buffer: apart from each other, ascending."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        low, high = bisect_left(self.ends, start), bisect_right(self.starts, end)
        if low < high:
            start, end = min(start, self.starts[low]), max(end, self.ends[high - 1])
        self.starts[low:high], self.ends[low:high] = [start], [end]

    def meets(self, start: int, end: int) -> bool:
        """Is an address from ``start`` up to ``end`` taken?"""
        place = bisect_right(self.ends, start)
        return place < len(self.starts) and self.starts[place] < end


@dataclass(frozen=True)
class _Region:
    """Where a part of a packed buffer lies: first address and the one behind the last, in every plane."""

    buffer: Buffer
    spans: tuple[tuple[int, int], ...]


def _pack(buffers: list[Buffer], counts: list[int], banks: _Banks, purpose: str) -> dict[str, list[int]]:
    """Addresses of ``counts`` copies of each, one after another in the banks where they may be."""
    regions: list[_Region] = []
    ends: set[int] = set()
    found: dict[str, list[int]] = {buffer.name: [] for buffer in buffers}
    for buffer, count in zip(buffers, counts, strict=True):
        taken = _Taken()
        for region in regions:
            _take(taken, buffer, region, banks)
        for size in buffer.sizes * count:
            start = next((start for start in _candidates(buffer, size, banks, ends)
                          if not any(taken.meets(*span) for span in _spans(buffer, start, size, banks))), None)
            if start is None and not purpose:
                raise DoesNotFit("")
            if start is None:
                own = _bank(buffer.memory, banks.config)
                busy = {bank - own.first for other in regions if buffer.alive_with(other.buffer)
                        for start, end in other.spans for bank in range(start // own.step, -(-end // own.step))}
                raise DoesNotFit(_no_room(buffer, size, own, sum(1 << bank for bank in busy if bank >= 0), purpose))
            regions.append(_Region(buffer, _spans(buffer, start, size, banks)))
            ends.update(end for _, end in regions[-1].spans)
            _take(taken, buffer, regions[-1], banks)
            found[buffer.name].append(start)
    return found


def _spans(buffer: Buffer, start: int, size: int, banks: _Banks) -> tuple[tuple[int, int], ...]:
    starts = range(start, start + (banks.planes if buffer.raw else 1) * banks.raw_count * banks.step,
                   banks.raw_count * banks.step)
    return tuple((start, start + size) for start in starts)


def _take(taken: _Taken, buffer: Buffer, other: _Region, banks: _Banks) -> None:
    """What ``other`` takes from ``buffer``: whole banks, where an instruction reads both, and where statistics lie
    among accumulators."""
    if not buffer.alive_with(other.buffer):
        return
    alone = buffer.read_with(other.buffer) or buffer.memory is not other.buffer.memory
    unit = banks.step if alone else 1
    for start, end in other.spans:
        taken.add(start // unit * unit, align(end, unit))


def _candidates(buffer: Buffer, size: int, banks: _Banks, ends: set[int]) -> Iterator[int]:
    """Places at the start of a bank, and behind what is in it."""
    depths = banks.depths(buffer.memory)
    for bank, depth in depths if not buffer.raw else sorted(depths)[:banks.raw_count]:
        first, behind = bank * banks.step, bank * banks.step + depth
        end = behind if depth < banks.step or bank >= banks.count else (
            banks.raw_count if buffer.raw else banks.count) * banks.step
        starts = {first, *(first + align(other - first, banks.unit) for other in ends if first < other < behind)}
        if buffer.pitched and banks.gaps and size > depth and bank < banks.count:
            starts, end = {first}, (banks.raw_count if buffer.raw else banks.count) * banks.step
        yield from (start for start in sorted(starts) if start < behind and start + size <= end)


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


def pitch(memory: Memory, config: TileConfig, parts: int, size: int) -> int:
    """How far apart the parts of a region lie, ``size`` places each: side by side where they can; where they cross gaps
    between banks, the least power of two with which none lies in a gap."""
    banks = _bank(memory, config)
    if not banks.gaps or parts * size <= banks.size or size > banks.size:
        return size
    return next(step for step in (1 << power for power in range(banks.step.bit_length()))
                if step >= size and banks.step - step + size <= banks.size)


def align(value: int, step: int) -> int:
    """``value`` rounded up to a multiple of ``step``."""
    return -(-value // step) * step
