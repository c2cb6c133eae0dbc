"""Expressions to VECTOR instructions: each is ``func(combine(x*y, z)) * w``, filled by maximal munch.

From the outside in: a factor of a function or sum, or the third factor of a product, becomes ``w``; a function
``func``; a sum, difference or maximum ``combine`` and ``z``; a product, or a single element, ``x`` and ``y``. What does
not fit its place is computed before, into a temporary. Of two products in a sum the right one is, so ``a * b - c * d``
needs one temporary and two instructions. So is what reads one region twice, but for ``x * x``: an instruction reads
each bank once.

Rejected: choosing among several covers by cost. All epilogues and softmax steps that exist get as many instructions as
their authors had found by hand, and the order of operations, which decides the bits, stays readable from the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Combine, Func
from .expr import LEAVES, Apply, Assign, Binary, Codes, Elem, Expr, Imm, Leaf, Reduction

ONE = Imm(1.0)
_COMBINES = {"+": Combine.ADD, "-": Combine.SUB, "max": Combine.MAX}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """One VECTOR: ``to`` <- func(combine(x*y, z)) * w; z is None where combine is NONE."""

    x: Elem
    y: Leaf = ONE
    combine: Combine = Combine.NONE
    z: Leaf | None = None
    func: Func = Func.NONE
    w: Leaf = ONE
    to: Elem | Codes | None = None
    reduce: Reduction | None = None
    label: str = ""


def select(statement: Assign, temporaries: Sequence[Elem] = ()) -> list[Packed]:
    """The instructions of a statement, in order; the last one writes its destination.

    temporaries: regions for values in between, each as large as the statement's shape. Raises `CompileError` when they
    are not enough, or when an expression has no elementwise operand where the vector unit needs one.
    """
    selection = _Selection(statement, temporaries)
    scale = None if statement.scale is None else Imm(statement.scale)
    last = selection.pack(statement.value, scale)
    return [*selection.before, replace(last, to=statement.to, reduce=statement.reduce, label=statement.label)]


class _Selection:
    """The instructions before the last one, and what temporaries are left."""

    def __init__(self, statement: Assign, temporaries: Sequence[Elem]):
        self._statement, self._free = statement, list(temporaries)
        self.before: list[Packed] = []

    def pack(self, expr: Expr, scale: Imm | None = None) -> Packed:
        """The instruction for ``expr * scale``, without destination."""
        core, w = (expr, scale) if scale is not None else _factor(expr)
        if scale is not None and _needs_w(expr):
            core = self._leaf(expr, alone=True)
        factor = ONE if w is None else self._leaf(w)
        func = Func.NONE
        if isinstance(core, Apply):
            func, core = core.func, core.of
        packed = self._sum(core)
        if _shared(factor, packed.x, packed.y, packed.z):
            packed = Packed(x=self._write(packed, core))
        return replace(packed, func=func, w=factor)

    def _sum(self, core: Expr) -> Packed:
        """combine(x * y, z)"""
        if not (isinstance(core, Binary) and core.op in _COMBINES):
            x, y = self._product(core)
            return Packed(x=x, y=y)
        combine, product, other = _sides(core)
        z = self._leaf(other)
        x, y = self._product(product)
        if _shared(z, x, y):
            x, y = self._write(Packed(x=x, y=y), product), ONE
        return Packed(x=x, y=y, combine=combine, z=z)

    def _product(self, core: Expr) -> tuple[Elem, Leaf]:
        if not (isinstance(core, Binary) and core.op == "*"):
            return self._element(core), ONE
        left, right = core.left, core.right
        if isinstance(right, Elem) and (not isinstance(left, Elem) or (right.swap and not left.swap)):
            left, right = right, left
        x, y = self._element(left), self._leaf(right)
        if _shared(y, x) and (x != y or x.swap):
            x = self._write(Packed(x=x), x)
        return x, y

    def _element(self, expr: Expr) -> Elem:
        """``expr`` as the operand x."""
        if isinstance(expr, Elem):
            return expr
        if isinstance(expr, LEAVES):
            raise CompileError(f"{self._statement.label or self._statement.value}: {expr} must be multiplied by, or "
                               "combined with, an elementwise operand")
        return self._spill(expr)

    def _leaf(self, expr: Expr, alone: bool = False) -> Leaf:
        """``expr`` as one of the operands y, z and w, which lanes of x cannot be exchanged in; ``alone``: as x."""
        if isinstance(expr, LEAVES) and (alone or not (isinstance(expr, Elem) and expr.swap)):
            return expr
        return self._spill(expr)

    def _spill(self, expr: Expr) -> Elem:
        return self._write(self.pack(expr), expr)

    def _write(self, packed: Packed, expr: Expr) -> Elem:
        """A temporary with the value of ``packed``, which is that of ``expr``."""
        if not self._free:
            raise CompileError(f"{self._statement.label or self._statement.value}: no temporary left for {expr}")
        temporary = self._free.pop(0)
        self.before.append(replace(packed, to=temporary, label=str(expr)))
        return temporary


def _shared(leaf: Leaf, *others: Leaf | None) -> bool:
    """Does an operand lie where another one does? The vector unit reads each bank once, but for x squared."""
    return not isinstance(leaf, Imm) and any(
        other.addr == leaf.addr for other in others if other is not None and not isinstance(other, Imm))


def _is_function(expr: Expr) -> bool:
    """A function that a factor may follow in one instruction."""
    return isinstance(expr, Apply) and expr.func != Func.SILU


def _factor(expr: Expr) -> tuple[Expr, Expr | None]:
    """What comes before ``w``, and w: None for 1."""
    if not (isinstance(expr, Binary) and expr.op == "*"):
        return expr, None
    left, right = expr.left, expr.right
    for is_core in (_is_function, lambda e: isinstance(e, Binary)):
        if is_core(left):
            return left, right
        if is_core(right):
            return right, left
    return expr, None


def _needs_w(expr: Expr) -> bool:
    """Is there no room for one more factor in the instruction of ``expr``?"""
    return _factor(expr)[1] is not None or (isinstance(expr, Apply) and expr.func == Func.SILU)


def _sides(sum_: Binary) -> tuple[Combine, Expr, Expr]:
    """How a sum is combined, its side that becomes x * y, and the one that becomes z."""
    combine, left, right = _COMBINES[sum_.op], sum_.left, sum_.right
    if _fitness(right) <= _fitness(left):
        return combine, left, right
    return (Combine.RSUB if combine is Combine.SUB else combine), right, left


def _fitness(expr: Expr) -> int:
    """How much is gained when ``expr`` becomes x * y instead of z."""
    if isinstance(expr, Elem):
        return 2 if expr.swap else 1
    return 0 if isinstance(expr, LEAVES) else 3
