"""The grid of integers on which two candidate scales of a block are compared: 2**-15 of amax's power of two.

Twin: `sim.numerics.block_codes.squared_errors`. Values are rounded to the grid once, to nearest even.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

POSITION_BITS = 17
"""Of |x|, at most 2**16."""

LEVEL_BITS = 18
"""Of half a divisor, at most 2**17."""

LOWEST_UNIT = 16
"""Exponent fields of amax below it count as this one, so that the grid stays within FP32's range."""

LATENCY = 2

_MAX_SHIFT = 18


def grid_position(m: Module, x: data.View, unit: Value) -> Value:
    """|x| on the grid; x is `Unpacked`, ``unit`` the exponent field of amax, at least `LOWEST_UNIT`; LATENCY 2."""
    below = Signal(signed(14), name="position_below")
    m.d.comb += below.eq(unit - 127 - x.exponent)
    return _rounded(m, "position", x.significand, below, 8, POSITION_BITS)


def grid_level(m: Module, divisor: data.View, unit: Value, *, name: str) -> Value:
    """Half of ``divisor`` (`Divisor`) on the grid, at most 2**17; LATENCY 2."""
    below = Signal(signed(14), name=f"{name}_below")
    m.d.comb += below.eq(unit - 127 + 2 - divisor.exponent)
    level = _rounded(m, name, divisor.significand, below, 7, LEVEL_BITS)
    beyond = [Signal(name=f"{name}_beyond_{i}", reset_less=True) for i in (1, 2)]
    m.d.sync += [beyond[0].eq(below < 0), beyond[1].eq(beyond[0])]
    return Mux(beyond[1], 1 << LEVEL_BITS - 1, level)


def _rounded(m: Module, name: str, significand: Value, below: Value, drop: int, bits: int) -> Value:
    """``significand / 2**(below + drop)`` to the nearest integer, ties to even, for below >= 0; two cycles."""
    amount = Signal(range(_MAX_SHIFT + 1), name=f"{name}_amount")
    shifted = Signal(24 + _MAX_SHIFT, name=f"{name}_shifted")
    integer = Signal(24 - drop, name=f"{name}_integer", reset_less=True)
    guard = Signal(name=f"{name}_guard", reset_less=True)
    sticky = Signal(name=f"{name}_sticky", reset_less=True)
    point = _MAX_SHIFT + drop
    m.d.comb += [
        amount.eq(Mux(below > _MAX_SHIFT, _MAX_SHIFT, Mux(below < 0, 0, below[:5]))),
        shifted.eq(Cat(Const(0, _MAX_SHIFT), significand) >> amount),
    ]
    m.d.sync += [integer.eq(shifted[point:]), guard.eq(shifted[point - 1]), sticky.eq(shifted[:point - 1].any())]
    result = Signal(bits, name=name, reset_less=True)
    m.d.sync += result.eq(integer + (guard & (sticky | integer[0])))
    return result
