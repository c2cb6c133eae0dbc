"""From the graph of a layer to its program: nodes become steps, each a kernel with its operands in DRAM."""
