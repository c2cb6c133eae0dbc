"""The vector unit: one pass over rows of the accumulator buffer in FP32, ``cols`` elements per cycle.

In the order in which data flows: `sequencer` (instruction -> one request per cycle), `unit` (operand reads,
writes and the control pipeline), `lane` (the arithmetic of one column), `reduce` (maximum or sum over a row).
`timing` adds up the depths; `rtl/plan.py` takes the durations from there.

A tile with block scales also has the stage `block`, between the lanes and operand buffer A: `block_reduce`
(largest magnitude of a block), `block_scale` (its scale and divisor), `block_lane` with `delay_line` (elements
wait, then become codes), `error_grid` (the choice between two scales). `block_latency` adds up its depths.
"""
