"""Quantized checkpoints: codes and scales reach the tile as the file has them, and what cannot is said.

Files are written here in the layouts of DeepSeek-V3 and Qwen3-FP8 (128 x 128), of FP8 per tensor and per row, of
modelopt's and compressed-tensors' NVFP4, and of gpt-oss and compressed-tensors in MXFP4.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.checkpoint import from_safetensors
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MlpLayer, MoELayer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import from_options
from tilescore.compiler.scoring import Scoring
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.rtl.spec.tile_settings import change_tile
from tilescore.sim.simulate import simulate
from tilescore.testing.quantized_layer import quantized_layer
from tilescore.tests.compiler.tiny import write_safetensors

SERVER = change_tile(load_tile("server"), ["scales=e4m3+e8m0+fp32"])
MLP = Workload(layer=MlpLayer(hidden=256, intermediate=384), tokens=3)
SHAPES = {"gate_proj": (384, 256), "up_proj": (384, 256), "down_proj": (256, 384)}
VALUES = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}

ROUNDING = 0.03
"""Of the tile's result, relative: FP32 rounding moves a few codes of activations, of E2M1 by up to a third. Quantizing
weights of E4M3 anew is an error of 0.02; a wrong scale or nibble is one of 0.5 and more."""

Parts = dict[str, tuple[np.ndarray, str]]
"""{end of a name: (tensor, dtype)}."""
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def e4m3(codes: np.ndarray) -> np.ndarray:
    """By definition: sign, four bits of exponent with bias 7, three of fraction."""
    exponent, fraction = (codes >> 3 & 15).astype(int), (codes & 7).astype(float)
    magnitude = np.where(exponent == 0, fraction * 2.0**-9, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    return np.where(codes & 0x80, -magnitude, magnitude)


def fp8_codes(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    codes = rng.integers(0, 256, shape, np.uint8)
    return np.where((codes & 0x7F) == 0x7F, 0x38, codes).astype(np.uint8)


def fp4_values(codes: np.ndarray) -> np.ndarray:
    return E2M1[np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)]


def squares(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes = fp8_codes(rng, (rows, k))
    scale = rng.uniform(1e-5, 9e-5, (-(-rows // 128), -(-k // 128))).astype(np.float32)
    wide = np.repeat(np.repeat(scale, 128, axis=0), 128, axis=1)[:rows, :k]
    return {"": (codes, "F8_E4M3"), "_scale_inv": (scale, "F32")}, e4m3(codes) * wide


def powers(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes, shape = fp8_codes(rng, (rows, k)), (-(-rows // 128), -(-k // 128))
    scale = rng.integers(110, 114, shape, np.uint8)
    wide = np.repeat(np.repeat(2.0 ** (scale - 127.0), 128, axis=0), 128, axis=1)[:rows, :k]
    return {"": (codes, "F8_E4M3"), "_scale_inv": (scale, "F8_E8M0")}, e4m3(codes) * wide


def one(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes, scale = fp8_codes(rng, (rows, k)), np.array([rng.uniform(1e-5, 9e-5)], np.float32)
    unused = np.array([0.3], np.float32)
    return {"": (codes, "F8_E4M3"), "_scale": (scale, "F32"), "input": (unused, "F32")}, e4m3(codes) * scale


def per_row(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes, scale = fp8_codes(rng, (rows, k)), rng.uniform(1e-5, 9e-5, (rows, 1)).astype(np.float32)
    return {"": (codes, "F8_E4M3"), "_scale": (scale, "F32")}, e4m3(codes) * scale


def modelopt(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes, scale = rng.integers(0, 256, (rows, k // 2), np.uint8), rng.integers(1, 0x7F, (rows, k // 16), np.uint8)
    factor = np.array(rng.uniform(1e-5, 9e-5), np.float32)
    values = fp4_values(codes) * np.repeat(e4m3(scale), 16, axis=1) * factor
    return {"": (codes, "U8"), "_scale": (scale, "F8_E4M3"), "_scale_2": (factor, "F32")}, values


def compressed(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    parts, values = modelopt(rng, rows, k)
    factor = parts.pop("_scale_2")[0]
    return {"_packed": parts[""], "_scale": parts["_scale"],
            "_global_scale": ((1 / factor).reshape(1).astype(np.float32), "F32")}, values


def mx(rng: np.random.Generator, rows: int, k: int) -> tuple[Parts, np.ndarray]:
    codes, scale = rng.integers(0, 256, (rows, k // 2), np.uint8), rng.integers(115, 121, (rows, k // 32), np.uint8)
    return {"_packed": (codes, "U8"), "_scale": (scale, "U8")}, fp4_values(codes) * np.repeat(
        2.0 ** (scale - 127.0), 32, axis=1)


LAYOUTS: dict[str, tuple[Callable, str]] = {
    "128 x 128": (squares, "deepseek"), "128 x 128, powers of two": (powers, "deepseek-ue8m0"),
    "per tensor": (one, "e4m3"), "modelopt": (modelopt, "nvfp4"),
    "compressed-tensors": (compressed, "nvfp4"), "mx": (mx, "mxfp4")}


def write(path: Path, module: str, made: dict[str, Parts]) -> Path:
    tensors, dtypes = {}, {}
    for name, parts in made.items():
        for end, (tensor, dtype) in parts.items():
            base = f"model.layers.0.{module}.{name}."
            full = f"{base}input_scale" if end == "input" else f"{base}weight{end}"
            tensors[full], dtypes[full] = tensor, dtype
    return write_safetensors(path / "model.safetensors", tensors, dtypes=dtypes)


def rows_in_dram(compiled: CompiledLayer, name: str, rows: int) -> np.ndarray:
    """Bytes of an operand, a row per row."""
    data = next(segment.bytes_() for segment in compiled.program.segments if segment.name == name)
    assert data is not None
    return data.reshape(rows, -1)


def distance(compiled: CompiledLayer) -> float:
    """Of the tile's result and the float64 layer with the stored weights' values and rounded activations."""
    assert compiled.tensors is not None and compiled.scales is not None
    result = simulate(compiled.program, ("reference",)).outputs
    expected = quantized_layer(compiled.tensors, compiled.scales, compiled.numerics, compiled.routing)
    assert result is not None
    return float(np.linalg.norm(result["out"] - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_and_scales_go_to_the_tile_as_they_are(layout: str, tmp_path: Path, rng: np.random.Generator) -> None:
    make, formats = LAYOUTS[layout]
    made = {name: make(rng, *shape) for name, shape in SHAPES.items()}
    path = write(tmp_path, "mlp", {name: parts for name, (parts, _) in made.items()})
    tensors = from_safetensors(path, MLP)
    for name, (_, values) in made.items():
        assert np.allclose(getattr(tensors, VALUES[name]), values, rtol=2.0**-23, atol=0)
        held = tensors.stored(VALUES[name])
        assert held is not None and held.format.name == formats
    parts = made["down_proj"][0]
    compiled = compile_layer(MLP, SERVER, tensors=tensors, numerics=from_options(formats))
    codes, held = parts.get("", parts.get("_packed"))[0], tensors.stored("down")
    assert np.array_equal(rows_in_dram(compiled, "down", 256)[:, :codes.shape[1]], codes)
    assert held is not None and compiled.scales is not None and compiled.scales["down"] == held.factor
    scale, blocks = parts["_scale_inv" if "_scale_inv" in parts else "_scale"][0], held.scales
    if formats == "nvfp4":
        assert np.array_equal(blocks, scale)
    elif formats == "deepseek":
        relative = blocks.view("<f4")
        assert np.array_equal(relative * held.factor, np.repeat(scale, 128, axis=0)) and np.log2(held.factor) % 1 == 0
    elif formats != "e4m3":
        assert np.array_equal(np.log2(held.factor) + 127 - blocks, np.repeat(scale, len(blocks) // len(scale), axis=0))
    assert distance(compiled) < ROUNDING


def test_a_format_that_the_tile_is_not_asked_for_is_quantized_anew(tmp_path: Path, rng: np.random.Generator) -> None:
    made = {name: squares(rng, *shape) for name, shape in SHAPES.items()}
    tensors = from_safetensors(write(tmp_path, "mlp", {name: parts for name, (parts, _) in made.items()}), MLP)
    compiled = compile_layer(MLP, SERVER, tensors=tensors, numerics=from_options("e4m3"))
    assert not np.array_equal(rows_in_dram(compiled, "down", 256)[:, :384], made["down_proj"][0][""][0])
    assert distance(compiled) < ROUNDING


def test_one_scale_per_row_is_read_as_values(tmp_path: Path, rng: np.random.Generator) -> None:
    made = {name: per_row(rng, *shape) for name, shape in SHAPES.items()}
    tensors = from_safetensors(write(tmp_path, "mlp", {name: parts for name, (parts, _) in made.items()}), MLP)
    assert tensors.stored("gate") is None
    assert np.allclose(tensors.gate, made["gate_proj"][1], rtol=2.0**-22, atol=0)


@pytest.mark.parametrize(("head", "kept"), [(64, True), (128, True), (192, False)])
def test_blocks_where_heads_lie_apart(head: int, kept: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    """A head of 64 has half a block of 128, of 192 one and a half: there a block would have scales of two."""
    layer = AttentionLayer(hidden=256, heads=2, kv_heads=1, head_dim=head)
    workload, shapes = Workload(layer=layer, tokens=3), {
        "q_proj": (2 * head, 256), "k_proj": (head, 256), "v_proj": (head, 256), "o_proj": (256, 2 * head)}
    made = {name: squares(rng, *shape) for name, shape in shapes.items()}
    path = write(tmp_path, "self_attn", {name: parts for name, (parts, _) in made.items()})
    tensors = from_safetensors(path, workload)
    compiled = compile_layer(workload, SERVER, tensors=tensors, numerics=from_options("deepseek"))
    codes = rows_in_dram(compiled, "wo", 256)
    heads = codes[:, :2 * codes.shape[1] // 2].reshape(256, 2, -1)[:, :, :head]
    stored = made["o_proj"][0][""][0].reshape(256, 2, head)
    assert np.array_equal(heads, stored) is kept
    assert distance(compiled) < ROUNDING


def test_gpt_oss_experts(tmp_path: Path, rng: np.random.Generator) -> None:
    experts, hidden, width = 3, 64, 96
    layer = MoELayer(hidden=hidden, experts=experts, top_k=2, intermediate=width, norm_topk=True, biases=True,
                     scoring=Scoring(bias=True))
    workload, base = Workload(layer=layer, tokens=5), "model.layers.0.mlp."
    both = rng.integers(0, 256, (experts, 2 * width, hidden // 32, 16), np.uint8)
    down = rng.integers(0, 256, (experts, hidden, width // 32, 16), np.uint8)
    both_scale, down_scale = (rng.integers(120, 124, codes.shape[:3], np.uint8) for codes in (both, down))
    floats = {"router.weight": (experts, hidden), "router.bias": (experts,), "experts.gate_up_proj_bias":
              (experts, 2 * width), "experts.down_proj_bias": (experts, hidden)}
    tensors = {base + name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in floats.items()}
    tensors |= {base + "experts.gate_up_proj_blocks": both, base + "experts.gate_up_proj_scales": both_scale,
                base + "experts.down_proj_blocks": down, base + "experts.down_proj_scales": down_scale}
    path = write_safetensors(tmp_path / "model.safetensors", tensors, dtypes={
        name: "U8" for name, value in tensors.items() if value.dtype == np.uint8})
    read = from_safetensors(path, workload)
    own = read.expert(1)
    values = fp4_values(both[1].reshape(2 * width, -1)) * np.repeat(2.0 ** (both_scale[1] - 127.0), 32, axis=1)
    assert np.array_equal(own.gate, values[::2]) and np.array_equal(own.up, values[1::2])  # rows in turn
    held = read.stored((1, "up"))
    assert held is not None and np.array_equal(held.codes, both[1].reshape(2 * width, -1)[1::2])
    compiled = compile_layer(workload, SERVER, tensors=read, numerics=from_options("mxfp4"))
    assert compiled.routing is not None
    for expert in compiled.routing.active:
        stored = rows_in_dram(compiled, f"expert{expert}.down", hidden)[:, :width // 2]
        assert np.array_equal(stored, down[expert].reshape(hidden, -1))
    assert distance(compiled) < ROUNDING


@pytest.mark.parametrize(("change", "message"), [
    ({"_scale_inv": (np.ones((3, 3), np.float32), "F32")},
     r"weight_scale_inv: shape: expected one number, \(3, 2\) or \(384, 1\), got \(3, 3\)"),
    ({"_scale_inv": (-np.ones((3, 2), np.float32), "F32")}, "weight_scale_inv: expected positive numbers, got -1.0"),
    ({"": (np.full((384, 256), 0x7F, np.uint8), "F8_E4M3")},
     r"weight: element \(0, 0\): expected a finite number, got nan"),
    ({"": (np.zeros((384, 128), np.uint8), "F8_E4M3")},
     r"weight: shape of its values: expected \(384, 256\), got \(384, 128\)"),
    ({"_extra": (np.ones(1, np.float32), "F32")}, "gate_proj.weight_extra: the layer has no such tensor"),
], ids=["scale shape", "negative", "nan", "shape", "extra"])
def test_what_is_wrong_is_named(change: Parts, message: str, tmp_path: Path, rng: np.random.Generator) -> None:
    made = {name: squares(rng, *shape)[0] for name, shape in SHAPES.items()}
    made["gate_proj"] |= change
    with pytest.raises(WorkloadError, match=message):
        from_safetensors(write(tmp_path, "mlp", made), MLP)
