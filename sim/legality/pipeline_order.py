"""Distance in time between instructions of one unit, where `pipeline` finds that they need it."""

from collections import deque
from collections.abc import Iterator, Mapping

from ...rtl.plan import duration
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Unit
from ..program import Program
from .accesses import Accesses
from .clocks import WR
from .pipeline import Hazard, PipelineHazards


class PipelineOrder:
    """Distance between instructions of the matrix unit, and of the vector unit."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.hazards = PipelineHazards(program.config)
        self.recent: dict[int, deque] = {unit: deque() for unit in (Unit.MATRIX, Unit.VECTOR)}
        self.issue: dict[int, int] = dict.fromkeys((Unit.MATRIX, Unit.VECTOR), 0)
        self.durations: dict[int, tuple[int, int, int]] = {}

    def add(self, index: int, instruction: Instruction, unit: int, touched: Accesses, clock: tuple[int, ...]) -> None:
        """``issue`` counts occupied cycles: two issues are at least the difference of their counts apart."""
        times = self.durations.get(touched.serial)
        if times is None:
            plan = duration(instruction, self.program.config)
            times = self.durations[touched.serial] = (plan.occupancy, plan.rd, plan.wr)
        now, recent = self.issue[unit], self.recent[unit]
        while recent and (now - recent[0][2] > recent[0][3][2] or recent[0][0] <= clock[unit + WR]):
            recent.popleft()
        for earlier, shape, issue, (occupancy, rd, wr) in recent:
            hazard = self.hazards.between(shape, touched)
            if not hazard or earlier <= clock[unit + WR]:
                continue
            distance = now - issue
            for kind, needed in ((Hazard.WR, wr), (Hazard.CHAIN, wr - occupancy), (Hazard.RD, rd)):
                if hazard & kind and distance <= needed and not (kind == Hazard.RD and earlier <= clock[unit]):
                    raise ProgramError(f"issues {distance} cycles after {self.program.describe(earlier)} at the "
                                       f"earliest, must be at least {needed + 1} or wait for its "
                                       f"{'rd' if kind == Hazard.RD else 'wr'} token: {_PIPELINE_REASONS[kind]}")
        recent.append((index, touched, now, times))
        self.issue[unit] = now + times[0]

    def state(self) -> tuple[tuple, list[tuple[int, int]]]:
        """Shape, and indices with their units; what has left the pipe is left out."""
        shape, indices = [], []
        for unit, recent in self.recent.items():
            now = self.issue[unit]
            while recent and now - recent[0][2] > recent[0][3][2]:
                recent.popleft()
            shape.append((unit, tuple((touched.serial, now - issue, times) for _, touched, issue, times in recent)))
            indices += [(index, int(unit)) for index, _, _, _ in recent]
        return tuple(shape), indices

    def restore(self, shape: tuple, indices: Iterator[int], shapes: Mapping[int, Accesses]) -> None:
        for unit, entries in shape:
            self.issue[unit] = 0
            self.recent[unit].clear()
            self.recent[unit].extend((next(indices), shapes[serial], -ago, times) for serial, ago, times in entries)


_PIPELINE_REASONS = {
    Hazard.WR: "it uses rows or a bank that are still being written",
    Hazard.CHAIN: "it walks rows that are still in the pipe",
    Hazard.RD: "two reads could meet at one bank",
}
