"""Attributes by which Vivado's IP packager recognises the ports of `TileAxi` (Xilinx UG1118, UG994)."""

from ..axi.channels import ADDR_BITS
from ..axi.top import TileAxi
from .constraints import frequency_hz
from .verilog_text import PortText

_AXI = "xilinx.com:interface:aximm:1.0"


def port_texts(top: TileAxi) -> list[PortText]:
    """The ports in the order of the signature, each with its attributes."""
    width = 8 * top.config.bus_bytes
    clock = f"FREQ_HZ {frequency_hz(top.config)}"
    parameters = {
        "aclk": f"XIL_INTERFACENAME aclk, ASSOCIATED_BUSIF s_axi:m_axi, ASSOCIATED_RESET aresetn, {clock}",
        "aresetn": "XIL_INTERFACENAME aresetn, POLARITY ACTIVE_LOW",
        "interrupt": "XIL_INTERFACENAME interrupt, SENSITIVITY LEVEL_HIGH",
        "s_axi_awaddr": "XIL_INTERFACENAME s_axi, PROTOCOL AXI4LITE, DATA_WIDTH 32, "
                         f"{clock}",
        "m_axi_awid": f"XIL_INTERFACENAME m_axi, PROTOCOL AXI4, DATA_WIDTH {width}, ADDR_WIDTH {ADDR_BITS}, "
                      f"MAX_BURST_LENGTH {top.config.max_burst}, NUM_READ_OUTSTANDING {top.config.outstanding_bursts}, "
                      f"NUM_WRITE_OUTSTANDING {top.config.outstanding_bursts}, SUPPORTS_NARROW_BURST 0, "
                      f"{clock}"}
    return [PortText(name, _attributes(name, parameters)) for name in top.signature.members]


def _attributes(name: str, parameters: dict[str, str]) -> tuple[tuple[str, str], ...]:
    info = {"aclk": "xilinx.com:signal:clock:1.0 aclk CLK", "aresetn": "xilinx.com:signal:reset:1.0 aresetn RST",
            "interrupt": "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT"}
    for bus in ("s_axi", "m_axi"):
        if name.startswith(f"{bus}_"):
            info[name] = f"{_AXI} {bus} {name.removeprefix(f'{bus}_').upper()}"
    attributes = []
    if name in info:
        attributes.append(("X_INTERFACE_INFO", info[name]))
    if name in parameters:
        attributes.append(("X_INTERFACE_PARAMETER", parameters[name]))
    return tuple(attributes)
