"""Heads of any even size, with and without QK-norm: the same result on every tile that has room."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.head_sizes import blocked_head, mixed_head, rotated_head, spread_heads
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.errors import DoesNotFit
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL, play, same_bits
from tilescore.tests.compiler.test_format_matrix import WIDER

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="Verilator level: missing " + ", ".join(missing_for_verilator()))

SIZES = (2, 6, 10, 24, 40, 48, 80, 96, 100, 112, 120, 160, 192, 256, 320, 512)
TILES = (NANO, EDGE, SERVER, SQUAT, TALL)
BASE = AttentionLayer(hidden=24, heads=4, kv_heads=2, head_dim=16)

FP32_ROUNDINGS = 1e-6
"""Of the largest output, without a code that they move to its neighbour: none does for these seeds."""


def layer_of(head_dim: int, norm: Any) -> AttentionLayer:
    return dataclasses.replace(BASE, head_dim=head_dim, qk_norm=norm, softmax_scale=None)


# Sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile, head_dim, norm, width", [
    (SERVER, 64, "none", 64), (SERVER, 80, "none", 128), (SERVER, 40, "none", 64), (SERVER, 128, "none", 128),
    (SERVER, 160, "none", 256), (SERVER, 64, "head", 128), (SERVER, 2, "full", 128),
    (EDGE, 2, "none", 2), (EDGE, 6, "none", 8), (EDGE, 80, "none", 96), (EDGE, 96, "none", 96), (EDGE, 8, "full", 16),
    (NANO, 2, "none", 16), (NANO, 80, "none", 80), (NANO, 24, "none", 32), (SQUAT, 10, "none", 16),
])
def test_columns_of_a_head(tile: TileConfig, head_dim: int, norm: Any, width: int) -> None:
    """Derived by hand: the next power of two up to the columns (all of them with a norm), or two halves of whole column
    tiles and groups."""
    assert rotated_head(head_dim, tile, alone=norm != "none") == width


def test_zeros_lie_behind_each_half() -> None:
    rows = np.arange(1, 13, dtype=np.uint8).reshape(12, 1)
    assert spread_heads(rows, np.arange(6), 8)[:, 0].tolist() == [1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9, 0, 10, 11, 12, 0]
    assert spread_heads(rows[:, :0], np.arange(6), 8).shape == (16, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_bus_needs_more_than_the_widest(preset: str) -> None:
    """What the headroom of the output projection is made for."""
    formats = PRESETS[preset]
    for head_dim in range(2, 514, 2):
        found = [mixed_head(head_dim, bus, formats) for bus in (8, 16, 32, 64)]
        assert found == sorted(found) and found[0] >= blocked_head(head_dim, formats) >= head_dim


# Results -----------------------------------------------------------------------------------------------


def same_on_all(layer: AttentionLayer, tiles: tuple[TileConfig, ...], numerics: Numerics, refused: set[str]) -> None:
    workload = Workload(layer=layer, tokens=3, context=5)
    held = synthetic(workload, 1)
    model = quantized_layer(held, calibrate(float64_layer(held).ranges, numerics), numerics)
    results = []
    for tile in tiles:
        if tile.name in refused:
            with pytest.raises(DoesNotFit, match=f"no tiling of .* fits tile {tile.name}: .*accumulator buffer"):
                compile_layer(workload, tile, tensors=held, numerics=numerics)
            continue
        results.append(play(compile_layer(workload, tile, tensors=held, numerics=numerics).program))
        assert rel_rms_error(results[-1], model) < FP32_ROUNDINGS
    assert all(same_bits(a, b) for a, b in itertools.pairwise(results))


@pytest.mark.parametrize("head_dim, norm", [(size, "none") for size in SIZES] + [
    (size, norm) for size in (2, 24, 80, 112, 256, 512) for norm in ("head", "full")])
def test_any_size_is_the_quantized_layer_on_every_tile(head_dim: int, norm: Any) -> None:
    """nano's accumulator buffer has 256 rows: not three times half a head beside two heads of 128 column tiles."""
    same_on_all(layer_of(head_dim, norm), TILES, Numerics(), {"nano"} if head_dim >= 512 else set())


