"""What of a Liberty file (.lib, also .lib.gz) an estimate of area, delay and energy needs.

`parse` reads the syntax, `read_library` takes from it: areas, functions, flip-flops, pin capacitances, leakage,
internal power and delays. Current-source models, statetables and bundles are passed over. Units become ps, fF, fJ and
nW: internal power tables have no unit of their own, they are in (unit of capacitance) x (unit of voltage) squared.

Tables have up to two axes, in either order; what an axis means stands in the table's template.

Some libraries (ASAP7) give internal power once for each supply pin. A rise and a fall together then cost the same in
the tables of VDD as in those of VSS: they measure one charge where it enters and where it leaves. So their mean is
taken; their sum would count it twice.
"""

from __future__ import annotations

import gzip
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tilescore.benchmarks.gates.expression import Expression
from tilescore.rtl.spec.errors import ConfigError

_STATEMENT = re.compile(
    r"""\s*(?: (?P<name>\w+) \s* (?: \( (?P<args> (?: "[^"]*" | [^()"] )* ) \) \s* (?P<open>\{)? \s* ;?
                                   | : \s* (?P<value> "[^"]*" | [^;{}\n]* ) ;? )
             | (?P<close>\}) | ; )""", re.VERBOSE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)

_AXES = {
    "input_net_transition": "slew", "input_transition_time": "slew", "constrained_pin_transition": "slew",
    "total_output_net_capacitance": "load", "related_pin_transition": "clock_slew",
}
"""What `Table.at` calls the variables of templates."""

_PREFIXES = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}


@dataclass
class Group:
    """``name (arguments) { attributes, groups }``; of an attribute given twice the last value stays."""

    name: str
    arguments: tuple[str, ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def all(self, *names: str) -> Iterator[Group]:
        """Groups directly inside that have one of these names."""
        return (group for group in self.groups if group.name in names)

    def number(self, name: str, default: float = 0.0) -> float:
        text = self.attributes.get(name)
        return default if text is None else float(text)


@dataclass(frozen=True, kw_only=True)
class Table:
    """values[i][j] at axes[0][i], axes[1][j]; names of the axes as in `_AXES`. No axes: one value."""

    axes: tuple[tuple[str, tuple[float, ...]], ...]
    values: tuple[tuple[float, ...], ...]

    def at(self, *, slew: float = 0.0, load: float = 0.0, clock_slew: float = 0.0) -> float:
        """Linear between the points, and beyond them up to the line through the last two; below the first, the first.

        slew, clock_slew in ps, load in fF.
        """
        given = {"slew": slew, "load": load, "clock_slew": clock_slew}
        places = [_place(points, given[name]) for name, points in self.axes]
        i, f = places[0] if places else (0, 0.0)
        if len(places) < 2:
            column = self.values[0]
            return column[i] + f * (column[i + 1] - column[i]) if f else column[i]
        j, g = places[1]
        low, high = (_between(self.values[row], j, g) for row in (i, i + 1 if f else i))
        return low + f * (high - low)


def _between(row: tuple[float, ...], j: int, g: float) -> float:
    return row[j] + g * (row[j + 1] - row[j]) if g else row[j]


def _place(points: tuple[float, ...], x: float) -> tuple[int, float]:
    """Index of the point before ``x`` and the fraction of the way to the next one."""
    if len(points) < 2 or x <= points[0]:
        return 0, 0.0
    i = min(bisect_right(points, x) - 1, len(points) - 2)
    return i, (x - points[i]) / (points[i + 1] - points[i])


@dataclass(frozen=True, kw_only=True)
class Power:
    """Internal energy in fJ of a transition of the pin, under the condition ``when`` ("": any). One entry for each
    supply pin; `rise` and `fall` are their means."""

    when: str
    supplies: tuple[tuple[Table, Table], ...]

    def rise(self, *, slew: float, load: float = 0.0) -> float:
        return sum(rise.at(slew=slew, load=load) for rise, _ in self.supplies) / len(self.supplies)

    def fall(self, *, slew: float, load: float = 0.0) -> float:
        return sum(fall.at(slew=slew, load=load) for _, fall in self.supplies) / len(self.supplies)


@dataclass(frozen=True, kw_only=True)
class Arc:
    """Delay (kind: Liberty's ``timing_type``) from pin ``related``: tables in ps by Liberty's names."""

    related: str
    kind: str
    tables: dict[str, Table]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """capacitance in fF. function: Liberty's text, "" if none. power: one for each condition and related pin."""

    name: str
    direction: str
    capacitance: float
    function: str
    power: tuple[Power, ...]
    arcs: tuple[Arc, ...]


@dataclass(frozen=True, kw_only=True)
class FlipFlop:
    """Names of the state and its inverse, and Liberty's functions of pins."""

    state: str
    inverse: str
    clocked_on: str
    next_state: str
    clear: str
    preset: str


@dataclass(frozen=True, kw_only=True)
class ClockGate:
    """Names of the clock pins in and out. enable: function of pins; its value before a rising edge lets the pulse pass.
    """

    clock: str
    output: str
    enable: Expression


@dataclass(frozen=True, kw_only=True)
class Cell:
    """area in the library's unit (square micrometres), leakage in nW. flip_flop and clock_gate are None for all other
    cells."""

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    flip_flop: FlipFlop | None
    clock_gate: ClockGate | None
    usable: bool

    @property
    def clock_pin(self) -> str | None:
        """Pin whose rising edge clocks the flip-flop; None if it is not a plain pin."""
        clock = self.flip_flop.clocked_on.strip("() ") if self.flip_flop else ""
        return clock if clock in self.pins else None


@dataclass(frozen=True, kw_only=True)
class Library:
    """voltage in V, temperature in degrees Celsius; corner: name of the default operating conditions."""

    name: str
    corner: str
    voltage: float
    temperature: float
    cells: dict[str, Cell]


def read_text(path: Path) -> str:
    """Text of a Liberty file. Raises `ConfigError` naming the file."""
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", errors="replace")
    except (OSError, EOFError) as error:
        raise ConfigError(f"library {path}: not readable: {error}") from None


def parse(text: str, source: str) -> Group:
    """The outermost group. Raises `ConfigError` naming ``source`` and the line."""
    text = _COMMENT.sub(lambda m: "\n" * m[0].count("\n"), text).replace("\\\r\n", " \n").replace("\\\n", " \n")
    text = text.rstrip()
    root = Group("")
    stack, position = [root], 0
    while position < len(text):
        match = _STATEMENT.match(text, position)
        if match is None or (match["close"] and len(stack) == 1):
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"library {source}: line {line}: not Liberty: {text[position:position + 40].strip()!r}")
        position = match.end()
        name = match["name"]
        if match["close"]:
            stack.pop()
        elif name and match["open"]:
            group = Group(name, tuple(part.strip(' "\n') for part in match["args"].split(",")))
            stack[-1].groups.append(group)
            stack.append(group)
        elif name:
            stack[-1].attributes[name] = match["args"] if match["value"] is None else match["value"].strip(' "\n')
    if len(stack) > 1 or [group.name for group in root.groups] != ["library"]:
        raise ConfigError(f"library {source}: expected one complete group 'library'")
    return root.groups[0]


