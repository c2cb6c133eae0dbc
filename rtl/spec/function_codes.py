"""Codes of the special functions: one table for the hardware and for its numpy twin, which needs no hardware."""

import enum


class Function(enum.Enum):
    """What a `SpecialFunction` computes; three bits."""

    NONE = 0
    EXP2 = 1
    RECIPROCAL = 2
    SIGMOID = 3
    RSQRT = 4
