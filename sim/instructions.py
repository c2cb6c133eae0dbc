"""The instructions of a program as columns: what differs, once, and which of it stands where.

A program of millions of instructions has some thousands that differ in more than an address in DRAM. `Instructions`
keeps those, its *forms*, and three columns: the number of the form, and the two DRAM addresses. It takes 20 bytes per
instruction where an object takes 500, and a question about all instructions is one about the forms and an index.

To the outside it is a sequence of instructions in program order, straight-line as in hardware and on disk.
Alternatives: a tree of loops would be shorter, but every reader would have to unroll it, and pages of instruction
memory cut through its bodies; encoded words (32 bytes) have to be decoded before anything can be asked.
"""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ..rtl.spec.encoding import encode_program
from ..rtl.spec.isa import HEADER, INSTRUCTION_CLASSES, INSTRUCTIONS, Instruction, layout_of

ADDRESSES = ("dram_addr", "scale_addr")
"""The fields that are columns."""

_FIELDS = {spec.name: tuple(f.name for f in spec.fields + HEADER) for spec in INSTRUCTIONS}
_ALL = {name: attrgetter(*fields) for name, fields in _FIELDS.items()}
_FORM = {name: attrgetter(*(f for f in fields if f not in ADDRESSES)) for name, fields in _FIELDS.items()}
_WITH_ADDRESSES = {spec.name for spec in INSTRUCTIONS if any(f.name in ADDRESSES for f in spec.fields)}
_PLACE = {name: (low, bits) for name, low, bits in layout_of(INSTRUCTIONS[0]) if name in ADDRESSES}


