"""Back end: a tile in a cocotb test bench, whatever the simulator and whatever models are on its ports.

Only cocotb itself is imported; the register master and the memory come from the test bench, for example cocotbext-axi's
`AxiLiteMaster` and `AxiRam`.
"""

from typing import Any, Protocol

from cocotb.triggers import ClockCycles, First, RisingEdge  # pyright: ignore[reportMissingImports]

from ...rtl.axi.channels import PAGE_BITS
from ...rtl.spec.errors import ConfigError
from .bus import response_error

_RESET_CYCLES = 4


class RegisterMaster(Protocol):
    """As cocotbext-axi's `AxiLiteMaster`: the results have ``resp``, that of a read ``data`` too."""

    async def read(self, address: int, length: int) -> Any: ...

    async def write(self, address: int, data: bytes) -> Any: ...


class Memory(Protocol):
    """As cocotbext-axi's `AxiRam`: immediate access to its bytes."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


class CocotbBus:
    """A `Bus`. ``dut`` is the tile's top module; its clock must run, and its reset line be driven by nobody else."""

    def __init__(self, dut: Any, registers: RegisterMaster, memory: Memory, *, memory_bytes: int,
                 memory_base: int = 0) -> None:
        if memory_base % (1 << PAGE_BITS) or memory_base < 0:
            raise ConfigError(f"memory_base must be a multiple of {1 << PAGE_BITS}, got {memory_base}")
        self._dut, self._registers, self._memory = dut, registers, memory
        self.memory_base, self.memory_bytes = memory_base, memory_bytes

    async def read(self, offset: int) -> int:
        answer = await self._registers.read(offset, 4)
        if int(answer.resp):
            raise response_error("read", offset, int(answer.resp))
        return int.from_bytes(answer.data, "little")

    async def write(self, offset: int, value: int) -> None:
        answer = await self._registers.write(offset, value.to_bytes(4, "little"))
        if int(answer.resp):
            raise response_error("write", offset, int(answer.resp))

    async def read_memory(self, address: int, size: int) -> bytes:
        return bytes(self._memory.read(address, size))

    async def write_memory(self, address: int, data: bytes) -> None:
        self._memory.write(address, data)

    async def sleep(self, cycles: int) -> None:
        await ClockCycles(self._dut.aclk, cycles)

    async def interrupt(self, cycles: int) -> bool:
        line = self._dut.interrupt
        if not int(line.value):
            await First(RisingEdge(line), ClockCycles(self._dut.aclk, cycles))
        return bool(int(line.value))

    async def reset(self) -> None:
        self._dut.aresetn.value = 0
        await ClockCycles(self._dut.aclk, _RESET_CYCLES)
        self._dut.aresetn.value = 1
        await ClockCycles(self._dut.aclk, 1)
