"""Placement of buffers: regions start at banks, share one only when they are never alive together or the memory has too
few, and a full memory is an error that says what did not fit."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tilescore.compiler.tiles.buffers import AS_MANY_AS_FIT, Buffer, Memory, align, copies_that_fit, fits, place
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import DoesNotFit
from tilescore.testing.random_tile import random_tile
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, TILES

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def acc(name: str, rows: int, **fields) -> Buffer:
    return Buffer(name=name, memory=Memory.ACC, sizes=(rows,), **fields)


def many(buffer: Buffer, copies: int) -> Buffer:
    return dataclasses.replace(buffer, least=copies, most=copies)


def banks_of(tile: TileConfig, buffer: Buffer, addr: int, size: int) -> set[int]:
    """Banks of a region, those of all planes of raw rows."""
    if buffer.memory is Memory.ACC:
        first, rows = addr >> tile.acc_offset_bits, tile.acc_bank_rows
        assert addr == tile.acc_addr(first), "regions start at a bank"
        planes = tile.acc_planes if buffer.raw else 1
        return {first + i + p * tile.acc_plane_banks for i in range(-(-size // rows)) for p in range(planes)}
    if buffer.memory is Memory.STATISTICS:
        bank = next(i for i in range(tile.stat_banks) if tile.acc_addr(tile.acc_banks + i) == addr)
        assert size <= tile.stat_bank_rows
        return {bank}
    groups = {Memory.A: tile.a_bank_groups, Memory.B: tile.b_bank_groups, Memory.INDEX: 1}[buffer.memory]
    assert addr % groups == 0
    return set(range(addr // groups, addr // groups + -(-size // groups)))


def capacity(tile: TileConfig, memory: Memory) -> int:
    return {Memory.ACC: tile.acc_banks, Memory.STATISTICS: tile.stat_banks, Memory.A: tile.a_banks,
            Memory.B: tile.b_banks, Memory.INDEX: tile.index_entries}[memory]


@st.composite
def declared(draw: st.DrawFn, tile: TileConfig) -> list[Buffer]:
    buffers = []
    for number in range(draw(st.integers(1, 9))):
        memory = draw(st.sampled_from(Memory))
        most = {Memory.ACC: 3 * tile.acc_bank_rows, Memory.STATISTICS: tile.stat_bank_rows,
                Memory.INDEX: 40}.get(memory, 200)
        least = draw(st.integers(0, 2))
        buffers.append(Buffer(
            name=f"b{number}", memory=memory, sizes=tuple(draw(st.lists(st.integers(1, most), min_size=1, max_size=2))),
            least=least, most=draw(st.sampled_from([max(1, least), 4, AS_MANY_AS_FIT])), rank=draw(st.integers(0, 1)),
            raw=memory is Memory.ACC and draw(st.booleans()),
            alive=frozenset(draw(st.sets(st.sampled_from("xyz"))))))
    return buffers


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=60)
@hypothesis.given(data=st.data())
def test_buffers_that_are_alive_together_never_share_a_bank(tile: TileConfig, data: st.DataObject) -> None:
    buffers = data.draw(declared(tile))
    if not fits(buffers, tile):
        with pytest.raises(DoesNotFit, match=r"^test: "):
            place(buffers, tile, "test", packed=False)
        return
    found, taken = place(buffers, tile, "test"), []
    for buffer in buffers:
        copies, rest = divmod(len(found[buffer.name]), len(buffer.sizes))
        assert rest == 0 and buffer.least <= copies <= buffer.most
        for addr, size in zip(found[buffer.name], buffer.sizes * copies, strict=True):
            banks = banks_of(tile, buffer, addr, size)
            assert max(banks) < capacity(tile, buffer.memory)
            for other, used in taken:
                assert other.memory is not buffer.memory or not banks & used or (
                    other is not buffer and not other.alive_with(buffer))
            taken.append((buffer, banks))
        fixed = [many(b, len(found[b.name]) // len(b.sizes) + (b is buffer)) for b in buffers]
        assert copies == buffer.most or not fits(fixed, tile), "as many as fit"


def test_raw_regions_lie_in_plane_0_and_others_at_the_top() -> None:
    found = place([acc("a", 20), acc("b", 20, raw=True), acc("c", 16, raw=True), acc("d", 16)], NANO, "test")
    assert found == {"a": [NANO.acc_addr(14)], "b": [NANO.acc_addr(0)], "c": [NANO.acc_addr(2)],
                     "d": [NANO.acc_addr(13)]}


def test_parts_follow_each_other_copy_by_copy() -> None:
    pair = Buffer(name="pair", memory=Memory.B, sizes=(NANO.b_bank_groups, 1), most=AS_MANY_AS_FIT)
    assert place([pair], NANO, "test") == {"pair": [i * NANO.b_bank_groups for i in range(NANO.b_banks)]}


def test_lower_ranks_get_more_copies_first() -> None:
    size = NANO.acc_bank_rows * 5
    first, second = acc("a", size, most=2), acc("b", size, most=2)
    counts = [[len(place(pair, NANO, "test")[name]) for name in "ab"]
              for pair in ([first, second], [dataclasses.replace(first, rank=1), second])]
    assert counts == [[2, 1], [1, 2]]


def test_buffers_of_different_times_share_and_one_of_both_does_not() -> None:
    whole = NANO.b_banks * NANO.b_bank_groups
    times = [Buffer(name=name, memory=Memory.B, sizes=(whole,), alive=frozenset({name})) for name in "xy"]
    assert place(times, NANO, "test") == {"x": [0], "y": [0]}
    always = Buffer(name="z", memory=Memory.B, sizes=(1,))
    assert not fits([*times, always], NANO) and not fits([always, times[0]], NANO)


def test_all_banks_can_be_taken_and_not_one_more() -> None:
    whole = acc("all", SQUAT.acc_banks // 3 * SQUAT.acc_bank_rows, raw=True)
    assert place([whole], SQUAT, "test") == {"all": [0]}
    with pytest.raises(DoesNotFit, match=r"^test: no room for more \(m_tile\): 1 accumulator rows need 1 banks of 32 "
                                         r"rows; free banks: \[\]$"):
        place([whole, acc("more", 1, keys="m_tile")], SQUAT, "test", packed=False)


@pytest.mark.parametrize(("buffers", "message"), [
    ([acc("scores", 129, raw=True)], r"no room for scores: 129 accumulator rows with raw partials need 18 banks of 16 "
                                     r"rows; free banks: \[0, 1, .* 15\]"),
    ([many(Buffer(name="sums", memory=Memory.STATISTICS, sizes=(8,)), 9)],
     "no statistics bank left for sums: the tile has stat_banks = 8"),
    ([Buffer(name="sums", memory=Memory.STATISTICS, sizes=(9,))],
     "sums needs 9 words in a statistics bank, the tile has stat_bank_rows = 8"),
    ([Buffer(name="lists", memory=Memory.INDEX, sizes=(100,), least=2, most=2)],
     "no room for lists: 100 indices, 28 entries free of index_entries = 128"),
    ([Buffer(name="x", memory=Memory.A, sizes=(200, 100))],
     "no room for x in buffer A: 100 groups per slice, 32 free"),
], ids=["accumulator", "statistics", "words", "index", "operands"])
def test_no_room_names_what_is_there(buffers: list[Buffer], message: str) -> None:
    assert not fits(buffers, NANO)
    with pytest.raises(DoesNotFit, match=f"^test: {message}$"):
        place(buffers, NANO, "test", packed=False)


# Banks of any depth, and packed regions ------------------------------------------------------------------

GAPS = random_tile(5, accept=lambda tile: tile.acc_banks > 8 and tile.a_banks > 3 and tile.b_banks > 3 and
                   min(tile.a_bank_groups, tile.b_bank_groups, tile.acc_bank_rows) > 8)


def test_a_region_lies_in_one_bank_where_addresses_have_gaps() -> None:
    """Banks of 24 rows are 32 addresses apart, those of 24 groups too."""
    tile = dataclasses.replace(NANO, acc_bank_rows=24, a_buffer_bytes=NANO.a_buffer_bytes // 8 * 6)
    assert (tile.a_bank_groups, tile.acc_offset_bits) == (24, 5)
    a = Buffer(name="x", memory=Memory.A, sizes=(24,), most=AS_MANY_AS_FIT)
    assert place([acc("y", 24, raw=True), a], tile, "test") == {"y": [0], "x": [32 * i for i in range(tile.a_banks)]}
    assert not fits([acc("y", 25)], tile, packed=True) and not fits([dataclasses.replace(a, sizes=(25,))], tile, True)


@pytest.mark.parametrize("tile", [NANO, SQUAT, GAPS], ids=["nano", "squat", "gaps"])
@hypothesis.settings(max_examples=25)
@hypothesis.given(data=st.data())
def test_packed_regions_are_apart_and_what_is_read_together_in_other_banks(tile: TileConfig,
                                                                           data: st.DataObject) -> None:
    names = st.frozensets(st.sampled_from([f"b{i}" for i in range(9)]))
    buffers = [dataclasses.replace(b, beside=data.draw(st.none() | names), few=data.draw(st.none() | st.just(0)))
               for b in data.draw(declared(tile))]
    buffers = [dataclasses.replace(b, sizes=tuple(align(s, tile.bus_bytes // 4) for s in b.sizes))
               if b.memory is Memory.INDEX else b for b in buffers]
    if not fits(buffers, tile, packed=True):
        with pytest.raises(DoesNotFit, match=r"^test: "):
            place(buffers, tile, "test")
        return
    found, taken = place(buffers, tile, "test"), []
    for buffer in buffers:
        copies = len(found[buffer.name]) // len(buffer.sizes)
        assert copies >= (buffer.least if buffer.few is None else min(buffer.least, buffer.few))
        for addr, size in zip(found[buffer.name], buffer.sizes * copies, strict=True):
            own = {place_ for plane in range(tile.acc_planes if buffer.raw else 1)
                   for place_ in places(tile, buffer.memory, addr + plane * tile.acc_addr(tile.acc_plane_banks), size)}
            for other, used in taken:
                if buffer.alive_with(other) and {m for m, _, _ in used} == {m for m, _, _ in own}:
                    assert own.isdisjoint(used)
                    if buffer.read_with(other):
                        assert {bank for _, bank, _ in own}.isdisjoint({bank for _, bank, _ in used})
            taken.append((buffer, own))


def places(tile: TileConfig, memory: Memory, addr: int, size: int) -> set[tuple[str, int, int]]:
    """(memory, bank, offset) of every address of a region; each must exist."""
    if memory is Memory.INDEX:
        assert addr % (tile.bus_bytes // 4) == 0 and addr + size <= tile.index_entries
        return {("index", 0, i) for i in range(addr, addr + size)}
    if memory in (Memory.ACC, Memory.STATISTICS):
        bits, name = tile.acc_offset_bits, "rows"
    else:
        bits, name = (tile.a_offset_bits if memory is Memory.A else tile.b_offset_bits), memory.name
    found = {(name, i >> bits, i & (1 << bits) - 1) for i in range(addr, addr + size)}
    for _, bank, offset in found:
        depth = {"rows": tile.acc_bank_depth(bank), "A": tile.a_bank_groups, "B": tile.b_bank_groups}[name]
        count = {"rows": tile.acc_banks + tile.stat_banks, "A": tile.a_banks, "B": tile.b_banks}[name]
        assert offset < depth and bank < count
    return found


def test_statistics_lie_among_accumulators_and_rows_among_statistics_where_there_is_no_other_place() -> None:
    few = dataclasses.replace(NANO, stat_banks=1, acc_banks=4)
    sums = [Buffer(name=name, memory=Memory.STATISTICS, sizes=(2,), beside=frozenset({"a"})) for name in "abc"]
    found = place([acc("rows", 16), *sums], few, "test")
    assert found == {"rows": [few.acc_addr(3)], "a": [few.acc_addr(4)], "b": [few.acc_addr(2)],
                     "c": [few.acc_addr(2, 2)]}
    rows = [acc(name, 8) for name in "abcde"]
    assert place(rows, few, "test")["e"] == [few.acc_addr(4)]


def test_statistics_banks_follow_the_accumulator_banks() -> None:
    found = place([many(Buffer(name="x", memory=Memory.STATISTICS, sizes=(1,)), 3)], EDGE, "test")
    assert found == {"x": [EDGE.acc_addr(EDGE.acc_banks + i) for i in range(3)]}


@pytest.mark.parametrize("most", [1, 3, 4, AS_MANY_AS_FIT])
@pytest.mark.parametrize("banks", [1, 2, 3, 5])
def test_copies_that_fit(banks: int, most: int) -> None:
    buffer = Buffer(name="x", memory=Memory.B, sizes=(banks * NANO.b_bank_groups,), most=most)
    assert copies_that_fit(buffer, NANO, "test") == min(most, NANO.b_banks // banks)


def test_align_rounds_up() -> None:
    for value, step in itertools.product(range(40), range(1, 9)):
        assert align(value, step) == min(i for i in range(0, 60, step) if i >= value)
