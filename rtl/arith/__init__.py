"""Scalar number hardware: rigid pipelines without handshake, one operand set per cycle, registered outputs.

Data flow of a matrix product: `lane_format` (`decode`) -> `dot` (exact dot product) -> `round_fp32` (one rounding).
Data flow of a vector lane: `unpacked` -> `fp32_mul` -> `fp32_add` / `fp32_max` -> `functions`
(`interpolate`) -> `fp32_mul` -> `quantize` / `fixed`. Every component has an attribute LATENCY: outputs in
cycle t belong to inputs sampled in cycle t - LATENCY. The bit-exact numpy twin of each is in
`sim/numerics/arithmetic.py`.
"""
