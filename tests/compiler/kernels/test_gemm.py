"""The GEMM loop nest: any legal schedule gives the bits of the exact product, rounded once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tilescore.compiler.auto_gemm import gemm_schedule
from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import code_matrix, float_matrix, float_output
from tilescore.compiler.emitter import Emitter
from tilescore.compiler.kernels.gemm import SINGLE, GemmProblem, Group, Products, emit_gemm
from tilescore.compiler.operands import Operand
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tiles.buffers import Buffer, Memory, align, fits, place
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.numerics.arithmetic import exact_matmul_e4m3, round_acc_to_fp32
from tilescore.sim.program import Program
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EDGE, NANO, TILES, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def operand(builder: ProgramBuilder, name: str, rows: int, k: int, codes: np.ndarray | None = None) -> Operand:
    """An E4M3 operand of ``k`` codes per row, padded to the bus."""
    matrix = code_matrix(builder, name, rows, k, None if codes is None else lambda: codes)
    return Operand(matrix, matrix.row_bytes, TENSOR_FORMATS["e4m3"])


def gemm_problem(tile: TileConfig, m: int, n: int, k: int, products: Products = SINGLE) -> GemmProblem:
    """C (m, n) of E4M3 operands; k: elements of all terms of A."""
    terms, plain = 1 + max(i for i, _ in products), TENSOR_FORMATS["e4m3"]
    padded = align(k, tile.bus_bytes) // terms
    return GemmProblem(name="c", m=m, n=n, k=padded, layer_k=padded, a=plain, b=plain, products=products)


def random_codes(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Codes of every magnitude, both zeros and subnormals included, without NaN."""
    codes = rng.integers(0, 127, (rows, columns), dtype=np.uint8)
    return codes | rng.integers(0, 2, codes.shape, dtype=np.uint8) << 7


def matmul_program(tile: TileConfig, schedule: GemmSchedule, a: np.ndarray, b: np.ndarray,
                   products: Products = SINGLE) -> Program:
    """C = A @ B.T of codes (m, k) and (n, k), FP32 with no scale; with ``products``, terms lie side by side."""
    builder = ProgramBuilder(tile)
    emitter = Emitter(builder)
    (m, k), n = a.shape, len(b)
    left, right = operand(builder, "a", m, k, a), operand(builder, "b", n, b.shape[1], b)
    out = float_matrix(builder, "out", m, n)
    problem = gemm_problem(tile, m, n, k, products)

    def store(group: Group) -> None:
        width = min(group.tiles * tile.cols, n - group.n0)
        emitter.store_acc(out, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0, row_bytes=4 * width,
                          addr=group.addr, pitch=group.pitch)

    regions = place(problem.buffers(schedule, tile), tile, "c")
    emit_gemm(emitter, problem, schedule, left, right, regions, store)
    float_output(builder, "out", out, m, n)
    return builder.finish()


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total, nan = exact_matmul_e4m3(a, b)
    return round_acc_to_fp32(total, -18, nan)


def instructions(program: Program, name: str) -> list:
    return [i for i in program.instructions if i.spec.name == name]


@st.composite
def schedules(draw: st.DrawFn, tile: TileConfig) -> GemmSchedule:
    """Schedules that fit the tile for m, n, k of `sizes`: also two groups of raw results side by side."""
    n_tiles = draw(st.integers(1, 3))
    m_tile, group_tiles = draw(st.integers(1, 2 * tile.rows)), n_tiles * draw(st.integers(1, 3))
    groups = Buffer(name="c", memory=Memory.ACC, sizes=(m_tile * group_tiles,), least=2, most=2, raw=True)
    hypothesis.assume(fits([groups], tile))
    return GemmSchedule(m_tile=m_tile, k_tile=tile.bus_bytes * draw(st.integers(1, 6)), n_tiles=n_tiles,
                        group_tiles=group_tiles, a_resident=draw(st.booleans()), k_outer=draw(st.booleans()))


