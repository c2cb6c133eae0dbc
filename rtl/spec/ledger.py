"""Where the cycles of a unit go: the causes, declared once in `LEDGER_COUNTERS`.

From cycle 0 (the tile sees ``start``) to the cycle of ``done``, both included, every unit counts each cycle
under exactly one cause, so that its causes sum to ``cycles``. The issue logic, the RTL counters and the
timing model all take the causes from here; this module is free of hardware so that the model need not load
Amaranth.

Queue units, first match wins:

1. the unit is occupied, from issue I to I + occupancy - 1: ``busy`` (matrix: ``compute`` or ``fill``);
2. no instruction at the head of the queue: ``idle``;
3. a token is missing: ``wait_<producer>`` of the first missing channel, producers in unit order;
4. the DRAM port is shared and not free for it: ``wait_port``;
5. a DMA unit at its limit of instructions in flight: ``outstanding``.

Dispatcher: ``dispatch`` in cycle D of every instruction, the boot LOAD, SYNC and HALT included; else what
holds it. Cycles before the boot LOAD and while it waits for the boot token are ``sync``; the `plan.REFETCH`
- 1 cycles after a token was taken are ``fetch``.
"""

from dataclasses import dataclass

from .events import EVENT_NAMES
from .isa import QUEUE_UNITS, Unit


@dataclass(frozen=True)
class LedgerCounter:
    """unit: lower-case unit name; cause: key in the ledger; description: which cycles."""

    unit: str
    cause: str
    description: str


def _queue_unit(unit: Unit) -> list[LedgerCounter]:
    busy = {"busy": "an instruction occupies the unit"}
    if unit == Unit.MATRIX:
        busy = {"compute": "a k step enters the array",
                "fill": "an instruction occupies the unit, but its slot is longer than its k steps"}
    causes = busy | {"idle": "no instruction in the queue"}
    for producer in QUEUE_UNITS:
        name = producer.name.lower()
        causes[f"wait_{name}"] = f"the next instruction waits for a token of the {name} unit"
    if unit in (Unit.LOAD, Unit.STORE):
        causes["wait_port"] = "the shared DRAM port is held by, or comes first to, an earlier one of the other DMA unit"
        causes["outstanding"] = "the limit of instructions in flight holds the next instruction"
    return [LedgerCounter(unit.name.lower(), cause, text) for cause, text in causes.items()]


LEDGER_COUNTERS = (
    *(counter for unit in QUEUE_UNITS for counter in _queue_unit(unit)),
    LedgerCounter("dispatch", "dispatch", "an instruction is dispatched"),
    LedgerCounter("dispatch", "queue_full", "the queue of the next instruction's unit is full"),
    LedgerCounter("dispatch", "sync", "SYNC or the boot waits for a token"),
    LedgerCounter("dispatch", "fetch", "the instruction after a SYNC or the boot is being fetched"),
    LedgerCounter("dispatch", "halt", "HALT waits for retirements"),
)
"""In the order of the RTL counters, which follow those of `events.EVENTS`."""

LEDGER_UNITS = tuple(dict.fromkeys(counter.unit for counter in LEDGER_COUNTERS))

COUNTER_NAMES = EVENT_NAMES + tuple(f"{counter.unit}.{counter.cause}" for counter in LEDGER_COUNTERS)
"""Name of the counter that `Tile.counter_select` = index selects: events, then ``unit.cause``."""


def ledger_causes(unit: str) -> tuple[str, ...]:
    """Causes of one of `LEDGER_UNITS`, in counter order."""
    return tuple(counter.cause for counter in LEDGER_COUNTERS if counter.unit == unit)
