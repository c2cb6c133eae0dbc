"""Scales and DRAM layout of MoE layers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.calibrate import Scales, calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.graph.ops.gate import silu
from tilescore.compiler.layers import Workload
from tilescore.compiler.logits import input_scales
from tilescore.compiler.lowering.experts import ToSlots
from tilescore.compiler.lowering.plan import layer_plan
from tilescore.compiler.routing import Routing
from tilescore.compiler.tensors import LayerTensors
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.sim.reference.run import run_reference
from tilescore.testing.quantized_layer import fake_quantize
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL, TILES

LAYER = MoELayer(hidden=40, experts=6, top_k=2, intermediate=20, norm_topk=True)
WORKLOAD = Workload(layer=LAYER, tokens=5, batch=2)


def compiled_on(tile: TileConfig, workload: Workload = WORKLOAD, *, data: bool = True) -> CompiledLayer:
    return compile_layer(workload, tile, seed=2, data=data)


def held_of(compiled: CompiledLayer) -> LayerTensors:
    return compiled.tensors


def width_of(layer: MoELayer, tile: TileConfig) -> int:
    """Elements of k of the down projection."""
    chosen = np.zeros((4, 1), np.int32)
    routing = Routing(experts=layer.experts, chosen=chosen, weights=np.ones(chosen.shape, np.float32))
    step = next(step for step in layer_plan(Workload(layer=dataclasses.replace(layer, top_k=1), tokens=4), tile,
                                            routing=routing).steps if isinstance(step, ToSlots))
    return step.problems[1].k


def segments_of(compiled: CompiledLayer) -> dict[str, np.ndarray | None]:
    return {segment.name: segment.bytes_() for segment in compiled.program.segments}


def test_scales_put_the_largest_value_on_the_largest_code() -> None:
    held = held_of(compiled_on(NANO))
    trace = float64_layer(held)
    scales = calibrate(trace.ranges)
    assert input_scales(held) == (scales["x terms"], scales["router terms"])
    assert scales["x"] == scales["x terms"] == np.float32(np.abs(held.x).max() / np.float32(448))
    assert trace.routing is not None and set(scales) == {"x", "x terms", "router terms"} | {
        (expert, name) for expert in trace.routing.active for name in ("gate", "up", "down", "product")}
    for expert in trace.routing.active:
        weights = held.expert(expert)
        for name in ("gate", "up", "down"):
            assert scales[expert, name] == np.float32(np.abs(getattr(weights, name)).max() / np.float32(448))
        x = held.x[trace.routing.tokens_of(expert)[0]].astype(np.float64)
        product = silu(x @ weights.gate.T.astype(np.float64)) * (x @ weights.up.T.astype(np.float64))
        assert scales[expert, "product"] == pytest.approx(np.abs(product).max() / 448, rel=1e-6)


@pytest.mark.parametrize("tile, intermediate, width", [(NANO, 20, 32), (EDGE, 20, 32), (SERVER, 20, 128),
                                                       (TALL, 33, 64), (SQUAT, 64, 64), (NANO, 1, 16)])
def test_width_is_whole_column_tiles_and_beats(tile: TileConfig, intermediate: int, width: int) -> None:
    assert width_of(dataclasses.replace(LAYER, intermediate=intermediate), tile) == width


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_gate_and_up_alternate_by_column_tile(tile: TileConfig) -> None:
    compiled = compiled_on(tile)
    held, routing = held_of(compiled), compiled.routing
    assert routing is not None
    scales = calibrate(float64_layer(held, routing).ranges)
    segments, width = segments_of(compiled), width_of(LAYER, tile)
    for expert in routing.active:
        data = segments[f"expert{expert}.gate_up"]
        assert data is not None
        rows = decode_e4m3_float(data.reshape(width // tile.cols, 2, tile.cols, -1))
        weights = held.expert(expert)
        for side, name in enumerate(("gate", "up")):
            scale = scales[expert, name]
            flat = rows[:, side].reshape(width, -1)
            assert np.array_equal(flat[:20, :40], fake_quantize(getattr(weights, name), scale) / scale)
            assert not flat[20:].any() and not flat[:, 40:].any()
        down = segments[f"expert{expert}.down"]
        assert down is not None and down.size == 40 * width
        assert not down.reshape(40, width)[:, 20:].any()


@pytest.mark.parametrize("norm", [True, False])
def test_bias_counts_the_chosen_or_all_experts_and_no_padding(norm: bool) -> None:
    compiled = compiled_on(NANO, dataclasses.replace(WORKLOAD, layer=dataclasses.replace(LAYER, norm_topk=norm)))
    data, routing = segments_of(compiled)["bias"], compiled.routing
    assert data is not None and routing is not None
    bias = data.view("<f4").reshape(10, 8)
    assert set(np.unique(bias)) == {-np.inf, 0} and (bias[:, 6:] == -np.inf).all()
    for row, chosen in zip(bias, routing.chosen, strict=True):
        counted = np.flatnonzero(row == 0).tolist()
        assert counted == (sorted(chosen.tolist()) if norm else list(range(6)))


def test_slots_hold_the_weighted_results_of_the_experts() -> None:
    """The slots' sum per token is the layer's result, before the combine adds them in FP32."""
    compiled = compiled_on(NANO)
    program = compiled.program
    dram = run_reference(program).dram
    segment = next(s for s in program.segments if s.name == "slots")
    slots = dram[segment.addr:segment.addr + segment.size].view("<f4").reshape(20, -1)[:, :40]
    out = program.outputs[0].read(dram)
    assert np.allclose(slots.astype(np.float64).sum(axis=0), out.astype(np.float64).sum(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_timing_needs_no_data_and_the_same_places(tile: TileConfig) -> None:
    made, without = compiled_on(tile), compiled_on(tile, data=False)
    assert [(s.name, s.addr, s.size) for s in made.program.segments] == [
        (s.name, s.addr, s.size) for s in without.program.segments]
    held = {name for name, data in segments_of(without).items() if data is not None}
    assert held == {"bias", "one_hot", "expert_tokens", "combine_slots"}


def test_clearing_rows_do_not_grow_with_the_schedule() -> None:
    """A schedule may name a tile of a million rows, meaning all of them; nothing of that size is allocated."""
    compiled = compiled_on(NANO, data=False)
    huge = compiled.schedule.change("experts.gate_up", m_tile=10**6).change("experts.down", m_tile=10**6)
    job = layer_plan(WORKLOAD, NANO, routing=compiled.routing).lay_out(ProgramBuilder(NANO), huge, Scales())
    assert job.memory["experts zeros"].rows == WORKLOAD.rows
