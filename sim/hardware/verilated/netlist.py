"""A flat module of Yosys's Verilog as statements that passes can move: `parse`, `Module`, `write`.

Yosys writes one statement per cell after ``proc``: an ``assign``, or an ``always @(posedge ...)`` with at most one
enable. Only that form is read; anything else is an error, so that nothing is dropped silently. Names must be plain
(`rtl.export.verilog_text.plain_names`).

Yosys also splits wires: bits of one wire may come from several cells, and one cell may drive bits of several wires.
Verilator sees loops in such wires where there are none. `parse` therefore gives every driver a wire of its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ....rtl.spec.errors import ToolError

_NAME = r"[A-Za-z_][\w]*"
NAMES = re.compile(rf"(?<!['$\w.])({_NAME})((?:\[\d+(?::\d+)?\])?)")
"""A name with its constant bit range, if there is one; not a base of a number, not a system function."""

_DECLARATION = re.compile(rf"^  (input|output|wire|reg)(?: \[(\d+):0\])? ({_NAME})(?: \[(\d+):0\])?(?: = ([^;]+))?;$")
_LITERAL = re.compile(r"^(\d+)'([bdh])([0-9a-fxz?_]+)$")


@dataclass
class Register:
    """Takes ``value`` at every rising edge in which ``enable`` (None: always) is set."""

    name: str
    enable: str | None
    value: str


@dataclass
class Write:
    """``memory[address][high:low] <= data`` where ``enable`` is set."""

    memory: str
    address: str
    bits: tuple[int, int]
    enable: str
    data: str


@dataclass
class Instance:
    module: str
    name: str
    ports: dict[str, str]


@dataclass
class Module:
    """widths: bits of every wire, port and register. memories: bits and words; contents: their initial words if not 0.

    initial: of registers. wires: expression of each wire that is not an input, a register or an instance's output.
    readers: expressions that something outside of these statements reads.
    """

    name: str
    clock: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict)
    initial: dict[str, str] = field(default_factory=dict)
    memories: dict[str, tuple[int, int]] = field(default_factory=dict)
    contents: dict[str, list[str]] = field(default_factory=dict)
    wires: dict[str, str] = field(default_factory=dict)
    registers: list[Register] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)

    def expressions(self) -> Iterator[str]:
        """All that is read."""
        yield from self.wires.values()
        for register in self.registers:
            yield register.value
            yield register.enable or ""
        for write in self.writes:
            yield from (write.address, write.enable, write.data)
        for instance in self.instances:
            yield from instance.ports.values()
        yield from self.readers

    def rewrite(self, change: Callable[[str], str]) -> None:
        """Every expression."""
        self.wires = {name: change(value) for name, value in self.wires.items()}
        for register in self.registers:
            register.value = change(register.value)
            register.enable = change(register.enable) if register.enable else None
        for write in self.writes:
            write.address, write.enable, write.data = map(change, (write.address, write.enable, write.data))
        for instance in self.instances:
            instance.ports = {port: change(value) for port, value in instance.ports.items()}

    def new_wire(self, stem: str, width: int, value: str) -> str:
        name = stem
        while name in self.widths or name in self.memories:
            name = f"{stem}_{len(self.widths)}"
            stem += "_"
        self.widths[name] = width
        self.wires[name] = value
        return name


def names_in(expression: str) -> set[str]:
    return {found[0] for found in NAMES.findall(expression)}


def split_top(text: str) -> list[str]:
    """``text`` at its commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        if char in "{([":
            depth += 1
        elif char in "})]":
            depth -= 1
        elif char == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def parse(text: str) -> list[Module]:
    """All modules of ``text``. Raises `ToolError` for a statement that is not of the form above."""
    parsers = []
    for found in re.finditer(r"^module (\w+) ?\(.*?\);\n(.*?)^endmodule$", text, re.MULTILINE | re.DOTALL):
        parsers.append(_Parser(Module(found[1]), found[2]))
        parsers[-1].run()
    modules = {parser.module.name: parser.module for parser in parsers}
    for parser in parsers:
        _one_driver_each(parser.module, parser.assigns, parser.clocked, modules)
    return list(modules.values())