sizes = st.tuples(st.integers(1, 21), st.integers(1, 70), st.integers(1, 200))


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=15)
@hypothesis.given(data=st.data(), size=sizes, seed=st.integers(0, 2**32 - 1))
def test_schedules_give_identical_bits(tile: TileConfig, data: st.DataObject, size: tuple[int, int, int],
                                       seed: int) -> None:
    """Tile sizes, loop order, split-K, streamed or resident A, and exchanged operands: one result."""
    (m, n, k), rng = size, np.random.default_rng(seed)
    a, b = random_codes(rng, m, k), random_codes(rng, n, k)
    first, second, turned = (data.draw(schedules(tile)) for _ in range(3))
    result = play(matmul_program(tile, first, a, b))
    assert same_bits(result, product(a, b))
    assert same_bits(result, play(matmul_program(tile, second, a, b)))
    assert same_bits(result, play(matmul_program(tile, turned, b, a)).T.copy())


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=20)
@hypothesis.given(data=st.data(), beats=st.integers(1, 6), a_terms=st.integers(1, 3), b_terms=st.integers(1, 3),
                  m=st.integers(1, 12), n=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_terms_are_summed_in_one_accumulator(tile: TileConfig, data: st.DataObject, beats: int, a_terms: int,
                                             b_terms: int, m: int, n: int, seed: int) -> None:
    """Any set of pairs that uses the last term of A: the exact sum of their products, rounded once."""
    k, rng = beats * tile.bus_bytes, np.random.default_rng(seed)
    schedule = data.draw(schedules(tile))
    panels = -(-min(schedule.m_tile, m) // tile.rows)
    hypothesis.assume(2 * panels * a_terms * k // tile.lanes <= tile.a_banks * tile.a_bank_groups)
    others = data.draw(st.sets(st.tuples(st.integers(0, a_terms - 1), st.integers(0, b_terms - 1)), max_size=6))
    products = sorted(others | {(a_terms - 1, 0)}, reverse=data.draw(st.booleans()))
    a, b = random_codes(rng, m, a_terms * k), random_codes(rng, n, b_terms * k)
    pairs = [(a[:, i * k:(i + 1) * k], b[:, j * k:(j + 1) * k]) for i, j in products]
    expected = product(*(np.concatenate(side, axis=1) for side in zip(*pairs, strict=True)))
    assert same_bits(play(matmul_program(tile, schedule, a, b, products)), expected)


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=40)
@hypothesis.given(size=sizes, seed=st.integers(0, 2**32 - 1))
def test_chosen_schedules_give_the_same_bits_too(tile: TileConfig, size: tuple[int, int, int], seed: int) -> None:
    (m, n, k), rng = size, np.random.default_rng(seed)
    a, b = random_codes(rng, m, k), random_codes(rng, n, k)
    problem = gemm_problem(tile, m, n, k)
    schedule = gemm_schedule(tile, problem, "c", lambda schedule: problem.buffers(schedule, tile))
    assert same_bits(play(matmul_program(tile, schedule, a, b)), product(a, b))


def test_nan_codes_reach_their_rows_and_columns_in_every_schedule(rng: np.random.Generator) -> None:
    a, b = random_codes(rng, 9, 40), random_codes(rng, 11, 40)
    a[4, 7], b[2, 39] = 0x7F, 0xFF
    for k_tile, k_outer in ((48, False), (16, False), (16, True)):
        schedule = GemmSchedule(m_tile=4, k_tile=k_tile, n_tiles=1, group_tiles=2, k_outer=k_outer)
        result = play(matmul_program(NANO, schedule, a, b))
        assert same_bits(result, product(a, b))
        assert np.isnan(result[4]).all() and np.isnan(result[:, 2]).all() and np.isnan(result).sum() == 9 + 11 - 1


def test_split_k_keeps_raw_partials(rng: np.random.Generator) -> None:
    """Three chunks: the first starts the accumulators, the last rounds them, and they stay raw in between."""
    a, b = random_codes(rng, 4, 48), random_codes(rng, 4, 48)
    schedule = GemmSchedule(m_tile=4, k_tile=16, n_tiles=1, group_tiles=1)
    steps = [(i.merge, i.raw) for i in instructions(matmul_program(NANO, schedule, a, b), "MATMUL")]
    assert steps == [(0, 1), (1, 1), (1, 0)]


@pytest.mark.parametrize("k_outer, expected", [(False, 6), (True, 3)])
def test_streamed_a_is_read_once_per_group_when_k_is_outside(k_outer: bool, expected: int,
                                                            rng: np.random.Generator) -> None:
    """Two column tiles and three chunks of k: A's chunks are loaded for each tile, or once."""
    a, b = random_codes(rng, 4, 48), random_codes(rng, 8, 48)
    schedule = GemmSchedule(m_tile=4, k_tile=16, n_tiles=1, group_tiles=2, a_resident=False, k_outer=k_outer)
    program = matmul_program(NANO, schedule, a, b)
    loads = Counter(label.split()[1] for label in program.labels if " m0" in label and label.split()[1] == "a")
    assert loads["a"] == expected
    assert same_bits(play(program), product(a, b))


def test_b_is_read_once_per_block_of_rows(rng: np.random.Generator) -> None:
    a, b = random_codes(rng, 12, 32), random_codes(rng, 20, 32)
    for m_tile, times in ((4, 3), (8, 2), (12, 1), (100, 1)):
        schedule = GemmSchedule(m_tile=m_tile, k_tile=32, n_tiles=1, group_tiles=1)
        program = matmul_program(NANO, schedule, a, b)
        rows = sum(i.rows for i, label in zip(program.instructions, program.labels, strict=True)
                   if label.startswith("c b"))
        assert rows == times * 20


def test_loads_run_ahead_of_the_array(rng: np.random.Generator) -> None:
    """Pieces of B rotate: with room for two or more of them the cycles are well below load plus multiply."""
    a, b = random_codes(rng, 16, 512), random_codes(rng, 256, 512)
    free = GemmSchedule(m_tile=16, k_tile=512, n_tiles=1, group_tiles=1)
    tight = GemmSchedule(m_tile=16, k_tile=512, n_tiles=16, group_tiles=16)
    rotating, blocked = (time_program(matmul_program(EDGE, s, a, b)).ledger["matrix"] for s in (free, tight))
    assert rotating["wait_load"] < blocked["wait_load"]


@pytest.mark.parametrize("schedule, message", [
    ({"k_tile": 24}, r"c: k = 64 and k_tile = 24 must be multiples of 16 elements"),
    ({"m_tile": 1, "n_tiles": 64, "group_tiles": 64},
     r"c: no room for c B piece \(n_tiles, k_tile\) in buffer B: 512 groups per slice, 256 free"),
    ({"group_tiles": 30}, r"c: no room for c result group \(group_tiles of m_tile rows\): 480 accumulator rows need 30 "
                          r"banks of 16 rows; free banks: \[0, 1, .*15\]"),
    ({"m_tile": 200, "n": 4}, r"c: no room for c A block \(m_tile rows\) in buffer A: 400 groups per slice, "
                              r"256 free"),
    ({"k_tile": 16, "group_tiles": 9}, r"c: no room for c result group .*: 144 accumulator rows with raw partials need "
                                       r"18 banks"),
], ids=["k_tile", "b piece", "acc", "a", "raw"])
def test_what_does_not_fit_names_the_key_and_the_limit(schedule: dict, message: str) -> None:
    codes = np.zeros((200, 64), np.uint8)
    fields = {"m_tile": 16, "k_tile": 64, "n_tiles": 1, "group_tiles": 1, "n": 200} | schedule
    n = fields.pop("n")
    with pytest.raises(CompileError, match=message):
        matmul_program(NANO, GemmSchedule(**fields), codes, codes[:n])
