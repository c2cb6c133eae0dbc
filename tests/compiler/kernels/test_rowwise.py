"""The rowwise kernel: against float64, against the host's quantizers, bit for bit on every tile, schedule and level."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import Matrix, float_matrix, float_output
from tilescore.compiler.emitter import Emitter
from tilescore.compiler.graph.ops.rms_norm import rms_norm
from tilescore.compiler.kernels.rowwise import Rowwise, place_identity
from tilescore.compiler.kernels.rowwise_place import (
    TERM,
    CodesTarget,
    NormKind,
    NormRows,
    RowwiseProblem,
    padded_columns,
    rowwise_schedule,
)
from tilescore.compiler.logits import split_terms
from tilescore.compiler.operands import place_operand
from tilescore.compiler.quantize import made_factor, store
from tilescore.compiler.schedule import RowwiseSchedule
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, TALL, same_bits

EPS = 1e-5


@dataclass(kw_only=True)
class Case:
    """x (rows, n), perhaps y that is added, normalized; the outputs that are asked for."""

    rows: int
    n: int
    two: bool = False
    norm: bool = True
    centered: bool = False
    biased: bool = False
    floats: bool = True
    formats: tuple[str, ...] = ()
    terms: int = 0
    scale: float = 0.5
    seed: int = 0
    values: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        made = {name: rng.standard_normal((self.rows, self.n)) for name in "xy"}
        made["x"][:, 0] *= 30  # an outlier channel
        made["x"] += 3 * self.centered
        made["w"] = rng.uniform(0.5, 1.5, (1, self.n))
        made["b"] = rng.standard_normal((1, self.n))
        self.values = {name: value.astype(np.float32) for name, value in made.items()}

    def expected(self) -> np.ndarray:
        x, y = (self.values[name].astype(np.float64) for name in "xy")
        total = x + self.scale * y if self.two else x
        if self.centered:
            total = total - total.mean(axis=1, keepdims=True)
        return rms_norm(total, self.values["w"].astype(np.float64), EPS) + self.biased * self.values["b"] \
            if self.norm else total

    def factor(self, name: str) -> float:
        return made_factor(TENSOR_FORMATS[name], float(np.abs(self.expected()).max()))

    def program(self, tile: TileConfig, schedule: RowwiseSchedule | None = None) -> tuple[Program, dict[str, Any]]:
        """The program, and where the results are: matrices and operands."""
        builder = ProgramBuilder(tile)
        formats = tuple(TENSOR_FORMATS[name] for name in self.formats)
        columns = padded_columns(self.n, tile, *formats, *([TERM] if self.terms else []))

        def matrix(name: str, rows: int) -> Matrix:
            def fill() -> np.ndarray:
                return np.pad(self.values[name], ((0, 0), (0, columns - self.n)))
            return float_matrix(builder, name, rows, columns, fill if name in self.values else None)

        x, w = matrix("x", self.rows), matrix("w", 1)
        inputs = [x, matrix("y", self.rows)] if self.two else [x]
        where: dict[str, Any] = {"floats": matrix("floats", self.rows), "total": matrix("total", self.rows)}
        codes = []
        for name, tensor_format in zip(self.formats, formats, strict=True):
            where[name] = place_operand(builder, name, self.rows, columns, tensor_format, None)
            codes.append(CodesTarget(to=where[name], factor=self.factor(name)))
        if self.terms:
            where["terms"] = place_operand(builder, "terms", self.rows, self.terms * columns, TERM, None)
            codes.append(CodesTarget(to=where["terms"], factor=self.factor("e4m3"), terms=self.terms))
        kind = NormKind(centered=self.centered, biased=self.biased, masked=self.centered and columns != self.n)
        problem = RowwiseProblem(name="rowwise", rows=self.rows, columns=columns, inputs=len(inputs),
                                 norm=kind if self.norm else None,
                                 formats=tuple(dict.fromkeys((*formats, *([TERM] if self.terms else [])))),
                                 terms=self.terms, floats=self.floats)
        ones = float_matrix(builder, "ones", 1, columns, lambda: np.float32(np.arange(columns) < self.n)[None])
        norm = NormRows(weights=w, eps=EPS, features=self.n, bias=matrix("b", 1) if self.biased else None,
                        ones=ones if kind.masked else None, amax=float(max(np.abs(v).max() for v in (
            self.values["x"], self.values["x"] + np.float32(self.scale) * self.values["y"]))))
        Rowwise(Emitter(builder), problem, schedule or rowwise_schedule(tile, problem), inputs=inputs,
                scale=self.scale, total=where["total"] if self.two else None, norm=norm if self.norm else None,
                floats=where["floats"] if self.floats else None, codes=codes,
                identity=place_identity(builder) if self.terms else None).emit()
        float_output(builder, "floats", where["floats"], self.rows, self.n)
        float_output(builder, "total", where["total"], self.rows, self.n)
        program = builder.finish()
        verify(program)
        return program, where

    def play(self, tile: TileConfig, schedule: RowwiseSchedule | None = None) -> dict[str, np.ndarray]:
        """FP32 results and bytes of codes and scales, without padding, by name."""
        program, where = self.program(tile, schedule)
        dram = run_reference(program, poison=True).dram
        found = {region.name: region.read(dram) for region in program.outputs}
        for name, operand in where.items():
            if name in ("floats", "total"):
                continue
            terms = self.terms if name == "terms" else 1
            rows = dram[operand.matrix.addr:][:self.rows * operand.matrix.stride].reshape(self.rows, -1)
            held = rows[:, :operand.format.bytes_of(operand.k)].reshape(self.rows, terms, -1)
            found[name] = held[:, :, :operand.format.bytes_of(self.n)]
            if operand.scales is not None:
                table = dram[operand.scales.addr:][:self.rows * operand.scales.stride].reshape(self.rows, -1)
                found[f"{name} scales"] = table[:, :operand.format.scale_bytes_of(self.n)]
        return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(same_bits(np.ascontiguousarray(a[k]), np.ascontiguousarray(b[k])) for k in a)


WIDE = Case(rows=3, n=600, two=True, formats=("e4m3",), terms=3)


@cache
def wide(tile: TileConfig) -> dict[str, np.ndarray]:
    return WIDE.play(tile)


def test_norm_of_a_sum_equals_float64() -> None:
    found, expected = wide(NANO), WIDE.expected()
    assert np.abs(found["floats"] - expected).max() < 3e-6 * np.abs(expected).max()
    total = WIDE.values["x"] + np.float32(0.5) * WIDE.values["y"]
    assert np.abs(found["total"] - total).max() <= 2.0**-23 * np.abs(total).max()


def test_codes_are_those_of_the_host_s_quantizer() -> None:
    """Of the FP32 result of the same program; terms, of the products with the inverse factor."""
    found = wide(NANO)
    y = found["floats"]
    inverse = np.float32(1 / WIDE.factor("e4m3"))
    assert np.array_equal(found["e4m3"][:, 0], store(y * inverse, TERM, 1.0).codes)
    assert np.array_equal(found["terms"].transpose(1, 0, 2), np.stack(split_terms(y * inverse, 1.0, 3)))


@pytest.mark.parametrize("name", ["mxfp8", "nvfp4"])
def test_block_scales_are_those_of_the_host_s_quantizer(name: str) -> None:
    case = Case(rows=20, n=150, formats=(name,))
    found = case.play(EDGE)
    width = padded_columns(case.n, EDGE, TENSOR_FORMATS[name])
    padded = np.pad(found["floats"], ((0, 0), (0, width - case.n)))
    wanted = store(padded, TENSOR_FORMATS[name], case.factor(name))
    assert np.array_equal(found[name][:, 0], wanted.codes[:, :found[name].shape[2]])
    assert np.array_equal(found[f"{name} scales"], wanted.scales[:, :found[f"{name} scales"].shape[1]])


@pytest.mark.parametrize("tile", [EDGE, SQUAT, TALL], ids=lambda tile: tile.name)
def test_same_bits_on_every_tile(tile: TileConfig) -> None:
    assert same(wide(tile), wide(NANO))


@pytest.mark.parametrize("cut", [(1, 100), (3, 16), (2, 32)])
def test_same_bits_with_every_schedule(cut: tuple[int, int]) -> None:
    """Whole rows, and pieces of one or two blocks of squares."""
    found = WIDE.play(EDGE, RowwiseSchedule(m_tile=cut[0], n_tiles=cut[1]))
    assert same(found, wide(EDGE))


def test_layer_norm() -> None:
    """Float64's, also where the mean dwarfs what differs from it, and the same bits on every tile with every schedule:
    with columns behind the features that the mean must not fill."""
    case = Case(rows=3, n=600, centered=True, biased=True, formats=("e4m3",), two=True)
    found, expected = case.play(NANO), case.expected()
    assert np.abs(found["floats"] - expected).max() < 3e-6 * np.abs(expected).max()
    assert same(case.play(SQUAT), found) and same(case.play(EDGE), found)
    for m_tile, n_tiles in ((1, 100), (3, 16)):
        assert same(case.play(EDGE, RowwiseSchedule(m_tile=m_tile, n_tiles=n_tiles)), found)
    far = Case(rows=2, n=70, centered=True)
    far.values["x"] += np.float32(1e4)
    assert np.abs(far.play(EDGE)["floats"] - far.expected()).max() < 2e4 * 2.0**-23 * 2


def test_codes_alone_need_one_pass_less() -> None:
    """One VECTOR normalizes and quantizes; its codes are next to those of the rounded product."""
    alone, both = (Case(rows=9, n=70, floats=floats, formats=("e4m3",)) for floats in (False, True))
    counts = [sum(i.spec.name == "VECTOR" for i in case.program(NANO)[0].instructions) for case in (alone, both)]
    assert counts[0] < counts[1]
    a, b = (case.play(NANO)["e4m3"].astype(int) for case in (alone, both))
    assert (a != b).mean() < 0.01 and np.abs(a - b).max() <= 1


@pytest.mark.parametrize("case", [
    Case(rows=6, n=40, two=True, formats=("e4m3",), terms=2), Case(rows=3, n=300, formats=("e4m3",), floats=False),
    Case(rows=4, n=33, centered=True, biased=True, formats=("e4m3",), floats=False),
    Case(rows=7, n=24, norm=False, two=True), Case(rows=4, n=33, norm=False, floats=False, formats=("e4m3",)),
], ids=["sum-norm-terms", "norm-codes", "layer-norm", "sum", "codes"])  # fmt: skip
def test_levels_agree(case: Case) -> None:
    """Results and cycles at reference, timing and RTL level."""
    simulate(case.program(NANO)[0], LEVELS, backend="verilator")


def test_wrong_schedules() -> None:
    with pytest.raises(CompileError, match=r"n_tiles must be a multiple of 64, column tiles of 256 squares, or at"):
        WIDE.program(NANO, RowwiseSchedule(m_tile=1, n_tiles=100))
    with pytest.raises(CompileError, match=r"rowwise: no room for addends \(m_tile \* n_tiles\)"):
        WIDE.program(NANO, RowwiseSchedule(m_tile=3, n_tiles=64))
