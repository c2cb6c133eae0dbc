"""Area of a tile: parts sum to the whole, and follow the parameters."""

from dataclasses import replace

import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.sim.area import area_of, memory_bytes
from tilescore.sim.energy import load_table
from tilescore.sim.names import TABLES
from tilescore.sim.structure import tile_sizes

NANO, EDGE = load_tile("nano"), load_tile("edge")


@pytest.mark.parametrize("name", TABLES)
def test_parts_sum_to_the_total(name: str) -> None:
    table = load_table(name)
    for config in (NANO, EDGE):
        report = area_of(config, table)
        assert sum(report.parts.values()) == pytest.approx(report.total_mm2)
        assert set(report.parts) == {*tile_sizes(config), "sram"} and min(report.parts.values()) > 0
        assert 0 < report.low_mm2 < report.total_mm2 < report.high_mm2
        assert report.to_dict()["table"] == name


def test_memories_of_nano() -> None:
    """8 KiB for each operand; four lanes of 16 banks of 16 rows of 34 bits and of 8 banks of 8 words; 128 indices; two
    pages of 32 instructions of 32 bytes."""
    assert memory_bytes(NANO) == 2 * 8192 + 4 * (16 * 16 * 34 + 8 * 8 * 32) / 8 + 4 * 128 + 2 * 32 * 32
    with_scales = replace(NANO, formats=("e2m1",), scales=("e4m3",))
    assert memory_bytes(with_scales) == memory_bytes(NANO) + 2 * 8192 / 8


def test_per_tops_is_at_the_peak_and_the_clock() -> None:
    """128 MACs a cycle at 100 MHz are 25.6 GOPS."""
    table = load_table("7nm")
    report = area_of(NANO, table)
    assert report.mm2_per_tops == pytest.approx(report.total_mm2 / 0.0256)
    assert area_of(replace(NANO, clock_mhz=200.0), table).mm2_per_tops == pytest.approx(report.mm2_per_tops / 2)
