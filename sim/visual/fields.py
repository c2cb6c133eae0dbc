"""The fields of a program's instructions as columns, and instructions that are equal in some of them."""

from collections.abc import Collection
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from ...rtl.spec.isa import HEADER, INSTRUCTIONS
from ..instructions import ADDRESSES
from ..program import Program

_NAMES = {spec.name: tuple(f.name for f in spec.fields + HEADER) for spec in INSTRUCTIONS}
_VALUES = {name: attrgetter(*fields) for name, fields in _NAMES.items()}
_KEY_LIMIT = 1 << 62


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldColumns:
    """All instructions of one name. index: int64, in the program, ascending; columns: {field: int64 values}."""

    name: str
    index: np.ndarray
    columns: dict[str, np.ndarray]


def field_columns(program: Program) -> list[FieldColumns]:
    """The columns of every name that the program has, in the order of the instruction table."""
    instructions, found = program.columns, []
    names = np.array([form.spec.name for form in instructions.forms])
    for name, fields in _NAMES.items():
        of_forms = np.flatnonzero(names == name)
        if not of_forms.size:
            continue
        index = np.flatnonzero(np.isin(instructions.form, of_forms))
        values = np.array([_VALUES[name](instructions.forms[i]) for i in of_forms.tolist()], np.int64)
        rows = values[np.searchsorted(of_forms, instructions.form[index])].T
        columns = dict(zip(fields, np.ascontiguousarray(rows), strict=True))
        columns |= {address: getattr(instructions, address)[index] for address in ADDRESSES if address in columns}
        found.append(FieldColumns(name=name, index=index, columns=columns))
    return found


def alike(columns: FieldColumns, left_out: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    """(class of each instruction, position of a member of each class): equal in every field but those."""
    key, size = np.zeros(columns.index.size, np.int64), 1
    for name, values in columns.columns.items():
        if name in left_out or (values == values[0]).all():
            continue
        found, ranks = np.unique(values, return_inverse=True)
        if size * found.size >= _KEY_LIMIT:
            classes, key = np.unique(key, return_inverse=True)
            size = classes.size
        key, size = key * found.size + ranks, size * found.size
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    return number, first
