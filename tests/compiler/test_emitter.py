"""The emitter: matrices and tiles to instructions, and what they do to the memories."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import Matrix, code_matrix, float_matrix, index_list
from tilescore.compiler.emitter import VECTOR_TILES, Emitter
from tilescore.compiler.operands import Operand
from tilescore.compiler.tiles.expr import Assign, Elem, Shape
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.isa import Dest, Instruction, Space
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.legality.verifier import verify
from tilescore.sim.reference.run import run_reference
from tilescore.tests.compiler.play import EDGE, NANO, TALL, TILES

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def emitted(emitter: Emitter) -> list[Instruction]:
    return emitter.builder.instructions


@pytest.fixture
def nano() -> Emitter:
    return Emitter(ProgramBuilder(NANO))


def test_addresses_of_a_matrix() -> None:
    matrix = Matrix(1000, 5, 40, 48)
    assert matrix.at() == 1000 and matrix.at(2) == 1096 and matrix.at(1, 7) == 1055


def test_a_load_takes_part_of_the_rows_and_columns(nano: Emitter) -> None:
    source = code_matrix(nano.builder, "a", 8, 64)
    nano.load_operand(Space.B, source, first_row=2, rows=3, addr=5, pitch=4, first_byte=32, row_bytes=16, label="x")
    load = emitted(nano)[0]
    assert (load.dram_addr, load.row_stride, load.rows, load.row_bytes) == (source.addr + 2 * 64 + 32, 64, 3, 16)
    assert (load.space, load.addr, load.pitch) == (Space.B, 5, 4) and nano.builder.labels == ["x"]


def test_rows_are_gathered_when_there_is_an_index(nano: Emitter) -> None:
    source = float_matrix(nano.builder, "f", 8, 4)
    nano.load_rows(source, first_row=0, rows=3, addr=0)
    nano.load_rows(source, first_row=0, rows=3, addr=0, index_addr=8)
    operand = Operand(code_matrix(nano.builder, "a", 8, 64), 64, TENSOR_FORMATS["e4m3"])
    nano.gather_operand(operand, index_addr=4, rows=2, addr=0, pitch=8)
    assert [i.spec.name for i in emitted(nano)] == ["LOAD", "GATHER", "GATHER"]
    assert [i.index_addr for i in emitted(nano)[1:]] == [8, 4] and emitted(nano)[2].row_bytes == 64


def test_index_lists_are_loaded_in_beats(nano: Emitter) -> None:
    source = index_list(nano.builder, "i", np.arange(12))
    nano.load_index(source, first=4, count=6, addr=8)
    load = emitted(nano)[0]
    assert (load.space, load.rows, load.row_bytes, load.addr) == (Space.INDEX, 1, 24, 8)
    assert load.dram_addr == source.addr + 16


def test_vector_defaults_change_nothing(nano: Emitter) -> None:
    nano.compute(Shape(rows=3), Assign(to=Elem(0), value=Elem(7), label="copy"))
    vector = emitted(nano)[0]
    assert (vector.y, vector.w, vector.z, vector.combine, vector.func) == (fp32_bits(1), fp32_bits(1), 0, 0, 0)
    assert (vector.dest, vector.dst_addr, vector.tiles, nano.builder.labels) == (Dest.ACC, 0, 1, ["copy"])


def test_the_limit_of_tiles_is_the_field(nano: Emitter) -> None:
    for tiles in (VECTOR_TILES, VECTOR_TILES + 1):
        nano.compute(Shape(rows=1, tiles=tiles), Assign(to=Elem(0), value=Elem(0)))
    assert not emitted(nano)[0].range_errors()
    assert emitted(nano)[1].range_errors() == [f"tiles = {VECTOR_TILES + 1}, allowed 0..{VECTOR_TILES}"]


# Stores that start anywhere ----------------------------------------------------------------------------


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=25)
@hypothesis.given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_codes_are_stored_from_any_byte_to_any_byte(tile: TileConfig, data: st.DataObject, seed: int) -> None:
    """Rows of A from any row and byte to any row and byte of DRAM: exactly those bytes change."""
    bus = tile.bus_bytes
    rows, from_row = data.draw(st.integers(1, tile.rows + 3)), data.draw(st.integers(0, 2 * tile.rows - 1))
    src, dst, size = (data.draw(st.integers(0, 3 * bus)) for _ in range(3))
    size, pitch_bytes = size % (2 * bus) + 1, 6 * max(bus, tile.cols)
    rng, builder = np.random.default_rng(seed), ProgramBuilder(tile)
    emitter, total = Emitter(builder), from_row + rows
    held = rng.integers(0, 256, (total, pitch_bytes), dtype=np.uint8)
    before = rng.integers(0, 256, (rows + 2, 6 * bus), dtype=np.uint8)
    source = code_matrix(builder, "a", total, pitch_bytes, lambda: held)
    target = code_matrix(builder, "out", rows + 2, 6 * bus, lambda: before)
    pitch = pitch_bytes // tile.lanes
    emitter.load_operand(Space.A, source, first_row=0, rows=total, addr=0, pitch=pitch)
    emitter.store_codes(target, first_row=1, rows=rows, first_byte=dst, row_bytes=size, addr=0, pitch=pitch,
                        src_byte=src, from_row=from_row)
    builder.output("out", target.addr, before.shape, "uint8")
    program = builder.finish()
    verify(program)
    expected = before.copy()
    expected[1:1 + rows, dst:dst + size] = held[from_row:, src:src + size]
    assert np.array_equal(program.outputs[0].read(run_reference(program).dram), expected)


def test_aligned_rows_are_stored_in_one_piece() -> None:
    for tile in (NANO, EDGE, TALL):
        emitter = Emitter(ProgramBuilder(tile))
        target = code_matrix(emitter.builder, "out", 4, 4 * tile.bus_bytes)
        emitter.store_codes(target, first_row=0, rows=4, first_byte=tile.bus_bytes, row_bytes=3 * tile.bus_bytes - 5,
                            addr=0, pitch=0)
        assert len(emitted(emitter)) == 1
        emitter.store_codes(target, first_row=0, rows=4, first_byte=1, row_bytes=2 * tile.bus_bytes, addr=0, pitch=0)
        assert all(i.row_bytes + i.src_byte <= tile.bus_bytes for i in emitted(emitter)[1:])
