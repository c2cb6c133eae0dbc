"""Issue: a queue per unit, the token counters, and who may start when.

There is one counter for every (producer unit, kind, consumer unit), so the n-th wait always matches the
n-th signal. Counters are registered: a token given in cycle S can be taken from S + 1 on. An instruction
takes its tokens in its issue cycle. Everything a unit may do depends on registers only, so that a unit
waits at issue or not at all.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..dma.load_unit import LOAD_COMMAND
from ..dma.store_unit import STORE_COMMAND
from ..lib.command_queue import CommandQueue
from ..lib.unit_port import command_layout, unit_signature
from ..spec.config import TileConfig
from ..spec.isa import INSTRUCTION_BITS, QUEUE_UNITS, Unit
from ..spec.ledger import ledger_causes

TOKEN_BITS = 8
"""Width of a token counter. The verifier keeps every count below 2**8."""

PENDING_BITS = 12
"""Width of the count of a unit's instructions that have been pushed and have not retired."""

COMMANDS = {Unit.LOAD: LOAD_COMMAND, Unit.STORE: STORE_COMMAND,
            Unit.MATRIX: command_layout("MATMUL"), Unit.VECTOR: command_layout("VECTOR")}
"""Command layout of each queue unit."""


class TokenCounters(wiring.Component):
    """Counting semaphores [producer][kind][consumer] of 8 bits.

    Members
    -------
    give_rd, give_wr : In(5), one per producer
        A bit per consumer: give it one token, visible in the next cycle.
    take_rd, take_wr : In(4), one per consumer
        A bit per producer: take one of its tokens, which must be present. Giving and taking in the same
        cycle leaves the count.
    present_rd, present_wr : Out(4), one per consumer
        A bit per producer: at least one token is there.
    clear : In(1)
        Drop all tokens.
    """

    clear: Signal
    give_rd: list
    give_wr: list
    take_rd: list
    take_wr: list
    present_rd: list
    present_wr: list

    def __init__(self) -> None:
        producers, consumers = len(QUEUE_UNITS), len(Unit)
        super().__init__({"clear": In(1)} | {
            f"{verb}_{kind}": shape for kind in ("rd", "wr") for verb, shape in (
                ("give", In(consumers).array(producers)), ("take", In(producers).array(consumers)),
                ("present", Out(producers).array(consumers)))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for kind in ("rd", "wr"):
            give, take, present = (getattr(self, f"{verb}_{kind}") for verb in ("give", "take", "present"))
            for producer in QUEUE_UNITS:
                for consumer in Unit:
                    count = Signal(TOKEN_BITS, name=f"{kind}_{producer.name}_{consumer.name}".lower())
                    m.d.comb += present[consumer][producer].eq(count != 0)
                    m.d.sync += count.eq(count + give[producer][consumer] - take[consumer][producer])
                    with m.If(self.clear):
                        m.d.sync += count.eq(0)
        return m


class UnitIssue(wiring.Component):
    """Queue and issue logic of one unit.

    Members
    -------
    push, word, full :
        From the dispatcher; `full` is registered. Bits of the word beyond the unit's command are dropped.
    port : unit_signature, seen from the issue logic
        An instruction pushed at D starts at D + 1 at the earliest.
    limited : In(1)
        Only the limit of instructions in flight keeps ``port.ready`` low.
    granted : In(1)
        The instruction at the head may have the DRAM port; depends on registers only.
    present_rd, present_wr : In(4), take_rd, take_wr : Out(4)
        The unit's tokens.
    drained : Out(1)
        Every instruction pushed before this cycle has retired before this cycle.
    causes : Out
        One bit per cause of the ledger; exactly one is set.
    compute : In(1)
        Matrix unit: this cycle of its occupancy is a k step.
    clear : In(1)
        Empty the queue.
    """

    push: Signal
    word: Signal
    full: Signal
    port: Any
    limited: Signal
    granted: Signal
    present_rd: Signal
    present_wr: Signal
    take_rd: Signal
    take_wr: Signal
    drained: Signal
    causes: Signal
    compute: Signal
    clear: Signal

    def __init__(self, config: TileConfig, unit: Unit) -> None:
        self.config = config
        self.unit = unit
        masks = len(QUEUE_UNITS)
        super().__init__({
            "push": In(1), "word": In(INSTRUCTION_BITS), "full": Out(1),
            "port": In(unit_signature(COMMANDS[unit])), "limited": In(1), "granted": In(1),
            "present_rd": In(masks), "present_wr": In(masks), "take_rd": Out(masks), "take_wr": Out(masks),
            "drained": Out(1), "causes": Out(len(ledger_causes(unit.name.lower()))), "compute": In(1),
            "clear": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = COMMANDS[self.unit]
        m.submodules.queue = queue = CommandQueue(layout=layout, depth=self.config.queue_depth)
        head = queue.head
        start = self.port.start
        pending = Signal(PENDING_BITS)
        missing = Signal(len(QUEUE_UNITS))
        m.d.comb += [
            queue.push.eq(self.push), Value.cast(queue.push_data).eq(self.word[:layout.size]),
            queue.pop.eq(start), queue.clear.eq(self.clear), self.full.eq(queue.full),
            missing.eq(head.wait_rd & ~self.present_rd | head.wait_wr & ~self.present_wr),
            start.eq(queue.valid & self.port.ready & self.granted & ~missing.any()),
            self.port.command.eq(head),
            self.drained.eq(pending == 0),
        ]
        with m.If(start):
            m.d.comb += [self.take_rd.eq(head.wait_rd), self.take_wr.eq(head.wait_wr)]
        m.d.sync += pending.eq(pending + self.push - self.port.wr)
        self._causes(m, start, queue.valid, missing)
        return m

    def _causes(self, m: Module, start: Value, present: Value, missing: Value) -> None:
        names = ledger_causes(self.unit.name.lower())
        cause = {name: Signal(name=f"cause_{name}") for name in names}
        m.d.comb += self.causes.eq(Cat(cause.values()))
        with m.If(start | ~(self.port.ready | self.limited)):
            if self.unit == Unit.MATRIX:
                m.d.comb += [cause["compute"].eq(self.compute), cause["fill"].eq(~self.compute)]
            else:
                m.d.comb += cause["busy"].eq(1)
        with m.Elif(~present):
            m.d.comb += cause["idle"].eq(1)
        for producer in QUEUE_UNITS:
            with m.Elif(missing[producer]):
                m.d.comb += cause[f"wait_{producer.name.lower()}"].eq(1)
        if "outstanding" in cause:
            with m.Elif(~self.granted):
                m.d.comb += cause["wait_port"].eq(1)
            with m.Else():
                m.d.comb += cause["outstanding"].eq(1)


class Issue(wiring.Component):
    """Queues, issue logic and tokens of all four units.

    Members
    -------
    push : In(4), word : In(256), full : Out(4)
        By unit; see `UnitIssue`.
    wait_rd, wait_wr : In(4), tokens_present : Out(1), take : In(1)
        The dispatcher's tokens: whether all that are asked for are there; take them.
    drained : Out(1)
        No instruction is in a queue or a unit.
    load, store, matrix, vector : unit_signature, seen from the issue logic
    load_limited, store_limited, matrix_compute : In(1)
    issued, read, retired : Out(4)
        Cycles I, I + rd, I + wr, by unit.
    load_causes, store_causes, matrix_causes, vector_causes : Out
        See `UnitIssue.causes`.
    clear : In(1)
        Empty the queues and drop all tokens.
    """

    push: Signal
    word: Signal
    full: Signal
    wait_rd: Signal
    wait_wr: Signal
    tokens_present: Signal
    take: Signal
    drained: Signal
    issued: Signal
    read: Signal
    retired: Signal
    load: Any
    store: Any
    matrix: Any
    vector: Any
    load_limited: Signal
    store_limited: Signal
    matrix_compute: Signal
    load_causes: Signal
    store_causes: Signal
    matrix_causes: Signal
    vector_causes: Signal
    clear: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        units = len(QUEUE_UNITS)
        members: dict = {
            "push": In(units), "word": In(INSTRUCTION_BITS), "full": Out(units), "wait_rd": In(units),
            "wait_wr": In(units), "tokens_present": Out(1), "take": In(1), "drained": Out(1),
            "issued": Out(units), "read": Out(units), "retired": Out(units), "clear": In(1),
            "load_limited": In(1), "store_limited": In(1), "matrix_compute": In(1)}
        for unit in QUEUE_UNITS:
            name = unit.name.lower()
            members[name] = In(unit_signature(COMMANDS[unit]))
            members[f"{name}_causes"] = Out(len(ledger_causes(name)))
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tokens = tokens = TokenCounters()
        parts = []
        for unit in QUEUE_UNITS:
            name = unit.name.lower()
            part = UnitIssue(self.config, unit)
            m.submodules[name] = part
            parts.append(part)
            port = getattr(self, name)
            wiring.connect(m, part.port, wiring.flipped(port))
            m.d.comb += [
                part.push.eq(self.push[unit]), part.word.eq(self.word), self.full[unit].eq(part.full),
                part.clear.eq(self.clear), part.granted.eq(1), getattr(self, f"{name}_causes").eq(part.causes),
                part.present_rd.eq(tokens.present_rd[unit]), part.present_wr.eq(tokens.present_wr[unit]),
                tokens.take_rd[unit].eq(part.take_rd), tokens.take_wr[unit].eq(part.take_wr),
                self.issued[unit].eq(port.start), self.read[unit].eq(port.rd), self.retired[unit].eq(port.wr),
            ]
            with m.If(port.rd):
                m.d.comb += tokens.give_rd[unit].eq(port.rd_mask)
            with m.If(port.wr):
                m.d.comb += tokens.give_wr[unit].eq(port.wr_mask)
        if self.config.dram_shared:
            self._share_port(m, parts)
        sync = Unit.DISPATCH
        m.d.comb += [
            parts[Unit.LOAD].limited.eq(self.load_limited), parts[Unit.STORE].limited.eq(self.store_limited),
            parts[Unit.MATRIX].compute.eq(self.matrix_compute),
            self.drained.eq(Cat(part.drained for part in parts).all()), tokens.clear.eq(self.clear),
            self.tokens_present.eq(~(self.wait_rd & ~tokens.present_rd[sync]
                                     | self.wait_wr & ~tokens.present_wr[sync]).any()),
        ]
        with m.If(self.take):
            m.d.comb += [tokens.take_rd[sync].eq(self.wait_rd), tokens.take_wr[sync].eq(self.wait_wr)]
        return m

    def _share_port(self, m: Module, parts: list[UnitIssue]) -> None:
        """Grant the DRAM port in the order in which DMA instructions were pushed, when the unit before is free."""
        units = parts[Unit.LOAD], parts[Unit.STORE]
        m.submodules.port_order = order = CommandQueue(layout=data.StructLayout({"unit": 1}),
                                                       depth=2 * self.config.queue_depth)
        m.d.comb += [
            order.push.eq(self.push[Unit.LOAD] | self.push[Unit.STORE]), order.push_data.unit.eq(self.push[Unit.STORE]),
            order.pop.eq(Cat(unit.port.start for unit in units).any()), order.clear.eq(self.clear),
        ]
        for number, unit in enumerate(units):
            other = units[1 - number]
            m.d.comb += unit.granted.eq((order.head.unit == number) & (other.port.ready | other.limited))
