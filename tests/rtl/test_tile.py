"""The whole nano tile in Amaranth's simulator: results, every trace cycle, counters, stalls, errors."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.plan import BOOT_DISPATCH, REFETCH, duration
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import encode_program, fp32_bits
from tilescore.rtl.spec.events import EVENT_NAMES, event_counts
from tilescore.rtl.spec.isa import Dest, Halt, Load, Matmul, Space, Store, Sync, Unit, Vector
from tilescore.rtl.spec.ledger import COUNTER_NAMES, LEDGER_COUNTERS, LEDGER_UNITS
from tilescore.rtl.tile import Tile

NANO = load_tile("nano")
PROGRAM_AT, A_AT, B_AT, CODES_AT, FP32_AT, DRAM_BYTES = 0, 4096, 4352, 5120, 6144, 8192
K = 24
ROWS = 6
BOOT = Load(space=Space.PROGRAM, dram_addr=PROGRAM_AT, rows=1, row_bytes=NANO.page_bytes, signal_wr=16)


def mask(*units: Unit) -> int:
    return sum(1 << unit for unit in units)


PROGRAM = [
    Load(space=Space.A, dram_addr=A_AT, row_stride=32, rows=ROWS, row_bytes=K, addr=0, pitch=4),
    Load(space=Space.B, dram_addr=B_AT, row_stride=32, rows=4, row_bytes=K, addr=0, signal_wr=mask(Unit.MATRIX)),
    Matmul(a_addr=0, b_addr=0, k_steps=K // 8, m_rows=ROWS, n_tiles=1, a_pitch=4, b_pitch=4, acc_addr=0,
           wait_wr=mask(Unit.LOAD), signal_wr=mask(Unit.VECTOR)),
    Vector(rows=ROWS, tiles=1, x_addr=0, y=fp32_bits(0.5), w=fp32_bits(1.0), dest=Dest.A,
           dst_addr=NANO.a_bank_groups, dst_pitch=2, wait_wr=mask(Unit.MATRIX),
           signal_rd=mask(Unit.STORE), signal_wr=mask(Unit.STORE)),
    Store(space=Space.ACC, dram_addr=FP32_AT, row_stride=16, rows=ROWS, row_bytes=16, addr=0,
          wait_rd=mask(Unit.VECTOR)),
    Store(space=Space.A, dram_addr=CODES_AT, row_stride=16, rows=ROWS, row_bytes=4, addr=NANO.a_bank_groups,
          pitch=2, wait_wr=mask(Unit.VECTOR)),
    Halt(),
]


def e4m3_value(code: int) -> float:
    """Value of a finite E4M3 code (OCP FP8 specification, table 2)."""
    sign, exponent, fraction = code >> 7, code >> 3 & 15, code & 7
    size = (8 + fraction) * 2.0 ** (exponent - 10) if exponent else fraction * 2.0 ** -9
    return -size if sign else size


FINITE = [code for code in range(256) if code & 127 != 127]


def nearest_code(value: float) -> int:
    """E4M3 code nearest to a value in range; of two, the even one. Zero is 0x00, as in the drain."""
    codes = [code for code in FINITE if code >> 7 == (value < 0)]
    return min(codes, key=lambda code: (abs(e4m3_value(code) - value), code & 1))


def image(rng: np.random.Generator, program: list) -> np.ndarray:
    dram = rng.integers(0, 256, DRAM_BYTES, dtype=np.uint8)
    words = encode_program(program).reshape(-1)
    dram[PROGRAM_AT:PROGRAM_AT + NANO.page_bytes] = 0
    dram[PROGRAM_AT:PROGRAM_AT + len(words)] = words
    small = [code for code in FINITE if 2**-6 <= abs(e4m3_value(code)) <= 8]
    dram[A_AT:FP32_AT] = rng.choice(small, FP32_AT - A_AT)
    return dram


def run(dram, *, runs: int = 1, limit: int = 2500) -> list[dict]:
    """Run to done, ``runs`` times on the same tile without a reset; traces, counters and errors of each run."""
    tile = Tile(NANO)

    class Port:
        def __init__(self, prefix: str) -> None:
            for name in ("req_valid", "req_addr", "req_data", "req_strb", "req_ready", "rsp_valid", "rsp_data"):
                setattr(self, name, getattr(tile, f"{prefix}_{name}", None))

    read, write = Port("rd"), Port("wr")
    logs = []

    async def bench(ctx) -> None:
        cycle = 0
        for _ in range(runs):
            log: dict = {"dispatch": [], "issue": [], "rd": [], "wr": [], "busy": []}
            begin = cycle
            while True:
                assert cycle - begin < limit, f"not done after {limit} cycles: {log}"
                ctx.set(tile.start, int(cycle == begin))
                ctx.set(tile.program_addr, PROGRAM_AT)
                dram.drive_read(ctx, read, cycle)
                dram.drive_write(ctx, write, cycle)
                dram.sample_read(ctx, read, cycle)
                dram.sample_write(ctx, write, cycle)
                if ctx.get(tile.trace_dispatch):
                    log["dispatch"].append(cycle - begin)
                for kind in ("issue", "rd", "wr"):
                    bits = ctx.get(getattr(tile, f"trace_{kind}"))
                    log[kind] += [(cycle - begin, unit) for unit in range(4) if bits >> unit & 1]
                log["busy"].append(ctx.get(tile.busy))
                done = ctx.get(tile.done)
                await ctx.tick()
                cycle += 1
                if done:
                    break
            log["cycles"] = cycle - begin
            log["conflict"], log["illegal"] = ctx.get(tile.conflict), ctx.get(tile.illegal)
            log["counters"] = {}
            for number, name in enumerate(COUNTER_NAMES):
                ctx.set(tile.counter_select, number)
                await ctx.tick()
                cycle += 1
                log["counters"][name] = ctx.get(tile.counter_value)
            logs.append(log)

    sim = Simulator(tile)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return logs


def check_results(before: np.ndarray, after: np.ndarray) -> None:
    """FP32 products and codes of half of them, and nothing else changed in DRAM."""
    decode = np.vectorize(lambda code: e4m3_value(int(code)))
    a = decode(before[A_AT:A_AT + 32 * ROWS].reshape(ROWS, 32)[:, :K])
    b = decode(before[B_AT:B_AT + 32 * 4].reshape(4, 32)[:, :K])
    exact = a @ b.T  # float64 holds these sums exactly: multiples of 2**-18 below 2**11
    expected = before.copy()
    expected[FP32_AT:FP32_AT + 16 * ROWS] = exact.astype(np.float32).view(np.uint8).reshape(-1)
    for i in range(ROWS):
        codes = [nearest_code(float(np.float32(np.float32(v) * np.float32(0.5)))) for v in exact[i]]
        expected[CODES_AT + 16 * i:CODES_AT + 16 * i + 4] = codes
    wrong = np.flatnonzero(after != expected)
    assert not len(wrong), f"{len(wrong)} bytes from {wrong[0]} on: {after[wrong[:8]]}, not {expected[wrong[:8]]}"


def test_results_and_every_cycle(rng, bench_dram) -> None:
    """The program by hand: who waits for what is written out below, durations are those of plan.py."""
    before = image(rng, PROGRAM)
    dram = bench_dram(before.copy(), bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency)
    first, second = run(dram, runs=2)
    check_results(before, dram.data)
    boot, *spans = (duration(i, NANO) for i in [BOOT, *PROGRAM[:-1]])
    load_a, load_b, matmul, vector, store_acc, store_a = spans

    boot_issue = BOOT_DISPATCH + 1
    d = boot_issue + boot.wr + 1 + REFETCH       # boot token given, visible, taken, refetch
    i0 = d + 1
    i1 = max(d + 2, i0 + load_a.occupancy)
    i2 = max(d + 3, i1 + load_b.wr + 1)          # waits for B
    i3 = max(d + 4, i2 + matmul.wr + 1)          # waits for the products
    i4 = max(d + 5, i3 + vector.rd + 1)          # the ACC bank is free again
    i5 = max(d + 6, i4 + store_acc.occupancy, i3 + vector.wr + 1)  # waits for the codes
    halt = max(i4 + store_acc.wr, i5 + store_a.wr) + 1
    assert first["dispatch"] == [BOOT_DISPATCH, *range(d, d + 6), halt]
    issues = [(boot_issue, Unit.LOAD), (i0, Unit.LOAD), (i1, Unit.LOAD), (i2, Unit.MATRIX), (i3, Unit.VECTOR),
              (i4, Unit.STORE), (i5, Unit.STORE)]
    assert first["issue"] == sorted(issues)
    for kind in ("rd", "wr"):
        times = [(t + getattr(span, kind), unit)
                 for (t, unit), span in zip(issues, [boot, *spans], strict=True)]
        assert first[kind] == sorted(times), kind
    assert first["cycles"] == halt + 1
    assert first["busy"] == [0] + [1] * halt
    assert not first["conflict"] and not first["illegal"]
    assert first == second, "a second run without reset differs"
    check_counters(first)


def check_counters(log: dict) -> None:
    """Events are those of event_counts, the causes of every unit sum to the cycles."""
    events = dict.fromkeys(EVENT_NAMES, 0)
    for instruction in [BOOT, *PROGRAM]:
        for name, count in event_counts(instruction, NANO).items():
            events[name] += count
    assert {name: log["counters"][name] for name in EVENT_NAMES} == events
    for unit in LEDGER_UNITS:
        causes = {c.cause: log["counters"][f"{unit}.{c.cause}"] for c in LEDGER_COUNTERS if c.unit == unit}
        assert sum(causes.values()) == log["cycles"], (unit, causes)
    panels = -(-ROWS // NANO.rows)
    assert log["counters"]["matrix.compute"] == panels * (K // 8)
    assert log["counters"]["matrix.fill"] == panels * (NANO.rows - K // 8)


@pytest.mark.slow
def test_stalls_change_only_the_time(rng, bench_dram) -> None:
    before = image(rng, PROGRAM)
    dram = bench_dram(before.copy(), bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency, rng=rng)
    log, = run(dram)
    check_results(before, dram.data)
    assert [unit for _, unit in log["wr"]].count(Unit.STORE) == 2
    check_counters(log)


@pytest.mark.slow
def test_second_page_behind_a_sync(rng, bench_dram) -> None:
    """The first page ends with a SYNC for the load of the second, which holds the rest of the program."""
    page = NANO.imem_page
    fill = Vector(rows=1, tiles=1, x_addr=NANO.acc_addr(4), y=fp32_bits(1.0), w=fp32_bits(1.0))
    head = [Load(space=Space.PROGRAM, dram_addr=page * 32, rows=1, row_bytes=NANO.page_bytes, addr=page,
                 signal_wr=mask(Unit.DISPATCH))]
    first = head + [fill] * (page - 2) + [Sync(wait_wr=mask(Unit.LOAD))]
    before = image(rng, first + PROGRAM)
    dram = bench_dram(before.copy(), bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency)
    log, = run(dram)
    check_results(before, dram.data)
    assert len(log["dispatch"]) == 1 + page + len(PROGRAM)


def test_bank_conflict_is_reported(rng, bench_dram) -> None:
    """A STORE that reads the A bank of a running MATMUL: sticky until the next start."""
    bad = [Matmul(k_steps=60, m_rows=4, n_tiles=1),
           Store(space=Space.A, dram_addr=CODES_AT, row_stride=16, rows=8, row_bytes=16), Halt()]
    dram = bench_dram(image(rng, bad), bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency)
    first, second = run(dram, runs=2)
    assert first["conflict"] and second["conflict"]


@pytest.mark.always("12")
@pytest.mark.parametrize("opcode", [0, 12])
def test_illegal_opcode(opcode: int, rng, bench_dram) -> None:
    """The program ends at the unknown opcode, with illegal set."""
    dram_image = image(rng, [Load(space=Space.A, dram_addr=A_AT, rows=1, row_bytes=16)])
    dram_image[PROGRAM_AT + 32] = opcode
    dram = bench_dram(dram_image, bus_bytes=NANO.bus_bytes, latency=NANO.dram_latency)
    log, = run(dram)
    assert log["illegal"] and not log["conflict"]
    assert len(log["dispatch"]) == 2
