"""Attention layers on the tile against the float64 layer with the tile's quantizers, and against the plain one.

Two bounds, derived:

`FP32_ROUNDINGS`: when no code differs, only what follows the last quantizer does: the drain's rounding to FP32, the
scale as an FP32 immediate, and the product with it, 2**-24 each: 3 * 2**-24 = 1.8e-7 at the most. 1e-6 leaves
room for nothing else; the roundings before a quantizer vanish in the code.

Except when they move a value across the middle between two codes. FP32 values of a few 2**-24 relative error meet a
middle about once in 2**-4 / 2**-22 = 2**18 values, and a tiny layer has 2**11: once in some hundred layers. So the
first bound is tested on fixed seeds, and fresh seeds may be half the layer's own quantization error away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layer_readers import attention_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.plan import layer_plan
from tilescore.compiler.models import load_model
from tilescore.compiler.report import rel_rms_error
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, TALL, compile_and_play, play, same_bits
from tilescore.tests.compiler.tiny import tiny_config, write_config

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

FP32_ROUNDINGS = 1e-6

PHASES: dict[str, dict[str, Any]] = {
    "prefill": {"tokens": 12},
    "one token": {"tokens": 1},
    "batch": {"tokens": 7, "batch": 3},
    "unmasked": {"tokens": 20, "batch": 2, "mask": "none"},
    "blocks": {"tokens": 70},
    "one sub-tile": {"tokens": 2, "context": 90},
    "chunk": {"tokens": 9, "context": 40},
    "unmasked chunk": {"tokens": 5, "context": 33, "mask": "none"},
    "decode": {"phase": "decode", "tokens": 1, "context": 37, "batch": 3},
    "speculative": {"phase": "decode", "tokens": 3, "context": 17, "batch": 2},
}


def quantized(compiled: CompiledLayer) -> np.ndarray:
    """The float64 layer with quantizers, keys in the same softmax blocks."""
    scales = calibrate(float64_layer(compiled.tensors).ranges)
    return quantized_layer(compiled.tensors, scales, compiled.numerics)


def check(workload: Workload, tile: TileConfig, seed: int = 0) -> None:
    """Both bounds of the module docstring for one layer."""
    compiled, result = compile_and_play(workload, tile, seed=seed)
    model = quantized(compiled)
    assert compiled.expected is not None and result.shape == (workload.rows, workload.layer.hidden)
    assert rel_rms_error(result, model) < FP32_ROUNDINGS
    assert rel_rms_error(result, compiled.expected) < 1.1 * rel_rms_error(model, compiled.expected)


def family_layer(family: str, directory: Path) -> AttentionLayer:
    return attention_layer(load_model(write_config(directory, tiny_config(family))))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "granitemoe"])
@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
def test_result_is_the_quantized_layer(tile: TileConfig, family: str, phase: str, tmp_path: Path) -> None:
    check(Workload(layer=family_layer(family, tmp_path), **PHASES[phase]), tile)


LAYERS = {
    "one head": AttentionLayer(hidden=40, heads=1, kv_heads=1, head_dim=16),
    "one kv head": AttentionLayer(hidden=40, heads=5, kv_heads=1, head_dim=16),
    "groups of three": AttentionLayer(hidden=72, heads=6, kv_heads=2, head_dim=16),
    "no groups": AttentionLayer(hidden=33, heads=3, kv_heads=3, head_dim=16),
    "wider than hidden": AttentionLayer(hidden=16, heads=4, kv_heads=2, head_dim=32),
    "wide heads": AttentionLayer(hidden=96, heads=2, kv_heads=1, head_dim=64, qk_norm="none"),
    "odd hidden": AttentionLayer(hidden=7, heads=2, kv_heads=1, head_dim=16, rope_theta=5e5),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("tile", [NANO, EDGE, TALL], ids=["nano", "edge", "tall"])
def test_shapes(tile: TileConfig, layer: AttentionLayer) -> None:
    check(Workload(layer=layer, tokens=10, context=5, batch=2), tile)
    check(Workload(layer=layer, tokens=1, context=20, batch=2, phase="decode"), tile)


@pytest.mark.parametrize("head_dim, norm", [(128, "head"), (256, "head"), (64, "none")])
def test_heads_of_the_server_tile(head_dim: int, norm: Any) -> None:
    """128 columns: a head of exactly one column tile, of two, and two heads in one."""
    layer = AttentionLayer(hidden=80, heads=4, kv_heads=2, head_dim=head_dim, qk_norm=norm)
    check(Workload(layer=layer, tokens=20, context=70), SERVER)


@pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])
@hypothesis.settings(max_examples=10)
@hypothesis.given(tokens=st.integers(1, 24), batch=st.integers(1, 3), context=st.integers(0, 24),
                  mask=st.sampled_from(["causal", "none"]), norm=st.sampled_from(["head", "none"]),
                  heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]), seed=st.integers(0, 2**32 - 1))
def test_any_layer_has_the_error_of_its_formats(tile: TileConfig, tokens: int, batch: int, context: int, mask: Any,
                                                norm: Any, heads: tuple[int, int], seed: int) -> None:
    layer = AttentionLayer(hidden=48, heads=heads[0], kv_heads=heads[1], head_dim=16, qk_norm=norm)
    workload = Workload(layer=layer, tokens=tokens, batch=batch, context=context, mask=mask)
    compiled, result = compile_and_play(workload, tile, seed=seed)
    model, exact = quantized(compiled), compiled.expected
    assert exact is not None
    error = rel_rms_error(model, exact)
    assert rel_rms_error(result, exact) < 1.1 * error + FP32_ROUNDINGS
    # A moved code is one of hundreds that add up to ``error`` (measured: 36 in 2,900 layers, 0.18 of it at most).
    assert rel_rms_error(result, model) < max(FP32_ROUNDINGS, error / 2)


# Properties of the program -----------------------------------------------------------------------------

TINY = Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=9, context=11)


def test_instructions_and_cycles_do_not_depend_on_data() -> None:
    with_data, without = compile_layer(TINY, NANO, seed=3), compile_layer(TINY, NANO, data=False)
    ours, other = time_program(with_data.program), time_program(without.program)
    assert ours.cycles == other.cycles and np.array_equal(ours.retire, other.retire)
    assert with_data.program.labels == without.program.labels
    assert without.tensors is None and without.expected is None


def test_sequences_of_a_batch_do_not_mix() -> None:
    """Each sequence's result is that of the sequence alone, bit for bit, with the scales of the batch."""
    layer = AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16, qk_norm="head")
    both, result = compile_and_play(Workload(layer=layer, tokens=6, context=10, batch=2), NANO, seed=1)
    held = both.tensors
    scales = calibrate(float64_layer(held).ranges)
    workload = Workload(layer=layer, tokens=6, context=10)
    for sequence in range(2):
        part = slice(6 * sequence, 6 * (sequence + 1))
        alone = held.replace(workload, x=held.x[part], k_cache=held.k_cache[sequence:sequence + 1],
                             v_cache=held.v_cache[sequence:sequence + 1])
        steps = layer_plan(workload, NANO)
        program = steps.program(steps.schedule(), scales, alone)
        assert same_bits(play(program), result[part])


