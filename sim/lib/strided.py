"""Strided sets of addresses, and the exact test whether two of them meet.
 One type serves DRAM bytes, buffer groups, accumulator rows and index entries, because an instruction touches
each of them as equal blocks at equal distances.
"""

from typing import NamedTuple

_MAX_BLOCKS = 256
"""Blocks that are compared one by one when two sets have different pitches."""


class Strided(NamedTuple):
    """``blocks`` blocks of ``length`` consecutive addresses from ``addr``, their starts ``pitch`` apart."""

    addr: int
    length: int
    pitch: int = 0
    blocks: int = 1

    @property
    def end(self) -> int:
        """First address after the last block."""
        return self.addr + (self.blocks - 1) * self.pitch + self.length

    def simplified(self) -> "Strided":
        """The same set as one block, when its blocks touch or coincide."""
        if self.blocks == 1 or self.pitch <= self.length:
            return Strided(self.addr, self.end - self.addr)
        return self


def overlaps(p: Strided, q: Strided) -> bool:
    """Whether the sets share an address.

    Exact for equal pitches, for sets of one block, and up to 256 blocks; above that the answer may be a
    conservative True when the two spans overlap.
    """
    if p.addr >= q.end or q.addr >= p.end:
        return False
    p, q = p.simplified(), q.simplified()
    if p.blocks == 1 and q.blocks == 1:
        return True
    if p.blocks == 1 or q.blocks == 1 or p.pitch == q.pitch:
        pitch = max(p.pitch, q.pitch)
        # Blocks i of p and j of q meet when q.addr - p.addr - p.length < (i - j) * pitch < q.addr - p.addr + q.length.
        distance = q.addr - p.addr
        step = max((distance - p.length) // pitch + 1, 1 - q.blocks)
        return step <= p.blocks - 1 and step * pitch < distance + q.length
    few, many = (p, q) if p.blocks <= q.blocks else (q, p)
    if few.blocks > _MAX_BLOCKS:
        return True
    return any(overlaps(Strided(few.addr + i * few.pitch, few.length), many) for i in range(few.blocks))
