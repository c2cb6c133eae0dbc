"""When a tile is too small: the change that is suggested is enough, and no smaller one of that key is."""

from __future__ import annotations

import dataclasses

import pytest

from tilescore.compiler.compile import compile_layer, fitting_change
from tilescore.compiler.fit import GROWING, smallest_change
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import parse_config
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import CompileError, DoesNotFit
from tilescore.testing.random_tile import random_tile
from tilescore.tests.compiler.tiny import tiny_config

NANO = load_tile("nano")
MODEL = parse_config(tiny_config("qwen3_moe"), name="tiny", source="test")


def workload(kind: str, tokens: int = 5) -> Workload:
    return Workload(layer=(attention_layer if kind == "attention" else moe_layer)(MODEL), tokens=tokens)


@pytest.mark.parametrize(("kind", "small"), [
    ("attention", {"b_buffer_bytes": 256}),
    ("attention", {"a_buffer_bytes": 128, "a_banks": 2}),
    ("attention", {"acc_banks": 2, "stat_banks": 1}),
    ("attention", {"acc_bank_rows": 4, "stat_bank_rows": 1, "acc_banks": 2}),
    ("moe", {"a_buffer_bytes": 128, "a_banks": 2}),
    ("moe", {"acc_banks": 2, "stat_banks": 1}),
], ids=str)
def test_the_suggestion_is_enough(kind: str, small: dict[str, int]) -> None:
    tile = dataclasses.replace(NANO, **small)
    work = workload(kind)
    with pytest.raises(DoesNotFit):
        compile_layer(work, tile, data=False)
    change = fitting_change(work, tile)
    assert change is not None
    (key, value), = change.values.items()
    assert key in GROWING and value > getattr(tile, key)
    assert change.tile == dataclasses.replace(tile, **change.values)
    compile_layer(work, change.tile)
    with pytest.raises(CompileError):  # halfway is not enough, where it is a tile at all
        half = (getattr(tile, key) + value) // 2
        if half == getattr(tile, key):
            raise CompileError("the very next value")
        compile_layer(work, without_wrong_sizes(tile, key, half), data=False)


def without_wrong_sizes(tile: TileConfig, key: str, value: int) -> TileConfig:
    try:
        return dataclasses.replace(tile, **{key: value})
    except Exception as error:
        raise CompileError(str(error)) from None


def test_with_a_schedule_of_ones_own() -> None:
    """The schedule stays; the tile has to follow it."""
    compiled = compile_layer(workload("attention"), NANO, data=False)
    schedule = compiled.schedule.change("out", m_tile=4, n_tiles=64, group_tiles=64, stage_banks=0, a_resident=True,
                                        k_outer=False)
    tile = dataclasses.replace(NANO, b_buffer_bytes=4096)
    with pytest.raises(DoesNotFit):
        compile_layer(workload("attention"), tile, schedule=schedule, data=False)
    change = fitting_change(workload("attention"), tile, schedule=schedule)
    assert change is not None
    compile_layer(workload("attention"), change.tile, schedule=schedule, data=False)


def test_two_keys_where_one_is_not_enough() -> None:
    """The least growth of both, and no less of either."""
    tile, work = random_tile(145, most_bytes=1 << 17), workload("attention")
    change = fitting_change(work, tile)
    assert change is not None and str(change) == "b_buffer_bytes = 122880 and acc_banks = 4"
    compile_layer(work, change.tile, data=False)
    for key in change.values:
        with pytest.raises(CompileError):
            compile_layer(work, dataclasses.replace(change.tile, **{key: getattr(tile, key)}), data=False)


def test_two_keys_by_least_growth() -> None:
    def both(tile: TileConfig) -> None:
        if tile.b_banks < 2 * NANO.b_banks or tile.acc_banks < 4 * NANO.acc_banks:
            raise CompileError("no")

    change = smallest_change(NANO, both, both)
    assert change is not None and change.values == {"b_banks": 2 * NANO.b_banks, "acc_banks": 4 * NANO.acc_banks}


def test_none_when_no_two_keys_are_enough() -> None:
    def never(tile: TileConfig) -> None:
        raise CompileError("no")

    assert smallest_change(NANO, never, never) is None


def test_the_least_growth_wins_and_only_what_really_compiles() -> None:
    """b_banks = 8 is twice as many, acc_banks = 20 a quarter more; a schedule that does not lower is passed over."""
    def schedules(tile: TileConfig) -> None:
        if tile.b_banks < 2 * NANO.b_banks and tile.acc_banks < NANO.acc_banks + 4 and tile.a_banks == NANO.a_banks:
            raise CompileError("no")

    def compiles(tile: TileConfig) -> None:
        if tile.a_banks != NANO.a_banks:
            raise CompileError("looked good, but")

    change = smallest_change(NANO, schedules, compiles)
    assert change is not None and str(change) == f"acc_banks = {NANO.acc_banks + 4}"
