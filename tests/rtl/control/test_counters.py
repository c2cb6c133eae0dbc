"""Counters: every one counts its own input, from cycle 0 to the HALT cycle, and starts anew."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator

from tilescore.rtl.control.counters import COUNTER_BITS, Counters
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.rtl.spec.isa import Unit
from tilescore.rtl.spec.ledger import COUNTER_NAMES, LEDGER_COUNTERS, LEDGER_UNITS, ledger_causes

NANO = load_tile("nano")


def test_order_of_the_table() -> None:
    """Events first, then every unit's causes; names are unique and fit the 8-bit selector."""
    assert COUNTER_NAMES[:len(EVENT_NAMES)] == EVENT_NAMES
    assert len(set(COUNTER_NAMES)) == len(COUNTER_NAMES) == len(EVENT_NAMES) + len(LEDGER_COUNTERS) <= 256
    assert tuple(unit.name.lower() for unit in Unit) == LEDGER_UNITS
    causes = [cause for unit in LEDGER_UNITS for cause in ledger_causes(unit)]
    assert [counter.cause for counter in LEDGER_COUNTERS] == causes
    assert "outstanding" in ledger_causes("load") and "outstanding" not in ledger_causes("vector")


def run(steps: list[dict[str, int]], selections: list[int]) -> list[int]:
    """Drive the inputs of each step for a cycle, then read the selected counters."""
    dut = Counters(NANO)
    values = []

    async def bench(ctx) -> None:
        for step in steps:
            for name in step:
                ctx.set(getattr(dut, name), step[name])
            await ctx.tick()
            for name in step:
                ctx.set(getattr(dut, name), 0)
        for number in selections:
            ctx.set(dut.select, number)
            await ctx.tick()
            values.append(ctx.get(dut.value))

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return values


@pytest.mark.parametrize("number", range(len(COUNTER_NAMES)), ids=lambda n: COUNTER_NAMES[n])
def test_each_counter_counts_its_own_input(number: int) -> None:
    """Cycle 0 and the last busy cycle count, cycles before and after do not, the neighbours stay at zero."""
    def step(amount: int, **control: int) -> dict[str, int]:
        if number < len(EVENT_NAMES):
            return {f"event_{EVENT_NAMES[number]}": amount, **control}
        return {"causes": (amount & 1) << (number - len(EVENT_NAMES)), **control}

    weights = (7, 1, 3, 5)
    expected = 3 if number >= len(EVENT_NAMES) else sum(weights[1:])
    steps = [step(weights[0]), step(weights[1], begin=1), step(weights[2], busy=1), step(weights[3], busy=1),
             step(weights[0])]
    selections = list(range(256))
    assert run(steps, selections) == [expected if n == number else 0 for n in selections]


def test_a_second_run_starts_from_zero() -> None:
    steps = [{"event_drain_rows": 4, "begin": 1}, {"event_drain_rows": 4, "busy": 1}, {},
             {"event_drain_rows": 2, "begin": 1}, {"event_drain_rows": 1, "busy": 1}]
    assert run(steps, [EVENT_NAMES.index("drain_rows")]) == [3]
    assert COUNTER_BITS == 48
