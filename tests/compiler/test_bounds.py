"""No program beats the bounds, no unit exceeds 100 %, and the ledger accounts for every cycle: property tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tilescore.compiler.bounds import Bounds, bounds, compulsory_bytes, peak_macs_per_cycle
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.layer_readers import attention_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.products import useful_macs
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.sim.timing import Timing, time_program
from tilescore.tests.compiler.play import EDGE, EVERY_FORMAT, NANO, SERVER, SQUAT, TALL

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

TILES = {tile.name: tile for tile in (NANO, EDGE, SERVER, SQUAT, TALL, EVERY_FORMAT)}
BUILT = {"edge": sorted(set(PRESETS) - {"e5m2", "deepseek"}), "server": sorted(set(PRESETS) - {"e5m2", "deepseek"}),
         EVERY_FORMAT.name: list(PRESETS)}
"""Presets that a tile builds; the others build E4M3."""


@st.composite
def attention_workloads(draw: st.DrawFn, tile: TileConfig) -> Workload:
    """Layers that the tile can compile as a rule, of some thousand to some million multiplications."""
    head_dim = 2 * draw(st.sampled_from([4, 8, 16, 32, 64]) | st.integers(1, 128))
    kv_heads = draw(st.integers(1, 3))
    layer = AttentionLayer(hidden=draw(st.integers(1, 200)), heads=kv_heads * draw(st.integers(1, 4)),
                           kv_heads=kv_heads, head_dim=head_dim,
                           qk_norm=draw(st.sampled_from(["none", "head", "full"])))
    return Workload(layer=layer, tokens=draw(st.integers(1, 40)), batch=draw(st.integers(1, 4)),
                    context=draw(st.integers(0, 60)), mask=draw(st.sampled_from(["causal", "none"])))


@st.composite
def moe_workloads(draw: st.DrawFn, tile: TileConfig) -> Workload:
    experts = draw(st.integers(1, 12))
    layer = MoELayer(hidden=draw(st.integers(1, 200)), experts=experts, top_k=draw(st.integers(1, min(experts, 8))),
                     intermediate=draw(st.integers(1, 100)), norm_topk=draw(st.booleans()))
    return Workload(layer=layer, tokens=draw(st.integers(1, 40)), batch=draw(st.integers(1, 3)))


def check(compiled: CompiledLayer, tile: TileConfig) -> None:
    """Every promise about cycles, bytes and the ledger of one program."""
    workload, numerics = compiled.workload, compiled.numerics
    timing, limit = time_program(compiled.program), bounds(workload, tile, compiled.routing, numerics)
    assert timing.cycles >= limit.cycles == max(limit.compute_cycles, limit.dram_cycles, limit.vector_cycles)
    assert 0 < useful_macs(workload) / (peak_macs_per_cycle(tile, workload, numerics) * timing.cycles) <= 1
    assert limit.compute_cycles <= timing.ledger["matrix"]["compute"]
    assert limit.vector_cycles <= timing.ledger["vector"]["busy"]
    assert timing.events["dram_read_beats"] * tile.bus_bytes >= limit.read_bytes
    assert timing.events["dram_write_beats"] * tile.bus_bytes >= limit.write_bytes
    assert timing.events["dram_read_beats"] <= timing.cycles and timing.events["dram_write_beats"] <= timing.cycles
    check_ledger(timing)


def check_ledger(timing: Timing) -> None:
    for unit, causes in timing.ledger.items():
        assert sum(causes.values()) == timing.cycles, unit
        assert min(causes.values()) >= 0, unit
    assert set(timing.ledger) == {"load", "store", "matrix", "vector", "dispatch"}


def property_test(tile: TileConfig, workloads: Callable) -> None:
    @hypothesis.settings(max_examples=25)
    @hypothesis.given(workload=workloads(tile), preset=st.sampled_from(BUILT.get(tile.name, ["e4m3"])))
    def run(workload: Workload, preset: str) -> None:
        try:
            compiled = compile_layer(workload, tile, data=False, numerics=Numerics(formats=PRESETS[preset]))
        except CompileError:
            hypothesis.assume(False)
            return
        check(compiled, tile)

    run()


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_no_attention_layer_beats_its_bounds(tile: TileConfig) -> None:
    property_test(tile, attention_workloads)


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_no_moe_layer_beats_its_bounds(tile: TileConfig) -> None:
    property_test(tile, moe_workloads)


@pytest.mark.parametrize("routing", ["balanced", "zipf-2"])
def test_bounds_hold_for_every_routing(routing: str) -> None:
    layer = MoELayer(hidden=96, experts=16, top_k=2, intermediate=48, norm_topk=True)
    check(compile_layer(Workload(layer=layer, tokens=64), EDGE, data=False, routing=routing), EDGE)


def test_long_matmuls_come_close_to_the_compute_bound() -> None:
    """The bound is not idle: a layer of large matmuls without a mask reaches 70 % of the array."""
    layer = AttentionLayer(hidden=1024, heads=8, kv_heads=2, head_dim=128)
    workload = Workload(layer=layer, tokens=512, mask="none")
    cycles = time_program(compile_layer(workload, EDGE, data=False).program).cycles
    assert 0.7 < bounds(workload, EDGE).compute_cycles / cycles <= 1


def test_decode_comes_close_to_the_dram_bound() -> None:
    """One token of an MoE layer is the reading of the chosen experts' weights: 80 % of the port."""
    workload = Workload(layer=MoELayer(hidden=512, experts=8, top_k=2, intermediate=256, norm_topk=True), tokens=1)
    compiled = compile_layer(workload, EDGE, data=False)
    limit = bounds(workload, EDGE, compiled.routing)
    assert 0.8 < limit.dram_cycles / time_program(compiled.program).cycles <= 1


