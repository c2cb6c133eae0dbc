"""Random verified programs give the same results and the same cycles at every level.

Five tiles that differ in every parameter, two of them with programs that mix element formats, block scales and
quantizers: 60 programs on two of the tiles per run, besides those with delays; 625 on all five with --slow, and N
times as many with --slow --depth N. The seed that repeats a run is printed at its start and end. Equal means:
every byte of all outputs (all of A with its scale bytes and ACC at the end of the program, and what was stored
before), dispatch, issue, rd and retire cycle of every instruction, the ledger, the event counters and the status
flags.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, MlpLayer, Workload
from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode_program
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.formats import SCALE_PAIRS
from tilescore.rtl.spec.isa import (
    Combine,
    Dest,
    Func,
    Pair,
    Quant,
    Reduce,
    Scale,
    ScaleLayout,
    ScaleRule,
    Source,
    Space,
    Unit,
)
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS
from tilescore.sim.hardware.run import DramModel
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.host.bus import run_now
from tilescore.sim.host.tile import Tile
from tilescore.sim.host.verilator_bus import AxiMemory, VerilatorBus
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.recorded import recorded_durations
from tilescore.sim.reference.run import run_reference
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.timing import time_program
from tilescore.testing.random_program import add_tokens, random_program
from tilescore.tests.odd_tiles import ODD_TILES

TILES = {"nano": load_tile("nano")} | ODD_TILES

FORMAT_TILES = {
    # Everything that can be built; wider than high, three planes, a bus of four groups, one port to a slow DRAM.
    "every format": TileConfig(
        name="every", rows=4, cols=8, lanes=8, acc_bits=80,
        formats=("e4m3", "e5m2", "e4m3xe5m2", "e2m1", "e4m3xe2m1"), scales=("e4m3", "e8m0", "fp32"),
        a_buffer_bytes=4 * 3 * 32 * 20, a_banks=3, b_buffer_bytes=8 * 2 * 32 * 20, b_banks=2, acc_banks=12,
        acc_bank_rows=11, stat_banks=3, stat_bank_rows=5, index_entries=24, imem_page=8, queue_depth=3, bus_bytes=32,
        dram_bytes_per_cycle="64/3", dram_shared=True, dram_latency=7, dma_outstanding=2),
    # NVFP4, W4A8 and MX in 64 bits; higher than wide, a bus of one group, one DMA in flight.
    "fp4 and mx": TileConfig(
        name="fp4", rows=8, cols=4, lanes=8, formats=("e2m1", "e4m3xe2m1", "e4m3"), scales=("e4m3", "e8m0"),
        a_buffer_bytes=8 * 2 * 8 * 40, a_banks=2, b_buffer_bytes=4 * 3 * 8 * 36, b_banks=3, acc_banks=6,
        acc_bank_rows=19, stat_banks=2, stat_bank_rows=3, index_entries=20, imem_page=16, queue_depth=2, bus_bytes=8,
        dram_latency=1, dma_outstanding=1),
}
EVERY_TILE = TILES | FORMAT_TILES
IN_EVERY_RUN = ("nano",)
"""The others, which take a minute each to build, run with ``--slow``."""

OF_FORMATS = {"scale", "scale_addr", "scale_stride", "pair", "a_scaled", "b_scaled", "block", "headroom", "quant",
              "scale_rule"}
"""Fields that tiles with one format leave at 0."""

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="Verilator level: missing " + ", ".join(missing_for_verilator()))


def tiles(among: dict[str, TileConfig]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tile", [
        pytest.param(tile, id=name, marks=[] if name in IN_EVERY_RUN else [pytest.mark.slow])
        for name, tile in among.items()])


def draw(tile: TileConfig, rng: np.random.Generator) -> Program:
    """A random program; every second one has tokens that it does not need."""
    program = random_program(tile, rng, int(rng.integers(1, 80)))
    if rng.random() < 0.5:
        add_tokens(program, rng, 10)
    return program


def check_many(tile: TileConfig, seed: int, count: int, stall_per_mille: int = 0) -> int:
    """Run ``count`` programs at every level; returns how many took longer than the timing model says."""
    longer = 0
    for number in range(count):
        program = draw(tile, np.random.default_rng([seed, number]))
        dram = DramModel(stall_per_mille=stall_per_mille, seed=number)
        try:
            result = simulate(program, LEVELS, backend="verilator", dram=dram)
        except SimulationError as error:
            pytest.fail(f"program {number} of seed {seed}: {error}")
        for unit, causes in result.ledger.items():
            assert sum(causes.values()) == result.cycles, unit
        assert result.rtl is not None
        longer += result.rtl.cycles > result.cycles
    return longer


@needs_verilator
@pytest.mark.parametrize("tile", [EVERY_TILE[name] for name in IN_EVERY_RUN], ids=IN_EVERY_RUN)
def test_levels_agree(tile: TileConfig, seed: int) -> None:
    assert check_many(tile, seed, 30) == 0


@needs_verilator
@pytest.mark.slow
@pytest.mark.parametrize("tile", EVERY_TILE.values(), ids=EVERY_TILE)
def test_levels_agree_on_many(tile: TileConfig, seed: int, depth: int) -> None:
    assert check_many(tile, seed, 125 * depth) == 0


@needs_verilator
@pytest.mark.parametrize("stall_per_mille", [50, 300, 600])
@tiles(EVERY_TILE)
def test_results_do_not_depend_on_delays(tile: TileConfig, stall_per_mille: int, seed: int) -> None:
    """Tokens alone keep order: a DRAM that stalls at random changes times, not results."""
    assert check_many(tile, seed, 10, stall_per_mille) > 8


@needs_verilator
@pytest.mark.parametrize("layer", [
    AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=16), MlpLayer(hidden=32, intermediate=64)],
    ids=["attention", "mlp"])
def test_layers_on_one_slow_port(layer: AttentionLayer | MlpLayer, seed: int) -> None:
    """Layers whose stores were placed for a shared port: every level agrees, and the port is what is waited for."""
    program = compile_layer(Workload(layer=layer, tokens=8), FORMAT_TILES["every format"], seed=seed % 1000).program
    result = simulate(program, LEVELS, backend="verilator")
    assert result.ledger["load"]["wait_port"] > 0 and result.ledger["store"]["wait_port"] > 0


@needs_verilator
@pytest.mark.slow
def test_results_behind_axi(seed: int) -> None:
    """Rows and scale bytes in bursts, on a memory that stalls at random; one program after another without a reset, so
    that each runs on what the one before has left. Cycles and ledger are the model's, with the recorded durations where
    the memory stalls."""
    tile = FORMAT_TILES["every format"]
    programs = [draw(tile, np.random.default_rng([seed, number])) for number in range(12)]
    size = -(-max(program.dram_bytes for program in programs) // 4096) * 4096
    with VerilatorBus(tile, memory_bytes=size) as bus:
        for number, program in enumerate(programs):
            stall = 100 * (number % 4)
            latency = 1 + 4 * number % 13 if stall else tile.dram_latency - BUS_LATENCY
            bus.behave(AxiMemory(latency=latency, stall_per_mille=stall, seed=number))
            state = run_reference(program, poison=number % 2 == 1)
            run = run_now(Tile(bus).run(program))
            assert run.flags == state.status, f"program {number} of seed {seed}"
            assert run.recorded is not None
            timing = time_program(program, recorded=recorded_durations(program, run.recorded) if stall else None)
            assert (run.cycles, run.ledger) == (timing.cycles, timing.ledger), f"program {number} of seed {seed}"
            for region in program.outputs:
                assert run.outputs[region.name].tobytes() == region.read(state.dram).tobytes(), (
                    f"program {number} of seed {seed}: {region.name}")


@pytest.mark.parametrize("tile", EVERY_TILE.values(), ids=EVERY_TILE)
def test_the_same_seed_gives_the_same_program(tile: TileConfig, seed: int) -> None:
    first, again = (draw(tile, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(encode_program(first.instructions), encode_program(again.instructions))
    assert np.array_equal(first.initial_dram(), again.initial_dram())
    other = draw(tile, np.random.default_rng(seed + 1))
    assert not np.array_equal(first.initial_dram()[:1000], other.initial_dram()[:1000])


def test_every_feature_of_the_instruction_set_turns_up(seed: int) -> None:
    """Over 45 programs: every opcode, memory, enumeration value and field, every token channel, several pages."""
    values: dict[tuple[str, str], Counter] = {}
    channels: Counter = Counter()
    pages = []
    for number in range(45):
        tile = list(TILES.values())[number % 3]
        rng = np.random.default_rng([seed, number])
        program = random_program(tile, rng, 60)
        add_tokens(program, rng, 10)
        verify(program)
        pages.append(program.pages)
        for i in program.instructions:
            for field in i.spec.fields:
                values.setdefault((i.spec.name, field.name), Counter())[int(getattr(i, field.name))] += 1
            for kind in ("rd", "wr"):
                mask = getattr(i, f"signal_{kind}")
                channels.update((i.spec.unit, kind, unit) for unit in Unit if mask >> unit & 1)
    for (name, field), seen in values.items():
        if field in OF_FORMATS:
            continue
        assert len(seen) > 1, f"{name}.{field} is always {next(iter(seen))}"
    assert {name for name, _ in values} == {"LOAD", "GATHER", "STORE", "SCATTER", "MATMUL", "VECTOR"}
    assert set(values["LOAD", "space"]) == set(Space)
    assert set(values["GATHER", "space"]) == set(Space) - {Space.PROGRAM}
    for name in ("STORE", "SCATTER"):
        assert set(values[name, "space"]) == {Space.A, Space.ACC}
    funcs = set(Func) - {Func.ANCHOR}  # which needs block scales
    for field, kind in (("combine", Combine), ("func", funcs), ("dest", Dest), ("reduce", Reduce),
                        ("y_kind", Source), ("z_kind", Source), ("w_kind", Source)):
        assert set(values["VECTOR", field]) == set(kind), field
    assert min(values["MATMUL", "mask_base"]) < 0 < max(values["MATMUL", "mask_base"])
    assert len(channels) >= 38, f"{40 - len(channels)} of the 40 token channels are missing"
    assert min(pages) >= 2 and max(pages) >= 8


def test_every_format_turns_up_and_they_change_within_programs(seed: int) -> None:
    """Over 120 programs: every pair with every scale that it goes with, every layout and stride of scale bytes, every
    quantizer with every rule, every kind of anchor."""
    matmuls: Counter = Counter()
    streams: Counter = Counter()
    quantizers: Counter = Counter()
    changes = []
    for number in range(120):
        tile = list(FORMAT_TILES.values())[number % 2]
        program = random_program(tile, np.random.default_rng([seed, number]), 60)
        formats = []
        for i in program.instructions:
            if i.spec.name == "MATMUL":
                formats.append((Pair(i.pair), Scale(i.scale)))
                matmuls[formats[-1]] += 1
                matmuls[Scale(i.scale), i.a_scaled, i.b_scaled] += 1
            elif i.spec.unit in (Unit.LOAD, Unit.STORE) and i.scale:
                stride = "shared" if not i.scale_stride else "packed" if i.scale_stride < tile.bus_bytes else "on beats"
                streams[i.spec.name, ScaleLayout(i.scale)] += 1
                streams[i.spec.name, Space(i.space), stride] += 1
            elif i.spec.name == "VECTOR":
                quantizers[Dest(i.dest), Quant(i.quant), ScaleRule(i.scale_rule)] += 1
                quantizers[Dest(i.dest), Quant(i.quant), Source(i.z_kind)] += 1
                quantizers[Func(i.func), Quant(i.quant)] += 1
        changes += [a != b for a, b in pairwise(formats)]
    for scale, pairs in ({Scale.NONE: tuple(Pair)} | SCALE_PAIRS).items():
        for pair in pairs:
            assert matmuls[pair, scale], f"no {pair.name} with {scale.name} scales"
        for a, b in [(0, 0)] if scale == Scale.NONE else [(0, 1), (1, 0), (1, 1)]:
            assert matmuls[scale, a, b], f"no {scale.name} scales with a_scaled = {a}, b_scaled = {b}"
    for name in ("LOAD", "GATHER", "STORE", "SCATTER"):
        for layout in list(ScaleLayout)[1:]:
            assert streams[name, layout], f"no {name} with {layout.name}"
        for space in (Space.A, Space.B) if name in ("LOAD", "GATHER") else (Space.A,):
            for stride in {"LOAD": ("shared", "packed", "on beats"), "GATHER": ("on beats",)}.get(
                    name, ("packed", "on beats")):
                assert streams[name, space, stride], f"no {name} of {space.name} with scale rows {stride}"
    for quant, fmt in QUANT_FORMATS.items():
        for rule in ScaleRule:
            assert quantizers[Dest.A, quant, rule], f"no codes of {quant.name} with {rule.name}"
        for kind in (Source.IMM, Source.ROW):
            assert quantizers[Dest.A, quant, kind], f"no codes of {quant.name} with z from {kind.name}"
        assert not fmt.anchored or quantizers[Func.ANCHOR, quant], f"no anchor for {quant.name}"
    assert np.mean(changes) > 0.3, "the formats of most MATMULs are those of the one before"
