"""`compile_layer`: what it returns, what it refuses, and that its programs are verified, on every tile."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.schedule import GemmSchedule, Schedule
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.errors import CompileError, WorkloadError
from tilescore.sim.legality.verifier import verify
from tilescore.tests.compiler.play import EDGE, NANO, TILES, play, same_bits

ATTENTION = Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=32), tokens=9, context=5)
MOE = Workload(layer=MoELayer(hidden=48, experts=5, top_k=2, intermediate=32, norm_topk=True), tokens=9)
BOTH = pytest.mark.parametrize("workload", [ATTENTION, MOE], ids=["attention", "moe"])


@BOTH
@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_a_compiled_layer_is_complete(tile: Any, workload: Workload) -> None:
    compiled = compile_layer(workload, tile, seed=7)
    verify(compiled.program)
    assert compiled.workload == workload and compiled.program.config == tile
    assert [region.name for region in compiled.program.outputs] == ["out"]
    assert compiled.program.outputs[0].shape == (workload.rows, workload.layer.hidden)
    held = compiled.tensors
    assert held is not None and compiled.expected is not None
    if held.load_expert is None:
        assert compiled.routing is None
        assert compiled.schedule == choose_schedule(workload, tile)
        assert np.array_equal(compiled.expected, float64_layer(held).out)
    else:
        assert compiled.routing is not None
        assert compiled.schedule == choose_schedule(workload, tile, routing=compiled.routing)
        assert np.array_equal(compiled.expected, float64_layer(held, compiled.routing).out)


@BOTH
def test_every_instruction_has_a_label_or_is_the_halt(workload: Workload) -> None:
    program = compile_layer(workload, NANO, data=False).program
    unnamed = [i.spec.name for i, label in zip(program.instructions, program.labels, strict=True) if not label]
    assert unnamed == ["HALT"]


@BOTH
def test_the_seed_decides_the_tensors_and_nothing_else_does(workload: Workload) -> None:
    one, again, other = (compile_layer(workload, NANO, seed=seed) for seed in (1, 1, 2))
    assert same_bits(play(one.program), play(again.program))
    assert not same_bits(play(one.program), play(other.program))
    assert one.program.instructions == again.program.instructions


@BOTH
def test_given_tensors_are_used(workload: Workload) -> None:
    held = synthetic(workload, 3)
    assert same_bits(play(compile_layer(workload, NANO, tensors=held).program),
                     play(compile_layer(workload, NANO, seed=3).program))


@BOTH
def test_a_chosen_schedule_given_back_changes_nothing(workload: Workload) -> None:
    first = compile_layer(workload, NANO)
    second = compile_layer(workload, NANO, schedule=first.schedule)
    assert first.program.instructions == second.program.instructions and second.schedule == first.schedule


def test_data_is_made_when_it_is_needed() -> None:
    """A program for timing holds no weights: every segment is zeros, a list of indices, or a function."""
    for workload in (ATTENTION, MOE):
        program = compile_layer(workload, EDGE, data=False).program
        held = sum(segment.data.size for segment in program.segments if isinstance(segment.data, np.ndarray))
        assert held < 2048


# Wrong arguments ---------------------------------------------------------------------------------------

SMALL = GemmSchedule(m_tile=4, k_tile=16, n_tiles=1, group_tiles=4)
EVERY = {name: Schedule(kernels=choose_schedule(workload, NANO, routing=routing).kernels)
         for name, workload, routing in (("attention", ATTENTION, None),
                                         ("moe", MOE, compile_layer(MOE, NANO, data=False).routing))}


@pytest.mark.parametrize("workload, options, message", [
    (ATTENTION, {"schedule": EVERY["moe"]},
     "schedule: kernels: router is none of this layer's; allowed: q, k, v, core, out"),
    (MOE, {"schedule": EVERY["attention"]},
     "schedule: kernels: q is none of this layer's; allowed: router, experts.gate_up, experts.down, combine"),
    (ATTENTION, {"schedule": Schedule(kernels={"q": SMALL})},
     "schedule: kernels: expected each of q, k, v, core, out once, got q"),
    (ATTENTION, {"schedule": EVERY["attention"].replace({"core": SMALL})},
     "schedule: core: kernel: expected flash, got gemm"),
    (ATTENTION, {"schedule": EVERY["attention"]},
     "schedule: order: expected each of q, k, v, core, out once, got none"),
    (ATTENTION, {"schedule": dataclasses.replace(EVERY["attention"], order=("q", "v", "core", "k", "out"))},
     "schedule: order: k must come before core, which reads what it makes, got q, v, core, k, out"),
    (ATTENTION, {"schedule": SMALL}, "schedule: expected a Schedule or None, got GemmSchedule"),
    (MOE, {"schedule": {"order": []}}, "schedule: expected a Schedule or None, got dict"),
    (ATTENTION, {"routing": "balanced"}, "routing 'balanced': only an MoE layer is routed, this one is attention"),
    (ATTENTION, {"tensors": synthetic(MOE)}, r"tensors: expected those of Workload\(layer=AttentionLayer.*, got those "
                                             r"of Workload\(layer=MoELayer"),
    (MOE, {"tensors": synthetic(dataclasses.replace(MOE, tokens=8))}, r"tensors: expected those of .*tokens=9.*, got "
                                                                      r"those of .*tokens=8"),
])
def test_wrong_arguments_are_named(workload: Workload, options: dict, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compile_layer(workload, NANO, **options)


@pytest.mark.parametrize("options, message", [
    ({"seed": -1}, "seed: expected an integer from 0"), ({"seed": 1.5}, "seed: expected an integer"),
    ({"routing": "zipf-99"}, "expected an exponent from 0 to 10"),
    ({"routing": "nowhere.json"}, "expected balanced, .*zipf-S .* a JSON file"),
])
def test_wrong_values_are_named(options: dict, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        compile_layer(MOE, NANO, **options)


def test_a_tensor_with_nan_is_refused() -> None:
    held = synthetic(ATTENTION)
    x = held.x.copy()
    x[3, 4] = np.nan
    with pytest.raises(WorkloadError, match=r"attention tensors of custom: x: element \(3, 4\): expected a finite "
                                            r"number, got nan"):
        held.replace(x=x)


def test_zero_tensors_give_zeros_and_no_nan() -> None:
    """All-zero scores, norms of zero, sums of ones, scales of 1: nothing divides by zero."""
    alone = dataclasses.replace(ATTENTION, context=0)
    normed = dataclasses.replace(alone, layer=dataclasses.replace(ATTENTION.attention, qk_norm="head"))
    for workload in (alone, normed, MOE):
        held = synthetic(workload)
        zeros: Any = held.replace(x=np.zeros_like(held.x))
        assert not play(compile_layer(workload, NANO, tensors=zeros).program).any()


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_the_scale_of_a_tensor_does_not_change_the_error(scale: float) -> None:
    """A power of two on the weights of the last projection goes straight to the result, bit for bit."""
    held = synthetic(ATTENTION, 1)
    scaled = held.replace(wo=held.wo * np.float32(scale))
    base, large = (play(compile_layer(ATTENTION, NANO, tensors=t).program) for t in (held, scaled))
    assert same_bits(base * np.float32(scale), large)
