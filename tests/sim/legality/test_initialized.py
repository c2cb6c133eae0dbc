"""What instructions read and write, place by place: a byte less written than is read is refused, and named."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import (
    Dest,
    Gather,
    Halt,
    Instruction,
    Load,
    Pair,
    Quant,
    Reduce,
    Scale,
    ScaleLayout,
    Scatter,
    Source,
    Space,
    Store,
    Unit,
)
from tilescore.sim.legality.accesses import AccessTable
from tilescore.sim.legality.initialized import Initialized
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program, Segment
from tilescore.tests import instructions
from tilescore.tests.instructions import ONE

TILE = TileConfig(
    name="t", rows=4, cols=8, lanes=8, formats=("e4m3", "e4m3xe2m1", "e2m1"), scales=("e4m3", "e8m0", "fp32"),
    a_buffer_bytes=4 * 4 * 512, a_banks=4, b_buffer_bytes=8 * 4 * 512, b_banks=4, acc_banks=8, acc_bank_rows=16,
    stat_banks=4, stat_bank_rows=8, index_entries=64, imem_page=64, queue_depth=8, bus_bytes=16, dram_latency=20)
STAT = TILE.acc_addr(8)
"""First statistics row."""


def load(space: Space, rows: int, row_bytes: int, **fields: int) -> Load:
    return instructions.load(space=space, rows=rows, row_bytes=row_bytes, row_stride=512, **fields)


def store(space: Space, rows: int, row_bytes: int, **fields: int) -> Store:
    places = {"scale_addr": 4096 * bool(fields.get("scale")), "dram_addr": fields.get("src_byte", 0)}
    return instructions.store(**{"space": space, "rows": rows, "row_bytes": row_bytes, "row_stride": 512, **places,
                                 **fields})


matmul, vector = partial(instructions.matmul, m_rows=3), partial(instructions.vector, rows=3)


def add(*instructions: Instruction) -> None:
    run, table = Initialized(TILE), AccessTable(TILE)
    for instruction in instructions:
        run.add(instruction, table.of(instruction))


def refused(message: str, *instructions: Instruction) -> None:
    add(*instructions[:-1])
    with pytest.raises(ProgramError, match=re.escape(message + ", which no earlier instruction has written")):
        add(*instructions)


A_ROWS, B_ROWS = load(Space.A, 3, 16), load(Space.B, 8, 16)
RESULT = matmul()


def test_a_matmul_reads_its_rows_of_a_and_every_slice_of_b() -> None:
    add(A_ROWS, B_ROWS, RESULT)
    refused("a_addr: reads bytes 0..15, slices 2..2 of A", load(Space.A, 2, 16), B_ROWS, RESULT)
    refused("b_addr: reads bytes 0..15, slices 7..7 of B", A_ROWS, load(Space.B, 7, 16), RESULT)
    refused("b_addr: reads bytes 0..15, slices 0..2 of B", A_ROWS, load(Space.B, 5, 16, row_offset=3), RESULT)


@pytest.mark.parametrize("size", [1, 8, 15])
def test_bytes_behind_a_ragged_k_are_read(size: int) -> None:
    refused(f"a_addr: reads bytes {size}..15, slices 0..2 of A", load(Space.A, 3, size), B_ROWS, RESULT)
    refused(f"b_addr: reads bytes {size}..15, slices 0..7 of B", A_ROWS, load(Space.B, 8, size), RESULT)


def test_panels_and_column_tiles_are_told_apart() -> None:
    wide = matmul(m_rows=6, n_tiles=2, a_pitch=8, b_pitch=4, acc_pitch=6)
    b = load(Space.B, 16, 16, pitch=4)
    add(load(Space.A, 6, 16, pitch=8), b, wide)
    refused("a_addr: reads bytes 64..79, slices 1..1 of A", load(Space.A, 5, 16, pitch=8), b, wide)
    refused("b_addr: reads bytes 32..47, slices 4..7 of B", load(Space.A, 6, 16, pitch=8),
            load(Space.B, 12, 16, pitch=4), wide)


def test_half_a_group_of_b_serves_an_odd_step() -> None:
    """E2M1 codes of B beside E4M3 of A: three steps use one group and half of the next."""
    odd = matmul(pair=Pair.E4M3_E2M1, k_steps=3)
    add(load(Space.A, 3, 24), load(Space.B, 8, 12), odd)
    refused("b_addr: reads bytes 11..11, slices 0..7 of B", load(Space.A, 3, 24), load(Space.B, 8, 11), odd)


def test_scale_bytes_count_apart_from_their_codes() -> None:
    fields = {"k_steps": 8, "pair": Pair.E4M3, "scale": Scale.E8M0, "a_scaled": 1, "block": 2}
    scaled = load(Space.A, 3, 64, scale=ScaleLayout.G4, scale_stride=16)
    b = load(Space.B, 8, 64)
    add(scaled, b, matmul(**fields))
    refused("a_addr: reads scale bytes of groups 0..0, slices 0..2 of A", load(Space.A, 3, 64), b, matmul(**fields))
    half = load(Space.A, 3, 32, scale=ScaleLayout.G4, scale_stride=16)
    refused("a_addr: reads scale bytes of groups 4..4, slices 0..2 of A", load(Space.A, 3, 64), half, b,
            matmul(**fields))
    add(load(Space.A, 3, 64), b, matmul(k_steps=8))
    refused("scale: reads scale bytes of groups 2..2, slices 0..2 of A", scaled,
            store(Space.A, 3, 64, scale=ScaleLayout.G2, scale_stride=16))


def test_fp32_scales_are_four_bytes() -> None:
    fields = {"k_steps": 16, "scale": Scale.FP32, "a_scaled": 1, "block": 4}
    b = load(Space.B, 8, 128)
    add(load(Space.A, 3, 128, scale=ScaleLayout.FP32, scale_stride=16), b, matmul(**fields))
    refused("a_addr: reads scale bytes of groups 1..3, slices 0..2 of A",
            load(Space.A, 3, 128, scale=ScaleLayout.G4, scale_stride=16), b, matmul(**fields))


def test_a_merge_reads_every_plane() -> None:
    raw = matmul(raw=1)
    add(A_ROWS, B_ROWS, raw, matmul(merge=1))
    refused("acc_addr: reads rows 64..66, lanes 0..7 of ACC", A_ROWS, B_ROWS, RESULT, matmul(merge=1))


def test_a_row_maximum_is_read_unless_it_starts() -> None:
    fields = {"rowmax": 1, "rowmax_addr": STAT}
    add(A_ROWS, B_ROWS, matmul(rowmax_init=1, **fields), matmul(**fields))
    refused(f"rowmax_addr: reads rows {STAT}..{STAT}, lanes 0..2 of ACC", A_ROWS, B_ROWS, matmul(**fields))
    # A row more than the maxima that are there.
    refused(f"rowmax_addr: reads rows {STAT}..{STAT}, lanes 3..3 of ACC", load(Space.A, 4, 16), B_ROWS,
            matmul(rowmax_init=1, **fields), matmul(m_rows=4, **fields))


@pytest.mark.parametrize("reduce", [Reduce.NONE, Reduce.SUM])
def test_a_vector_reads_every_lane_of_every_tile(reduce: Reduce) -> None:
    one = vector(tiles=2, pitch=3, reduce=reduce, reduce_addr=STAT if reduce else 0)
    add(load(Space.ACC, 3, 64, pitch=3), one)
    refused("x_addr: reads rows 3..5, lanes 5..7 of ACC", load(Space.ACC, 3, 52, pitch=3), one)
    refused("x_addr: reads rows 2..2, lanes 0..7 of ACC", load(Space.ACC, 2, 64, pitch=3), one)


def test_operands_of_a_vector() -> None:
    x, row = load(Space.ACC, 10, 32), {"y_kind": Source.ROW, "y": STAT, "rows": 10}
    add(x, load(Space.ACC, 1, 32, addr=STAT), load(Space.ACC, 1, 8, addr=STAT + 1), vector(**row))
    refused(f"y: reads rows {STAT + 1}..{STAT + 1}, lanes 1..1 of ACC", x, load(Space.ACC, 1, 32, addr=STAT),
            load(Space.ACC, 1, 4, addr=STAT + 1), vector(**row))
    column = {"w_kind": Source.COLUMN, "w": STAT}
    refused(f"w: reads rows {STAT}..{STAT}, lanes 7..7 of ACC", x, load(Space.ACC, 1, 28, addr=STAT), vector(**column))
    bank_2 = TILE.acc_addr(2)
    refused(f"z: reads rows {bank_2 + 1}..{bank_2 + 2}, lanes 0..7 of ACC", x, load(Space.ACC, 1, 32, addr=bank_2),
            vector(z_kind=Source.ACC, z=bank_2))


def test_results_of_a_vector_are_written() -> None:
    x = load(Space.ACC, 3, 32)
    codes = vector(dest=Dest.A)
    add(x, codes, store(Space.A, 3, 8))
    refused("addr: reads bytes 8..8, slices 0..2 of A", x, codes, store(Space.A, 3, 9))
    sums = vector(reduce=Reduce.SUM, reduce_addr=STAT)
    add(x, sums, store(Space.ACC, 1, 12, addr=STAT))
    refused(f"addr: reads rows {STAT}..{STAT}, lanes 3..3 of ACC", x, sums,
            store(Space.ACC, 1, 16, addr=STAT))
    blocks = vector(tiles=4, pitch=3, dest=Dest.A, quant=Quant.NVFP4, z=ONE)
    rows = load(Space.ACC, 3, 128, pitch=3)
    scaled = store(Space.A, 3, 16, scale=ScaleLayout.G1, scale_stride=16)
    add(rows, blocks, scaled)
    refused("scale: reads scale bytes of groups 0..0, slices 0..2 of A", rows,
            vector(tiles=2, pitch=3, dest=Dest.A), scaled)


def test_a_store_reads_the_bytes_that_it_stores() -> None:
    a = load(Space.A, 3, 9)
    add(a, store(Space.A, 3, 5, src_byte=4))
    refused("addr: reads bytes 9..9, slices 0..2 of A", a, store(Space.A, 3, 5, src_byte=5))
    acc = load(Space.ACC, 3, 12)
    add(acc, store(Space.ACC, 3, 4, src_byte=8))
    refused("addr: reads rows 0..2, lanes 3..3 of ACC", acc, store(Space.ACC, 3, 4, src_byte=12))


def test_index_entries() -> None:
    index = Load(space=Space.INDEX, rows=1, row_bytes=20)
    for kind, fields in ((Gather, {}), (Scatter, {"row_stride": 16})):
        more = {"space": Space.A, "rows": 3, "row_bytes": 16} | fields
        add(index, load(Space.A, 3, 16), kind(**more, index_addr=2))
        refused("index_addr: reads entries 5..5 of INDEX", index, load(Space.A, 3, 16), kind(**more, index_addr=3))


def test_the_verifier_names_the_instruction() -> None:
    """The second of two programs on one tile, which would store what the first has left."""
    row = {"space": Space.A, "rows": 2, "row_bytes": 16, "row_stride": 16}
    store = Store(**row, dram_addr=64)
    loaded = [Load(**row, signal_wr=1 << Unit.STORE), dataclasses.replace(store, wait_wr=1 << Unit.LOAD)]

    def program(instructions: list) -> Program:
        return Program(config=TILE, instructions=[*instructions, Halt()], program_addr=128,
                       dram_bytes=128 + TILE.page_bytes, segments=[Segment("x", 0, np.arange(128, dtype=np.uint8))])

    verify(program(loaded))
    with pytest.raises(ProgramError, match=r"instruction 0 \(STORE\): addr: reads bytes 0\.\.15, slices 0\.\.1 of A"):
        verify(program([store]))
