"""Dependencies through DRAM of rows and of the scale bytes that come with them."""

from __future__ import annotations

import dataclasses

import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.isa import Gather, Instruction, Load, ScaleLayout, Scatter, Space, Store, Unit
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program

pytestmark = pytest.mark.usefixtures("all_written")

TILE = dataclasses.replace(load_tile("nano"), scales=("e8m0",))
ROWS, SCALES, OTHER = 0, 4096, 8192
"""Segments of 4096 bytes each."""


def build(*instructions: Instruction) -> Program:
    builder = ProgramBuilder(TILE)
    for name in ("rows", "scales", "other"):
        builder.dram(name, 4096)
    for instruction in instructions:
        builder.emit(instruction)
    program = builder.finish()
    verify(program)
    return program


def fields(**values) -> dict:
    return {"space": Space.A, "rows": 4, "row_bytes": 64, "row_stride": 64, "scale": ScaleLayout.G4,
            "scale_addr": SCALES, "scale_stride": 16} | values


BANK_1 = 1 << TILE.a_offset_bits


@pytest.mark.parametrize(("later", "waits"), [
    (Load(**fields(addr=BANK_1)), True),
    (Load(**fields(addr=BANK_1, dram_addr=1024)), True),
    (Load(**fields(addr=BANK_1, dram_addr=1024, scale_addr=SCALES + 64)), False),
    (Load(**fields(addr=BANK_1, dram_addr=OTHER, scale_addr=SCALES + 48, scale_stride=0)), True),
    (Load(**fields(addr=BANK_1, dram_addr=SCALES, scale=ScaleLayout.NONE, scale_addr=0, scale_stride=0)), True),
    (Gather(**fields(addr=BANK_1, dram_addr=OTHER, scale_addr=SCALES + 1024)), True),
])
def test_a_load_waits_for_stored_rows_and_scale_bytes(later: Instruction, waits: bool) -> None:
    for kind in (Store, Scatter) if waits else (Store,):
        first, second = build(kind(**fields()), dataclasses.replace(later)).instructions[:2]
        assert bool(second.wait_wr & 1 << Unit.STORE) == waits == bool(first.signal_wr & 1 << Unit.LOAD)


def test_a_store_waits_until_scale_bytes_are_loaded() -> None:
    load = Load(**fields(addr=BANK_1, dram_addr=OTHER))
    store = Store(**fields(dram_addr=SCALES, scale=ScaleLayout.NONE, scale_addr=0, scale_stride=0))
    first, second = build(load, store).instructions[:2]
    assert first.signal_wr & 1 << Unit.STORE and second.wait_wr & 1 << Unit.LOAD


def test_scale_bytes_must_be_inside_a_segment() -> None:
    with pytest.raises(CompileError, match="scale_addr: 4 rows of 2 bytes from 8160 are not inside one DRAM segment; "
                                           "'scales' ends at 8192"):
        build(Load(**fields(scale_addr=8160)))
