"""The verifier accepts hand-written correct programs and names the instruction and reason of every wrong one."""

from __future__ import annotations

import dataclasses
import re
from functools import partial

import numpy as np
import pytest

from tilescore.rtl.plan import duration
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import (
    HEADER,
    Combine,
    Dest,
    Halt,
    Load,
    Reduce,
    Source,
    Space,
    Sync,
    Unit,
    Vector,
)
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program, Segment
from tilescore.tests import instructions
from tilescore.tests.instructions import gather, load, matmul, vector

pytestmark = pytest.mark.usefixtures("all_written")

TILE = TileConfig(name="t", rows=4, cols=4, lanes=8, a_buffer_bytes=8192, a_banks=4, b_buffer_bytes=8192, b_banks=4,
                  acc_banks=16, acc_bank_rows=16, stat_banks=4, stat_bank_rows=8, index_entries=64, imem_page=512,
                  queue_depth=8, bus_bytes=16, dram_latency=20)
L, S, M, V, D = (1 << unit for unit in Unit)
SIZE = 4096
"""Bytes of each of the two segments, "x" (zeros) at 0 and "y" (no data) at SIZE; the program follows."""


def acc(bank: int, row: int = 0) -> int:
    return TILE.acc_addr(bank, row)


store, scatter = (partial(made, dram_addr=SIZE) for made in (instructions.store, instructions.scatter))


def index(**fields) -> Load:
    return Load(**{"space": Space.INDEX, "rows": 1, "row_bytes": 16, **fields})


def program(*instructions, tile: TileConfig = TILE, halt: bool = True, **fields) -> Program:
    """The instructions and a HALT, with room for the program behind two segments."""
    body = [*instructions, *([Halt()] if halt else [])]
    pages = -(-len(body) // tile.imem_page)
    fields = {"dram_bytes": 2 * SIZE + pages * tile.page_bytes, "program_addr": 2 * SIZE,
              "segments": [Segment("x", 0, np.zeros(SIZE, np.uint8)), Segment("y", SIZE, None, SIZE)], **fields}
    return Program(config=tile, instructions=body, **fields)


def rejected(message: str, *instructions, **fields) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)):
        verify(program(*instructions, **fields))


def test_the_shortest_program() -> None:
    verify(program())


@pytest.mark.parametrize("tile", ["nano", "edge"])
def test_hand_written_programs_are_accepted(tiny_program, tile: str) -> None:
    verify(tiny_program(load_tile(tile), np.random.default_rng(0)))


def test_every_flipped_token_bit_is_rejected(tiny_program) -> None:
    """One wait or signal more or less never balances."""
    base = tiny_program(load_tile("nano"), np.random.default_rng(0))
    checked = 0
    for instruction in base.instructions:
        for field in HEADER:
            value = getattr(instruction, field.name)
            for bit in range(field.bits):
                setattr(instruction, field.name, value ^ 1 << bit)
                with pytest.raises(ProgramError):
                    verify(base)
                checked += 1
            setattr(instruction, field.name, value)
    verify(base)
    assert checked >= 18 * 8


# Tokens ------------------------------------------------------------------------------------------------


def test_a_wait_without_a_signal_is_a_deadlock() -> None:
    rejected("instruction 0 (MATMUL): deadlock: waits for the wr tokens of LOAD for MATRIX, but no earlier",
             matmul(wait_wr=L))


def test_a_signal_after_its_wait_is_a_deadlock() -> None:
    rejected("instruction 0 (MATMUL): deadlock", matmul(wait_wr=L), load(signal_wr=M))


def test_a_second_wait_for_one_signal_is_a_deadlock() -> None:
    rejected("instruction 2 (MATMUL): deadlock", load(signal_wr=M), matmul(wait_wr=L), matmul(wait_wr=L))


def test_the_kind_of_a_token_counts() -> None:
    rejected("instruction 1 (MATMUL): deadlock: waits for the wr tokens", load(signal_rd=M), matmul(wait_wr=L))


