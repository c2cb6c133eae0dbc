"""The tile's numbers in numpy, bit for bit those of the hardware: arithmetic, element codes, blocks, quantizers."""
