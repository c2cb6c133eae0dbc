"""Hazards between two instructions of the same unit, which is in order but a pipeline.

A later instruction's first accesses can come before an earlier one's last. What the construction of the units
makes safe is left out here; what remains needs distance in time, either a token that the unit gives itself or
enough occupancy between the two issues:

VECTOR (addresses of x and y are read first, z later, w later still; then the destination is written, then the
reduction):

* reads what the earlier one wrote: its wr token; but when it walks the earlier destination in the same order,
  element by element, only the depth of the pipe (``CHAIN``);
* writes its destination to a bank to which the earlier reduction may still write: wr;
* reads x or y from the bank of an earlier z or w, or z from the bank of an earlier w: rd, because the two
  reads could meet at the bank's port.

MATMUL (a result row is read, merged and written in one pass; the row maximum follows ``cols`` cycles later):

* merges rows that the earlier one wrote: wr, unless they are raw and keep their position in their panel: then
  they are at least ``rows`` cycles apart, and the drain forwards them;
* uses the earlier one's row maximum bank for results, or its result banks for the maximum: wr;
* keeps a row maximum in rows that overlap the earlier one's, at another address: wr.

LOAD: a GATHER reads indices that an earlier LOAD wrote: wr.
"""

import enum

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import Space
from ..lib.strided import overlaps
from .accesses import Access, Accesses


class Hazard(enum.IntFlag):
    """What the later instruction must keep away from."""

    NONE = 0
    RD = 1
    """Issue after the earlier one's rd token."""
    WR = 2
    """Issue after the earlier one's wr token."""
    CHAIN = 4
    """Issue more than the earlier one's wr - occupancy cycles after its issue."""


_READ_STAGE = {"x_addr": 0, "y": 0, "z": 1, "w": 2}


class PipelineHazards:
    """`Hazard` of a pair of shapes of the same unit; answers are kept per pair."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self._known: dict[tuple[int, int], Hazard] = {}

    def between(self, earlier: Accesses, later: Accesses) -> Hazard:
        """Both must come from one `AccessTable`, and be of the same unit."""
        key = (earlier.serial, later.serial)
        found = self._known.get(key)
        if found is None:
            if later.name == "VECTOR":
                found = _vector_hazard(earlier, later)
            elif later.name == "MATMUL":
                found = _matmul_hazard(earlier, later, self.config.rows)
            else:
                found = _index_hazard(earlier, later)
            self._known[key] = found
        return found


def _vector_hazard(earlier: Accesses, later: Accesses) -> Hazard:
    hazard = Hazard.NONE
    for read in later.reads:
        for old in earlier.reads:
            if old.banks & read.banks and _READ_STAGE[old.role] > _READ_STAGE[read.role]:
                hazard |= Hazard.RD
        for write in earlier.writes:
            if write.space == Space.ACC and write.banks & read.banks and overlaps(write.run, read.run):
                hazard |= Hazard.CHAIN if _same_walk(write, read) else Hazard.WR
    for write in later.writes:
        for old in earlier.writes:
            if write.role == "dst_addr" and old.role == "reduce_addr" and write.banks & old.banks:
                hazard |= Hazard.WR
    return hazard


def _same_walk(write: Access, read: Access) -> bool:
    """Whether element e of both is at the same address, for every e that the shorter one has."""
    p, q = write.run, read.run
    return (write.elementwise and read.elementwise and (p.addr, p.blocks, p.pitch) == (q.addr, q.blocks, q.pitch))


def _matmul_hazard(earlier: Accesses, later: Accesses, rows: int) -> Hazard:
    raw = sum(old.role == "acc_addr" for old in earlier.writes) > 1
    for new, old in ((n, o) for n in later.reads + later.writes for o in earlier.reads + earlier.writes):
        if new.space != Space.ACC or not new.banks & old.banks:
            continue
        if new.role != old.role:
            return Hazard.WR
        if new.role == "rowmax_addr":
            if new.run.addr != old.run.addr and overlaps(new.run, old.run):
                return Hazard.WR
        elif (new in later.reads and old in earlier.writes and overlaps(new.run, old.run)
              and not (raw and _same_position(new, old, rows))):
            return Hazard.WR
    return Hazard.NONE


def _same_position(p: Access, q: Access, rows: int) -> bool:
    """Whether a row that both have is in the same place of its panel."""
    if p.run.addr == q.run.addr and (p.run.pitch == q.run.pitch or p.run.blocks == q.run.blocks == 1):
        return True
    return (p.run.addr - q.run.addr) % rows == 0 and p.run.pitch % rows == 0 and q.run.pitch % rows == 0


def _index_hazard(earlier: Accesses, later: Accesses) -> Hazard:
    written, read = earlier.index_write, later.index_read
    if written is not None and read is not None and overlaps(written, read):
        return Hazard.WR
    return Hazard.NONE
