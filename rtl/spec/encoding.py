"""Binary form of instructions: encoder and decoder, both driven by the table in `isa.py`."""

from operator import attrgetter
from typing import NoReturn

import numpy as np

from .errors import ProgramError
from .isa import (
    HEADER,
    INSTRUCTION_BITS,
    INSTRUCTION_BYTES,
    INSTRUCTION_CLASSES,
    INSTRUCTIONS,
    OPCODE_BITS,
    SPEC_BY_NAME,
    SPEC_BY_OPCODE,
    Field,
    Instruction,
    layout_of,
)

_LAYOUTS = {spec.name: layout_of(spec) for spec in INSTRUCTIONS}
_VALUES = {spec.name: attrgetter(*(name for name, _, _ in layout_of(spec)[1:])) for spec in INSTRUCTIONS}
_FIELDS = {spec.name: HEADER + spec.fields for spec in INSTRUCTIONS}
_WORD_BITS = 64


def encode(instruction: Instruction) -> int:
    """The 256-bit word. Raises `ProgramError` when a field does not fit."""
    return int.from_bytes(encode_program([instruction]).tobytes(), "little")


def decode(word: int) -> Instruction:
    """The instruction of a 256-bit word. Raises `ProgramError` for an unknown opcode, enum value or stray bits."""
    spec = SPEC_BY_OPCODE.get(word & ((1 << OPCODE_BITS) - 1))
    if spec is None:
        raise ProgramError(f"unknown opcode {word & 15}; allowed: "
                           + ", ".join(f"{s.opcode} {s.name}" for s in INSTRUCTIONS))
    fields = {f.name: f for f in HEADER + spec.fields}
    values, top = {}, 0
    for name, low, bits in _LAYOUTS[spec.name][1:]:
        value = (word >> low) & ((1 << bits) - 1)
        if fields[name].kind == "int" and value >> (bits - 1):
            value -= 1 << bits
        values[name], top = value * fields[name].unit, low + bits
    if word >> top if top else word >> OPCODE_BITS:
        raise ProgramError(f"{spec.name}: bits {top} and above must be zero")
    instruction = INSTRUCTION_CLASSES[spec.name](**values)
    problems = instruction.range_errors()
    if problems:
        raise ProgramError(f"{spec.name}: {'; '.join(problems)}")
    return instruction


def encode_program(instructions: list) -> np.ndarray:
    """(n, 32) uint8, little-endian words in program order. Raises `ProgramError` for the first field that does not fit.

    All instructions of a kind are encoded at once, field by field: 4 us per instruction, one by one 40.
    """
    words = np.zeros((len(instructions), INSTRUCTION_BITS // _WORD_BITS), np.uint64)
    positions: dict[str, list[int]] = {}
    for position, instruction in enumerate(instructions):
        positions.setdefault(instruction.spec.name, []).append(position)
    for name, where in positions.items():
        values = _VALUES[name]
        try:
            rows = np.array([values(instructions[position]) for position in where], np.int64)
        except OverflowError:
            rows = None
        if rows is None or not all(map(_fits, _FIELDS[name], rows.T)):
            _refuse_first(instructions)
        words[where] = _packed(name, rows)
    return words.astype("<u8", copy=False).view(np.uint8).reshape(-1, INSTRUCTION_BYTES)


def _fits(field: Field, values: np.ndarray) -> bool:
    """Whether all values of a field are among those that `Instruction.range_errors` allows."""
    allowed = field.values
    if isinstance(allowed, list):
        return bool(np.isin(values, allowed).all())
    whole = field.unit == 1 or not (values % field.unit).any()
    return bool(allowed[0] <= values.min() and values.max() <= allowed[-1] and whole)


def _refuse_first(instructions: list) -> NoReturn:
    for instruction in instructions:
        if problems := instruction.range_errors():
            raise ProgramError(f"{instruction.spec.name}: {'; '.join(problems)}")
    raise ValueError("every field of every instruction fits")


def _packed(name: str, rows: np.ndarray) -> np.ndarray:
    """(n, 4) uint64 words of instructions of one kind from the (n, fields) int64 values of their fields."""
    words = np.zeros((len(rows), INSTRUCTION_BITS // _WORD_BITS), np.uint64)
    words[:, 0] = SPEC_BY_NAME[name].opcode
    for (_, low, bits), spec, values in zip(_LAYOUTS[name][1:], _FIELDS[name], rows.T, strict=True):
        values = values // spec.unit if spec.unit > 1 else values
        field = values.view(np.uint64) & np.uint64((1 << bits) - 1)
        word, shift = divmod(low, _WORD_BITS)
        words[:, word] |= field << np.uint64(shift)
        if shift + bits > _WORD_BITS:
            words[:, word + 1] |= field >> np.uint64(_WORD_BITS - shift)
    return words


def decode_program(words: np.ndarray) -> list:
    """Inverse of `encode_program`. The error of a bad word names its index."""
    instructions = []
    for index, row in enumerate(np.asarray(words, np.uint8)):
        try:
            instructions.append(decode(int.from_bytes(row.tobytes(), "little")))
        except ProgramError as error:
            raise ProgramError(f"instruction {index}: {error}") from None
    return instructions


def fp32_bits(value: float) -> int:
    """Bits of ``value`` rounded to FP32, for the immediate fields of VECTOR."""
    return int(np.float32(value).view(np.uint32))
