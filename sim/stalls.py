"""What held each instruction up, from the cycles in which all of them were dispatched and issued.

The ledger (`rtl/spec/ledger.py`) blames, in this order: a full queue, an empty one, tokens by producer, the port's
outstanding limit, or before that the other DMA unit on a shared port. Each begins where the one before it ends, so all
of them follow from the cycles, for whole columns at once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..rtl.plan import REFETCH
from ..rtl.spec.isa import QUEUE_UNITS, Unit
from .issue_times import CHANNELS

DISPATCH_CAUSES = ("queue_full", "sync", "fetch", "halt")
STALL_CAUSES = (*(f"wait_{unit.name.lower()}" for unit in QUEUE_UNITS), "idle", "wait_port", "outstanding",
                *DISPATCH_CAUSES)
"""What holds an instruction up, as the ledger's causes; the numbers of the waits are those of the producers."""

IDLE, WAIT_PORT, OUTSTANDING, QUEUE_FULL, SYNC, FETCH, HALT = range(len(QUEUE_UNITS), len(STALL_CAUSES))

Column = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """int64 (n,) each. waits: mask over `CHANNELS`; signal_rd, signal_wr: masks over units."""

    unit: Column
    occupancy: Column
    rd: Column
    wr: Column
    waits: Column
    signal_rd: Column
    signal_wr: Column


class _Rows:
    """Rows (instruction, cause, cycles), to be brought into the order of instructions and, in one, of ``place``."""

    def __init__(self) -> None:
        self._keys: list[Column] = []
        self._parts: list[Column] = []

    def add(self, index: Column, place: int, cause: int, cycles: Column, zero: bool = False) -> None:
        """``zero``: also those that last no cycle."""
        if not zero:
            held = cycles > 0
            index, cycles = index[held], cycles[held]
        self._keys.append(index * 16 + place)
        self._parts.append(np.stack([index, np.full_like(index, cause), cycles], axis=1))

    def sorted(self) -> Column:
        return np.concatenate(self._parts)[np.argsort(np.concatenate(self._keys))]


def stalls_of(columns: Columns, dispatch: Column, issue: Column, booted: tuple[int, int],
              shared: bool) -> Column:
    """int64 (stalls, 3) of all instructions but the boot LOAD: instruction, number in `STALL_CAUSES`, cycles.

    The last instruction is HALT. booted: the cycles in which, after the boot LOAD, the dispatcher and the load unit are
    free. shared: loads and stores share a port.
    """
    rows = _Rows()
    at_dispatcher = columns.unit == Unit.DISPATCH
    held = np.diff(dispatch, prepend=booted[0])
    held[1:] -= np.where(at_dispatcher[:-1], REFETCH, 1)
    queued, syncs = np.flatnonzero(~at_dispatcher), np.flatnonzero(at_dispatcher[:-1])
    rows.add(queued, 0, QUEUE_FULL, held[queued])
    rows.add(syncs, 0, SYNC, held[syncs], zero=True)
    rows.add(syncs, 1, FETCH, np.full(len(syncs), REFETCH - 1, np.int64), zero=True)
    rows.add(np.array([len(held) - 1]), 0, HALT, held[-1:], zero=True)
    port = None
    if shared:
        transfers = np.flatnonzero(columns.unit <= Unit.STORE)
        port = np.zeros_like(issue)
        port[transfers[:1]], port[transfers[1:]] = booted[1], (issue + columns.occupancy)[transfers[:-1]]
    for unit in QUEUE_UNITS:
        _unit_stalls(rows, unit, columns, dispatch, issue, booted[1] if unit == Unit.LOAD else 0,
                     port if unit <= Unit.STORE else None)
    return rows.sorted()


def _unit_stalls(rows: _Rows, unit: Unit, columns: Columns, dispatch: Column, issue: Column, first_free: int,
                 port: Column | None) -> None:
    """What the unit's own instructions wait for, from their dispatch to their issue. port: when it is free for them."""
    own = np.flatnonzero(columns.unit == unit)
    free = np.empty_like(own)
    free[:1], free[1:] = first_free, (issue + columns.occupancy)[own[:-1]]
    arrived = dispatch[own] + 1
    rows.add(own, 1, IDLE, arrived - free)
    now, waits = np.maximum(arrived, free), columns.waits[own]
    for number, (producer, kind) in enumerate(CHANNELS):
        takers = np.flatnonzero(waits >> number & 1)
        if takers.size:
            visible = _given(columns, issue, producer, kind, unit)[:len(takers)]
            rows.add(own[takers], 2 + number, int(producer), visible - now[takers])
            now[takers] = np.maximum(now[takers], visible)
    if port is not None:
        rows.add(own, 2 + len(CHANNELS), WAIT_PORT, port[own] - now)
        now = np.maximum(now, port[own])
    rows.add(own, 3 + len(CHANNELS), OUTSTANDING, issue[own] - now)


def _given(columns: Columns, issue: Column, producer: Unit, kind: int, consumer: Unit) -> Column:
    """The cycles in which the tokens of a channel become visible, in their order."""
    signals, after = (columns.signal_rd, columns.rd) if kind == 0 else (columns.signal_wr, columns.wr)
    givers = np.flatnonzero((columns.unit == producer) & (signals >> int(consumer) & 1 != 0))
    return issue[givers] + after[givers] + 1
