"""Test bodies that run on every back end of the host driver: inside of a cocotb test bench, and on the compiled tile.

A body gets a `Board` and programs, and drives the tile like a host would. What differs between the back ends is only
how the memory is made to misbehave.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import numpy as np

from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.spec.errors import ConfigError, SimulationError
from tilescore.rtl.spec.isa import Load, Space, Store
from tilescore.rtl.spec.ledger import COUNTER_NAMES
from tilescore.sim.hardware.run import RawRun, RtlRun, interpret
from tilescore.sim.host.tile import HostRun, Tile, TileStatus
from tilescore.sim.program import Program
from tilescore.sim.recorded import dma_times_of, recorded_durations
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_events, check_results, check_status, check_times
from tilescore.sim.timing import Timing, time_program

TIMEOUT = 3000
"""Cycles without progress that count as hung: more than any stall."""

LIMIT = 60_000
"""Cycles that a program may take."""

STALLED_EVERYWHERE = (45632, 326)
"""Seeds with which `bench._pauses` holds back every channel, none for long; the first the host's write data most."""

BAD_OPCODE = 15


class Board(Protocol):
    """A tile, its memory, and what goes wrong with it. Addresses are those of the program, relative to the window."""

    tile: Tile
    latency: int
    """Of the memory without stalls."""

    def stall(self, seed: int | None) -> None:
        """Random stalls on every channel from now on, or none."""
        ...

    def fail(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Answer accesses to low <= address < high with an error response, and no others."""
        ...

    def hang(self, hung: bool) -> None:
        """While hung, the memory takes and answers nothing."""
        ...

    def reset_memory(self) -> None:
        """The memory forgets the bursts that it has taken."""
        ...

    def trace(self) -> tuple[np.ndarray, int]:
        """As `run.RawRun.trace`, and cycles until done or 0, of the last program."""
        ...

    def violations(self) -> list[str]:
        """Rules of AXI that were broken so far."""
        ...


class Case:
    """A program with what the models say about it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        state = run_reference(program)
        self.reference, self.status = state.dram, state.status

    def timing(self, latency: int) -> Timing:
        """On a memory of fixed latency, without stalls."""
        config = replace(self.program.config, dram_latency=latency + BUS_LATENCY)
        return time_program(self.program, config)


async def run_and_check(board: Board, case: Case, *, counters: bool = False, ideal: bool = False) -> HostRun:
    """Run; the whole memory equals the reference, and every cycle the timing model with the recorded DMA durations.

    With ``ideal`` the timing model is the plain one, for the board's latency.
    """
    program, tile = case.program, board.tile
    run = await tile.run(program, limit=LIMIT, counters=counters)
    memory = np.frombuffer(await tile.read(0, program.dram_bytes), np.uint8)
    check_results(program, case.reference, memory)
    check_status(case.status, run.flags)
    hardware = _hardware(board, program, run, memory)
    if ideal:
        timing = case.timing(board.latency)
    else:
        assert run.recorded == dma_times_of(program, hardware), "the recorder tells what the trace ports show"
        timing = time_program(program, recorded=recorded_durations(program, run.recorded))
    if not counters:
        hardware = replace(hardware, ledger=timing.ledger, events=timing.events)
    check_times(program, timing, hardware)
    check_events(timing, hardware)
    assert run.cycles == timing.cycles
    return run


def _hardware(board: Board, program: Program, run: HostRun, memory: np.ndarray) -> RtlRun:
    trace, cycles = board.trace()
    counters = [*run.events.values(), *(n for causes in run.ledger.values() for n in causes.values())]
    raw = RawRun(finished=cycles > 0, cycles=cycles, trace=trace, counters=counters or [0] * len(COUNTER_NAMES),
                 conflict=False, illegal=False, error="", dram=memory, status=run.flags)
    return interpret(program, raw)


async def layers(board: Board, cases: Sequence[Case], seeds: Sequence[int]) -> dict[str, int]:
    """Every program under random stalls, back to back."""
    runs = cycles = 0
    for seed in seeds:
        for number, case in enumerate(cases):
            board.stall(seed + number)
            run = await run_and_check(board, case, counters=seed == seeds[0])
            runs, cycles = runs + 1, cycles + run.cycles
    return {"runs": runs, "cycles": cycles}


async def ideal(board: Board, cases: Sequence[Case]) -> dict[str, int]:
    """On a memory of fixed latency without stalls: plain timing model, counters included."""
    board.stall(None)
    for case in cases:
        await run_and_check(board, case, counters=True, ideal=True)
    return {"runs": len(cases)}


def places(program: Program) -> dict[str, list[int]]:
    """Beats that the program surely reads and writes: of its image, of rows that are not gathered or scattered."""
    bus = program.config.bus_bytes
    image = range(program.program_addr, program.program_addr + 64, bus)
    found: dict[str, list[int]] = {"READ": list(image), "WRITE": []}
    for i in program.instructions:
        if not isinstance(i, (Load, Store)) or i.space == Space.PROGRAM:
            continue
        found["READ" if isinstance(i, Load) else "WRITE"] += [
            address // bus * bus for row in range(i.rows) for address in
            range(i.dram_addr + row * i.row_stride, i.dram_addr + row * i.row_stride + i.row_bytes, bus)]
    return found


async def errors(board: Board, case: Case, seed: int, count: int) -> dict[str, int]:
    """A beat that answers with an error ends the program; the host is told where; then it runs correctly."""
    rng = np.random.default_rng(seed)
    kinds = {"READ": 0, "WRITE": 0}
    beats = places(case.program)
    for n in range(count):
        kind = ("READ", "WRITE")[n % 2]
        address = int(rng.choice(beats[kind]))
        board.stall(seed + n)
        board.fail([(address, address + case.program.config.bus_bytes)])
        await board.tile.load(case.program)
        await board.tile.start(case.program.program_addr)
        status = await board.tile.wait(LIMIT)
        _check_error(board, status, address)
        kinds["READ" if "READ_ERROR" in status.flags else "WRITE"] += 1
        board.fail([])
        await board.tile.clear_errors()
        await run_and_check(board, case)
    return kinds


def _check_error(board: Board, status: TileStatus, address: int) -> None:
    """A burst of writes is told by its first address."""
    errors, found = set(status.errors), status.address - board.tile.bus.memory_base
    assert errors and errors <= {"READ_ERROR", "WRITE_ERROR"}, status
    assert status.response in (2, 3) and "DONE" not in status.flags, status
    if errors == {"READ_ERROR"}:
        assert found == address, status
    else:
        assert found <= address < found + 1024, status


async def resets(board: Board, case: Case, seed: int, count: int) -> dict[str, int]:
    """Soft and hard resets at random cycles of a program; the next one runs correctly."""
    rng = np.random.default_rng(seed)
    length = case.timing(board.latency).cycles
    running = 0
    for n in range(count):
        hardware = bool(rng.integers(2))
        board.stall(seed + n)
        await board.tile.load(case.program)
        await board.tile.start(case.program.program_addr)
        await board.tile.bus.sleep(int(rng.integers(1, length)))
        running += "BUSY" in (await board.tile.status()).flags
        await board.tile.reset(hardware=hardware)
        assert (await board.tile.status()).flags == frozenset()
        await run_and_check(board, case)
    return {"resets": count, "running": running}


async def hangs(board: Board, case: Case, seed: int, count: int) -> dict[str, int]:
    """The memory hangs: a time-out tells. It revives, or is reset and abandoned; the next program runs correctly."""
    rng = np.random.default_rng(seed)
    length, told = case.timing(board.latency).cycles, 0
    for n in range(count):
        board.stall(seed + n)
        await board.tile.load(case.program)
        await board.tile.start(case.program.program_addr, timeout=TIMEOUT)
        await board.tile.bus.sleep(int(rng.integers(1, length - length // 8)))
        board.hang(True)
        status = await board.tile.wait(LIMIT)
        assert status.errors and set(status.errors) <= {"READ_TIMEOUT", "WRITE_TIMEOUT"}, status
        assert "DRAINING" in status.flags and "DONE" not in status.flags, status
        told += 1
        if n % 2:
            board.reset_memory()
            await board.tile.abandon()
        board.hang(False)
        await board.tile.clear_errors()
        await run_and_check(board, case)
    return {"hangs": told}


async def corrupted(board: Board, case: Case, seed: int, count: int) -> dict[str, int]:
    """Programs with an unknown opcode, and with flipped bits that may do anything: the next one runs correctly.

    A memory window protects other memory, so whatever a broken program writes lies in what is loaded afresh.
    """
    rng = np.random.default_rng(seed)
    program, ends = case.program, {"ILLEGAL": 0, "other": 0}
    for n in range(count):
        board.stall(seed + n)
        await board.tile.load(program)
        image = program.image()
        number = int(rng.integers(len(program.instructions)))
        if n % 2:
            for bit in rng.integers(0, 256, 3):
                image[32 * number + bit // 8] ^= 1 << bit % 8
        else:
            image[32 * number] = image[32 * number] & 0xF0 | BAD_OPCODE
        await board.tile.write(program.program_addr, image.tobytes())
        await board.tile.start(program.program_addr, timeout=TIMEOUT)
        await board.tile.bus.interrupt(LIMIT // 10)
        status = await board.tile.status()
        if n % 2 == 0:
            assert status.errors == ["ILLEGAL"], status
        ends["ILLEGAL" if "ILLEGAL" in status.flags else "other"] += 1
        await board.tile.reset()
        await run_and_check(board, case)
    return ends


async def planted(board: Board, case: Case, bug: int) -> None:
    """Once undisturbed, once with an error response, and the number in COUNTER_SELECT that chooses a planted bug.

    A tile with a bug may do anything, so nothing is checked here; the monitor has to tell. Bug 0 is the tile as it is.
    """
    fault = case.program.instructions[0].dram_addr
    for seed, faults in zip(STALLED_EVERYWHERE, ([], [(fault, fault + 1)]), strict=True):
        board.stall(seed)
        await board.tile.load(case.program)
        board.fail(faults)
        with suppress(SimulationError, ConfigError):
            await board.tile.counters(COUNTER_NAMES[bug:bug + 1])
            await board.tile.start(case.program.program_addr, timeout=TIMEOUT)
            await board.tile.bus.interrupt(LIMIT // 10)
            await board.tile.bus.sleep(200)
        await board.tile.reset(hardware=True)


OF_MANY = ("layers", "ideal")
"""Bodies that take several programs."""
