"""The matrix unit: MATMUL from two operand buffers through the systolic array to the accumulator buffer.

In the order in which data flows: `sequencer` (instruction -> k steps), `operand_slice` and `operand_buffer`,
`operand_edge` and `scale_edge` (bytes -> operands and scales), `pe` with `block_term`, `array`, `drain` with `row_max`,
`acc_lane` and `acc_buffer`. `unit` joins them; `timing` adds up the depths.
"""
