"""Comparisons: the rows, what is said of a growth, limits; equal figures in text, Markdown and JSON."""

from __future__ import annotations

import copy
import json
import re

import pytest

from tilescore.compiler.comparison import LIMITED, compare, exceeded, growth, parse_limits
from tilescore.compiler.comparison_text import markdown, number, text
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import parse_format
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.provenance import REQUIRED, check_report
from tilescore.compiler.report import report_compiled
from tilescore.rtl.spec.errors import CompileError, ConfigError, ProgramError
from tilescore.tests.compiler.play import EDGE, NANO

ATTENTION = Workload(layer=AttentionLayer(model="tiny", hidden=64, heads=4, kv_heads=2, head_dim=16), tokens=9, batch=2)
MOE = Workload(layer=MoELayer(model="tiny", hidden=48, experts=4, top_k=2, intermediate=16, norm_topk=True), tokens=7)
NUMERICS = Numerics(softmax_block=16)


def compiled(workload: Workload = ATTENTION, **options) -> CompiledLayer:
    return compile_layer(workload, options.pop("tile", NANO), data=False, numerics=options.pop("numerics", NUMERICS),
                         **options)


@pytest.fixture(scope="module")
def base() -> dict:
    return report_compiled(compiled())


def worse() -> CompiledLayer:
    """The attention layer with fewer rows at a time in the output projection, so that its weights are read again."""
    return compiled(schedule=compiled().schedule.change("out", m_tile=4))


def test_every_quantity_of_the_report_is_a_row(base: dict) -> None:
    comparison = compare([base, base], ["a", "b"])
    assert comparison.row("cycles").values == (base["cycles"],) * 2
    assert comparison.row("dram_bytes").values[0] == base["dram_bytes"]["read"] + base["dram_bytes"]["write"]
    assert comparison.row("energy.total_pj").values[0] == base["energy"]["total_pj"]
    by_section = {section: [row for row in comparison.rows if row.section == section] for section in (
        "phases", "critical path", "ledger", "energy")}
    assert sum(row.values[0] for row in by_section["phases"] if row.name.endswith(".cycles")) == base["cycles"]
    assert sum(row.values[0] for row in by_section["critical path"]) == base["cycles"]
    assert sum(row.values[0] for row in by_section["energy"]) == pytest.approx(base["energy"]["total_pj"])
    assert len(by_section["ledger"]) == sum(len(causes) for causes in base["ledger"].values())
    assert not any(row.differs for row in comparison.rows) and set(comparison.partings) == {None}
    assert comparison.schedules == ((), ()) and comparison.notes == ()


def test_a_worse_schedule(base: dict) -> None:
    report = report_compiled(worse())
    comparison = compare([base, report], ["auto", "mine"])
    assert report["cycles"] > base["cycles"]
    assert comparison.row("cycles").change(1) == report["cycles"] - base["cycles"]
    assert [line.partition(":")[0] for line in comparison.schedules[1]] == ["out.m_tile"]
    phase, _, cycles = growth(comparison)[0]
    assert phase == "out" and cycles > 0
    parting = comparison.partings[1]
    assert parting is not None and "phase out" in str(parting)
    shown = text(comparison)
    for part in ("the growth of cycles comes from the", "in phase out", "schedule, auto -> mine: out.m_tile"):
        assert part in shown
    back = compare([report, base], ["mine", "auto"])
    assert "the growth of cycles comes from" not in text(back)


def test_tables_show_the_rows(base: dict) -> None:
    """The numbers in text and Markdown are those of JSON, row by row."""
    comparison = compare([base, report_compiled(worse())], ["auto", "mine"])
    values = json.loads(json.dumps(comparison.to_dict()))
    rows = [row for row in values["rows"] if row["section"] == "totals" or row["values"][0] != row["values"][1]]
    for shown, pattern in ((text(comparison), r"^  {name}  +{old}  +{new}(  |$)"),
                           (markdown(comparison), r"^\| {name} \| {old} \| {new} \|")):
        for row in rows:
            label = f"{row['name']} [{row['unit']}]" if row["unit"] else row["name"]
            cells = {"name": label, **dict(zip(("old", "new"), (number(v, row["unit"]) for v in row["values"]),
                                               strict=True))}
            assert re.search(pattern.format(**{k: re.escape(v) for k, v in cells.items()}), shown, re.M), label
        for row in values["rows"]:
            if row["section"] == "ledger" and row["values"][0] == row["values"][1]:
                assert f" {row['name']} [" not in shown


def test_more_than_two(base: dict) -> None:
    reports = [base, report_compiled(worse()), report_compiled(compiled(tile=EDGE))]
    comparison = compare(reports, ["a", "b", "c"])
    assert comparison.row("cycles").values == tuple(report["cycles"] for report in reports)
    assert dict(comparison.settings)["tile"] == ("nano", "nano", "edge")
    assert text(comparison).count("change") == markdown(comparison).count("change")


