"""What a tile is, without its hardware: the tables, names and errors that software shares with `rtl/`.

The simulators, the compiler and the command line import this package and `rtl/plan.py`; only what drives hardware
imports more of `rtl/`. Nothing here imports Amaranth.
"""
