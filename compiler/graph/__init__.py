"""A layer as a graph: what is computed, of what, and what follows from that by walking over it."""
