"""The tile behind AXI: AXI4-Lite registers for control, AXI4 masters for its two DRAM ports."""