def test_a_token_that_nobody_takes_is_named() -> None:
    rejected("instruction 0 (LOAD): surplus token: nothing waits for 1 of the wr tokens of LOAD for VECTOR",
             load(signal_wr=V))


def test_a_counter_must_not_overflow() -> None:
    """247 tokens and 8 waits that are queued but not taken make 255."""
    loads = [load(addr=0, signal_wr=M) for _ in range(248)]
    many = [*loads, *(matmul(a_addr=64, b_addr=64, wait_wr=L) for _ in range(248))]
    verify(program(*many[1:-1]))
    rejected("instruction 247 (LOAD): overflow: 248 of the wr tokens of LOAD for MATRIX are given", *many)


def test_dispatch_tokens_only_at_sync_and_halt_waits_for_nothing() -> None:
    verify(program(load(signal_wr=D), Sync(wait_wr=L)))
    rejected("instruction 1 (HALT): HALT waits for every unit by itself",
             load(signal_wr=D), Halt(wait_wr=L), halt=False)
    rejected("instruction 0 (SYNC): the dispatcher gives no tokens", Sync(signal_wr=M))


# Banks -------------------------------------------------------------------------------------------------


def test_read_after_write_needs_the_wr_token() -> None:
    verify(program(load(signal_wr=M), matmul(wait_wr=L)))
    rejected("instruction 1 (MATMUL): bank 0 of A may still be in use by instruction 0 (LOAD): nothing orders this "
             "after its wr token", load(), matmul())
    rejected("instruction 1 (MATMUL): bank 0 of A may still be in use", load(signal_rd=M), matmul(wait_rd=L))


def test_write_after_read_needs_the_rd_token() -> None:
    verify(program(matmul(signal_rd=L), load(wait_rd=M)))
    verify(program(matmul(signal_wr=L), load(wait_wr=M)))
    rejected("instruction 1 (LOAD): bank 0 of A may still be in use by instruction 0 (MATMUL)", matmul(), load())


def test_write_after_write_needs_the_wr_token() -> None:
    rejected("instruction 1 (VECTOR): bank 1 of ACC may still be in use by instruction 0 (MATMUL)",
             matmul(acc_addr=acc(1), signal_rd=V), vector(dest=Dest.ACC, dst_addr=acc(1), wait_rd=M))


def test_two_readers_would_meet_at_the_port() -> None:
    rejected("instruction 1 (STORE): bank 0 of ACC may still be in use by instruction 0 (VECTOR)",
             vector(dest=Dest.A), store())
    verify(program(vector(signal_rd=S), store(wait_rd=V)))


def test_other_banks_are_free() -> None:
    verify(program(load(addr=64), matmul(), store(addr=acc(3))))


def test_raw_planes_are_owned_too() -> None:
    rejected("instruction 1 (STORE): bank 8 of ACC may still be in use by instruction 0 (MATMUL)",
             matmul(raw=1), store(addr=acc(8)))


def test_merged_rows_are_read_until_wr() -> None:
    """rd is for A and B: bank 8, plane 1 of the partial sums, is only read, but while the result drains."""
    late = matmul(merge=1, signal_rd=S)
    rejected("instruction 1 (STORE): bank 8 of ACC may still be in use by instruction 0 (MATMUL): nothing orders this "
             "after its wr token", late, store(addr=acc(8), wait_rd=M))
    verify(program(matmul(merge=1, signal_wr=S), store(addr=acc(8), wait_wr=M)))


def test_order_is_transitive() -> None:
    """VECTOR's token tells STORE of what MATRIX did before."""
    chain = [matmul(signal_wr=V), vector(x_addr=acc(0), dest=Dest.ACC, dst_addr=acc(1), wait_wr=M, signal_wr=S),
             store(addr=acc(0), wait_wr=V)]
    verify(program(*chain))


def test_a_token_of_the_wrong_instruction_is_not_enough() -> None:
    rejected("instruction 2 (MATMUL): bank 1 of A may still be in use by instruction 1 (LOAD)",
             load(signal_wr=M), load(addr=64), matmul(a_addr=64, wait_wr=L))


