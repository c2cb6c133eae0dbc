"""Which figures are of hardware, or judge tables, that are no more.

A part's figures keep a digest of the design that was mapped, and those that judge tables keep the constants that they
judge. Designs are made here without a simulation: a processing element alone, other parts from their tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from amaranth.hdl import Fragment

from tilescore.benchmarks.gates.cuts import cut, fragments
from tilescore.benchmarks.gates.judge import frozen
from tilescore.benchmarks.gates.measure import design_digest
from tilescore.benchmarks.gates.parts import PARTS, Part
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.tile import Tile

UNGATED = "-ungated"
"""What the name of a part without clock gates ends in, in figures."""


def part_of(name: str) -> Part | None:
    """Of a name in figures; None if there is no such part any more."""
    return PARTS.get(name.removesuffix(UNGATED))


def designs(parts: Sequence[Part]) -> dict[str, str]:
    """By part's name: digest of its design as the RTL is now."""
    found: dict[str, str] = {}
    for config, alone in dict.fromkeys((part.config, part.place.kind is ProcessingElement) for part in parts):
        fragment = Fragment.get((ProcessingElement if alone else Tile)(config), None)
        components = [origin for inner in fragments(fragment) for origin in inner.origins or ()]
        for part in parts:
            if part.config == config and (part.place.kind is ProcessingElement) == alone:
                place = part.place
                component = next(c for c in components if type(c) is place.kind and place.where(c))
                found[part.name] = design_digest(cut(fragment, component, place.without).rtlil())
    return found


def stale(figures: Mapping, parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    """(library, name in its figures) of those of ``parts`` to be measured again."""
    there = {known.name: known for library in figures["libraries"] for name in library["parts"]
             if (known := part_of(name)) in parts and known is not None}
    now, tables = designs(list(there.values())), frozen()
    for library in figures["libraries"]:
        for name, part in library["parts"].items():
            known = part_of(name)
            if known is not None and known.name in there and (
                    part.get("design") != now[known.name] or part.get("judges", tables) != tables):
                yield library["name"], name
