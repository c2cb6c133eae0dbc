"""Sizes of a PE's parts beside those of the RTL, and beside what synthesis found for each format set."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Shape

from tilescore.benchmarks.area import CASES, Case
from tilescore.rtl.arith.lane_format import lane_format
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.matrix.scale_edge import scale_operand_layout
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.sim.structure import lane_bits, pe_structure, scale_bits, tile_sizes

EXACT = [case for case in CASES if case.make is ProcessingElement]
NANO = load_tile("nano")


@pytest.mark.parametrize("case", EXACT, ids=lambda case: f"{case.config.formats}-{case.config.scales}-{case.label}")
def test_widths_are_those_of_the_rtl(case: Case) -> None:
    for side in "ab":
        assert lane_bits(case.config, side) == Shape.cast(lane_format(case.config, side).shape).width
        if case.config.scales:
            assert scale_bits(case.config, side) == scale_operand_layout(case.config, side).size


def measured() -> dict[str, tuple[int, int]]:
    """{label: (flip-flops, transistors)} of exact PEs, from the page that `benchmarks/area.py` writes."""
    text = (Path(__file__).resolve().parents[2] / "benchmarks/area.md").read_text(encoding="utf-8")
    rows, labels = {}, iter(case.label for case in EXACT)
    for line in text.partition("\n## ")[0].split("\n"):
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        if len(cells) > 6 and cells[1] == "exact":
            rows[f"{next(labels)} {len(rows)}"] = int(cells[4]), int(cells[5])
    return rows


def test_sizes_of_every_format_set() -> None:
    """Registers within 3 %, transistors with them within 6 %: as in Yosys, 16 for a register, and 8 for the enable of
    all but tags, which are clocked always."""
    found = measured()
    assert len(found) == len(EXACT) > 15
    for case, (registers, transistors) in zip(EXACT, found.values(), strict=True):
        size = tile_sizes(case.config)["pe"]
        assert size.registers == pytest.approx(registers, rel=0.03), case.label
        found_in_all = size.transistors + 16 * size.registers + 8 * (size.registers - pe_structure(case.config).tags)
        assert found_in_all == pytest.approx(transistors, rel=0.06), case.label


def test_registers_are_the_sum_of_their_groups() -> None:
    pe = pe_structure(NANO)
    assert (pe.operands, pe.terms, pe.accumulator) == (2 * 8 * 8, 8 * 37 + 1, 64 + 1)
    assert pe.registers == 968


@pytest.mark.parametrize(("key", "value", "units"), [
    ("rows", 8, {"pe", "a_slice"}), ("cols", 8, {"pe", "vector", "acc", "b_slice"})])
def test_a_wider_array_has_more_units(key: str, value: int, units: set[str]) -> None:
    wider: TileConfig = replace(NANO, **{key: value, f"{'a' if key == 'rows' else 'b'}_buffer_bytes": 16384})
    before, after = tile_sizes(NANO), tile_sizes(wider)
    assert {unit for unit in before if after[unit].count == 2 * before[unit].count} == units
    assert all(after[unit].registers >= before[unit].registers > 0 for unit in before)


def test_documented_units_are_positive_on_every_preset() -> None:
    for name in ("nano", "edge", "server"):
        sizes = tile_sizes(load_tile(name))
        assert all(size.registers > 0 and size.transistors > 0 for size in sizes.values()), name
        assert re.fullmatch(r"[a-z_ ]+", " ".join(sizes))
