"""Equal tensors and equal `Numerics` give equal bits: on every tile, with every schedule, in whole or in chunks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.graph.calibrate import Scales, calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.latent import LatentAttentionLayer
from tilescore.compiler.layers import AttentionLayer, Phase, Workload
from tilescore.compiler.lowering.plan import choose_schedule, layer_plan
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.schedule import FlashSchedule
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.isa import ScaleRule
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import simulate
from tilescore.tests.compiler.play import EDGE, EVERY_FORMAT, NANO, SERVER, TALL, bundled_layers, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="Verilator level: missing " + ", ".join(missing_for_verilator()))

PRESET_TILES = (NANO, EDGE, SERVER)
NARROW = AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16)
WIDE = AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=128)


def on_all(workload: Workload, tiles, numerics: Numerics) -> list[np.ndarray]:
    tensors = synthetic(workload, 7)
    return [play(compile_layer(workload, tile, tensors=tensors, numerics=numerics).program) for tile in tiles]


def all_same(results: list[np.ndarray]) -> bool:
    return all(same_bits(a, b) for a, b in itertools.pairwise(results))


@pytest.mark.parametrize("format_name", ["nvfp4", "mxfp8"])
def test_scaled_rows_that_are_streamed_have_the_scales_of_their_chunk(format_name: str) -> None:
    """Chunks of 1,024 elements, with which scale bytes start on bus beats; others are refused."""
    layer, numerics = dataclasses.replace(NARROW, hidden=2048), Numerics(formats=PRESETS[format_name])
    workload = Workload(layer=layer, tokens=2)
    base = compile_layer(workload, EDGE, numerics=numerics)
    schedule = base.schedule.change("q", a_resident=False, k_outer=True, k_tile=1024)
    assert same_bits(play(compile_layer(workload, EDGE, numerics=numerics, schedule=schedule).program),
                     play(base.program))
    with pytest.raises(CompileError, match=r"q: k = 2048 and k_tile = 64 must be .* k_tile of (512|1024)"):
        compile_layer(workload, EDGE, numerics=numerics, schedule=schedule.change("q", k_tile=64), data=False)


# Tiles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiles, layer, block, request_", [
    (PRESET_TILES, WIDE, 128, {"tokens": 5, "context": 140}),
    (PRESET_TILES, dataclasses.replace(WIDE, head_dim=64), 256, {"tokens": 3, "context": 300}),
    (PRESET_TILES, dataclasses.replace(WIDE, head_dim=256, heads=2, kv_heads=1), 256, {"tokens": 2, "context": 270}),
    (PRESET_TILES, WIDE, 256, {"tokens": 1, "context": 260, "batch": 2, "phase": "decode"}),
    ((NANO, EDGE), dataclasses.replace(NARROW, kv_heads=1), 32, {"tokens": 16, "context": 112}),
    ((EDGE, SERVER), dataclasses.replace(WIDE, qk_norm="head"), 128, {"tokens": 16, "context": 120}),
    ((NANO, EDGE), dataclasses.replace(NARROW, qk_norm="head"), 64, {"tokens": 70, "batch": 2, "mask": "none"}),
    ((NANO, EDGE), NARROW, 96, {"tokens": 3, "context": 300, "mask": "none"}),
], ids=["pieces", "narrow heads", "wide heads", "decode", "reported", "norm", "batch", "three"])
def test_attention_is_the_same_on_every_tile(tiles: tuple[TileConfig, ...], layer: AttentionLayer, block: int,
                                             request_: dict) -> None:
    workload = Workload(layer=layer, **request_)
    assert workload.keys > block
    assert all_same(on_all(workload, tiles, Numerics(softmax_block=block)))


@pytest.mark.parametrize("layer", bundled_layers("attention"), ids=lambda layer: layer.model)
def test_every_bundled_attention_is_the_same_on_every_preset(layer: AttentionLayer) -> None:
    """One group of query heads per key head, the head size and the norms of the model, the default softmax block.
    `nano` holds no keys of latent attention, 576 features each."""
    small = dataclasses.replace(layer, hidden=64, heads=layer.heads // layer.kv_heads, kv_heads=1)
    workload = Workload(layer=small, tokens=2, context=300)
    assert workload.keys > Numerics().softmax_block
    tiles = (EDGE, SERVER) if isinstance(layer, LatentAttentionLayer) else PRESET_TILES
    assert all_same(on_all(workload, tiles, Numerics()))


@hypothesis.settings(max_examples=4)
@hypothesis.given(tokens=st.integers(1, 20), context=st.integers(0, 80), batch=st.integers(1, 2),
                  block=st.sampled_from([32, 64, 96]), heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]),
                  mask=st.sampled_from(["causal", "none"]))
def test_any_attention_is_the_same_on_three_tiles(tokens: int, context: int, batch: int, block: int,
                                                  heads: tuple[int, int], mask: Any) -> None:
    layer = dataclasses.replace(NARROW, heads=heads[0], kv_heads=heads[1])
    workload = Workload(layer=layer, tokens=tokens, context=context, batch=batch, mask=mask)
    assert all_same(on_all(workload, (NANO, EDGE, TALL), Numerics(softmax_block=block)))


@pytest.mark.parametrize("norm", [True, False])
def test_moe_is_the_same_on_every_tile(norm: bool) -> None:
    layer = MoELayer(hidden=96, experts=10, top_k=3, intermediate=40, norm_topk=norm)
    assert all_same(on_all(Workload(layer=layer, tokens=23), PRESET_TILES, Numerics()))


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "nvfp4", "w4a8-mxfp4"])
def test_block_formats_are_the_same_on_every_tile_that_builds_them(name: str) -> None:
    numerics = Numerics(formats=PRESETS[name], softmax_block=128)
    layer = dataclasses.replace(NARROW, head_dim=32, hidden=40)
    assert all_same(on_all(Workload(layer=layer, tokens=4, context=140), (EDGE, SERVER), numerics))
    moe = MoELayer(hidden=40, experts=6, top_k=2, intermediate=24, norm_topk=True)
    assert all_same(on_all(Workload(layer=moe, tokens=9), (EDGE, SERVER), numerics))


def test_terms_below_the_grid_are_lost_on_every_tile_alike() -> None:
    """Blocks whose scales lie 30 orders apart: products are rounded to the accumulator's grid (flag INEXACT), which
    must not depend on how far a tile pads k: 32 columns of a head are 64 on a bus of 64 bytes, 24 of an expert 128 on
    128 columns."""
    numerics = Numerics(formats=PRESETS["mxfp8"])
    spread = np.exp2(-np.linspace(0, 30, 96)).astype(np.float32)
    workload = Workload(layer=dataclasses.replace(NARROW, hidden=96, head_dim=32), tokens=4)
    held = synthetic(workload, 3)
    heads = np.repeat(np.exp2(-np.arange(0, 40, 10)), 32).astype(np.float32)
    tensors = held.replace(x=held.x * spread, wo=held.wo * heads)
    flags, results = [], []
    for tile in (EDGE, SERVER):
        result = simulate(compile_layer(workload, tile, tensors=tensors, numerics=numerics).program, ("reference",))
        assert result.outputs is not None
        flags.append(result.status)
        results.append(result.outputs["out"])
    assert "inexact" in (flags[0] or ()) and flags[0] == flags[1] and all_same(results)
    moe = Workload(layer=MoELayer(hidden=96, experts=4, top_k=2, intermediate=24, norm_topk=True), tokens=6)
    made = synthetic(moe, 3)
    spread_out = made.replace(x=made.x * spread)
    assert all_same([play(compile_layer(moe, tile, tensors=spread_out, numerics=numerics).program)
                     for tile in (EDGE, SERVER)])


def test_headroom_does_not_depend_on_the_tile() -> None:
    """What the test above would meet at single bits only."""
    numerics = Numerics(formats=PRESETS["mxfp8"])
    for workload in (Workload(layer=dataclasses.replace(NARROW, hidden=32, heads=5, kv_heads=1, head_dim=32), tokens=4),
                     Workload(layer=MoELayer(hidden=32, experts=4, top_k=1, intermediate=24, norm_topk=True),
                              tokens=4)):
        found = [{(label.split()[0], i.headroom) for i, label in zip(program.instructions, program.labels, strict=True)
                  if getattr(i, "scale", 0) and hasattr(i, "headroom")}
                 for program in (compile_layer(workload, tile, data=False, numerics=numerics).program
                                 for tile in (EDGE, SERVER))]
        assert found[0] == found[1] and found[0]


# Schedules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", PRESET_TILES, ids=lambda tile: tile.name)
def test_attention_is_the_same_with_every_cut_of_the_core(tile: TileConfig) -> None:
    numerics = Numerics(softmax_block=128)
    layer = AttentionLayer(hidden=16, heads=2, kv_heads=1, head_dim=16 if tile.cols < 64 else 64)
    workload = Workload(layer=layer, tokens=9, context=131)
    tensors, base = synthetic(workload, 1), choose_schedule(workload, tile, numerics)
    results, refused = [], 0
    for q_rows, kv_tile, q_tiles in itertools.product((1, 2, 9), (32, 128), (1, 2)):
        core = FlashSchedule(q_rows=q_rows, kv_tile=kv_tile, q_tiles=q_tiles)
        try:
            compiled = compile_layer(workload, tile, tensors=tensors, numerics=numerics,
                                     schedule=base.replace({"core": core}))
        except CompileError:
            refused += 1
            continue
        results.append(play(compiled.program))
    assert len(results) >= 4 and all_same(results), refused


@needs_verilator
@pytest.mark.parametrize("core", [{"q_rows": 4, "kv_tile": 16, "q_tiles": 1},
                                  {"q_rows": 3, "kv_tile": 32, "q_tiles": 2}],
                         ids=["two pieces", "one piece"])
def test_pieces_at_reference_and_rtl(core: dict[str, int]) -> None:
    """Row maxima that go on over pieces, raw P V and the merge of blocks; `simulate` raises when levels differ."""
    numerics = Numerics(softmax_block=32)
    workload = Workload(layer=dataclasses.replace(NARROW, hidden=16, heads=2, kv_heads=1), tokens=5, context=61)
    schedule = choose_schedule(workload, NANO, numerics).replace({"core": FlashSchedule(**core)})
    program = compile_layer(workload, NANO, schedule=schedule, numerics=numerics).program
    verify(program)
    raw = [i.raw for i, label in zip(program.instructions, program.labels, strict=True) if label == "PV"]
    assert any(raw) == (core["kv_tile"] < 32)
    result = simulate(program, ("reference", "timing", "rtl"))
    assert result.levels["rtl"].cycles == result.cycles


# Chunks ------------------------------------------------------------------------------------------------


def decoded(dram: np.ndarray, matrix, rows: int, columns: int, scale: float) -> np.ndarray:
    """(rows, columns) float32: what the codes of a matrix in DRAM mean."""
    codes = dram[matrix.addr:matrix.addr + matrix.rows * matrix.stride].reshape(matrix.rows, matrix.stride)
    return (decode_e4m3_float(codes[:rows, :columns]) * np.float32(scale)).astype(np.float32)


@pytest.mark.parametrize("context, phase, reach", [
    (1, "prefill", {}), (16, "prefill", {}), (37, "prefill", {}), (49, "decode", {}), (37, "prefill", {"window": 19}),
    (49, "decode", {"window": 5}), (23, "prefill", {"chunk": 18})])
def test_a_chunk_of_a_prefill_is_its_rows(context: int, phase: Phase, reach: dict[str, int]) -> None:
    """With the cache that the whole prefill has written, and its static scales: softmax blocks are absolute."""
    numerics, layer, tokens = Numerics(softmax_block=16), dataclasses.replace(NARROW, **reach), 50
    whole = Workload(layer=layer, tokens=tokens)
    held = synthetic(whole, 5)
    scales = calibrate(float64_layer(held).ranges, numerics)
    steps = layer_plan(whole, NANO, numerics)
    program = steps.program(steps.schedule(), scales, held)
    verify(program)
    dram = run_reference(program).dram
    memory = steps.lay_out(ProgramBuilder(NANO), steps.schedule(), Scales()).memory
    k = np.stack([decoded(dram, memory["k"][0][g], context, 16, scales["k"]) for g in range(layer.kv_heads)])
    v = decoded(dram, memory["v"][0], layer.kv_width, context, scales["v"]).reshape(layer.kv_heads, 16, context)
    part = Workload(layer=layer, tokens=tokens - context, context=context, phase=phase)
    cached = held.replace(part, x=held.x[context:].copy(), k_cache=k[None],
                          v_cache=np.ascontiguousarray(v.transpose(0, 2, 1))[None])
    steps = layer_plan(part, NANO, numerics)
    rows = play(steps.program(steps.schedule(), scales, cached))
    assert same_bits(rows, program.outputs[0].read(dram)[context:])


# What is not built -------------------------------------------------------------------------------------


def test_a_block_that_a_tile_cannot_cut_names_the_option() -> None:
    workload = Workload(layer=WIDE, tokens=80)
    with pytest.raises(CompileError, match=r"softmax_block \(--softmax-block\) must be a multiple of 128 on tile "
                                           r"server \(bus, columns, lanes\), or hold all 80 keys, got 64"):
        compile_layer(workload, SERVER, data=False, numerics=Numerics(softmax_block=64))


# Rules of block scales ---------------------------------------------------------------------------------


@pytest.mark.slow  # a Verilator build of its own
@needs_verilator
@pytest.mark.parametrize("layer", [
    AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=32),
    MoELayer(hidden=32, experts=3, top_k=2, intermediate=32, norm_topk=True)], ids=["attention", "moe"])
def test_scale_rules_at_reference_and_rtl(layer) -> None:
    """`simulate` raises when the levels differ; the rules differ from each other, on the host and on the tile."""
    workload, digests, rules = Workload(layer=layer, tokens=5), set(), set()
    for rule in ScaleRule:
        numerics = Numerics(formats=PRESETS["mxfp8"], scale_rule=rule)
        program = compile_layer(workload, EVERY_FORMAT, numerics=numerics).program
        rules |= {i.scale_rule for i in program.instructions if getattr(i, "quant", 0)}
        verify(program)
        digests.add(simulate(program, ("reference", "timing", "rtl")).levels["rtl"].result_sha256)
    assert len(digests) == 3 and rules == set(ScaleRule)
