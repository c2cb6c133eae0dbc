"""The channels of the AXI4 master port, and what its bursts have in common.

Every burst is INCR, as wide as the bus, with one ID, and ends at the latest at the next multiple of
`TileConfig.max_burst` beats. Those are at most 4096 bytes, so no burst crosses a 4 KiB boundary
(AMBA AXI protocol specification, section A3.4.1), memory controllers see aligned bursts, and the length is one
comparison: min(beats that follow, inverted low bits of the address).
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib.wiring import In, Out

from ..spec.config import TileConfig
from ..spec.errors import ConfigError

ADDR_BITS = 40
PAGE_BITS = 12
"""Of a 4 KiB page: the unit of DRAM_BASE, and the boundary that no burst crosses."""

BUS_WIDTHS = (32, 64, 128, 256, 512)
"""Data widths in bits that are supported; AXI4 also has 8, 16 and 1024."""

BUS_LATENCY = 2
"""Cycles that the masters add to the latency of the bus: address register and response register.

With a bus that is always ready, takes L cycles from an address to its first data beat and from the last write beat
to its response, and moves a beat per cycle, the tile runs as with the reference DRAM of ``dram_latency`` = L + 2.
"""

INCR, OKAY = 1, 0
CACHE = 0b0011
"""Normal, not cacheable, bufferable: interconnects may merge and buffer, results must reach memory."""


def _address_channel(name: str) -> dict[str, Any]:
    return {
        f"{name}id": Out(1), f"{name}addr": Out(ADDR_BITS), f"{name}len": Out(8), f"{name}size": Out(3),
        f"{name}burst": Out(2), f"{name}lock": Out(1), f"{name}cache": Out(4), f"{name}prot": Out(3),
        f"{name}qos": Out(4), f"{name}valid": Out(1), f"{name}ready": In(1)}


def read_members(config: TileConfig) -> dict[str, Any]:
    """Read channels, seen from the master."""
    return _address_channel("ar") | {
        "rid": In(1), "rdata": In(8 * config.bus_bytes), "rresp": In(2), "rlast": In(1), "rvalid": In(1),
        "rready": Out(1)}


def write_members(config: TileConfig) -> dict[str, Any]:
    """Write channels, seen from the master."""
    return _address_channel("aw") | {
        "wdata": Out(8 * config.bus_bytes), "wstrb": Out(config.bus_bytes), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1), "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1)}


def constant_fields(m: Module, axi: Any, name: str, config: TileConfig) -> None:
    """Drive the fields of an address channel that never change; lock, prot, qos and id stay 0."""
    m.d.comb += [
        getattr(axi, f"{name}size").eq(config.bus_bytes.bit_length() - 1),
        getattr(axi, f"{name}burst").eq(INCR), getattr(axi, f"{name}cache").eq(CACHE)]


def check_bus(config: TileConfig) -> None:
    """Raises `ConfigError` for a bus width that AXI does not have."""
    if 8 * config.bus_bytes not in BUS_WIDTHS:
        raise ConfigError(f"tile {config.name}: bus_bytes = {config.bus_bytes}: an AXI data bus has "
                          f"{', '.join(str(width // 8) for width in BUS_WIDTHS)} bytes")

def bus_address(port: Any, base: Value, config: TileConfig) -> Value:
    """Address of the request at the native port on the bus: aligned, `base` pages up."""
    bus_bits = config.bus_bytes.bit_length() - 1
    high = (port.req_addr[PAGE_BITS:] + base)[:ADDR_BITS - PAGE_BITS]
    return Cat(Const(0, bus_bits), port.req_addr[bus_bits:PAGE_BITS], high)
