"""Layers on an architect's own tile: whatever a `TileConfig` allows compiles, exactly, or names the change that helps.

Tiles are drawn over the whole range of every key. A layer's bits are those of a preset, since they follow from its
numerics alone (docs/decisions/0011). A tile that is too small for a layer is refused with a change of one of its keys
or two, which is made, and then the layer compiles.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer, fitting_change
from tilescore.compiler.layer_readers import LAYERS, attention_layer, moe_layer
from tilescore.compiler.layers import Layer, Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.models import load_model, parse_config
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.routing import Routing
from tilescore.compiler.routing_loads import balanced
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError, DoesNotFit
from tilescore.rtl.spec.tile_keys import KEYS
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import time_program
from tilescore.testing.random_tile import large_enough, random_tile
from tilescore.tests.compiler.play import play, same_bits
from tilescore.tests.compiler.tiny import tiny_config

EXPERTS, DENSE = (parse_config(tiny_config(name), name="tiny", source="test") for name in ("qwen3_moe", "qwen3"))
WORKLOADS = [Workload(layer=LAYERS[kind](model), tokens=5) for kind, model in (
    ("attention", DENSE), ("moe", EXPERTS), ("mlp", DENSE), ("norm", DENSE), ("decoder", EXPERTS))]
"""Two of them are tried on each tile."""


@cache
def expected(number: int, acc_bits: int) -> tuple[LayerTensors, np.ndarray]:
    """Tensors of a workload, and its result on a tile with room for everything."""
    planes = -(-acc_bits // 32)
    tile = dataclasses.replace(load_tile("edge"), acc_bits=acc_bits, acc_banks=12 * planes)
    tensors = synthetic(WORKLOADS[number], number)
    return tensors, play(compile_layer(WORKLOADS[number], tile, tensors=tensors).program)


def try_tile(tile: TileConfig, number: int) -> str:
    """"at once", or "changed" if the layer compiles with the error's own suggestion, "neither" without one."""
    tensors, bits = expected(number, tile.acc_bits)
    try:
        program = compile_layer(WORKLOADS[number], tile, tensors=tensors).program
        how = "at once"
    except DoesNotFit:
        change = fitting_change(WORKLOADS[number], tile, tensors=tensors)
        if change is None:
            return "neither"
        assert change.tile == dataclasses.replace(tile, **change.values)
        program, how = compile_layer(WORKLOADS[number], change.tile, tensors=tensors).program, "changed"
    assert same_bits(play(program), bits), f"{tile} {WORKLOADS[number]}"
    assert time_program(program).cycles > 0
    return how


def try_tiles(seeds: range, workloads: int) -> Counter[str]:
    """How many layers go how, two per tile."""
    tiles = [random_tile(seed, most_bytes=1 << 17) for seed in seeds]
    return Counter(try_tile(tile, (seed + second) % workloads)
                   for seed, tile in zip(seeds, tiles, strict=True) for second in (0, 1))


def test_layers_on_random_tiles() -> None:
    found = try_tiles(range(24), 4)
    assert found["at once"] >= 36 and found["changed"] > 0 and not found["neither"], found


@pytest.mark.slow
def test_layers_on_many_random_tiles() -> None:
    """Of the smallest tiles, a few need more of two memories."""
    found = try_tiles(range(100, 300), len(WORKLOADS))
    assert found["at once"] >= 300 and found["changed"] > 0 and not found["neither"], found


SMALLEST = (107, 113, 119, 141, 142, 143, 147, 151, 165, 168, 175, 210, 216, 219, 236, 237, 262, 281, 282, 299)
"""Seeds of the many tiles below with the least PEs x lanes x (1 + formats), by which simulators are built."""


@pytest.mark.sampled
@pytest.mark.parametrize("seed", SMALLEST)
def test_random_tiles_in_hardware(seed: int) -> None:
    """Results and cycles of every level agree."""
    tile, number = random_tile(seed, most_bytes=1 << 17), seed % len(WORKLOADS)
    tensors, bits = expected(number, tile.acc_bits)
    try:
        program = compile_layer(WORKLOADS[number], tile, tensors=tensors).program
    except DoesNotFit:
        change = fitting_change(WORKLOADS[number], tile, tensors=tensors)
        assert change is not None
        program = compile_layer(WORKLOADS[number], change.tile, tensors=tensors).program
    outputs = simulate(program, LEVELS, backend="verilator").outputs
    assert outputs is not None and same_bits(outputs[program.outputs[0].name], bits)


def routing_of(layer: Layer, rows: int) -> Routing | None:
    if layer.kind != "moe":
        return None
    chosen = balanced(tokens=rows, experts=layer.experts, top_k=layer.top_k, seed=0)
    return Routing(experts=layer.experts, chosen=chosen, weights=np.ones(chosen.shape, np.float32))


def share_with_schedule(layer: Layer, seeds: range) -> float:
    workload, found = Workload(layer=layer, tokens=16), 0
    for seed in seeds:
        try:
            choose_schedule(workload, random_tile(seed, accept=large_enough), Numerics(), routing_of(layer, 16))
            found += 1
        except DoesNotFit:
            pass
    return found / len(seeds)


GRANITE = load_model("granite-3.0-1b-a400m")


@pytest.mark.parametrize(("layer", "count"), [
    (attention_layer(GRANITE), 60), (attention_layer(DENSE), 60), (moe_layer(EXPERTS), 60)],
    ids=["granite attention", "tiny attention", "tiny moe"])
def test_above_the_documented_size_layers_compile_at_once(layer: Layer, count: int) -> None:
    assert share_with_schedule(layer, range(count)) >= 0.95


@pytest.mark.slow
def test_above_the_documented_size_experts_of_a_model_compile_at_once() -> None:
    assert share_with_schedule(moe_layer(GRANITE), range(60)) >= 0.95


# The generator -----------------------------------------------------------------------------------------


def test_random_tiles_are_seeded_and_differ_in_every_key() -> None:
    tiles = [random_tile(seed) for seed in range(300)]
    assert tiles[:20] == [random_tile(seed) for seed in range(20)]
    assert tiles[7] == random_tile(7, accept=lambda tile: True) and tiles[7].name == "random 7"
    for key in KEYS.values():
        values = {getattr(tile, key.name) for tile in tiles}
        assert len(values) >= min(2, len(key.choices) or 2), key.name
        if key.kind == "integer" and not key.choices and key.name not in ("a_buffer_bytes", "b_buffer_bytes"):
            assert min(values) <= 4 * max(key.low, 1) and max(values) >= key.high // 4, key.name
    assert any(tile.a_bank_groups & tile.a_bank_groups - 1 for tile in tiles)


def test_random_tiles_are_those_that_are_accepted() -> None:
    assert random_tile(3, accept=lambda tile: tile.cols == 64).cols == 64
    assert {"e2m1", "e4m3"} <= set(random_tile(3, build=("e4m3", "e2m1")).formats)
    with pytest.raises(ValueError, match="accept: expected at least one of"):
        random_tile(0, accept=lambda tile: False)
    with pytest.raises(ConfigError):
        dataclasses.replace(random_tile(3), rows=5)
