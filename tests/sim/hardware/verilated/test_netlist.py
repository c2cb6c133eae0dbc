"""Yosys's Verilog as statements, and the order in which a loop's registers change."""

from __future__ import annotations

import pytest

from tilescore.rtl.spec.errors import ToolError
from tilescore.sim.hardware.verilated import simulation_verilog
from tilescore.sim.hardware.verilated.guards import EAGER, guards, write_module
from tilescore.sim.hardware.verilated.netlist import parse
from tilescore.sim.hardware.verilated.replicas import turn_order

ADDER = """\
module top(clk, en, a, q, s);
  wire [4:0] _0_;
  wire [3:0] _1_;
  input clk;
  wire clk;
  input en;
  wire en;
  input [3:0] a;
  wire [3:0] a;
  output [3:0] q;
  reg [3:0] q = 4'h3;
  output s;
  wire s;
  wire [3:0] low;
  reg [7:0] words [15:0];
  reg [7:0] _2_;
  always @(posedge clk)
    if (en) q <= low;
  always @(posedge clk) begin
    if (en)
      words[_0_[3:0]][3:0] <= a;
  end
  always @(posedge clk) begin
    if (en) begin
      _2_ <= words[a];
    end
  end
  assign { _0_[4], low } = a + _1_;
  assign _0_[3:0] = a ^ q;
  assign _1_ = q + 4'h1;
  assign s = _0_[4];
endmodule
"""


def test_every_driver_gets_a_wire_of_its_own() -> None:
    module, = parse(ADDER)
    assert module.clock == "clk" and module.inputs == ["clk", "en", "a"] and module.outputs == ["q", "s"]
    assert "_0_" not in module.widths and "low" not in module.widths
    carry, = (name for name, value in module.wires.items() if value == "a + _1_")
    assert module.widths[carry] == 5
    assert module.wires["s"] == f"{carry}[4]"
    assert [(r.name, r.enable, r.value) for r in module.registers] == [
        ("q", "en", f"{carry}[3:0]"), ("_2_", "en", "words[a]")]
    write, = module.writes
    assert (write.memory, write.bits, write.enable, write.data) == ("words", (3, 0), "en", "a")


def test_what_only_an_enabled_register_reads_waits_for_its_enable() -> None:
    text = ADDER.replace("  assign s = _0_[4];\n", "  assign s = en;\n")
    module, = parse(text)
    found = guards(module)
    assert {guard for name, guard in found.items() if name != "s"} == {"en", "words: en"} and found["s"] == EAGER
    lines = write_module(module).splitlines()
    assert "  assign _1_ = q + 4'h1;" not in lines and "    _1_ = q + 4'h1;" in lines
    # Read before it is written, so that the write need not wait for the end of the cycle.
    read, write = (next(i for i, line in enumerate(lines) if part in line) for part in ("_2_ <= words", "words[cell_"))
    assert read < write


@pytest.mark.parametrize("statement", ["initial q = 1;", "always @* q = a;", "assign q[en] = a;"])
def test_other_verilog_is_refused(statement: str) -> None:
    with pytest.raises(ToolError, match="top: unexpected"):
        parse(ADDER.replace("  assign s", f"  {statement}\n  assign s"))


def test_two_clocks_are_refused() -> None:
    with pytest.raises(ToolError, match="two clocks"):
        parse(ADDER.replace("always @(posedge clk)\n", "always @(posedge en)\n"))


CHAIN = """\
module cell_(clk, i, o);
  input clk;
  input [7:0] i;
  output [7:0] o;
  reg [7:0] o = 8'h00;
  always @(posedge clk)
    o <= i;
endmodule
module top(clk, a, z);
  input clk;
  input [7:0] a;
  output [7:0] z;
  wire [7:0] w0;
  wire [7:0] w1;
  wire [7:0] w2;
  cell_ c0 (
    .clk(clk),
    .i({PORTS[0]}),
    .o(w0)
  );
  cell_ c1 (
    .clk(clk),
    .i({PORTS[1]}),
    .o(w1)
  );
  cell_ c2 (
    .clk(clk),
    .i({PORTS[2]}),
    .o(w2)
  );
  cell_ c3 (
    .clk(clk),
    .i({PORTS[3]}),
    .o(z)
  );
endmodule
"""


def chain(*ports: str) -> str:
    text = CHAIN
    for number, port in enumerate(ports):
        text = text.replace(f"{{PORTS[{number}]}}", port)
    return text


def test_cells_take_turns_last_one_first() -> None:
    text = simulation_verilog(chain("a", "w0", "w1", "w2"), "top")
    assert "module cell_" not in text and "for (n = 3; n >= 0; n = n - 1)" in text
    assert [f"at_i[{i}] = {source};" in text for i, source in enumerate((4, 0, 1, 2))] == [True] * 4


def test_cells_are_sorted() -> None:
    text = simulation_verilog(chain("w1", "a", "w0", "w2"), "top")
    assert [f"at_i[{i}] = {source};" in text for i, source in enumerate((4, 0, 1, 2))] == [True] * 4


def test_a_cell_that_feeds_one_before_it_cannot() -> None:
    with pytest.raises(ToolError, match=r"top: c\d feeds c\d feeds c\d: such cells cannot take turns"):
        simulation_verilog(chain("a", "w2", "w1", "w2"), "top")


def test_turns() -> None:
    assert turn_order([{"b"}, {"c"}, set()], [{"a"}, {"b"}, {"c"}], "abc") == ([0, 1, 2], {})
    assert turn_order([set(), {"a"}], [{"a"}, {"b"}], "ab") == ([1, 0], {})
    order, kept = turn_order([{"b"}, {"a"}], [{"a"}, {"b"}], "ab")  # an exchange
    assert sorted(order) == [0, 1] and kept == {order[1]: {"ab"[order[0]]}}
    with pytest.raises(ToolError, match="wait for each other"):
        turn_order([{"b"}, {"a"}], [{"a"}, {"b"}], "")
