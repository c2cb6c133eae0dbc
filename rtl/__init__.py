"""The hardware floor: number formats, configuration, instruction set, time contract, the Amaranth tile."""