@pytest.mark.parametrize("preset", ["mxfp8", "nvfp4", "w4a8-mxfp4", "deepseek", "deepseek-ue8m0"])
@pytest.mark.parametrize("head_dim, norm", [(6, "full"), (40, "head"), (100, "none"), (160, "none")])
def test_blocks_of_any_head_are_the_same_on_every_tile(head_dim: int, norm: Any, preset: str) -> None:
    same_on_all(layer_of(head_dim, norm), tuple(WIDER.values()), Numerics(formats=PRESETS[preset]), set())


@needs_verilator
@pytest.mark.sampled
@pytest.mark.parametrize("head_dim, norm", [(6, "none"), (24, "head"), (10, "full"), (40, "full")])
def test_any_size_is_exact_in_the_rtl(head_dim: int, norm: Any) -> None:
    workload = Workload(layer=layer_of(head_dim, norm), tokens=5, context=3)
    result = simulate(compile_layer(workload, NANO, seed=2).program, ("reference", "timing", "rtl"))
    assert result.rtl is not None and result.rtl.cycles == result.cycles
    assert result.levels["rtl"].result_sha256 == result.levels["reference"].result_sha256


# The norm over the whole projection ----------------------------------------------------------------------


@pytest.mark.parametrize("tile", [NANO, EDGE, SERVER], ids=["nano", "edge", "server"])
def test_groups_do_not_change_a_norm_over_the_whole_projection(tile: TileConfig) -> None:
    """Groups of one head to all heads (then none waits in DRAM), blocks of one row to all: equal bits, since the sums
    of the heads are added head by head."""
    workload = Workload(layer=dataclasses.replace(layer_of(tile.cols if tile.cols > 8 else 16, "full"), heads=8),
                        tokens=5)
    tensors, base = synthetic(workload, 3), choose_schedule(workload, tile)
    head = max(1, rotated_head(workload.attention.head_dim, tile, alone=True) // tile.cols)
    results, waiting = [], set()
    for heads, rows in ((1, 5), (2, 3), (4, 1), (8, 1)):
        other = base.change("q", group_tiles=max(base["q"].group_tiles, heads * head), m_tile=rows, n_tiles=1,
                            stage_banks=2)
        program = compile_layer(workload, tile, tensors=tensors, schedule=other).program
        waiting.add(program.labels.count("load q before norm"))
        results.append(play(program))
    assert all(same_bits(a, b) for a, b in itertools.pairwise(results)) and len(waiting) > 2 and 0 in waiting


def test_the_mean_is_over_all_heads() -> None:
    """One head a hundred times as large as the others: a norm per head would make all of them equal."""
    workload = Workload(layer=layer_of(16, "full"), tokens=4)
    held = synthetic(workload, 1)
    wq = held.wq.copy()
    wq[:16] *= 100
    held = held.replace(wq=wq)
    program = compile_layer(workload, EDGE, tensors=held).program
    dram = run_reference(program).dram
    segment = next(s for s in program.segments if s.name == "q")
    codes = decode_e4m3_float(dram[segment.addr:segment.addr + segment.size]).reshape(4, 4, 32)[:, :, :16]
    sizes = np.sqrt((codes**2).mean(axis=(0, 2)))
    assert sizes[0] > 30 * sizes[1:].max()


@pytest.mark.parametrize("norm", ["head", "full"])
def test_weights_that_a_statistics_bank_does_not_hold_come_in_pieces(norm: Any) -> None:
    """32 words of a head in a bank of 8, on nano; a bank of 32 holds them whole. The bits are the same."""
    workload = Workload(layer=dataclasses.replace(layer_of(128, norm), heads=2, kv_heads=1), tokens=3)
    tensors = synthetic(workload, 1)
    results, loads = [], []
    for words in (8, 64):
        tile = dataclasses.replace(NANO, stat_bank_rows=words, acc_bank_rows=64)
        program = compile_layer(workload, tile, tensors=tensors).program
        loads.append(program.labels.count("q norm weights"))
        results.append(play(program))
    assert same_bits(*results) and loads[0] >= 8 > loads[1] == 1
