"""AXI4-Lite slave: the protocol on one side, one register access per transfer on the other."""

from typing import Any

from amaranth.hdl import Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..spec.registers import REGISTER_BYTES, WINDOW_BYTES
from .register_block import ADDR_BITS, access_signature

OKAY, SLVERR = 0, 2
"""AXI response codes (AMBA AXI protocol specification, section A3.4.4)."""

LITE_ADDR_BITS = (WINDOW_BYTES - 1).bit_length()


def lite_members() -> dict[str, Any]:
    """Channels of an AXI4-Lite slave of 32 bits, seen from the slave."""
    return {
        "awaddr": In(LITE_ADDR_BITS), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
        "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
        "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
        "araddr": In(LITE_ADDR_BITS), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
        "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1)}


class AxiLiteSlave(wiring.Component):
    """One read and one write at a time, independent of each other; all outputs but data come from registers.

    The address and the data of a write are taken in either order. The access to the registers happens in the
    cycle after the later of the two, and in the cycle after a read's address; the response follows a cycle
    later and holds until it is taken. Low address bits and the protection bits are ignored.

    Members
    -------
    axi : lite_members()
    bus : Out(access_signature())
    """

    axi: Any
    bus: Any

    def __init__(self) -> None:
        super().__init__({"axi": Out(wiring.Signature(lite_members())), "bus": Out(access_signature())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._read(m)
        self._write(m)
        return m

    def _read(self, m: Module) -> None:
        axi, bus = self.axi, self.bus
        held = Signal()
        address = Signal(ADDR_BITS)
        m.d.comb += [
            axi.arready.eq(~held & ~axi.rvalid & ~_in_reset()),
            bus.read_en.eq(held), bus.read_addr.eq(address),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [held.eq(1), address.eq(_number(axi.araddr))]
        with m.If(held):
            m.d.sync += [held.eq(0), axi.rvalid.eq(1), axi.rresp.eq(Mux(bus.read_error, SLVERR, OKAY)),
                         axi.rdata.eq(Mux(bus.read_error, 0, bus.read_data))]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += axi.rvalid.eq(0)

    def _write(self, m: Module) -> None:
        axi, bus = self.axi, self.bus
        has_address = Signal()
        has_data = Signal()
        address = Signal(ADDR_BITS)
        data = Signal(32)
        strobe = Signal(4)
        m.d.comb += [
            axi.awready.eq(~has_address & ~axi.bvalid & ~_in_reset()),
            axi.wready.eq(~has_data & ~axi.bvalid & ~_in_reset()),
            bus.write_en.eq(has_address & has_data), bus.write_addr.eq(address), bus.write_data.eq(data),
            bus.write_strb.eq(strobe),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), address.eq(_number(axi.awaddr))]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_data.eq(1), data.eq(axi.wdata), strobe.eq(axi.wstrb)]
        with m.If(bus.write_en):
            m.d.sync += [has_address.eq(0), has_data.eq(0), axi.bvalid.eq(1),
                         axi.bresp.eq(Mux(bus.write_error, SLVERR, OKAY))]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)


def _in_reset() -> ResetSignal:
    """What is taken in reset would be lost."""
    return ResetSignal("sync", allow_reset_less=True)


def _number(address: Signal) -> Any:
    """Register number of a byte address."""
    return address[REGISTER_BYTES.bit_length() - 1:]
