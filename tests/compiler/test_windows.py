"""Layers with a sliding window or chunked attention: equal to ``transformers``, exact at every level, and no dearer
than what they see.

Their masks are made by the functions of ``transformers.masking_utils``; the module is Mistral's, which takes any mask.
The quantized layer's error is derived as in `test_layers_against_transformers.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.latent import LatentAttentionLayer
from tilescore.compiler.layer_readers import attention_layer, decoder_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.models import load_model
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.schedule import FlashSchedule
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.errors import DoesNotFit, WorkloadError
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.simulate import simulate
from tilescore.sim.timing import time_program
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.play import EDGE, NANO, TALL, compile_and_play, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

NARROW = AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16)
BLOCKS = Numerics(softmax_block=32)
PHASES: dict[str, dict[str, Any]] = {
    "prefill": {"tokens": 50}, "chunk": {"tokens": 9, "context": 61},
    "decode": {"phase": "decode", "tokens": 1, "context": 75, "batch": 2},
    "speculative": {"phase": "decode", "tokens": 3, "context": 38, "batch": 2},
}
REACHES = [{"window": 1}, {"window": 7}, {"window": 40}, {"chunk": 5}, {"chunk": 24}]


def reaching(request: dict[str, Any], reach: dict[str, int], layer: AttentionLayer = NARROW) -> Workload:
    return Workload(layer=dataclasses.replace(layer, **reach), **request)


# transformers ------------------------------------------------------------------------------------------


def their_mask(workload: Workload) -> Any:
    """As ``transformers`` makes it, as an additive mask."""
    torch = pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
    masking = pytest.importorskip("transformers.masking_utils", reason="needs the oracle extra (torch, transformers)")
    layer = workload.layer if isinstance(workload.layer, AttentionLayer) else workload.layer.attention
    if layer.window is not None:
        sees = masking.sliding_window_causal_mask_function(layer.window)
    else:
        sees = masking.chunked_causal_mask_function(layer.chunk, torch.zeros(workload.batch, dtype=int))
    query = torch.arange(workload.cached, workload.keys)[:, None]
    seen = sees(0, 0, query, torch.arange(workload.keys)[None])
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    return mask[None, None].expand(workload.batch, 1, -1, -1)


def theirs(model: Any, tensors: LayerTensors, monkeypatch: pytest.MonkeyPatch, tables: Any = None) -> np.ndarray:
    from tilescore.tests.compiler import test_transformers_oracle as oracle

    monkeypatch.setattr(oracle, "additive_mask", their_mask)
    if tables is not None:
        return oracle.run_attention(model, tensors, tables)
    return oracle.their_attention(model, tensors, own_rotary=True)


FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 11}, "mixtral": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 0},
    "gpt_oss": {"sliding_window": 11, "layer_types": ["sliding_attention"]},
}


ATTENTION = {"gpt_oss": "eager"}
"""Implementations in ``transformers`` that are not the default, by family; this one makes softmax in float32."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_equals_transformers(family: str, phase: str, tmp_path: Path, seed: int,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")
    from tilescore.compiler.checkpoint import from_safetensors
    from tilescore.tests.compiler.test_attention_kinds import float64_tables
    from tilescore.tests.compiler.test_transformers_oracle import build, error

    model = build(family, tmp_path, seed, ATTENTION.get(family, "sdpa"), **FAMILIES[family])
    layer = attention_layer(load_model(tmp_path / "saved"))
    assert layer.window == FAMILIES[family]["sliding_window"]
    tensors = from_safetensors(tmp_path / "saved", Workload(layer=layer, **PHASES[phase]), seed=seed)
    tables = float64_tables(model, tensors.workload)
    assert error(float64_layer(tensors).out, theirs(model, tensors, monkeypatch, tables)) < 1e-6


def test_prefill_then_cached_decode_equal_transformers(tmp_path: Path, seed: int) -> None:
    """The whole model of one layer, which makes its own masks and crops its own cache, against our decoder layer with
    the whole cache: a prefill of 14 tokens, then 5 one by one, with a window of 6. Rotary tables are float64; our
    caches are rounded to float32, and so are sums in their norms."""
    torch = pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
    transformers = pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")
    from tilescore.compiler.checkpoint import from_safetensors
    from tilescore.tests.compiler.test_transformers_oracle import FLOAT32_STEP, build, error, float64_tables

    class Tables(torch.nn.Module):
        def forward(self, x: Any, position_ids: Any) -> Any:
            return float64_tables(layer.attention.rope_theta, position_ids[0].numpy(), 16)

    model = build("mistral", tmp_path, seed, sliding_window=6)
    layer = decoder_layer(load_model(tmp_path / "saved"))
    assert layer.attention.window == 6
    rows = np.random.default_rng(seed).standard_normal((19, 48)).astype(np.float32)
    model.model.norm, model.model.rotary_emb = torch.nn.Identity(), Tables()
    cache, caches = transformers.DynamicCache(config=model.config), {}
    for first, last in ((0, 14), *((token, token + 1) for token in range(14, 19))):
        with torch.no_grad():
            made = model.model(inputs_embeds=torch.tensor(rows[None, first:last]).double(), past_key_values=cache)
        workload = Workload(layer=layer, tokens=last - first, context=first, phase="decode" if first else "prefill")
        tensors = from_safetensors(tmp_path / "saved", workload, seed=seed).replace(x=rows[first:last], **caches)
        trace = float64_layer(tensors)
        for name in ("k", "v"):
            new = trace.values[name].reshape(last - first, 2, 16).transpose(1, 0, 2)[None].astype(np.float32)
            caches[f"{name}_cache"] = np.concatenate([getattr(tensors, f"{name}_cache"), new], axis=2)
        assert error(trace.out, made.last_hidden_state[0].numpy()) < FLOAT32_STEP, first
    assert cache.get_seq_length() == 19 and cache.layers[0].keys.shape[2] < 6


