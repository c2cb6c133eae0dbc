"""MATMUL in hardware against its definition: bits in ACC, cycles at the unit port, events, bank conflicts."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Const, Module

from tilescore.rtl import plan
from tilescore.rtl.matrix import array, drain
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.matrix.sequencer import step_event_bits
from tilescore.rtl.matrix.timing import STAGE_WRITE
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.events import event_counts
from tilescore.rtl.spec.isa import Matmul
from tilescore.tests.rtl.matrix.bench import CONFIGS, SHALLOW, MatmulModel, UnitBench, random_matmul

CORE_EVENTS = ("a_group_reads", "b_group_reads", "drain_rows", "statistic_reads", "statistic_writes", "acc_row_reads",
               "acc_row_writes")


def run_program(config: TileConfig, rng: np.random.Generator, program: list[Matmul], gaps: list[int], *,
                fresh: bool = False) -> None:
    """Issue ``program``, each after its gap, and compare everything that can be seen with model and plan."""
    model = MatmulModel(config, rng)
    bench = UnitBench(config, model, fresh=fresh)

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issues = []
        for instruction, gap in zip(program, gaps, strict=True):
            for _ in range(gap):
                await bench.tick(ctx)
            issues.append(await bench.issue(ctx, instruction))
            model.matmul(instruction)
        await bench.drain(ctx, program[-1], issues[-1])
        check_trace(bench, program, issues)
        await bench.check_acc(ctx)

    bench.run(testbench)


def check_trace(bench: UnitBench, program: list[Matmul], issues: list[int]) -> None:
    config, trace = bench.config, bench.trace
    durations = [plan.duration(instruction, config) for instruction in program]
    assert trace.rd == [(i + d.rd, p.signal_rd) for p, i, d in zip(program, issues, durations, strict=True)]
    assert trace.wr == [(i + d.wr, p.signal_wr) for p, i, d in zip(program, issues, durations, strict=True)]
    occupied = {t for i, d in zip(issues, durations, strict=True) for t in range(i + 1, i + d.occupancy)}
    assert trace.ready == [t for t in range(bench.cycle) if t not in occupied]
    compute = []
    for instruction, issued, duration in zip(program, issues, durations, strict=True):
        slot = plan.matmul_slot(instruction.k_steps, config)
        compute += [issued + u for u in range(duration.occupancy) if u % slot >= slot - instruction.k_steps]
    assert trace.compute == compute
    counts = [event_counts(instruction, config) for instruction in program]
    names = [*CORE_EVENTS, *(name.removeprefix("ev_") for name in step_event_bits(config))]
    assert {name: trace.events[name] for name in names} == {
        name: sum(count.get(name, 0) for count in counts) for name in names}
    assert not {name for count in counts for name in count if name.endswith(("steps", "terms"))} - set(names)
    assert trace.conflicts == 0


@pytest.mark.always("wide")
@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs_have_the_models_bits_and_the_plans_cycles(name: str, rng: np.random.Generator) -> None:
    config = CONFIGS[name]
    program = [random_matmul(config, rng) for _ in range(7)]
    gaps = [int(rng.integers(0, 30)) if rng.random() < 0.3 else 0 for _ in program]
    run_program(config, rng, program, gaps)


@pytest.mark.parametrize("name", CONFIGS)
def test_partial_accumulators_merge_as_soon_as_the_next_tile_drains(name: str, rng: np.random.Generator) -> None:
    """One result tile, split along k: with four rows, the sums of the tile before are still in the pipe."""
    config = CONFIGS[name]
    place = config.acc_addr(config.acc_plane_banks - 1, 3)
    program = []
    for k_steps in (1, *range(config.rows + 1, config.rows + 5), 2):
        program.append(random_matmul(config, rng, k_steps=k_steps, m_rows=config.rows, n_tiles=1, raw=1,
                                     merge=int(bool(program)), acc_addr=place))
    program.append(random_matmul(config, rng, k_steps=3, m_rows=config.rows, n_tiles=1, raw=0, merge=1, mask=0,
                                 acc_addr=place))
    run_program(config, rng, program, [0] * len(program))


def test_merging_wraps_and_keeps_nan(rng: np.random.Generator) -> None:
    """Partial sums come from a load (planes as FP32 rows), at the edge of the 64-bit range; flags from raw rows."""
    config = SHALLOW
    model = MatmulModel(config, rng)
    model.a[:, 0], model.b[:, 0] = 0x38, 0x38  # 1.0: every sum is lanes * 2**18
    model.a[:, 1], model.b[:, 1] = 0, 0x38
    model.a[2, 1, 3] = 0x7F
    bench = UnitBench(config, model)
    base = config.acc_addr(1)
    high = config.acc_addr(1 + config.acc_plane_banks)
    fields = {"a_addr": 0, "b_addr": 0, "k_steps": 1, "m_rows": 4, "n_tiles": 1, "acc_addr": base}

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        port = bench.dut.acc_load
        for row in range(config.rows):
            for addr, word in ((base + row, 0xFF800000 + (row << 21)), (high + row, 0x7FFFFFFF)):
                model.acc[addr] = [word] * config.cols
                ctx.set(port.valid, 1)
                ctx.set(port.addr, addr)
                ctx.set(port.data, sum(word << 32 * c for c in range(config.cols)))
                ctx.set(port.mask, (1 << config.bus_bytes) - 1)
                await bench.tick(ctx)
        ctx.set(port.valid, 0)
        program = [Matmul(**fields, merge=1, raw=1), Matmul(**fields | {"a_addr": 1, "b_addr": 1}, merge=1, raw=1),
                   Matmul(**fields, merge=1)]
        for instruction in program:
            issued = await bench.issue(ctx, instruction)
            model.matmul(instruction)
        await bench.drain(ctx, program[-1], issued)
        await bench.check_acc(ctx)
        values = [await bench.read_row(ctx, base + row) for row in range(config.rows)]
        assert values[2] == [0x7FC00000] * config.cols
        # Row r started at 2**63 - 2**23 + r * 2**21, and 2**22 was added.
        assert [values[row][0] for row in (0, 1, 3)] == [0x56000000, 0x56000000, 0xD6000000]

    bench.run(testbench)


def test_the_row_maximum_is_visible_right_after_wr(rng: np.random.Generator) -> None:
    """The last write of an instruction: old value in the cycle of the wr pulse, new value one later."""
    config = SHALLOW
    model = MatmulModel(config, rng)
    bench = UnitBench(config, model)
    stat = config.acc_addr(config.acc_banks)
    fields = {"n_tiles": 1, "raw": 0, "mask": 0, "rowmax": 1, "rowmax_init": 1, "rowmax_addr": stat}
    program = [random_matmul(config, rng, k_steps=k_steps, m_rows=m_rows, **fields)
               for k_steps, m_rows in ((2, 1), (3, 4))]

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issued = await bench.issue(ctx, program[0])
        model.matmul(program[0])
        await bench.drain(ctx, program[0], issued)
        old = [int(word) for word in model.acc[stat]]
        issued = await bench.issue(ctx, program[1])
        model.matmul(program[1])
        wr = issued + plan.duration(program[1], config).wr
        while bench.cycle < wr:
            await bench.tick(ctx)
        assert ctx.get(bench.dut.unit.wr)
        assert (await bench.read_row(ctx, stat))[0] == old[0]
        assert await bench.read_row(ctx, stat) == list(model.acc[stat])
        assert old[0] != model.acc[stat, 0]

    bench.run(testbench)


@pytest.mark.parametrize(("offset", "safe"), [(1, True), (-1, False)])
def test_operands_may_be_overwritten_right_after_rd(offset: int, safe: bool, rng: np.random.Generator) -> None:
    """A load into the last group of the last slices: harmless one cycle after rd, harmful one cycle before it."""
    config = SHALLOW
    model = MatmulModel(config, rng, nan_rate=0)
    groups = config.bus_bytes // config.lanes
    instruction = Matmul(k_steps=groups, m_rows=config.rows, n_tiles=1, acc_addr=0)
    model.a[:, :groups], model.b[:, :groups] = 0x38, 0x38
    bench = UnitBench(config, model)

    async def testbench(ctx) -> None:
        await bench.fill(ctx)
        issued = await bench.issue(ctx, instruction)
        model.matmul(instruction)
        while bench.cycle < issued + plan.duration(instruction, config).rd + offset:
            await bench.tick(ctx)
        for port, last in ((bench.dut.a_load, config.rows - 1), (bench.dut.b_load, config.cols - 1)):
            ctx.set(port.valid, 1)
            ctx.set(port.slice, last)
            ctx.set(port.addr, 0)
            ctx.set(port.data, 0)
            ctx.set(port.mask, (1 << config.bus_bytes) - 1)
        await bench.tick(ctx)
        ctx.set(bench.dut.a_load.valid, 0)
        ctx.set(bench.dut.b_load.valid, 0)
        await bench.drain(ctx, instruction, issued)
        row = await bench.read_row(ctx, config.rows - 1)
        assert (row == list(model.acc[config.rows - 1])) == safe
        assert bench.trace.conflicts == 0

    bench.run(testbench)


def test_every_kind_of_conflict_is_reported(rng: np.random.Generator) -> None:
    """The drain merges from and writes to bank 1, while the vector unit reads or writes there."""
    config = SHALLOW
    bench = UnitBench(config, MatmulModel(config, rng))
    instruction = Matmul(k_steps=1, m_rows=4, n_tiles=8, acc_addr=config.acc_addr(1), merge=1)

    async def testbench(ctx) -> None:
        conflicts = {}
        for port in (None, "x", "d"):
            before = bench.trace.conflicts
            issued = await bench.issue(ctx, instruction)
            while bench.cycle <= issued + plan.duration(instruction, config).wr:
                for bank, name in ((1, port), (2, "y")):
                    if name is not None:
                        ctx.set(getattr(bench.dut, f"acc_{name}").en, 1)
                        ctx.set(getattr(bench.dut, f"acc_{name}").addr, config.acc_addr(bank))
                await bench.tick(ctx)
            for name in "xyd":
                ctx.set(getattr(bench.dut, f"acc_{name}").en, 0)
            conflicts[port] = bench.trace.conflicts - before
        # 8 tiles of 4 rows drain in 32 cycles at each of 4 lanes, which are a cycle apart: 35 cycles.
        assert conflicts == {None: 0, "x": 35, "d": 35}

    bench.run(testbench)


def test_without_forwarding_the_merge_test_fails(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Mutation: the merge tests see a sum that is taken from the memory too early."""
    monkeypatch.setattr(drain, "forward_distances", lambda config: range(config.rows + 1, STAGE_WRITE + 1))
    config = SHALLOW
    fields = {"a_addr": 0, "b_addr": 0, "k_steps": 1, "m_rows": 4, "n_tiles": 1, "acc_addr": 0}
    with pytest.raises(AssertionError, match="ACC row"):
        run_program(config, rng, [Matmul(**fields, raw=1), Matmul(**fields, merge=1)], [0, 0], fresh=True)


def test_without_the_hold_a_tile_of_rows_steps_is_lost(monkeypatch: pytest.MonkeyPatch,
                                                       rng: np.random.Generator) -> None:
    """Mutation: every PE shifts whenever its column does."""
    class Restless(ProcessingElement):
        def elaborate(self, platform: object) -> Module:
            self.start = Const(1, 1)
            return super().elaborate(platform)

    monkeypatch.setattr(array, "ProcessingElement", Restless)
    fields = {"a_addr": 0, "b_addr": 0, "m_rows": 4, "n_tiles": 1}
    program = [Matmul(**fields, k_steps=4), Matmul(**fields, k_steps=4, acc_addr=4)]
    with pytest.raises(AssertionError, match="ACC row"):
        run_program(SHALLOW, rng, program, [0, 0], fresh=True)
