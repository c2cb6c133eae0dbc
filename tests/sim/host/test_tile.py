"""The host driver on the Verilated tile, and on a bus that plays a tile where nothing but the driver matters."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.dma.memory_clear import clear_bits
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError, ProgramError, SimulationError
from tilescore.rtl.spec.isa import Gather, Halt, Load, Matmul, Space, Store, Sync, Unit
from tilescore.rtl.spec.ledger import COUNTER_NAMES
from tilescore.rtl.spec.registers import ID, mask, offset, register, reset_value
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.host.bus import run_now
from tilescore.sim.host.tile import Tile
from tilescore.sim.host.verilator_bus import AxiMemory, VerilatorBus
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program, Region, Segment
from tilescore.sim.recorded import recorded_durations
from tilescore.sim.reference.matmul_model import Status
from tilescore.sim.reference.run import run_reference
from tilescore.sim.timing import time_program

NANO = load_tile("nano")
LATENCY = NANO.dram_latency - BUS_LATENCY
BASE, WINDOW = 3 << 12, 1 << 15
needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="the compiled tile lacks " + ", ".join(missing_for_verilator()))


def copying(rng: np.random.Generator, rows: int = 5) -> Program:
    """Rows of 16 bytes from one place to another, by way of the accumulator buffer."""
    data = rng.integers(0, 256, 16 * rows, dtype=np.uint8)
    fields = {"space": Space.ACC, "rows": rows, "row_bytes": 16, "row_stride": 16}
    return Program(config=NANO, program_addr=0, dram_bytes=8192, segments=[Segment("x", 4096, data)], instructions=[
        Load(**fields, dram_addr=4096, signal_wr=1 << Unit.STORE),
        Store(**fields, dram_addr=6000 // 16 * 16, wait_wr=1 << Unit.LOAD), Halt()],
        outputs=[Region("y", 6000 // 16 * 16, rows, 16, 16, "float32", (rows, 4))])


class FakeBus:
    """Registers that hold what is written and what the test puts there; commands do nothing."""

    memory_base, memory_bytes = 0, WINDOW

    def __init__(self, **values: int) -> None:
        constants = {name: reset_value(register(name), NANO) for name in ("ID", "VERSION", "DIGEST_LO", "DIGEST_HI")}
        self.values = {offset(name): value for name, value in (constants | values).items()}
        self.writes: list[tuple[int, int]] = []

    async def read(self, offset: int) -> int:
        return self.values.get(offset, 0)

    async def write(self, offset: int, value: int) -> None:
        self.writes.append((offset, value))

    async def read_memory(self, address: int, size: int) -> bytes:
        return bytes(size)

    async def write_memory(self, address: int, data: bytes) -> None:
        self.writes.append((-1, address))

    async def sleep(self, cycles: int) -> None:
        pass

    async def interrupt(self, cycles: int) -> bool:
        return False

    async def reset(self) -> None:
        self.writes.append((-2, 0))


@pytest.fixture(scope="module")
def bus() -> Iterator[VerilatorBus]:
    with VerilatorBus(NANO, memory_bytes=WINDOW, memory_base=BASE) as bus:
        yield bus


@pytest.fixture
def tile(bus: VerilatorBus) -> Tile:
    """Just out of reset, on a memory as the reference DRAM."""
    bus.behave(AxiMemory(latency=LATENCY))
    bus.fail([])
    tile = Tile(bus)
    run_now(tile.reset(hardware=True))
    return tile


# ---- on a fake bus ----


@pytest.mark.parametrize(("values", "message"), [
    ({"ID": 7}, f"no tile behind this bus: register ID is 0x00000007, expected 0x{ID:08X}"),
    ({"VERSION": 2 << 16}, "the tile has register map version 2, this driver needs 1"),
])
def test_not_a_tile(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_now(Tile(FakeBus(**values)).digest())


def test_wrong_programs_write_nothing(rng: np.random.Generator) -> None:
    for program, message in (
            (replace(copying(rng), config=replace(NANO, queue_depth=4)), "this bus has configuration"),
            (replace(copying(rng), dram_bytes=WINDOW + 1), f"the window has {WINDOW}")):
        bus = FakeBus()
        with pytest.raises(ProgramError, match=message):
            run_now(Tile(bus).run(program))
        assert bus.writes == []


@pytest.mark.parametrize(("address", "size"), [(WINDOW, 1), (WINDOW - 3, 4), (-1, 4)])
def test_access_outside_of_the_window(address: int, size: int) -> None:
    tile = Tile(FakeBus())
    with pytest.raises(ProgramError, match=f"outside of the memory window of {WINDOW} bytes"):
        run_now(tile.read(address, size))
    with pytest.raises(ProgramError, match=f"outside of the memory window of {WINDOW} bytes"):
        run_now(tile.write(address, bytes(size)))


@pytest.mark.parametrize(("flags", "text"), [
    (["BUSY"], "BUSY"), (["DRAINING", "READ_ERROR"], "DRAINING READ_ERROR"), (["ILLEGAL"], "ILLEGAL")])
def test_start_that_the_tile_would_ignore(flags: list, text: str) -> None:
    bus = FakeBus(STATUS=mask("STATUS", *flags))
    with pytest.raises(SimulationError, match=f"cannot start, STATUS is {text}$"):
        run_now(Tile(bus).start(0))
    assert bus.writes == []


def test_program_that_never_ends() -> None:
    for interrupt in (False, True):
        with pytest.raises(SimulationError, match="has not ended within the limit of cycles, STATUS is BUSY"):
            run_now(Tile(FakeBus(STATUS=mask("STATUS", "BUSY"))).wait(1000, interrupt=interrupt))
    with pytest.raises(SimulationError, match="bus transfers have not ended after 500 cycles"):
        run_now(Tile(FakeBus(STATUS=mask("STATUS", "DRAINING"))).clear_errors(500))


def test_result_flags_have_the_bits_of_the_status() -> None:
    for status in Status:
        bus = FakeBus(RESULT_FLAGS=mask("RESULT_FLAGS", str(status.name)))
        assert run_now(Tile(bus).flags()) == status


def test_unknown_counter() -> None:
    with pytest.raises(ConfigError, match=r"no counter is named 'macs'; allowed: .*dram_read_beats"):
        run_now(Tile(FakeBus()).counters(["macs"]))


# ---- on the hardware ----


@needs_verilator
def test_a_run_gives_what_the_models_say(tile: Tile, rng: np.random.Generator) -> None:
    """Whole memory, cycles, ledger and events, by interrupt and by polling; counters by name."""
    for interrupt in (True, False):
        program = copying(rng)
        timing = time_program(program)
        run = run_now(tile.run(program, interrupt=interrupt))
        assert (run.cycles, run.ledger, run.events) == (timing.cycles, timing.ledger, timing.events)
        reference = run_reference(program).dram
        assert run_now(tile.read(0, program.dram_bytes)) == reference.tobytes()
        assert run.flags == 0
        assert run.outputs["y"].tobytes() == program.outputs[0].read(reference).tobytes()
        assert run.recorded is not None
        assert time_program(program, recorded=recorded_durations(program, run.recorded)).cycles == run.cycles
    names = COUNTER_NAMES[3:6]
    values = dict(timing.events)
    for unit, causes in timing.ledger.items():
        values |= {f"{unit}.{cause}": count for cause, count in causes.items()}
    assert run_now(tile.counters(names)) == {name: values[name] for name in names}


@needs_verilator
def test_rows_of_one_beat_keep_a_slow_bus_full(tile: Tile, bus: VerilatorBus) -> None:
    """A tile built for 20 cycles of latency, on a bus with 100: bursts of one beat are in flight for all of them."""
    slow = replace(NANO, dram_latency=100)
    rows = {"space": Space.B, "dram_addr": 4096, "row_stride": 32, "rows": 128, "row_bytes": 16, "pitch": 2}
    loads = [Load(**rows, addr=bank << NANO.b_offset_bits) for bank in range(NANO.b_banks)]
    program = Program(config=NANO, program_addr=0, dram_bytes=8192, instructions=[*loads, Halt()],
                      segments=[Segment("x", 4096, np.zeros(4096, np.uint8))])
    bus.behave(AxiMemory(latency=slow.dram_latency - BUS_LATENCY))
    run = run_now(tile.run(program))
    timing = time_program(program, slow)
    assert (run.cycles, run.ledger) == (timing.cycles, timing.ledger)
    assert run.recorded is not None
    first, last = run.recorded["load"][1], run.recorded["load"][-1]
    assert len(loads) * 128 / (last.issue + last.occupancy - first.issue) > 0.9


@needs_verilator
def test_the_window_is_where_the_bus_says(tile: Tile, bus: VerilatorBus, rng: np.random.Generator) -> None:
    program = copying(rng)
    run_now(tile.run(program))
    assert run_now(bus.read_memory(BASE + 4096, 80)) == program.segments[0].bytes_().tobytes()
    with pytest.raises(SimulationError, match=f"memory: bytes 0..3 are outside of {BASE}..{BASE + WINDOW - 1}"):
        run_now(bus.read_memory(0, 4))


@needs_verilator
@pytest.mark.parametrize("interrupt", [True, False])
def test_an_error_response_ends_the_program(tile: Tile, bus: VerilatorBus, interrupt: bool,
                                            rng: np.random.Generator) -> None:
    program = copying(rng)
    for address, kind in ((4096 + 16, "READ"), (6000 // 16 * 16, "WRITE")):
        bus.fail([(BASE + address, BASE + address + 16)])
        message = rf"ended with {kind}_ERROR \(SLVERR at address 0x{BASE + address:X}\)"
        with pytest.raises(SimulationError, match=message):
            run_now(tile.run(program, interrupt=interrupt))
        with pytest.raises(SimulationError, match=f"cannot start, STATUS is .*{kind}_ERROR"):
            run_now(tile.start(0))
        bus.fail([])
        run_now(tile.clear_errors())
        assert run_now(tile.run(program)).cycles == time_program(program).cycles


@needs_verilator
def test_addresses_outside_of_memory(tile: Tile, rng: np.random.Generator) -> None:
    """The memory behind the window answers; the tile tells the bus address."""
    program = copying(rng)
    program.instructions[0] = replace(program.instructions[0], dram_addr=1 << 20)
    with pytest.raises(SimulationError, match=rf"READ_ERROR \(DECERR at address 0x{BASE + (1 << 20):X}\)"):
        run_now(tile.run(program))


@needs_verilator
def test_a_hung_memory(tile: Tile, bus: VerilatorBus, rng: np.random.Generator) -> None:
    """The tile tells; the driver says that it does not end; `abandon` with a reset of the memory helps."""
    program = copying(rng)
    run_now(tile.load(program))
    run_now(tile.start(0, timeout=200))
    bus.hang(True)
    status = run_now(tile.wait())
    assert status.errors == ["READ_TIMEOUT"] and status.describe().endswith(f"at address 0x{BASE:X})")
    with pytest.raises(SimulationError, match="bus transfers have not ended after 1000 cycles"):
        run_now(tile.clear_errors(1000))
    bus.reset_memory()
    run_now(tile.abandon())
    bus.hang(False)
    run_now(tile.clear_errors())
    assert run_now(tile.run(program)).cycles == time_program(program).cycles


@needs_verilator
def test_soft_reset_ends_a_program(tile: Tile, bus: VerilatorBus, rng: np.random.Generator) -> None:
    program = copying(rng)
    run_now(tile.load(program))
    run_now(tile.start(0))
    run_now(bus.sleep(30))
    assert run_now(tile.status()).flags == {"BUSY"}
    run_now(tile.reset())
    assert run_now(tile.status()).flags == frozenset()
    assert run_now(tile.run(program)).cycles == time_program(program).cycles


def many_loads(pages: int) -> Program:
    """Every page but the last brings the next one; 30 LOADs of a beat in each."""
    load = Load(space=Space.ACC, dram_addr=pages * NANO.page_bytes, rows=1, row_bytes=16)
    instructions = []
    for page in range(1, pages):
        instructions += [
            Load(space=Space.PROGRAM, dram_addr=page * NANO.page_bytes, rows=1, row_bytes=NANO.page_bytes,
                 addr=page % 2 * NANO.imem_page, signal_wr=1 << Unit.DISPATCH),
            *[load] * (NANO.imem_page - 2), Sync(wait_wr=1 << Unit.LOAD)]
    return Program(config=NANO, instructions=[*instructions, load, Halt()], program_addr=0, dram_bytes=WINDOW)


@needs_verilator
def test_more_entries_than_the_recorder_holds(tile: Tile) -> None:
    """Lost, and known to be, when the host waits for the interrupt; complete when it polls."""
    program = many_loads(25)
    assert run_now(tile.run(program)).recorded is None
    run = run_now(tile.run(program, interrupt=False))
    assert run.recorded is not None and len(run.recorded["load"]) == 1 + 24 * 31 + 1
    timing = time_program(program, recorded=recorded_durations(program, run.recorded))
    assert timing.cycles == run.cycles == time_program(program).cycles


@needs_verilator
def test_a_register_that_does_not_exist(bus: VerilatorBus) -> None:
    with pytest.raises(SimulationError, match="read of the register at 0xFFC: error response SLVERR"):
        run_now(bus.read(0xFFC))
    with pytest.raises(SimulationError, match="write of the register at 0x000: error response SLVERR"):
        run_now(bus.write(0, 1))


@needs_verilator
def test_the_process_tells_its_last_words(rng: np.random.Generator) -> None:
    bus = VerilatorBus(NANO, memory_bytes=4096)
    with pytest.raises(SimulationError, match="has ended with status 1: unknown command: dance"):
        bus._ask("dance")
    bus.close()


@needs_verilator
@pytest.mark.parametrize("base", [1, 4095, -4096])
def test_wrong_base(base: int) -> None:
    with pytest.raises(ConfigError, match=f"memory_base must be a multiple of 4096, got {base}"):
        VerilatorBus(NANO, memory_bytes=4096, memory_base=base)


@pytest.mark.parametrize(("change", "message"), [
    ({"latency": 0}, "latency must be at least 1, got 0"),
    ({"stall_per_mille": 901}, "stall_per_mille must be in 0..900, got 901")])
def test_wrong_memory(change: dict, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        AxiMemory(**change)


# ---- what programs leave behind ----

READ_AT, WRITE_AT = 4096, 4096 + 2048


def in_turn(*instructions, data: np.ndarray) -> Program:
    """The instructions, each waiting for the one before; ``data`` at READ_AT, the result "y" is 1 KiB at WRITE_AT."""
    body = [replace(i) for i in instructions]
    for first, second in itertools.pairwise(body):
        first.signal_wr, second.wait_wr = 1 << second.spec.unit, 1 << first.spec.unit
    return Program(config=NANO, program_addr=0, dram_bytes=8192, instructions=[*body, Halt()],
                   segments=[Segment("x", READ_AT, data)],
                   outputs=[Region("y", WRITE_AT, 1, 1024, 1024, "uint8", (1024,))])


A_ROWS = {"space": Space.A, "rows": 4, "row_bytes": 64, "row_stride": 64}
ACC_ROWS = {"space": Space.ACC, "rows": 4, "row_bytes": 16, "row_stride": 16}
LEFT = {
    "A": ([Load(**A_ROWS, dram_addr=READ_AT)], [Store(**A_ROWS, dram_addr=WRITE_AT)]),
    "ACC": ([Load(**ACC_ROWS, dram_addr=READ_AT)], [Store(**ACC_ROWS, dram_addr=WRITE_AT)]),
    "statistics": ([Load(**ACC_ROWS | {"rows": 2}, addr=NANO.acc_addr(NANO.acc_banks), dram_addr=READ_AT)],
                   [Store(**ACC_ROWS | {"rows": 2}, addr=NANO.acc_addr(NANO.acc_banks), dram_addr=WRITE_AT)]),
    "B": ([Load(**A_ROWS | {"space": Space.B}, dram_addr=READ_AT)],
          [Load(**A_ROWS, dram_addr=READ_AT), Matmul(k_steps=8, m_rows=4, n_tiles=1),
           Store(**ACC_ROWS, dram_addr=WRITE_AT)]),
    "INDEX": ([Load(space=Space.INDEX, rows=1, row_bytes=16, dram_addr=READ_AT + 1024)],
              [Gather(**ACC_ROWS, dram_addr=READ_AT), Store(**ACC_ROWS, dram_addr=WRITE_AT)]),
}
"""Per memory: a program that writes it, and one that reads it without having written it."""


@needs_verilator
@pytest.mark.parametrize("memory", LEFT)
def test_an_unverified_program_reads_what_another_left_until_it_is_cleared(tile: Tile, memory: str) -> None:
    """Both kinds of reset leave the memories as they are."""
    data = np.random.default_rng(0).integers(0x28, 0x48, 1040, dtype=np.uint8)
    data[1024:] = np.array([3, 1, 2, 5], "<u4").view(np.uint8)
    writes, reads = LEFT[memory]
    writer, reader = in_turn(*writes, data=data), in_turn(*reads, data=data)
    verify(writer)
    verify(in_turn(*writes, *reads, data=data))
    with pytest.raises(ProgramError, match="which no earlier instruction has written"):
        verify(reader)

    def result(program: Program) -> bytes:
        return run_now(tile.run(program, counters=False)).outputs["y"].tobytes()

    run_now(tile.clear_memories())
    blank = result(reader)
    if memory != "INDEX":  # which then chooses row 0
        assert not any(blank)
    left = in_turn(*writes, *reads, data=data).outputs[0].read(
        run_reference(in_turn(*writes, *reads, data=data)).dram).tobytes()
    assert left != blank
    result(writer)
    assert result(reader) == left
    for hardware in (False, True):
        run_now(tile.reset(hardware=hardware))
        assert result(reader) == left
    result(writer)
    run_now(tile.clear_memories())
    assert result(reader) == blank == reader.outputs[0].read(run_reference(reader).dram).tobytes()


@needs_verilator
def test_clearing_takes_a_sweep_and_keeps_starts_out(bus: VerilatorBus, tile: Tile, rng: np.random.Generator) -> None:
    program = copying(rng)
    run_now(tile.load(program))
    run_now(bus.write(offset("CONTROL"), mask("CONTROL", "CLEAR_MEMORY")))
    assert "CLEARING" in run_now(tile.status()).flags
    with pytest.raises(SimulationError, match="cannot start, STATUS is CLEARING"):
        run_now(tile.start(program.program_addr))
    run_now(bus.write(offset("CONTROL"), mask("CONTROL", "START")))
    run_now(bus.sleep(1 << max(clear_bits(NANO).values())))
    assert run_now(tile.status()).flags == set()
    run_now(tile.run(program))


def test_clearing_that_cannot_begin_or_does_not_end() -> None:
    busy = Tile(FakeBus(STATUS=mask("STATUS", "BUSY")))
    with pytest.raises(SimulationError, match="tile: cannot clear its memories, STATUS is BUSY"):
        run_now(busy.clear_memories())
    stuck = Tile(FakeBus(STATUS=mask("STATUS", "CLEARING")))
    with pytest.raises(SimulationError, match="tile: its memories are not cleared after 500 cycles"):
        run_now(stuck.clear_memories(limit=500))
