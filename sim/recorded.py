"""Recorded-latency mode: the DMA durations that a run on real memory had, for the timing model.

Real memory changes only how long DMA instructions take. With the durations that the hardware recorded, `time_program`
gives every other cycle of that run, so that the ledger of a run on a board can be trusted, and one measured run can
stand for a memory in schedule comparisons.
"""

from collections.abc import Mapping, Sequence

from ..rtl.plan import Duration
from ..rtl.spec.errors import SimulationError
from ..rtl.spec.isa import Unit
from .hardware.run import RtlRun
from .host.recording import DmaTimes
from .program import Program
from .timing import BOOT

DMA_UNITS = (Unit.LOAD, Unit.STORE)


def recorded_durations(program: Program, times: Mapping[str, Sequence[DmaTimes]]) -> dict[int, Duration]:
    """What ``time_program(program, recorded=...)`` takes, from the times of one run.

    times: {"load": [...], "store": [...]} in program order, the boot LOAD first, as `sim.host.recording.dma_times`
    and `dma_times_of` give them. Raises `SimulationError` when there are not as many as the program has DMA
    instructions.
    """
    durations: dict[int, Duration] = {}
    for unit in DMA_UNITS:
        numbers = [BOOT] if unit == Unit.LOAD else []
        numbers += [n for n, instruction in enumerate(program.instructions) if instruction.spec.unit == unit]
        name = unit.name.lower()
        recorded = times.get(name, ())
        if len(recorded) != len(numbers):
            raise SimulationError(f"recorded DMA times: {len(recorded)} instructions of the {name} unit, but the "
                                  f"program has {len(numbers)}" + (", boot LOAD included" if BOOT in numbers else ""))
        for number, time in zip(numbers, recorded, strict=True):
            durations[number] = Duration(time.occupancy, time.rd - time.issue, time.wr - time.issue)
    return durations


def dma_times_of(program: Program, run: RtlRun) -> dict[str, list[DmaTimes]]:
    """The times of a run whose traces were seen, as the recorder would tell them."""
    times: dict[str, list[DmaTimes]] = {unit.name.lower(): [] for unit in DMA_UNITS}
    times["load"].append(DmaTimes(*run.boot[1:]))
    for n, instruction in enumerate(program.instructions):
        if instruction.spec.unit in DMA_UNITS:
            times[Unit(instruction.spec.unit).name.lower()].append(
                DmaTimes(int(run.issue[n]), int(run.rd[n]), int(run.retire[n])))
    return times
