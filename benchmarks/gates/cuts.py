"""A component of the tile as a design of its own, without the memories and components that other figures stand for.

Memories are not standard cells, and a part such as "the vector unit's control" is the unit without its lanes. What is
cut away leaves its outputs as inputs of the design and its inputs as outputs, so that the logic around it stays.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amaranth.back import rtlil
from amaranth.hdl import Const, Fragment, Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.hdl._mem import MemoryInstance
from amaranth.lib import wiring

from tilescore.rtl.spec.errors import SimulationError

TOP = "design"


@dataclass(frozen=True)
class Design:
    """inputs: signals by port, to be sampled in a simulation of the tile that the component is in."""

    kept: Fragment
    ports: dict[str, tuple[Value, PortDirection]]

    @property
    def inputs(self) -> dict[str, Value]:
        return {name: value for name, (value, direction) in self.ports.items() if direction is PortDirection.Input}

    def rtlil(self) -> str:
        """With the module `TOP`. Not after a simulation."""
        return rtlil.convert_fragment(self.kept, dict(self.ports), TOP, emit_src=False)[0]


def cut(fragment: Fragment, component: wiring.Component, without: Sequence[type] = ()) -> Design:
    """``fragment``: that of the tile, not simulated yet, in which ``component`` was elaborated."""
    found = next((part for part in fragments(fragment) if any(o is component for o in part.origins or ())), None)
    if found is None:
        raise SimulationError(f"the tile has no {type(component).__name__} to cut out")
    ports = _ports(component, "")
    removed: list[Fragment] = []
    kept = _without(found, tuple(without), removed)
    for number, part in enumerate(removed):
        if isinstance(part, MemoryInstance):
            ports |= _memory_ports(part, f"memory{number}_")
        else:
            owner = next(o for o in part.origins or () if isinstance(o, wiring.Component))
            ports |= {name: (value, PortDirection.Input if direction is PortDirection.Output else PortDirection.Output)
                      for name, (value, direction) in _ports(owner, f"part{number}_").items()}
    return Design(kept, _as_signals(kept, _once(ports)))


def fragments(fragment: Fragment) -> Iterator[Fragment]:
    """All of an elaborated design, parents first."""
    yield fragment
    for inner, _, _ in fragment.subfragments:
        yield from fragments(inner)


def _without(fragment: Fragment, kinds: tuple[type, ...], removed: list[Fragment]) -> Fragment:
    """A copy that lacks memories and components of ``kinds``, which are appended to ``removed``."""
    result = copy.copy(fragment)
    result.subfragments = []
    result.statements = {domain: copy.copy(lines) for domain, lines in fragment.statements.items()}
    result.domains, result.domains_propagated_up = result.domains.copy(), {}  # conversion writes to them
    for inner, name, source in fragment.subfragments:
        if isinstance(inner, MemoryInstance) or any(isinstance(o, kinds) for o in inner.origins or ()):
            removed.append(inner)
        else:
            result.subfragments.append((_without(inner, kinds, removed), name, source))
    return result


def _ports(component: wiring.Component, prefix: str) -> dict[str, tuple[Value, PortDirection]]:
    return {prefix + "__".join(map(str, path)): (
        Value.cast(value), PortDirection.Input if member.flow == wiring.In else PortDirection.Output)
        for path, member, value in component.signature.flatten(component)}


def _memory_ports(memory: MemoryInstance, prefix: str) -> dict[str, tuple[Value, PortDirection]]:
    ports = {}
    for i, port in enumerate(memory._read_ports):
        ports[f"{prefix}read{i}"] = port._data, PortDirection.Input
        ports |= {f"{prefix}read{i}_{name}": (value, PortDirection.Output)
                  for name, value in (("addr", port._addr), ("en", port._en))}
    for i, port in enumerate(memory._write_ports):
        ports |= {f"{prefix}write{i}_{name}": (value, PortDirection.Output)
                  for name, value in (("addr", port._addr), ("data", port._data), ("en", port._en))}
    return ports


def _as_signals(kept: Fragment, ports: dict[str, tuple[Value, PortDirection]]
                ) -> dict[str, tuple[Value, PortDirection]]:
    """Outputs that are expressions, such as a memory's enable, drive signals in ``kept``, which are ports for them."""
    result = dict(ports)
    for name, (value, direction) in ports.items():
        if direction is PortDirection.Output and not isinstance(value, Signal):
            port = Signal(value.shape(), name=name)
            kept.add_statements("comb", port.eq(value))
            result[name] = port, direction
    return result


def _once(ports: dict[str, tuple[Value, PortDirection]]) -> dict[str, tuple[Value, PortDirection]]:
    """Every signal once: as an input if it is one, since then something outside drives it. Constants are left out."""
    found: dict[int, str] = {}
    result: dict[str, tuple[Value, PortDirection]] = {}
    for name, (value, direction) in ports.items():
        if isinstance(value, Const):
            continue
        known = found.setdefault(id(value), name)
        if known == name or direction is PortDirection.Input:
            result[known] = value, direction
    return result