def test_causal_rows_do_not_see_later_tokens() -> None:
    """Changing the last token changes no row before it."""
    compiled, before = compile_and_play(TINY, NANO, seed=2)
    held = compiled.tensors
    scales = calibrate(float64_layer(held).ranges)
    x = held.x.copy()
    x[-1] = -x[-1]
    changed = held.replace(x=x)
    steps = layer_plan(TINY, NANO)
    after = play(steps.program(steps.schedule(), scales, changed))
    assert same_bits(before[:-1], after[:-1]) and not same_bits(before[-1:], after[-1:])


def test_masked_blocks_are_not_computed() -> None:
    """Causal needs about half of the multiplications of the core."""
    layer = AttentionLayer(hidden=16, heads=2, kv_heads=1, head_dim=16)
    macs = {}
    for mask in ("causal", "none"):
        program = compile_layer(Workload(layer=layer, tokens=96, mask=mask), NANO, data=False).program
        macs[mask] = sum(i.m_rows * i.n_tiles * i.k_steps for i, label in
                         zip(program.instructions, program.labels, strict=True) if label in ("QK", "PV"))
    assert 0.5 <= macs["causal"] / macs["none"] < 0.65


# What cannot be compiled -------------------------------------------------------------------------------


@pytest.mark.parametrize("tile, layer, message", [
    (NANO, {"head_dim": 512}, r"(projection|core).*: no tiling of .* fits tile nano: .*buffer"),
    (NANO, {"head_dim": 512, "qk_norm": "full"}, r"projection q: no tiling of .* fits tile nano: .*buffer"),
])
def test_layers_that_cannot_be_compiled_are_named(tile: TileConfig, layer: dict, message: str) -> None:
    workload = Workload(layer=AttentionLayer(**{"hidden": 48, "heads": 4, "kv_heads": 2} | layer), tokens=9)
    with pytest.raises(CompileError, match=message):
        compile_layer(workload, tile, data=False)
