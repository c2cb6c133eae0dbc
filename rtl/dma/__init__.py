"""The load and the store unit: rows of DRAM to and from the on-chip memories, with their scale bytes.

`address` walks rows and beats, `scale_walk` and `scale_register` their scale bytes, `run_ahead` says how far addresses
are consecutive; `index_memory` holds the rows of gather and scatter, `memory_clear` writes zeros between programs.
"""
