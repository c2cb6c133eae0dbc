"""The attention core: every cut into sub-tiles and key blocks is the same softmax, and the array need not wait."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.dram import Matrix
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.core import sub_tiles
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.schedule import FlashSchedule
from tilescore.rtl.spec.config import TileConfig
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, TALL, play, same_bits

LAYER = AttentionLayer(hidden=48, heads=6, kv_heads=2, head_dim=16)


def with_core(workload: Workload, tile: TileConfig, *, data: bool = True, block: int | None = None,
              **core: int) -> CompiledLayer:
    """The layer with the chosen projections and a core schedule of its own; block: default, ``kv_tile``."""
    numerics = Numerics(softmax_block=block or core["kv_tile"])
    schedule = choose_schedule(workload, tile, numerics).replace({"core": FlashSchedule(**core)})
    return compile_layer(workload, tile, schedule=schedule, data=data, numerics=numerics)


def distance_from_model(compiled: CompiledLayer) -> float:
    held = compiled.tensors
    model = quantized_layer(held, calibrate(float64_layer(held).ranges), compiled.numerics)
    return rel_rms_error(play(compiled.program), model)


@pytest.mark.parametrize("block, q_rows, kv_tile, q_tiles", [
    (16, 1, 16, 1), (16, 3, 16, 1), (16, 4, 16, 1), (16, 4, 16, 2), (16, 5, 16, 3), (16, 8, 16, 2), (16, 9, 16, 1),
    (32, 4, 32, 1), (32, 3, 32, 3), (32, 4, 16, 3), (48, 4, 48, 2), (48, 4, 32, 1), (64, 2, 64, 1), (64, 4, 16, 1),
    (64, 3, 48, 2)])
@pytest.mark.parametrize("request_", [{"tokens": 9, "context": 41}, {"tokens": 5, "context": 60, "mask": "none"}],
                         ids=["causal", "unmasked"])
def test_every_cut_is_the_same_softmax(request_: dict, block: int, q_rows: int, kv_tile: int,
                                       q_tiles: int) -> None:
    """Blocks of 16 to 64 keys of 50 or 65, whole or in pieces; with one sub-tile per pass its steps follow each other
    directly, so that what a merge reads late must not be what the next step has made. The bound is derived in
    `test_attention_layers.py`."""
    compiled = with_core(Workload(layer=LAYER, **request_), NANO, block=block, q_rows=q_rows, kv_tile=kv_tile,
                         q_tiles=q_tiles)
    assert distance_from_model(compiled) < 1e-6


@pytest.mark.parametrize("tile", [EDGE, TALL, SQUAT], ids=lambda tile: tile.name)
@pytest.mark.parametrize("rows, q_tiles", [(0.25, 1), (1, 3), (2.5, 1)])
def test_cuts_on_other_tiles(tile: TileConfig, rows: float, q_tiles: int) -> None:
    kv_tile = max(tile.bus_bytes, tile.cols, tile.lanes)
    workload = Workload(layer=dataclasses.replace(LAYER, head_dim=16 if tile is not SQUAT else 32), tokens=20,
                        context=3 * kv_tile)
    compiled = with_core(workload, tile, q_rows=int(rows * tile.rows), kv_tile=kv_tile, q_tiles=q_tiles)
    assert distance_from_model(compiled) < 1e-6


def test_rows_and_sub_tiles_change_no_bit() -> None:
    workload = Workload(layer=LAYER, tokens=9, context=41)
    cuts = [(1, 1), (4, 2), (5, 3), (9, 1)]
    results = [play(with_core(workload, NANO, q_rows=rows, kv_tile=16, q_tiles=tiles).program) for rows, tiles in cuts]
    assert all(same_bits(a, b) for a, b in itertools.pairwise(results))


# Sub-tiles ---------------------------------------------------------------------------------------------


def tiles_of(workload: Workload, q_rows: int) -> list:
    heads = LAYER.heads
    q = Matrix(0, workload.rows, 16 * heads, 16 * heads)
    return [(tile, tile.q.at(tile.first_row, tile.byte))
            for sequence in range(workload.batch) for head in range(workload.attention.kv_heads)
            for tile in sub_tiles(workload, q, 16, q_rows, sequence, head, LAYER.group)]


@pytest.mark.parametrize("q_rows", [1, 3, 4, 100])
@pytest.mark.parametrize("tokens, batch", [(7, 2), (1, 3), (4, 1)])
def test_sub_tiles_cover_every_row_of_every_head_once(tokens: int, batch: int, q_rows: int) -> None:
    workload = Workload(layer=LAYER, tokens=tokens, batch=batch, context=5)
    starts = []
    for tile, offset in tiles_of(workload, q_rows):
        assert 1 <= tile.rows <= q_rows
        starts += [offset + row * tile.q.stride for row in range(tile.rows)]
        assert tile.position >= 5 and tile.position + tile.step * (tile.rows - 1) < workload.keys
    assert sorted(starts) == [head * 16 for head in range(workload.rows * LAYER.heads)]


def test_a_single_token_is_processed_with_all_heads_of_its_group() -> None:
    for tile, _ in tiles_of(Workload(layer=LAYER, tokens=1, batch=2, context=5), 8):
        assert (tile.rows, tile.step, tile.position) == (LAYER.group, 0, 5)


# The order of work -------------------------------------------------------------------------------------


def core_labels(compiled: CompiledLayer) -> list[str]:
    wanted = ("QK", "PV", "P", "merge", "normalize output")
    return [label for label in compiled.program.labels if label in wanted or label.startswith(("load k", "load v"))]


def test_the_array_computes_the_next_scores_before_it_mixes() -> None:
    """Two sub-tiles in turn: QK(s + 1) is queued before PV(s), so that softmax and array overlap."""
    workload = Workload(layer=dataclasses.replace(LAYER, heads=2, kv_heads=1), tokens=4, context=28)
    labels = core_labels(with_core(workload, NANO, data=False, q_rows=4, kv_tile=16, q_tiles=2))
    assert [label for label in labels if label in ("QK", "PV")] == ["QK", "QK", "PV", "QK", "PV", "QK", "PV", "PV"]
    assert labels.count("merge") == 2 and labels.count("normalize output") == 2


def test_keys_are_loaded_once_for_all_sub_tiles_of_a_pass() -> None:
    workload = Workload(layer=dataclasses.replace(LAYER, heads=3, kv_heads=1), tokens=8, context=40, mask="none")
    loads = {}
    for q_tiles in (1, 2, 3, 6):
        labels = core_labels(with_core(workload, NANO, data=False, q_rows=4, kv_tile=16, q_tiles=q_tiles))
        loads[q_tiles] = sum(label.startswith("load k") for label in labels)
    assert loads == {1: 6 * 3, 2: 3 * 3, 3: 2 * 3, 6: 3}


def test_two_sub_tiles_in_turn_are_faster_than_one() -> None:
    workload = Workload(layer=AttentionLayer(hidden=16, heads=4, kv_heads=1, head_dim=64), tokens=64, mask="none")
    cycles = [time_program(with_core(workload, EDGE, data=False, q_rows=32, kv_tile=64, q_tiles=q_tiles).program).cycles
              for q_tiles in (1, 2)]
    assert cycles[1] < 0.95 * cycles[0]


@pytest.mark.parametrize("a_banks", [1, 2, 3, 4])
def test_with_few_banks_of_a_no_block_of_probabilities_is_lost(a_banks: int) -> None:
    """Of one P only, the array multiplies values before the next block's P takes its place."""
    workload = Workload(layer=LAYER, tokens=9, context=40)
    numerics, tile = Numerics(softmax_block=16), dataclasses.replace(NANO, a_banks=a_banks, a_buffer_bytes=3072)
    compiled = compile_layer(workload, tile, numerics=numerics)
    assert same_bits(play(compiled.program), play(compile_layer(workload, NANO, numerics=numerics).program))
