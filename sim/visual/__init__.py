"""Drawing and packing what a timed program did: activity of units, occupancy of buffers, bars, columns."""
