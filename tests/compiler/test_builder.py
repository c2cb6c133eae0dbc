"""Program builder: what must wait for what, tokens, pages; every program is verified."""

from __future__ import annotations

import itertools
import re
from functools import partial

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.tokens import limit_outstanding
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.isa import (
    Dest,
    Gather,
    Halt,
    Instruction,
    Load,
    Matmul,
    Reduce,
    Scatter,
    Source,
    Space,
    Store,
    Unit,
)
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.timing import time_program
from tilescore.tests import instructions
from tilescore.tests.instructions import load, matmul, vector

pytestmark = pytest.mark.usefixtures("all_written")

TILE = TileConfig(name="t", rows=4, cols=4, lanes=8, a_buffer_bytes=8192, a_banks=4, b_buffer_bytes=8192, b_banks=4,
                  acc_banks=16, acc_bank_rows=16, stat_banks=4, stat_bank_rows=8, index_entries=64, imem_page=64,
                  queue_depth=8, bus_bytes=16, dram_latency=20)
L, S, M, V, D = (1 << unit for unit in Unit)


def acc(bank: int, row: int = 0) -> int:
    return TILE.acc_addr(bank, row)


store = partial(instructions.store, dram_addr=4096)


def build(*instructions: Instruction, tile: TileConfig = TILE) -> Program:
    """A verified program with 4096 bytes "x" at 0 and "y" at 4096."""
    builder = ProgramBuilder(tile)
    for name in "xy":
        builder.dram(name, 4096)
    for instruction in instructions:
        builder.emit(instruction)
    program = builder.finish()
    verify(program)
    return program


def tokens(*instructions: Instruction) -> list[str]:
    """Tokens of each instruction, like "wr>load" (gives) and "<rd matrix" (takes)."""
    texts = []
    for i in build(*instructions).instructions[:-1]:
        parts = [f"<{kind} {unit.name.lower()}" for kind, mask in (("rd", i.wait_rd), ("wr", i.wait_wr))
                 for unit in Unit if mask >> unit & 1]
        parts += [f"{kind}> {unit.name.lower()}" for kind, mask in (("rd", i.signal_rd), ("wr", i.signal_wr))
                  for unit in Unit if mask >> unit & 1]
        texts.append(", ".join(parts))
    return texts


# Dependencies ------------------------------------------------------------------------------------------


def test_read_after_write_takes_a_wr_token() -> None:
    assert tokens(load(), matmul()) == ["wr> matrix", "<wr load"]


def test_write_after_read_takes_a_rd_token() -> None:
    assert tokens(matmul(), load()) == ["rd> load", "<rd matrix"]


def test_two_readers_of_a_bank_take_turns() -> None:
    assert tokens(vector(dest=Dest.A), store()) == ["rd> store", "<rd vector"]


def test_other_banks_need_nothing() -> None:
    assert tokens(load(addr=64), matmul(), store(addr=acc(2))) == ["", "", ""]


def test_the_last_producer_of_several_is_waited_for() -> None:
    assert tokens(load(), load(addr=2), matmul(k_steps=4)) == ["", "wr> matrix", "<wr load"]


def test_a_token_taken_once_holds_for_the_queue() -> None:
    assert tokens(load(), matmul(), matmul(acc_addr=acc(1))) == ["wr> matrix", "<wr load", ""]


def test_what_another_token_implies_is_not_waited_for() -> None:
    """STORE reads what VECTOR wrote; that VECTOR waited for MATMUL, whose bank STORE reads next."""
    chain = [matmul(), vector(dest=Dest.ACC, dst_addr=acc(1)), store(addr=acc(1)), store(addr=acc(0), dram_addr=4160)]
    assert tokens(*chain) == ["wr> vector", "<wr matrix, wr> store", "<wr vector", ""]


def test_of_two_needs_the_implied_one_is_dropped() -> None:
    """LOAD overwrites ACC 0, which MATMUL wrote, and ACC 1, which VECTOR read after MATMUL's wr token."""
    texts = tokens(matmul(n_tiles=2, acc_pitch=16), vector(x_addr=acc(1)),
                   load(space=Space.ACC, addr=acc(0), row_bytes=32, pitch=16))
    assert texts == ["wr> vector", "<wr matrix, rd> load", "<rd vector"]


def test_a_double_buffered_loop_signals_both_ways() -> None:
    loop = [step for i in range(6) for step in (load(addr=i % 2 * 64), matmul(a_addr=i % 2 * 64, acc_addr=acc(i)))]
    texts = tokens(*loop)
    assert texts[0] == texts[2] == "wr> matrix"
    assert texts[4] == texts[6] == "<rd matrix, wr> matrix"
    assert texts[1] == texts[3] == "<wr load, rd> load"
    assert texts[-1] == "<wr load"


def test_loads_wait_for_stores_of_their_bytes_only() -> None:
    assert tokens(store(), load(dram_addr=4096 + 64)) == ["", ""]
    assert tokens(store(), load(dram_addr=4096 + 48)) == ["wr> load", "<wr store"]
    assert tokens(store(row_stride=32), load(dram_addr=4096 + 16, row_stride=32)) == ["", ""]


