# amaranth: UnusedElaboratable=no
"""Queues, tokens and issue against max-plus times and ledger causes of random programs on fake units."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque

import pytest
from amaranth.hdl import Value
from amaranth.sim import Simulator

from tilescore.rtl.control.issue import COMMANDS, Issue, TokenCounters
from tilescore.rtl.lib.command_queue import CommandQueue
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import HEADER, INSTRUCTION_CLASSES, QUEUE_UNITS, SPEC_BY_NAME, Unit
from tilescore.rtl.spec.ledger import ledger_causes

NANO = dataclasses.replace(load_tile("nano"), queue_depth=3, dma_outstanding=2)
NAMES = {Unit.LOAD: ("LOAD", "GATHER"), Unit.STORE: ("STORE", "SCATTER"), Unit.MATRIX: ("MATMUL",),
         Unit.VECTOR: ("VECTOR",)}


def test_queue_against_a_list(rng) -> None:
    """Head one cycle after the push, full registered, order kept; also for depths that are no power of 2."""
    for depth in (1, 2, 3, 8):
        dut = CommandQueue(layout=COMMANDS[Unit.STORE], depth=depth)
        queue: deque[int] = deque()
        mask = (1 << COMMANDS[Unit.STORE].size) - 1

        async def bench(ctx, dut=dut, queue=queue, depth=depth, mask=mask) -> None:
            for cycle in range(200):
                assert ctx.get(dut.valid) == bool(queue), cycle
                assert ctx.get(dut.full) == (len(queue) == depth), cycle
                if queue:
                    assert ctx.get(Value.cast(dut.head)) == queue[0], cycle
                push = len(queue) < depth and rng.random() < 0.6
                pop = bool(queue) and rng.random() < 0.5
                clear = rng.random() < 0.02
                value = int.from_bytes(rng.bytes(32), "little") & mask
                ctx.set(dut.push, int(push))
                ctx.set(dut.pop, int(pop))
                ctx.set(dut.clear, int(clear))
                ctx.set(Value.cast(dut.push_data), value)
                await ctx.tick()
                if pop:
                    queue.popleft()
                if push:
                    queue.append(value)
                if clear:
                    queue.clear()

        sim = Simulator(dut)
        sim.add_clock(1e-8)
        sim.add_testbench(bench)
        sim.run()
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        CommandQueue(layout=COMMANDS[Unit.STORE], depth=0)


def test_token_counters_against_a_counter(rng) -> None:
    """Every channel on its own; give and take at once leave the count; up to 255 tokens."""
    dut = TokenCounters()
    count: Counter = Counter()

    async def bench(ctx) -> None:
        for cycle in range(400):
            moves: Counter = Counter()
            give_rate = 0.9 if cycle < 250 else 0.1
            for kind in ("rd", "wr"):
                gives, takes = [0] * 4, [0] * 5
                for p in range(4):
                    for c in range(5):
                        present = ctx.get(getattr(dut, f"present_{kind}")[c]) >> p & 1
                        assert present == (count[kind, p, c] > 0), (cycle, kind, p, c)
                        if rng.random() < give_rate and count[kind, p, c] < 255:
                            gives[p] |= 1 << c
                            moves[kind, p, c] += 1
                        if present and rng.random() < 1 - give_rate:
                            takes[c] |= 1 << p
                            moves[kind, p, c] -= 1
                for p in range(4):
                    ctx.set(getattr(dut, f"give_{kind}")[p], gives[p])
                for c in range(5):
                    ctx.set(getattr(dut, f"take_{kind}")[c], takes[c])
            ctx.set(dut.clear, int(cycle == 390))
            await ctx.tick()
            count.update(moves)
            if cycle == 390:
                count.clear()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


def random_program(rng, count: int) -> list:
    """(instruction, occupancy, rd, wr) with tokens that an earlier instruction gives."""
    free: Counter = Counter()
    program = []
    for _ in range(count):
        unit = QUEUE_UNITS[int(rng.integers(4))]
        spec = SPEC_BY_NAME[str(rng.choice(NAMES[unit]))]
        masks = {"wait_rd": 0, "wait_wr": 0}
        for kind in ("rd", "wr"):
            for producer in range(4):
                if free[kind, producer, unit] and rng.random() < 0.5:
                    masks[f"wait_{kind}"] |= 1 << producer
                    free[kind, producer, unit] -= 1
        masks |= {f"signal_{kind}": int(rng.integers(32)) for kind in ("rd", "wr")}
        for kind in ("rd", "wr"):
            free.update((kind, unit, c) for c in range(5) if masks[f"signal_{kind}"] >> c & 1)
        header = {field.name for field in HEADER}
        fields = {f.name: int(rng.integers(0, 1 << min(f.bits, 30))) * f.unit for f in spec.fields
                  if f.kind == "uint" and f.name not in header}
        occupancy = int(rng.integers(1, 9))
        rd = occupancy + 3
        program.append((INSTRUCTION_CLASSES[spec.name](**fields, **masks), occupancy, rd, rd + 8))
    return program


def expected_times(program: list, queue_depth: int, limit: int) -> list[tuple[int, int]]:
    """(D, I) by the rules in the docstring of plan.py; the first push is tried at cycle 0."""
    given: dict = {}
    issues: dict = {unit: [] for unit in QUEUE_UNITS}
    retires: dict = {unit: [] for unit in QUEUE_UNITS}
    free = dict.fromkeys(QUEUE_UNITS, 0)
    times, dispatch = [], -1
    for instruction, occupancy, rd, wr in program:
        unit = instruction.spec.unit
        dispatch += 1
        if len(issues[unit]) >= queue_depth:
            dispatch = max(dispatch, issues[unit][-queue_depth] + 1)
        issue = max(dispatch + 1, free[unit])
        for kind in ("rd", "wr"):
            for producer in range(4):
                if getattr(instruction, f"wait_{kind}") >> producer & 1:
                    issue = max(issue, given[kind, producer, unit].popleft() + 1)
        if unit in (Unit.LOAD, Unit.STORE) and len(retires[unit]) >= limit:
            issue = max(issue, retires[unit][-limit] + 1)
        for kind, offset in (("rd", rd), ("wr", wr)):
            for consumer in range(5):
                if getattr(instruction, f"signal_{kind}") >> consumer & 1:
                    given.setdefault((kind, unit, consumer), deque()).append(issue + offset)
        issues[unit].append(issue)
        retires[unit].append(issue + wr)
        free[unit] = issue + occupancy
        times.append((dispatch, issue))
    return times


class FakeUnit:
    """Keeps the contract of unit_port.py with durations from the program."""

    def __init__(self, port, limited, durations: list) -> None:
        self.port, self.limited, self.durations = port, limited, deque(durations)
        self.free, self.pulses, self.retires = 0, [], []

    def drive(self, ctx, cycle: int) -> None:
        full = self.limited is not None and sum(t >= cycle for t in self.retires) >= NANO.dma_outstanding
        ctx.set(self.port.ready, int(cycle >= self.free and not full))
        if self.limited is not None:
            ctx.set(self.limited, int(cycle >= self.free and full))
        for kind in ("rd", "wr"):
            masks = [mask for t, k, mask in self.pulses if (t, k) == (cycle, kind)]
            ctx.set(getattr(self.port, kind), int(bool(masks)))
            ctx.set(getattr(self.port, f"{kind}_mask"), masks[0] if masks else 31)

    def sample(self, ctx, cycle: int, instruction) -> None:
        occupancy, rd, wr = self.durations.popleft()
        self.free = cycle + occupancy
        self.retires.append(cycle + wr)
        self.pulses += [(cycle + rd, "rd", instruction.signal_rd), (cycle + wr, "wr", instruction.signal_wr)]


def is_compute(cycle: int) -> bool:
    """What the fake matrix unit says about a cycle of its occupancy, and elsewhere."""
    return cycle % 3 != 0


def expected_causes(program: list, times: list, cycles: int) -> dict:
    """{unit: [cause of each cycle]}, from the times and the rules of ledger.py."""
    result = {}
    taken: Counter = Counter()
    visible: dict = {}
    for (instruction, _, rd, wr), (_, issue) in zip(program, times, strict=True):
        for kind, offset in (("rd", rd), ("wr", wr)):
            for consumer in range(5):
                if getattr(instruction, f"signal_{kind}") >> consumer & 1:
                    visible.setdefault((kind, instruction.spec.unit, consumer), []).append(issue + offset + 1)
    for unit in QUEUE_UNITS:
        causes, now = [], 0
        for (instruction, occupancy, _, _), (dispatch, issue) in zip(program, times, strict=True):
            if instruction.spec.unit != unit:
                continue
            channels = []
            for producer in range(4):
                for kind in ("rd", "wr"):
                    if getattr(instruction, f"wait_{kind}") >> producer & 1:
                        channel = (kind, producer, unit)
                        channels.append((producer, visible[channel][taken[channel]]))
                        taken[channel] += 1
            for cycle in range(now, issue):
                late = [QUEUE_UNITS[p].name.lower() for p, t in channels if t > cycle]
                causes.append("idle" if cycle <= dispatch else f"wait_{late[0]}" if late else "outstanding")
            busy = ("fill", "compute") if unit == Unit.MATRIX else ("busy", "busy")
            causes += [busy[is_compute(cycle)] for cycle in range(issue, issue + occupancy)]
            now = issue + occupancy
        result[unit] = (causes + ["idle"] * cycles)[:cycles]
    return result


@pytest.mark.parametrize("case", range(4))
def test_random_programs(case: int, rng) -> None:
    """Dispatch and issue cycles, commands, tokens left and every cycle's cause, of 40 random instructions."""
    program = random_program(rng, 40)
    times = expected_times(program, NANO.queue_depth, NANO.dma_outstanding)
    cycles = max(issue for _, issue in times) + 40
    dut = Issue(NANO)
    pushed, issued = [], {unit: [] for unit in QUEUE_UNITS}
    causes: dict = {unit: [] for unit in QUEUE_UNITS}
    drained = []

    async def bench(ctx) -> None:
        units = {}
        for unit in QUEUE_UNITS:
            name = unit.name.lower()
            units[unit] = FakeUnit(getattr(dut, name), getattr(dut, f"{name}_limited", None),
                                   [p[1:] for p in program if p[0].spec.unit == unit])
        waiting = deque(program)
        mine = {unit: deque(p[0] for p in program if p[0].spec.unit == unit) for unit in QUEUE_UNITS}
        for cycle in range(cycles):
            for fake in units.values():
                fake.drive(ctx, cycle)
            ctx.set(dut.matrix_compute, int(is_compute(cycle)))
            ctx.set(dut.push, 0)
            if waiting and not ctx.get(dut.full) >> waiting[0][0].spec.unit & 1:
                instruction = waiting.popleft()[0]
                ctx.set(dut.push, 1 << instruction.spec.unit)
                ctx.set(dut.word, encode(instruction))
                pushed.append(cycle)
            for unit, fake in units.items():
                if ctx.get(fake.port.start):
                    instruction = mine[unit].popleft()
                    mask = (1 << COMMANDS[unit].size) - 1
                    assert ctx.get(Value.cast(fake.port.command)) == encode(instruction) & mask
                    fake.sample(ctx, cycle, instruction)
                    issued[unit].append(cycle)
                assert ctx.get(dut.issued) >> unit & 1 == ctx.get(fake.port.start)
                names = ledger_causes(unit.name.lower())
                bits = ctx.get(getattr(dut, f"{unit.name.lower()}_causes"))
                assert bits.bit_count() == 1, (cycle, unit.name, bits)
                causes[unit].append(names[bits.bit_length() - 1])
            drained.append(ctx.get(dut.drained))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert pushed == [d for d, _ in times]
    for unit in QUEUE_UNITS:
        numbers = [n for n, p in enumerate(program) if p[0].spec.unit == unit]
        assert issued[unit] == [times[n][1] for n in numbers], unit.name
    expected = expected_causes(program, times, cycles)
    for unit in QUEUE_UNITS:
        assert causes[unit] == expected[unit], unit.name
    end = max(issue + wr for (_, _, _, wr), (_, issue) in zip(program, times, strict=True))
    assert drained.index(0) == pushed[0] + 1
    assert len(drained) - drained[::-1].index(0) == end + 1


def test_dispatcher_takes_all_its_tokens_at_once() -> None:
    """SYNC sees its tokens only when all are there, and takes each once."""
    dut = Issue(NANO)
    seen = []

    async def bench(ctx) -> None:
        ctx.set(dut.wait_rd, 1 << Unit.MATRIX)
        ctx.set(dut.wait_wr, 1 << Unit.LOAD)
        for cycle in range(8):
            ctx.set(dut.load.wr, int(cycle in (1, 2)))
            ctx.set(dut.load.wr_mask, 1 << Unit.DISPATCH)
            ctx.set(dut.matrix.rd, int(cycle == 3))
            ctx.set(dut.matrix.rd_mask, 0b11111)
            seen.append(ctx.get(dut.tokens_present))
            ctx.set(dut.take, seen[-1])
            await ctx.tick()
        ctx.set(dut.wait_rd, 0)
        seen.append(ctx.get(dut.tokens_present))

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert seen == [0, 0, 0, 0, 1, 0, 0, 0, 1]
