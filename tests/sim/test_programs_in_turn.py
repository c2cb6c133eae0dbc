"""Programs one after another on one tile, without a reset: what the earlier leaves is no matter to a verified one.

Also what an unverified program can read of it, and that clearing the memories ends that. The bare tile runs in
Amaranth's simulator; `tests/test_random_programs.py` and `tests/sim/host/test_tile.py` do the same behind AXI.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.dma.memory_clear import clear_bits
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Gather, Halt, Load, Matmul, ScaleLayout, Space, Store
from tilescore.rtl.tile import Tile
from tilescore.sim.hardware.amaranth_run import _Bench
from tilescore.sim.hardware.run import DramModel
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program, Region, Segment
from tilescore.sim.reference.run import run_reference
from tilescore.testing.random_program import random_program

TILE = TileConfig(
    name="small", rows=4, cols=4, lanes=8, formats=("e4m3",), scales=("e8m0",), a_buffer_bytes=4 * 2 * 16 * 5,
    a_banks=2, b_buffer_bytes=4 * 2 * 16 * 5, b_banks=2, acc_banks=4, acc_bank_rows=6, stat_banks=1, stat_bank_rows=3,
    index_entries=12, imem_page=16, queue_depth=3, bus_bytes=16, dram_latency=5, dma_outstanding=2)
"""Bank depths are no powers of two."""

IN, SCALES, OUT, OUT_SCALES, CODE = 0, 2048, 4096, 6144, 8192


def program(instructions: list, config: TileConfig = TILE, seed: int = 0) -> Program:
    """With random data at IN (bytes of 1..125, so finite codes other than zero) and results from OUT on."""
    data = np.random.default_rng(seed).integers(1, 126, CODE // 2, dtype=np.uint8)
    code = -(-(len(instructions) + 1) // config.imem_page) * config.page_bytes
    return Program(
        config=config, instructions=[*instructions, Halt()], program_addr=CODE, dram_bytes=CODE + code,
        segments=[Segment("x", IN, data), Segment("y", OUT, None, CODE - OUT)],
        outputs=[Region("y", OUT, 1, CODE - OUT, CODE - OUT, "uint8", (CODE - OUT,))])


A_ROWS = {"space": Space.A, "rows": 4, "row_bytes": 80, "row_stride": 80, "scale": ScaleLayout.G1, "scale_stride": 16}
ACC_ROWS = {"space": Space.ACC, "rows": 6, "row_bytes": 16, "row_stride": 16}
A_BANK, ACC_BANK = 1 << TILE.a_offset_bits, 1 << TILE.acc_offset_bits


def fills() -> list[Load]:
    """LOADs that write everything that `reads_all` reads."""
    loads = [Load(**A_ROWS | {"space": space}, addr=bank * A_BANK, dram_addr=IN + 320 * bank, scale_addr=SCALES)
             for space in (Space.A, Space.B) for bank in range(2)]
    loads += [Load(**ACC_ROWS, addr=bank * ACC_BANK, dram_addr=IN + 96 * bank) for bank in range(4)]
    loads.append(Load(space=Space.ACC, rows=3, row_bytes=16, row_stride=16, addr=4 * ACC_BANK, dram_addr=IN))
    return loads


def in_order(instructions: list) -> list:
    """Each waits for all that the one before it does."""
    out = [dataclasses.replace(i) for i in instructions]
    for first, second in itertools.pairwise(out):
        first.signal_wr, second.wait_wr = 1 << second.spec.unit, 1 << first.spec.unit
    return out


def stores() -> list[Store]:
    """All of A with its scale bytes, all of ACC."""
    kept = [Store(**A_ROWS, addr=bank * A_BANK, dram_addr=OUT + 320 * bank, scale_addr=OUT_SCALES + 64 * bank)
            for bank in range(2)]
    kept += [Store(**ACC_ROWS, addr=bank * ACC_BANK, dram_addr=OUT + 640 + 96 * bank) for bank in range(4)]
    kept.append(Store(space=Space.ACC, rows=3, row_bytes=16, row_stride=16, addr=4 * ACC_BANK, dram_addr=OUT + 1024))
    return kept


def products() -> list:
    """B by way of a product with codes that are loaded, and a row that the index memory chooses."""
    ones = Load(space=Space.A, rows=4, row_bytes=80, row_stride=0, dram_addr=IN)
    multiply = [Matmul(k_steps=10, m_rows=4, n_tiles=1, b_addr=bank * A_BANK, acc_addr=bank * ACC_BANK)
                for bank in range(2)]
    results = [Store(**ACC_ROWS | {"rows": 4}, addr=bank * ACC_BANK, dram_addr=OUT + 64 * bank) for bank in range(2)]
    return [ones, *multiply, *results]


class Bench:
    """Programs in turn on one tile; ``None`` clears its memories."""

    def __init__(self, config: TileConfig) -> None:
        self.tile = Tile(config)
        self.sweeps: list[int] = []

    def run(self, programs: list[Program | None]) -> list[np.ndarray]:
        """DRAM after every program."""
        ends: list[np.ndarray] = []

        async def bench(ctx) -> None:
            for each in programs:
                if each is None:
                    await self._clear(ctx)
                    continue
                one = _Bench(self.tile, each, 20_000, DramModel())
                await one.run(ctx)
                result = one.result()
                assert result.finished and not result.error and not result.conflict and not result.illegal
                ends.append(result.dram)

        simulator = Simulator(self.tile)
        simulator.add_clock(1e-6)
        simulator.add_testbench(bench)
        simulator.run()
        return ends

    async def _clear(self, ctx) -> None:
        ctx.set(self.tile.clear, 1)
        cycles = 1
        while not ctx.get(self.tile.cleared):
            await ctx.tick()
            cycles += 1
        await ctx.tick()
        ctx.set(self.tile.clear, 0)
        self.sweeps.append(cycles)


def y(dram: np.ndarray) -> np.ndarray:
    return dram[OUT:CODE]


@pytest.mark.slow
def test_random_programs_in_turn(seed: int) -> None:
    programs = [random_program(TILE, np.random.default_rng([seed, number]), 12) for number in range(3)]
    for each, dram in zip(programs, Bench(TILE).run(list(programs)), strict=True):
        for region in each.outputs:
            assert region.read(dram).tobytes() == region.read(run_reference(each).dram).tobytes(), region.name


def test_poison_changes_nothing_in_random_programs(seed: int) -> None:
    for number in range(40):
        each = random_program(TILE, np.random.default_rng([seed, number]), 40)
        clean, poisoned = run_reference(each), run_reference(each, poison=True)
        assert np.array_equal(clean.dram, poisoned.dram), f"program {number}"
        assert clean.status == poisoned.status, f"program {number}"


def test_poison_is_what_an_unverified_program_stores() -> None:
    loose = program(stores())
    with pytest.raises(ProgramError, match="which no earlier instruction has written"):
        verify(loose)
    assert not y(run_reference(loose).dram).any()
    assert (y(run_reference(loose, poison=True).dram)[:1024 + 48] == 0xFF).all()


@pytest.mark.slow
def test_a_cleared_tile_holds_nothing_of_an_earlier_program() -> None:
    """First all memories are read back, then B as a product; before clearing they hold what the first program left."""
    writes, kept = program(in_order(fills()), seed=1), program(stores(), seed=2)
    multiplied = program(in_order(products()), seed=2)
    verify(writes)
    bench = Bench(TILE)
    fresh, fresh_products, _, left, left_products, clear, clear_products = bench.run(
        [kept, multiplied, writes, kept, multiplied, None, kept, multiplied])
    assert not y(fresh).any() and not y(fresh_products).any()
    memory = writes.initial_dram()
    assert np.array_equal(left[OUT:OUT + 640], memory[IN:IN + 640]) and y(left)[OUT_SCALES - OUT:].any()
    assert y(left_products).any()
    assert not y(clear).any() and not y(clear_products).any()
    assert bench.sweeps == [1 << max(clear_bits(TILE).values())]


@pytest.mark.slow
def test_indices_and_instructions_are_cleared() -> None:
    """Cleared, a gather takes row 0 for every row."""
    data = {"space": Space.ACC, "rows": 12, "row_bytes": 4, "row_stride": 16}
    rows = [4, 1, 3, 2, 9, 5, 6, 7, 8, 10, 11, 12]
    index = Load(space=Space.INDEX, rows=1, row_bytes=48, dram_addr=SCALES)
    wide = dataclasses.replace(TILE, acc_bank_rows=16)
    gather, store = Gather(**data, dram_addr=IN), Store(**data, dram_addr=OUT)

    def made(instructions: list) -> Program:
        each = program(in_order(instructions), config=wide)
        memory = each.segments[0].data
        assert isinstance(memory, np.ndarray)
        memory[SCALES:SCALES + 48] = np.array(rows, "<u4").view(np.uint8)
        return each

    verify(made([index, gather, store]))
    loose = made([gather, store])
    with pytest.raises(ProgramError, match=r"index_addr: reads entries 0\.\.11 of INDEX"):
        verify(loose)
    memory = loose.initial_dram()[IN:IN + 16 * 13].reshape(13, 16)[:, :4]
    first, left, clear = Bench(wide).run([made([index, gather, store]), loose, None, loose])
    for dram, chosen in ((first, rows), (left, rows), (clear, [0] * 12)):
        assert np.array_equal(dram[OUT:OUT + 192].reshape(12, 16)[:, :4], memory[chosen])
