"""The tile as files: Verilog of one tile (`verilog`, `verilog_text`), and the folder for FPGA engineers (`folder`)."""
