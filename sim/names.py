"""Names that a person gives to a simulation. They stand apart so that the command line can list them at once."""

LEVELS = ("reference", "timing", "rtl")
"""Levels of `simulate.simulate`, cheapest first."""

BACKENDS = ("auto", "verilator", "amaranth")
"""What runs the rtl level; auto takes Verilator if it can run."""

TABLES = ("130nm-ihp", "130nm", "7nm")
"""Bundled energy tables, accepted by `energy.load_table`."""
