"""`time_program` against a model that is stepped cycle by cycle, on hand-written and random programs."""

import dataclasses
from collections import Counter, deque

import numpy as np
import pytest

from tilescore.rtl.plan import BOOT_DISPATCH, REFETCH, Duration, duration, matmul_slot
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.events import EVENT_NAMES, event_counts
from tilescore.rtl.spec.isa import QUEUE_UNITS, Gather, Halt, Load, Matmul, Scatter, Store, Sync, Unit, Vector
from tilescore.rtl.spec.ledger import LEDGER_UNITS, ledger_causes
from tilescore.sim.program import Program
from tilescore.sim.timing import BOOT, NOT_SHAPE, Timing, time_program

NANO = load_tile("nano")
SMALL = TileConfig(**{**NANO.to_dict(), "formats": ("e4m3",), "queue_depth": 2, "dma_outstanding": 2,
                      "dram_latency": 7})
SHARED = dataclasses.replace(SMALL, dram_shared=True)
SLOW = dataclasses.replace(SMALL, dram_bytes_per_cycle="23/3", dma_outstanding=5)
SLOW_SHARED = dataclasses.replace(NANO, dram_bytes_per_cycle=12.8, dram_shared=True)


class Stepped:
    """The time contract as a machine: one loop iteration is one cycle.

    It shares no formula with the model but `plan.duration`.
    """

    def __init__(self, program: Program, recorded: dict[int, Duration] | None = None) -> None:
        self.program, self.config = program, program.config
        self.recorded = recorded or {}
        self.queues = {u: deque() for u in QUEUE_UNITS}
        self.tokens: Counter = Counter()
        self.pending: dict[int, list] = {}
        self.free_at = dict.fromkeys(QUEUE_UNITS, 0)
        self.current: dict = {}
        self.in_flight = dict.fromkeys(QUEUE_UNITS, 0)
        self.ledger: Counter = Counter()
        self.times = {}
        self.unfinished = 0
        self.transfers: deque = deque()

    def run(self) -> int:
        """Number of cycles."""
        boot, t, booted, earliest, next_index = self.program.boot_load(), 0, False, None, 0
        instructions = self.program.instructions
        while t < 200_000:
            for change, amount in self.pending.pop(t, []):
                if change == "retire":
                    self.unfinished -= 1
                elif isinstance(change, Unit):
                    self.in_flight[change] -= 1
                else:
                    self.tokens[change] += amount
            full = {u: len(self.queues[u]) >= self.config.queue_depth for u in QUEUE_UNITS}
            unfinished = self.unfinished
            takes = []
            for unit in QUEUE_UNITS:
                self.step_unit(unit, t, takes)
            cause = "sync"
            if t == BOOT_DISPATCH:
                self.push(BOOT, boot, t)
                cause = "dispatch"
            elif not booted:
                if self.tokens[Unit.LOAD, "wr", Unit.DISPATCH]:
                    self.tokens[Unit.LOAD, "wr", Unit.DISPATCH] -= 1
                    booted, earliest = True, t + REFETCH
            elif t < earliest:
                cause = "fetch"
            else:
                i = instructions[next_index]
                kind = i.spec.name
                missing = [c for c in self.channels(i) if not self.tokens[c]]
                if kind == "HALT":
                    cause = "halt" if missing or unfinished else "dispatch"
                elif kind == "SYNC":
                    cause = "sync" if missing else "dispatch"
                else:
                    cause = "queue_full" if full[i.spec.unit] else "dispatch"
                if cause == "dispatch":
                    if kind in ("SYNC", "HALT"):
                        takes += self.channels(i)
                        earliest = t + REFETCH
                        self.times[next_index] = [t, t, t, t]
                    else:
                        self.push(next_index, i, t)
                    next_index += 1
            for channel in takes:
                self.tokens[channel] -= 1
            self.ledger["dispatch", cause] += 1
            t += 1
            if next_index == len(instructions):
                return t
        raise AssertionError("the stepped machine did not finish")

    def channels(self, i) -> list:
        masks = (("rd", i.wait_rd), ("wr", i.wait_wr))
        return [(p, kind, i.spec.unit) for p in QUEUE_UNITS for kind, mask in masks if mask >> p & 1]

    def push(self, index: int, i, t: int) -> None:
        self.queues[i.spec.unit].append((index, i))
        self.times[index] = [t]
        if i.spec.unit <= Unit.STORE:
            self.transfers.append(index)
        self.unfinished += 1

    def step_unit(self, unit: Unit, t: int, takes: list) -> None:
        head = self.queues[unit][0] if self.queues[unit] else None
        if t < self.free_at[unit]:
            cause = "busy"
            if unit == Unit.MATRIX:
                issue, i = self.current[unit]
                slot = matmul_slot(i.k_steps, self.config)
                cause = "compute" if (t - issue) % slot >= slot - i.k_steps else "fill"
        elif head is None:
            cause = "idle"
        else:
            index, i = head
            missing = [c for c in self.channels(i) if not self.tokens[c]]
            if missing:
                cause = f"wait_{missing[0][0].name.lower()}"
            elif self.config.dram_shared and unit <= Unit.STORE and (
                    index != self.transfers[0] or t < self.free_at[Unit.STORE if unit == Unit.LOAD else Unit.LOAD]):
                cause = "wait_port"
            elif unit in (Unit.LOAD, Unit.STORE) and self.in_flight[unit] >= self.config.dma_outstanding:
                cause = "outstanding"
            else:
                self.issue(unit, index, i, t, takes)
                return self.step_issued(unit, i)
        self.ledger[unit.name.lower(), cause] += 1

    def step_issued(self, unit: Unit, i) -> None:
        cause = "busy"
        if unit == Unit.MATRIX:
            cause = "compute" if matmul_slot(i.k_steps, self.config) == i.k_steps else "fill"
        self.ledger[unit.name.lower(), cause] += 1

    def issue(self, unit: Unit, index: int, i, t: int, takes: list) -> None:
        self.queues[unit].popleft()
        if unit <= Unit.STORE:
            self.transfers.remove(index)
        takes += self.channels(i)
        d = self.recorded.get(index) or duration(i, self.config)
        self.times[index] += [t, t + d.rd, t + d.wr]
        self.free_at[unit], self.current[unit] = t + d.occupancy, (t, i)
        self.in_flight[unit] += 1
        for kind, offset, mask in (("rd", d.rd, i.signal_rd), ("wr", d.wr, i.signal_wr)):
            for consumer in Unit:
                if mask >> consumer & 1:
                    self.pending.setdefault(t + offset + 1, []).append(((unit, kind, consumer), 1))
        self.pending.setdefault(t + d.wr + 1, []).extend([("retire", 1), (unit, 1)])


