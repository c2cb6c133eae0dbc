"""Counters of events and of the ledger, from the tables of `events.py` and `ledger.py`.

A counter per entry of `ledger.COUNTER_NAMES`, in that order. They start from zero in cycle 0 of a run,
count every cycle up to and including the HALT cycle, and then hold. 48 bits last 78 hours at 1 GHz.
"""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from ..spec.config import TileConfig
from ..spec.events import EVENT_NAMES
from ..spec.ledger import COUNTER_NAMES, LEDGER_COUNTERS

COUNTER_BITS = 48


class Counters(wiring.Component):
    """One 48-bit counter per entry of `COUNTER_NAMES`.

    Members
    -------
    begin : In(1)
        Cycle 0: what is counted in this cycle is the first.
    busy : In(1)
        From cycle 1 to the HALT cycle.
    event_<name> : In
        How many events of that name of `events.EVENTS` this cycle has, at most max(rows, cols, 15).
    causes : In
        A bit per entry of `LEDGER_COUNTERS`: this cycle counts.
    select : In(8), value : Out(48)
        `value` is the counter that `select` chose in the cycle before, 0 for a number that does not exist.
    """

    begin: Signal
    busy: Signal
    causes: Signal
    select: Signal
    value: Signal

    def __init__(self, config: TileConfig) -> None:
        bits = bits_for(max(config.rows, config.cols, 15))
        super().__init__({
            "begin": In(1), "busy": In(1), "causes": In(len(LEDGER_COUNTERS)), "select": In(8),
            "value": Out(COUNTER_BITS)} | {f"event_{name}": In(bits) for name in EVENT_NAMES})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        increments = [getattr(self, f"event_{name}") for name in EVENT_NAMES] + list(self.causes)
        counters = []
        for name, increment in zip(COUNTER_NAMES, increments, strict=True):
            counter = Signal(COUNTER_BITS, name=f"count_{name.replace('.', '_')}")
            with m.If(self.begin | (self.busy & increment.any())):
                m.d.sync += counter.eq(Mux(self.begin, 0, counter) + increment)
            counters.append(counter)
        padding = [0] * (256 - len(counters))
        m.d.sync += self.value.eq(Array(counters + padding)[self.select])
        return m