# By hand -----------------------------------------------------------------------------------------------


def test_attention_bytes_by_hand() -> None:
    """Weights 48*(64+32+32) + 64*48, x 6*48, cache 2 * 2 sequences * 5 * 32; out 4*6*48 and k, v 2*6*32."""
    layer = AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16)
    workload = Workload(layer=layer, tokens=3, context=5, batch=2)
    assert compulsory_bytes(workload) == (48 * 128 + 64 * 48 + 6 * 48 + 2 * 2 * 5 * 32, 4 * 6 * 48 + 2 * 6 * 32)


def test_moe_bytes_count_the_experts_in_use() -> None:
    layer = MoELayer(hidden=48, experts=6, top_k=1, intermediate=32, norm_topk=True)
    workload = Workload(layer=layer, tokens=2)
    routing = compile_layer(workload, NANO, data=False, routing="balanced").routing
    assert routing is not None and len(routing.active) == 2
    out = 4 * 2 * 48
    for terms in (1, 2, 3):
        numerics, router = Numerics(router_terms=terms), terms * 48 * (6 + 2)
        assert compulsory_bytes(workload, routing, numerics) == (router + 2 * 3 * 48 * 32, out)
        assert compulsory_bytes(workload, numerics=numerics) == (router + 6 * 3 * 48 * 32, out)


def test_the_router_s_terms_are_read_beside_an_input_in_another_format() -> None:
    layer = MoELayer(hidden=64, experts=6, top_k=1, intermediate=32, norm_topk=True)
    workload = Workload(layer=layer, tokens=2)
    numerics = Numerics(formats=PRESETS["mxfp8"], router_terms=2)
    x, experts = 2 * (64 + 2), 6 * 3 * 32 * (64 + 2)
    assert compulsory_bytes(workload, numerics=numerics)[0] == 2 * 64 * (6 + 2) + x + experts