class Instructions(Sequence[Instruction]):
    """forms: distinct instructions with DRAM addresses of 0. form: int32 (n,), the number of each instruction's form.
    dram_addr, scale_addr: int64 (n,), 0 where an instruction has no such field.

    An element is an instruction of its own: changing it does not change the sequence, which is immutable.
    """

    __slots__ = ("dram_addr", "form", "forms", "scale_addr")

    def __init__(self, forms: Sequence[Instruction], form: NDArray[np.int32], dram_addr: NDArray[np.int64],
                 scale_addr: NDArray[np.int64]) -> None:
        self.forms, self.form, self.dram_addr, self.scale_addr = tuple(forms), form, dram_addr, scale_addr

    @classmethod
    def of(cls, instructions: Iterable[Instruction]) -> "Instructions":
        """The same instructions as columns; fields may have values that do not fit, but DRAM addresses are int64."""
        if isinstance(instructions, Instructions):
            return instructions
        known: dict[tuple, int] = {}
        forms: list[Instruction] = []
        numbers: list[int] = []
        addresses: list[int] = []
        scales: list[int] = []
        for instruction in instructions:
            name = instruction.spec.name
            key = (name, _FORM[name](instruction))
            number = known.get(key)
            has = name in _WITH_ADDRESSES
            if number is None:
                number = known[key] = len(forms)
                forms.append(with_addresses(instruction, 0, 0))
            numbers.append(number)
            addresses.append(instruction.dram_addr if has else 0)
            scales.append(instruction.scale_addr if has else 0)
        return cls(forms, np.array(numbers, np.int32), np.array(addresses, np.int64), np.array(scales, np.int64))

    def __len__(self) -> int:
        return len(self.form)

    @overload
    def __getitem__(self, index: int) -> Instruction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Instruction]: ...

    def __getitem__(self, index: int | slice) -> Instruction | list[Instruction]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return with_addresses(self.forms[self.form[index]], int(self.dram_addr[index]), int(self.scale_addr[index]))

    def view(self, index: int) -> Instruction:
        """As an element, for reading only."""
        form = self.forms[self.form[index]]
        return self[index] if form.spec.name in _WITH_ADDRESSES else form

    def __iter__(self) -> Iterator[Instruction]:
        forms = self.forms
        for low in range(0, len(self), 4096):
            part = slice(low, low + 4096)
            for form, addr, scale in zip(self.form[part].tolist(), self.dram_addr[part].tolist(),
                                         self.scale_addr[part].tolist(), strict=True):
                yield with_addresses(forms[form], addr, scale)

    def views(self) -> Iterator[Instruction]:
        """As iteration, for reading only: those without a DRAM address are their forms themselves."""
        with_address = [form.spec.name in _WITH_ADDRESSES for form in self.forms]
        for form, addr, scale in zip(self.form.tolist(), self.dram_addr.tolist(), self.scale_addr.tolist(),
                                     strict=True):
            found = self.forms[form]
            yield with_addresses(found, addr, scale) if with_address[form] else found

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Instructions({len(self)} of {len(self.forms)} forms)"

    def __add__(self, other: "Instructions") -> "Instructions":
        form = np.concatenate([self.form, other.form + np.int32(len(self.forms))])
        return Instructions([*self.forms, *other.forms], form, np.concatenate([self.dram_addr, other.dram_addr]),
                            np.concatenate([self.scale_addr, other.scale_addr]))

    def take(self, indices: NDArray[np.int64]) -> "Instructions":
        """Those at ``indices``."""
        return Instructions(self.forms, self.form[indices], self.dram_addr[indices], self.scale_addr[indices])

    def in_order(self) -> "Instructions":
        """The same, with the forms that are there, in the order in which they first appear."""
        used, first, number = np.unique(self.form, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Instructions([self.forms[i] for i in used[order].tolist()], place[number].astype(np.int32),
                            self.dram_addr, self.scale_addr)

    def firsts(self) -> list[Instruction]:
        """The first instruction of every form, in the order of the forms."""
        index = np.zeros(len(self.forms), np.int64)
        index[self.form[::-1]] = np.arange(len(self))[::-1]
        return [self[i] for i in index.tolist()]

    def column(self, of: Iterable[int]) -> NDArray[np.int64]:
        """int64 (n,): per instruction the value that its form has in ``of``, one per form."""
        return np.fromiter(of, np.int64, len(self.forms))[self.form]

    @property
    def units(self) -> NDArray[np.int64]:
        """int64 (n,): the unit of each instruction."""
        return self.column(form.spec.unit for form in self.forms)

    def words(self) -> NDArray[np.uint8]:
        """(n, 32) uint8: `encode_program` of the sequence. Raises `ProgramError` when a field does not fit."""
        forms = encode_program(list(self.forms)).view("<u8")
        words = forms[self.form]
        has = self.column(form.spec.name in _WITH_ADDRESSES for form in self.forms).astype(bool)
        for name, (low, bits) in _PLACE.items():
            values: NDArray[np.int64] = getattr(self, name)
            if ((values < 0) | (values >> bits != 0)).any():
                return encode_program(list(self))  # which names the first
            field = np.where(has, values, 0).astype(np.uint64)
            word, shift = divmod(low, 64)
            words[:, word] |= field << np.uint64(shift)
            if shift + bits > 64:
                words[:, word + 1] |= field >> np.uint64(64 - shift)
        return words.view(np.uint8).reshape(-1, 32)


def numbered(*columns: NDArray[np.integer]) -> NDArray[np.int32]:
    """int32 (n,): rows of the columns, which are not negative, numbered so that equal ones have one number."""
    numbers = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        keys = numbers * (int(column.max(initial=0)) + 1) + column
        if (size := int(keys.max(initial=0)) + 1) <= _DENSE:
            there = np.zeros(size, np.bool_)
            there[keys] = True
            numbers = (np.cumsum(there) - 1)[keys]
        else:
            numbers = np.unique(keys, return_inverse=True)[1]
    return numbers.astype(np.int32)


_DENSE = 1 << 24
"""Numbers that are looked up in a table; of more, sorting is cheaper."""


def with_addresses(instruction: Instruction, dram_addr: int, scale_addr: int) -> Instruction:
    """A copy with other addresses in DRAM; they are not looked at where the instruction has none."""
    name = instruction.spec.name
    copied = object.__new__(INSTRUCTION_CLASSES[name])  # 1.3 us; with its keywords an instruction is made in 4.4
    for field, value in zip(_FIELDS[name], _ALL[name](instruction), strict=True):
        setattr(copied, field, value)
    if name in _WITH_ADDRESSES:
        copied.dram_addr, copied.scale_addr = dram_addr, scale_addr
    return copied