def read_library(path: Path) -> Library:
    """Raises `ConfigError` naming the file and what is missing."""
    return library_of(parse(read_text(path), str(path)), str(path))


def library_of(group: Group, source: str) -> Library:
    """The library in a parsed file."""
    if "nom_voltage" not in group.attributes:
        raise ConfigError(f"library {source}: no nom_voltage")
    conditions = [g.arguments[0] for g in group.all("operating_conditions")]
    reader = _Reader(group, source)
    cells = {cell.name: cell for cell in map(reader.cell, group.all("cell"))}
    if not any(cell.flip_flop for cell in cells.values()):
        raise ConfigError(f"library {source}: {len(cells)} cells and no flip-flop; expected a standard-cell library")
    return Library(
        name=group.arguments[0], corner=group.attributes.get("default_operating_conditions", (conditions or [""])[0]),
        voltage=group.number("nom_voltage"), temperature=group.number("nom_temperature", 25.0), cells=cells)


class _Reader:
    """Units and templates of one file."""

    def __init__(self, group: Group, source: str) -> None:
        self._source = source
        size, unit = (part.strip(' "') for part in group.attributes.get("capacitive_load_unit", "1,pf").split(","))
        self._ff = float(size) * _PREFIXES[unit.lower().removesuffix("f")] / 1e-15
        self._ps = self._unit(group, "time_unit", "1ns", "s") / 1e-12
        self._nw = self._unit(group, "leakage_power_unit", "1nW", "w") / 1e-9
        self._fj = self._ff * self._unit(group, "voltage_unit", "1V", "v") ** 2
        self._templates = {g.arguments[0]: g for g in group.all("lu_table_template", "power_lut_template")}
        self._default_leakage = group.number("default_cell_leakage_power")

    def _unit(self, group: Group, name: str, default: str, unit: str) -> float:
        text = group.attributes.get(name, default)
        match = re.fullmatch(rf"([\d.]+)\s*([fpnum]?){unit}", text.lower())
        if match is None:
            raise ConfigError(f"library {self._source}: {name}: not a unit: {text!r}")
        return float(match[1]) * _PREFIXES[match[2]]

    def cell(self, group: Group) -> Cell:
        flip_flop = None
        for ff in group.all("ff"):
            get = ff.attributes.get
            flip_flop = FlipFlop(
                state=ff.arguments[0], inverse=ff.arguments[1], clocked_on=get("clocked_on", ""),
                next_state=get("next_state", ""), clear=get("clear", ""), preset=get("preset", ""))
        pins = {pin.name: pin for pin in map(self._pin, group.all("pin"))}
        gate = _clock_gate(group)  # often marked as not to be used, as a mapper should not choose it by its function
        return Cell(name=group.arguments[0], area=group.number("area"), leakage=self._leakage(group) * self._nw,
                    pins=pins, flip_flop=flip_flop, clock_gate=gate,
                    usable=gate is not None or group.attributes.get("dont_use") != "true")

    def _leakage(self, group: Group) -> float:
        """The cell's own figure, else the one without a condition, else the mean over conditions."""
        if "cell_leakage_power" in group.attributes:
            return group.number("cell_leakage_power")
        by_condition: dict[str, float] = {}
        for entry in group.all("leakage_power"):  # one for each supply
            when = entry.attributes.get("when", "")
            by_condition[when] = by_condition.get(when, 0.0) + entry.number("value")
        if not by_condition:
            return self._default_leakage
        return by_condition.get("", sum(by_condition.values()) / len(by_condition))

    def _pin(self, group: Group) -> Pin:
        power: dict[tuple[str, str], list[tuple[Table, Table]]] = {}
        for entry in group.all("internal_power"):
            tables = {g.name: self._table(g, self._fj) for g in entry.groups if "values" in g.attributes}
            if both := tables.get("power"):
                tables = {"rise_power": both, "fall_power": both}
            if tables:
                key = entry.attributes.get("related_pin", ""), entry.attributes.get("when", "")
                both_ways = tables.get("rise_power", _NOTHING), tables.get("fall_power", _NOTHING)
                power.setdefault(key, []).append(both_ways)
        arcs = tuple(
            Arc(related=related, kind=entry.attributes.get("timing_type", "combinational"),
                tables={g.name: self._table(g, self._ps) for g in entry.groups if g.name in _TIMING_TABLES})
            for entry in group.all("timing") for related in entry.attributes.get("related_pin", "").split())
        return Pin(name=group.arguments[0], direction=group.attributes.get("direction", ""),
                   capacitance=group.number("capacitance") * self._ff, function=group.attributes.get("function", ""),
                   power=tuple(Power(when=when, supplies=tuple(tables)) for (_, when), tables in power.items()),
                   arcs=arcs)

    def _table(self, group: Group, unit: float) -> Table:
        template = self._templates.get(group.arguments[0], Group(""))
        axes = []
        for number in (1, 2):
            points = group.attributes.get(f"index_{number}") or template.attributes.get(f"index_{number}")
            if points is None:
                break
            variable = template.attributes.get(f"variable_{number}", "")
            if variable not in _AXES:
                raise ConfigError(f"library {self._source}: table {group.arguments[0]}: unknown variable {variable!r}; "
                                  f"expected one of {', '.join(_AXES)}")
            axis = _AXES[variable]
            axes.append((axis, tuple(x * (self._ff if axis == "load" else self._ps) for x in _numbers(points))))
        numbers = _numbers(group.attributes["values"])
        width = len(axes[-1][1]) if axes else 1
        rows = tuple(tuple(x * unit for x in numbers[i:i + width]) for i in range(0, len(numbers), width))
        if len(numbers) != width * (len(axes[0][1]) if len(axes) == 2 else 1):
            raise ConfigError(f"library {self._source}: table {group.arguments[0]}: {len(numbers)} values do not fit "
                              "its axes")
        return Table(axes=tuple(axes), values=rows)


def _clock_gate(group: Group) -> ClockGate | None:
    """Of an integrated clock gate that passes high pulses."""
    if not group.attributes.get("clock_gating_integrated_cell", "").startswith("latch_posedge"):
        return None
    pins = {kind: [pin.arguments[0] for pin in group.all("pin")
                   if pin.attributes.get(f"clock_gate_{kind}_pin") == "true"]
            for kind in ("clock", "out", "enable", "test")}
    if len(pins["clock"]) != 1 or len(pins["out"]) != 1 or len(pins["enable"]) != 1:
        return None
    enable: Expression = ("name", pins["enable"][0])
    for test in pins["test"]:
        enable = ("or", enable, ("name", test))
    return ClockGate(clock=pins["clock"][0], output=pins["out"][0], enable=enable)


_NOTHING = Table(axes=(), values=((0.0,),))
_TIMING_TABLES = ("cell_rise", "cell_fall", "rise_transition", "fall_transition", "rise_constraint", "fall_constraint")


def _numbers(text: str) -> list[float]:
    return [float(x) for x in re.split(r'[\s",]+', text) if x]