def random_instructions(config: TileConfig, rng: np.random.Generator, count: int) -> list:
    """Shapes and tokens at random, addresses 0; every wait is for a token of an earlier instruction."""

    def draw(high: int) -> int:
        return int(rng.integers(1, high))

    makers = [
        lambda: Load(rows=draw(6), row_bytes=draw(60)), lambda: Gather(rows=draw(4), row_bytes=draw(40)),
        lambda: Store(rows=draw(6), row_bytes=draw(60)), lambda: Scatter(rows=draw(4), row_bytes=draw(40)),
        lambda: Matmul(k_steps=draw(9), m_rows=draw(3 * config.rows), n_tiles=draw(3)),
        lambda: Vector(rows=draw(20), tiles=draw(3)), Sync]
    given: Counter = Counter()
    result = []
    for _ in range(count):
        i = makers[rng.choice(7, p=[.2, .1, .15, .05, .2, .25, .05])]()
        for p in QUEUE_UNITS:
            for kind in ("rd", "wr"):
                if given[p, kind, i.spec.unit] and rng.random() < 0.5:
                    given[p, kind, i.spec.unit] -= 1
                    setattr(i, f"wait_{kind}", getattr(i, f"wait_{kind}") | 1 << p)
        if i.spec.unit != Unit.DISPATCH:
            for kind in ("rd", "wr"):
                mask = int(rng.integers(0, 32)) & int(rng.integers(0, 32))
                setattr(i, f"signal_{kind}", mask)
                given.update((i.spec.unit, kind, c) for c in Unit if mask >> c & 1)
        result.append(i)
    return [*result, Halt()]


def bare(config: TileConfig, instructions: list) -> Program:
    return Program(config=config, instructions=instructions, program_addr=0, dram_bytes=1 << 20)


def check(timing: Timing, stepped: Stepped, cycles: int) -> None:
    arrays = np.stack([timing.dispatch, timing.issue, timing.rd, timing.retire], axis=1)
    for index, expected in sorted(stepped.times.items()):
        found = timing.boot if index == BOOT else arrays[index].tolist()
        assert list(found) == expected, f"instruction {index}"
    assert timing.cycles == cycles
    for unit in LEDGER_UNITS:
        assert timing.ledger[unit] == {cause: stepped.ledger[unit, cause] for cause in ledger_causes(unit)}


