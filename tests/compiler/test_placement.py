"""Placement: regions start at banks, do not overlap, and a full buffer is an error that says what did not fit."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tilescore.compiler.placement import AccPlacer, OperandPlacer, StatPlacer, align, places_fit
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, TILES

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def banks_of(tile: TileConfig, addr: int, rows: int, raw: bool) -> set[int]:
    """Accumulator banks that rows from ``addr`` lie in, those of all planes of raw rows."""
    first = addr >> tile.acc_offset_bits
    assert addr == tile.acc_addr(first), "regions start at a bank"
    count = -(-rows // tile.acc_bank_rows)
    planes = tile.acc_planes if raw else 1
    return {first + i + p * tile.acc_plane_banks for i in range(count) for p in range(planes)}


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.given(data=st.data())
def test_accumulator_regions_never_share_a_bank(tile: TileConfig, data: st.DataObject) -> None:
    placer, taken = AccPlacer(tile, "test"), set()
    for _ in range(8):
        rows, raw = data.draw(st.integers(1, 3 * tile.acc_bank_rows)), data.draw(st.booleans())
        try:
            region = placer.take(rows, raw=raw)
        except CompileError:
            continue
        banks = banks_of(tile, region.addr, rows, raw)
        assert region.rows == rows and not banks & taken and max(banks) < tile.acc_banks
        taken |= banks


def test_raw_regions_lie_in_plane_0_and_others_at_the_top() -> None:
    placer = AccPlacer(NANO, "test")
    assert placer.take(20).addr == NANO.acc_addr(14)
    assert placer.take(20, raw=True).addr == NANO.acc_addr(0)
    assert placer.take(16, raw=True).addr == NANO.acc_addr(2)
    assert placer.take(16).addr == NANO.acc_addr(13)


def test_all_banks_can_be_taken_and_not_one_more() -> None:
    placer = AccPlacer(SQUAT, "test")
    assert placer.take(SQUAT.acc_banks // 3 * SQUAT.acc_bank_rows, raw=True).addr == 0
    with pytest.raises(CompileError, match=r"test: no room for a tile more: 1 accumulator rows need 1 banks of 32 "
                                           r"rows; free banks: \[\]"):
        placer.take(1, what="a tile more")


def test_no_room_names_rows_and_banks() -> None:
    with pytest.raises(CompileError, match=r"test: no room for scores: 129 accumulator rows with raw partials need 18 "
                                           r"banks of 16 rows; free banks: \[0, 1, .* 15\]"):
        AccPlacer(NANO, "test").take(129, raw=True, what="scores")


@pytest.mark.parametrize("changes", [{"acc_bank_rows": 24}, {"acc_bank_rows": 16, "stat_bank_rows": 32}])
def test_banks_with_gaps_between_their_addresses_are_refused(changes: dict) -> None:
    tile = dataclasses.replace(NANO, **changes)
    with pytest.raises(CompileError, match=r"test: the compiler needs accumulator banks of a power of two of rows, at "
                                           rf"least stat_bank_rows = \d+; tile nano has acc_bank_rows = "
                                           rf"{changes['acc_bank_rows']}"):
        AccPlacer(tile, "test")


def test_statistics_banks_follow_the_accumulator_banks() -> None:
    placer = StatPlacer(EDGE, "test")
    assert [placer.take(1, "x") for _ in range(3)] == [EDGE.acc_addr(EDGE.acc_banks + i) for i in range(3)]


def test_statistics_banks_run_out() -> None:
    placer = StatPlacer(NANO, "test")
    for _ in range(NANO.stat_banks):
        placer.take(NANO.stat_bank_rows, "sums")
    with pytest.raises(CompileError, match="test: no statistics bank left for maxima: the tile has stat_banks = 8"):
        placer.take(1, "maxima")


def test_a_statistics_bank_is_not_exceeded() -> None:
    with pytest.raises(CompileError, match="test: sums needs 9 words in a statistics bank, the tile has stat_bank_rows "
                                           "= 8"):
        StatPlacer(NANO, "test").take(9, "sums")


@pytest.mark.parametrize("buffer", ["A", "B"])
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.given(sizes=st.lists(st.integers(1, 700), max_size=12))
def test_operand_regions_start_at_banks_and_do_not_overlap(tile: TileConfig, buffer: str, sizes: list[int]) -> None:
    placer, end = OperandPlacer(tile, buffer, "test"), 0
    for size in sizes:
        before = placer.free_groups
        try:
            addr = placer.take(size, "x")
        except CompileError as error:
            assert f"no room for x in buffer {buffer}: {size} groups per slice, {before} free" in str(error)
            assert size > before
            continue
        assert addr >= end and addr % placer.bank_groups == 0
        end = addr + size
        assert end <= placer.banks * placer.bank_groups == placer.free_groups + align(end, placer.bank_groups)


def test_operand_banks_must_be_adjacent_in_address_space() -> None:
    tile = dataclasses.replace(NANO, a_buffer_bytes=NANO.a_buffer_bytes // 8 * 6)
    message = "test: the compiler needs banks of a power of two of groups, at least 2, in buffer A, tile nano has "
    with pytest.raises(CompileError, match=message + "24"):
        OperandPlacer(tile, "A", "test")
    OperandPlacer(tile, "B", "test")
    with pytest.raises(CompileError, match=message + "1$"):
        OperandPlacer(dataclasses.replace(NANO, lanes=16, a_buffer_bytes=512), "A", "test")


def test_places_fit_when_they_can_be_taken_in_this_order() -> None:
    """Raw regions take banks of both planes: what is left is not in one piece."""
    plane = NANO.acc_plane_banks * NANO.acc_bank_rows
    assert places_fit(NANO, "test", [(plane, True)]) and places_fit(NANO, "test", [(2 * plane, False)])
    assert places_fit(NANO, "test", [(plane // 2, True), (plane // 2, False), (plane // 2, False)])
    assert not places_fit(NANO, "test", [(plane // 2, True), (plane, False)])


def test_align_rounds_up() -> None:
    for value, step in itertools.product(range(40), range(1, 9)):
        assert align(value, step) == min(i for i in range(0, 60, step) if i >= value)
