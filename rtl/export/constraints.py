"""The clock of a tile as constraints: for Vivado (.xdc), Lattice's tools and nextpnr (.lpf), others (.sdc).

They hold for the tile as a top of its own, that is out of context; inside of a design its clock comes from there.
"""

from ..spec.config import TileConfig


def frequency_hz(config: TileConfig) -> int:
    """``clock_mhz`` in whole Hz, at least one, as FREQ_HZ of Vivado's interfaces."""
    return max(1, round(config.clock_mhz * 1_000_000))


def _period_ns(config: TileConfig) -> str:
    """In whole picoseconds, rounded down, so that the constraint is never too lax."""
    return f"{max(1, int(1_000_000 / config.clock_mhz)) / 1000:.3f}"


def xdc(config: TileConfig) -> str:
    """For Vivado, out of context."""
    return ("# Out of context only: set_property USED_IN {synthesis out_of_context} [get_files <this file>]\n"
            f"create_clock -name aclk -period {_period_ns(config)} [get_ports aclk]\n")


def lpf(config: TileConfig) -> str:
    """For Diamond, Radiant and nextpnr-ecp5."""
    return f'FREQUENCY PORT "aclk" {frequency_hz(config) / 1_000_000:.6f} MHZ;\n'


def sdc(config: TileConfig) -> str:
    """For Quartus, OpenSTA and the like; times in ns."""
    return f"create_clock -name aclk -period {_period_ns(config)} [get_ports {{aclk}}]\n"
