"""The experts' blocks, and how their work overlaps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.dram import Matrix
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.kernels.grouped import Expert, expert_blocks
from tilescore.compiler.layers import Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.operands import Operand
from tilescore.compiler.routing import Routing
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EDGE, NANO, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

LAYER = MoELayer(hidden=48, experts=6, top_k=2, intermediate=32, norm_topk=True)


def routing_of(rng: np.random.Generator, tokens: int, experts: int, top_k: int) -> Routing:
    chosen = np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k].astype(np.int32)
    return Routing(experts=experts, chosen=chosen, weights=np.ones((tokens, top_k), np.float32))


def experts_of(routing: Routing) -> list[Expert]:
    """The list that a routing makes, without weights."""
    nothing = Operand(Matrix(0, 0, 0, 0), 0, TENSOR_FORMATS["e4m3"])
    return [Expert(number=e, rows=routing.tokens_of(e)[0], gate_up=nothing, down=nothing, gate=1, up=1, product=1,
                   weigh=1) for e in routing.active]


@hypothesis.given(tokens=st.integers(1, 60), experts=st.integers(1, 9), top_k=st.integers(1, 9),
                  m_tile=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_blocks_hold_every_choice_once(tokens: int, experts: int, top_k: int, m_tile: int, seed: int) -> None:
    routing = routing_of(np.random.default_rng(seed), tokens, experts, min(top_k, experts))
    blocks = expert_blocks(experts_of(routing), m_tile)
    pairs = [(int(token), block.expert.number) for block in blocks for token in block.rows]
    assert sorted(pairs) == sorted((t, int(e)) for t, row in enumerate(routing.chosen) for e in row)
    slot = 0
    for block in blocks:
        assert block.first == slot and 1 <= len(block.rows) <= m_tile
        assert (np.diff(block.rows) > 0).all()
        slot += len(block.rows)


def labels_of(compiled: CompiledLayer) -> list[str]:
    return [label for label in compiled.program.labels if "gather x" in label or label == "silu"
            or label.startswith("down m")]


def test_a_block_is_fetched_before_the_previous_one_is_computed() -> None:
    labels = labels_of(compile_layer(Workload(layer=LAYER, tokens=20), EDGE, data=False))
    gathers = [i for i, label in enumerate(labels) if "gather x" in label]
    first_down = next(i for i, label in enumerate(labels) if label.startswith("down"))
    assert gathers[:2] == [0, 1] and first_down > 1
    assert len(gathers) == 6


def test_products_stay_on_chip() -> None:
    """Between gate_up and down nothing is stored: a store is of slots, combine weights or the result."""
    compiled = compile_layer(Workload(layer=LAYER, tokens=20), EDGE, data=False)
    stores = {label for label, i in zip(compiled.program.labels, compiled.program.instructions, strict=True)
              if i.spec.name == "STORE"}
    assert stores == {"store slots", "store combine weights", "store out"}


def test_weights_are_read_once_per_block_of_tokens() -> None:
    """Bytes of gate, up and down: 3 * 48 * 32 for each block."""
    compiled = compile_layer(Workload(layer=LAYER, tokens=20), NANO, data=False, routing="balanced")
    schedule, routing = compiled.schedule, compiled.routing
    assert routing is not None
    blocks = len(expert_blocks(experts_of(routing), schedule["experts.gate_up"].m_tile))
    read = sum(i.rows * i.row_bytes for i, label in zip(compiled.program.instructions, compiled.program.labels,
                                                        strict=True) if label.startswith(("gate_up b", "down b")))
    assert read == blocks * 3 * 48 * 32 and blocks >= 6


def test_block_size_changes_no_bit_and_larger_blocks_are_faster() -> None:
    workload = Workload(layer=LAYER, tokens=40)
    base = compile_layer(workload, EDGE)
    schedule = base.schedule
    expected, cycles = play(base.program), [time_program(base.program).cycles]
    for m_tile in (8, 3, 1):
        cut = schedule.change("experts.gate_up", m_tile=m_tile).change("experts.down", m_tile=m_tile)
        program = compile_layer(workload, EDGE, schedule=cut).program
        assert same_bits(play(program), expected)
        cycles.append(time_program(program).cycles)
    assert cycles == sorted(cycles)


@pytest.mark.parametrize("changes, message", [
    ({"gate_up": {"group_tiles": 6, "n_tiles": 1}}, r"gate_up: group_tiles must be a multiple of 4, pairs of column "
                                                    r"tiles whose products fill rows of 8 bytes .*got 6 tiles of 4"),
    ({"down": {"a_resident": False}, "gate_up": {"group_tiles": 4, "n_tiles": 1}},
     r"gate_up: group_tiles must be a multiple of 8, pairs of column tiles whose products fill bus beats of 16 bytes"),
    ({"down": {"m_tile": 1}}, r"down: m_tile must be that of gate_up, \d+, got 1"),
    ({"gate_up": {"m_tile": 40}, "down": {"m_tile": 40}}, r"experts: no room for .* \(.*m_tile rows\)"),
])
def test_rules_of_the_schedule(changes: dict, message: str) -> None:
    workload = Workload(layer=LAYER, tokens=120)
    schedule = compile_layer(workload, NANO, data=False).schedule
    for name, fields in changes.items():
        schedule = schedule.change(f"experts.{name}", **fields)
    with pytest.raises(CompileError, match=message):
        compile_layer(workload, NANO, schedule=schedule, data=False)


@pytest.mark.parametrize(("format_name", "chunk", "kept"), [
    ("e4m3", 64, (False, True)), ("e4m3", 64, (True, False)), ("e4m3", 64, (False, False)),
    ("nvfp4", 512, (False, False))], ids=str)
def test_streamed_tokens_and_products_have_the_same_bits(format_name: str, chunk: int, kept: tuple[bool, bool]) -> None:
    """Two chunks of k each; block scales of a chunk start on a bus beat."""
    layer = dataclasses.replace(LAYER, hidden=2 * chunk, intermediate=2 * chunk, experts=1, top_k=1)
    workload, numerics = Workload(layer=layer, tokens=3), Numerics(formats=PRESETS[format_name])
    base = compile_layer(workload, EDGE, numerics=numerics)
    schedule = base.schedule
    for part, resident in zip(("gate_up", "down"), kept, strict=True):
        schedule = schedule.change(f"experts.{part}", a_resident=resident, k_outer=not resident, k_tile=chunk,
                                   n_tiles=1)
    program = compile_layer(workload, EDGE, numerics=numerics, schedule=schedule).program
    assert same_bits(play(program), play(base.program))
    assert any(f"gate_up a gather k{chunk}" in label for label in program.labels) is not kept[0]
    assert any(f"down a m0 k{chunk}" in label for label in program.labels) is not kept[1]
