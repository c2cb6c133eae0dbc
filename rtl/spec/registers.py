"""The host's registers, from one table.

`REGISTERS` is the only place where an offset, a field, its access or its meaning is written down. The hardware
(`axi/register_block.py`), the reference page, the C header and the Python constants (`export/register_text.py`) and
the host driver all derive from it.

All registers are 32 bits wide. Addresses and counters wider than that lie in two registers, LO and HI.
"""

import enum
from dataclasses import dataclass

from .config import TileConfig
from .errors import ConfigError

ID = int.from_bytes(b"TSCR", "little")
"""What register ID holds: the bytes T, S, C, R."""

VERSION_MAJOR, VERSION_MINOR = 1, 2
"""Of the register map. Minor: registers were added. Major: a driver for the old map does not work."""

REGISTER_BYTES = 4
WINDOW_BYTES = 4096
"""Size of the address window; what the table leaves free answers with SLVERR."""

DEFAULT_TIMEOUT = 1 << 20
"""Cycles without progress after which a bus counts as hung: 10 ms at 100 MHz, far beyond a DRAM refresh."""


class Access(enum.Enum):
    """What the host can do with a register; the value is the text in the reference page."""

    CONSTANT = "constant"
    READ = "read only"
    READ_WRITE = "read/write"
    PULSE = "write 1 to trigger, reads 0"
    CLEAR = "read, write 1 to clear"
    POP = "read takes one entry"


WRITABLE = (Access.READ_WRITE, Access.PULSE, Access.CLEAR)


@dataclass(frozen=True)
class RegisterField:
    """Bits ``low`` to ``low + bits - 1``. ``name`` is empty when the register is one value."""

    name: str
    low: int
    bits: int
    meaning: str


@dataclass(frozen=True)
class Register:
    """One row of the table. ``reset``: value of a READ_WRITE register after reset, all fields together."""

    name: str
    offset: int
    access: Access
    meaning: str
    fields: tuple[RegisterField, ...] = (RegisterField("", 0, 32, ""),)
    reset: int = 0

    def signal(self, field: RegisterField) -> str:
        """Name of the field's signal in the hardware."""
        return f"{self.name}_{field.name}".lower() if field.name else self.name.lower()


def _flags(*fields: tuple[str, int, str]) -> tuple[RegisterField, ...]:
    return tuple(RegisterField(name, bit, 1, meaning) for name, bit, meaning in fields)


_LOW_32, _HIGH_8 = "bits 31:0", "bits 39:32"

