"""The host driver: put a program into a tile's memory, run it, take back what it did.

The same class drives a simulated tile and a board; only the `Bus` differs. Addresses of a program count from the
base of the bus's memory window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...rtl.spec.errors import ConfigError, ProgramError, SimulationError
from ...rtl.spec.events import EVENT_NAMES
from ...rtl.spec.ledger import COUNTER_NAMES, LEDGER_COUNTERS, LEDGER_UNITS
from ...rtl.spec.registers import ERROR_MASK, ID, VERSION_MAJOR, field_of, mask, offset, register
from ..program import Program
from ..reference.matmul_model import Status
from .bus import Bus
from .image import check_program, memory_parts, read_region
from .recording import DmaTimes, dma_times

_RESPONSES = {2: "SLVERR", 3: "DECERR"}
_POLL_CYCLES = 100
"""Between two reads of STATUS: a register access takes about 10."""


@dataclass(frozen=True)
class TileStatus:
    """STATUS with the details of the first error.

    flags: names of the fields of STATUS that are set. response, address: of a bus error or time-out, in bus addresses.
    """

    flags: frozenset[str]
    response: int
    address: int

    @property
    def errors(self) -> list[str]:
        """Names of the error flags, in the order of their bits."""
        fields = register("STATUS").fields
        return [f.name for f in fields if f.name in self.flags and mask("STATUS", f.name) & ERROR_MASK]

    def describe(self) -> str:
        """``READ_ERROR (SLVERR at address 0x1040)``."""
        text = " and ".join(self.errors) or "no error"
        if any("ERROR" in name for name in self.errors):
            return f"{text} ({_RESPONSES.get(self.response, self.response)} at address 0x{self.address:X})"
        if any("TIMEOUT" in name for name in self.errors):
            return f"{text} (the oldest burst is at address 0x{self.address:X})"
        return text


@dataclass(frozen=True, kw_only=True, eq=False)
class HostRun:
    """What a program did.

    cycles, ledger, events: as in `timing.Timing`; the latter two are empty when counters were not read, or are not
    built.
    flags: what FP32 results of MATMULs have met. outputs: {region: array}.
    recorded: times of the DMA instructions, for `recorded.recorded_durations`; None when entries were lost because
    there are more than the recorder holds.
    """

    cycles: int
    ledger: dict[str, dict[str, int]]
    events: dict[str, int]
    flags: Status
    outputs: dict[str, np.ndarray]
    recorded: dict[str, list[DmaTimes]] | None


class Tile:
    """One tile behind a bus.

    Every method raises `SimulationError` for an error response of the registers, and `ConfigError` when what is behind
    the bus is no tile of this version of the register map.
    """

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._digest = ""
        self._entries: list[int] = []

    async def digest(self) -> str:
        """Digest of the tile's configuration, `TileConfig.digest`."""
        if not self._digest:
            found = await self._read("ID")
            if found != ID:
                raise ConfigError(f"no tile behind this bus: register ID is 0x{found:08X}, expected 0x{ID:08X}")
            major = await self._read("VERSION") >> field_of("VERSION", "MAJOR").low
            if major != VERSION_MAJOR:
                raise ConfigError(f"the tile has register map version {major}, this driver needs {VERSION_MAJOR}")
            self._digest = f"{await self._read_wide('DIGEST'):016x}"
        return self._digest

    # Before a program ------------------------------------------------------------------------------

    async def reset(self, *, hardware: bool = False) -> None:
        """End whatever runs and clear errors. Soft, unless ``hardware``: then by the reset line.

        A soft reset waits for the bus transfers under way; raises `SimulationError` when they do not end.
        """
        if hardware:
            await self.bus.reset()
            return
        await self._command("SOFT_RESET")
        await self.clear_errors()

    async def clear_errors(self, limit: int = 100_000) -> None:
        """Wait until the tile has left its error, clear the error bits and the interrupt.

        Raises `SimulationError` when bus transfers are still under way after ``limit`` cycles: `abandon` is the way
        out of a bus that never answers.
        """
        for _ in range(1 + limit // _POLL_CYCLES):
            if "DRAINING" not in (await self.status()).flags:
                break
            await self.bus.sleep(_POLL_CYCLES)
        else:
            raise SimulationError(f"tile: bus transfers have not ended after {limit} cycles")
        await self._command("CLEAR_ERROR")
        await self._write("INTERRUPT_STATUS", mask("INTERRUPT_STATUS", "DONE", "ERROR"))

    async def abandon(self) -> None:
        """Forget the bus transfers under way; only while the memory is held in reset. Then `clear_errors`."""
        await self._command("ABANDON")

    async def clear_memories(self, limit: int = 10_000_000) -> None:
        """Write zeros to all on-chip memories, which otherwise keep what the last program left, also through a reset.

        Raises `SimulationError` when a program is running, or when it takes more than ``limit`` cycles.
        """
        status = await self.status()
        if "BUSY" in status.flags:
            raise SimulationError(f"tile: cannot clear its memories, STATUS is {_names(status)}")
        await self._command("CLEAR_MEMORY")
        for _ in range(1 + limit // _POLL_CYCLES):
            if "CLEARING" not in (await self.status()).flags:
                return
            await self.bus.sleep(_POLL_CYCLES)
        raise SimulationError(f"tile: its memories are not cleared after {limit} cycles")

    async def load(self, program: Program) -> None:
        """Write the program, its tensors, and zeros to the rest of the memory that it uses.

        Raises `ProgramError`, before anything is written, for a program of another tile, one that does not fit in the
        memory window, and one that is larger than instruction memory and does not load its pages.
        """
        check_program(program, await self.digest(), self.bus.memory_bytes)
        for address, data in memory_parts(program):
            await self.write(address, data)

    async def write(self, address: int, data: bytes) -> None:
        """Write memory at an address of the program. Raises `ProgramError` outside of the window."""
        self._check_window("write", address, len(data))
        await self.bus.write_memory(self.bus.memory_base + address, data)

    async def read(self, address: int, size: int) -> bytes:
        """Memory at an address of the program. Raises `ProgramError` outside of the window."""
        self._check_window("read", address, size)
        return await self.bus.read_memory(self.bus.memory_base + address, size)

    # The program -----------------------------------------------------------------------------------

    async def start(self, program_addr: int, *, timeout: int | None = None, interrupt: bool = True) -> None:
        """Run the program at ``program_addr``.

        timeout: cycles without progress after which the bus counts as hung, 0 for never; default, as it is.
        interrupt: whether `wait` is to wait for the interrupt line. Raises `SimulationError` when the tile is running
        or shows an error, and would not start.
        """
        status = await self.status()
        if status.errors or status.flags & {"BUSY", "DRAINING", "CLEARING"}:
            raise SimulationError(f"tile: cannot start, STATUS is {_names(status)}")
        self._entries = []
        await self._write_wide("DRAM_BASE", self.bus.memory_base)
        await self._write_wide("PROGRAM_ADDR", program_addr)
        if timeout is not None:
            await self._write("TIMEOUT", timeout)
        await self._write("INTERRUPT_ENABLE", mask("INTERRUPT_ENABLE", "DONE", "ERROR") if interrupt else 0)
        await self._write("INTERRUPT_STATUS", mask("INTERRUPT_STATUS", "DONE", "ERROR"))
        await self._command("START")

    async def wait(self, limit: int = 10_000_000, *, interrupt: bool = True) -> TileStatus:
        """Until the program has ended, by itself or by an error; the status then.

        With ``interrupt`` by the line, else by polling; polling also empties the recorder meanwhile, so that no entry
        is lost in a long program. Raises `SimulationError` after ``limit`` cycles.
        """
        if interrupt:
            await self.bus.interrupt(limit)
            limit = 0
        for _ in range(1 + limit // _POLL_CYCLES):
            status = await self.status()
            if status.errors or "DONE" in status.flags:
                await self._write("INTERRUPT_STATUS", mask("INTERRUPT_STATUS", "DONE", "ERROR"))
                return status
            await self._take_entries()
            await self.bus.sleep(_POLL_CYCLES)
        raise SimulationError(f"tile: the program has not ended within the limit of cycles, STATUS is {_names(status)}")

    async def run(self, program: Program, *, limit: int = 10_000_000, interrupt: bool = True,
                  counters: bool = True) -> HostRun:
        """Load, start, wait, read everything; the counters, where there are any, take some 200 register accesses.

        Raises as the steps do, and `SimulationError` when the program ends with an error; the tile is then left as it
        is, for `status` and `clear_errors`.
        """
        await self.load(program)
        await self.start(program.program_addr, interrupt=interrupt)
        status = await self.wait(limit, interrupt=interrupt)
        if status.errors:
            raise SimulationError(f"tile: the program ended with {status.describe()}")
        values = await self.counters() if counters and await self.has_counters() else {}
        return HostRun(cycles=await self.cycles(), ledger=_ledger(values) if values else {},
                       events={name: values[name] for name in EVENT_NAMES if values},
                       flags=await self.flags(), recorded=await self.recorded(),
                       outputs=await self.outputs(program))

    # After a program -------------------------------------------------------------------------------

    async def status(self) -> TileStatus:
        """Flags, and the address of the first bus error in bus addresses."""
        value = await self._read("STATUS")
        flags = frozenset(f.name for f in register("STATUS").fields if value & mask("STATUS", f.name))
        if not value & ERROR_MASK:
            return TileStatus(flags, 0, 0)
        return TileStatus(flags, await self._read("ERROR_RESPONSE"), await self._read_wide("ERROR_ADDR"))

    async def cycles(self) -> int:
        """Cycles of the last program, start and HALT included."""
        return await self._read_wide("CYCLES")

    async def flags(self) -> Status:
        """What FP32 results of MATMULs have met in the last program."""
        return Status(await self._read("RESULT_FLAGS"))

    async def has_counters(self) -> bool:
        """Whether the counters are built; a tile older than the register that tells has them."""
        if await self._read("VERSION") & mask("VERSION", "MINOR") < 2:
            return True
        return bool(await self._read("FEATURES") & mask("FEATURES", "COUNTERS"))

    async def counters(self, names: Sequence[str] = COUNTER_NAMES) -> dict[str, int]:
        """Counters of the last program by name, of `ledger.COUNTER_NAMES`."""
        values = {}
        for name in names:
            if name not in COUNTER_NAMES:
                raise ConfigError(f"no counter is named {name!r}; allowed: {', '.join(COUNTER_NAMES)}")
            await self._write("COUNTER_SELECT", COUNTER_NAMES.index(name))
            values[name] = await self._read_wide("COUNTER")
        return values

    async def recorded(self) -> dict[str, list[DmaTimes]] | None:
        """Times of the last program's DMA instructions, or None when entries were lost."""
        overflow = await self._take_entries()
        return None if overflow else dma_times(self._entries)

    async def outputs(self, program: Program) -> dict[str, np.ndarray]:
        """{region: array} of the program's results."""
        return {region.name: read_region(region, await self.read(region.addr, region.end - region.addr))
                for region in program.outputs}

    # Registers -------------------------------------------------------------------------------------

    async def _take_entries(self) -> bool:
        """Move what the recorder holds to `_entries`; whether it has lost entries."""
        status = await self._read("TRACE_STATUS")
        level = field_of("TRACE_STATUS", "LEVEL")
        for _ in range(status >> level.low & (1 << level.bits) - 1):
            self._entries.append(await self._read("TRACE_DATA"))
        return bool(status & mask("TRACE_STATUS", "OVERFLOW"))

    def _check_window(self, what: str, address: int, size: int) -> None:
        if address < 0 or address + size > self.bus.memory_bytes:
            raise ProgramError(f"{what} of bytes {address}..{address + size - 1}: outside of the memory window of "
                               f"{self.bus.memory_bytes} bytes")

    async def _read(self, name: str) -> int:
        return await self.bus.read(offset(name))

    async def _write(self, name: str, value: int) -> None:
        await self.bus.write(offset(name), value)

    async def _read_wide(self, name: str) -> int:
        return await self._read(f"{name}_LO") | await self._read(f"{name}_HI") << 32

    async def _write_wide(self, name: str, value: int) -> None:
        await self._write(f"{name}_LO", value & 0xFFFFFFFF)
        await self._write(f"{name}_HI", value >> 32)

    async def _command(self, *fields: str) -> None:
        await self._write("CONTROL", mask("CONTROL", *fields))


def _names(status: TileStatus) -> str:
    return " ".join(f.name for f in register("STATUS").fields if f.name in status.flags) or "0"


def _ledger(counters: dict[str, int]) -> dict[str, dict[str, int]]:
    ledger: dict[str, dict[str, int]] = {unit: {} for unit in LEDGER_UNITS}
    for counter in LEDGER_COUNTERS:
        ledger[counter.unit][counter.cause] = counters[f"{counter.unit}.{counter.cause}"]
    return ledger
