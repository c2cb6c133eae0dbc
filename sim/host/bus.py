"""What the host driver needs of the way to a tile; every back end provides it.

The methods are coroutines, because in a cocotb test bench time only passes while one waits. A back end that blocks
instead (a process, a board) never suspends, and `run_now` runs the driver on it like any function.
"""

from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from ...rtl.spec.errors import SimulationError

T = TypeVar("T")


class Bus(Protocol):
    """Registers, memory, interrupt and reset of one tile.

    memory_base, memory_bytes: the window of memory that the tile may use, in bus addresses; the base is a multiple of
    4096.
    """

    memory_base: int
    memory_bytes: int

    async def read(self, offset: int) -> int:
        """Register at byte ``offset``. Raises `SimulationError` for an error response."""
        ...

    async def write(self, offset: int, value: int) -> None:
        """Write a register. Raises `SimulationError` for an error response."""
        ...

    async def read_memory(self, address: int, size: int) -> bytes:
        """Bytes of memory at a bus address."""
        ...

    async def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes to memory at a bus address."""
        ...

    async def sleep(self, cycles: int) -> None:
        """Let about as many clock cycles pass."""
        ...

    async def interrupt(self, cycles: int) -> bool:
        """Wait until the interrupt line is high, for ``cycles`` at most; whether it is."""
        ...

    async def reset(self) -> None:
        """Hold the tile's reset line active for some cycles."""
        ...


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine on a bus that blocks. Raises `SimulationError` when it waits for anything else."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise SimulationError("run_now: the coroutine waits for a test bench; await it there")


def response_error(what: str, offset: int, response: int) -> SimulationError:
    """The error for a register access with an AXI response other than OKAY."""
    name = {1: "EXOKAY", 2: "SLVERR", 3: "DECERR"}.get(response, str(response))
    return SimulationError(f"{what} of the register at 0x{offset:03X}: error response {name}")
