"""All accesses of a program to DRAM as columns: where they are, and which of the other unit came before them.

DRAM is cut into zones, by the caller, so that an access is compared with those of its zones only. Only zones that some
instruction stores to need any order.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import ScaleLayout, Unit
from ..instructions import Instructions
from ..lib.strided import Strided
from .dram_streams import dram_streams

_END = 1 << 62
"""Behind every address."""

Spans = Mapping[tuple[int, int], tuple[int, int]]
"""First byte and end of what a stream can touch, by (instruction, number of the stream)."""


class DramAccesses:
    """cuts: sorted; zone z is from cut z to cut z + 1. spans: of streams whose rows the index memory chooses.

    unit: int64 (n,), each instruction's.
    zone: int64 (2, n), the zone in which a stream begins, -1 where an instruction has no such stream.
    end: int64 (2, n), first byte behind a stream (but for ``spans``, as `DramStream.region`); 0 where there is none.
    crossing: bool (n,), a stream reaches into more than one zone. ordered: bool (n,), one is in a zone with stores.
    newest: int64 (n,), the latest earlier instruction of the other unit that is in one of the stored zones of this one,
    -1 if there is none. awaited: bool (n,), a later instruction of the other unit is in one of them.
    """

    def __init__(self, instructions: Instructions, config: TileConfig, cuts: Sequence[int],
                 spans: Spans | None = None) -> None:
        count, forms = len(instructions), instructions.forms
        unit = self.unit = instructions.units
        first, last = np.full((2, count), -1, np.int64), np.full((2, count), -1, np.int64)
        self.end = np.zeros((2, count), np.int64)
        self._low, self._high = np.zeros((2, count), np.int64), np.zeros((2, count), np.int64)
        self._arrays: dict[tuple[int, int], NDArray[np.int64]] = {}
        streams = [dram_streams(form, config) if form.spec.unit <= Unit.STORE else () for form in forms]
        edges = np.array(cuts, np.int64)
        for number, addr in enumerate((instructions.dram_addr, instructions.scale_addr)):
            size = instructions.column(
                (s[number].region or s[number]).end if number < len(s) else 0 for s in streams)
            start, end = addr.copy(), addr + size
            for (index, stream), (low, high) in (spans or {}).items():
                if stream == number:
                    start[index], end[index] = low, high
            there = size > 0
            anywhere = instructions.column(number < len(s) and s[number].region is None for s in streams) > 0
            self._low[number] = np.where(anywhere, 0, addr)
            self._high[number] = np.where(anywhere, _END, np.where(there, addr + size, 0))
            first[number] = np.where(there, np.searchsorted(edges, start, "right") - 1, -1)
            last[number] = np.where(there, np.searchsorted(edges, end, "left") - 1, -1)
            self.end[number] = np.where(there, end, 0)
        self.zone = first
        self.crossing = (first != last).any(axis=0)
        self._members: dict[tuple[int, int], list[int]] = {}
        self._collect(unit, first, last)
        self.stored = frozenset(zone for side, zone in self._members if side == Unit.STORE)
        self._order(unit)

    def _collect(self, unit: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]) -> None:
        """Members: the instructions of a unit in a zone, in program order."""
        for side in (Unit.LOAD, Unit.STORE):
            own = np.flatnonzero(unit == side)
            zones = first[:, own]
            for zone in np.unique(zones[zones >= 0]).tolist():
                self._members[side, zone] = own[(zones == zone).any(axis=0)].tolist()
        for index in np.flatnonzero(self.crossing).tolist():
            for low, high in zip(first[:, index].tolist(), last[:, index].tolist(), strict=True):
                for zone in range(low + 1, high + 1):
                    members = self._members.setdefault((int(unit[index]), zone), [])
                    at = bisect_left(members, index)
                    if members[at:at + 1] != [index]:
                        members.insert(at, index)

    def _order(self, unit: NDArray[np.int64]) -> None:
        self.ordered = np.zeros(len(unit), np.bool_)
        self.newest, self.awaited = np.full(len(unit), -1, np.int64), np.zeros(len(unit), np.bool_)
        for side, zone in self._members:
            if zone not in self.stored:
                continue
            own = np.array(self._members[side, zone], np.int64)
            others = np.array([-1, *self._members.get((Unit.STORE - side, zone), ())], np.int64)
            self.ordered[own] = True
            self.awaited[own] |= own < others[-1]
            self.newest[own] = np.maximum(self.newest[own], others[np.searchsorted(others, own) - 1])

    def meeting(self, index: int, unit: int, zone: int, after: int, region: Strided, *,
                most: int | None = None) -> list[int]:
        """Those of `before` behind instruction ``after``, of the latest ``most``, whose first and last byte let them
        meet ``region``: all that do are among them."""
        members = self._arrays.get((unit, zone))
        if members is None:
            members = self._arrays[unit, zone] = np.array(self._members.get((unit, zone), ()), np.int64)
        begin, end = np.searchsorted(members, (after + 1, index)).tolist()
        window = members[max(begin, end - most if most is not None else 0):end]
        near = (self._low[:, window] < region.end) & (self._high[:, window] > region.addr)
        return window[near.any(axis=0)][::-1].tolist()

    def nth_before(self, index: int, unit: int, zone: int, count: int) -> int:
        """The instruction of `before` that ``count`` others come before, -1 if there is none."""
        members = self._members.get((unit, zone), [])
        at = bisect_left(members, index) - 1 - count
        return members[at] if at >= 0 else -1

    def before(self, index: int, unit: int, zone: int) -> Iterator[int]:
        """Instructions of ``unit`` before ``index`` in a zone, the latest first."""
        members = self._members.get((unit, zone), [])
        for at in range(bisect_left(members, index) - 1, -1, -1):
            yield members[at]


def packed_scales(instructions: Instructions) -> NDArray[np.bool_]:
    """bool (n,): STOREs and SCATTERs with scale bytes."""
    return instructions.column(form.spec.unit == Unit.STORE and form.scale != ScaleLayout.NONE
                               for form in instructions.forms).astype(np.bool_)