def test_layers_of_different_kinds_are_compared_and_said(base: dict) -> None:
    comparison = compare([base, report_compiled(compiled(MOE))], ["attention", "moe"])
    assert "moe is another workload than attention" in comparison.notes
    assert comparison.row("experts.cycles").values[0] == 0 and comparison.row("core.cycles").values[1] == 0


def test_another_numeric_definition_is_said(base: dict) -> None:
    other = report_compiled(compiled(numerics=Numerics(softmax_block=32)))
    assert any("numeric definition" in note for note in compare([base, other], ["a", "b"]).notes)
    edge = [report_compiled(compiled(tile=EDGE, numerics=Numerics(formats=parse_format(name), softmax_block=32)))
            for name in ("e4m3", "nvfp4")]
    assert any("numeric definition" in note for note in compare(edge, ["a", "b"]).notes)


def test_another_version_is_said(base: dict) -> None:
    assert "old was made by tilescore 0.0.9, now by" in " ".join(
        compare([base, base | {"tilescore": "0.0.9"}], ["now", "old"]).notes).replace("now by", "now by", 1)


def test_a_notebook_shows_the_rows(base: dict) -> None:
    other = report_compiled(worse())
    shown = compare([base, other], ["a <base>", "other"])._repr_html_()
    assert "a &lt;base&gt;" in shown and "<base>" not in shown
    found = {cells[0]: cells[1:] for cells in (re.findall(r"<td[^>]*>(.*?)</td>", row)
                                               for row in re.findall(r"<tr>.*?</tr>", shown)) if cells}
    for name, values in (("cycles [cycles]", [report["cycles"] for report in (base, other)]),
                         ("energy.total_pj [pJ]", [report["energy"]["total_pj"] for report in (base, other)])):
        assert found[name][:2] == [f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" for value in values]
    assert "schedule" in shown and "out.m_tile: " in shown


def test_one_report_is_not_a_comparison(base: dict) -> None:
    with pytest.raises(CompileError, match="at least two reports, got 1"):
        compare([base], ["a"])


def test_a_damaged_timeline_is_named(base: dict) -> None:
    with pytest.raises(ProgramError, match=r"^b: timeline: columns cannot be unpacked"):
        compare([base, base | {"timeline": base["timeline"] | {"columns": "x"}}], ["a", "b"])


# Limits ------------------------------------------------------------------------------------------------


def test_limits() -> None:
    assert parse_limits("cycles:0%, energy:1.5%") == {"cycles": 0.0, "energy": 0.015}
    assert parse_limits("bytes:100%") == {"bytes": 1.0}


@pytest.mark.parametrize("wrong", ["", "cycles", "cycles:", "cycles:1", "cycles:-1%", "cycles:x%", "time:1%",
                                   "cycles:inf%", "cycles:nan%", "cycles:1%,cycles:2%", "cycles:1%,"])
def test_wrong_limits(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"^limit "):
        parse_limits(wrong)


@pytest.mark.parametrize("name", LIMITED)
def test_a_limit_holds_to_the_last_unit(base: dict, name: str) -> None:
    """Growth by one cycle, byte or picojoule exceeds 0 %; equal and smaller ones do not."""
    for step, fails in ((1, True), (0, False), (-1, False)):
        other = copy.deepcopy(base)
        if name == "cycles":
            other["cycles"] += step
        elif name == "bytes":
            other["dram_bytes"]["read"] += step
        else:
            other["energy"]["total_pj"] += step
        comparison = compare([base, other], ["a", "b"])
        assert [found.name for found in exceeded(comparison, {name: 0.0})] == [name] * fails
        assert exceeded(comparison, {name: 0.5}) == []


# Reports -----------------------------------------------------------------------------------------------


def test_a_report_is_accepted_and_a_damaged_one_is_named(base: dict) -> None:
    check_report(json.loads(json.dumps(base)), "r.json")
    for key in REQUIRED:
        for wrong in (base | {key: None}, {k: v for k, v in base.items() if k != key}):
            with pytest.raises(ConfigError, match=f"^r.json: not the report of a layer: {key}"):
                check_report(wrong, "r.json")
    for key, value in (("phases", []), ("phases", [{}]), ("phases", [1]), ("critical_path", {}),
                       ("ledger", {"load": 3}), ("critical_path", {"k": {"load": "x"}}), ("dram_bytes", {}),
                       ("energy", {"total_pj": 1})):
        with pytest.raises(ConfigError, match=r"^r.json: not the report of a layer: "):
            check_report(base | {key: value}, "r.json")
    with pytest.raises(ConfigError, match="expected the report of a layer, an object"):
        check_report([base], "r.json")
