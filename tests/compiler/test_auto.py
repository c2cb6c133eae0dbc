"""Chosen schedules: every layer compiles to a verified program, or an error says what does not fit."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from tilescore.compiler.auto import flash_schedule
from tilescore.compiler.auto_gemm import gemm_schedule, row_counts
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.kernels.gemm import GemmProblem
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.core import Core
from tilescore.compiler.lowering.plan import choose_schedule, layer_plan
from tilescore.compiler.models import load_model
from tilescore.compiler.numerics import DEFAULT, Numerics
from tilescore.compiler.schedule import FlashSchedule, GemmSchedule, Schedule
from tilescore.compiler.tiles.buffers import Buffer, Memory, align
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.legality.verifier import verify
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EDGE, NANO, SERVER, SQUAT, TALL

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

TILES = {tile.name: tile for tile in (NANO, EDGE, SERVER, SQUAT, TALL)}

CLEAR = re.compile(r"(attention layer of custom|projection [qkv]|output projection|core|router|experts|"
                   r"gate_up|down|combine): .*\d", re.DOTALL)
"""An error names the part of the layer and a number: what was asked for, or what there is."""


def compiles_or_says_why(workload: Workload, tile: TileConfig, **options: Any) -> bool:
    """True for a verified program, False for a clear `CompileError`; anything else is a failure."""
    try:
        compiled = compile_layer(workload, tile, data=False, **options)
    except CompileError as error:
        assert CLEAR.match(str(error)) and "\n" not in str(error), error
        return False
    verify(compiled.program)
    return True


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=6)
@hypothesis.given(hidden=st.integers(1, 300) | st.sampled_from([512, 1000, 2048]), group=st.integers(1, 6),
                  kv_heads=st.integers(1, 3), tokens=st.just(1) | st.integers(1, 70), batch=st.integers(1, 4),
                  head_dim=st.sampled_from([8, 16, 32, 64, 128, 256]) | st.integers(4, 128).map(lambda x: 2 * x),
                  context=st.just(0) | st.integers(1, 90), mask=st.sampled_from(["causal", "none"]),
                  norm=st.sampled_from(["none", "none", "head", "full"]))
def test_any_attention_layer(tile: TileConfig, hidden: int, group: int, kv_heads: int, tokens: int, batch: int,
                             head_dim: int, context: int, mask: Any, norm: Any) -> None:
    layer = AttentionLayer(hidden=hidden, heads=group * kv_heads, kv_heads=kv_heads, head_dim=head_dim, qk_norm=norm)
    compiles_or_says_why(Workload(layer=layer, tokens=tokens, batch=batch, context=context, mask=mask), tile)


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.settings(max_examples=6)
@hypothesis.given(hidden=st.integers(1, 300) | st.sampled_from([512, 1000, 2048]), tokens=st.integers(1, 40),
                  experts=st.integers(1, 12) | st.sampled_from([64, 128, 200]), norm=st.booleans(),
                  batch=st.integers(1, 3), top=st.sampled_from([0.0, 0.2, 1.0]),
                  intermediate=st.integers(1, 100) | st.sampled_from([512, 1000]),
                  routing=st.sampled_from([None, "balanced", "zipf-2"]))
def test_any_moe_layer(tile: TileConfig, hidden: int, tokens: int, experts: int, norm: bool, batch: int, top: float,
                       intermediate: int, routing: str | None) -> None:
    layer = MoELayer(hidden=hidden, experts=experts, top_k=max(1, round(top * experts)), intermediate=intermediate,
                     norm_topk=norm)
    hypothesis.assume(tokens * batch * layer.top_k * (hidden + intermediate) < 150_000)
    compiles_or_says_why(Workload(layer=layer, tokens=tokens, batch=batch), tile, routing=routing)


@st.composite
def tiles(draw: st.DrawFn) -> TileConfig:
    """Tiles of any legal shape, most of them odd and small."""
    rows, cols, lanes = (draw(st.sampled_from(sizes)) for sizes in ((4, 8, 16, 32), (4, 8, 16, 32, 64), (2, 4, 8, 16)))
    widths = [width for width in (4, 8, 16, 32, 64) if lanes <= width <= 4 * cols]
    hypothesis.assume(widths)
    bus = draw(st.sampled_from(widths))
    a_banks, b_banks = draw(st.integers(1, 12)), draw(st.integers(1, 10))
    return TileConfig(
        name="odd", rows=rows, cols=cols, lanes=lanes, acc_bits=draw(st.sampled_from([64, 80])), a_banks=a_banks,
        a_buffer_bytes=rows * a_banks * max(bus, cols) * draw(st.sampled_from([1, 3, 4, 16, 64])), b_banks=b_banks,
        b_buffer_bytes=cols * b_banks * bus * draw(st.sampled_from([1, 4, 16, 64])),
        acc_banks=6 * draw(st.integers(1, 8)), acc_bank_rows=draw(st.sampled_from([4, 16, 64, 128])),
        stat_banks=draw(st.integers(7, 10)), stat_bank_rows=draw(st.sampled_from([4, 8, 16])),
        index_entries=max(1, bus // 4) * draw(st.sampled_from([4, 32, 128])), imem_page=64, bus_bytes=bus,
        dram_latency=10)


@hypothesis.settings(max_examples=40)
@hypothesis.given(tile=tiles(), data=st.data(), tokens=st.integers(1, 30), hidden=st.integers(1, 200))
def test_any_tile(tile: TileConfig, data: st.DataObject, tokens: int, hidden: int) -> None:
    """What is chosen always fits: no lowering finds that there is no room."""
    if data.draw(st.booleans()):
        head_dim = data.draw(st.sampled_from([tile.cols, 2 * tile.cols, 4 * tile.cols])
                             | st.integers(1, 2 * tile.cols).map(lambda half: 2 * half))
        heads = 2 * data.draw(st.integers(1, 4))
        layer: Any = AttentionLayer(hidden=hidden, heads=heads, kv_heads=2, head_dim=head_dim,
                                    qk_norm=data.draw(st.sampled_from(["none", "head", "full"])))
    else:
        layer = MoELayer(hidden=hidden, experts=data.draw(st.integers(4, 20)), top_k=data.draw(st.integers(1, 4)),
                         intermediate=data.draw(st.integers(1, 80)), norm_topk=True)
    try:
        verify(compile_layer(Workload(layer=layer, tokens=tokens), tile, data=False).program)
    except CompileError as error:
        assert CLEAR.match(str(error)) and ("no tiling" in str(error) or "no room" not in str(error)), error


# Layers that must compile ------------------------------------------------------------------------------

MODELS = ("llama-3-8b", "llama-3-70b", "mixtral-8x7b", "qwen3-30b-a3b", "qwen3-235b-a22b", "granite-3.0-1b-a400m",
          "olmoe-1b-7b")
"""Bundled models with features that are built."""


@pytest.mark.parametrize("tile", [EDGE, SERVER], ids=["edge", "server"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("request_", [{"tokens": 40}, {"tokens": 1, "context": 200, "batch": 2, "phase": "decode"}],
                         ids=["prefill", "decode"])
def test_attention_of_the_bundled_models_compiles(request_: dict, name: str, tile: TileConfig) -> None:
    layer = dataclasses.replace(attention_layer(load_model(name)), model="custom")
    assert compiles_or_says_why(Workload(layer=layer, **request_), tile)


@pytest.mark.parametrize("tile", [EDGE, SERVER], ids=["edge", "server"])
@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-30b-a3b", "olmoe-1b-7b", "granite-3.0-1b-a400m"])
def test_moe_of_the_bundled_models_compiles(name: str, tile: TileConfig) -> None:
    layer = dataclasses.replace(moe_layer(load_model(name)), model="custom")
    assert compiles_or_says_why(Workload(layer=layer, tokens=1), tile)


@pytest.mark.parametrize("workload", [
    Workload(layer=AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=128), tokens=9),
    Workload(layer=AttentionLayer(hidden=32, heads=2, kv_heads=1, head_dim=80), tokens=9, context=39),
    Workload(layer=AttentionLayer(hidden=1, heads=1, kv_heads=1, head_dim=16), tokens=1),
    Workload(layer=AttentionLayer(hidden=4000, heads=2, kv_heads=1, head_dim=16), tokens=9),
    Workload(layer=MoELayer(hidden=48, experts=130, top_k=2, intermediate=8, norm_topk=True), tokens=21),
    Workload(layer=MoELayer(hidden=1, experts=1, top_k=1, intermediate=1, norm_topk=True), tokens=1),
    Workload(layer=MoELayer(hidden=1100, experts=2, top_k=1, intermediate=40, norm_topk=True), tokens=1),
    Workload(layer=MoELayer(hidden=600, experts=2, top_k=2, intermediate=200, norm_topk=True), tokens=30),
], ids=["two rows", "one key block", "smallest", "streamed", "130 experts", "smallest moe", "256 tiles", "split k"])
def test_layers_that_just_fit_nano(workload: Workload) -> None:
    assert compiles_or_says_why(workload, NANO)


# The choices -------------------------------------------------------------------------------------------


def chosen_gemm(tile: TileConfig, m: int, n: int, k: int, extra_tiles: int = 0) -> GemmSchedule:
    """For E4M3 operands, beside a region of so many column tiles of the block's rows."""
    plain, padded = TENSOR_FORMATS["e4m3"], align(k, tile.bus_bytes)
    problem = GemmProblem(name="x", m=m, n=n, k=padded, layer_k=k, a=plain, b=plain)

    def buffers(schedule: GemmSchedule) -> list[Buffer]:
        extra = [Buffer(name="extra", memory=Memory.ACC, sizes=(extra_tiles * problem.rows(schedule),))]
        return problem.buffers(schedule, tile, extra if extra_tiles else [])

    return gemm_schedule(tile, problem, "x", buffers)


