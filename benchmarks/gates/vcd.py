"""Toggles in a VCD (value change dump, IEEE 1364), by name of the wire; of a vector by ``name[bit]``.

A toggle is a change from 0 to 1 or back. Changes from or to x or z are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def count_toggles(lines: Iterable[str]) -> Counter[str]:
    """Of all wires of all scopes; wires that share an identifier share their toggles. Bits are numbered from 0."""
    wires: dict[str, list[tuple[str, int]]] = {}
    source = iter(lines)
    for line in source:
        words = line.split()
        if words[:1] == ["$var"]:
            wires.setdefault(words[3], []).append((words[4], int(words[2])))
        elif words[:1] == ["$enddefinitions"]:
            break
    last: dict[str, str] = {}
    toggles: Counter[tuple[str, int]] = Counter()
    for line in source:
        kind = line[0]
        if kind in "01xz":
            value, identifier = kind, line[1:].strip()
        elif kind in "bB":
            value, identifier = line[1:].split()
            width = wires[identifier][0][1]
            value = value.rjust(width, value[0] if value[0] in "xz" else "0")
        else:
            continue
        before = last.get(identifier)
        last[identifier] = value
        if before is not None and before != value:
            for bit, (old, new) in enumerate(zip(reversed(before), reversed(value), strict=True)):
                if old != new and old in "01" and new in "01":
                    toggles[identifier, bit] += 1
    result: Counter[str] = Counter()
    for identifier, named in wires.items():
        for name, width in named:
            for bit in range(width):
                result[name if width == 1 else f"{name}[{bit}]"] = toggles[identifier, bit]
    return result
