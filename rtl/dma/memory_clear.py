"""Clears every memory of the tile: zeros through the load unit's write ports, all memories at the same time.

Memories keep their content through a reset. What a program that was not verified reads without having written it is
data of an earlier program; between programs of different owners the host can have it cleared. One counter addresses
all memories, each by its low bits, so small ones are written several times: that saves a comparison per memory, and
the sweep takes as long as the largest one. Clearing at reset was rejected: the first program would wait for it
although nothing it reads is old, as the verifier shows.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..spec.config import TileConfig
from ..spec.isa import INSTRUCTION_BYTES
from .load_unit import acc_write_signature, beat_write_signature, operand_write_signature


def clear_bits(config: TileConfig) -> dict[str, int]:
    """Address bits of each memory, counted in bus beats of one slice, row or word; the sweep takes 2**(most) cycles."""
    bus = config.bus_bytes
    beat = ceil_log2(bus // config.lanes)
    return {"a": config.a_addr_bits - beat + ceil_log2(config.rows),
            "b": config.b_addr_bits - beat + ceil_log2(config.cols),
            "acc": config.acc_addr_bits + ceil_log2(4 * config.cols // bus),
            "indices": ceil_log2(-(-4 * config.index_entries // bus)),
            "program": ceil_log2(2 * config.imem_page * INSTRUCTION_BYTES // bus)}


class MemoryClear(wiring.Component):
    """Members
    -------
    clear : In(1)
        Sweep while high; low in between. The units must be idle.
    cleared : Out(1)
        High in the sweep's last cycle.
    a, b, acc, indices, program : Out
        As the outputs of the same name of `LoadUnit`, for the cycles in which `clear` is high.
    """

    clear: Signal
    cleared: Signal
    a: Any
    b: Any
    acc: Any
    indices: Any
    program: Any

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        beats = beat_write_signature(config)
        super().__init__({
            "clear": In(1), "cleared": Out(1), "a": Out(operand_write_signature(config, config.a_addr_bits)),
            "b": Out(operand_write_signature(config, config.b_addr_bits)), "acc": Out(acc_write_signature(config)),
            "indices": Out(beats), "program": Out(beats)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, bits = self.config, clear_bits(self.config)
        count = Signal(max(bits.values()))
        m.d.sync += count.eq(0)
        with m.If(self.clear):
            m.d.sync += count.eq(count + 1)
        m.d.comb += self.cleared.eq(self.clear & count.all())
        for name in bits:
            port = getattr(self, name)
            m.d.comb += [port.valid.eq(self.clear), port.mask.eq(~Const(0, len(port.mask)))]
        beat = ceil_log2(config.bus_bytes // config.lanes)
        for port, addr_bits in ((self.a, config.a_addr_bits), (self.b, config.b_addr_bits)):
            low = addr_bits - beat
            m.d.comb += [port.addr.eq(Cat(Const(0, beat), count[:low])), port.slice.eq(count[low:]),
                         port.scale_mask.eq(~Const(0, len(port.scale_mask)))]
        part = bits["acc"] - config.acc_addr_bits
        m.d.comb += [self.acc.part.eq(count[:part]), self.acc.addr.eq(count[part:]),
                     self.indices.beat.eq(count[:bits["indices"]]), self.program.beat.eq(count[:bits["program"]])]
        return m
