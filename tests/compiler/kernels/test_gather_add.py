"""The weighted combine: every slot is added once, in a fixed order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.kernels.grouped import expert_blocks
from tilescore.compiler.layers import Workload
from tilescore.compiler.lowering.experts import row_slots
from tilescore.compiler.routing import Routing
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.tests.compiler.kernels.test_grouped import experts_of
from tilescore.tests.compiler.play import EDGE, NANO, TALL, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

WORKLOAD = Workload(layer=MoELayer(hidden=72, experts=6, top_k=3, intermediate=32, norm_topk=True), tokens=21)


@hypothesis.given(tokens=st.integers(1, 50), experts=st.integers(1, 9), top_k=st.integers(1, 9),
                  m_tile=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_slots_are_those_that_the_experts_write(tokens: int, experts: int, top_k: int, m_tile: int,
                                                seed: int) -> None:
    """Ascending expert, whatever the rank, and independent of how blocks are cut."""
    top_k = min(top_k, experts)
    chosen = np.argsort(np.random.default_rng(seed).random((tokens, experts)), axis=1)[:, :top_k].astype(np.int32)
    routing = Routing(experts=experts, chosen=chosen, weights=np.ones((tokens, top_k), np.float32))
    owner = {}
    for block in expert_blocks(experts_of(routing), m_tile):
        owner |= {block.first + i: (int(token), block.expert.number) for i, token in enumerate(block.rows)}
    slots = row_slots(routing)
    assert slots.shape == (tokens, top_k) and len(owner) == slots.size
    for token in range(tokens):
        assert [owner[int(slot)] for slot in slots[token]] == [(token, int(e)) for e in sorted(chosen[token])]


@pytest.mark.parametrize("tile", [NANO, EDGE, TALL], ids=lambda tile: tile.name)
@pytest.mark.parametrize("rows, tiles", [(1, 1), (2, 3), (5, 1), (16, 2), (21, 1), (1000, 1)])
def test_no_cut_changes_a_bit(tile: TileConfig, rows: int, tiles: int) -> None:
    if tile is NANO:
        rows = min(rows, 20)  # two lists of 21 tokens do not fit its index memory
    base = compile_layer(WORKLOAD, tile, seed=1)
    schedule = base.schedule.change("combine", m_tile=rows, n_tiles=tiles)
    cut = compile_layer(WORKLOAD, tile, seed=1, schedule=schedule)
    assert same_bits(play(cut.program), play(base.program))


@pytest.mark.parametrize("rows, tiles, message", [
    (21, 13, r"combine: no room for sums \(m_tile \* n_tiles\): 273 accumulator rows need 18 banks"),
    (21, 9, r"combine: no room for gathered slots \(m_tile \* n_tiles\): 189 accumulator rows need 12 banks"),
])
def test_what_does_not_fit_names_the_keys(rows: int, tiles: int, message: str) -> None:
    schedule = compile_layer(WORKLOAD, NANO, data=False).schedule
    wide = schedule.change("combine", m_tile=rows, n_tiles=tiles)
    with pytest.raises(CompileError, match=message):
        compile_layer(WORKLOAD, NANO, schedule=wide, data=False)


def test_index_lists_come_one_by_one_where_they_do_not_fit_together() -> None:
    """Six lists of 21 tokens are 144 indices in whole bus beats, of which nano holds 128; one is 24."""
    workload = Workload(layer=dataclasses.replace(WORKLOAD.moe, top_k=6), tokens=21)
    base = compile_layer(workload, NANO, seed=1)
    schedule = base.schedule.change("combine", m_tile=21, n_tiles=1)
    assert same_bits(play(compile_layer(workload, NANO, seed=1, schedule=schedule).program), play(base.program))
    with pytest.raises(CompileError, match=r"combine: no room for lists of slots \(m_tile\): 24 indices, 16 "
                                           r"entries free of index_entries = 16"):
        compile_layer(workload, dataclasses.replace(NANO, index_entries=16), schedule=schedule, data=False)
