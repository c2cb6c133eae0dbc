"""Instruction memory and dispatcher: boot, fetch, one instruction per cycle into the queues, SYNC, HALT.

The memory holds two pages, 0 and 1, and the program counter wraps over both. Page 0 is loaded by a LOAD
that the dispatcher itself pushes; every later page by a LOAD of the program, after which a SYNC waits for
its wr token. The word behind a SYNC is therefore fetched only after the token was taken, and nothing else
is fetched ahead: a word is read in the cycle in which its predecessor is dispatched and held by the
memory's output while it is blocked.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..dma.load_unit import beat_write_signature
from ..spec.config import TileConfig
from ..spec.isa import (
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    OPCODE_BITS,
    QUEUE_UNITS,
    SPEC_BY_NAME,
    SPEC_BY_OPCODE,
    Space,
    Unit,
    layout_of,
)
from ..spec.ledger import ledger_causes

HEADER_LAYOUT = data.StructLayout({
    "opcode": OPCODE_BITS, "wait_rd": 4, "wait_wr": 4, "signal_rd": 5, "signal_wr": 5})
"""Lowest bits of every instruction."""


class InstructionMemory(wiring.Component):
    """Two pages of instructions, written by bus beats.

    Members
    -------
    write : In(beat_write_signature)
        Whole beats only. Visible to reads from the next cycle on.
    en, addr : In
        Read of slot `addr`.
    word : Out(256)
        The slot, from the next cycle until the next read. LATENCY 1.
    """

    LATENCY = 1

    write: Any
    en: Signal
    addr: Signal
    word: Signal

    def __init__(self, config: TileConfig) -> None:
        self.slots = 2 * config.imem_page
        self.bus_bytes = config.bus_bytes
        super().__init__({
            "write": In(beat_write_signature(config)), "en": In(1), "addr": In(range(self.slots)),
            "word": Out(INSTRUCTION_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line_bytes = max(INSTRUCTION_BYTES, self.bus_bytes)
        beats_per_line, slots_per_line = line_bytes // self.bus_bytes, line_bytes // INSTRUCTION_BYTES
        m.submodules.lines = lines = memory.Memory(
            shape=8 * line_bytes, depth=self.slots * INSTRUCTION_BYTES // line_bytes, init=[])
        write = lines.write_port(granularity=8 * self.bus_bytes)
        read = lines.read_port()
        beat_bits, slot_bits = beats_per_line.bit_length() - 1, slots_per_line.bit_length() - 1
        sub = Signal(range(slots_per_line))
        with m.If(self.en):
            m.d.sync += sub.eq(self.addr[:slot_bits])
        m.d.comb += [
            write.addr.eq(self.write.beat[beat_bits:]),
            write.data.eq(self.write.data.replicate(beats_per_line)),
            write.en.eq(self.write.valid << self.write.beat[:beat_bits]),
            read.en.eq(self.en), read.addr.eq(self.addr[slot_bits:]),
            self.word.eq(read.data.word_select(sub, INSTRUCTION_BITS)),
        ]
        return m


class Dispatcher(wiring.Component):
    """Runs the program at `program_addr` from `start` to HALT; cycle numbers as in `plan.py`.

    Members
    -------
    start : In(1), program_addr : In(40)
        A start while `busy` is ignored; otherwise its cycle is cycle 0.
    begin : Out(1)
        High in cycle 0: counters, tokens and sticky errors start anew.
    busy : Out(1)
        High from cycle 1 to the HALT cycle.
    done : Out(1)
        High from the HALT cycle to the next start.
    illegal : Out(1)
        An unknown opcode ended the program at once, without waiting for the units; the tile must be reset
        before it is started again. Until the next start.
    program : In(beat_write_signature)
        The load unit's port to the instruction memory.
    push : Out(4), word : Out(256), full : In(4)
        To the queues, by unit; at most one bit of `push`, never that of a full queue.
    wait_rd, wait_wr : Out(4), tokens_present : In(1), take : Out(1)
        The tokens that SYNC or the boot waits for; whether they are all there; take them.
    drained : In(1)
        Every instruction pushed before this cycle has retired before this cycle.
    dispatched : Out(1)
        Cycle D of an instruction, the boot LOAD, SYNC and HALT included.
    causes : Out(5)
        From cycle 0 to the HALT cycle exactly one bit: the ledger's cause, in the order of `ledger_causes`.
    """

    start: Signal
    program_addr: Signal
    begin: Signal
    busy: Signal
    done: Signal
    illegal: Signal
    program: Any
    push: Signal
    word: Signal
    full: Signal
    wait_rd: Signal
    wait_wr: Signal
    tokens_present: Signal
    take: Signal
    drained: Signal
    dispatched: Signal
    causes: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        units = len(QUEUE_UNITS)
        super().__init__({
            "start": In(1), "program_addr": In(40), "begin": Out(1), "busy": Out(1), "done": Out(1),
            "illegal": Out(1), "program": In(beat_write_signature(config)),
            "push": Out(units), "word": Out(INSTRUCTION_BITS), "full": In(units),
            "wait_rd": Out(units), "wait_wr": Out(units), "tokens_present": In(1), "take": Out(1),
            "drained": In(1), "dispatched": Out(1), "causes": Out(len(ledger_causes("dispatch")))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = imem = InstructionMemory(self.config)
        wiring.connect(m, wiring.flipped(self.program), imem.write)
        counter = Signal.like(imem.addr)
        boot_addr = Signal(40)
        finished = Signal()
        fetched = data.View(HEADER_LAYOUT, imem.word[:HEADER_LAYOUT.size])
        is_unit = Signal(len(QUEUE_UNITS))
        halting = Signal()
        stopping = Signal()
        cause = {name: Signal(name=f"cause_{name}") for name in ledger_causes("dispatch")}
        m.d.comb += [
            self.causes.eq(Cat(cause.values())),
            self.dispatched.eq(cause["dispatch"]),
            is_unit.eq(Array(_unit_masks())[fetched.opcode]),
            self.word.eq(imem.word), self.wait_rd.eq(fetched.wait_rd), self.wait_wr.eq(fetched.wait_wr),
            imem.addr.eq(counter),
            self.done.eq(stopping | finished & ~self.start),
        ]

        def step() -> None:
            m.d.comb += cause["dispatch"].eq(1)
            m.d.sync += counter.eq(counter + 1)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.comb += [self.begin.eq(1), cause["sync"].eq(1)]
                m.d.sync += [boot_addr.eq(self.program_addr), counter.eq(0), finished.eq(0),
                             self.illegal.eq(0)]
                m.next = "BOOT"
            with m.State("BOOT"):
                m.d.comb += [self.word.eq(_boot_word(boot_addr, self.config)), cause["dispatch"].eq(1),
                             self.push.eq(1 << Unit.LOAD)]
                m.next = "BOOT_TOKEN"
            with m.State("BOOT_TOKEN"):
                m.d.comb += [self.wait_rd.eq(0), self.wait_wr.eq(1 << Unit.LOAD), cause["sync"].eq(1)]
                with m.If(self.tokens_present):
                    m.d.comb += self.take.eq(1)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += [imem.en.eq(1), cause["fetch"].eq(1)]
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += imem.addr.eq(counter + 1)
                with m.If(is_unit.any()):
                    with m.If((is_unit & self.full).any()):
                        m.d.comb += cause["queue_full"].eq(1)
                    with m.Else():
                        m.d.comb += [self.push.eq(is_unit), imem.en.eq(1)]
                        step()
                with m.Elif(fetched.opcode == SPEC_BY_NAME["SYNC"].opcode):
                    with m.If(self.tokens_present):
                        m.d.comb += self.take.eq(1)
                        step()
                        m.next = "FETCH"
                    with m.Else():
                        m.d.comb += cause["sync"].eq(1)
                with m.Else():
                    m.d.comb += halting.eq(fetched.opcode == SPEC_BY_NAME["HALT"].opcode)
                    m.d.comb += cause["dispatch"].eq(halting & self.drained)
                    m.d.comb += cause["halt"].eq(~cause["dispatch"])
                    m.d.sync += self.illegal.eq(~halting)
                    with m.If(self.drained | ~halting):
                        m.d.comb += stopping.eq(1)
                        m.d.sync += finished.eq(1)
                        m.next = "IDLE"
        running = Signal()
        m.d.sync += running.eq((running | self.begin) & ~stopping)
        m.d.comb += self.busy.eq(running)
        return m


def _unit_masks() -> list[int]:
    """By opcode: the bit of the queue unit, 0 for anything else."""
    masks = []
    for opcode in range(1 << OPCODE_BITS):
        spec = SPEC_BY_OPCODE.get(opcode)
        masks.append(1 << spec.unit if spec is not None and spec.unit in QUEUE_UNITS else 0)
    return masks


def _boot_word(program_addr: Value, config: TileConfig) -> Value:
    """A LOAD of the first page from `program_addr` to slot 0, with a wr token for the dispatcher."""
    spec = SPEC_BY_NAME["LOAD"]
    values = {"opcode": spec.opcode, "signal_wr": 1 << Unit.DISPATCH, "space": Space.PROGRAM.value, "rows": 1,
              "row_bytes": config.page_bytes}
    return Cat(program_addr if name == "dram_addr" else Const(values.get(name, 0), bits)
               for name, _, bits in layout_of(spec))
