"""Back end: a tile on a board, over a serial line to LiteX's UARTBone.

The bridge gives access to the SoC's whole bus, so registers and memory go the same way. A command is an operation, a
number of 32-bit words, an address in words and for writes the words; most significant byte first (LiteX,
`litex/soc/cores/uart.py`, Stream2Wishbone). It reports no bus errors and shows no interrupt line: error responses of
registers do not reach the host, and the interrupt is read from its registers.
"""

import time
from collections.abc import Iterator
from typing import Protocol

from ...rtl.axi.channels import PAGE_BITS
from ...rtl.spec.errors import ConfigError, SimulationError
from ...rtl.spec.registers import offset

_WRITE, _READ = 0x01, 0x02
_MOST_WORDS = 255
_WORD = 4
_POLL_BYTES = 2 * (6 + _WORD)
"""Bytes on the line of a look at the interrupt: two reads, each a command and its answer."""


class Serial(Protocol):
    """As pyserial's `Serial`: ``read`` gives fewer bytes than asked for when its time-out is over."""

    def read(self, size: int, /) -> bytes: ...

    def write(self, data: bytes, /) -> int | None: ...


class UartBus:
    """A `Bus` that never suspends; use `bus.run_now`.

    line: to the bridge, with a time-out of at least some 100 ms. registers: address of the tile's registers on the
    SoC's bus. memory_base, memory_bytes: memory for the tile there. clock_hz: of the tile; baudrate: of the line.

    Raises `ConfigError` for addresses that the bridge or the tile cannot have, and every access `SimulationError` when
    the bridge does not answer.
    """

    def __init__(self, line: Serial, *, registers: int, memory_base: int, memory_bytes: int, clock_hz: float,
                 baudrate: float) -> None:
        for name, value, size, unit in (("registers", registers, 1 << PAGE_BITS, 1 << PAGE_BITS),
                                        ("memory_base", memory_base, memory_bytes, 1 << PAGE_BITS)):
            if value % unit or value < 0 or value + size > 1 << 32:
                raise ConfigError(f"{name} must be a multiple of {unit} below 2**32, got 0x{value:X}")
        if memory_bytes % _WORD or memory_bytes <= 0:
            raise ConfigError(f"memory_bytes must be a positive multiple of {_WORD}, got {memory_bytes}")
        if not 0 < baudrate <= clock_hz:
            raise ConfigError(f"baudrate must be above 0 and at most clock_hz ({clock_hz:g}), got {baudrate:g}")
        self._line, self._registers = line, registers
        self._clock_hz, self._cycles_per_byte = clock_hz, 10 * clock_hz / baudrate
        self.memory_base, self.memory_bytes = memory_base, memory_bytes

    async def read(self, offset: int) -> int:
        return int.from_bytes(self._read_words(self._registers + offset, 1), "little")

    async def write(self, offset: int, value: int) -> None:
        self._write_words(self._registers + offset, value.to_bytes(_WORD, "little"))

    async def read_memory(self, address: int, size: int) -> bytes:
        first = address // _WORD * _WORD
        words = -(-(address + size) // _WORD) - first // _WORD
        return self._read_words(first, words)[address - first:][:size]

    async def write_memory(self, address: int, data: bytes) -> None:
        """Words that are written in part are read before."""
        first, last = address // _WORD * _WORD, (address + len(data)) // _WORD * _WORD
        head = self._read_words(first, 1)[:address - first] if address > first else b""
        tail = b""
        if last < address + len(data):
            tail = self._read_words(last, 1)[address + len(data) - last:]
        self._write_words(first, head + data + tail)

    async def sleep(self, cycles: int) -> None:
        time.sleep(cycles / self._clock_hz)

    async def interrupt(self, cycles: int) -> bool:
        """Polls: the line is high while a cause is set and enabled."""
        for _ in range(1 + int(cycles / (_POLL_BYTES * self._cycles_per_byte))):
            if await self.read(offset("INTERRUPT_STATUS")) & await self.read(offset("INTERRUPT_ENABLE")):
                return True
        return False

    async def reset(self) -> None:
        """Raises `SimulationError`: the bridge does not reach the reset line."""
        raise SimulationError("the serial bridge does not reach the tile's reset line; allowed: a soft reset "
                              "(Tile.reset), or the SoC's own reset")

    # The line --------------------------------------------------------------------------------------

    def _read_words(self, address: int, count: int) -> bytes:
        """``count`` words, each with its lowest byte first."""
        result = b""
        for start, words in _bursts(address, count):
            self._line.write(_command(_READ, words, start))
            answer = bytearray()
            while len(answer) < words * _WORD:
                piece = self._line.read(words * _WORD - len(answer))
                if not piece:
                    raise SimulationError(f"serial bridge: no answer to a read of {words} words at 0x{start:08X}: "
                                          f"expected {words * _WORD} bytes, got {len(answer)}")
                answer += piece
            result += _swapped(bytes(answer))
        return result

    def _write_words(self, address: int, data: bytes) -> None:
        for start, words in _bursts(address, len(data) // _WORD):
            piece = data[start - address:][:words * _WORD]
            self._line.write(_command(_WRITE, words, start) + _swapped(piece))


def _bursts(address: int, count: int) -> Iterator[tuple[int, int]]:
    """(address, words) of commands for ``count`` words."""
    for done in range(0, count, _MOST_WORDS):
        yield address + done * _WORD, min(_MOST_WORDS, count - done)


def _command(operation: int, words: int, address: int) -> bytes:
    return bytes([operation, words]) + (address // _WORD).to_bytes(4, "big")


def _swapped(data: bytes) -> bytes:
    """Words with their bytes in the other order."""
    return b"".join(data[low:low + _WORD][::-1] for low in range(0, len(data), _WORD))