def test_stores_wait_until_loads_of_their_bytes_have_arrived() -> None:
    assert tokens(load(dram_addr=4096), store()) == ["wr> store", "<wr load"]


def test_indices_are_tracked_by_entry() -> None:
    index = {"space": Space.INDEX, "rows": 1, "row_bytes": 16}
    gather = {"space": Space.B, "rows": 4, "row_bytes": 8}
    assert tokens(load(**index), Gather(**gather)) == ["wr> load", "<wr load"]
    assert tokens(load(**index), Gather(**gather, index_addr=4)) == ["", ""]
    scatter = Scatter(space=Space.A, rows=4, row_bytes=8, row_stride=16, dram_addr=4096)
    assert tokens(load(**index), scatter, load(**index)) == ["wr> store", "<wr load, rd> load", "<rd store"]


def test_gathered_rows_may_be_anywhere_in_the_segment() -> None:
    gather = Gather(space=Space.B, rows=4, row_bytes=8, dram_addr=4096 + 512)
    assert tokens(store(), gather) == ["wr> load", "<wr store"]


def test_a_reduction_is_waited_for_inside_the_vector_unit() -> None:
    reduce = {"reduce": Reduce.MAX, "reduce_addr": acc(16)}
    use = {"x_addr": acc(1), "y_kind": Source.ROW, "y": acc(16)}
    assert tokens(vector(**reduce), vector(**use)) == ["wr> vector", "<wr vector"]
    fillers = [vector(rows=16, x_addr=acc(2)) for _ in range(8)]
    assert set(tokens(vector(**reduce), *fillers, vector(**use))) == {""}


def test_chains_of_elements_run_without_tokens() -> None:
    tall = {"rows": 16, "tiles": 8, "pitch": 16}
    assert tokens(vector(**tall, dest=Dest.ACC, dst_pitch=16), vector(**tall, dest=Dest.A, dst_pitch=4)) == ["", ""]


# Tokens and pages ----------------------------------------------------------------------------------------


def test_tokens_of_a_channel_are_limited() -> None:
    pairs = [(i, 1000 + i) for i in range(500)]
    kept = limit_outstanding(np.array(pairs), limit=100)
    assert kept.tolist() == [[499, 1000]]
    spread = np.array([(2 * i, 2 * i + 1) for i in range(500)])
    assert np.array_equal(limit_outstanding(spread, limit=1), spread)


def test_kept_tokens_cover_the_dropped_ones() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        producers = np.sort(rng.choice(300, 60, replace=False))
        consumers = np.sort(rng.choice(300, 60, replace=False)) + 120
        pairs = [(int(i), int(j)) for i, j in zip(producers, consumers, strict=True) if i < j]
        kept = limit_outstanding(np.array(pairs), limit=5).tolist()
        assert all(i < j for i, j in kept)
        assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(kept))
        for i, j in pairs:
            assert any(producer >= i and consumer <= j for producer, consumer in kept)
        for index, (_, consumer) in enumerate(kept):
            assert sum(i < consumer for i, _ in kept[index:]) <= 5


def test_many_outstanding_tokens_stay_in_their_counter() -> None:
    """300 stores, then 300 loads of the same bytes one by one."""
    size = 300 * 64
    builder = ProgramBuilder(TILE)
    block = builder.dram("x", size)
    for i in range(300):
        builder.emit(store(dram_addr=block.addr + 64 * i))
    for i in range(300):
        builder.emit(load(dram_addr=block.addr + 64 * i))
    verify(builder.finish())


@pytest.mark.parametrize("count", [5, 62, 63, 64, 65, 124, 125, 126, 127, 300])
def test_pages_hold_every_instruction_in_order(count: int) -> None:
    program = build(*(load(addr=2 * (i % 30)) for i in range(count)))
    body = [i.addr for i in program.instructions if i.spec.name == "LOAD" and i.space == Space.A]
    assert body == [2 * (i % 30) for i in range(count)]
    assert program.instructions[-1] == Halt()
    for first in range(0, len(program.instructions) - 64, 64):
        page = program.instructions[first:first + 64]
        assert page[0].space == Space.PROGRAM and page[-1].spec.name == "SYNC"
    time_program(program)
    run_reference(program)


def test_labels_stay_with_their_instructions() -> None:
    builder = ProgramBuilder(TILE)
    builder.dram("x", 64)
    for i in range(200):
        builder.emit(load(addr=2 * (i % 30)), f"load {i % 30}")
    program = builder.finish()
    for instruction, label in zip(program.instructions, program.labels, strict=True):
        if instruction.spec.name == "LOAD" and instruction.space == Space.A:
            assert label == f"load {instruction.addr // 2}"


def test_an_object_emitted_twice_is_two_instructions() -> None:
    again = load()
    program = build(again, matmul(), again)
    assert program.instructions[0] is not program.instructions[2]


# DRAM and errors -----------------------------------------------------------------------------------------


