"""The router's logits: how terms split a tensor, bit equality with the tile, and how often they choose like float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.choice import own_route
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.dram import float_output
from tilescore.compiler.emitter import Emitter
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.flips import flipped_tokens, float64_logits, float64_routed, margins
from tilescore.compiler.graph.calibrate import Scales
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.logits import (
    accumulated_logits,
    input_scales,
    kept_products,
    split_terms,
    term_products,
    term_values,
    tile_logits,
)
from tilescore.compiler.lowering.plan import layer_plan
from tilescore.compiler.lowering.router import ToWeights
from tilescore.compiler.numerics import DEFAULT, ROUTER_TERMS, Numerics
from tilescore.compiler.routing import route
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.numerics.arithmetic import exact_matmul_e4m3, round_acc_to_fp32
from tilescore.sim.program import Program
from tilescore.sim.simulate import simulate
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL, bundled_layers, play, same_bits

LAYER = MoELayer(hidden=40, experts=6, top_k=2, intermediate=20, norm_topk=True)
WORKLOAD = Workload(layer=LAYER, tokens=5, batch=2)


def tensors_of(workload: Workload, seed: int) -> LayerTensors:
    held = synthetic(workload, seed)
    return held


# ---- terms ----


def test_products_of_terms() -> None:
    assert term_products(1) == [(0, 0)]
    assert sorted(term_products(2)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(term_products(3)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]


@pytest.mark.parametrize("amax", [448.0, 7.3, 2.0**-100, 3e38])
def test_terms_sum_to_the_tensor(amax: float, rng: np.random.Generator) -> None:
    """Each term leaves at most 2**-4 of what it rounds, or half of the smallest code, 2**-10."""
    x = (rng.standard_normal((50, 64)) * 10.0 ** rng.uniform(-5, 0, (50, 64))).astype(np.float32)
    x *= np.float32(amax / 448) * np.float32(448 / np.abs(x).max())
    scale = float(np.float32(np.abs(x).max()) / np.float32(448))
    exact = (x / np.float32(scale)).astype(np.float64)
    rest = exact.copy()
    for codes in split_terms(x, scale, 3):
        values = decode_e4m3_float(codes)
        assert (np.abs(rest - values) <= np.maximum(np.abs(rest) / 16 + 1e-4, 2.0**-10)).all()
        rest -= values
    assert np.abs(rest).max() <= 448 / 16**3 + 1e-4


def test_the_first_term_is_what_one_term_is(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 33)).astype(np.float32)
    assert np.array_equal(split_terms(x, 0.01, 3)[0], split_terms(x, 0.01, 1)[0])


def test_zeros_have_zero_terms() -> None:
    assert not any(codes.any() for codes in split_terms(np.zeros((2, 3), np.float32), 1.0, 3))


@pytest.mark.parametrize("terms", ROUTER_TERMS)
def test_logits_are_exact_sums_of_products_of_codes(terms: int, seed: int) -> None:
    """Against the matmul of codes side by side, and against the sum in float64: one rounding to FP32, 2**-24."""
    held = tensors_of(WORKLOAD, seed)
    scales = input_scales(held)
    x, router = (split_terms(a, scale, terms) for a, scale in zip((held.x, held.router), scales, strict=True))
    pairs = term_products(terms)
    total, nan = exact_matmul_e4m3(np.concatenate([x[i] for i, _ in pairs], axis=1),
                                   np.concatenate([router[j] for _, j in pairs], axis=1))
    assert same_bits(accumulated_logits(held, terms), round_acc_to_fp32(total, -18, nan))
    values = (term_values(a, scale, terms) for a, scale in zip((held.x, held.router), scales, strict=True))
    float64 = kept_products(*values) * (scales[0] * scales[1])
    assert np.allclose(tile_logits(held, terms), float64, rtol=2.0**-23, atol=np.abs(float64).max() * 2.0**-40)


def test_terms_bring_logits_closer_to_float64(seed: int) -> None:
    """Errors relative to the spread of logits: about 4e-2, 1e-3, 1.2e-4 (docs/decisions/0012-router-terms.md)."""
    held = tensors_of(Workload(layer=MoELayer(hidden=2048, experts=64, top_k=8, intermediate=8, norm_topk=True),
                               tokens=64), seed)
    exact = float64_logits(held)
    errors = [np.sqrt(np.mean((tile_logits(held, terms) - exact) ** 2)) / exact.std() for terms in ROUTER_TERMS]
    assert errors[0] < 0.08 and errors[1] < errors[0] / 15 and errors[2] < errors[1] / 3


# ---- ties ----


@pytest.mark.parametrize("terms", ROUTER_TERMS)
def test_near_ties_are_decided_as_the_tile_does(terms: int) -> None:
    """Two experts with equal codes have equal logits, even if their weights differ in float; the lower index wins."""
    held = tensors_of(WORKLOAD, 2)
    router = held.router.copy()
    router[4] = np.nextafter(router[1], np.float32(np.inf))
    tied = held.replace(router=router)
    logits = tile_logits(tied, terms)
    assert np.array_equal(logits[:, 1], logits[:, 4])
    routing = compile_layer(WORKLOAD, NANO, tensors=tied, numerics=Numerics(router_terms=terms)).routing
    assert routing is not None
    chosen = [set(row.tolist()) for row in routing.chosen]
    assert not any(4 in row and 1 not in row for row in chosen) and any(1 in row for row in chosen)


# ---- on the tile ----


class _Bare(Emitter):
    """Leaves the vector unit out: what the router then stores are its logits as the drain rounds them."""

    def compute(self, *_: Any, **__: Any) -> None:
        pass


def logits_program(held: LayerTensors, tile: TileConfig, terms: int, schedule: GemmSchedule | None = None) -> Program:
    workload, numerics = held.workload, Numerics(router_terms=terms)
    routing = route(tile_logits(held, terms), workload.moe.top_k, norm_topk=True)
    steps = layer_plan(workload, tile, numerics, routing)
    whole = steps.schedule()
    x, router = input_scales(held)
    scales = Scales({"x": x, "x terms": x, "router terms": router} | {
        (expert, name): 1.0 for expert in routing.active for name in ("gate", "up", "down", "product")})
    builder = ProgramBuilder(tile)
    job = steps.lay_out(builder, whole if schedule is None else whole.replace({"router": schedule}), scales, held)
    job.emitter = _Bare(builder)
    router = next(step for step in steps.steps if isinstance(step, ToWeights))
    router.emit(job)
    float_output(builder, "out", job.memory[router.makes], workload.rows, workload.moe.experts)
    return builder.finish()


@pytest.mark.parametrize("terms", ROUTER_TERMS)
@pytest.mark.parametrize("tile", [NANO, EDGE, SERVER, SQUAT, TALL], ids=lambda tile: tile.name)
def test_the_tile_computes_the_same_bits(tile: TileConfig, terms: int, seed: int) -> None:
    """Those by which the compiler has chosen the experts."""
    layer = MoELayer(hidden=700, experts=11, top_k=2, intermediate=20, norm_topk=True)
    for workload in (WORKLOAD, Workload(layer=layer, tokens=9)):
        held = tensors_of(workload, seed)
        assert same_bits(play(logits_program(held, tile, terms)), accumulated_logits(held, terms))


@pytest.mark.parametrize("schedule", [
    GemmSchedule(m_tile=3, k_tile=16, n_tiles=1, group_tiles=2),
    GemmSchedule(m_tile=8, k_tile=32, n_tiles=2, group_tiles=2, k_outer=True),
    GemmSchedule(m_tile=5, k_tile=16, n_tiles=1, group_tiles=2, a_resident=False),
    GemmSchedule(m_tile=10, k_tile=32, n_tiles=1, group_tiles=2, a_resident=False, k_outer=True)])
def test_schedules_do_not_change_the_logits(schedule: GemmSchedule) -> None:
    held = tensors_of(WORKLOAD, 1)
    for terms in ROUTER_TERMS:
        assert same_bits(play(logits_program(held, NANO, terms, schedule)), accumulated_logits(held, terms))


@pytest.mark.skipif(bool(missing_for_verilator()), reason="lacks " + ", ".join(missing_for_verilator()))
@pytest.mark.parametrize("terms", ROUTER_TERMS)
def test_the_hardware_computes_the_same_bits(terms: int) -> None:
    held = tensors_of(WORKLOAD, 7)
    program = logits_program(held, NANO, terms)
    verify(program)
    result = simulate(program, ("reference", "timing", "rtl"))
    assert result.outputs is not None and same_bits(result.outputs["out"], accumulated_logits(held, terms))


# ---- flips ----


def test_flips_are_other_sets_and_not_other_orders() -> None:
    logits = np.array([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    own = route(logits, 2, norm_topk=True).chosen
    assert flipped_tokens(own, np.array([[1, 0], [0, 2], [3, 2]])).tolist() == [False, True, False]
    assert margins(logits, 2).tolist() == [1, 1, 1] and np.isinf(margins(logits, 4)).all()


def test_the_error_with_float64_s_routing_is_that_of_the_whole_layer(seed: int) -> None:
    """Only flipped tokens are computed again; one term flips some of 60."""
    workload = Workload(layer=dataclasses.replace(LAYER, experts=12, top_k=3), tokens=60)
    held = tensors_of(workload, seed)
    compiled = compile_layer(workload, NANO, tensors=held, numerics=Numerics(router_terms=1))
    whole = float64_layer(held)
    assert compiled.routing is not None and compiled.expected is not None and compiled.expected_routed is not None
    assert np.allclose(compiled.expected_routed, whole.out, rtol=1e-12, atol=1e-12)
    flipped = flipped_tokens(whole.routing.chosen, compiled.routing.chosen)
    assert compiled.flipped == flipped.sum()
    assert np.array_equal(compiled.expected_routed[~flipped], compiled.expected[~flipped])
    assert flipped.any() or float64_routed(held, compiled.expected, flipped) is compiled.expected


def test_a_forced_routing_has_no_flips() -> None:
    compiled = compile_layer(WORKLOAD, NANO, routing="balanced")
    assert compiled.flipped is None and compiled.expected_routed is None


def moe_layers() -> Iterator[Any]:
    """Those of the bundled models; of the widest, a sample."""
    for layer in bundled_layers("moe"):
        marks = [pytest.mark.sampled] if layer.hidden > 4096 else []
        yield pytest.param(layer, id=layer.model, marks=marks)


@pytest.mark.parametrize("layer", moe_layers())
def test_fewer_than_one_token_in_a_hundred_flips(layer: MoELayer) -> None:
    """512 tokens of each bundled shape; one term flips 4 to 31 %."""
    held = tensors_of(Workload(layer=layer, tokens=512), 0)
    exact = own_route(held, float64_logits(held)).chosen
    share = {terms: flipped_tokens(exact, own_route(held, tile_logits(held, terms)).chosen).mean()
             for terms in (1, DEFAULT.router_terms)}
    assert share[DEFAULT.router_terms] < 0.01 < share[1]
