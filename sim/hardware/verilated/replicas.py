"""Many instances of one cell as one loop over arrays of their registers.

Verilator writes out the code of every instance, which for an array of processing elements is most of what is compiled
and more than any cache holds. Here the instances take turns within a process, and the code is compiled once.

* Clocked: an input that is another instance's register is read from that instance's array entry, which is why the last
  instance comes first: all read what the others held before the clock edge. Registers of one instance are updated in an
  order in which each is read before it changes; where there is none, its old value is kept.
* Combinational: outputs that depend on inputs are computed in a process of their own, for all instances.

What the parent reads of registers are copies, which change as registers do, after all processes have read them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from ....rtl.spec.errors import ToolError
from .guards import EAGER, compute, guard_of_read, guards, in_order, memories_alone, write_guard
from .netlist import NAMES, Instance, Module, Register, Write, names_in

SMALLEST = 4
"""Instances from which a loop pays."""


@dataclass
class _Source:
    """Where an input comes from: a name that all share, or entry ``index[i]`` of an array: the registers ``output`` of
    the instances, if there is one, then ``outside`` expressions."""

    shared: str = ""
    output: str = ""
    index: list[int] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


@dataclass
class _Group:
    """Registers and writes under one condition (`EAGER`: none), and the wires that nothing else reads."""

    condition: str
    wires: list[str]
    registers: list[Register] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)

    @property
    def values(self) -> list[str]:
        writes = [value for write in self.writes for value in (write.enable, write.address, write.data)]
        return [self.condition, *(register.value for register in self.registers), *writes]


def can_loop(parent: Module, cell: Module) -> bool:
    """Whether `Loop` can take over all instances of ``cell`` in ``parent``."""
    instances = [instance for instance in parent.instances if instance.module == cell.name]
    written = {write.memory for write in cell.writes}
    return len(instances) >= SMALLEST and not cell.instances and written <= memories_alone(cell)


class Loop:
    """All instances of ``cell`` in ``parent``, as lines of Verilog in it.

    copies: registers of ``parent`` that the loop drives, after `connect`. Raises `ToolError` if the instances feed each
    other in a circle.
    """

    def __init__(self, parent: Module, cell: Module, prefix: str) -> None:
        self.parent, self.cell, self.prefix = parent, cell, prefix
        self.instances = [instance for instance in parent.instances if instance.module == cell.name]
        parent.instances = [instance for instance in parent.instances if instance.module != cell.name]
        self.count = len(self.instances)
        self.registers = {register.name for register in cell.registers}
        self.memories = set(cell.memories) - {write.memory for write in cell.writes}  # read only: shared by all
        self.own = set(cell.memories) - self.memories
        self.order = in_order(cell)
        reach = dict.fromkeys(cell.inputs, True)
        for name in self.order:
            reach[name] = any(reach.get(other, False) for other in names_in(cell.wires[name]))
        self.direct = [name for name in cell.outputs if reach.get(name, False)]
        self.held = [name for name in cell.outputs if name not in self.direct]
        self.instances = self._fed_first()
        self.sources = {port: self._source(port) for port in cell.inputs if port != cell.clock}
        parent.readers += [value for source in self.sources.values() for value in [source.shared, *source.outside]]
        self.copies: dict[str, str] = {}

    def _before(self, names: Iterable[str]) -> set[str]:
        """Wires that these names depend on, themselves included."""
        found = set(names)
        for name in reversed(self.order):
            if name in found:
                found |= names_in(self.cell.wires[name])
        return {name for name in self.order if name in found}

    def _fed_first(self) -> list[Instance]:
        """The instances, each after those whose registers it reads. Raises `ToolError` if there is no such order."""
        owner = {instance.ports[name]: instance.name for instance in self.instances for name in self.held
                 if name in instance.ports}
        waits = {instance.name: {owner[value] for port, value in instance.ports.items()
                                 if port in self.cell.inputs and value in owner} for instance in self.instances}
        by_name = {instance.name: instance for instance in self.instances}
        try:
            return [by_name[name] for name in TopologicalSorter(waits).static_order()]
        except CycleError as error:
            circle = " feeds ".join(error.args[1])
            raise ToolError(f"{self.parent.name}: {circle}: such cells cannot take turns") from None

    # Connections --------------------------------------------------------------------------------------------

    def _source(self, port: str) -> _Source:
        owner = {instance.ports[name]: (number, name) for number, instance in enumerate(self.instances)
                 for name in self.held if name in instance.ports}
        values = [instance.ports[port] for instance in self.instances]
        if len(set(values)) == 1 and values[0] not in owner:
            if not re.fullmatch(r"\w+", values[0]):
                return _Source(shared=self.parent.new_wire(f"{self.prefix}{port}", self.cell.widths[port], values[0]))
            return _Source(shared=values[0])
        source = _Source(outside=list(dict.fromkeys(value for value in values if value not in owner)))
        for value in values:
            if value not in owner:
                source.index.append(self.count + source.outside.index(value))
                continue
            other, name = owner[value]
            if source.output not in ("", name):
                raise ToolError(f"{self.parent.name}: inputs {port} of {self.cell.name} come from {source.output} and "
                                f"{name}")
            source.output = name
            source.index.append(other)
        return source

    def connect(self) -> None:
        """Drive what the parent and its other loops, which must exist by now, read of the outputs."""
        used = {name for value in self.parent.expressions() for name in names_in(value)} | set(self.parent.outputs)
        for number, instance in enumerate(self.instances):
            for port in self.cell.outputs:
                name = instance.ports.get(port)
                if name not in used:
                    self.parent.widths.pop(name or "", None)
                elif port in self.held:
                    self.copies[name] = f"{self._entries(port)}[{number}]"
                else:
                    self.parent.wires[name] = f"{self._entries(port)}[{number}]"

    def _entries(self, port: str) -> str:
        """The array of a port."""
        if port in self.cell.outputs:
            return f"{self.prefix}of_{port}"
        source = self.sources[port]
        return f"{self.prefix}of_{source.output}" if source.output else f"{self.prefix}to_{port}"

    # Text ---------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        cell, p = self.cell, self.prefix
        lines = self._declarations()
        direct = self._before(self.direct)
        if self.direct:
            read = {n for name in direct for n in names_in(cell.wires[name])}
            inputs = [port for port in self.sources if port in read]
            lines += [f"  task automatic {p}show(input integer i);", *self._locals(), "    begin",
                      *self._inputs(inputs, "now_"), *self._compute(n for n in self.order if n in direct),
                      *(f"      {self._entries(name)}[i] = {self._of(name)};" for name in self.direct),
                      "    end", "  endtask", f"  always @* begin : {p}shows", "    integer n;",
                      *self._outside(inputs, "now_"),
                      f"    for (n = 0; n < {self.count}; n = n + 1) {p}show(n);", "  end"]
        lines += [f"  task automatic {p}step(input integer i);", *self._locals(), "    begin",
                  *self._inputs(self.sources, ""), *(f"      {line}" for line in self._step()), "    end", "  endtask",
                  f"  always @(edge {self.instances[0].ports[cell.clock]}) begin : {p}steps", "    integer n;",
                  *self._outside(self.sources, ""),
                  f"    for (n = {self.count - 1}; n >= 0; n = n - 1) {p}step(n);",
                  *(f"    {name} <= {entry};" for name, entry in self.copies.items()), "  end"]
        return lines

    def _declarations(self) -> list[str]:
        cell, p, size = self.cell, self.prefix, _power(self.count)
        sizes = {self._entries(name): (cell.widths[name], self.count) for name in cell.outputs}
        for port, source in self.sources.items():
            if not source.shared:
                width, most = sizes.get(self._entries(port), (cell.widths[port], 0))
                sizes[self._entries(port)] = width, max(most, self.count + len(source.outside))
                sizes[f"{p}now_{port}"] = width, self.count + len(source.outside)
        lines = [f"  reg [{width - 1}:0] {name} [0:{_power(count) - 1}];" for name, (width, count) in sizes.items()]
        lines += [f"  reg [{cell.widths[name] - 1}:0] {p}st_{name} [0:{size - 1}];" for name in sorted(self.registers)]
        for port, source in self.sources.items():
            if not source.shared:
                lines += [f"  reg [15:0] {p}at_{port} [0:{size - 1}];", "  initial begin",
                          *(f"    {p}at_{port}[{i}] = {index};" for i, index in enumerate(source.index)), "  end"]
        lines += ["  initial begin", f"    for (integer k = 0; k < {size}; k = k + 1) begin"]
        lines += [f"      {p}st_{name}[k] = {cell.initial.get(name, '0')};" for name in sorted(self.registers)]
        lines += [f"      {self._entries(name)}[k] = 0;" for name in self.held]
        lines += ["    end", "  end"]
        for name, (width, words) in cell.memories.items():
            total = words if name in self.memories else words * size
            lines += [f"  reg [{width - 1}:0] {p}st_{name} [0:{total - 1}];", "  initial begin",
                      f"    for (integer k = 0; k < {total}; k = k + 1) {p}st_{name}[k] = 0;",
                      *(f"    {p}st_{name}[{i}] = {word};" for i, word in enumerate(cell.contents.get(name, ()))),
                      "  end"]
            if name in self.own and name in cell.contents:
                raise ToolError(f"{cell.name}: memory {name} has contents and is written: such cells cannot take turns")
        return lines

    def _locals(self) -> list[str]:
        names = [name for name in self.cell.widths if name not in self.registers and name != self.cell.clock
                 and not (name in self.sources and self.sources[name].shared)]
        lines = [f"    reg [{self.cell.widths[name] - 1}:0] my_{name};" for name in names]
        return lines + [f"    reg [{self.cell.widths[name] - 1}:0] old_{name};" for name in sorted(self.registers)]

    def _outside(self, ports: Iterable[str], kind: str) -> list[str]:
        lines = []
        for port in ports:
            source = self.sources[port]
            array = f"{self.prefix}{kind}{port}" if kind else self._entries(port)
            lines += [f"    {array}[{self.count + k}] = {value};" for k, value in enumerate(source.outside)]
        return lines

    def _inputs(self, ports: Iterable[str], kind: str) -> list[str]:
        """Combinational outputs see registers of other instances as they are, in the array of those."""
        lines = []
        for port in ports:
            source = self.sources[port]
            if source.shared:
                continue
            at = f"{self.prefix}at_{port}[i]"
            entry = f"{self._entries(port)}[{at}]"
            if kind:
                outer = f"{self.prefix}{kind}{port}[{at}]"
                entry = f"{at} < {self.count} ? {entry} : {outer}" if source.output else outer
            lines.append(f"      my_{port} = {entry};")
        return lines

    def _compute(self, names: Iterable[str]) -> list[str]:
        return [f"      {line}" for name in names for line in compute(self.cell, name, f"my_{name}", self._of)]

    def _step(self) -> list[str]:
        cell = self.cell
        guard_of = guards(cell)
        needed = self._before(n for r in cell.registers for n in names_in(r.value) | names_in(r.enable or ""))
        needed |= self._before(n for w in cell.writes for v in (w.enable, w.address, w.data, write_guard(w))
                               for n in names_in(v))
        groups = self._groups(guard_of)
        lines = self._compute(name for name in self.order if guard_of[name] == EAGER and name in needed)
        reads = [{n for v in [*group.values, *(cell.wires[w] for w in group.wires)] for n in names_in(v)}
                 & (self.registers | self.own) for group in groups]
        writes = [{r.name for r in group.registers} | {w.memory for w in group.writes} for group in groups]
        turns, kept = turn_order(reads, writes, self.registers)
        lines += [f"old_{name} = {self._of(name)};" for name in sorted(set().union(*kept.values()))]
        for turn in turns:
            lines += self._group(groups[turn], kept.get(turn, set()))
        after = self._before(self.held)
        lines += self._compute(name for name in self.order if name in after)
        return lines + [f"{self._entries(name)}[i] = {self._of(name)};" for name in self.held]

    def _groups(self, guard_of: dict[str, str]) -> list[_Group]:
        alone = memories_alone(self.cell)
        inner: dict[str, list[str]] = {}
        for name in self.order:
            inner.setdefault(guard_of[name], []).append(name)
        groups: dict[str, _Group] = {}
        single = []
        for register in self.cell.registers:
            key = guard_of_read(register, alone)
            if key == EAGER:
                single.append(_Group(EAGER, [], [register]))
                continue
            group = groups.setdefault(key, _Group(register.enable or "1", inner.get(key, [])))
            group.registers.append(register)
        for write in self.cell.writes:
            key = f"{write.memory}: {write_guard(write)}"
            # Under the condition of a read the write has a group of its own, whose turn comes later.
            group = groups.setdefault(f"write {key}", _Group(write_guard(write), []))
            group.writes.append(write)
            if key not in groups:
                group.wires = inner.get(key, [])
            elif inner.get(key):
                raise ToolError(f"{self.cell.name}: reads and writes of {write.memory} share logic")
        return [*single, *groups.values()]

    def _group(self, group: _Group, kept: set[str]) -> list[str]:
        reads = [names_in(register.value) & self.registers for register in group.registers]
        turns, inner_kept = turn_order(reads, [{register.name} for register in group.registers], self.registers)
        own = set().union(*inner_kept.values()) - kept
        lines = [line for name in group.wires
                 for line in compute(self.cell, name, f"my_{name}", lambda text: self._of(text, kept))]
        lines += [f"old_{name} = {self._of(name)};" for name in sorted(own)]
        for turn in turns:
            register = group.registers[turn]
            value = self._of(register.value, kept | inner_kept.get(turn, set()))
            lines.append(f"{self.prefix}st_{register.name}[i] = {value};")
        for write in group.writes:
            width, words = self.cell.memories[write.memory]
            high, low = write.bits
            bits = "" if (high, low) == (width - 1, 0) else f"[{high}:{low}]"
            condition = "" if write.enable == group.condition else f"if ({self._of(write.enable, kept)}) "
            place = f"{self.prefix}st_{write.memory}[i * {words} + {self._of(write.address, kept)}]{bits}"
            lines.append(f"{condition}{place} = {self._of(write.data, kept)};")
        if group.condition == EAGER:
            return lines
        return [f"if ({self._of(group.condition, kept)}) begin", *(f"  {line}" for line in lines), "end"]

    def _of(self, expression: str, kept: Collection[str] = ()) -> str:
        """``expression`` for instance i: registers as entries of arrays, those in ``kept`` as their old values."""
        def replace(found: re.Match) -> str:
            name = found[1]
            if name in self.registers:
                name = f"old_{name}" if name in kept else f"{self.prefix}st_{name}[i]"
            elif name in self.sources and self.sources[name].shared:
                name = self.sources[name].shared
            elif name in self.cell.memories:
                name = f"{self.prefix}st_{name}"
            else:
                name = f"my_{name}"
            return name + found[2]

        text = NAMES.sub(replace, expression)
        for memory in self.own:
            array, words = f"{self.prefix}st_{memory}[", self.cell.memories[memory][1]
            text = text.replace(array, f"{array}i * {words} + ")
        return text


def turn_order(reads: list[set[str]], writes: list[set[str]],
               keepable: Collection[str]) -> tuple[list[int], dict[int, set[str]]]:
    """An order in which what is read comes before what writes it, and for each number the names, of ``keepable``, whose
    old values it needs because there is none."""
    left = dict.fromkeys(range(len(reads)))
    order: list[int] = []
    kept: dict[int, set[str]] = {}
    while left:
        blockers = {n: [m for m in left if m != n and writes[n] & (reads[m] - kept.get(m, set()))] for n in left}
        free = [n for n in left if not blockers[n]]
        if not free:
            possible = [n for n in left if all(writes[n] & reads[m] <= set(keepable) for m in blockers[n])]
            if not possible:
                raise ToolError("reads and writes of memories wait for each other")
            n = min(possible, key=lambda n: len(blockers[n]))
            for m in blockers[n]:
                kept.setdefault(m, set()).update(writes[n] & reads[m])
            free = [n]
        for n in free:
            order.append(n)
            del left[n]
    return order, kept


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()
