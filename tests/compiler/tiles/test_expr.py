"""Expressions: trees, their selection into VECTORs, and both against each other on random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import code_matrix, float_matrix
from tilescore.compiler.emitter import Emitter, vector_instruction
from tilescore.compiler.tiles.buffers import align
from tilescore.compiler.tiles.evaluate import evaluate, execute
from tilescore.compiler.tiles.expr import (
    Apply,
    Assign,
    Binary,
    Codes,
    Col,
    Elem,
    Expr,
    Imm,
    Leaf,
    Reduction,
    Row,
    Shape,
    exp2,
    leaves,
    maximum,
    reciprocal,
    rsqrt,
    sigmoid,
    silu,
)
from tilescore.compiler.tiles.select import Packed, select
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.isa import Combine, Dest, Func, Quant, Reduce, Source
from tilescore.sim.legality.verifier import verify
from tilescore.sim.reference.run import run_reference
from tilescore.tests.compiler.play import NANO, SQUAT, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

A, B, C, D = (Elem(16 * i, name) for i, name in enumerate("abcd"))
R, K = Row(900, "r"), Col(910, "k")
TEMPORARIES = [Elem(100 + i) for i in range(8)]


def count(*values: Expr, **fields) -> int:
    return sum(len(select(Assign(to=D, value=value, **fields), TEMPORARIES)) for value in values)


@pytest.mark.parametrize(("name", "instructions", "values"), [
    ("scale", 1, [A * 0.1]),
    ("rotary, halves", 4, [(A * C - B * D) * 0.1, (B * C + A * D) * 0.1]),
    ("rotary, swapped", 2, [(A * B + Elem(0, swap=2) * C) * 0.1]),
    ("norm of a head", 3, [A * A * 0.5, rsqrt(A * 0.1 + 1e-6) * 2, A * R * K]),
    ("online softmax, a step", 5, [maximum(A * 0.3, B), exp2(A - B), exp2(A * 0.3 - R) * 256, A * B + C, A * R + B]),
    ("online softmax, the end", 2, [reciprocal(A), A * R * 0.1]),
    ("router", 4, [A * 0.3 + B, exp2(A - R), reciprocal(A), A * R]),
    ("silu and product", 2, [silu(A * 0.1), A * B * 0.2]),
    ("weighted", 1, [A * R * 0.3]),
    ("a sink", 2, [maximum(A * 0.3, B), exp2(B - A)]),
    ("residual, norm, quantize", 4, [A + B, A * A, rsqrt(A * 0.1 + 1e-6), A * R * K]),
    ("soft cap", 2, [sigmoid(A * 0.2) * 100 - 50]),
    ("sigmoid router with a bias", 2, [sigmoid(A * 0.3) + B]),
    ("silu times up", 1 + 1, [silu(A * 0.1) * B]),
], ids=lambda value: value if isinstance(value, str) else "")
def test_number_of_instructions(name: str, instructions: int, values: list[Expr]) -> None:
    assert count(*values) == instructions


def only(value: Expr, **fields) -> Packed:
    packed = select(Assign(to=D, value=value, **fields))
    assert len(packed) == 1
    return packed[0]


def test_a_factor_stands_in_y_and_a_scale_in_w() -> None:
    assert (only(A * 0.5).y, only(A * 0.5).w) == (Imm(0.5), Imm(1.0))
    assert (only(A, scale=0.5).y, only(A, scale=0.5).w) == (Imm(1.0), Imm(0.5))
    assert (only(A * R, scale=0.5).y, only(A * R, scale=0.5).w) == (R, Imm(0.5))


@pytest.mark.parametrize(("value", "combine", "x", "z"), [
    (A - B, Combine.SUB, A, B), (R - A, Combine.RSUB, A, R), (A - R, Combine.SUB, A, R),
    (B - A * C, Combine.RSUB, A, B),
    (Imm(1.0) - A, Combine.RSUB, A, Imm(1.0)), (maximum(R, A * B), Combine.MAX, A, R),
    (A + Elem(16, swap=1), Combine.ADD, Elem(16, swap=1), A),
], ids=str)
def test_sides_of_a_sum(value: Expr, combine: Combine, x: Elem, z: Leaf) -> None:
    packed = only(value)
    assert (packed.combine, packed.x, packed.z) == (combine, x, z)


def test_values_in_between_have_the_label_of_their_expression() -> None:
    first, last = select(Assign(to=D, value=A * B - C * D, label="rotated"), TEMPORARIES)
    assert (first.label, first.to, last.label, last.z) == ("c * d", TEMPORARIES[0], "rotated", TEMPORARIES[0])
    assert str(maximum(exp2(A - R), 0.5) * B) == "max(exp2(a - r), 0.5) * b"


def test_too_few_temporaries_and_no_element_are_errors() -> None:
    with pytest.raises(CompileError, match=r"^rotated: no temporary left for c \* d$"):
        select(Assign(to=D, value=A * B - C * D, label="rotated"))
    with pytest.raises(CompileError, match=r"^r: r must be multiplied by, or combined with, an elementwise operand$"):
        select(Assign(to=D, value=R))


def test_fields_of_the_instruction() -> None:
    shape = Shape(rows=3, tiles=2, pitch=5)
    vector = vector_instruction(shape, only(exp2(A * 0.3 - R), reduce=Reduction(Reduce.SUM, 77)))
    assert (vector.rows, vector.tiles, vector.pitch, vector.dst_pitch) == (3, 2, 5, 5)
    assert (vector.y_kind, vector.y, vector.z_kind, vector.z) == (Source.IMM, fp32_bits(0.3), Source.ROW, R.addr)
    assert (vector.dest, vector.dst_addr, vector.func) == (Dest.ACC, D.addr, Func.EXP2)
    assert (vector.reduce, vector.reduce_addr, vector.w) == (Reduce.SUM, 77, fp32_bits(1.0))
    codes = Codes(addr=8, pitch=4, quant=Quant.MXFP8, relative_to=Imm(0.25))
    vector = vector_instruction(shape, replace(only(A * K), to=codes))
    assert (vector.dest, vector.dst_addr, vector.dst_pitch, vector.quant) == (Dest.A, 8, 4, Quant.MXFP8)
    assert (vector.y_kind, vector.z_kind, vector.z) == (Source.COLUMN, Source.IMM, fp32_bits(0.25))
    nothing = vector_instruction(shape, replace(only(A), to=None))
    assert (nothing.dest, nothing.dst_addr, nothing.dst_pitch) == (Dest.NONE, 0, 0)
    with pytest.raises(CompileError, match="take operand z, so that they cannot be made of a add"):
        vector_instruction(shape, replace(only(A + B), to=codes))


# Random expressions ------------------------------------------------------------------------------------

ROWS, TILES = 3, 2


class Bench:
    """Leaves with values, in banks of their own, and room for what a statement writes."""

    def __init__(self, tile: TileConfig, rng: np.random.Generator):
        self.tile, self.builder = tile, ProgramBuilder(tile)
        self.emitter, self.shape = Emitter(self.builder), Shape(rows=ROWS, tiles=TILES, pitch=ROWS)
        bank = tile.acc_bank_rows
        self.elems = [Elem(bank * i, f"e{i}") for i in range(3)]
        self.cols = [Col(bank * (3 + i), f"c{i}") for i in range(2)]
        self.temporaries = [Elem(bank * (5 + i)) for i in range(tile.acc_banks - 7)]
        self.least = Elem(bank * (tile.acc_banks - 2))
        self.to = Elem(bank * (tile.acc_banks - 1))
        self.rows = [Row(tile.acc_addr(tile.acc_banks + i), f"r{i}") for i in range(2)]
        self.reduced = tile.acc_addr(tile.acc_banks + 2)
        self.values: dict[Leaf, np.ndarray] = {}
        width = TILES * tile.cols
        self._load(self.least.addr, np.full((ROWS, tile.cols), -np.inf, np.float32), 0)
        for elem in self.elems:
            self.values[elem] = self._load(elem.addr, random_values(rng, ROWS, width), ROWS)
        for col in self.cols:
            self.values[col] = self._load(col.addr, random_values(rng, 1, width), ROWS)
        for row in self.rows:
            padded = np.zeros(-(-ROWS // tile.cols) * tile.cols, np.float32)
            padded[:ROWS] = random_values(rng, 1, ROWS)
            self._load(row.addr, padded.reshape(-1, tile.cols), 0)
            self.values[row] = padded[:ROWS, None]

    def _load(self, addr: int, values: np.ndarray, pitch: int) -> np.ndarray:
        matrix = float_matrix(self.builder, f"at {addr}", *values.shape, lambda: values)
        self.emitter.load_rows(matrix, first_row=0, rows=len(values), addr=addr, pitch=pitch)
        return values

    def read(self, leaf: Leaf) -> np.ndarray:
        return self.values[replace(leaf, swap=0) if isinstance(leaf, Elem) else leaf]

    def run(self, statement: Assign) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What the reference simulator writes, and reduces to."""
        emitter, cols = self.emitter, self.tile.cols
        emitter.compute(self.shape, statement, temporaries=self.temporaries)
        if isinstance(statement.to, Elem):
            out = float_matrix(self.builder, "out", ROWS, TILES * cols)
            emitter.store_acc(out, first_row=0, rows=ROWS, first_byte=0, row_bytes=4 * TILES * cols, addr=self.to.addr,
                              pitch=ROWS)
            self.builder.output("out", out.addr, (ROWS, TILES * cols), "float32", row_stride=out.stride)
        elif statement.to is not None:
            out = code_matrix(self.builder, "out", ROWS, TILES * cols)
            emitter.store_codes(out, first_row=0, rows=ROWS, first_byte=0, row_bytes=TILES * cols,
                                addr=statement.to.addr, pitch=statement.to.pitch)
            self.builder.output("out", out.addr, (ROWS, TILES * cols), "uint8", row_stride=out.stride)
        if statement.reduce is not None:
            emitter.compute(Shape(rows=ROWS), Assign(to=self.elems[0], value=maximum(self.least, Row(self.reduced))))
            sums = float_matrix(self.builder, "reduced", ROWS, cols)
            emitter.store_acc(sums, first_row=0, rows=ROWS, first_byte=0, row_bytes=4 * cols, addr=self.elems[0].addr,
                              pitch=0)
            self.builder.output("reduced", sums.addr, (ROWS, cols), "float32", row_stride=sums.stride)
        program = self.builder.finish()
        verify(program)
        dram = run_reference(program, poison=True).dram
        found = {region.name: region.read(dram) for region in program.outputs}
        return found.get("out"), found.get("reduced")


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3e38, 2.0**-126], np.float32)


