"""The tile with its AXI ports: what is exported as an IP block.

::

    s_axi_* -> AxiLiteSlave -> RegisterBlock -> Supervisor -> Tile (in reset while draining)
    m_axi_ar*, m_axi_r* <- ReadMaster  <- its DRAM read port
    m_axi_aw*, m_axi_w*, m_axi_b* <- WriteMaster <- its DRAM write port
"""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, DomainRenamer, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..matrix.drain import STATUS
from ..spec.config import TileConfig
from ..spec.isa import Unit
from ..spec.registers import register
from ..tile import Tile
from .channels import read_members, write_members
from .lite import AxiLiteSlave, lite_members
from .master_read import ReadMaster
from .master_write import WriteMaster
from .recorder import DmaRecorder
from .register_block import RegisterBlock
from .supervisor import ERRORS, Supervisor

TRACE_PORTS = {"trace_start": 1, "trace_done": 1, "trace_dispatch": 1, "trace_issue": 4, "trace_rd": 4, "trace_wr": 4}
"""Debug outputs: cycle 0 of a run, the level DONE of the tile, and the tile's own trace."""


class TileAxi(wiring.Component):
    """AXI4 masters, AXI4-Lite slave, interrupt, debug outputs; one clock, one reset.

    Members
    -------
    aclk, aresetn : In(1)
        Clock and synchronous reset, active low, of everything. The reset is registered once, so that it may come from
        far away: the pins show its effect from the second edge on, and no READY is high until it is over inside. In a
        simulation `aclk` is the clock of the domain ``sync``.
    m_axi_* : `read_members`, `write_members`
        Memory, as wide as the tile's bus.
    s_axi_* : `lite_members`
        Registers of `registers.REGISTERS`.
    interrupt : Out(1)
        High while an enabled cause is set in INTERRUPT_STATUS.
    trace_* : Out, `TRACE_PORTS`
        May be left open. Valid while a program runs.

    Bursts, recorder and counters are as the configuration's `AXI_KEYS` say. Raises `ConfigError` as
    `channels.check_bus` does.
    """

    aclk: Signal
    aresetn: Signal
    interrupt: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        members: dict[str, Any] = {"aclk": In(1), "aresetn": In(1)}
        members |= {f"s_axi_{name}": member for name, member in lite_members().items()}
        members |= {f"m_axi_{name}": member for name, member in (write_members(config) | read_members(config)).items()}
        members |= {"interrupt": Out(1)}
        members |= {name: Out(bits) for name, bits in TRACE_PORTS.items()}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # All domains have the same clock signal: a derived one would be late by a delta cycle in simulation.
        sync: Any = ClockDomain("sync")
        core: Any = ClockDomain("core")
        never_reset: Any = ClockDomain("never_reset", reset_less=True)
        m.domains += [sync, core, never_reset]
        sync.clk = core.clk = never_reset.clk = self.aclk
        m.submodules.lite = lite = AxiLiteSlave()
        m.submodules.registers = registers = RegisterBlock(self.config)
        m.submodules.supervisor = supervisor = Supervisor()
        m.submodules.read_master = read = ReadMaster(self.config)
        m.submodules.write_master = write = WriteMaster(self.config)
        m.submodules.recorder = recorder = DmaRecorder(depth=self.config.recorder_depth)
        tile = Tile(self.config, counters=self.config.counters == "all")
        m.submodules.tile = DomainRenamer("core")(tile)
        self._resets(m, sync, core, supervisor)
        wiring.connect(m, lite.bus, registers.bus)
        self._pins(m, "s_axi", lite.axi)
        self._pins(m, "m_axi", read.axi)
        self._pins(m, "m_axi", write.axi)
        self._control(m, registers, supervisor, tile)
        self._memory(m, registers, supervisor, tile, read, write)
        self._observe(m, registers, supervisor, tile, recorder)
        return m

    def _resets(self, m: Module, sync: Any, core: Any, supervisor: Supervisor) -> None:
        """One register drives the reset of each domain; that of the tile also follows the supervisor's draining."""
        reset: Any = Signal(init=1)
        core_reset: Any = Signal(init=1)
        m.d.never_reset += [reset.eq(~self.aresetn), core_reset.eq(~self.aresetn | supervisor.tile_reset_next)]
        m.d.comb += [sync.rst.eq(reset), core.rst.eq(core_reset)]

    def _pins(self, m: Module, prefix: str, port: Any) -> None:
        for name, member in port.signature.members.items():
            pin, signal = getattr(self, f"{prefix}_{name}"), getattr(port, name)
            m.d.comb += pin.eq(signal) if member.flow == Out else signal.eq(pin)

    def _control(self, m: Module, registers: Any, supervisor: Supervisor, tile: Tile) -> None:
        m.d.comb += [
            supervisor.start.eq(registers.control_start), supervisor.soft_reset.eq(registers.control_soft_reset),
            supervisor.clear_error.eq(registers.control_clear_error),
            supervisor.abandon.eq(registers.control_abandon), supervisor.timeout.eq(registers.timeout),
            supervisor.clear_memory.eq(registers.control_clear_memory), tile.clear.eq(supervisor.tile_clear),
            supervisor.tile_cleared.eq(tile.cleared), registers.status_clearing.eq(supervisor.clearing),
            tile.start.eq(supervisor.tile_start), supervisor.tile_busy.eq(tile.busy),
            supervisor.tile_done.eq(tile.done), supervisor.tile_conflict.eq(tile.conflict),
            supervisor.tile_illegal.eq(tile.illegal),
            tile.program_addr.eq(Cat(registers.program_addr_lo, registers.program_addr_hi)),
            registers.status_busy.eq(supervisor.busy), registers.status_done.eq(supervisor.done),
            registers.status_draining.eq(supervisor.draining),
            Cat(getattr(registers, f"status_{name}") for name in ERRORS).eq(supervisor.errors),
            registers.error_response.eq(supervisor.error_response),
            Cat(registers.error_addr_lo, registers.error_addr_hi).eq(supervisor.error_addr),
            Cat(registers.cycles_lo, registers.cycles_hi).eq(supervisor.cycles),
            *(getattr(registers, f"result_flags_{name}").eq(getattr(tile, f"status_{name}")) for name, _ in STATUS),
            registers.interrupt_status_done_set.eq(supervisor.done_event),
            registers.interrupt_status_error_set.eq(supervisor.error_event),
        ]
        m.d.sync += self.interrupt.eq(
            registers.interrupt_status_done & registers.interrupt_enable_done
            | registers.interrupt_status_error & registers.interrupt_enable_error)

    def _memory(self, m: Module, registers: Any, supervisor: Supervisor, tile: Tile, read: ReadMaster,
                write: WriteMaster) -> None:
        for prefix, master, status in (("rd", read, supervisor.read), ("wr", write, supervisor.write)):
            for name, member in master.dram.signature.members.items():
                theirs, mine = getattr(tile, f"{prefix}_{name}"), getattr(master.dram, name)
                m.d.comb += theirs.eq(mine) if member.flow == Out else mine.eq(theirs)
            m.d.comb += [getattr(status, name).eq(getattr(master, name)) for name in status.signature.members]
            m.d.comb += [
                master.base.eq(Cat(registers.dram_base_lo, registers.dram_base_hi)),
                master.halt.eq(supervisor.halt), master.drain.eq(supervisor.drain),
                master.abandon.eq(supervisor.drop)]

    def _observe(self, m: Module, registers: Any, supervisor: Supervisor, tile: Tile, recorder: DmaRecorder) -> None:
        pins: dict[str, Any] = {name: getattr(self, name) for name in TRACE_PORTS}
        m.d.comb += [
            tile.counter_select.eq(registers.counter_select),
            Cat(registers.counter_lo, registers.counter_hi).eq(tile.counter_value),
            recorder.start.eq(supervisor.tile_start),
            recorder.events.eq(Cat(pulses[unit] for unit in (Unit.LOAD, Unit.STORE)
                                   for pulses in (tile.trace_issue, tile.trace_rd, tile.trace_wr))),
            registers.trace_status_level.eq(recorder.level), registers.trace_status_overflow.eq(recorder.overflow),
            Cat(getattr(registers, registers_name) for registers_name in _trace_fields()).eq(recorder.data),
            recorder.take.eq(registers.trace_data_taken),
            pins["trace_start"].eq(supervisor.tile_start), pins["trace_done"].eq(tile.done),
        ]
        m.d.comb += [pins[f"trace_{name}"].eq(getattr(tile, f"trace_{name}"))
                     for name in ("dispatch", "issue", "rd", "wr")]


def _trace_fields() -> list[str]:
    """Signals of TRACE_DATA from bit 0 up."""
    row = register("TRACE_DATA")
    return [row.signal(field) for field in sorted(row.fields, key=lambda f: f.low)]