@pytest.mark.parametrize("config", [NANO, SMALL, SHARED, SLOW, SLOW_SHARED, load_tile("edge")],
                         ids=["nano", "small", "shared", "slow", "slow and shared", "edge"])
def test_equals_the_stepped_machine_on_random_programs(config: TileConfig, rng: np.random.Generator) -> None:
    for _ in range(25):
        program = bare(config, random_instructions(config, rng, int(rng.integers(1, 60))))
        stepped = Stepped(program)
        check(time_program(program), stepped, stepped.run())


@pytest.mark.parametrize("config", [SMALL, SHARED], ids=["two ports", "shared"])
def test_recorded_durations_replace_the_plan(config: TileConfig, rng: np.random.Generator) -> None:
    program = bare(config, random_instructions(config, rng, 50))
    recorded = {BOOT: Duration(200, 201, 300)}
    for n, i in enumerate(program.instructions):
        if i.spec.unit in (Unit.LOAD, Unit.STORE) and rng.random() < 0.7:
            # A longer occupancy delays everything; anything else could let a later instruction overtake.
            d, extra = duration(i, config), int(rng.integers(0, 50))
            recorded[n] = Duration(d.occupancy + extra, d.rd + extra, d.wr + extra)
    stepped = Stepped(program, recorded)
    check(time_program(program, recorded=recorded), stepped, stepped.run())
    assert time_program(program).cycles < time_program(program, recorded=recorded).cycles


def test_ledger_sums_to_cycles(tiny_program, rng: np.random.Generator) -> None:
    for config in (NANO, load_tile("edge")):
        timing = time_program(tiny_program(config, rng))
        assert set(timing.ledger) == set(LEDGER_UNITS)
        for unit, causes in timing.ledger.items():
            assert sum(causes.values()) == timing.cycles, unit
            assert min(causes.values()) >= 0


def test_events_are_those_of_every_instruction(tiny_program, rng: np.random.Generator) -> None:
    program = tiny_program(NANO, rng)
    expected = dict.fromkeys(EVENT_NAMES, 0)
    for i in [program.boot_load(), *program.instructions]:
        for name, count in event_counts(i, NANO).items():
            expected[name] += count
    assert time_program(program).events == expected


def test_addresses_change_neither_duration_nor_events(rng: np.random.Generator) -> None:
    """The shapes by which durations are remembered hold every field that matters."""
    for i in random_instructions(NANO, rng, 300)[:-1]:
        if i.spec.unit == Unit.DISPATCH:
            continue
        before = duration(i, NANO), event_counts(i, NANO)
        for field in i.spec.fields:
            if field.name in NOT_SHAPE:
                setattr(i, field.name, int(rng.integers(0, 2)) if field.bits == 1 else 3)
        assert (duration(i, NANO), event_counts(i, NANO)) == before


def test_tokens_of_a_unit_never_overtake(rng: np.random.Generator) -> None:
    """A unit's rd and wr pulses are in program order even when it issues without a gap."""
    for config in (NANO, load_tile("edge"), load_tile("server")):
        last: dict = {}
        for i in random_instructions(config, rng, 400)[:-1]:
            if i.spec.unit == Unit.DISPATCH:
                continue
            d = duration(i, config)
            issue, rd, wr = last.get(i.spec.unit, (0, -1, -1))
            assert issue + d.rd > rd and issue + d.wr > wr
            last[i.spec.unit] = (issue + d.occupancy, issue + d.rd, issue + d.wr)


@pytest.mark.parametrize(("instructions", "text"), [
    ([Matmul(k_steps=1, m_rows=1, n_tiles=1, wait_wr=1), Halt()], r"instruction 0 \(MATMUL\) waits"),
    ([Sync(wait_wr=1), Halt()], r"instruction 0 \(SYNC\) waits"),
    ([Vector(rows=1, tiles=1)], r"instruction 0 \(VECTOR\) is the last instruction, expected a HALT"),
    ([Halt(), Halt()], r"instruction 0 \(HALT\) is followed"),
])
def test_wrong_program(instructions: list, text: str) -> None:
    with pytest.raises(SimulationError, match=text):
        time_program(bare(NANO, instructions))