def test_segments_are_aligned_and_padded() -> None:
    builder = ProgramBuilder(TILE)
    first = builder.dram("a", data=np.arange(3, dtype=np.float32))
    second = builder.dram("b", 40, np.ones(33, np.uint8), align=64)
    third = builder.dram("c", 5)
    assert (first.addr, first.size) == (0, 12)
    assert (second.addr, second.size, int(second.data.sum())) == (64, 40, 33)
    assert third.addr == 112 and third.data is None
    lazy = builder.dram("d", 16, lambda: np.full(16, 7, np.uint8))
    builder.output("d", lazy.addr, (4,), "float32")
    program = builder.finish()
    assert run_reference(program).dram[lazy.addr:lazy.addr + 16].tolist() == [7] * 16


def test_outputs_with_a_row_stride() -> None:
    builder = ProgramBuilder(TILE)
    block = builder.dram("x", data=np.arange(64, dtype=np.uint8))
    builder.output("half", block.addr, (4, 8), "uint8", row_stride=16)
    program = builder.finish()
    values = program.outputs[0].read(run_reference(program).dram)
    assert values.tolist() == [list(range(16 * i, 16 * i + 8)) for i in range(4)]


@pytest.mark.parametrize(("instruction", "message"), [
    (load(rows=0), "instruction 1 (LOAD, bad): rows must be at least 1"),
    (matmul(a_addr=999), "instruction 1 (MATMUL, bad): a_addr: address"),
    (load(dram_addr=8160, rows=4), "instruction 1 (LOAD, bad): dram_addr: 4 rows of 16 bytes from 8160 are not inside "
                                   "one DRAM segment; 'y' ends at 8192"),
    (store(dram_addr=4080), "4 rows of 16 bytes from 4080 are not inside one DRAM segment; 'x' ends at 4096"),
    (load(wait_rd=1), "instruction 1 (LOAD): wait and signal masks must be zero"),
    (Halt(), "instruction 1: HALT is added by the builder itself"),
])
def test_errors_name_the_instruction(instruction: Instruction, message: str) -> None:
    builder = ProgramBuilder(TILE)
    for name in "xy":
        builder.dram(name, 4096)
    builder.emit(load())
    builder.emit(instruction, "bad")
    with pytest.raises(CompileError, match=re.escape(message)):
        builder.finish()


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "x", "size": 4}, "DRAM segment 'x' is allocated twice"),
    ({"name": "z", "size": 0}, "DRAM segment 'z': size must be at least 1, got 0"),
    ({"name": "z"}, "DRAM segment 'z': size must be at least 1, got None"),
    ({"name": "z", "size": 2, "data": np.zeros(3, np.uint8)}, "DRAM segment 'z': 3 bytes of data, size is 2"),
    ({"name": "z", "size": 2, "align": 24}, "DRAM segment 'z': align must be a multiple of bus_bytes (16), got 24"),
])
def test_wrong_segments_are_named(arguments: dict, message: str) -> None:
    builder = ProgramBuilder(TILE)
    builder.dram("x", 4)
    with pytest.raises(CompileError, match=re.escape(message)):
        builder.dram(**arguments)


def test_wrong_outputs_are_named() -> None:
    with pytest.raises(CompileError, match="output c: unknown dtype 'fp4'; allowed: float32"):
        ProgramBuilder(TILE).output("c", 0, (4, 4), "fp4")


def test_long_programs_build_and_verify() -> None:
    """45,000 instructions of a split-K matmul over many pages."""
    tile = load_tile("server")
    builder = ProgramBuilder(tile)
    weights, out = builder.dram("w", 64 << 20), builder.dram("o", 1 << 20)
    for i in range(20_000):
        bank = i % tile.b_banks << tile.b_offset_bits
        target = tile.acc_addr(i // 8 % 4)
        builder.emit(Load(space=Space.B, dram_addr=weights.addr + i % 200 * 131072, row_stride=1024, rows=128,
                          row_bytes=128, addr=bank, pitch=16))
        builder.emit(Matmul(a_addr=i % 8 * 16, b_addr=bank, k_steps=16, m_rows=16, n_tiles=1, acc_addr=target,
                            merge=int(i % 8 > 0), raw=int(i % 8 < 7)))
        if i % 8 == 7:
            builder.emit(vector(rows=16, x_addr=target, dest=Dest.ACC, dst_addr=target))
            builder.emit(Store(space=Space.ACC, dram_addr=out.addr + i % 64 * 8192, row_stride=512, rows=16,
                               row_bytes=512, addr=target))
    program = builder.finish()
    verify(program)
    assert len(program.instructions) > 45_000
    assert program.pages == -(-len(program.instructions) // tile.imem_page)


def test_what_repeats_in_the_first_segment_moves_no_address_that_is_none() -> None:
    """Rows without scales have a scale address of 0, which is also where the first segment begins."""
    builder = ProgramBuilder(TILE)
    x = builder.dram("x", 4096)
    for number in range(3):
        at = x.addr + 64 * number
        builder.repeat("load", [at], partial(lambda at: builder.emit(load(dram_addr=at, rows=1, row_bytes=16)), at))
    loads = [i for i in builder.finish().instructions if isinstance(i, Load) and i.space != Space.PROGRAM]
    assert [(i.dram_addr, i.scale_addr) for i in loads] == [(0, 0), (64, 0), (128, 0)]