REGISTERS = (
    Register("ID", 0x00, Access.CONSTANT, "the bytes T, S, C, R from low to high"),
    Register("VERSION", 0x04, Access.CONSTANT, "version of this register map", (
        RegisterField("MINOR", 0, 16, "registers were added"),
        RegisterField("MAJOR", 16, 16, "a driver for the old map does not work"))),
    Register("DIGEST_LO", 0x08, Access.CONSTANT, "digest of the tile's configuration, bits 31:0"),
    Register("DIGEST_HI", 0x0C, Access.CONSTANT, "digest of the tile's configuration, bits 63:32"),
    Register("CONTROL", 0x10, Access.PULSE, "commands", _flags(
        ("START", 0, "run the program at PROGRAM_ADDR; ignored while STATUS shows BUSY, DRAINING, CLEARING or an "
                     "error"),
        ("SOFT_RESET", 1, "end the program: the bus transfers under way are finished, then the tile is reset"),
        ("CLEAR_ERROR", 2, "clear the error bits of STATUS"),
        ("ABANDON", 3, "while DRAINING: forget the transfers under way instead of waiting for them; only while "
                       "the memory or interconnect behind the master port is itself held in reset"),
        ("CLEAR_MEMORY", 4, "write zeros to every memory of the tile; ignored while BUSY, wins over START"))),
    Register("STATUS", 0x14, Access.READ, "state and errors; an error ends the program as SOFT_RESET does", _flags(
        ("BUSY", 0, "a program is running"),
        ("DONE", 1, "the last program started has reached HALT"),
        ("DRAINING", 2, "the tile is being reset: bus transfers under way are being finished"),
        ("CLEARING", 3, "the tile's memories are being cleared"),
        ("CONFLICT", 8, "two accesses to one memory bank in one cycle: not a verified program"),
        ("ILLEGAL", 9, "unknown opcode: not a program, or not at PROGRAM_ADDR"),
        ("READ_ERROR", 10, "error response to a read; see ERROR_RESPONSE, ERROR_ADDR"),
        ("WRITE_ERROR", 11, "error response to a write; see ERROR_RESPONSE, ERROR_ADDR"),
        ("READ_TIMEOUT", 12, "no progress of reads for TIMEOUT cycles; ERROR_ADDR is the oldest burst"),
        ("WRITE_TIMEOUT", 13, "no progress of writes for TIMEOUT cycles; ERROR_ADDR is the oldest burst"))),
    Register("INTERRUPT_ENABLE", 0x18, Access.READ_WRITE, "which causes raise the interrupt line", _flags(
        ("DONE", 0, "the program has reached HALT"),
        ("ERROR", 1, "an error bit of STATUS was set"))),
    Register("INTERRUPT_STATUS", 0x1C, Access.CLEAR, "causes since they were last cleared, enabled or not", _flags(
        ("DONE", 0, "the program has reached HALT"),
        ("ERROR", 1, "an error bit of STATUS was set"))),
    Register("PROGRAM_ADDR_LO", 0x20, Access.READ_WRITE,
             "where the program lies, relative to DRAM_BASE, a multiple of the bus width; " + _LOW_32),
    Register("PROGRAM_ADDR_HI", 0x24, Access.READ_WRITE, "see PROGRAM_ADDR_LO; " + _HIGH_8,
             (RegisterField("", 0, 8, ""),)),
    Register("DRAM_BASE_LO", 0x28, Access.READ_WRITE,
             "added to every address of the program, a multiple of 4096; change it only while not BUSY",
             (RegisterField("", 12, 20, "bits 31:12"),)),
    Register("DRAM_BASE_HI", 0x2C, Access.READ_WRITE, "see DRAM_BASE_LO; " + _HIGH_8,
             (RegisterField("", 0, 8, ""),)),
    Register("TIMEOUT", 0x30, Access.READ_WRITE, "cycles without progress after which the bus counts as hung; 0: never",
             reset=DEFAULT_TIMEOUT),
    Register("ERROR_RESPONSE", 0x34, Access.READ, "AXI response code of the first error, 2 SLVERR or 3 DECERR",
             (RegisterField("", 0, 2, ""),)),
    Register("ERROR_ADDR_LO", 0x38, Access.READ, "bus address of the first error; " + _LOW_32),
    Register("ERROR_ADDR_HI", 0x3C, Access.READ, "see ERROR_ADDR_LO; " + _HIGH_8, (RegisterField("", 0, 8, ""),)),
    Register("CYCLES_LO", 0x40, Access.READ, "cycles of the last program started, from START to HALT; " + _LOW_32),
    Register("CYCLES_HI", 0x44, Access.READ, "see CYCLES_LO; bits 47:32", (RegisterField("", 0, 16, ""),)),
    Register("COUNTER_SELECT", 0x48, Access.READ_WRITE, "number of the counter that COUNTER_LO and COUNTER_HI show",
             (RegisterField("", 0, 8, ""),)),
    Register("COUNTER_LO", 0x4C, Access.READ, "selected counter; " + _LOW_32),
    Register("COUNTER_HI", 0x50, Access.READ, "selected counter; bits 47:32", (RegisterField("", 0, 16, ""),)),
    Register("TRACE_STATUS", 0x54, Access.READ, "recorded DMA times of the last program started", (
        RegisterField("LEVEL", 0, 16, "entries to be read from TRACE_DATA"),
        RegisterField("OVERFLOW", 31, 1, "entries were lost: the host reads too slowly"))),
    Register("TRACE_DATA", 0x58, Access.POP, "the oldest entry, 0 when there is none: which DMA instructions did "
             "what in one cycle; an entry without events marks each wrap of TIME", (
        *_flags(("LOAD_ISSUE", 0, "an instruction of the load unit was issued"),
                ("LOAD_RD", 1, "one gave its rd tokens"),
                ("LOAD_WR", 2, "one gave its wr tokens: it is finished"),
                ("STORE_ISSUE", 3, "an instruction of the store unit was issued"),
                ("STORE_RD", 4, "one gave its rd tokens"),
                ("STORE_WR", 5, "one gave its wr tokens: it is finished")),
        RegisterField("TIME", 6, 26, "cycles since START, modulo 2**26"))),
    Register("RESULT_FLAGS", 0x5C, Access.READ, "what FP32 results of MATMULs met in the last program started", _flags(
        ("INEXACT", 0, "a block's term was rounded to the accumulator's grid"),
        ("OVERFLOW", 1, "a finite result was too large for FP32"),
        ("NAN", 2, "a result is NaN"),
        ("INF", 3, "an operand was infinite"))),
    Register("FEATURES", 0x60, Access.CONSTANT, "what is built of the parts that no program needs", (
        RegisterField("COUNTERS", 0, 1, "the counters; without them COUNTER_LO and COUNTER_HI read 0"),
        RegisterField("RECORDER_DEPTH", 16, 16, "entries that the recorder of DMA times holds"))),
)

_BY_NAME = {register.name: register for register in REGISTERS}


def register(name: str) -> Register:
    """The register of that name. Raises `ConfigError` when there is none."""
    if name not in _BY_NAME:
        raise ConfigError(f"no register is named {name!r}; allowed: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def offset(name: str) -> int:
    """Byte offset of the register of that name."""
    return register(name).offset


def field_of(name: str, field: str) -> RegisterField:
    """Field ``field`` of register ``name``. Raises `ConfigError` when there is none."""
    for candidate in register(name).fields:
        if candidate.name == field:
            return candidate
    names = ", ".join(f.name for f in register(name).fields)
    raise ConfigError(f"register {name} has no field {field!r}; allowed: {names}")


def mask(name: str, *fields: str) -> int:
    """Bits of the named fields in their register, in place."""
    return sum(((1 << f.bits) - 1) << f.low for f in (field_of(name, field) for field in fields))


ERROR_MASK = mask("STATUS", "CONFLICT", "ILLEGAL", "READ_ERROR", "WRITE_ERROR", "READ_TIMEOUT", "WRITE_TIMEOUT")
"""Bits of STATUS that stop a START."""


def reset_value(register: Register, config: TileConfig) -> int:
    """What the host reads after reset."""
    if register.access is not Access.CONSTANT:
        return register.reset
    digest = int(config.digest, 16)
    features = (mask("FEATURES", "COUNTERS") * (config.counters == "all")
                | config.recorder_depth << field_of("FEATURES", "RECORDER_DEPTH").low)
    return {"FEATURES": features, "ID": ID, "VERSION": VERSION_MAJOR << 16 | VERSION_MINOR,
            "DIGEST_LO": digest & 0xFFFFFFFF, "DIGEST_HI": digest >> 32}[register.name]