@pytest.mark.parametrize(("family", "reach"), [
    ("mistral", {"window": 7}), ("mistral", {"window": 40}), ("mistral", {"chunk": 24}), ("gpt_oss", {"window": 7})])
def test_the_tile_is_as_far_from_transformers_as_its_formats(
        family: str, reach: dict[str, int], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With sinks too. Softmax blocks of 32 keys: rows that see no key of their sub-tile's first block, and blocks that
    none sees."""
    pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")
    from tilescore.compiler.checkpoint import from_safetensors
    from tilescore.tests.compiler.test_layers_against_transformers import check, with_plain_input
    from tilescore.tests.compiler.test_transformers_oracle import build

    model = build(family, tmp_path, seed, ATTENTION.get(family, "sdpa"))
    layer = attention_layer(load_model(tmp_path / "saved"))
    for request in ({"tokens": 40}, PHASES["decode"]):
        workload = reaching(request, reach, layer)
        tensors = with_plain_input(from_safetensors(tmp_path / "saved", workload, seed=seed), seed)
        _, result = compile_and_play(workload, NANO, tensors=tensors, numerics=BLOCKS)
        quantized = quantized_layer(tensors, calibrate(float64_layer(tensors).ranges), BLOCKS)
        check(result, quantized, theirs(model, tensors, monkeypatch))


# Bits --------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=3, deadline=None)
@hypothesis.given(data=st.data(), reach=st.sampled_from(REACHES), phase=st.sampled_from(list(PHASES)))
def test_bits_do_not_depend_on_the_schedule_or_the_tile(data: st.DataObject, reach: dict[str, int], phase: str) -> None:
    workload = reaching(PHASES[phase], reach)
    tensors = synthetic(workload, 7)
    wanted = compile_and_play(workload, EDGE, tensors=tensors, numerics=BLOCKS)[1]
    core = FlashSchedule(q_rows=data.draw(st.sampled_from([1, 3, 8, 10])), kv_tile=data.draw(st.sampled_from([16, 32])),
                         q_tiles=data.draw(st.integers(1, 3)))
    schedule = choose_schedule(workload, NANO, BLOCKS).replace({"core": core})
    try:
        compiled = compile_layer(workload, NANO, tensors=tensors, numerics=BLOCKS, schedule=schedule)
    except DoesNotFit:  # ten rows of two query tiles of wide outputs
        hypothesis.reject()
    found = play(compiled.program)
    assert np.isfinite(found).all() and same_bits(found, wanted)
    assert same_bits(compile_and_play(workload, TALL, tensors=tensors, numerics=BLOCKS)[1], wanted)


def test_a_window_of_all_keys_is_the_layer_without() -> None:
    """Instruction by instruction."""
    for request in (PHASES["chunk"], PHASES["decode"]):
        plain = reaching(request, {})
        keys = plain.keys
        programs = [compile_layer(reaching(request, reach), NANO, numerics=BLOCKS, data=False).program
                    for reach in ({}, {"window": keys}, {"chunk": keys})]
        assert all(list(programs[0].instructions) == list(other.instructions) for other in programs[1:])
        smaller = compile_layer(reaching(request, {"window": keys - 1}), NANO, numerics=BLOCKS, data=False).program
        assert list(smaller.instructions) != list(programs[0].instructions)


@pytest.mark.skipif(bool(missing_for_verilator()), reason="Verilator level: missing "
                    + ", ".join(missing_for_verilator()))
@pytest.mark.parametrize("reach", [{"window": 13}, {"chunk": 20}], ids=str)
def test_rtl_is_bit_equal(reach: dict[str, int]) -> None:
    """Results, cycles and events of a layer whose sub-tiles have rows that see nothing of their first block."""
    workload = reaching({"tokens": 40}, reach, dataclasses.replace(NARROW, hidden=16, heads=2, kv_heads=1))
    program = compile_layer(workload, NANO, tensors=synthetic(workload, 5), numerics=BLOCKS).program
    assert np.isfinite(simulate(program, ("reference", "timing", "rtl"), backend="verilator").outputs["out"]).all()


# Costs -------------------------------------------------------------------------------------------------


def test_a_decode_step_reads_the_cached_keys_of_its_window() -> None:
    """At most a column tile, a bus beat and a block's end more, whatever the context; and bounds and MACs follow."""
    def decode(context: int, **reach: int) -> Workload:
        return reaching({"phase": "decode", "tokens": 1, "context": context}, reach)

    def core_bytes(workload: Workload) -> int:
        program = compile_layer(workload, NANO, numerics=BLOCKS, data=False).program
        return sum(i.rows * i.row_bytes for i, label in zip(program.instructions, program.labels, strict=True)
                   if label.startswith(("load k ", "load v ")))

    near, far = decode(300, window=40), decode(4972, window=40)
    assert near.cached % BLOCKS.softmax_block == far.cached % BLOCKS.softmax_block
    assert core_bytes(near) == core_bytes(far) <= 2 * 2 * 16 * (40 + 2 * 8)
    assert far.pairs == 40 and decode(4972).pairs == 4973
    assert bounds(near, NANO, numerics=BLOCKS).read_bytes == bounds(far, NANO, numerics=BLOCKS).read_bytes
    for workload in (near, far, decode(300, chunk=64)):
        program = compile_layer(workload, NANO, numerics=BLOCKS, data=False).program
        assert bounds(workload, NANO, numerics=BLOCKS).cycles <= time_program(program).cycles


@pytest.mark.parametrize("reach", [{"window": 7}, {"chunk": 24}], ids=str)
def test_latent_attention_has_windows_too(reach: dict[str, int]) -> None:
    """Absorbed decode: a step's bound counts the latents that it sees, and its result is that of the formats."""
    latent = LatentAttentionLayer(hidden=24, heads=2, kv_heads=2, head_dim=32, rope_dim=16, value_dim=16, kv_rank=32,
                                  form="absorbed")
    workload = reaching(PHASES["decode"], reach, latent)
    whole = reaching(PHASES["decode"], {}, latent)
    tensors = synthetic(workload, 7)
    compiled, result = compile_and_play(workload, NANO, tensors=tensors, numerics=BLOCKS)
    quantized = quantized_layer(tensors, calibrate(float64_layer(tensors).ranges), BLOCKS)
    assert rel_rms_error(result, quantized) < 0.02
    assert bounds(workload, NANO, numerics=BLOCKS).cycles <= time_program(compiled.program).cycles
    unread = (75 - workload.key_mask.needed(75, 75)) * 2 * 48
    assert bounds(whole, NANO).read_bytes - bounds(workload, NANO).read_bytes == unread


def test_a_long_prefill_costs_what_its_window_does() -> None:
    """Steps of the core: each sub-tile against the blocks of 32 keys that one of its rows sees a key of, and no
    others."""
    def steps(**reach: int) -> tuple[int, int]:
        workload = reaching({"tokens": 160}, reach)
        program = compile_layer(workload, NANO, numerics=BLOCKS, data=False).program
        rows, mask = choose_schedule(workload, NANO, BLOCKS)["core"].q_rows, workload.key_mask
        first, counted = 0, 0
        while first < 160:
            last = min(first + mask.together(first, rows), 160)
            seen = mask.seen(first, last - first).any(axis=0)
            counted += seen.reshape(-1, 32).any(axis=1).sum() * workload.attention.heads
            first = last
        return sum(label == "QK" for label in program.labels), counted

    found = {str(reach): steps(**reach) for reach in ({}, {"window": 8}, {"window": 64}, {"chunk": 32}, {"chunk": 30})}
    assert all(made == counted for made, counted in found.values())
    assert found["{'window': 8}"][0] < found["{'window': 64}"][0] < found["{}"][0]


# Errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reach", "text"), [
    ({"window": 0}, "window: expected an integer from 1 to 16777216, got 0"),
    ({"chunk": True}, "chunk: expected an integer from 1"),
    ({"window": 4, "chunk": 4}, "chunk: expected None beside window = 4, got 4"),
])
def test_wrong_reach(reach: dict[str, int], text: str) -> None:
    with pytest.raises(WorkloadError, match=text):
        dataclasses.replace(NARROW, **reach)


@pytest.mark.parametrize("reach", [{"window": 4}, {"chunk": 8}], ids=str)
def test_no_mask_is_refused(reach: dict[str, int]) -> None:
    (name, size), = reach.items()
    with pytest.raises(WorkloadError, match=f"mask: expected causal for a layer with {name} = {size}, got none"):
        reaching({"tokens": 5, "mask": "none"}, reach)
