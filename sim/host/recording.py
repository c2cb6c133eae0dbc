"""What the host makes of the entries of TRACE_DATA: issue, rd and wr cycles of every DMA instruction."""

from collections.abc import Iterable
from dataclasses import dataclass

from ...rtl.spec.errors import SimulationError
from ...rtl.spec.registers import field_of, mask

_TIME = field_of("TRACE_DATA", "TIME")
_KINDS = ("ISSUE", "RD", "WR")


@dataclass(frozen=True)
class DmaTimes:
    """Cycles of one instruction, counted from START: issue, rd tokens, wr tokens (finished)."""

    issue: int
    rd: int
    wr: int

    @property
    def occupancy(self) -> int:
        """Cycles from issue until the unit could issue again; the rd pulse is one cycle after them (`plan.py`)."""
        return self.rd - 1 - self.issue


def dma_times(words: Iterable[int]) -> dict[str, list[DmaTimes]]:
    """``{"load": [...], "store": [...]}`` in program order, from all entries of a program that has ended.

    A unit's instructions are issued, read and finish in order, so the n-th pulse of a kind belongs to the n-th
    instruction. A TIME that is not above its predecessor's has wrapped once. Raises `SimulationError` when
    pulses are missing: entries were lost, or the program has not ended.
    """
    cycle, previous = 0, -1
    pulses: dict[str, dict[str, list[int]]] = {unit: {kind: [] for kind in _KINDS} for unit in ("load", "store")}
    for word in words:
        time = word >> _TIME.low
        cycle += time - previous if time > previous else time - previous + (1 << _TIME.bits)
        previous = time
        for unit, kinds in pulses.items():
            for kind, cycles in kinds.items():
                if word & mask("TRACE_DATA", f"{unit.upper()}_{kind}"):
                    cycles.append(cycle - 1)
    result = {}
    for unit, kinds in pulses.items():
        counts = {kind: len(cycles) for kind, cycles in kinds.items()}
        if len(set(counts.values())) != 1:
            raise SimulationError(f"recorded DMA times of the {unit} unit are not complete: {counts['ISSUE']} issues, "
                                  f"{counts['RD']} rd and {counts['WR']} wr pulses")
        result[unit] = [DmaTimes(*times) for times in zip(*kinds.values(), strict=True)]
    return result
