"""Expressions in numpy, equal to the instructions that `select.py` makes of them, bit for bit.

Each operation is that of the vector unit (`sim/numerics/`), rounded where `expr.py` says, whatever the selection puts
into one instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...rtl.spec.function_codes import Function
from ...rtl.spec.isa import Func
from ...rtl.spec.tensor_formats import QUANT_FORMATS
from ...sim.numerics import arithmetic, element_codes
from ...sim.reference.vector_model import reduce_rows
from .expr import LEAVES, Apply, Assign, Binary, Codes, Elem, Expr, Imm, Leaf

F32 = NDArray[np.float32]

Read = Callable[[Leaf], F32]
"""The values of a leaf that is no `Imm`, float32, broadcastable to (rows, columns); an `Elem`'s before its swap."""


@dataclass(frozen=True, eq=False)
class Written:
    """What a statement makes. values: (rows, columns), before block quantizers; codes: uint8 of casts without block
    scales; reduced: (rows,)."""

    values: F32
    codes: NDArray[np.uint8] | None = None
    reduced: F32 | None = None


def evaluate(expr: Expr, read: Read) -> F32:
    """The value of an expression, (rows, columns) float32 or broadcastable to it; NaN is 0x7FC00000."""
    if isinstance(expr, LEAVES):
        return arithmetic.canonical(_leaf(expr, read))
    if isinstance(expr, Apply):
        return _function(expr, np.ones((1, 1), np.float32), read)
    if not isinstance(expr, Binary):
        raise TypeError(f"expected an expression, got {expr!r}")
    if expr.op == "*":
        for function, factor in ((expr.left, expr.right), (expr.right, expr.left)):
            if isinstance(function, Apply) and function.func != Func.SILU:
                return _function(function, evaluate(factor, read), read)
    left, right = evaluate(expr.left, read), evaluate(expr.right, read)
    if expr.op == "*":
        return arithmetic.fp32_mul(left, right)
    if expr.op == "max":
        return arithmetic.fp32_max(left, right)
    return arithmetic.fp32_add(left, right if expr.op == "+" else -right)


def execute(statement: Assign, read: Read) -> Written:
    """What a statement writes and reduces to."""
    value = statement.value if statement.scale is None else statement.value * statement.scale
    values = written = np.ascontiguousarray(evaluate(value, read))
    codes = None
    if isinstance(statement.to, Codes) and not QUANT_FORMATS[statement.to.quant].block:
        element = QUANT_FORMATS[statement.to.quant].element.name
        codes = element_codes.cast(values, element)
        written = arithmetic.canonical(element_codes.decode(codes, element))
    reduced = None if statement.reduce is None else reduce_rows(statement.reduce.kind, written)
    return Written(values, codes, reduced)


def _leaf(leaf: Leaf, read: Read) -> F32:
    if isinstance(leaf, Imm):
        return np.full((1, 1), leaf.value, np.float32)
    values = read(leaf)
    if isinstance(leaf, Elem) and leaf.swap:
        return values[..., np.arange(values.shape[-1]) ^ (1 << leaf.swap >> 1)]
    return values


def _function(expr: Apply, factor: F32, read: Read) -> F32:
    """A function times a factor, rounded once."""
    of = evaluate(expr.of, read)
    if expr.func == Func.SILU:
        return arithmetic.mul_unpacked(arithmetic.special_function(Function.SIGMOID, of), of)
    return arithmetic.mul_unpacked(arithmetic.special_function(Function[expr.func.name], of), factor)
