"""The table of registers as text for people, for C and for Python; also the numbers of the counters."""

from collections.abc import Iterator

from ..spec.config import TileConfig
from ..spec.events import EVENTS
from ..spec.ledger import COUNTER_NAMES, LEDGER_COUNTERS
from ..spec.registers import ID, REGISTERS, VERSION_MAJOR, VERSION_MINOR, Access, Register, RegisterField, reset_value


def markdown(config: TileConfig | None = None) -> str:
    """The reference page. Without a configuration the constants that depend on it are left out."""
    lines = ["| offset | register | access | after reset | meaning |", "|---|---|---|---|---|"]
    for register in REGISTERS:
        lines.append(f"| 0x{register.offset:02X} | `{register.name}` | {register.access.value} | "
                     f"{_reset_text(register, config)} | {register.meaning} |")
    lines += ["", "Fields of the registers that are not one value:", "",
              "| register | bits | field | meaning |", "|---|---|---|---|"]
    for register in REGISTERS:
        for field in register.fields:
            if field.name:
                lines.append(f"| `{register.name}` | {_bits(field)} | `{field.name}` | {field.meaning} |")
    return "\n".join(lines) + "\n"


def counter_table() -> str:
    """Markdown table of the counters, by the number that COUNTER_SELECT takes."""
    meanings = [f"{event.description} ({event.unit})" for event in EVENTS]
    meanings += [f"cycles: {counter.description}" for counter in LEDGER_COUNTERS]
    lines = ["| number | counter | meaning |", "|---|---|---|"]
    lines += [f"| {number} | `{name}` | {meaning} |"
              for number, (name, meaning) in enumerate(zip(COUNTER_NAMES, meanings, strict=True))]
    return "\n".join(lines) + "\n"


def _reset_text(register: Register, config: TileConfig | None) -> str:
    if register.access is Access.CONSTANT:
        if config is not None:
            return f"0x{reset_value(register, config):08X}"
        fixed = {"ID": ID, "VERSION": VERSION_MAJOR << 16 | VERSION_MINOR}
        return f"0x{fixed[register.name]:08X}" if register.name in fixed else "by tile"
    return f"0x{register.reset:08X}" if register.reset else "0"


def _bits(field: RegisterField) -> str:
    return f"{field.low}" if field.bits == 1 else f"{field.low + field.bits - 1}:{field.low}"


def _constants(config: TileConfig) -> Iterator[tuple[str, int, str]]:
    """(name without prefix, value, comment) of every constant, in order."""
    for register in REGISTERS:
        yield register.name, register.offset, f"{register.meaning} ({register.access.value})"
        for field in register.fields:
            if field.name:
                mask = ((1 << field.bits) - 1) << field.low
                yield f"{register.name}_{field.name}", mask, field.meaning
                if field.bits > 1:
                    yield f"{register.name}_{field.name}_SHIFT", field.low, "lowest bit"
    for name in ("ID", "VERSION", "DIGEST_LO", "DIGEST_HI", "FEATURES"):
        row = next(register for register in REGISTERS if register.name == name)
        yield f"{name}_VALUE", reset_value(row, config), f"what {name} holds for this tile"
    yield "BUS_BYTES", config.bus_bytes, "width of the memory port"
    for number, name in enumerate(COUNTER_NAMES):
        yield f"COUNTER_{name.replace('.', '_').upper()}", number, "for COUNTER_SELECT"


def _width(name: str, value: int) -> str:
    """Offsets and numbers short, masks and values as 32 bits."""
    return f"0x{value:08X}" if value > 0xFF or name.endswith("_VALUE") else f"0x{value:02X}"


def c_header(config: TileConfig, name: str = "tilescore") -> str:
    """C header with one macro per offset, mask, shift and counter; they begin with ``name`` in capitals."""
    prefix = name.upper()
    tile = config.name.replace("*/", "* /")
    lines = [f"/* Registers of the tilescore tile {tile}, configuration {config.digest}. Generated. */",
             f"#ifndef {prefix}_REGISTERS_H", f"#define {prefix}_REGISTERS_H", ""]
    lines += [f"#define {prefix}_{name} {_width(name, value)}u /* {comment} */"
              for name, value, comment in _constants(config)]
    return "\n".join([*lines, "", "#endif", ""])


def python_constants(config: TileConfig) -> str:
    """Python module with the same constants as `c_header`, without the prefix."""
    lines = [f'"""Registers of the tilescore tile {config.name}, configuration {config.digest}. Generated."""', ""]
    lines += [f"{name} = {_width(name, value)}  # {comment}" for name, value, comment in _constants(config)]
    return "\n".join([*lines, ""])