def test_the_last_of_several_readers_counts() -> None:
    rejected("instruction 2 (LOAD): bank 0 of A may still be in use by instruction 1 (MATMUL)",
             matmul(signal_rd=L), matmul(acc_addr=acc(1)), load(wait_rd=M))


def test_labels_are_in_the_message() -> None:
    rejected("instruction 1 (MATMUL, qk 0): bank 0 of A may still be in use by instruction 0 (LOAD, q)",
             load(), matmul(), labels=["q", "qk 0", ""])


def test_a_sync_orders_everything_behind_it() -> None:
    verify(program(load(signal_wr=D), Sync(wait_wr=L), matmul()))
    rejected("bank 0 of A may still be in use", load(signal_rd=D), Sync(wait_rd=L), matmul())


# Index memory and DRAM -----------------------------------------------------------------------------------


def test_indices_are_ordered_by_entry() -> None:
    verify(program(index(signal_wr=L), gather(wait_wr=L)))
    verify(program(index(addr=8), gather(index_addr=4), scatter(index_addr=0, addr=acc(1))))
    rejected("instruction 1 (GATHER): index entries may still be written by instruction 0 (LOAD)",
             index(addr=4), gather(index_addr=2))
    rejected("instruction 1 (SCATTER): index entries may still be written", index(), scatter())
    rejected("instruction 1 (LOAD): index entries may still be read by instruction 0 (SCATTER): nothing orders this "
             "after its rd token", scatter(index_addr=2), index(addr=4))
    verify(program(scatter(index_addr=2, signal_rd=L), index(addr=4, wait_rd=S)))
    verify(program(gather(index_addr=2), index(addr=4)))


def test_loads_wait_for_stores_of_the_same_bytes() -> None:
    rejected(f"instruction 1 (LOAD): DRAM bytes {SIZE}..{SIZE + 63} may still be written by instruction 0 (STORE)",
             store(), load(dram_addr=SIZE))
    rejected("may still be written", store(signal_rd=L), load(dram_addr=SIZE, wait_rd=S))
    verify(program(store(signal_wr=L), load(dram_addr=SIZE, wait_wr=S)))
    verify(program(store(), load(dram_addr=SIZE + 64)))
    verify(program(store(), load(dram_addr=0)))


def test_interleaved_rows_in_dram_do_not_meet() -> None:
    verify(program(store(row_stride=32), load(dram_addr=SIZE + 16, row_stride=32)))
    rejected("may still be written", store(row_stride=32), load(dram_addr=SIZE + 16, row_stride=48))


def test_stores_wait_until_loaded_bytes_have_arrived() -> None:
    rejected("instruction 1 (STORE): DRAM bytes 4096..4159 may still be read by instruction 0 (LOAD)",
             load(dram_addr=SIZE), store())
    rejected("may still be read", load(dram_addr=SIZE, signal_rd=S), store(wait_rd=L))
    verify(program(load(dram_addr=SIZE, signal_wr=S), store(wait_wr=L)))


def test_scale_bytes_in_dram_are_ordered_like_rows() -> None:
    tile = dataclasses.replace(TILE, scales=("e8m0",))
    fields = {"space": Space.A, "row_bytes": 32, "row_stride": 32, "scale": 3}
    stored = store(**fields, scale_addr=SIZE + 512, scale_stride=16)
    bank = 1 << TILE.a_offset_bits
    for later in (load(**fields, addr=bank, scale_addr=SIZE + 512), load(addr=bank, dram_addr=SIZE + 544)):
        with pytest.raises(ProgramError, match=r"instruction 1 \(LOAD\): DRAM bytes \d+..\d+ may still be written by"):
            verify(program(stored, later, tile=tile))
    loaded = load(**fields, addr=bank, scale_addr=SIZE + 512)
    with pytest.raises(ProgramError, match=f"DRAM bytes {SIZE + 512}..{SIZE + 560} may still be read by"):
        verify(program(loaded, stored, tile=tile))
    verify(program(stored, load(**fields, addr=bank, scale_addr=SIZE + 576), tile=tile))
    with pytest.raises(ProgramError, match=r"scale_addr: bytes 8192..\d+ are outside|scale_addr: writes the program"):
        verify(program(store(**fields, scale_addr=2 * SIZE, scale_stride=16), tile=tile))
    with pytest.raises(ProgramError, match="scattered rows and their scale bytes must be apart, but are in bytes "
                       f"{SIZE}..{SIZE + 31} and {SIZE + 16}..{SIZE + 16}"):
        verify(program(scatter(**fields, scale_addr=SIZE + 16, scale_stride=16), tile=tile))
    verify(program(scatter(**fields, scale_addr=512, scale_stride=16), tile=tile))