class _Parser:
    def __init__(self, module: Module, body: str) -> None:
        self.module = module
        self.lines = iter(body.splitlines())
        self.assigns: list[tuple[str, str]] = []
        self.clocked: list[Register] = []
        self.choices: set[str] = set()

    def run(self) -> None:
        for line in self.lines:
            if found := _DECLARATION.match(line):
                self._declare(found)
            elif line.startswith("  assign "):
                target, value = line[9:-1].split(" = ", 1)
                self.assigns.append((target.strip(), self._plain(value)))
            elif found := re.match(r"^  always @\(posedge (\w+)\)", line):
                if self.module.clock not in ("", found[1]):
                    raise ToolError(f"Yosys's Verilog of {self.module.name}: two clocks, {found[1]} and "
                                    f"{self.module.clock}")
                self.module.clock = found[1]
                self._always(line)
            elif line.startswith("  initial begin"):
                self._contents()
            elif line.startswith("  function "):
                self._choice(line)
            elif found := re.match(rf"^  ({_NAME}) ({_NAME}) \($", line):
                self._instance(found[1], found[2])
            elif line.strip():
                raise ToolError(f"Yosys's Verilog of {self.module.name}: unexpected {line.strip()!r}")

    def _declare(self, found: re.Match) -> None:
        kind, high, name, words, initial = found.groups()
        module, width = self.module, int(high or 0) + 1
        if words is not None:
            module.memories[name] = width, int(words) + 1
            return
        if kind == "input":
            module.inputs.append(name)
        if kind == "output":
            module.outputs.append(name)
        module.widths[name] = width
        if initial:
            module.initial[name] = initial

    def _always(self, line: str) -> None:
        if not line.endswith("begin"):
            self.clocked.append(self._register(next(self.lines).strip()))
            return
        enable = ""
        for inner in self.lines:
            inner = inner.strip()
            if inner == "end":
                if not enable.endswith(" begin"):
                    return
                enable = ""
            elif inner.startswith("if ("):
                enable = inner
            else:
                self._memory_statement(enable.removesuffix(" begin"), inner)
                if not enable.endswith(" begin"):
                    enable = ""

    def _memory_statement(self, condition: str, line: str) -> None:
        target, value = line[:-1].split(" <= ", 1)
        enable = self._plain(condition[4:-1]) if condition else None
        name = re.match(_NAME, target)
        assert name is not None
        if name[0] not in self.module.memories:
            self.clocked.append(Register(target.strip(), enable, self._plain(value)))
            return
        found = re.match(r"^\s*\[(.*?)\s*\](?:\[(\d+)(?::(\d+))?\])?$", _balanced(target[name.end():]))
        if not found or enable is None:
            raise ToolError(f"Yosys's Verilog of {self.module.name}: unexpected write {line!r}")
        width = self.module.memories[name[0]][0]
        high = int(found[2]) if found[2] else width - 1
        low = int(found[3]) if found[3] else (high if found[2] else 0)
        self.module.writes.append(
            Write(name[0], self._plain(found[1].replace("\0", "[").replace("\1", "]")), (high, low), enable,
                  self._plain(value)))

    def _register(self, line: str) -> Register:
        enable = None
        if found := re.match(r"^if \((.*?)\) (.*)$", line):
            enable, line = self._plain(found[1]), found[2]
        target, value = line[:-1].split(" <= ", 1)
        return Register(target.strip(), enable, self._plain(value))

    def _contents(self) -> None:
        words: list[str] = []
        name = ""
        for line in self.lines:
            if line.strip() == "end":
                break
            found = re.match(rf"^    ({_NAME}) ?\[(\d+)\] = (.*);$", line)
            if not found or int(found[2]) != len(words):
                raise ToolError(f"Yosys's Verilog of {self.module.name}: unexpected {line.strip()!r}")
            name = found[1]
            words.append(found[3])
        if any(re.search(r"'h0*[1-9a-fx]", word) for word in words):
            self.module.contents[name] = words

    def _choice(self, line: str) -> None:
        """A function that selects one of several words: `_plain` writes it as a chain of choices."""
        self.choices.add(line.split()[-1].rstrip(";"))
        for inner in self.lines:
            if inner == "  endfunction":
                return

    def _plain(self, value: str) -> str:
        value = re.sub(r"\s+(?=\[\d)", "", value.strip())
        found = re.match(rf"^({_NAME})\((.*)\)$", value)
        if not found or found[1] not in self.choices:
            return value
        default, words, selects = split_top(found[2])
        bits = _pieces(self.module, selects, 1)
        parts = _pieces(self.module, words, self._width(words) // len(bits))
        # The first of the concatenation is the highest; all but one select are 0.
        if default.strip("0123456789").startswith("'h") and set(default.split("'h")[1]) == {"x"}:
            default = parts[-1]
            bits, parts = bits[:-1], parts[:-1]
        return "".join(f"{bit} ? {part} : " for bit, part in zip(bits, parts, strict=True)) + default

    def _width(self, expression: str) -> int:
        return sum(high - low + 1 for _, high, low in _chunks(self.module, expression))

    def _instance(self, module: str, name: str) -> None:
        ports: dict[str, str] = {}
        for line in self.lines:
            if line == "  );":
                break
            found = re.match(rf"^    \.({_NAME})\((.*)\),?$", line)
            if not found:
                raise ToolError(f"Yosys's Verilog of {self.module.name}: unexpected {line.strip()!r}")
            ports[found[1]] = self._plain(found[2])
        self.module.instances.append(Instance(module, name, ports))


def _balanced(text: str) -> str:
    """``[address][bits]`` with the brackets inside the address as other characters."""
    depth, out = 0, []
    for char in text:
        if char == "]":
            depth -= 1
        out.append({"[": "\0", "]": "\1"}.get(char, char) if depth > 0 else char)
        if char == "[":
            depth += 1
            out[-1] = "[" if depth == 1 else "\0"
        elif char == "]" and depth > 0:
            out[-1] = "\1"
    return "".join(out)


def _chunks(module: Module, expression: str) -> Iterator[tuple[str, int, int]]:
    """A concatenation as (name or literal, high, low), highest first."""
    expression = expression.strip()
    if expression.startswith("{"):
        inner = expression[1:-1].strip()
        if repeated := re.match(r"^(\d+)(\{.*\})$", inner):
            for _ in range(int(repeated[1])):
                yield from _chunks(module, repeated[2])
            return
        for part in split_top(inner):
            yield from _chunks(module, part)
    elif found := _LITERAL.match(expression):
        yield expression, int(found[1]) - 1, 0
    elif found := re.match(rf"^({_NAME})(?:\[(\d+)(?::(\d+))?\])?$", expression):
        high = int(found[2]) if found[2] else module.widths[found[1]] - 1
        yield found[1], high, int(found[3] or found[2] or 0)
    else:
        raise ToolError(f"Yosys's Verilog of {module.name}: unexpected expression {expression!r}")


def _pieces(module: Module, expression: str, width: int) -> list[str]:
    """A concatenation cut into expressions of ``width`` bits, highest first."""
    pieces: list[list[str]] = [[]]
    room = width
    for name, high, low in _chunks(module, expression):
        while high >= low:
            if not room:
                pieces.append([])
                room = width
            taken = min(room, high - low + 1)
            pieces[-1].append(select(module, name, high, high - taken + 1))
            high -= taken
            room -= taken
    if room:
        raise ToolError(f"Yosys's Verilog of {module.name}: {expression!r} is not a multiple of {width} bits")
    return [piece[0] if len(piece) == 1 else "{ " + ", ".join(piece) + " }" for piece in pieces]


def select(module: Module, name: str, high: int, low: int) -> str:
    """Bits of a wire, or of a literal."""
    if found := _LITERAL.match(name):
        base = {"b": 2, "d": 10, "h": 16}[found[2]]
        value = int(re.sub(r"[xz?]", "0", found[3]), base) >> low & (1 << high - low + 1) - 1
        return f"{high - low + 1}'h{value:x}"
    if (high, low) == (module.widths[name] - 1, 0):
        return name
    return f"{name}[{high}:{low}]" if high > low else f"{name}[{high}]"


# One driver each ------------------------------------------------------------------------------------------------


def _one_driver_each(module: Module, assigns: list[tuple[str, str]], clocked: list[Register],
                     modules: dict[str, Module]) -> None:
    """Fill ``wires`` and ``registers``; where a driver is not one whole wire, it gets a new one, and the old wires
    become concatenations of the new."""
    outputs = [(instance, port) for instance in module.instances for port in instance.ports
               if port in modules[instance.module].outputs]
    targets = [target for target, _ in assigns] + [register.name for register in clocked]
    targets += [instance.ports[port] for instance, port in outputs]
    driven = Counter(name for target in targets for name, _, _ in _chunks(module, target))
    parts: dict[str, list[tuple[int, int, str, int]]] = {}

    def place(target: str, stem: str) -> str:
        chunks = list(_chunks(module, target))
        name, high, low = chunks[0]
        if len(chunks) == 1 and driven[name] == 1 and (high, low) == (module.widths[name] - 1, 0):
            return name
        width = sum(high - low + 1 for _, high, low in chunks)
        new = module.new_wire(f"{stem}{len(module.widths)}", width, "")
        del module.wires[new]
        place_at = width
        for name, high, low in chunks:
            place_at -= high - low + 1
            parts.setdefault(name, []).append((high, low, new, place_at))
        return new

    for target, value in assigns:
        module.wires[place(target, "cell_")] = value
    for instance, port in outputs:
        instance.ports[port] = place(instance.ports[port], "port_")
    for register in clocked:
        name = place(register.name, "part_")
        if name != register.name:
            module.initial[name] = _initial(module, register.name)
        module.registers.append(Register(name, register.enable, register.value))
    _substitute(module, parts, {instance.ports[port] for instance, port in outputs})


def _initial(module: Module, target: str) -> str:
    value, width = 0, 0
    for name, high, low in _chunks(module, target):
        bits = select(module, module.initial.get(name, f"{module.widths[name]}'h0"), high, low)
        value = value << high - low + 1 | int(bits.split("'h")[1], 16)
        width += high - low + 1
    return f"{width}'h{value:x}"


def _substitute(module: Module, parts: dict[str, list[tuple[int, int, str, int]]], driven: set[str]) -> None:
    """Replace what is in ``parts`` by the new wires wherever it is read."""
    for drivers in parts.values():
        drivers.sort(reverse=True)

    def replace(found: re.Match) -> str:
        name, bits = found[1], found[2]
        if name not in parts:
            return found[0]
        if bits:
            ends = [int(b) for b in bits[1:-1].split(":")]
            high, low = ends[0], ends[-1]
        else:
            high, low = module.widths[name] - 1, 0
        pieces, at = [], high
        for top, bottom, new, place in parts[name]:
            if at < low or bottom > at or top < low:
                continue
            if top < at:
                pieces.append(f"{at - top}'h0")
                at = top
            end = max(bottom, low)
            pieces.append(select(module, new, place + at - bottom, place + end - bottom))
            at = end - 1
        if at >= low:
            pieces.append(f"{at - low + 1}'h0")
        return pieces[0] if len(pieces) == 1 else "{ " + ", ".join(pieces) + " }"

    def of(expression: str) -> str:
        return NAMES.sub(replace, expression)

    index = re.compile(rf"({_NAME})\[(?!\d+[:\]])")
    indexed = {name for expression in module.expressions() for name in index.findall(expression)}
    kept = [name for name in parts if name in module.outputs or name in indexed]
    whole = {name: of(name) for name in kept}
    for name in indexed:
        parts.pop(name, None)
    module.rewrite(lambda expression: expression if expression in driven else of(expression))
    module.wires |= whole
    for name in [*parts, *kept]:
        module.initial.pop(name, None)
        if name not in kept:
            del module.widths[name]
