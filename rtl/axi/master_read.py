"""AXI4 read master: bursts for the tile's DRAM read port.

The first request of a burst says how many follow (`run_ahead.py`), so its address goes out at once and the
requests that follow need none: they are only counted, and taken without waiting. Responses come in order, one
ID, and the tile always takes them; RREADY is always high.
"""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..dma.load_unit import read_port_signature
from ..dma.run_ahead import burst_length
from ..lib.command_queue import CommandQueue
from ..spec.config import TileConfig
from .channels import (
    ADDR_BITS,
    OKAY,
    PAGE_BITS,
    bus_address,
    check_bus,
    constant_fields,
    read_members,
)


class ReadMaster(wiring.Component):
    """One address per cycle, at most `TileConfig.outstanding_bursts` under way.

    Members
    -------
    dram : In(read_port_signature)
        A request at t is on the bus at t + 1 when the bus is ready; data on the bus at t are answered at t + 1.
    axi : read_members
    base : In(28)
        Added to bits 39:12 of every address; must not change while not `idle`.
    halt : In(1)
        No burst is begun in this cycle; its effect is on ARVALID of the next.
    drain : In(1)
        The tile is being reset: no request is taken, answers are dropped.
    abandon : In(1)
        Forget every burst under way, as after power-up.
    idle : Out(1)
        Nothing is under way.
    progress : Out(1)
        A handshake on the bus.
    error : Out(1), response : Out(2), error_addr : Out(40)
        This cycle has a beat with an error response; of this beat.
    oldest_addr : Out(40)
        While not `idle`: the oldest burst under way.

    Raises `ConfigError` as `channels.check_bus` does.
    """

    dram: Any
    axi: Any
    base: Signal
    halt: Signal
    drain: Signal
    abandon: Signal
    idle: Signal
    progress: Signal
    error: Signal
    response: Signal
    error_addr: Signal
    oldest_addr: Signal

    def __init__(self, config: TileConfig) -> None:
        check_bus(config)
        self.config = config
        super().__init__({
            "dram": In(read_port_signature(config)), "axi": Out(wiring.Signature(read_members(config))),
            "base": In(ADDR_BITS - PAGE_BITS), "halt": In(1), "drain": In(1), "abandon": In(1),
            "idle": Out(1), "progress": Out(1), "error": Out(1), "response": Out(2), "error_addr": Out(ADDR_BITS),
            "oldest_addr": Out(ADDR_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        constant_fields(m, self.axi, "ar", self.config)
        m.submodules.bursts = bursts = CommandQueue(
            layout=data.StructLayout({"addr": ADDR_BITS, "length": 8}), depth=self.config.outstanding_bursts)
        self._requests(m, bursts)
        self._responses(m, bursts)
        m.d.comb += [
            bursts.clear.eq(self.abandon),
            self.idle.eq(~self.axi.arvalid & ~bursts.valid),
            self.oldest_addr.eq(bursts.head.addr),
        ]
        with m.If(self.abandon):
            m.d.sync += self.axi.arvalid.eq(0)
        return m

    def _requests(self, m: Module, bursts: CommandQueue) -> None:
        dram, axi = self.dram, self.axi
        length = Signal(8)
        m.d.comb += length.eq(burst_length(dram.req_addr, dram.req_more, self.config))
        left = Signal(8)
        begin = Signal()
        covered = Signal()
        m.d.comb += [
            covered.eq(left != 0),
            dram.req_ready.eq(~self.drain & (covered | (~axi.arvalid | axi.arready) & ~bursts.full & ~self.halt)),
            begin.eq(dram.req_valid & dram.req_ready & ~covered),
            bursts.push.eq(begin), bursts.push_data.length.eq(length),
            bursts.push_data.addr.eq(bus_address(dram, self.base, self.config)),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(begin):
            m.d.sync += [axi.arvalid.eq(1), axi.araddr.eq(bursts.push_data.addr), axi.arlen.eq(length),
                         left.eq(length)]
        with m.Elif(dram.req_valid & dram.req_ready):
            m.d.sync += left.eq(left - 1)
        with m.If(self.drain):
            m.d.sync += left.eq(0)

    def _responses(self, m: Module, bursts: CommandQueue) -> None:
        dram, axi = self.dram, self.axi
        beat = Signal(8)
        taken = Signal()
        bus_bits = self.config.bus_bytes.bit_length() - 1
        m.d.comb += [
            axi.rready.eq(1), taken.eq(axi.rvalid & bursts.valid),
            bursts.pop.eq(taken & (beat == bursts.head.length)),
            self.error.eq(taken & (axi.rresp != OKAY)), self.response.eq(axi.rresp),
            self.error_addr.eq(bursts.head.addr + (beat << bus_bits)),
            self.progress.eq(taken | axi.arvalid & axi.arready),
        ]
        with m.If(taken):
            m.d.sync += beat.eq(beat + 1)
        with m.If(bursts.pop | self.abandon):
            m.d.sync += beat.eq(0)
        m.d.sync += [dram.rsp_valid.eq(taken & ~self.drain), dram.rsp_data.eq(axi.rdata)]