def test_bytes_must_exist() -> None:
    end = 2 * SIZE + TILE.page_bytes
    rejected(f"instruction 0 (LOAD): dram_addr: bytes {end - 32}..{end + 31} are outside the {end} bytes of DRAM",
             load(dram_addr=end - 32))
    rejected("instruction 0 (STORE): dram_addr: writes the program image", store(dram_addr=2 * SIZE - 16))


def test_rules_of_one_instruction_are_checked() -> None:
    rejected("instruction 1 (MATMUL): m_rows must be at least 1", load(), matmul(a_addr=64, m_rows=0))
    rejected("instruction 0 (LOAD): rows = 65536, allowed 0..65535", load(rows=1 << 16))
    rejected("instruction 0 (LOAD): wait_rd = 16", load(wait_rd=16))
    rejected("instruction 0 (LOAD): signal_rd = 0, signal_wr = 32, allowed 0..31", load(signal_wr=32))


# Within a unit -------------------------------------------------------------------------------------------


def reducing(**fields) -> Vector:
    return vector(reduce=Reduce.SUM, reduce_addr=acc(16), **fields)


def test_a_vector_waits_for_a_reduction() -> None:
    use = {"x_addr": acc(1), "z_kind": Source.ROW, "z": acc(16), "combine": Combine.ADD}
    wr = duration(vector(), TILE).wr
    rejected(f"instruction 1 (VECTOR): issues 4 cycles after instruction 0 (VECTOR) at the earliest, must be at "
             f"least {wr + 1} or wait for its wr token", reducing(), vector(**use))
    verify(program(reducing(signal_wr=V), vector(wait_wr=V, **use)))
    filler = [vector(rows=16, x_addr=acc(3)) for _ in range(-(-wr // 16))]
    verify(program(reducing(), *filler, vector(**use)))


def test_elements_in_the_same_order_need_the_pipe_depth_only() -> None:
    write = {"rows": 16, "tiles": 4, "x_addr": acc(0), "pitch": 16, "dest": Dest.ACC, "dst_addr": acc(4),
             "dst_pitch": 16}
    read = {"rows": 16, "tiles": 4, "x_addr": acc(4), "pitch": 16}
    assert duration(vector(**write), TILE).wr - 64 < 64
    verify(program(vector(**write), vector(**read)))
    rejected("issues 64 cycles after instruction 0 (VECTOR) at the earliest",
             vector(**write), vector(**{**read, "x_addr": acc(4, 1), "rows": 15}))
    short = {**write, "rows": 1, "tiles": 1}
    rejected("issues 1 cycles after instruction 0 (VECTOR) at the earliest, must be at least "
             f"{duration(vector(), TILE).wr - 3} or wait for its wr token: it walks rows that are still in the pipe",
             vector(**short), vector(**{**read, "rows": 1, "tiles": 1}))


def test_late_operands_keep_early_ones_off_their_bank() -> None:
    late = vector(x_addr=acc(0), w_kind=Source.ACC, w=acc(1))
    rejected("issues 4 cycles after instruction 0 (VECTOR) at the earliest, must be at least "
             f"{duration(late, TILE).rd + 1} or wait for its rd token: two reads could meet at one bank",
             late, vector(x_addr=acc(1)))
    verify(program(vector(x_addr=acc(1)), vector(w_kind=Source.ACC, w=acc(1))))
    late.signal_rd = V
    verify(program(late, vector(x_addr=acc(1), wait_rd=V)))


def test_a_destination_keeps_off_the_bank_of_an_earlier_reduction() -> None:
    rejected("it uses rows or a bank that are still being written",
             reducing(), vector(rows=1, dest=Dest.ACC, dst_addr=acc(16, 3)))
    verify(program(vector(rows=1, dest=Dest.ACC, dst_addr=acc(16, 3)), reducing()))


def test_raw_results_may_be_merged_at_once_in_place() -> None:
    verify(program(matmul(raw=1), matmul(merge=1)))
    verify(program(matmul(raw=1), matmul(merge=1, raw=1), matmul(merge=1)))
    verify(program(matmul(raw=1, m_rows=8), matmul(merge=1, acc_addr=acc(0, 4))))
    rejected("instruction 1 (MATMUL): issues 8 cycles after instruction 0 (MATMUL)",
             matmul(raw=1, m_rows=8), matmul(merge=1, acc_addr=acc(0, 3)))
    rejected("instruction 1 (MATMUL): issues 4 cycles after", matmul(), matmul(merge=1))
    verify(program(matmul(signal_wr=M), matmul(merge=1, wait_wr=M)))


def test_a_row_maximum_continues_in_place_only() -> None:
    first = {"rowmax": 1, "rowmax_addr": acc(16)}
    verify(program(matmul(rowmax_init=1, **first), matmul(acc_addr=acc(1), **first)))
    rejected("still being written",
             matmul(m_rows=8, **first), matmul(acc_addr=acc(1), rowmax=1, rowmax_addr=acc(16, 1)))
    rejected("still being written", matmul(**first), matmul(acc_addr=acc(16, 4)))


# Pages ---------------------------------------------------------------------------------------------------


PAGED = TileConfig(**{**TILE.to_dict(), "formats": ("e4m3",), "imem_page": 8})


def page_load(number: int, **fields) -> Load:
    return Load(**{"space": Space.PROGRAM, "rows": 1, "row_bytes": PAGED.page_bytes, "signal_wr": D,
                   "dram_addr": 2 * SIZE + number * PAGED.page_bytes, "addr": number % 2 * 8, **fields})


def paged(first: Load | None, last: Sync | None) -> list:
    """Eight instructions and those of page 1."""
    filler = [load(addr=0) for _ in range(6)]
    return [first or load(signal_wr=D), *filler, last or load(addr=0), load(addr=0)]


def test_a_page_is_loaded_and_waited_for() -> None:
    verify(program(*paged(page_load(1), Sync(wait_wr=L)), tile=PAGED))


@pytest.mark.parametrize(("first", "last", "message"), [
    (None, Sync(wait_wr=L), "instruction 8 (LOAD): page 1 begins here, but no LOAD in page 0 brings it"),
    (page_load(1), None, "instruction 8 (LOAD): page 1 begins here, but no SYNC waits for instruction 0 (LOAD)"),
    (page_load(1, addr=0), Sync(wait_wr=L), "instruction 0 (LOAD): is in page 0, so it must load page 1, from 8448 to "
                                            "slot 8, but it loads from 8448 to slot 0"),
    (page_load(1, dram_addr=2 * SIZE), Sync(wait_wr=L), "but it loads from 8192 to slot 8"),
    (page_load(1, row_bytes=128), Sync(wait_wr=L), "row_bytes must be a page of 256 bytes, got 128"),
])
def test_pages_that_are_not_there(first, last, message: str) -> None:
    rejected(message, *paged(first, last), tile=PAGED)


def test_a_page_is_loaded_once() -> None:
    body = paged(page_load(1), Sync(wait_wr=L))
    body[1] = page_load(1, signal_wr=0)
    rejected("instruction 1 (LOAD): page 1 is loaded already by instruction 0 (LOAD)", *body, tile=PAGED)


def test_the_program_ends_with_halt() -> None:
    rejected("instruction 0 (LOAD): the last instruction must be a HALT", load(), halt=False)
    rejected("instruction 0 (HALT): HALT must be the last of 2 instructions", Halt())
