"""Start, end, errors, time-outs and reset of the tile behind AXI.

An error of any kind ends the program the way a soft reset does, so that there is one way back to a clean tile::

    soft reset or error -> the tile is held in reset and takes no request; the masters begin no burst, but end
    those under way and drop the answers -> both masters idle -> the tile leaves reset

A bus that never answers keeps the tile there, which the host sees as DRAINING. Errors are held until the host
clears them, and no program starts before. The alternative, to leave the tile running after an error until the
host resets it, was rejected: it computes on garbage, and may address anything meanwhile.
"""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .channels import ADDR_BITS

CYCLE_BITS = 48
ERRORS = ("conflict", "illegal", "read_error", "write_error", "read_timeout", "write_timeout")
"""In the order of their bits in STATUS."""


def master_status_signature() -> wiring.Signature:
    """What a master tells, as in `ReadMaster`."""
    return wiring.Signature({
        "idle": Out(1), "progress": Out(1), "error": Out(1), "response": Out(2), "error_addr": Out(ADDR_BITS),
        "oldest_addr": Out(ADDR_BITS)})


class HangTimer(wiring.Component):
    """Notices a bus that makes no progress.

    Members
    -------
    idle, progress : In(1)
        Of the master.
    limit : In(32)
        Cycles in a row without progress, while not idle, that count as hung; 0 is never.
    hung : Out(1)
        High for one cycle per hang.
    """

    idle: Signal
    progress: Signal
    limit: Signal
    hung: Signal

    def __init__(self) -> None:
        super().__init__({"idle": In(1), "progress": In(1), "limit": In(32), "hung": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(32)
        told = Signal()
        m.d.comb += self.hung.eq((count >= self.limit) & (self.limit != 0) & ~told)
        with m.If(self.hung):
            m.d.sync += told.eq(1)
        with m.If(self.idle | self.progress):
            m.d.sync += [count.eq(0), told.eq(0)]
        with m.Elif(~count.all()):
            m.d.sync += count.eq(count + 1)
        return m


@dataclass(frozen=True)
class _Report:
    """One kind of bus error: its condition, response code and address."""

    condition: Value
    response: Value | int
    address: Value


class Supervisor(wiring.Component):
    """Between the control registers, the tile and the masters.

    Members
    -------
    start, soft_reset, clear_error, abandon, clear_memory : In(1)
        Commands, one cycle long. `start` is ignored while a program runs, while `draining` or `clearing`, while any of
        `errors` is set, and with `clear_memory`, which is ignored while a program runs.
    timeout : In(32)
        As `HangTimer.limit`.
    tile_start, tile_reset_next, tile_clear : Out(1)
        `tile_reset_next`: the tile is to be in reset in the next cycle, the first of `draining`; so the reset can be a
        register.
    tile_busy, tile_done, tile_conflict, tile_illegal, tile_cleared : In(1)
        Of the tile. A reset of the tile restarts its sweep: `tile_clear` stays high until one was whole.
    read, write : In(master_status_signature())
    halt, drain, drop : Out(1)
        To the masters: `halt`, `drain` and `abandon`. `halt` rises in the very cycle of an error response.
    busy, done, draining, clearing : Out(1)
        As in STATUS.
    errors : Out(6)
        In the order of `ERRORS`, held until `clear_error`; an error in the cycle in which it is cleared stays.
    error_response, error_addr : Out
        Of the first bus error or time-out since `errors` was last clear.
    done_event, error_event : Out(1)
        One cycle per cause of an interrupt. There is no done event when the program's last cycle made an error.
    cycles : Out(48)
        Of the last program started, START and HALT included; frozen when it ended.
    """

    start: Signal
    soft_reset: Signal
    clear_error: Signal
    abandon: Signal
    clear_memory: Signal
    timeout: Signal
    tile_start: Signal
    tile_reset_next: Signal
    tile_clear: Signal
    tile_busy: Signal
    tile_done: Signal
    tile_conflict: Signal
    tile_illegal: Signal
    tile_cleared: Signal
    read: Any
    write: Any
    halt: Signal
    drain: Signal
    drop: Signal
    busy: Signal
    done: Signal
    draining: Signal
    clearing: Signal
    errors: Signal
    error_response: Signal
    error_addr: Signal
    done_event: Signal
    error_event: Signal
    cycles: Signal

    def __init__(self) -> None:
        super().__init__({
            "start": In(1), "soft_reset": In(1), "clear_error": In(1), "abandon": In(1), "clear_memory": In(1),
            "timeout": In(32),
            "tile_start": Out(1), "tile_reset_next": Out(1), "tile_clear": Out(1), "tile_busy": In(1),
            "tile_done": In(1), "tile_conflict": In(1), "tile_illegal": In(1), "tile_cleared": In(1),
            "read": In(master_status_signature()), "write": In(master_status_signature()),
            "halt": Out(1), "drain": Out(1), "drop": Out(1),
            "busy": Out(1), "done": Out(1), "draining": Out(1), "clearing": Out(1),
            "errors": Out(len(ERRORS)),
            "error_response": Out(2), "error_addr": Out(ADDR_BITS), "done_event": Out(1), "error_event": Out(1),
            "cycles": Out(CYCLE_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new = self._errors(m)
        idle = Signal()
        enter = Signal()
        m.d.comb += [
            idle.eq(self.read.idle & self.write.idle), enter.eq(self.soft_reset | new.any()),
            self.tile_reset_next.eq(enter | self.draining & ~idle), self.drain.eq(self.draining),
            self.drop.eq(self.abandon & self.draining), self.halt.eq(new.any() | self.errors.any()),
            self.tile_start.eq(self.start & ~self.tile_busy & ~self.draining & ~self.errors.any() & ~enter
                               & ~self.clearing & ~self.clear_memory),
            self.tile_clear.eq(self.clearing & ~self.draining),
            self.busy.eq(self.tile_busy & ~self.draining),
        ]
        m.d.sync += self.draining.eq(self.tile_reset_next)
        with m.If(self.clear_memory & ~self.busy):
            m.d.sync += self.clearing.eq(1)
        with m.Elif(self.tile_cleared):
            m.d.sync += self.clearing.eq(0)
        self._ending(m, enter)
        with m.If(self.tile_start):
            m.d.sync += self.cycles.eq(1)
        with m.Elif(self.busy):
            m.d.sync += self.cycles.eq(self.cycles + 1)
        return m

    def _ending(self, m: Module, enter: Signal) -> None:
        """DONE a cycle after HALT, so that what the last cycle did wrong is known."""
        running = Signal()
        halted = Signal()
        m.d.sync += halted.eq(self.tile_done)
        m.d.comb += self.done_event.eq(running & halted & self.tile_done & ~enter & ~self.draining)
        with m.If(self.done_event):
            m.d.sync += [running.eq(0), self.done.eq(1)]
        with m.If(self.tile_start):
            m.d.sync += [running.eq(1), self.done.eq(0)]
        with m.If(enter):
            m.d.sync += [running.eq(0), self.done.eq(0)]

    def _errors(self, m: Module) -> Signal:
        """Errors of this cycle; holds them, and the address of the first."""
        for name, master in (("read_timer", self.read), ("write_timer", self.write)):
            m.submodules[name] = timer = HangTimer()
            m.d.comb += [timer.idle.eq(master.idle), timer.progress.eq(master.progress),
                         timer.limit.eq(self.timeout)]
        reports = [
            _Report(self.read.error, self.read.response, self.read.error_addr),
            _Report(self.write.error, self.write.response, self.write.error_addr),
            _Report(m.submodules["read_timer"].hung, 0, self.read.oldest_addr),
            _Report(m.submodules["write_timer"].hung, 0, self.write.oldest_addr)]
        new = Signal(len(ERRORS))
        response = Signal(2)
        address = Signal(ADDR_BITS)
        tile = Mux(self.draining, 0, Cat(self.tile_conflict, self.tile_illegal))
        m.d.comb += new.eq(Cat(tile[:2], *(report.condition for report in reports)))
        for report in reversed(reports):
            with m.If(report.condition):
                m.d.comb += [response.eq(report.response), address.eq(report.address)]
        held = Mux(self.clear_error, 0, self.errors)
        m.d.sync += self.errors.eq(held | new)
        with m.If(new.any() & (held == 0)):
            m.d.sync += [self.error_response.eq(response), self.error_addr.eq(address)]
        m.d.comb += self.error_event.eq((new & ~self.errors).any())
        return new