def test_bounds_by_hand() -> None:
    layer = MoELayer(hidden=48, experts=2, top_k=1, intermediate=32, norm_topk=True)
    workload = Workload(layer=layer, tokens=10)
    macs, read, write = 10 * (48 * 2 + 3 * 48 * 32), 48 * 2 + 2 * 3 * 48 * 32 + 10 * 48, 4 * 10 * 48
    one_term = Numerics(router_terms=1)
    vector = 10 * (2 + 2 * 32 + 48)
    expected = Bounds(compute_cycles=-(-macs // 128), dram_cycles=-(-read // 16), vector_cycles=vector // 4,
                      read_bytes=read, write_bytes=write)
    assert bounds(workload, NANO, numerics=one_term) == expected
    assert expected.cycles == max(-(-macs // 128), -(-read // 16))
    six_products = bounds(workload, NANO, numerics=Numerics(router_terms=3))
    assert six_products.compute_cycles == -(-(macs + 5 * 10 * 48 * 2) // 128)


def test_the_slower_port_decides() -> None:
    """Many tokens and little else: 4 bytes out per byte in."""
    layer = MoELayer(hidden=64, experts=1, top_k=1, intermediate=1, norm_topk=True)
    limit = bounds(Workload(layer=layer, tokens=1000), SERVER)
    assert limit.write_bytes > limit.read_bytes and limit.dram_cycles == limit.write_bytes // 64


def test_stored_formats_change_the_bytes_and_the_rate() -> None:
    """Half a byte per element and one scale byte per block; two 4-bit products per lane, but 8-bit ones in the core."""
    layer = AttentionLayer(hidden=64, heads=4, kv_heads=2, head_dim=16)
    workload = Workload(layer=layer, tokens=32)
    plain, nvfp4, w4a8 = (bounds(workload, EDGE, numerics=Numerics(formats=PRESETS[name]))
                          for name in ("e4m3", "nvfp4", "w4a8-nvfp4"))
    elements = layer.weights + 32 * 64
    assert plain.read_bytes == elements and nvfp4.read_bytes == elements * 9 // 16
    values = 64 * 32
    assert w4a8.read_bytes == (layer.weights - values) * 9 // 16 + values + 32 * 64, "value weights are stored in E4M3"
    assert peak_macs_per_cycle(EDGE, workload, Numerics(formats=PRESETS["nvfp4"])) == 2 * EDGE.macs_per_cycle
    core = 2 * 4 * 16 * (32 * 33 // 2)
    assert plain.compute_cycles == w4a8.compute_cycles == -(-(32 * layer.weights + core) // 2048)
    assert nvfp4.compute_cycles == -(-(16 * layer.weights + core) // 2048)


def test_a_long_nvfp4_prefill_by_hand() -> None:
    """Projections 2048 * 4096 * (2 * 4096 + 2 * 1024) at 32,768 MAC/cycle, QK and PV 2048**2 * 4096 each at 16,384."""
    workload = Workload(layer=attention_layer(load_model("llama-3-8b")), tokens=2048, mask="none")
    limit = bounds(workload, SERVER, numerics=Numerics(formats=PRESETS["nvfp4"]))
    assert limit.cycles == limit.compute_cycles == 2_621_440 + 2_097_152 == 4_718_592


def test_block_scales_count_once_per_block() -> None:
    """DeepSeek: one FP32 scale per 128 x 128 of weights and 1 x 128 of input; E5M2 caches a byte per element."""
    layer = AttentionLayer(hidden=256, heads=4, kv_heads=2, head_dim=64)
    workload = Workload(layer=layer, tokens=3, context=7)
    cached = 2 * 7 * 128
    for preset, weights, x in (("deepseek", 256 * 768 + 12 * 4, 3 * (256 + 2 * 4)),
                               ("deepseek-ue8m0", 256 * 768 + 12, 3 * (256 + 2)), ("e5m2", 256 * 768, 3 * 256),
                               ("mxfp4", 256 * 768 * 17 // 32, 3 * (128 + 8))):
        read, write = compulsory_bytes(workload, numerics=Numerics(formats=PRESETS[preset]))
        assert (read, write) == (weights + x + cached, 4 * 3 * 256 + 2 * 3 * 128)


def test_short_heads_are_bounded_by_the_vector_unit() -> None:
    """128 lanes make a probability in the time of 128 MAC: more than the 2 * 32 of a head of 32 take."""
    layer = AttentionLayer(hidden=64, heads=8, kv_heads=8, head_dim=32)
    limit = bounds(Workload(layer=layer, tokens=2048, mask="none"), SERVER)
    elements = 8 * 2048**2 + 2048 * (6 * 256 + 64)
    assert limit.cycles == limit.vector_cycles == elements // 128


def test_a_faster_bus_and_a_larger_array_lower_the_bounds() -> None:
    layer = AttentionLayer(hidden=64, heads=4, kv_heads=2, head_dim=16)
    workload = Workload(layer=layer, tokens=32)
    slow, wide = bounds(workload, EDGE), bounds(workload, dataclasses.replace(EDGE, bus_bytes=64))
    assert (slow.compute_cycles, slow.dram_cycles) == (wide.compute_cycles, 2 * wide.dram_cycles)
    both = slow.read_bytes, slow.write_bytes
    for shared, moved in ((False, max(both)), (True, sum(both))):
        tile = dataclasses.replace(EDGE, dram_bytes_per_cycle="32/3", dram_shared=shared)
        assert bounds(workload, tile).dram_cycles == -(-3 * moved // 32)
    assert bounds(workload, SERVER).compute_cycles < slow.compute_cycles < bounds(workload, NANO).compute_cycles
