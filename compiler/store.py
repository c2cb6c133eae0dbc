"""The float64 layer's output inside a program file, so that `simulate` can report the numerical error.

It lies in DRAM behind everything else, as a segment that no instruction touches; behind it, the output with the float64
layer's own routing, when some tokens are routed otherwise by the tile.
"""

import math
from dataclasses import replace

import numpy as np

from ..rtl.spec.errors import ProgramError
from ..sim.program import Program, Segment
from .tiles.buffers import align

SEGMENT = "expected (float64 layer)"
ROUTED_SEGMENT = "expected (float64 layer and routing)"


def embed_expected(program: Program, expected: np.ndarray, segment: str = SEGMENT) -> Program:
    """A copy of ``program`` with ``expected``, (rows, hidden) float64, in a segment of its own."""
    addr = align(program.dram_bytes, program.config.bus_bytes)
    data = np.ascontiguousarray(expected, "<f8").reshape(-1).view(np.uint8)
    return replace(program, segments=[*program.segments, Segment(segment, addr, data)], dram_bytes=addr + data.size)


def expected_of(program: Program, name: str = SEGMENT) -> np.ndarray | None:
    """What `embed_expected` put there, in the shape of the first output; None when there is nothing.

    Raises `ProgramError` when the segment has another size.
    """
    for segment in program.segments:
        if segment.name == name:
            data, shape = segment.bytes_(), program.outputs[0].shape
            if data is None or data.size != 8 * math.prod(shape):
                raise ProgramError(f"segment {name}: expected {8 * math.prod(shape)} bytes of float64 for {shape}, "
                                   f"got {0 if data is None else data.size}")
            return data.view("<f8").reshape(shape)
    return None
