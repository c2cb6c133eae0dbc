"""Writes the Verilog of a LiteX SoC: an exported tile, its memory, and a UARTBone. Run as a script in the folder for
soc.v: ``uart_soc.py EXPORT``; LiteX prints much and leaves files."""

import sys

from litex.build.generic_platform import Pins, Subsignal
from litex.build.sim import SimPlatform
from litex.gen import LiteXModule
from litex.soc.integration.soc_core import SoCCore
from migen import ClockDomain, ClockSignal, ResetSignal

CLOCK_HZ, BAUDRATE = 1_000_000, 250_000
REGISTERS, MEMORY_BASE, MEMORY_BYTES = 0x3000_0000, 0x4000_0000, 0x1_0000


class Soc(SoCCore):
    def __init__(self, export, platform):
        sys.path.insert(0, export)
        from tilescore_litex import add_tile

        SoCCore.__init__(self, platform, CLOCK_HZ, cpu_type=None, integrated_main_ram_size=MEMORY_BYTES,
                         with_uart=False, with_timer=False, bus_standard="axi")
        self.crg = LiteXModule()
        self.crg.cd_sys = ClockDomain()
        self.comb += [ClockSignal().eq(platform.request("sys_clk")), ResetSignal().eq(platform.request("sys_rst"))]
        self.add_uartbone("serial", baudrate=BAUDRATE)
        add_tile(self, export, origin=REGISTERS)


if __name__ == "__main__":
    platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), ("sys_rst", 0, Pins(1)),
                                   ("serial", 0, Subsignal("tx", Pins(1)), Subsignal("rx", Pins(1)))])
    soc = Soc(sys.argv[1], platform)
    soc.finalize()
    platform.get_verilog(soc).write("soc.v")
