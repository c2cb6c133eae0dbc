"""Passes over Yosys's text, on small texts; that they change no behaviour is the business of test_export.py."""

from __future__ import annotations

import re

import pytest

from tilescore.rtl.export.verilog_text import KEYWORDS, PortText, document_top, merge_equal_modules, plain_names

TEXT = r"""/* Generated */

module top(a, \b$1 , q);
  reg \$auto$verilog_backend.cc:2355:dump_module$3  = 0;
  wire \$1 ;
  wire [3:0] \begin ;
  wire b_1;
  wire \s.valid ;
  wire \s[0].valid ;
  input a;
  wire a;
  input [3:0] \b$1 ;
  wire [3:0] \b$1 ;
  output q;
  reg q = 1'h0;
  assign \$1  = ~ a;
  \top.x  x (
    .in(a),
    .\port$7$0 (\b$1 )
  );
  \top.y  y (
    .\port$7$0 (\begin ),
    .in(\s.valid )
  );
endmodule

module \top.x (in, \port$7$0 );
  reg \$auto$verilog_backend.cc:2355:dump_module$4  = 0;
  input in;
  wire in;
  input [3:0] \port$7$0 ;
  wire [3:0] \port$7$0 ;
endmodule

module \top.y (\port$7$0 , in);
  reg \$auto$verilog_backend.cc:2355:dump_module$5  = 0;
  input in;
  wire in;
  input [3:0] \port$7$0 ;
  wire [3:0] \port$7$0 ;
endmodule
"""


def test_plain_names() -> None:
    """No backslash is left, no two names became one, keywords and names in use are avoided."""
    text = plain_names(TEXT)
    assert "\\" not in text
    for new in ("wire n1;", "[3:0] begin_2;", "b_1_2", "wire s_valid;", "wire s_0_valid;",
                "module top_x(in, port_7_0);", "reg always_trigger;\n  initial always_trigger = 0;",
                ".port_7_0(b_1_2)"):
        assert new in text, new
    identifiers = set(re.findall(r"^  (?:wire|reg)(?: \[3:0\])? (\w+)", text, re.MULTILINE))
    assert not identifiers & KEYWORDS
    assert plain_names(text) == text


def test_equal_modules_are_merged() -> None:
    """x and y differ in name and port order only; both instances become ``top_x`` (``top`` itself is taken)."""
    text, became = merge_equal_modules(plain_names(TEXT), "top")
    assert re.findall(r"^module (\w+)", text, re.MULTILINE) == ["top", "top_x"]
    assert "  top_x x (" in text and "  top_x y (" in text and "top_y" not in text
    assert became == {"top": "top", "top_x": "top_x", "top_y": "top_x"}


def test_trees_merge_from_the_leaves() -> None:
    """Parents become equal when their children have."""
    def leaf(name: str) -> str:
        return f"module {name}(i);\n  input i;\nendmodule\n\n"

    def parent(name: str, child: str) -> str:
        return f"module {name}(i);\n  input i;\n  {child} leaf (\n    .i(i)\n  );\nendmodule\n\n"

    top = "module t();\n  a_read_timer x (\n    .i(i)\n  );\n  a_write_timer y (\n    .i(i)\n  );\nendmodule\n\n"
    text = top + parent("a_read_timer", "leaf1") + parent("a_write_timer", "leaf2") + leaf("leaf1") + leaf("leaf2")
    merged, _ = merge_equal_modules(text, "t")
    assert re.findall(r"^module (\w+)", merged, re.MULTILINE) == ["t", "a_timer", "leaf1"]
    assert "  a_timer x (" in merged and "  a_timer y (" in merged and "  leaf1 leaf (" in merged


def test_modules_that_differ_stay() -> None:
    text = plain_names(TEXT.replace("module \\top.y (\\port$7$0 , in);", "module \\top.y (\\port$7$0 , in, extra);"))
    assert merge_equal_modules(text, "top")[0] == text


def test_documented_top() -> None:
    """Ports in the given order, one per line, attributes before their declarations; other modules untouched."""
    ports = [PortText("q", (("X", "one"), ("Y", "two"))), PortText("a"), PortText("b_1_2")]
    text = plain_names(TEXT)
    result = document_top(text, "top", ports)
    assert "module top(\n  q,\n  a,\n  b_1_2\n);\n" in result
    assert '  (* X = "one" *)\n  (* Y = "two" *)\n  output q;\n' in result
    assert result[result.index("module top_x"):] == text[text.index("module top_x"):]
    with pytest.raises(ValueError, match=r"ports of top: \['q', 'r'\] differ"):
        document_top(text, "top", [PortText("r"), *ports[1:]])
    with pytest.raises(ValueError, match="no module elsewhere"):
        document_top(text, "elsewhere", ports)
