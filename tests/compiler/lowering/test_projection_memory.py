"""Scales and DRAM layout of attention layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.graph.calibrate import Scales, calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.kernels.heads import rotary_lanes
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.plan import layer_plan
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL, TILES

LAYER = AttentionLayer(hidden=40, heads=6, kv_heads=2, head_dim=16, qk_norm="head")
WORKLOAD = Workload(layer=LAYER, tokens=5, context=7, batch=2)


def segments_of(workload: Workload, tile: TileConfig, tensors: LayerTensors | None) -> dict[str, np.ndarray | None]:
    """{name: bytes} of what `lay_out` allocates."""
    builder = ProgramBuilder(tile)
    scales = Scales() if tensors is None else calibrate(float64_layer(tensors).ranges)
    steps = layer_plan(workload, tile)
    steps.lay_out(builder, steps.schedule(), scales, tensors)
    return {segment.name: segment.bytes_() for segment in builder.segments}


def held_of(workload: Workload) -> LayerTensors:
    held = synthetic(workload, 2)
    return held


def test_scales_put_the_largest_value_on_the_largest_code() -> None:
    """amax / 448 of weights and input; of activations in the float64 layer, cached keys and values included."""
    held = held_of(WORKLOAD)
    trace = float64_layer(held)
    scales = calibrate(trace.ranges)
    for name in ("x", "wq", "wk", "wv", "wo"):
        assert scales[name] == np.float32(np.abs(getattr(held, name)).max() / np.float32(448))
    assert scales["q"] == pytest.approx(np.abs(trace.values["q"]).max() / 448, rel=1e-6)
    for name, cache in (("k", held.k_cache), ("v", held.v_cache)):
        largest = max(np.abs(trace.values[name]).max(), np.abs(cache).max())
        assert scales[name] == pytest.approx(largest / 448, rel=1e-6)
    assert scales["mixed"] == pytest.approx(np.abs(trace.values["mixed"]).max() / 448, rel=1e-6)
    assert scales["q projected"] == pytest.approx(np.abs(held.x @ held.wq.T).max(), rel=1e-6)


def test_a_large_cache_widens_the_scale() -> None:
    held = held_of(WORKLOAD)
    cache = held.k_cache.copy()
    cache[1, 0, 3, 5] = -1000
    changed = held.replace(k_cache=cache)
    assert calibrate(float64_layer(changed).ranges)["k"] == np.float32(1000 / 448)


@pytest.mark.parametrize("norm", ["none", "head"])
def test_zero_tensors_have_scale_one(norm: Any) -> None:
    """And so has what a norm takes in, which only a layer with norms has a range of."""
    workload = Workload(layer=dataclasses.replace(LAYER, qk_norm=norm), tokens=2)
    held = held_of(workload)
    zero = held.replace(x=np.zeros_like(held.x), wq=np.zeros_like(held.wq))
    scales = calibrate(float64_layer(zero).ranges)
    assert [scales[name] for name in ("x", "wq", "q", "mixed")] == [1] * 4
    assert ("q projected" in scales) == (norm != "none") and scales.get("q projected", 1) == 1


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_timing_needs_no_data_and_the_same_places(tile: TileConfig) -> None:
    """Without tensors: equal names and sizes; only the rotary tables, which are no data, are made."""
    workload = dataclasses.replace(WORKLOAD, layer=dataclasses.replace(LAYER, head_dim=4 * tile.cols))
    places = []
    for tensors in (None, held_of(workload)):
        builder = ProgramBuilder(tile)
        steps = layer_plan(workload, tile)
        steps.lay_out(builder, steps.schedule(), Scales(), tensors)
        places.append([(s.name, s.addr, s.size) for s in builder.segments])
    assert places[0] == places[1]
    made = [name for name, data in segments_of(workload, tile, None).items() if data is not None]
    assert made == ["cos", "sin"]


def test_rows_of_codes_are_padded_with_zeros() -> None:
    segments = segments_of(WORKLOAD, EDGE, held_of(WORKLOAD))
    x, wo = segments["x"], segments["wo"]
    assert x is not None and wo is not None
    assert not x.reshape(10, 64)[:, 40:].any() and x.reshape(10, 64)[:, :40].any(axis=1).all()
    # Heads of 16 features take 32 bytes each, a bus beat.
    wide = wo.reshape(40, 6, 32)
    assert not wide[:, :, 16:].any() and wide[:, :, :16].any(axis=1).all()


def test_the_value_cache_is_transposed_and_padded() -> None:
    held = held_of(WORKLOAD)
    scales = calibrate(float64_layer(held).ranges)
    segments = segments_of(WORKLOAD, NANO, held)
    for sequence in range(2):
        v, k = segments[f"v_cache.{sequence}"], segments[f"k_cache.{sequence}.1"]
        assert v is not None and k is not None
        values = decode_e4m3_float(v.reshape(2, 16, 16)) * scales["v"]
        assert np.allclose(values[:, :, :7], held.v_cache[sequence].transpose(0, 2, 1), atol=scales["v"] * 16)
        assert not values[:, :, 7:].any()
        keys = decode_e4m3_float(k.reshape(12, 16)) * scales["k"]
        assert np.allclose(keys[:7], held.k_cache[sequence, 1], atol=scales["k"] * 16) and not keys[7:].any()


@pytest.mark.parametrize("tile, head_dim, lanes", [(NANO, 16, 8), (EDGE, 16, 16), (EDGE, 64, 32), (SERVER, 64, 128),
                                                   (SERVER, 128, 128), (SERVER, 256, 128), (TALL, 16, 32)])
def test_rotary_rows_are_half_a_head_or_all_columns(tile: TileConfig, head_dim: int, lanes: int) -> None:
    assert rotary_lanes(head_dim, tile.cols) == lanes


@pytest.mark.parametrize("tile, head_dim", [(NANO, 16), (EDGE, 16), (EDGE, 8), (SQUAT, 16), (SQUAT, 64)])
def test_rotary_tables_hold_the_angles_of_every_row(tile: TileConfig, head_dim: int) -> None:
    """Position context + token for each sequence; sines of a head in one tile are negative in its low half."""
    layer = dataclasses.replace(LAYER, head_dim=head_dim, qk_norm="none")
    workload = dataclasses.replace(WORKLOAD, layer=layer)
    segments = segments_of(workload, tile, None)
    width, half = rotary_lanes(head_dim, tile.cols), head_dim // 2
    positions = np.array([7, 8, 9, 10, 11] * 2)
    angle = positions[:, None] * layer.rope_theta ** (-np.arange(half) / half)
    wide = head_dim > tile.cols
    repeat = 1 if wide else tile.cols // head_dim
    cos = np.cos(angle) if wide else np.tile(np.cos(angle), (1, 2 * repeat))
    sin = np.sin(angle) if wide else np.tile(np.concatenate([-np.sin(angle), np.sin(angle)], axis=1), (1, repeat))
    for name, expected in (("cos", cos), ("sin", sin)):
        data = segments[name]
        assert data is not None
        table = data.view("<f4").reshape(10, -1)[:, :width]
        assert np.array_equal(table, expected.astype(np.float32))
