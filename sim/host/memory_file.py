"""A tile's memory as a file: what a program starts from, and what it has left behind.

Two forms, by the ending of the name: ``.bin``, the bytes from DRAM_BASE on, and ``.hex``, words for Verilog's
``$readmemh``, each the bytes of one bus beat with the first one lowest. Intel's HEX was rejected: test benches cannot
read it, and loaders that can take raw bytes too.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...rtl.spec.errors import ConfigError, ProgramError, SimulationError
from ..program import Program, Region
from .image import memory_parts

ENDINGS = (".bin", ".hex")

_TOKEN = re.compile(rb"@?[0-9A-Fa-f_]+")


def check_ending(path: Path) -> None:
    """Raise `ConfigError` when the name says neither form."""
    if path.suffix not in ENDINGS:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(ENDINGS)}, got {path.suffix or 'none'!r}")


def image_file(program: Program, ending: str) -> Iterator[bytes]:
    """Pieces of the file that holds the memory before ``program``, zeros included."""
    word = program.config.bus_bytes
    rest = b""
    for _, data in memory_parts(program):
        if ending == ".bin":
            yield data
            continue
        data = rest + data
        whole = len(data) // word * word
        rest = data[whole:]
        yield _hex(data[:whole], word)
    if rest:
        yield _hex(rest.ljust(word, b"\0"), word)


def _hex(data: bytes, word: int) -> bytes:
    return "".join(f"{data[low:low + word][::-1].hex()}\n" for low in range(0, len(data), word)).encode()


def read_memory(path: Path, word: int) -> np.ndarray:
    """(bytes,) uint8 of a file in one of the forms, words of ``word`` bytes.

    Raises `ConfigError` for a file that cannot be read, and for text that is not what ``$readmemh`` takes.
    """
    check_ending(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    return np.frombuffer(raw, np.uint8) if path.suffix == ".bin" else _words(raw, word, path)


def _words(raw: bytes, word: int, path: Path) -> np.ndarray:
    """``$readmemh``: hexadecimal words between white space, ``@`` and the number of the next one, comments."""
    raw = re.sub(rb"//[^\n]*|/\*.*?\*/", b" ", raw, flags=re.DOTALL)
    words: dict[int, bytes] = {}
    place = 0
    for token in raw.split():
        digits = token.lstrip(b"@").replace(b"_", b"")
        if not _TOKEN.fullmatch(token) or not digits or (token[:1] != b"@" and len(digits) > 2 * word):
            raise ConfigError(f"{path}: word {place}: expected @ADDRESS or at most {2 * word} hexadecimal digits, got "
                              f"{token[:80].decode('ascii', 'backslashreplace')!r}")
        if token.startswith(b"@"):
            place = int(digits, 16)
            continue
        words[place] = int(digits, 16).to_bytes(word, "little")
        place += 1
    count = max(words, default=-1) + 1
    if count > len(words) * 1024 + (1 << 20):
        raise ConfigError(f"{path}: word {count - 1}: the address is far beyond the {len(words)} words of the file")
    memory = np.zeros((count, word), np.uint8)
    for place, value in words.items():
        memory[place] = np.frombuffer(value, np.uint8)
    return memory.reshape(-1)


def compare_outputs(program: Program, expected: np.ndarray, memory: np.ndarray) -> int:
    """How many bytes of results are the same in both memories, which is all of them.

    expected: the DRAM after the program. Raises `ProgramError` when ``memory`` ends before a result does, and
    `SimulationError` naming the first byte that differs.
    """
    for region in program.outputs:
        if region.end > memory.size:
            raise ProgramError(f"result {region.name} ends at byte {region.end}, the memory has {memory.size}")
    for region in program.outputs:
        wanted, got = region.raw(expected), region.raw(memory)
        if (wanted != got).any():
            raise SimulationError(_first_difference(region, wanted, got))
    return sum(region.rows * region.row_bytes for region in program.outputs)


def _first_difference(region: Region, wanted: np.ndarray, got: np.ndarray) -> str:
    row, byte = (int(n) for n in np.argwhere(wanted != got)[0])
    address, wrong = region.addr + row * region.row_stride + byte, int((wanted != got).sum())
    return (f"result {region.name}: row {row}, byte {byte}, address 0x{address:X}: expected "
            f"0x{wanted[row, byte]:02x}, got 0x{got[row, byte]:02x}; {wrong} of its {wanted.size} bytes differ")
