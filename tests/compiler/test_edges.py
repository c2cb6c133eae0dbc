"""Ragged edges are cleared before the program, those that it reads and no others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Dest, Load, Matmul, Scale, ScaleLayout, Space, Store, Vector
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference

NANO = load_tile("nano")
EVERY = dataclasses.replace(NANO, name="scaled", scales=("e8m0", "fp32"))
FP32 = dataclasses.replace(NANO, name="fp32 scales", scales=("fp32",))
ONE = fp32_bits(1.0)
SIZE = 4096


def build(*instructions, tile: TileConfig = NANO, padding: tuple[int, int] | None = None) -> Program:
    """``instructions`` read "x" at 0, and store to "y" at SIZE."""
    builder = ProgramBuilder(tile)
    codes = np.random.default_rng(0).integers(0x28, 0x48, SIZE, dtype=np.uint8)
    builder.dram("x", data=codes)
    builder.output("y", builder.dram("y", SIZE).addr, (SIZE,), "uint8")
    for instruction in instructions:
        builder.emit(dataclasses.replace(instruction))
    if padding:
        builder.padding(*padding)
    return builder.finish()


def clears(program: Program) -> list[Load]:
    return [i for i, label in zip(program.instructions, program.labels, strict=True) if label == "clear edge"]


def check(program: Program) -> None:
    """Verified, and its result does not depend on what the memories held."""
    verify(program)
    clean, poisoned = run_reference(program), run_reference(program, poison=True)
    assert np.array_equal(clean.dram, poisoned.dram) and clean.status == poisoned.status
    assert program.outputs[0].read(clean.dram).any()


A_ROWS = Load(space=Space.A, rows=4, row_bytes=32, row_stride=32)
B_ROWS = Load(space=Space.B, rows=3, row_bytes=32, row_stride=32)
PRODUCT = Matmul(k_steps=4, m_rows=4, n_tiles=1)
RESULT = Store(space=Space.ACC, rows=4, row_bytes=12, row_stride=16, dram_addr=SIZE)


def test_columns_without_data() -> None:
    """Only the slice that no row of B fills, and only as far as it is read."""
    program = build(A_ROWS, B_ROWS, PRODUCT, RESULT)
    assert [(i.space, i.row_offset, i.rows, i.addr, i.row_bytes) for i in clears(program)] == [
        (Space.B, 3, 1, 0, 32)]
    check(program)


def test_what_is_written_before_is_not_cleared() -> None:
    full = dataclasses.replace(B_ROWS, rows=4)
    assert not clears(build(A_ROWS, full, B_ROWS, PRODUCT, RESULT))
    late = build(A_ROWS, B_ROWS, PRODUCT, full, RESULT)
    assert len(clears(late)) == 1
    check(late)


def test_lanes_and_rows_of_statistics() -> None:
    stat = NANO.acc_addr(NANO.acc_banks)
    sums = Vector(rows=3, tiles=1, y=ONE, w=ONE, reduce=2, reduce_addr=stat)
    doubled = Vector(rows=1, tiles=1, x_addr=stat, y=fp32_bits(2.0), w=ONE, dest=Dest.ACC, dst_addr=stat)
    rows = Load(space=Space.ACC, rows=3, row_bytes=12, row_stride=16)
    program = build(rows, sums, doubled, Store(space=Space.ACC, rows=1, row_bytes=12, addr=stat, dram_addr=SIZE))
    assert [(i.space, i.addr, i.rows, i.row_bytes) for i in clears(program)] == [
        (Space.ACC, 0, 3, 16), (Space.ACC, stat, 1, 16)]
    check(program)


@pytest.mark.parametrize("tile", [EVERY, FP32], ids=lambda tile: tile.name)
def test_scale_bytes_of_columns_without_data(tile: TileConfig) -> None:
    scales = {"scale": ScaleLayout.FP32, "scale_addr": 2048, "scale_stride": 16}
    a = Load(space=Space.A, rows=4, row_bytes=256, row_stride=256)
    b = Load(space=Space.B, rows=2, row_bytes=256, row_stride=256, **scales)
    product = Matmul(k_steps=32, m_rows=4, n_tiles=1, scale=Scale.FP32, b_scaled=1, block=4)
    program = build(a, b, product, RESULT, tile=tile)
    assert any(i.scale for i in clears(program)) and all(i.row_offset == 2 for i in clears(program))
    check(program)


def test_padding_is_named() -> None:
    """A column tile without any data counts as an edge only when the lowering says so."""
    full = dataclasses.replace(B_ROWS, rows=4)
    wide = dataclasses.replace(PRODUCT, n_tiles=2, b_pitch=4, acc_pitch=4)
    with pytest.raises(ProgramError, match=r"b_addr: reads bytes 32\.\.63, slices 0\.\.3 of B"):
        verify(build(A_ROWS, full, wide, RESULT))
    check(build(A_ROWS, full, wide, RESULT, padding=(4, 4)))


def test_mistakes_are_left_to_the_verifier() -> None:
    full = dataclasses.replace(B_ROWS, rows=4)
    for instructions in ((A_ROWS, PRODUCT), (full, PRODUCT), (RESULT,), (A_ROWS, full, PRODUCT, Matmul(
            k_steps=5, m_rows=4, n_tiles=1, acc_addr=8))):
        program = build(*instructions)
        assert not clears(program)
        with pytest.raises(ProgramError, match="which no earlier instruction has written"):
            verify(program)
