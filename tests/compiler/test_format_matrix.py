"""Every format preset on every layer, in every phase, on every tile: it compiles, is verified, timed and exact.

A tile that does not build a format is tested with all formats added. Exact means: at reference level the float64 layer
with the tile's quantizers, and at RTL level every byte, cycle and counter of the other two levels.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layer_readers import moe_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError, ConfigError
from tilescore.rtl.spec.formats import BUILD_NAMES, SCALE_NAMES
from tilescore.rtl.spec.tile_settings import change_tile
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, EVERY_FORMAT, NANO, SERVER, compile_and_play

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

SCALES = tuple(SCALE_NAMES.values())

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="Verilator level: missing " + ", ".join(missing_for_verilator()))


def every_format(tile: TileConfig) -> TileConfig:
    """``tile`` with all formats, which need accumulators of three planes."""
    return dataclasses.replace(tile, name=f"{tile.name}+formats", acc_bits=80, acc_banks=-(-tile.acc_banks // 3) * 3,
                               formats=BUILD_NAMES, scales=SCALES)


TILES = {tile.name: tile for tile in (NANO, EDGE, SERVER)}
WIDER = {name: every_format(tile) for name, tile in TILES.items()}
NOT_BUILT = {"nano": set(PRESETS) - {"e4m3"}, "edge": {"e5m2", "deepseek"}, "server": {"e5m2", "deepseek"}}
"""Presets that the tile as shipped refuses."""

PHASES: dict[str, dict[str, Any]] = {
    "prefill": {"tokens": 40}, "chunk": {"tokens": 9, "context": 40},
    "decode": {"phase": "decode", "tokens": 1, "context": 70, "batch": 3},
    "speculative": {"phase": "decode", "tokens": 3, "context": 17, "batch": 2},
}
SHAPES = {
    "nano": {"attention": AttentionLayer(hidden=40, heads=4, kv_heads=2, head_dim=16),
             "moe": MoELayer(hidden=40, experts=6, top_k=2, intermediate=24, norm_topk=True)},
    "large": {"attention": AttentionLayer(hidden=1000, heads=8, kv_heads=2, head_dim=64),
              "moe": MoELayer(hidden=1000, experts=6, top_k=2, intermediate=700, norm_topk=True)},
}
KINDS = ("attention", "moe")


def tile_for(name: str, preset: str) -> TileConfig:
    return (WIDER if preset in NOT_BUILT[name] else TILES)[name]


def workload_of(layer: Any, request: dict[str, Any]) -> Workload:
    if layer.kind == "moe":
        request = {key: value for key, value in request.items() if key != "context"}
    return Workload(layer=layer, **request)


def compiles(workload: Workload, tile: TileConfig, preset: str, **options: Any) -> CompiledLayer:
    """A layer without data, verified and timed."""
    compiled = compile_layer(workload, tile, data=False, numerics=Numerics(formats=PRESETS[preset]), **options)
    verify(compiled.program)
    assert time_program(compiled.program).cycles > 0
    return compiled


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", TILES)
def test_every_combination_compiles(name: str, preset: str, kind: str, phase: str) -> None:
    shapes = SHAPES.get(name, SHAPES["large"])
    compiles(workload_of(shapes[kind], PHASES[phase]), tile_for(name, preset), preset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name, preset", [(name, preset) for name in TILES for preset in sorted(NOT_BUILT[name])])
def test_the_option_that_a_refusal_names_is_enough(name: str, preset: str, kind: str) -> None:
    workload = workload_of(SHAPES["nano"][kind], {"tokens": 4})
    with pytest.raises(CompileError, match=f"^format .*:.*:.*: tile {name} does not build ") as caught:
        compiles(workload, TILES[name], preset)
    option = re.search(r"; --tile-set (\S+) adds them$", str(caught.value))
    assert option is not None
    changed = change_tile(TILES[name], [option[1]])
    assert changed.name.startswith(f"{name}+") and changed.digest != TILES[name].digest
    compiles(workload, changed, preset)


def test_a_refusal_names_no_option_where_none_is_enough() -> None:
    """Scales need 8 lanes, which a bus of 4 bytes does not fill."""
    narrow = dataclasses.replace(NANO, name="narrow", lanes=4, bus_bytes=4)
    with pytest.raises(CompileError, match=r"tile narrow does not build .* and scales = \[\]$"):
        compiles(workload_of(SHAPES["nano"]["moe"], {"tokens": 4}), narrow, "mxfp4")


def test_a_refusal_s_option_replaces_multipliers_that_cannot_do_it() -> None:
    tile = dataclasses.replace(EDGE, name="blocks", formats=("e4m3",), scales=(), multiplier="dsp")
    with pytest.raises(CompileError, match=r"formats=e4m3\+e5m2,acc_bits=80,acc_banks=33,multiplier=fabric adds them"):
        compiles(workload_of(SHAPES["nano"]["moe"], {"tokens": 4}), tile, "e5m2")


def test_four_bit_experts_on_the_server_tile() -> None:
    """A row of 128 codes is two column tiles of 4 bits: products start on every second tile only."""
    compiles(Workload(layer=moe_layer(load_model("olmoe-1b-7b")), tokens=64), SERVER, "nvfp4", routing="balanced")


# Exact -------------------------------------------------------------------------------------------------

TINY = {
    "attention": Workload(layer=AttentionLayer(hidden=40, heads=4, kv_heads=2, head_dim=16), tokens=5, context=6),
    "head of half a column tile": Workload(layer=AttentionLayer(hidden=33, heads=3, kv_heads=1, head_dim=8), tokens=4,
                                           batch=3),
    "head of one block and a half": Workload(layer=AttentionLayer(hidden=24, heads=3, kv_heads=3, head_dim=96),
                                             tokens=3, mask="none"),
    "one token": Workload(layer=AttentionLayer(hidden=70, heads=6, kv_heads=2, head_dim=32), tokens=1, context=21,
                          batch=2, phase="decode"),
    "moe": Workload(layer=MoELayer(hidden=40, experts=6, top_k=2, intermediate=24, norm_topk=True), tokens=9),
    "experts of one token": Workload(layer=MoELayer(hidden=7, experts=12, top_k=1, intermediate=5, norm_topk=False),
                                     tokens=1, batch=3),
    "more tokens than a block": Workload(layer=MoELayer(hidden=33, experts=2, top_k=2, intermediate=150,
                                                        norm_topk=True), tokens=37),
}
"""Sizes that are multiples of nothing, batches of 3, experts with one token."""


def quantized(compiled: CompiledLayer, numerics: Numerics) -> np.ndarray:
    held = compiled.tensors
    assert held is not None
    scales = calibrate(float64_layer(held, compiled.routing).ranges, numerics)
    return quantized_layer(held, scales, numerics, compiled.routing)


@pytest.mark.parametrize("case", TINY)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["edge", "server", EVERY_FORMAT.name])
def test_every_combination_is_the_quantized_layer(name: str, preset: str, case: str) -> None:
    """The rest is FP32 rounding; where that moves a code to its neighbour, half the layer's quantization error."""
    numerics = Numerics(formats=PRESETS[preset])
    tile = EVERY_FORMAT if name == EVERY_FORMAT.name else tile_for(name, preset)
    workload = TINY[case]
    if name == "server" and case == "head of one block and a half":
        workload = dataclasses.replace(workload, layer=dataclasses.replace(workload.attention, head_dim=64))
    compiled, result = compile_and_play(workload, tile, seed=1, numerics=numerics)
    model, exact = quantized(compiled, numerics), compiled.expected
    assert exact is not None
    error = rel_rms_error(model, exact)
    assert rel_rms_error(result, exact) < 1.1 * error + 2e-6
    assert rel_rms_error(result, model) < max(2e-6, error / 2)


