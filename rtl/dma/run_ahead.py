"""How far ahead a DMA unit's addresses are consecutive, so that a bus master knows a burst's length at its first beat.

The alternative, a master that watches the addresses and closes a burst when the next one does not follow, must wait
for a beat that may come late or never: its latency depends on what follows. With the count beside each request the
latency is constant.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig
from .address import EXTENT

MORE_BITS = 8
"""Enough for the longest AXI burst, 256 beats."""

_CLIP = 15
"""Rows and beats count as at most this many in the product, which stays a 4 x 4-bit one."""


class RunAhead(wiring.Component):
    """A lower bound, at most 255, of the beats that follow the next one at consecutive addresses.

    Exact within a row. When rows touch each other in DRAM, later rows count too: the bound is then at least
    min(15, the true number), and exact or 255 for rows that do not touch.

    Members
    -------
    extent : In(EXTENT), stride : In(32), indexed : In(1)
        Of the instruction; `indexed` rows never count as touching.
    beats_left, rows_left : In
        Beats of this row after the next one, rows after this one, from `BeatCounter`.
    more : Out(8)
        Combinational.
    """

    extent: data.View
    stride: Signal
    indexed: Signal
    beats_left: Signal
    rows_left: Signal
    more: Signal

    def __init__(self, config: TileConfig) -> None:
        self.bus_bits = config.bus_bytes.bit_length() - 1
        super().__init__({
            "extent": In(EXTENT), "stride": In(32), "indexed": In(1), "beats_left": In(20 - self.bus_bits),
            "rows_left": In(16), "more": Out(MORE_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row_beats = Signal(21 - self.bus_bits)
        touching = Signal()
        beats = Signal(range(_CLIP + 1))
        rows = Signal(range(_CLIP + 1))
        later = Signal(2 * MORE_BITS)
        total = Signal(22 - self.bus_bits)
        m.d.comb += [
            row_beats.eq(self.extent.last_byte[self.bus_bits:] + 1),
            touching.eq(~self.indexed & (self.stride == row_beats << self.bus_bits)),
            beats.eq(Mux(row_beats > _CLIP, _CLIP, row_beats)),
            rows.eq(Mux(self.rows_left > _CLIP, _CLIP, self.rows_left)),
            later.eq(Mux(touching, beats * rows, 0)),
            total.eq(self.beats_left + later),
            self.more.eq(Mux(total >> MORE_BITS != 0, (1 << MORE_BITS) - 1, total)),
        ]
        return m


def burst_length(address: Value, more: Value, config: TileConfig) -> Value:
    """Length code (beats - 1) of the burst that begins with the request of ``address`` and ``more``.

    Bursts end at the latest before a multiple of `TileConfig.max_burst` beats.
    """
    bus_bits, burst_bits = config.bus_bytes.bit_length() - 1, config.max_burst.bit_length() - 1
    to_boundary = (~address[bus_bits:bus_bits + burst_bits])[:burst_bits] if burst_bits else Const(0, 1)
    return Mux(more < to_boundary, more, to_boundary)
