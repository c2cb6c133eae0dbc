"""Bounds are lower than every schedule, and not idle: small spaces of schedules, enumerated.

The spaces are those of one matmul at a time: every combination of the fields below, the rest as `auto` has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import pytest

from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.schedule import FlashSchedule, GemmSchedule, Schedule
from tilescore.rtl.spec.errors import CompileError
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EVERY_FORMAT


def gemm_space(gemm: GemmSchedule, k: int) -> Iterator[GemmSchedule]:
    """Every way to cut a matmul, legal or not: heights, chunks of k, tiles per piece and group, orders of the loops."""
    for m_tile, chunks, n_tiles, groups, (resident, outer) in product(
            (EVERY_FORMAT.rows, 2 * EVERY_FORMAT.rows, 8 * EVERY_FORMAT.rows), (1, 2), (1, 2, 4), (1, 2, 8),
            ((True, False), (True, True), (False, True))):
        yield dataclasses.replace(gemm, m_tile=m_tile, k_tile=-(-k // chunks), n_tiles=n_tiles,
                                  group_tiles=groups * n_tiles, a_resident=resident, k_outer=outer)


def space(schedule: Schedule, k: int) -> Iterator[Schedule]:
    """Schedules that differ from ``schedule`` in one matmul (two that must have equal heights), or in the core."""
    if "core" in schedule.kernels:
        for name in ("q", "k", "v", "out"):
            for gemm in gemm_space(schedule[name], k):
                yield schedule.replace({name: gemm})
        for rows, keys, tiles in product((4, 8, 16), (32, 64), (1, 2, 4)):
            yield schedule.replace({"core": FlashSchedule(q_rows=rows, kv_tile=keys, q_tiles=tiles)})
        return
    for one, other in (("experts.gate_up", "experts.down"), ("experts.down", "experts.gate_up")):
        for gemm in gemm_space(schedule[one], k):
            yield schedule.replace({one: gemm}).change(other, m_tile=gemm.m_tile)
    for gemm in gemm_space(schedule["router"], k):
        yield schedule.replace({"router": gemm})


def cycles_of(workload: Workload, numerics: Numerics, schedule: Schedule | None) -> tuple[int, int, Schedule]:
    """Cycles, their bound, and the schedule."""
    routing = "balanced" if workload.layer.kind == "moe" else None
    compiled = compile_layer(workload, EVERY_FORMAT, data=False, numerics=numerics, schedule=schedule, routing=routing)
    limit = bounds(workload, EVERY_FORMAT, compiled.routing, numerics)
    return time_program(compiled.program).cycles, limit.cycles, compiled.schedule


TINY = {
    "attention": Workload(layer=AttentionLayer(hidden=64, heads=2, kv_heads=1, head_dim=16), tokens=9, mask="none"),
    "decode": Workload(layer=AttentionLayer(hidden=64, heads=4, kv_heads=1, head_dim=16), tokens=1, context=50),
    "moe": Workload(layer=MoELayer(hidden=64, experts=2, top_k=1, intermediate=64, norm_topk=True), tokens=9),
}


@pytest.mark.parametrize("preset, step", [("e4m3", 13), *(
    pytest.param(preset, 3, marks=pytest.mark.slow) for preset in ("e4m3", "nvfp4", "w4a8-mxfp4", "deepseek"))])
@pytest.mark.parametrize("workload", TINY.values(), ids=TINY)
def test_no_schedule_of_a_small_space_beats_the_bound(workload: Workload, preset: str, step: int) -> None:
    """Every third schedule of the space with --slow, else every 13th."""
    numerics = Numerics(formats=PRESETS[preset])
    first, limit, schedule = cycles_of(workload, numerics, None)
    found, k = [first], max(64, PRESETS[preset].activations.block)
    for other in islice(space(schedule, k), 0, None, step):
        try:
            cycles, same, _ = cycles_of(workload, numerics, other)
        except CompileError:
            continue
        assert cycles >= same == limit, other
        found.append(cycles)
    assert len(found) > 60 / step and len(set(found)) > 1, "too few legal schedules to say anything"


def experts(hidden: int, intermediate: int, tokens: int, experts: int = 1) -> Workload:
    return Workload(layer=MoELayer(hidden=hidden, experts=experts, top_k=experts, intermediate=intermediate,
                                   norm_topk=True), tokens=tokens)


def dense(hidden: int, tokens: int, **request: Any) -> Workload:
    return Workload(layer=AttentionLayer(hidden=hidden, heads=2, kv_heads=1, head_dim=64), tokens=tokens, mask="none",
                    **request)


REACHED = {
    "compute, e4m3 experts": ("compute_cycles", experts(512, 512, 32), "e4m3"),
    "compute, nvfp4 experts": ("compute_cycles", experts(1024, 1024, 64), "nvfp4"),
    "compute, w4a8 experts": ("compute_cycles", experts(512, 512, 32), "w4a8-mxfp4"),
    "compute, mxfp8 experts": ("compute_cycles", experts(1024, 1024, 64), "mxfp8"),
    "compute, e4m3 attention": ("compute_cycles", dense(2048, 64), "e4m3"),
    "DRAM, e4m3 experts": ("dram_cycles", experts(512, 512, 1, 2), "e4m3"),
    "DRAM, nvfp4 experts": ("dram_cycles", experts(512, 512, 1, 2), "nvfp4"),
    "DRAM, w4a8 experts": ("dram_cycles", experts(1024, 512, 1, 2), "w4a8-mxfp4"),
    "DRAM, deepseek experts": ("dram_cycles", experts(512, 512, 1, 2), "deepseek"),
}
"""Layers large enough that filling and draining the tile is below a tenth."""


@pytest.mark.parametrize("which, workload, preset", REACHED.values(), ids=REACHED)
def test_the_bound_is_reached_within_a_tenth(which: str, workload: Workload, preset: str) -> None:
    numerics = Numerics(formats=PRESETS[preset])
    cycles, limit, _ = cycles_of(workload, numerics, None)
    assert limit == getattr(bounds(workload, EVERY_FORMAT, numerics=numerics), which)
    assert limit <= cycles <= limit / 0.9
