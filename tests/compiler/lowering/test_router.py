"""The router on the tile: combine weights of every token and expert, from the tile's own logits."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import Workload
from tilescore.compiler.logits import tile_logits
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.sim.reference.run import run_reference
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, TALL


def weight_error(logits: np.ndarray) -> np.ndarray:
    """(rows, 1) bound on the relative error of the combine weights, in units of 2**-24.

    In the exponent: the factor's rounding, that of both products and of their difference, at most 6 times the
    largest logit. Besides: exp2 and reciprocal 2**-22 each, the sum's grid of 2**-24, two products: 16 in all.
    """
    largest = np.abs(np.where(np.isfinite(logits), logits, 0)).max(axis=1, keepdims=True)
    return (6 * largest + 16) * 2.0**-24


def combine_weights(compiled: CompiledLayer) -> np.ndarray:
    """(rows, experts) FP32 weights that the tile wrote to DRAM."""
    program, config = compiled.program, compiled.program.config
    segment = next(s for s in program.segments if s.name == "weights")
    rows, experts = compiled.workload.rows, compiled.workload.moe.experts
    words = run_reference(program).dram[segment.addr:segment.addr + segment.size].view("<f4")
    assert words.size == rows * -(-experts // config.cols) * config.cols
    return words.reshape(rows, -1)[:, :experts]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("experts, top_k", [(1, 1), (6, 2), (33, 5), (40, 40)])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("tile", [NANO, EDGE, SERVER, TALL], ids=lambda tile: tile.name)
def test_weights_are_the_softmax(tile: TileConfig, norm: bool, experts: int, top_k: int) -> None:
    """Over the chosen experts if the layer renormalizes (zero elsewhere), else over all of them."""
    if tile in (NANO, TALL):
        top_k = min(top_k, 8)  # the combine's index lists of 40 experts would not fit
    layer = MoELayer(hidden=48, experts=experts, top_k=top_k, intermediate=8, norm_topk=norm)
    compiled = compile_layer(Workload(layer=layer, tokens=19), tile, seed=2)
    held, routing = compiled.tensors, compiled.routing
    assert routing is not None
    logits = tile_logits(held, compiled.numerics.router_terms)
    if norm:
        chosen = np.zeros(logits.shape, bool)
        np.put_along_axis(chosen, routing.chosen.astype(np.int64), True, axis=1)
        logits = np.where(chosen, logits, -np.inf)
    expected = softmax(logits)
    weights = combine_weights(compiled)
    assert (np.abs(weights - expected) <= expected * weight_error(logits) + 2.0**-126).all()
    if norm:
        assert not weights[~chosen].any()


def test_rows_in_several_blocks() -> None:
    """Every block of m_tile rows has its own maxima, sums and bias rows."""
    workload = Workload(layer=MoELayer(hidden=48, experts=9, top_k=3, intermediate=8, norm_topk=True), tokens=19)
    whole = compile_layer(workload, NANO)
    schedule = whole.schedule
    expected = combine_weights(whole)
    for m_tile in (1, 3, 4, 5, 8):
        router = GemmSchedule(m_tile=m_tile, k_tile=16, n_tiles=1, group_tiles=3)
        cut = compile_layer(workload, NANO, schedule=schedule.replace({"router": router}))
        assert np.array_equal(combine_weights(cut), expected)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    """Logits of thousands: the largest expert has weight 1, the others 0, and nothing is NaN."""
    workload = Workload(layer=MoELayer(hidden=48, experts=6, top_k=2, intermediate=8, norm_topk=False), tokens=9)
    held = synthetic(workload, 3)
    large = held.replace(router=held.router * np.float32(1e4))
    weights = combine_weights(compile_layer(workload, NANO, tensors=large))
    assert np.isfinite(weights).all() and np.allclose(weights.sum(axis=1), 1)
    assert (weights.max(axis=1) > 0.99).mean() > 0.5


def test_the_softmax_needs_all_experts_in_a_group() -> None:
    workload = Workload(layer=MoELayer(hidden=48, experts=9, top_k=3, intermediate=8, norm_topk=True), tokens=19)
    schedule = compile_layer(workload, NANO, data=False).schedule
    part = schedule.change("router", group_tiles=2, n_tiles=1)
    with pytest.raises(CompileError, match="router: group_tiles must be at least 3, the softmax is over all experts, "
                                           "got 2"):
        compile_layer(workload, NANO, schedule=part)