@needs_verilator
@pytest.mark.sampled
@pytest.mark.parametrize("case", TINY)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_combination_is_exact_in_rtl(preset: str, case: str) -> None:
    program = compile_layer(TINY[case], EVERY_FORMAT, seed=2, numerics=Numerics(formats=PRESETS[preset])).program
    verify(program)
    result = simulate(program, LEVELS, backend="verilator")
    assert result.rtl is not None and result.rtl.cycles == result.cycles


@needs_verilator
@pytest.mark.sampled
@pytest.mark.parametrize("case", ["attention", "moe"])
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - NOT_BUILT["edge"]))
def test_every_combination_is_exact_in_the_rtl_of_edge(preset: str, case: str) -> None:
    program = compile_layer(TINY[case], TILES["edge"], seed=2, numerics=Numerics(formats=PRESETS[preset])).program
    verify(program)
    result = simulate(program, LEVELS, backend="verilator")
    assert result.rtl is not None and result.rtl.cycles == result.cycles


# Any layer, any tile -----------------------------------------------------------------------------------

LIMIT = ("no tiling of", "does not hold two pieces", "must be a multiple of", "words in a statistics bank",
         "index_entries = ")
"""What a layer is refused for on a tile that builds its format: sizes, each named by the error."""


@st.composite
def format_tiles(draw: st.DrawFn) -> TileConfig:
    """Tiles with every format and sizes of any legal proportion."""
    rows, cols, bus = (draw(st.sampled_from(sizes)) for sizes in ((4, 8, 16, 32), (4, 8, 16, 32, 64, 128),
                                                                   (8, 16, 32, 64)))
    a_banks, b_banks = draw(st.integers(4, 12)), draw(st.integers(4, 10))
    try:
        return TileConfig(
            name="odd", rows=rows, cols=cols, lanes=8, acc_bits=80, formats=BUILD_NAMES, scales=SCALES, a_banks=a_banks,
            a_buffer_bytes=rows * a_banks * max(bus, cols) * draw(st.sampled_from([4, 16, 64])), b_banks=b_banks,
            b_buffer_bytes=cols * b_banks * bus * draw(st.sampled_from([4, 16, 64])),
            acc_banks=6 * draw(st.integers(2, 8)), acc_bank_rows=draw(st.sampled_from([16, 64, 128])),
            stat_bank_rows=draw(st.sampled_from([4, 8, 16])), index_entries=max(1, bus // 4) * 32, imem_page=64,
            bus_bytes=bus, dram_latency=10)
    except ConfigError:
        hypothesis.reject()


@hypothesis.settings(max_examples=60)
@hypothesis.given(tile=format_tiles() | st.sampled_from(list(WIDER.values())), preset=st.sampled_from(list(PRESETS)),
                  data=st.data(), tokens=st.just(1) | st.integers(1, 40), batch=st.integers(1, 3),
                  hidden=st.integers(1, 300))
def test_any_layer_compiles_or_names_the_size(tile: TileConfig, preset: str, data: st.DataObject, tokens: int,
                                              batch: int, hidden: int) -> None:
    layer: Any
    if data.draw(st.booleans()):
        kv_heads = data.draw(st.integers(1, 2))
        layer = AttentionLayer(hidden=hidden, heads=kv_heads * data.draw(st.integers(1, 4)), kv_heads=kv_heads,
                               head_dim=data.draw(st.integers(1, 64).map(lambda half: 2 * half)),
                               qk_norm=data.draw(st.sampled_from(["none", "head", "full"])))
    else:
        experts = data.draw(st.integers(1, 12))
        layer = MoELayer(hidden=hidden, experts=experts, top_k=data.draw(st.integers(1, min(experts, 4))),
                         intermediate=data.draw(st.integers(1, 150)), norm_topk=True)
    workload = Workload(layer=layer, tokens=tokens, batch=batch)
    try:
        compiles(workload, tile, preset)
    except CompileError as error:
        assert any(text in str(error) for text in LIMIT), error
