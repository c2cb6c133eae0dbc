"""What `simulate` returns, the same for every set of levels, and the comparison between levels."""

from dataclasses import dataclass

import numpy as np

from ..rtl.spec.errors import SimulationError
from .energy import EnergyReport
from .hardware.run import RtlRun
from .program import Program, Region
from .reference.matmul_model import Status
from .timing import Timing
from .visual.tables import result_html

TIMES = ("dispatch", "issue", "rd", "retire")


@dataclass(frozen=True, kw_only=True)
class LevelResult:
    """One level: cycles (None at reference), SHA-256 of the result (None at timing), seconds it took."""

    cycles: int | None
    result_sha256: str | None
    wall_s: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A simulated program.

    levels: {level: `LevelResult`}, in the order in which they ran.
    cycles, ledger, events: of the timing model, which the rtl level has been found to equal if it ran.
    outputs: {region: array} of the reference or the rtl level; None when only timing ran.
    timing: cycles of every instruction.
    rtl: the hardware's own times, with stalls if there were any; None when the level did not run.
    energy: of ``events`` and ``cycles``.
    status: names of what the results have met (`matmul_model.Status`); None when only timing ran.
    """

    tile: str
    levels: dict[str, LevelResult]
    cycles: int
    ledger: dict[str, dict[str, int]]
    events: dict[str, int]
    outputs: dict[str, np.ndarray] | None
    timing: Timing
    rtl: RtlRun | None
    energy: EnergyReport
    instructions: int
    bus_bytes: int
    status: tuple[str, ...] | None

    def __repr__(self) -> str:
        return (f"Result(tile={self.tile!r}, levels={list(self.levels)}, cycles={self.cycles}, "
                f"instructions={self.instructions})")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        totals = {"cycles": self.cycles, "DRAM read [B]": self.dram_bytes["read"],
                  "DRAM written [B]": self.dram_bytes["write"], "energy [pJ]": self.energy.total_pj,
                  "pJ per op": self.energy.pj_per_op, "instructions": self.instructions,
                  "levels": ", ".join(self.levels)}
        return result_html(self.tile, totals, self.ledger, self.energy.components)

    @property
    def dram_bytes(self) -> dict[str, int]:
        """{"read": bytes, "write": bytes}, whole bus beats."""
        return {"read": self.events["dram_read_beats"] * self.bus_bytes,
                "write": self.events["dram_write_beats"] * self.bus_bytes}

    @property
    def wall_s(self) -> float:
        return sum(level.wall_s for level in self.levels.values())

    def to_dict(self) -> dict:
        """Of JSON types; arrays are left out."""
        return {
            "tile": self.tile, "cycles": self.cycles, "dram_bytes": self.dram_bytes, "ledger": self.ledger,
            "events": self.events, "status": None if self.status is None else list(self.status),
            "energy": self.energy.to_dict(), "instructions": self.instructions,
            "levels": {name: {"cycles": level.cycles, "result_sha256": level.result_sha256}
                       for name, level in self.levels.items()},
            "wall_s": {"simulate": self.wall_s},
        }


def check_times(program: Program, timing: Timing, rtl: RtlRun) -> None:
    """Raise `SimulationError` naming the first instruction, unit or event in which model and hardware differ."""
    for position, name in enumerate(TIMES):
        if timing.boot[position] != rtl.boot[position]:
            raise SimulationError(f"boot LOAD: {name} at cycle {timing.boot[position]} in the timing model, "
                                  f"{rtl.boot[position]} in the rtl")
    model, hardware = (np.stack([getattr(run, name) for name in TIMES], axis=1) for run in (timing, rtl))
    different = np.argwhere(model != hardware)
    if different.size:
        row, column = different[0]
        raise SimulationError(f"{program.describe(row)}: {TIMES[column]} at cycle {model[row, column]} in the "
                              f"timing model, {hardware[row, column]} in the rtl")
    if timing.cycles != rtl.cycles:
        raise SimulationError(f"{timing.cycles} cycles in the timing model, {rtl.cycles} in the rtl")
    for unit, causes in timing.ledger.items():
        if causes != rtl.ledger[unit]:
            raise SimulationError(f"ledger of the {unit} unit: {_difference(causes, rtl.ledger[unit])}")


def check_events(timing: Timing, rtl: RtlRun) -> None:
    """Raise `SimulationError` naming the event counts in which model and hardware differ."""
    if timing.events != rtl.events:
        raise SimulationError(f"events: {_difference(timing.events, rtl.events)}")


def check_status(reference: int, rtl: int) -> None:
    """Raise `SimulationError` naming the status flags in which reference and hardware differ."""
    if reference != rtl:
        raise SimulationError(f"status flags: {_status_text(reference)} at the reference level, {_status_text(rtl)} in "
                              "the rtl")


def status_names(status: int) -> tuple[str, ...]:
    """("inexact", "nan") for bits of `matmul_model.Status`."""
    return tuple(str(flag.name).lower() for flag in Status if flag & status)


def _status_text(status: int) -> str:
    return " and ".join(status_names(status)) or "none"


def check_results(program: Program, reference: np.ndarray, rtl: np.ndarray) -> None:
    """Raise `SimulationError` naming the first byte of the results in which two final DRAMs differ.

    The rest of DRAM is compared as well, so that a stray write cannot hide.
    """
    for region in program.outputs:
        different = np.argwhere(region.raw(reference) != region.raw(rtl))
        if different.size:
            row, byte = (int(v) for v in different[0])
            raise SimulationError(f"{_place(region, row, byte)}: 0x{_hex(region, reference, row, byte)} at the "
                                  f"reference level, 0x{_hex(region, rtl, row, byte)} in the rtl "
                                  f"({len(different)} bytes differ)")
    stray = np.flatnonzero(reference != rtl)
    if stray.size:
        raise SimulationError(f"DRAM byte {stray[0]}, outside of the results: {reference[stray[0]]} at the reference "
                              f"level, {rtl[stray[0]]} in the rtl ({stray.size} bytes differ)")


def _place(region: Region, row: int, byte: int) -> str:
    size = 4 if region.dtype in ("float32", "uint32") else 1
    return f"result {region.name}, row {row}, element {byte // size}"


def _hex(region: Region, dram: np.ndarray, row: int, byte: int) -> str:
    size = 4 if region.dtype in ("float32", "uint32") else 1
    start = byte // size * size
    return bytes(region.raw(dram)[row, start:start + size][::-1]).hex()


def _difference(model: dict[str, int], hardware: dict[str, int]) -> str:
    return ", ".join(f"{name} is {count} in the timing model and {hardware.get(name)} in the rtl"
                     for name, count in model.items() if hardware.get(name) != count)
