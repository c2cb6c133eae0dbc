"""Tiny layers on the tile agree with ``transformers`` within the quantization error of their number formats.

The chain from a published-layout checkpoint: a torch module with random weights is saved, read back, compiled, run at
reference level, and compared with the module itself, in float64, on the same input.

The tolerance is not chosen but computed, per layer, from the same layer with nothing but the tile's quantizers put
in (`testing.quantized_layer`): E4M3 rounds every value by up to 2**-4 of itself (0.026 rms), and a layer is a chain of
four to ten such roundings, so that its error is 0.03 to 0.15 of the output's rms (`test_quantized_layer.py`). The
input is unit normal: among the 48 channels of a tiny model an outlier channel makes scores of hundreds, and then
rounding decides which key wins. The tile may add FP32 roundings (2**-24 each, 1e-6 together) and, rarely, a code
that they push to its neighbour: 1.1 times the error. What is compared is the root mean square over all outputs.
`transformers` itself computes rotary tables, norms and router probabilities in float32, which is 2e-5 of the output
at the most (`test_transformers_oracle.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
pytest.importorskip("transformers", reason="needs the oracle extra (torch, transformers)")

from tilescore.compiler.checkpoint import from_safetensors  # noqa: E402
from tilescore.compiler.graph.calibrate import calibrate  # noqa: E402
from tilescore.compiler.graph.evaluate import float64_layer  # noqa: E402
from tilescore.compiler.layer_readers import attention_layer, decoder_layer, moe_layer  # noqa: E402
from tilescore.compiler.layers import Workload  # noqa: E402
from tilescore.compiler.models import load_model  # noqa: E402
from tilescore.compiler.report import rel_rms_error  # noqa: E402
from tilescore.compiler.tensors import LayerTensors  # noqa: E402
from tilescore.rtl.spec.config import TileConfig  # noqa: E402
from tilescore.testing.quantized_layer import quantized_layer  # noqa: E402
from tilescore.tests.compiler.play import EDGE, NANO, compile_and_play  # noqa: E402
from tilescore.tests.compiler.test_transformers_oracle import (  # noqa: E402
    PHASES,
    SCALED,
    build,
    their_attention,
    their_experts,
)
from tilescore.tests.compiler.tiny import FEED_FORWARD_FAMILIES, MOE_FAMILIES  # noqa: E402

FLOAT32_IN_TRANSFORMERS = 2e-5
SANE = (0.02, 0.25)
"""Range of the tolerance itself (found: 0.047 to 0.142 in 576 layers); a wrong layer is off by about 1.4."""

TILES = pytest.mark.parametrize("tile", [NANO, EDGE], ids=["nano", "edge"])


def with_plain_input(tensors: LayerTensors, seed: int) -> LayerTensors:
    x = np.random.default_rng(seed).standard_normal(tensors.x.shape).astype(np.float32)
    return tensors.replace(x=x)


def check(result: np.ndarray, model: np.ndarray, theirs: np.ndarray) -> None:
    """The tile's result is as far from theirs as the quantizers alone, and closer to the quantized model."""
    quantization = rel_rms_error(model, theirs)
    assert SANE[0] < quantization < SANE[1]
    assert rel_rms_error(result, theirs) < 1.1 * quantization + FLOAT32_IN_TRANSFORMERS
    assert rel_rms_error(result, model) < quantization / 2


@TILES
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mixtral", "olmoe", "granitemoe"])
def test_attention(family: str, phase: str, tile: TileConfig, tmp_path: Path, seed: int) -> None:
    model = build(family, tmp_path, seed)
    layer = attention_layer(load_model(tmp_path / "saved"))
    tensors = from_safetensors(tmp_path / "saved", Workload(layer=layer, **PHASES[phase]), seed=seed)
    tensors = with_plain_input(tensors, seed)
    compiled, result = compile_and_play(tensors.workload, tile, tensors=tensors)
    scales = calibrate(float64_layer(tensors).ranges)
    quantized = quantized_layer(tensors, scales, compiled.numerics)
    check(result, quantized, their_attention(model, tensors, own_rotary=True))


@pytest.mark.parametrize("kind", SCALED)
def test_attention_with_scaled_rotary(kind: str, tmp_path: Path, seed: int) -> None:
    """A decode step, long enough for the kinds that look at the length."""
    family, changes = SCALED[kind]
    model = build(family, tmp_path, seed, **changes)
    layer = attention_layer(load_model(tmp_path / "saved"))
    tensors = from_safetensors(tmp_path / "saved", Workload(layer=layer, **PHASES["decode"]), seed=seed)
    tensors = with_plain_input(tensors, seed)
    _, result = compile_and_play(tensors.workload, NANO, tensors=tensors)
    scales = calibrate(float64_layer(tensors).ranges)
    quantized = quantized_layer(tensors, scales)
    check(result, quantized, their_attention(model, tensors, own_rotary=True))


@TILES
@pytest.mark.parametrize("family", (*MOE_FAMILIES, *FEED_FORWARD_FAMILIES))
def test_moe(family: str, tile: TileConfig, tmp_path: Path, seed: int) -> None:
    """With the router's choice of the tile: its quantized logits may order a near tie otherwise than theirs. Tokens of
    which that is true are left out of the comparison, and are few."""
    model = build(family, tmp_path, seed, attention="eager")
    workload = Workload(layer=moe_layer(load_model(tmp_path / "saved")), tokens=17, batch=2)
    tensors = with_plain_input(from_safetensors(tmp_path / "saved", workload, seed=seed), seed)
    theirs = their_experts(model, tensors.x)
    compiled, result = compile_and_play(workload, tile, tensors=tensors)
    routing = compiled.routing
    assert routing is not None
    wanted = float64_layer(tensors).routing
    same = (np.sort(routing.chosen, axis=1) == np.sort(wanted.chosen, axis=1)).all(axis=1)
    assert same.mean() > 0.7
    quantized = quantized_layer(tensors, calibrate(float64_layer(tensors, routing).ranges), routing=routing)
    check(result[same], quantized[same], theirs[same])


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "mixtral", "granitemoe"])
def test_decoder(family: str, tmp_path: Path, seed: int) -> None:
    """Two sequences of a decode step, with the experts that the float64 layer chooses, as theirs do."""
    model = build(family, tmp_path, seed)
    workload = Workload(layer=decoder_layer(load_model(tmp_path / "saved")), **PHASES["speculative"])
    tensors = with_plain_input(from_safetensors(tmp_path / "saved", workload, seed=seed), seed)
    compiled, result = compile_and_play(workload, NANO, tensors=tensors)
    scales = calibrate(float64_layer(tensors, compiled.routing).ranges)
    quantized = quantized_layer(tensors, scales, routing=compiled.routing)
    check(result, quantized, their_attention(model, tensors, own_rotary=True, module=model.model.layers[0]))
