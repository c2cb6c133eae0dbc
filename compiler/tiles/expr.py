"""What the vector unit computes, as expressions: epilogues and softmax steps are lists of statements.

An expression is a tree over leaves that say where a value lies: `Elem` (one value per element), `Row`, `Col` (one per
row or column) and `Imm`. A statement, `Assign`, writes the value of one expression somewhere, and may reduce its rows:

    Assign(to=m1, value=maximum(rowmax * c, m0))
    Assign(to=Codes(...), value=exp2(scores * c - Row(m1)) * 256, reduce=Reduction(Reduce.SUM, sums))

`select.py` packs statements into VECTOR instructions, `evaluate.py` computes them in numpy, bit for bit the same. What
decides the bits is the tree: every operation rounds once, but for a function times a factor, which rounds once
together (of two functions the left one), and `silu`, which is u * sigmoid(u) with one rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...rtl.spec.isa import Func, Quant, Reduce, ScaleRule


class Expr:
    """Base of all nodes, with the operators that build trees. Numbers become `Imm`."""

    def __mul__(self, other: Expr | float) -> Expr:
        return Binary("*", self, expression(other))

    def __add__(self, other: Expr | float) -> Expr:
        return Binary("+", self, expression(other))

    def __sub__(self, other: Expr | float) -> Expr:
        return Binary("-", self, expression(other))


@dataclass(frozen=True)
class Elem(Expr):
    """Row i, column tile j at accumulator row ``addr + i + j * pitch`` of the statement's shape.

    name: for labels. swap: 0, or s to take lane c from lane c XOR 2**(s-1).
    """

    addr: int
    name: str = "x"
    swap: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Row(Expr):
    """One value per row: row i's at accumulator row ``addr + i // cols``, lane ``i % cols``."""

    addr: int
    name: str = "row"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Col(Expr):
    """One value per column: tile j's at accumulator row ``addr + j * pitch`` of the statement's shape."""

    addr: int
    name: str = "column"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Imm(Expr):
    """The FP32 constant nearest to ``value``."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:g}"


Leaf = Elem | Row | Col | Imm
LEAVES = (Elem, Row, Col, Imm)


@dataclass(frozen=True)
class Binary(Expr):
    """``left op right``; op: ``*``, ``+``, ``-`` or ``max``."""

    op: str
    left: Expr
    right: Expr

    def __str__(self) -> str:
        return f"max({self.left}, {self.right})" if self.op == "max" else f"{self.left} {self.op} {self.right}"


@dataclass(frozen=True)
class Apply(Expr):
    """A function of the vector unit."""

    func: Func
    of: Expr

    def __str__(self) -> str:
        return f"{self.func.name.lower()}({self.of})"


def expression(value: Expr | float) -> Expr:
    """``value``, an `Imm` if it is a number."""
    return value if isinstance(value, Expr) else Imm(float(value))


def maximum(left: Expr | float, right: Expr | float) -> Expr:
    """The larger in the total order (-0 below +0, NaN wins)."""
    return Binary("max", expression(left), expression(right))


def exp2(of: Expr) -> Expr:
    return Apply(Func.EXP2, of)


def reciprocal(of: Expr) -> Expr:
    return Apply(Func.RECIPROCAL, of)


def rsqrt(of: Expr) -> Expr:
    return Apply(Func.RSQRT, of)


def sigmoid(of: Expr) -> Expr:
    return Apply(Func.SIGMOID, of)


def silu(of: Expr) -> Expr:
    return Apply(Func.SILU, of)


def leaves(expr: Expr) -> Iterator[Leaf]:
    """The leaves of a tree, from left to right, as often as they stand there."""
    if isinstance(expr, Binary):
        yield from leaves(expr.left)
        yield from leaves(expr.right)
    elif isinstance(expr, Apply):
        yield from leaves(expr.of)
    elif isinstance(expr, LEAVES):
        yield expr


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A destination in buffer A: row i at group ``addr + (i // rows) * pitch``, ``cols`` codes per column tile.

    relative_to: of formats with block scales, the tensor scale or anchor, an `Imm` or `Row`; None without.
    """

    addr: int
    pitch: int
    quant: Quant
    scale_rule: ScaleRule = ScaleRule.FLOOR
    relative_to: Imm | Row | None = None


@dataclass(frozen=True)
class Reduction:
    """Of what a statement writes (values of codes, where those are written), over all columns: to `Row` ``addr``."""

    kind: Reduce
    addr: int


@dataclass(frozen=True, kw_only=True)
class Assign:
    """``to`` <- ``value`` * ``scale``, and the rows' reduction.

    to: an `Elem` without swap, `Codes`, or None where only the reduction is wanted. scale: None for 1; the last factor
    of what is written, as a dequantization or quantization is.
    """

    value: Expr
    to: Elem | Codes | None = None
    scale: float | None = None
    reduce: Reduction | None = None
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Elements that a statement runs over: ``rows`` x ``tiles`` column tiles, accumulator rows ``pitch`` apart."""

    rows: int
    tiles: int = 1
    pitch: int = 0
