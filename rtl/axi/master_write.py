"""AXI4 write master: bursts for the tile's DRAM write port.

Address and first beat go out together; the other beats follow as the tile delivers them. The bus answers once
per burst, the tile counts one answer per beat, in order, and only the last of an instruction matters. So every
beat but a burst's last is answered as soon as its predecessors are, and the last when the bus has answered: a
beat's answer comes a constant time after the beat when the bus's does, as with the reference DRAM.
"""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..dma.run_ahead import burst_length
from ..dma.store_unit import write_port_signature
from ..lib.command_queue import CommandQueue
from ..spec.config import TileConfig
from .channels import (
    ADDR_BITS,
    OKAY,
    PAGE_BITS,
    bus_address,
    check_bus,
    constant_fields,
    write_members,
)


class WriteMaster(wiring.Component):
    """One beat per cycle, at most `TileConfig.outstanding_bursts` under way; BREADY is always high.

    Members
    -------
    dram : In(write_port_signature)
        A request at t is on the bus at t + 1 when the bus is ready; a response on the bus at t answers the
        burst's last beat at t + 1, unless earlier beats were not yet answered: at most one is per cycle.
    axi : write_members
    base, halt, drain, abandon, idle, progress, oldest_addr
        As in `ReadMaster`. While draining, the beats that a burst still owes are sent without strobes.
    error : Out(1), response : Out(2), error_addr : Out(40)
        This cycle has an error response; first beat of its burst.

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
            "dram": In(write_port_signature(config)), "axi": Out(wiring.Signature(write_members(config))),
            "base": In(ADDR_BITS - PAGE_BITS), "halt": In(1), "drain": In(1), "abandon": In(1),
            "idle": Out(1), "progress": Out(1), "error": Out(1), "response": Out(2), "error_addr": Out(ADDR_BITS),
            "oldest_addr": Out(ADDR_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        constant_fields(m, axi, "aw", self.config)
        m.submodules.bursts = bursts = CommandQueue(
            layout=data.StructLayout({"addr": ADDR_BITS}), depth=self.config.outstanding_bursts)
        m.submodules.lengths = lengths = CommandQueue(
            layout=data.StructLayout({"length": 8}), depth=self.config.outstanding_bursts)
        left = Signal(8)
        answered = Signal()
        self._requests(m, bursts, lengths, left)
        m.d.comb += [
            axi.bready.eq(1), answered.eq(axi.bvalid & bursts.valid), bursts.pop.eq(answered),
            self.error.eq(answered & (axi.bresp != OKAY)), self.response.eq(axi.bresp),
            self.error_addr.eq(bursts.head.addr), self.oldest_addr.eq(bursts.head.addr),
            self.progress.eq(answered | axi.awvalid & axi.awready | axi.wvalid & axi.wready),
            self.idle.eq(~axi.awvalid & ~axi.wvalid & (left == 0) & ~bursts.valid),
            bursts.clear.eq(self.abandon), lengths.clear.eq(self.drain | self.abandon),
        ]
        self._responses(m, lengths, answered)
        with m.If(self.abandon):
            m.d.sync += [axi.awvalid.eq(0), axi.wvalid.eq(0), left.eq(0)]
        return m

    def _requests(self, m: Module, bursts: CommandQueue, lengths: CommandQueue, left: Signal) -> None:
        dram, axi = self.dram, self.axi
        length = Signal(8)
        m.d.comb += length.eq(burst_length(dram.req_addr, dram.req_more, self.config))
        covered = Signal()
        room = Signal()
        begin = Signal()
        send = Signal()
        m.d.comb += [
            covered.eq(left != 0),
            room.eq((~axi.awvalid | axi.awready) & ~bursts.full & ~lengths.full & ~self.halt),
            dram.req_ready.eq(~self.drain & (~axi.wvalid | axi.wready) & (covered | room)),
            begin.eq(dram.req_valid & dram.req_ready & ~covered),
            send.eq(Mux(self.drain, covered & (~axi.wvalid | axi.wready), dram.req_valid & dram.req_ready)),
            bursts.push.eq(begin), bursts.push_data.addr.eq(bus_address(dram, self.base, self.config)),
            lengths.push.eq(begin), lengths.push_data.length.eq(length),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(begin):
            m.d.sync += [axi.awvalid.eq(1), axi.awaddr.eq(bursts.push_data.addr), axi.awlen.eq(length)]
        with m.If(send):
            m.d.sync += [
                axi.wvalid.eq(1), axi.wdata.eq(dram.req_data), axi.wstrb.eq(Mux(self.drain, 0, dram.req_strb)),
                axi.wlast.eq(Mux(covered, left == 1, length == 0)), left.eq(Mux(covered, left - 1, length))]

    def _responses(self, m: Module, lengths: CommandQueue, answered: Signal) -> None:
        """Answer the tile beat by beat; `owed` counts answers of the bus that it has not yet seen the last of."""
        given = Signal(8)
        owed = Signal(range(self.config.outstanding_bursts + 1))
        last = Signal()
        m.d.comb += [
            last.eq(lengths.valid & (given == lengths.head.length)),
            self.dram.rsp_valid.eq(lengths.valid & (~last | (owed != 0))),
            lengths.pop.eq(last & (owed != 0)),
        ]
        m.d.sync += owed.eq(owed + answered - lengths.pop)
        with m.If(self.dram.rsp_valid):
            m.d.sync += given.eq(Mux(last, 0, given + 1))
        with m.If(self.drain | self.abandon):
            m.d.sync += [given.eq(0), owed.eq(0)]
