"""Steps that are interleaved: the same bits, fewer cycles, and programs that the verifier and the hardware take."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from tilescore.benchmarks.seams import saving
from tilescore.compiler import streams
from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MlpLayer, MoELayer
from tilescore.compiler.layers import AttentionLayer, DecoderLayer, Workload
from tilescore.compiler.schedule import from_dict, to_dict, to_text
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.isa import Instruction
from tilescore.sim.legality.verifier import verify
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import time_program
from tilescore.testing import random_program
from tilescore.tests.compiler.play import EDGE, NANO, SQUAT, compile_and_play, same_bits

ATTENTION = AttentionLayer(hidden=64, heads=4, kv_heads=2, head_dim=16)
DENSE = Workload(layer=DecoderLayer(attention=ATTENTION, feed_forward=MlpLayer(hidden=64, intermediate=96)), tokens=9)
SPARSE = Workload(layer=DecoderLayer(attention=ATTENTION, feed_forward=MoELayer(
    hidden=64, experts=6, top_k=2, intermediate=40, norm_topk=True)), tokens=5, batch=2)
WORKLOADS = {"dense": DENSE, "sparse": SPARSE, "attention": Workload(layer=ATTENTION, tokens=3, context=6, batch=2)}


@pytest.mark.parametrize(("kind", "tile"), [("dense", NANO), ("sparse", SQUAT), ("attention", NANO)],
                         ids=["dense", "sparse", "attention"])
def test_the_same_bits_in_fewer_cycles(kind: str, tile: TileConfig) -> None:
    """By rule, layers that are joined from others are interleaved."""
    compiled, result = compile_and_play(WORKLOADS[kind], tile)
    order, chosen = compiled.schedule.order, compiled.schedule.interleave
    assert chosen == (() if kind == "attention" else order[1:])
    schedule = replace(compiled.schedule, interleave=() if chosen else order[1:])
    other, again = compile_and_play(WORKLOADS[kind], tile, schedule=schedule)
    assert same_bits(again, result)
    programs = (compiled, other) if chosen else (other, compiled)
    interleaved, in_turn = (time_program(each.program).cycles for each in programs)
    assert interleaved < in_turn


def test_half_of_what_idle_units_allow_is_saved() -> None:
    attention = AttentionLayer(hidden=512, heads=8, kv_heads=2, head_dim=64)
    layer = DecoderLayer(attention=attention, feed_forward=MlpLayer(hidden=512, intermediate=1024))
    found = saving(Workload(layer=layer, tokens=16), EDGE)
    assert found.interleaved < found.joined <= found.apart
    assert found.share >= 0.5


def test_a_tiny_layer_at_rtl_level() -> None:
    """With loads of three steps in the tails of others: results and cycles of all levels agree."""
    compiled = compile_layer(WORKLOADS["attention"], NANO)
    schedule = replace(compiled.schedule, interleave=compiled.schedule.order[1:])
    program = compile_layer(WORKLOADS["attention"], NANO, schedule=schedule).program
    phases = [phase for phase in program.phases if phase]
    assert phases != sorted(phases, key=list(dict.fromkeys(phases)).index)
    simulate(program, LEVELS, backend="verilator")


class _InParts(ProgramBuilder):
    """Every dozen instructions are a phase."""

    def emit(self, instruction: Instruction, label: str = "") -> None:
        with self.phase(f"part {len(self.instructions) // 12}"):
            super().emit(instruction, label)


class _Interleaved(_InParts):
    def __init__(self, config: TileConfig) -> None:
        super().__init__(config, [f"part {n}" for n in range(100)])


def test_random_programs_keep_their_bits(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Parts that use what others left on chip: only what commutes is moved, though all that can be is. Regions stay
    where they are, which is what steps of their own may be asked for."""
    monkeypatch.setattr(streams, "_moved", lambda instructions, *_: [instructions])
    monkeypatch.setattr(streams._Seam, "best", lambda seam: (0, seam._order(len(seam._movable))))
    moved = 0
    for seed in (*range(4), *rng.integers(4, 1 << 32, 2).tolist()):
        results, listings = [], []
        for builder in (_InParts, _Interleaved):
            monkeypatch.setattr(random_program, "ProgramBuilder", builder)
            program = random_program.random_program(NANO, np.random.default_rng(seed), 60)
            verify(program)
            dram = run_reference(program, poison=True).dram
            results.append([region.read(dram).tobytes() for region in program.outputs])
            listings.append(program.instructions)
        assert results[0] == results[1]
        moved += listings[0] != listings[1]
    assert moved


def test_schedules_name_what_is_interleaved() -> None:
    schedule = compile_layer(DENSE, NANO, data=False).schedule
    assert from_dict(to_dict(schedule)) == schedule
    assert to_text(schedule).splitlines()[1].startswith('interleave = ["k", "v", "q", ')
    assert "interleave" not in to_text(replace(schedule, interleave=()))


@pytest.mark.parametrize(("names", "message"), [
    (("attention input",), "attention input: expected each at most once of the steps that follow another one: k, v, q"),
    (("k", "k"), "k: expected each at most once"),
    (("cor",), r"cor: .*did you mean core"),
])  # fmt: skip
def test_wrong_names(names: tuple[str, ...], message: str) -> None:
    schedule = compile_layer(DENSE, NANO, data=False).schedule
    with pytest.raises(CompileError, match=rf"schedule: interleave: {message}"):
        compile_layer(DENSE, NANO, data=False, schedule=dataclasses.replace(schedule, interleave=names))


def test_files_with_other_values_are_refused() -> None:
    with pytest.raises(CompileError, match=r"schedule: interleave must be a list of names, got 1"):
        from_dict({"interleave": 1})