def test_a_block_of_rows_is_whole_panels_then_parts_of_one() -> None:
    assert list(row_counts(NANO, 10)) == [10, 8, 4, 2, 1]
    assert list(row_counts(NANO, 4)) == [4, 2, 1]
    assert list(row_counts(NANO, 1)) == [1]
    assert list(row_counts(EDGE, 33)) == [33, 32, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("m", [18, 33, 61, 70])
def test_blocks_of_rows_are_evened_out(m: int) -> None:
    """As many blocks as the largest would need, each of their share in whole panels: 18 rows are 12 and 6, not 16
    and 2."""
    schedule = chosen_gemm(NANO, m, 400, 64, extra_tiles=10)
    share = -(-m // -(-m // schedule.m_tile))
    assert schedule.m_tile < m and schedule.m_tile - share < NANO.rows


def test_k_is_cut_only_when_it_must_be() -> None:
    """Four pieces of B fit in buffer B: 512 bytes of k for nano's four columns."""
    assert chosen_gemm(NANO, 4, 64, 512).k_tile == 512
    cut = chosen_gemm(NANO, 4, 64, 528)
    assert cut.k_tile < 528 and cut.k_tile % NANO.bus_bytes == 0 and cut.a_resident


def test_a_is_streamed_only_when_no_panel_fits() -> None:
    """A slice of nano's buffer A holds 2,048 bytes."""
    assert chosen_gemm(NANO, 4, 64, 2048).a_resident
    streamed = chosen_gemm(NANO, 4, 64, 2064)
    assert not streamed.a_resident and streamed.k_outer


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@hypothesis.given(m=st.integers(1, 500), n=st.integers(1, 500), k=st.integers(1, 3000))
def test_gemm_schedules_are_within_the_problem(tile: TileConfig, m: int, n: int, k: int) -> None:
    schedule = chosen_gemm(tile, m, n, k)
    assert 1 <= schedule.m_tile <= m
    assert schedule.k_tile < k + tile.bus_bytes
    tiles, step = -(-n // tile.cols), max(1, tile.bus_bytes // tile.cols)
    assert schedule.group_tiles <= align(tiles, step) and schedule.group_tiles % schedule.n_tiles == 0


def core_schedule(workload: Workload, tile: TileConfig, numerics: Numerics = DEFAULT) -> FlashSchedule:
    """That of the core alone."""
    core = next(step for step in layer_plan(workload, tile, numerics).steps if isinstance(step, Core))
    return flash_schedule(core.problem, tile)


def test_core_prefers_rows_then_long_pieces() -> None:
    layer = AttentionLayer(hidden=64, heads=8, kv_heads=2, head_dim=64)
    schedule = core_schedule(Workload(layer=layer, tokens=512), EDGE)
    assert schedule.q_rows * schedule.q_tiles >= 16 * EDGE.rows // 2 and schedule.kv_tile >= 64
    short = core_schedule(Workload(layer=layer, tokens=512, context=0), SERVER)
    assert short.kv_tile % SERVER.cols == 0


def test_decode_takes_all_heads_of_a_group_at_once() -> None:
    layer = AttentionLayer(hidden=64, heads=8, kv_heads=2, head_dim=64)
    schedule = core_schedule(Workload(layer=layer, tokens=1, context=300, phase="decode"), EDGE)
    assert schedule.q_rows >= layer.group and schedule.q_tiles == 1


def test_chosen_schedules_beat_simple_ones() -> None:
    """They are rules, not a search, but must be worth having: at least 1.5 times faster than one panel at a time."""
    workload = Workload(layer=AttentionLayer(hidden=512, heads=8, kv_heads=2, head_dim=64), tokens=128)
    chosen = choose_schedule(workload, EDGE)
    small = GemmSchedule(m_tile=16, k_tile=512, n_tiles=1, group_tiles=4)
    core = FlashSchedule(q_rows=16, kv_tile=32, q_tiles=1)
    simple = Schedule(kernels={"q": small, "k": small, "v": small, "core": core, "out": small}, order=chosen.order)
    cycles = [time_program(compile_layer(workload, EDGE, data=False, schedule=s).program).cycles
              for s in (chosen, simple)]
    assert cycles[0] * 1.5 < cycles[1]


def test_schedules_are_a_function_of_their_arguments() -> None:
    workload = Workload(layer=MoELayer(hidden=64, experts=4, top_k=2, intermediate=32, norm_topk=True), tokens=9)
    routing = compile_layer(workload, EDGE, data=False).routing
    assert routing is not None
    assert choose_schedule(workload, EDGE, routing=routing) == choose_schedule(workload, EDGE, routing=routing)


# What does not fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes, message", [
    ({"b_buffer_bytes": 64, "b_banks": 1}, r"x: buffer B of tile nano does not hold two pieces of 16 elements of k for "
                                           r"4 columns"),
    ({"acc_banks": 2, "acc_bank_rows": 8}, r"x: no tiling of m = 9, n = 400, k = 64 with 4 column tiles per epilogue "
                                           r"fits tile nano: buffer A has 256 groups per slice, buffer B 4 banks of "
                                           r"64, the accumulator buffer 2 banks of 8 rows"),
])
def test_a_gemm_that_does_not_fit_names_the_buffers(changes: dict, message: str) -> None:
    tile = dataclasses.replace(NANO, **changes)
    extra = 16 if "acc_banks" in changes else 0
    with pytest.raises(CompileError, match=message):
        chosen_gemm(tile, 9, 400, 64, extra)


def test_a_core_that_does_not_fit_names_the_buffers() -> None:

    layer = AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=256)
    with pytest.raises(CompileError, match=r"core: no tiling of head_dim = 256 with softmax blocks of 512 "
                                           r"keys \(--softmax-block\) fits tile nano; the largest that does: 256; "
                                           r"buffer A of 8 banks of 32 groups, buffer B of 4 banks of 64, .*"
                                           r"8 statistics banks of 8"):
        core_schedule(Workload(layer=layer, tokens=600), NANO, Numerics(softmax_block=512))


def test_a_tile_with_too_few_statistics_banks_is_named() -> None:
    """Fewer banks are shared, and accumulator banks taken, while there are some."""
    layer, few = AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=16), dataclasses.replace(NANO, stat_banks=1)
    assert core_schedule(Workload(layer=layer, tokens=4), few)
    with pytest.raises(CompileError, match=r"1 statistics banks of 1; no statistics bank left for row maxima"):
        core_schedule(Workload(layer=layer, tokens=4), dataclasses.replace(few, acc_banks=2, stat_bank_rows=1))
