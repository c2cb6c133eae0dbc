"""Logic that only an enabled register reads is computed only when it is enabled; modules as Verilog again.

Verilator evaluates all combinational logic in every cycle. A wire that nothing but registers of one enable read, itself
or through such wires, becomes a variable of their process, below the enable. Write data of memories likewise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from .netlist import Module, Register, Write, names_in

_CASES = 5
"""Values from which a case statement is better than a chain of choices."""

EAGER = ""
"""Guard of what is computed in every cycle."""


def guards(module: Module) -> dict[str, str]:
    """The enable under which each wire is read, or `EAGER`."""
    readers: dict[str, set[str]] = {name: set() for name in module.wires}

    def read(expression: str, guard: str) -> None:
        for name in names_in(expression):
            if name in readers:
                readers[name].add(guard)

    for name in module.outputs:
        read(name, EAGER)
    for instance in module.instances:
        for value in instance.ports.values():
            read(value, EAGER)
    alone = memories_alone(module)
    for value in module.readers:
        read(value, EAGER)
    for register in module.registers:
        read(register.enable or "", EAGER)
        read(register.value, guard_of_read(register, alone))
    for write in module.writes:
        guard = write_guard(write)
        read(guard, EAGER)
        guard = f"{write.memory}: {guard}" if write.memory in alone else guard
        for value in (write.enable, write.address, write.data):
            read(value, guard)
    found: dict[str, str] = {}
    for name in reversed(in_order(module)):
        found[name] = next(iter(readers[name])) if len(readers[name]) == 1 else EAGER
        read(module.wires[name], found[name])
    return found


def memories_alone(module: Module) -> set[str]:
    """Memories that nothing but registers read: their writes need no second copy of what is written."""
    seen = {name for value in module.wires.values() for name in names_in(value)}
    return set(module.memories) - seen


def _memory_of(value: str) -> str:
    return value.split("[", 1)[0]


def guard_of_read(register: Register, alone: set[str]) -> str:
    """That of what the register reads; reads of a memory have guards of their own."""
    memory = _memory_of(register.value)
    return f"{memory}: {register.enable or '1'}" if memory in alone else register.enable or EAGER


def write_guard(write: Write) -> str:
    """Any bit of the vector that the enable is a bit of."""
    found = re.match(r"^(\w+)\[\d+\]$", write.enable)
    return f"|{found[1]}" if found else write.enable


def in_order(module: Module) -> list[str]:
    """Wires, each after those that it reads."""
    order: list[str] = []
    seen: set[str] = set()
    for start in module.wires:
        if start in seen:
            continue
        seen.add(start)
        stack = [(start, iter(sorted(names_in(module.wires[start]))))]
        while stack:
            name, names = stack[-1]
            for other in names:
                if other in module.wires and other not in seen:
                    seen.add(other)
                    stack.append((other, iter(sorted(names_in(module.wires[other])))))
                    break
            else:
                order.append(name)
                stack.pop()
    return order


def compute(module: Module, name: str, target: str, change: Callable[[str], str]) -> list[str]:
    """Statements that give a wire's value to ``target``; ``change`` says what its names are called there.

    A choice by one number becomes a case statement, which Verilator makes a tree.
    """
    value = module.wires[name]
    steps = value.split(" : ")
    if len(steps) < _CASES:
        return [f"{target} = {change(value)};"]
    selectors, cases = set(), []
    for step in steps[:-1]:
        bit, _, part = step.partition(" ? ")
        found = re.fullmatch(r"(! )?(\w+(?:\[[\d:]+\])?)(?: == (\d+'h[0-9a-f]+))?", module.wires.get(bit, ""))
        if not part or not found or bool(found[1]) == bool(found[3]):
            return [f"{target} = {change(value)};"]
        selectors.add(found[2])
        cases.append((found[3] or "0", part))
    if len(selectors) != 1:
        return [f"{target} = {change(value)};"]
    return [f"case ({change(selectors.pop())})", *(f"  {number}: {target} = {change(part)};" for number, part in cases),
            f"  default: {target} = {change(steps[-1])};", "endcase"]


def write_module(module: Module, copies: Collection[str] = (), lines: Iterable[str] = ()) -> str:
    """Verilog of ``module``, with more ``lines`` in it, which drive the registers ``copies``."""
    guard_of = guards(module)
    order = in_order(module)
    clocked = {register.name for register in module.registers} | set(copies)
    local: dict[str, list[str]] = {}
    for name in order:
        if guard_of[name]:
            local.setdefault(guard_of[name], []).append(name)
    text = [f"module {module.name}(" + ", ".join([*module.inputs, *module.outputs]) + ");"]
    for name, width in module.widths.items():
        if guard_of.get(name):
            continue
        chosen = name in module.wires and len(compute(module, name, name, str)) > 1
        kind = "reg" if name in clocked or chosen else "wire"
        direction = "input " if name in module.inputs else "output " if name in module.outputs else ""
        start = f" = {module.initial[name]}" if name in module.initial and kind == "reg" else ""
        text.append(f"  {direction}{kind} [{width - 1}:0] {name}{start};")
    text += _memories(module)
    for name in order:
        if not guard_of[name]:
            lines_of = compute(module, name, name, str)
            text += [f"  assign {line}" for line in lines_of] if len(lines_of) == 1 else ["  always @*", *lines_of]
    text += _processes(module, local)
    for instance in module.instances:
        ports = ", ".join(f".{port}({value})" for port, value in instance.ports.items())
        text.append(f"  {instance.module} {instance.name} ({ports});")
    return "\n".join([*text, *lines, "endmodule", ""])


def _memories(module: Module) -> list[str]:
    lines = []
    for name, (width, words) in module.memories.items():
        lines.append(f"  reg [{width - 1}:0] {name} [0:{words - 1}];")
        if name in module.contents:
            lines.append("  initial begin")
            lines += [f"    {name}[{i}] = {word};" for i, word in enumerate(module.contents[name])]
            lines.append("  end")
        else:
            lines.append(f"  integer {name}_i;")
            lines.append(f"  initial for ({name}_i = 0; {name}_i < {words}; {name}_i = {name}_i + 1) "
                         f"{name}[{name}_i] = 0;")
    return lines


def _processes(module: Module, local: dict[str, list[str]]) -> list[str]:
    """One for the registers of each guard, one for each memory: its reads, then its writes."""
    alone = memories_alone(module)
    statements: dict[str, list[str]] = {}
    reads: dict[str, list[Register]] = {}
    for register in module.registers:
        if (memory := _memory_of(register.value)) in alone:
            reads.setdefault(memory, []).append(register)
            continue
        statements.setdefault(register.enable or EAGER, []).append(f"{register.name} <= {register.value};")
    writes: dict[str, dict[str, list[str]]] = {memory: {} for memory in alone}
    for write in module.writes:
        guard = write_guard(write)
        high, low = write.bits
        bits = "" if (high, low) == (module.memories[write.memory][0] - 1, 0) else f"[{high}:{low}]"
        condition = "" if guard == write.enable else f"if ({write.enable}) "
        target = f"{condition}{write.memory}[{write.address}]{bits}"
        if write.memory in alone:
            writes[write.memory].setdefault(guard, []).append(f"{target} = {write.data};")
        else:
            statements.setdefault(guard, []).append(f"{target} <= {write.data};")
    lines = []
    for number, (guard, body) in enumerate(statements.items()):
        condition = f" if ({guard})" if guard else ""
        lines.append(f"  always @(edge {module.clock}){condition} begin : process_{number}")
        lines += _block(module, local.get(guard, ()), body)
        lines.append("  end")
    for memory in sorted(alone):
        lines.append(f"  always @(edge {module.clock}) begin : access_{memory}")
        parts = [(r.enable or "1", [f"{r.name} <= {r.value};"]) for r in reads.get(memory, ())]
        for number, (guard, body) in enumerate([*parts, *writes[memory].items()]):
            lines.append(f"    if ({guard}) begin : part_{number}")
            lines += _block(module, local.get(f"{memory}: {guard}", ()), body)
            lines.append("    end")
        lines.append("  end")
    return lines


def _block(module: Module, names: Iterable[str], body: list[str]) -> list[str]:
    names = list(names)
    return [*(f"    automatic reg [{module.widths[name] - 1}:0] {name};" for name in names),
            *(f"    {line}" for name in names for line in compute(module, name, name, str)),
            *(f"    {line}" for line in body)]
