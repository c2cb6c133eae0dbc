"""Projections on the tile: what lies in q and in the key and value caches when the core begins."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.kv_layout import row_segments
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.sim.reference.run import run_reference
from tilescore.testing.quantized_layer import fake_quantize
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def memory_of(compiled: CompiledLayer) -> dict[str, np.ndarray]:
    """{segment: float64 values of its codes} after the run, one flat array each."""
    dram = run_reference(compiled.program).dram
    return {s.name: decode_e4m3_float(dram[s.addr:s.addr + s.size]) for s in compiled.program.segments
            if s.name == "q" or "cache" in s.name}


def expected_projections(held: LayerTensors) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """q, k, v of the new tokens, (rows, heads, head_dim) float64, of quantized input and weights, not quantized
    themselves; and their scales."""
    scales = calibrate(float64_layer(held).ranges)
    rounded = held.replace(**{
        name: fake_quantize(getattr(held, name), scales[name]).astype(np.float32)
        for name in ("x", "wq", "wk", "wv")})
    values = float64_layer(rounded).values
    return {name: values[name] for name in "qkv"}, {name: scales[name] for name in "qkv"}


def check(codes: np.ndarray, exact: np.ndarray, scale: float) -> None:
    """Codes are those of the exact values, but for the rare one that FP32 moved to its neighbour."""
    wanted = fake_quantize(exact, scale) / scale
    different = codes != wanted
    assert different.mean() < 0.002
    step = np.maximum(np.abs(wanted) / 8, 2.0**-9)
    assert (np.abs(codes - wanted)[different] <= 1.01 * step[different]).all()


LAYERS = {
    "wide heads": (NANO, AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16)),
    "one tile": (EDGE, AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16)),
    "two heads in a tile": (EDGE, AttentionLayer(hidden=48, heads=5, kv_heads=5, head_dim=8)),
    "four heads in a tile": (SQUAT, AttentionLayer(hidden=48, heads=6, kv_heads=3, head_dim=8)),
    "normed": (EDGE, AttentionLayer(hidden=48, heads=4, kv_heads=1, head_dim=32, qk_norm="head")),
    "normed, one tile": (TALL, AttentionLayer(hidden=48, heads=4, kv_heads=4, head_dim=32, qk_norm="head")),
    "head of the server": (SERVER, AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=128, qk_norm="head")),
    "no power of two": (NANO, AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=80)),
    "padded halves": (EDGE, AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=40)),
    "padded, two in a tile": (SERVER, AttentionLayer(hidden=48, heads=3, kv_heads=1, head_dim=34)),
    "padded and normed": (SERVER, AttentionLayer(hidden=48, heads=2, kv_heads=2, head_dim=80, qk_norm="head")),
    "normed as a whole": (EDGE, AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=24, qk_norm="full")),
}
REQUESTS = {"prefill": {"tokens": 13}, "batch": {"tokens": 5, "batch": 3, "context": 6},
            "decode": {"tokens": 1, "batch": 7, "context": 9}}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("tile, layer", LAYERS.values(), ids=LAYERS)
def test_codes_of_q_k_and_v(tile: TileConfig, layer: AttentionLayer, request_: dict) -> None:
    """q by row and head; k by sequence, head and key; v transposed, by sequence, feature and key; the cached part of
    both as given."""
    workload = Workload(layer=layer, **request_)
    compiled = compile_layer(workload, tile, seed=1)
    held, memory = compiled.tensors, memory_of(compiled)
    exact, scales = expected_projections(held)
    size, old, keys = layer.head_dim, workload.cached, workload.keys
    q = memory["q"].reshape(workload.rows, layer.heads, -1)
    check(q[:, :, :size], exact["q"], scales["q"])
    assert not q[:, :, size:].any()
    for sequence in range(workload.batch):
        new = slice(sequence * workload.tokens, (sequence + 1) * workload.tokens)
        for head in range(layer.kv_heads):
            k = memory[f"k_cache.{sequence}.{head}"].reshape(keys, -1)
            check(k[old:, :size], exact["k"][new, head], scales["k"])
            cached = fake_quantize(held.k_cache[sequence, head], scales["k"])
            assert np.array_equal(k[:old, :size], cached / scales["k"])
            assert not k[:, size:].any()
        v = memory[f"v_cache.{sequence}"].reshape(layer.kv_heads, size, -1)
        check(v[:, :, old:keys], exact["v"][new].transpose(1, 2, 0), scales["v"])
        assert np.array_equal(v[:, :, :old], fake_quantize(held.v_cache[sequence], scales["v"]).transpose(0, 2, 1)
                              / scales["v"])
        assert not v[:, :, keys:].any()


def test_position_zero_is_not_rotated() -> None:
    """Angle 0: q of the first token is x Wq itself."""
    layer = AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=16)
    compiled = compile_layer(Workload(layer=layer, tokens=3), EDGE, seed=1)
    held = compiled.tensors
    scales = calibrate(float64_layer(held).ranges)
    plain = fake_quantize(held.x[:1], scales["x"]) @ fake_quantize(held.wq, scales["wq"]).T
    check(memory_of(compiled)["q"].reshape(3, 2, 32)[:1, :, :16].reshape(1, 32), plain, scales["q"])


def test_small_tokens_have_their_norm_beside_large_ones() -> None:
    """QK-norm makes tokens of any magnitude equal. Their squares are summed on a fixed grid, which must hold tokens
    2**-14 times as large as the largest; x itself is coarse there (E4M3 subnormals: 14 steps)."""
    layer = AttentionLayer(hidden=48, heads=4, kv_heads=1, head_dim=32, qk_norm="head")
    workload = Workload(layer=layer, tokens=8)
    held = synthetic(workload, 1)
    sizes = 100 * 2.0 ** -np.arange(0, 16, 2)
    x = np.random.default_rng(0).standard_normal(held.x.shape) * sizes[:, None]
    held = held.replace(x=x.astype(np.float32))
    q = float64_layer(held).values["q"]
    scale = calibrate(float64_layer(held).ranges)["q"]
    found = memory_of(compile_layer(workload, EDGE, tensors=held))["q"].reshape(8, 4, 32) * scale
    errors = np.linalg.norm(found - q, axis=(1, 2)) / np.linalg.norm(q, axis=(1, 2))
    assert (errors < 0.08).all()


@hypothesis.given(tokens=st.integers(1, 9), batch=st.integers(1, 5), data=st.data())
def test_rows_are_cut_by_sequence(tokens: int, batch: int, data: st.DataObject) -> None:
    workload = Workload(layer=AttentionLayer(hidden=8, heads=1, kv_heads=1, head_dim=8), tokens=tokens, batch=batch)
    first = data.draw(st.integers(0, workload.rows - 1))
    count = data.draw(st.integers(1, workload.rows - first))
    rows = [(sequence, token + i, at + i) for sequence, token, at, size in row_segments(tokens, first, count)
            for i in range(size)]
    assert rows == [((first + i) // tokens, (first + i) % tokens, i) for i in range(count)]


def test_results_are_staged_while_the_next_group_is_computed() -> None:
    """With room for two staged groups, a group's codes go elsewhere than those of the group before."""
    layer = AttentionLayer(hidden=48, heads=8, kv_heads=2, head_dim=16)
    workload = Workload(layer=layer, tokens=16)
    schedule = compile_layer(workload, EDGE, data=False).schedule

    def stages(banks: int) -> set[int]:
        other = schedule.change("q", stage_banks=banks)
        program = compile_layer(workload, EDGE, data=False, schedule=other).program
        return {i.addr for i, label in zip(program.instructions, program.labels, strict=True) if label == "store q"}

    per_bank = EDGE.a_bank_groups
    assert len({addr // per_bank for addr in stages(1)}) == 1
    assert len({addr // per_bank for addr in stages(2)}) == 2
