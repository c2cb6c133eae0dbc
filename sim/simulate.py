"""One call for every simulation level, with the comparison between them.

========== ====================================== =====================================================
level      gives                                  runs on
========== ====================================== =====================================================
reference  results                                numpy (`reference/`)
timing     cycles, ledger, events                 Python (`timing.py`)
rtl        both, from the hardware                Verilator, or Amaranth's simulator where there is
                                                  no C++ compiler (`hardware/`)
========== ====================================== =====================================================

The timing model always runs, since every report needs cycles and it costs microseconds per instruction; it is
listed among the levels only when asked for.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..rtl.spec.errors import ProgramError, SimulationError
from .energy import EnergyTable, energy_of, load_table
from .hardware.run import DramModel, RtlRun
from .hardware.toolchain import missing_for_verilator
from .lib.filled_array import FilledArray
from .names import BACKENDS, LEVELS
from .program import Program
from .recorded import dma_times_of, recorded_durations
from .reference.run import run_reference
from .result import LevelResult, Result, check_events, check_results, check_status, check_times, status_names
from .timing import Timing, time_program

Progress = Callable[[int, int], None]


def simulate(program: Program, levels: Sequence[str] = ("reference", "timing"), *,
             energy_table: str | Path | EnergyTable = "7nm", backend: str = "auto", dram: DramModel | None = None,
             progress: Progress | None = None, filling: FilledArray | None = None) -> Result:
    """Run ``program`` at the levels and compare them. It should have passed `verifier.verify`.

    energy_table: for `Result.energy`; the program's ``meta["useful_macs"]`` is the base of pJ per useful op.
    backend: of the rtl level; "auto" takes Verilator if it can run.
    dram: behaviour of the DRAM at the rtl level. With random stalls the times of the two levels differ; then those
    of the timing model with the durations of DMA that the hardware had are compared (`recorded.py`).
    progress: called with (instructions done, instructions) by the reference level.
    filling: the program's `Program.filling_dram` for that level, if it has been begun.

    Raises `SimulationError` when a run fails, or when two levels differ (naming the first instruction or
    result element), and for unknown levels or backends; `ProgramError` for ``useful_macs`` that are no count;
    `ToolError` when a tool is missing.
    """
    _check_names(levels, backend)
    useful = program.meta.get("useful_macs")
    if useful is not None and (type(useful) is not int or not 0 <= useful < 1 << 63):
        raise ProgramError(f"meta: useful_macs: expected an integer from 0 to {(1 << 63) - 1}, got {repr(useful)[:60]}")
    table = energy_table if isinstance(energy_table, EnergyTable) else load_table(energy_table)
    done: dict[str, LevelResult] = {}
    final: list[np.ndarray] = []
    flags: list[int] = []
    if "reference" in levels and filling is None:
        filling = program.filling_dram()
    start = time.perf_counter()
    timing = time_program(program)
    if "timing" in levels:
        done["timing"] = LevelResult(cycles=timing.cycles, result_sha256=None, wall_s=time.perf_counter() - start)
    if "reference" in levels:
        start = time.perf_counter()
        state = run_reference(program, progress, filling=filling)
        final.append(state.dram)
        flags.append(state.status)
        done["reference"] = LevelResult(cycles=None, result_sha256=program.result_sha256(final[0]),
                                        wall_s=time.perf_counter() - start)
    rtl = None
    if "rtl" in levels:
        start = time.perf_counter()
        rtl = _run_rtl(program, timing, backend, dram or DramModel())
        final.append(rtl.dram)
        flags.append(rtl.status)
        done["rtl"] = LevelResult(cycles=rtl.cycles, result_sha256=program.result_sha256(rtl.dram),
                                  wall_s=time.perf_counter() - start)
        check_events(timing, rtl)
        stalled = dram is not None and dram.stall_per_mille > 0
        recorded = recorded_durations(program, dma_times_of(program, rtl)) if stalled else None
        check_times(program, time_program(program, recorded=recorded) if stalled else timing, rtl)
    if len(final) == 2:
        check_results(program, *final)
        check_status(*flags)
    outputs = {r.name: r.read(final[0]) for r in program.outputs} if final else None
    energy = energy_of(timing.events, timing.cycles, program.config, table, useful)
    return Result(
        tile=program.config.name, levels={level: done[level] for level in LEVELS if level in done},
        cycles=timing.cycles, ledger=timing.ledger, events=timing.events, outputs=outputs, timing=timing, rtl=rtl,
        energy=energy, instructions=len(program.instructions), bus_bytes=program.config.bus_bytes,
        status=status_names(flags[0]) if flags else None)


def _check_names(levels: Sequence[str], backend: str) -> None:
    if isinstance(levels, str) or not levels:
        raise SimulationError(f"levels must be a list of {', '.join(LEVELS)}, got {levels!r}")
    for level in levels:
        if level not in LEVELS:
            raise SimulationError(f"unknown level {level!r}; allowed: {', '.join(LEVELS)}")
    if backend not in BACKENDS:
        raise SimulationError(f"unknown backend {backend!r}; allowed: {', '.join(BACKENDS)}")


def _run_rtl(program: Program, timing: Timing, backend: str, dram: DramModel) -> RtlRun:
    """The hardware, with a limit on cycles that only a hang exceeds: each access may be held back many times."""
    stalled = dram.stall_per_mille
    max_cycles = 2 * timing.cycles + 1000
    if stalled:
        beats = timing.events["dram_read_beats"] + timing.events["dram_write_beats"]
        max_cycles += 50 * (timing.cycles + beats) * 1000 // (1000 - stalled)
    if backend == "amaranth" or (backend == "auto" and missing_for_verilator()):
        from .hardware.amaranth_run import run_amaranth  # loads Amaranth, which the other levels do not need

        return run_amaranth(program, max_cycles, dram)
    from .hardware.verilator_run import run_verilator

    return run_verilator(program, max_cycles, dram)
