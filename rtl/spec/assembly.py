"""Text form of instructions: assembler and disassembler, both driven by the table in `isa.py`.

One line per instruction, its name and then ``field=value`` in any order; a field that is left out is 0::

    LOAD space=A dram_addr=4096 row_stride=64 rows=4 row_bytes=64 pitch=8 signal_wr=matrix
    MATMUL k_steps=8 m_rows=4 n_tiles=1 wait_wr=load signal_wr=vector  # first tile
    VECTOR rows=4 tiles=1 y=0.125 w=1.0 dest=ACC dst_addr=16 reduce=MAX reduce_addr=256 wait_wr=matrix

* Enumerations are written as their names, masks as unit names with commas between them.
* Integers are decimal or, with 0x, hexadecimal. An immediate of VECTOR (``y``, ``z``, ``w``) is its FP32 bits
  as an integer, or the value itself with a decimal point or exponent, inf or nan; the disassembler writes the
  value where reading it back gives the same bits.
* ``#`` starts a comment; empty lines are skipped.

`disassemble` leaves out fields that are 0, so ``assemble(disassemble(p)) == p`` for every program p.
"""

import enum
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from operator import attrgetter

import numpy as np

from .encoding import fp32_bits
from .errors import ProgramError
from .isa import HEADER, INSTRUCTION_CLASSES, INSTRUCTIONS, Field, Instruction, Source, Unit

_IMMEDIATES = ("y", "z", "w")
_MASKS = {field.name: field.bits for field in HEADER}
_FIELDS = {spec.name: {field.name: field for field in spec.fields + HEADER} for spec in INSTRUCTIONS}
_VALUES = {name: attrgetter(*fields) for name, fields in _FIELDS.items()}


def disassemble_one(instruction: Instruction) -> str:
    """One line, without a line end."""
    words = [instruction.spec.name]
    for (name, show), value in zip(_shown(words[0]), _VALUES[words[0]](instruction), strict=True):
        if value:
            immediate = name in _IMMEDIATES and getattr(instruction, f"{name}_kind", None) == Source.IMM
            words.append(f"{name}={_immediate(int(value)) if immediate else show(int(value))}")
    return " ".join(words)


def disassemble(instructions: Sequence[Instruction], labels: Sequence[str] = ()) -> str:
    """One line per instruction, with its label as a comment; ends with a line end."""
    lines = []
    for index, instruction in enumerate(instructions):
        label = labels[index] if labels else ""
        lines.append(disassemble_one(instruction) + (f"  # {label}" if label else ""))
    return "".join(line + "\n" for line in lines)


def assemble(text: str, source: str = "assembly") -> list[Instruction]:
    """Inverse of `disassemble`; comments are dropped.

    Raises `ProgramError` that names ``source``, the line, the field, and what is allowed.
    """
    instructions = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            instructions.append(_parse(words))
        except ProgramError as error:
            raise ProgramError(f"{source}: line {number}: {error}") from None
    return instructions


@cache
def _shown(instruction: str) -> list[tuple[str, Callable[[int], str]]]:
    """Of each field: its name and how its values are written."""
    return [(name, _writer(field)) for name, field in _FIELDS[instruction].items()]


def _writer(field: Field) -> Callable[[int], str]:
    if field.name in _MASKS:
        return _units
    if isinstance(field.kind, type):
        return {int(member): member.name for member in field.kind}.__getitem__
    return str


@lru_cache(1024)
def _immediate(bits: int) -> str:
    shown = repr(float(np.uint32(bits).view(np.float32)))
    return shown if _immediate_bits(shown) == bits else hex(bits)


@cache
def _units(mask: int) -> str:
    return ",".join(unit.name.lower() for unit in Unit if mask >> unit & 1)


def _immediate_bits(text: str) -> int:
    """FP32 bits of a decimal value. Raises ValueError when it is not one, or overflows FP32."""
    value = float(text)
    with np.errstate(over="ignore"):
        bits = fp32_bits(value)
    if np.isinf(np.uint32(bits).view(np.float32)) and not np.isinf(value):
        raise ValueError
    return bits


def _parse(words: list[str]) -> Instruction:
    name, values = words[0], {}
    if name not in _FIELDS:
        raise ProgramError(f"unknown instruction {name!r}; allowed: {', '.join(_FIELDS)}")
    fields = _FIELDS[name]
    for word in words[1:]:
        key, equals, text = word.partition("=")
        if not equals or not text:
            raise ProgramError(f"{name}: expected field=value, got {word!r}")
        if key not in fields:
            raise ProgramError(f"{name}: unknown field {key!r}; allowed: {', '.join(fields)}")
        if key in values:
            raise ProgramError(f"{name}: {key} is given twice")
        values[key] = _value(name, fields[key], text)
    instruction = INSTRUCTION_CLASSES[name](**values)
    problems = instruction.range_errors()
    if problems:
        raise ProgramError(f"{name}: {'; '.join(problems)}")
    return instruction


def _value(name: str, field: Field, text: str) -> int:
    if field.name in _MASKS:
        return _mask(name, field, text)
    if isinstance(field.kind, type) and issubclass(field.kind, enum.IntEnum):
        names = [member.name for member in field.kind]
        if text not in names:
            raise ProgramError(f"{name}: {field.name} = {text!r}, allowed: {', '.join(names)}")
        return int(field.kind[text])
    try:
        return int(text, 0)
    except ValueError:
        pass
    if name == "VECTOR" and field.name in _IMMEDIATES:
        try:
            return _immediate_bits(text)
        except ValueError:
            raise ProgramError(f"{name}: {field.name} = {text!r}, allowed: an integer (bits or address) or an FP32 "
                               "value") from None
    raise ProgramError(f"{name}: {field.name} = {text!r}, allowed: an integer")


def _mask(name: str, field: Field, text: str) -> int:
    allowed = [unit.name.lower() for unit in Unit][:field.bits]
    mask = 0
    for part in text.split(","):
        if part not in allowed:
            raise ProgramError(f"{name}: {field.name}: unknown unit {part!r}; allowed: {', '.join(allowed)}")
        mask |= 1 << allowed.index(part)
    return mask
