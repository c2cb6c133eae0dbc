"""Recorded-latency mode: the timing model with the DMA durations of a run gives every other cycle of it."""

import dataclasses

import numpy as np
import pytest

from tilescore.rtl.plan import Duration
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.isa import Halt, Load, Matmul, Space, Store, Unit
from tilescore.sim.hardware.run import RtlRun
from tilescore.sim.host.recording import DmaTimes
from tilescore.sim.program import Program
from tilescore.sim.recorded import dma_times_of, recorded_durations
from tilescore.sim.result import check_times
from tilescore.sim.timing import BOOT, Timing, time_program

NANO = load_tile("nano")
PROGRAM = Program(config=NANO, program_addr=0, dram_bytes=8192, instructions=[
    Load(space=Space.A, dram_addr=4096, row_stride=16, rows=2, row_bytes=16, signal_wr=1 << Unit.MATRIX),
    Matmul(k_steps=2, m_rows=2, n_tiles=1, wait_wr=1 << Unit.LOAD, signal_wr=1 << Unit.STORE),
    Store(space=Space.ACC, dram_addr=4096, row_stride=16, rows=2, row_bytes=16, wait_wr=1 << Unit.MATRIX),
    Load(space=Space.B, dram_addr=4096, row_stride=16, rows=2, row_bytes=16), Halt()])
TIMES_OF_A_RUN = {"load": [DmaTimes(2, 80, 130), DmaTimes(135, 150, 170), DmaTimes(160, 163, 201)],
                  "store": [DmaTimes(190, 197, 240)]}


def as_run(timing: Timing) -> RtlRun:
    """A run of hardware that does what the timing model says."""
    shared = {field.name for field in dataclasses.fields(RtlRun)}
    values = {field.name: getattr(timing, field.name) for field in dataclasses.fields(timing) if field.name in shared}
    return RtlRun(**values, dram=np.zeros(0, np.uint8), status=0)


def test_durations_by_instruction() -> None:
    durations = recorded_durations(PROGRAM, TIMES_OF_A_RUN)
    assert durations == {BOOT: Duration(77, 78, 128), 0: Duration(14, 15, 35), 3: Duration(2, 3, 41),
                         2: Duration(6, 7, 50)}


def test_times_of_a_run_come_back_as_its_durations(rng: np.random.Generator) -> None:
    """Whatever the memory does, the model repeats the model: durations in, durations out."""
    recorded = {}
    for number in (BOOT, 0, 2, 3):
        occupancy = int(rng.integers(1, 90))
        recorded[number] = Duration(occupancy, occupancy + 1, occupancy + int(rng.integers(2, 200)))
    timing = time_program(PROGRAM, recorded=recorded)
    assert recorded_durations(PROGRAM, dma_times_of(PROGRAM, as_run(timing))) == recorded
    assert (timing.issue != time_program(PROGRAM).issue).any()


@pytest.mark.parametrize(("unit", "change", "message"), [
    ("load", -1, "2 instructions of the load unit, but the program has 3, boot LOAD included"),
    ("load", 1, "4 instructions of the load unit, but the program has 3"),
    ("store", -1, "0 instructions of the store unit, but the program has 1"),
])
def test_wrong_numbers_of_times(unit: str, change: int, message: str) -> None:
    times = TIMES_OF_A_RUN[unit]
    wrong = TIMES_OF_A_RUN | {unit: times[:change] if change < 0 else [*times, times[-1]]}
    with pytest.raises(SimulationError, match=message):
        recorded_durations(PROGRAM, wrong)


def test_a_wrong_duration_is_noticed() -> None:
    """The comparison with the hardware sees one cycle."""
    recorded = recorded_durations(PROGRAM, TIMES_OF_A_RUN)
    run = as_run(time_program(PROGRAM, recorded=recorded))
    check_times(PROGRAM, time_program(PROGRAM, recorded=recorded), run)
    for number, duration in recorded.items():
        late = recorded | {number: dataclasses.replace(duration, wr=duration.wr + 1)}
        with pytest.raises(SimulationError, match="in the timing model"):
            check_times(PROGRAM, time_program(PROGRAM, recorded=late), run)
