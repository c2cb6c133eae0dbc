"""The `rtl` level: the generated hardware under Verilator or in Amaranth's simulator, and the tools it needs."""
