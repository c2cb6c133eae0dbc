"""What single instructions touch, and the rules that each must keep on its own."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import pytest

from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Dest, Func, Gather, Reduce, Scatter, Source, Space, Store
from tilescore.sim.legality.accesses import AccessTable, accesses
from tilescore.sim.lib.strided import Strided
from tilescore.tests import instructions
from tilescore.tests.instructions import load

TILE = TileConfig(name="t", rows=4, cols=4, lanes=8, a_buffer_bytes=4 * 4 * 16 * 5, a_banks=4, b_buffer_bytes=8192,
                  b_banks=4, acc_banks=8, acc_bank_rows=11, stat_banks=2, stat_bank_rows=5, index_entries=64,
                  imem_page=32, bus_bytes=16, dram_latency=20)
"""Banks: A 0..3 with 10 groups, B 4..7 with 64, ACC 8..15 with 11 rows, statistics 16..17 with 5 rows."""



def bank_list(mask: int) -> list[int]:
    return [bank for bank in range(mask.bit_length()) if mask >> bank & 1]


def acc(bank: int, row: int = 0) -> int:
    return TILE.acc_addr(bank, row)


matmul = partial(instructions.matmul, acc_addr=acc(0))
vector = partial(instructions.vector, x_addr=acc(0))


def test_a_load_of_two_panels() -> None:
    touched = accesses(load(rows=5, addr=16, pitch=4), TILE)
    assert touched.reads == () and touched.read_banks == 0
    assert touched.writes[0].run == Strided(16, 2, 4, 2)
    assert bank_list(touched.write_banks) == [1]
    assert touched.banks == ((1, True),)


def test_row_offset_moves_rows_to_the_next_panel() -> None:
    assert accesses(load(rows=4, row_offset=1, pitch=2), TILE).writes[0].run.blocks == 2


def test_a_matmul_reads_panels_and_column_tiles() -> None:
    touched = accesses(matmul(a_addr=16, m_rows=6, a_pitch=4, b_addr=64, b_pitch=64, n_tiles=2, acc_pitch=16), TILE)
    assert bank_list(touched.read_banks) == [1, 5, 6]
    assert bank_list(touched.write_banks) == [8, 9]


def test_raw_and_merge_use_every_plane() -> None:
    touched = accesses(matmul(raw=1, merge=1, acc_addr=acc(1)), TILE)
    assert bank_list(touched.write_banks) == [9, 13]
    assert bank_list(touched.read_banks) == [0, 4, 9, 13]


def test_merge_alone_reads_planes_and_writes_one() -> None:
    touched = accesses(matmul(merge=1, acc_addr=acc(1)), TILE)
    assert bank_list(touched.write_banks) == [9] and bank_list(touched.read_banks) == [0, 4, 9, 13]


def test_row_maximum_reads_and_writes_its_statistics() -> None:
    touched = accesses(matmul(m_rows=6, rowmax=1, rowmax_addr=acc(8, 1)), TILE)
    assert touched.writes[-1].run == Strided(acc(8, 1), 2) == touched.reads[-1].run


def test_vector_operands_and_results() -> None:
    touched = accesses(vector(rows=6, tiles=2, pitch=16, y_kind=Source.ROW, y=acc(8), z_kind=Source.COLUMN,
                              z=acc(4), dest=Dest.A, dst_addr=1, dst_pitch=2, reduce=Reduce.SUM,
                              reduce_addr=acc(9, 3)), TILE)
    assert {a.role: a.run for a in touched.reads} == {
        "x_addr": Strided(0, 6, 16, 2), "y": Strided(acc(8), 2), "z": Strided(acc(4), 1, 16, 2)}
    assert {a.role: a.run for a in touched.writes} == {
        "dst_addr": Strided(1, 1, 2, 2), "reduce_addr": Strided(acc(9, 3), 2)}
    assert bank_list(touched.read_banks) == [8, 9, 12, 13, 16] and bank_list(touched.write_banks) == [0, 17]


def test_indices_and_pages() -> None:
    gather = accesses(Gather(space=Space.B, rows=3, row_bytes=8, index_addr=5), TILE)
    assert gather.index_read == Strided(5, 3) and bank_list(gather.write_banks) == [4]
    index = accesses(load(space=Space.INDEX, rows=1, row_bytes=20, addr=4), TILE)
    assert index.index_write == Strided(4, 8) and index.banks == ()
    page = accesses(load(space=Space.PROGRAM, rows=1, row_bytes=1024, addr=32), TILE)
    assert page.program_write == Strided(32, 32)


def test_stores_read() -> None:
    store = Store(space=Space.ACC, rows=4, row_bytes=4, row_stride=16, src_byte=8, addr=acc(2, 3))
    touched = accesses(store, TILE)
    assert touched.writes == () and touched.reads[0].run == Strided(acc(2, 3), 4)


def test_equal_shapes_share_one_answer() -> None:
    table = AccessTable(TILE)
    first = table.of(matmul(mask=1, mask_base=3, wait_rd=1))
    assert table.of(matmul(mask=1, mask_base=-4)) is first
    assert table.of(matmul(mask=1, k_steps=3)) is not first
    with pytest.raises(ProgramError, match="pair"):
        table.of(matmul(mask=1, pair=1))
    assert [table.bank_name(bank) for bank in (0, 4, 8, 17)] == [
        "bank 0 of A", "bank 0 of B", "bank 0 of ACC", "bank 9 of ACC"]


def test_a_destination_may_be_an_operand() -> None:
    accesses(vector(rows=5, tiles=2, pitch=16, dest=Dest.ACC, dst_addr=acc(0), dst_pitch=16), TILE)
    accesses(vector(z_kind=Source.ACC, z=acc(1), dest=Dest.ACC, dst_addr=acc(1), dst_pitch=9), TILE)


def test_depths_that_are_powers_of_two_are_contiguous() -> None:
    even = dataclasses.replace(TILE, acc_bank_rows=16)
    touched = accesses(matmul(m_rows=20), even)
    assert bank_list(touched.write_banks) == [8, 9]


WRONG = [
    (load(scale=1), "scale: tile t does not build G1"),
    (load(space=Space.INDEX, rows=1, scale=5), "scale: tile t does not build FP32"),
    (load(scale_addr=16), "scale_addr and scale_stride must be 0 without scales, got 16 and 0"),
    (matmul(pair=3), "pair: tile t does not build E2M1"),
    (matmul(scale=2), "scale: tile t does not build E8M0"),
    (vector(quant=5), "quant: tile t does not build NVFP4"),
    (load(rows=0), "rows must be at least 1"),
    (load(row_bytes=0), "row_bytes must be at least 1"),
    (load(rows=1 << 16), "rows = 65536, allowed 0..65535"),
    (load(dram_addr=8), "dram_addr must be a multiple of bus_bytes (16), got 8"),
    (load(dram_addr=1 << 40), "dram_addr = 1099511627776, allowed 0..1099511627775"),
    (load(row_stride=24), "row_stride must be a multiple of bus_bytes (16) below 2**32, got 24"),
    (load(addr=1), "addr must be a multiple of 2 groups (a bus beat), got 1"),
    (load(rows=5, pitch=3), "pitch must be a multiple of 2 groups (a bus beat), got 3"),
    (load(rows=5, pitch=2, row_bytes=32), "pitch: 2 panels of 4 groups overlap, 2 groups apart"),
    (load(row_offset=4), "row_offset must be below 4 in A, got 4"),
    (load(addr=8, row_bytes=32), "addr: addresses 8..11 run to offset 11 in bank 0 of A, which has offsets 0..9"),
    (load(addr=64), "addr: address 65 lies in bank 4 of A, which has banks 0..3"),
    (load(space=Space.B, addr=256), "addr: address 257 lies in bank 4 of B, which has banks 0..3"),
    (load(space=Space.ACC, row_bytes=6), "row_bytes and src_byte must be multiples of 4 in ACC, got 6 and 0"),
    (load(space=Space.ACC, row_offset=1), "row_offset must be 0 in ACC, got 1"),
    (load(space=Space.ACC, row_bytes=32, pitch=3), "pitch: 2 chunks of 4 ACC rows overlap, 3 rows apart"),
    (load(space=Space.ACC, addr=acc(8, 2)), "addr: addresses 130..133 run to offset 5 in bank 8 of ACC, which has "
                                            "offsets 0..4"),
    (load(space=Space.INDEX, rows=2), "rows must be 1, row_offset and pitch 0 in INDEX, got 2, 0, 0"),
    (load(space=Space.INDEX, rows=1, row_bytes=6), "row_bytes must be a multiple of 4 in INDEX, got 6"),
    (load(space=Space.INDEX, rows=1, addr=2), "addr must be a multiple of 4 entries (a bus beat), got 2"),
    (load(space=Space.INDEX, rows=1, row_bytes=36, addr=56), "addr: entries 56..67, the index memory has 64"),
    (load(space=Space.PROGRAM, rows=1, row_bytes=512), "row_bytes must be a page of 1024 bytes, got 512"),
    (load(space=Space.PROGRAM, rows=1, row_bytes=1024, addr=4), "addr must be the start of a page, 0 or 32, got 4"),
    (Gather(space=Space.PROGRAM, rows=1, row_bytes=1024), "space: GATHER cannot write PROGRAM"),
    (Gather(space=Space.A, rows=4, row_bytes=1, index_addr=61), "index_addr: entries 61..64 are needed, the index "
                                                                "memory has 64"),
    (Store(space=Space.B, rows=1, row_bytes=4), "space: STORE cannot read B; allowed: A, ACC"),
    (Scatter(space=Space.INDEX, rows=1, row_bytes=4), "space: SCATTER cannot read INDEX; allowed: A, ACC"),
    (Store(space=Space.A, rows=1, row_bytes=4, src_byte=13), "src_byte: rows of 4 bytes that start at byte 13 of a "
                                                             "beat must end in that beat of 16 bytes"),
    (Store(space=Space.A, rows=1, row_bytes=20, dram_addr=4), "dram_addr: rows of 20 bytes that start at byte 4 of a "
                                                              "beat must end in that beat"),
    (Store(space=Space.A, rows=2, row_bytes=20, row_stride=16), "row_stride: rows of 20 bytes overlap in DRAM, 16"),
    (matmul(k_steps=0), "k_steps must be at least 1"),
    (matmul(m_rows=0), "m_rows must be at least 1"),
    (matmul(n_tiles=0), "n_tiles must be at least 1"),
    (matmul(n_tiles=2, acc_pitch=3), "acc_pitch: column tiles of 4 result rows overlap, 3 ACC rows apart"),
    (matmul(a_addr=9), "a_addr: addresses 9..10 run to offset 10 in bank 0 of A, which has offsets 0..9"),
    (matmul(b_addr=255), "b_addr: address 256 lies in bank 4 of B, which has banks 0..3"),
    (matmul(m_rows=12), "acc_addr: addresses 0..11 run to offset 11 in bank 0 of ACC, which has offsets 0..10"),
    (matmul(raw=1, acc_addr=acc(4)), "acc_addr: raw results reach ACC row 67, raw rows must start in the banks of "
                                     "plane 0, 0..3"),
    (matmul(raw=1, mask=1), "mask needs FP32 results, but raw is 1"),
    (matmul(raw=1, rowmax=1, rowmax_addr=acc(8)), "rowmax needs FP32 results, but raw is 1"),
    (matmul(rowmax=1, rowmax_addr=acc(0, 8)), "rowmax_addr: must not share a bank with acc_addr, both use bank 0 of "
                                              "ACC"),
    (matmul(mask_base=1 << 19), "mask_base = 524288, allowed -524288..524287"),
    (matmul(mask_low_base=-(1 << 20)), "mask_low_base = -1048576, allowed -524288..524287"),
    (matmul(mask_low=1, raw=1), "mask_low needs FP32 results, but raw is 1"),
    (vector(rows=0), "rows must be at least 1"),
    (vector(tiles=0), "tiles must be at least 1"),
    (vector(x_swap=3), "x_swap must be 0..2, got 3"),
    (vector(func=Func.SILU, w_kind=Source.ROW, w=acc(8)), "w_kind must be IMM when func is SILU"),
    (vector(x_addr=acc(9, 2)), "x_addr: addresses 146..149 run to offset 5 in bank 9 of ACC"),
    (vector(y_kind=Source.ACC, y=acc(0, 5)), "y: must not share a bank with x_addr, both use bank 0 of ACC"),
    (vector(z_kind=Source.ROW, z=acc(8), w_kind=Source.COLUMN, w=acc(8, 1)), "w: must not share a bank with z"),
    (vector(dest=Dest.ACC, dst_addr=acc(0, 2)), "dst_addr: the destination overlaps operand x_addr"),
    (vector(rows=2, tiles=2, pitch=3, dest=Dest.ACC, dst_pitch=2), "dst_addr: the destination overlaps operand x"),
    (vector(rows=2, y_kind=Source.ROW, y=acc(8), dest=Dest.ACC, dst_addr=acc(8)), "dst_addr: the destination "
                                                                                   "overlaps operand y"),
    (vector(tiles=2, pitch=16, dest=Dest.ACC, dst_addr=acc(4), dst_pitch=3), "dst_pitch: column tiles of 4 rows "
                                                                             "overlap, 3 ACC rows apart"),
    (vector(rows=5, tiles=3, pitch=16, dest=Dest.A, dst_pitch=1), "dst_pitch: panels of 2 groups overlap, 1 groups"),
    (vector(dest=Dest.ACC, dst_addr=acc(2), reduce=Reduce.MAX, reduce_addr=acc(2, 9)), "reduce_addr: must not share a "
                                                                                       "bank with dst_addr"),
    (vector(reduce=Reduce.MAX, reduce_addr=acc(0, 2)), "reduce_addr: rows 2..2 overlap operand x_addr"),
]


SCALED = dataclasses.replace(TILE, scales=("e8m0",))

WRONG_SCALES = [
    (load(scale=5, row_bytes=128), "scale: tile t does not build FP32"),
    (load(scale=3, row_bytes=32, space=Space.ACC), "scale: ACC has no scale bytes, expected NONE"),
    (load(scale=3, row_bytes=48), "row_bytes must be a multiple of a block of 32 bytes with scale G4, got 48"),
    (Store(scale=1, rows=1, row_bytes=8, src_byte=8, scale_stride=16), "src_byte must be 0 with scales"),
]


@pytest.mark.parametrize(("instruction", "message"), WRONG_SCALES, ids=[message[:50] for _, message in WRONG_SCALES])
def test_broken_rules_of_scales_are_named(instruction, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)):
        accesses(instruction, SCALED)


def test_scale_bytes_are_beside_the_data() -> None:
    """They add no accesses on chip."""
    scaled = accesses(load(scale=3, row_bytes=64), SCALED)
    assert scaled.writes == accesses(load(row_bytes=64), SCALED).writes


@pytest.mark.parametrize(("instruction", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_broken_rules_are_named(instruction, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)):
        accesses(instruction, TILE)


def test_codes_narrower_than_a_row_are_aligned() -> None:
    wide = dataclasses.replace(TILE, cols=16, a_buffer_bytes=4 * 4 * 16 * 5)
    with pytest.raises(ProgramError, match="dst_addr must be a multiple of 2 groups"):
        accesses(vector(dest=Dest.A, dst_addr=1), wide)