def random_values(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    values = (rng.standard_normal((rows, columns)) * np.exp2(rng.integers(-12, 9, (rows, columns)))).astype(np.float32)
    special = rng.random((rows, columns)) < 0.1
    return np.where(special, rng.choice(SPECIAL, (rows, columns)), values)


def trees(bench: Bench) -> st.SearchStrategy[Expr]:
    swapped = [replace(bench.elems[0], swap=s) for s in range(1, bench.tile.cols.bit_length())]
    leaf = st.one_of(st.sampled_from([*bench.elems, *swapped]), st.sampled_from([*bench.rows, *bench.cols]),
                     st.sampled_from([0.0, 0.3, -1.0, 256.0, 1e-30]).map(Imm))
    functions = [Func.EXP2, Func.RECIPROCAL, Func.RSQRT, Func.SIGMOID, Func.SILU]
    return st.recursive(leaf, lambda inner: st.one_of(
        st.builds(Binary, st.sampled_from(["*", "*", "+", "-", "max"]), inner, inner),
        st.builds(Apply, st.sampled_from(functions), inner)), max_leaves=6)


@pytest.mark.parametrize("tile", [NANO, SQUAT], ids=lambda tile: tile.name)
@hypothesis.settings(max_examples=40)
@hypothesis.given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_random_expressions_have_the_bits_of_their_instructions(tile: TileConfig, data, seed: int) -> None:
    bench = Bench(tile, np.random.default_rng(seed))
    pitch = align(TILES * tile.cols, max(tile.bus_bytes, tile.a_word_bytes)) // tile.lanes
    codes = [Codes(addr=0, pitch=pitch, quant=Quant.E4M3)]
    to = data.draw(st.sampled_from([bench.to, *codes, None]))
    kinds = [Reduce.MAX, Reduce.SUM, Reduce.ABSMAX, *([None] if to is not None else [])]
    kind = data.draw(st.sampled_from(kinds))
    reduce = None if kind is None else Reduction(kind, bench.reduced)
    statement = Assign(to=to, value=data.draw(trees(bench)), scale=data.draw(st.sampled_from([None, 0.5, 3e-3])),
                       reduce=reduce)
    expected = execute(statement, bench.read)
    try:
        written, reduced = bench.run(statement)
    except CompileError as error:
        assert "must be multiplied by" in str(error)
        hypothesis.reject()
    if to is not None:
        right = expected.values if expected.codes is None else expected.codes
        assert same_bits(written, np.broadcast_to(right, written.shape).copy())
    if reduce is not None:
        assert same_bits(reduced[:, 0].copy(), expected.reduced)


def test_a_function_times_a_factor_rounds_once() -> None:
    """exp2 below the smallest FP32 value, times a factor that brings it back."""
    values = np.linspace(-180, -160, 64, dtype=np.float32)[None]
    once = evaluate(exp2(A) * 2.0**100, lambda leaf: values)
    assert np.abs(once / np.exp2(values.astype(np.float64) + 100) - 1).max() < 2.0**-22
    assert not evaluate(exp2(A) + 0.0, lambda leaf: values).any()


def test_leaves_from_left_to_right() -> None:
    assert list(leaves(exp2(A * 2.0 - R) * K)) == [A, Imm(2.0), R, K]
