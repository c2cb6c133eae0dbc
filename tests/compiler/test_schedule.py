"""Schedules as values: what is allowed, written, read back, compared; and that none of them changes a result."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.kernels.flash_place import key_unit
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.numerics import DEFAULT, Numerics
from tilescore.compiler.schedule import (
    FlashSchedule,
    GatherAddSchedule,
    GemmSchedule,
    Schedule,
    from_dict,
    load_schedule,
    save_schedule,
    schedule_differences,
    to_dict,
)
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import CompileError
from tilescore.tests.compiler.play import EDGE, NANO, TILES, compile_and_play, play, same_bits

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies

GEMM = GemmSchedule(m_tile=8, k_tile=32, n_tiles=2, group_tiles=4)
CORE = FlashSchedule(q_rows=4, kv_tile=16, q_tiles=2)
ADD = GatherAddSchedule(m_tile=4, n_tiles=2)
ATTENTION = Schedule(kernels={"q": GEMM, "k": GEMM, "v": GEMM, "core": CORE, "out": GEMM},
                     order=("k", "v", "q", "core", "out"))
MOE = Schedule(kernels={"router": GEMM, "experts.gate_up": GEMM, "experts.down": GEMM, "combine": ADD},
               order=("router", "experts", "combine"))
ODD = Schedule(kernels={"a b.c": CORE, 'say "q"': GEMM, "layers.0.q": GEMM, "ü": ADD})
EVERY = {"attention": ATTENTION, "moe": MOE, "odd names": ODD, "empty": Schedule()}
KERNEL_VALUES = {"gemm": GEMM, "flash": CORE, "gather_add": ADD}


# Values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", KERNEL_VALUES.values(), ids=KERNEL_VALUES)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "8", None])
def test_sizes_are_positive_integers(schedule: Any, value: object) -> None:
    for field in dataclasses.fields(schedule):
        if field.type is int and (field.name, value) != ("stage_banks", 0):
            low = 0 if field.name == "stage_banks" else 1
            with pytest.raises(CompileError, match=rf"{field.name} must be an integer of at least {low}, got "):
                dataclasses.replace(schedule, **{field.name: value})


@pytest.mark.parametrize("name", ["a_resident", "k_outer"])
@pytest.mark.parametrize("value", [1, 0, "yes", None])
def test_switches_are_booleans(name: str, value: object) -> None:
    with pytest.raises(CompileError, match=f"{name} must be true or false, got {value!r}"):
        dataclasses.replace(GEMM, **{name: value})


def test_a_group_is_whole_pieces() -> None:
    with pytest.raises(CompileError, match="group_tiles must be a multiple of n_tiles = 3, got 4"):
        dataclasses.replace(GEMM, n_tiles=3)


def test_kernels_are_kernel_schedules() -> None:
    with pytest.raises(CompileError, match="schedule: q: expected one of GemmSchedule, FlashSchedule, "
                                           r"GatherAddSchedule, RowwiseSchedule, got \{'m_tile': 8\}"):
        Schedule(kernels={"q": {"m_tile": 8}})  # type: ignore[dict-item]


def test_changes_make_another_value() -> None:
    other = ATTENTION.change("q", k_tile=64, k_outer=True)
    assert other["q"] == dataclasses.replace(GEMM, k_tile=64, k_outer=True) and ATTENTION["q"] == GEMM
    assert other.order == ATTENTION.order and list(other.kernels) == list(ATTENTION.kernels)
    assert hash(other.change("q", k_tile=32, k_outer=False)) == hash(ATTENTION)
    for kernel, values, message in (
            ("p", {"k_tile": 1}, "schedule: unknown kernel 'p'; allowed: q, k, v, core, out"),
            ("core", {"k_tile": 1}, "schedule: core: unknown key 'k_tile'; allowed: q_rows, kv_tile, q_tiles; did you"),
            ("q", {"m_tile": 0}, "schedule: q: m_tile must be an integer of at least 1, got 0")):
        with pytest.raises(CompileError, match=message):
            ATTENTION.change(kernel, **values)


# Text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
def test_plain_values_and_back(schedule: Schedule, tmp_path: Path) -> None:
    assert from_dict(to_dict(schedule)) == schedule
    assert from_dict(json.loads(json.dumps(to_dict(schedule)))) == schedule
    save_schedule(schedule, tmp_path / "s.toml")
    assert load_schedule(tmp_path / "s.toml") == schedule
    assert (tmp_path / "s.toml").read_text() == str(schedule)


def test_text_is_for_people() -> None:
    assert str(MOE) == """order = ["router", "experts", "combine"]

[router]
kernel = "gemm"
m_tile = 8
k_tile = 32
n_tiles = 2
group_tiles = 4
a_resident = true
k_outer = false
stage_banks = 1

""" + "\n".join(f"""[experts.{name}]
kernel = "gemm"
m_tile = 8
k_tile = 32
n_tiles = 2
group_tiles = 4
a_resident = true
k_outer = false
stage_banks = 1
""" for name in ("gate_up", "down")) + """
[combine]
kernel = "gather_add"
m_tile = 4
n_tiles = 2
"""


def test_a_notebook_shows_every_value() -> None:
    rows = [[cell.text or "" for cell in row] for row in ElementTree.fromstring(MOE._repr_html_()).iter("tr")]
    assert rows[0] == ["", "schedule"] and rows[1] == ["order", "router experts combine"]
    values = {f"{name}.{key}": str(value) for name, kernel in MOE.kernels.items()
              for key, value in kernel.values().items()}
    assert dict(rows[2:]) == values | {f"{name}.kernel": kernel.loop for name, kernel in MOE.kernels.items()}


def test_keys_with_defaults_may_be_left_out() -> None:
    values = {"kernel": "gemm", "m_tile": 1, "k_tile": 2, "n_tiles": 3, "group_tiles": 3}
    assert from_dict({"x": values})["x"] == GemmSchedule(m_tile=1, k_tile=2, n_tiles=3, group_tiles=3)


def changed(**changes: Any) -> dict:
    """The attention schedule as plain values, with q's keys changed; ``...`` removes one."""
    values = to_dict(ATTENTION)
    values["q"] = {key: value for key, value in (values["q"] | changes).items() if value is not ...}
    return values


@pytest.mark.parametrize("values, message", [
    (5, "file: expected a table per kernel, got 5"),
    ({"kind": "moe"}, "file: is a schedule of an earlier version, in JSON; expected TOML with a table per kernel"),
    ({"order": "q"}, "file: order must be a list of names, got q"),
    ({"q": 5}, "file: q: expected a table with kernel = one of gemm, flash, gather_add, rowwise, got 5"),
    (changed(kernel="matmul"),
     "file: q: expected a table with kernel = one of gemm, flash, gather_add, rowwise, got .*matmul"),
    (changed(kernel=["gemm"]), "file: q: expected a table with kernel"),
    (changed(kernel="flash"), "file: q: unknown key 'm_tile'; allowed: q_rows, kv_tile, q_tiles"),
    (changed(m_tile=0), "file: q: m_tile must be an integer of at least 1, got 0"),
    (changed(m_tile="8"), "file: q: m_tile must be an integer of at least 1, got '8'"),
    (changed(k_tile=...), "file: q: missing key 'k_tile'"),
    (changed(depth=2), "file: q: unknown key 'depth'; allowed: m_tile, k_tile, n_tiles, group_tiles, a_resident"),
    (changed(a_resident="no"), "file: q: a_resident must be true or false, got 'no'"),
    (changed(n_tiles=3), "file: q: group_tiles must be a multiple of n_tiles = 3, got 4"),
    (to_dict(MOE) | {"experts.down": None}, "file: experts.down: expected a table with kernel"),
], ids=str)
def test_wrong_values_name_the_key_and_what_is_allowed(values: object, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        from_dict(values, "file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [
    ("[", "not valid TOML"), ("q = ", "not valid TOML"), ("q = 1", "q: expected a table with kernel"),
    ("[q]", "q: expected a table with kernel"), ("[" * 100_000, "not valid TOML"),
    ("a = " + "[" * 100_000, "not valid TOML"), ('{"kind": "moe"}', "is a schedule of an earlier version, in JSON; "),
], ids=["open", "half", "value", "empty table", "deep", "deep value", "JSON"])
def test_broken_files_name_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(CompileError, match=f"schedule file {path}: {message}") as caught:
        load_schedule(path)
    assert "\n" not in str(caught.value)


def test_unreadable_files_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name, message in (("missing.toml", "cannot be read: No such file"), ("binary.toml", "not valid TOML"),
                          (".", "cannot be read: Is a directory")):
        with pytest.raises(CompileError, match=message):
            load_schedule(tmp_path / name)


def test_differences_are_one_line_per_value() -> None:
    other = ATTENTION.change("q", k_tile=64, k_outer=True).change("core", q_rows=2)
    assert schedule_differences(ATTENTION, ATTENTION) == []
    assert schedule_differences(ATTENTION, other) == ["core.q_rows: 4 -> 2", "q.k_outer: False -> True",
                                                      "q.k_tile: 32 -> 64"]
    assert schedule_differences(to_dict(ATTENTION), dataclasses.replace(ATTENTION, order=("q",))) == [
        "order: k v q core out -> q"]
    assert "combine.m_tile: None -> 4" in schedule_differences(ATTENTION, MOE)


# Results do not depend on the schedule -----------------------------------------------------------------


@st.composite
def varied(draw: st.DrawFn, schedule: GemmSchedule, tile: TileConfig, *, groups: int, resident: bool = True,
           m_tile: int | None = None) -> GemmSchedule:
    """Another schedule of the same GEMM: any tile sizes, orders and, when ``resident``, streamed A.

    Groups are a multiple of ``groups`` column tiles; ``m_tile`` is fixed if given.
    """
    group = groups * draw(st.integers(1, 3))
    n_tiles = draw(st.sampled_from([n for n in range(1, group + 1) if group % n == 0]))
    rows = draw(st.integers(1, 2 * tile.rows)) if m_tile is None else m_tile
    k_tile = draw(st.sampled_from([tile.bus_bytes, 2 * tile.bus_bytes, schedule.k_tile]))
    return GemmSchedule(m_tile=rows, k_tile=k_tile, n_tiles=n_tiles, group_tiles=group, k_outer=draw(st.booleans()),
                        a_resident=not resident or draw(st.booleans()), stage_banks=schedule.stage_banks)


def other_result(workload: Workload, tile: TileConfig, schedule: Any, seed: int,
                 numerics: Numerics = DEFAULT) -> np.ndarray | None:
    """The result with another schedule; None when it does not fit (a `CompileError`, nothing else)."""
    try:
        compiled = compile_layer(workload, tile, schedule=schedule, seed=seed, numerics=numerics)
    except CompileError as error:
        assert "no room" in str(error) or "statistics bank" in str(error) or "do not fit" in str(error) \
            or "does not hold all" in str(error), error
        return None
    return play(compiled.program)


PLACES = {tile.name: tile for tile in (NANO, EDGE, TILES["tall"])}


@pytest.mark.parametrize("tile", PLACES.values(), ids=PLACES)
@hypothesis.settings(max_examples=12)
@hypothesis.given(data=st.data(), tokens=st.integers(1, 20), top_k=st.integers(1, 5), norm=st.booleans(),
                  seed=st.integers(0, 2**32 - 1))
def test_moe_results_do_not_depend_on_the_schedule(tile: TileConfig, data: st.DataObject, tokens: int, top_k: int,
                                                   norm: bool, seed: int) -> None:
    layer = MoELayer(hidden=72, experts=5, top_k=top_k, intermediate=40, norm_topk=norm)
    workload = Workload(layer=layer, tokens=tokens)
    compiled, result = compile_and_play(workload, tile, seed=seed)
    base = compiled.schedule
    pair = 2 * max(1, tile.lanes // tile.cols)
    rows = data.draw(st.integers(1, 2 * tile.rows))
    schedule = base.replace({
        "router": data.draw(varied(base["router"], tile, groups=base["router"].group_tiles)),
        "experts.gate_up": data.draw(varied(base["experts.gate_up"], tile, groups=pair, resident=False, m_tile=rows)),
        "experts.down": data.draw(varied(base["experts.down"], tile, groups=1, resident=False, m_tile=rows)),
        "combine": GatherAddSchedule(m_tile=data.draw(st.integers(1, 24)), n_tiles=data.draw(st.integers(1, 6)))})
    other = other_result(workload, tile, schedule, seed)
    hypothesis.assume(other is not None)
    assert other is not None and same_bits(result, other)


@pytest.mark.parametrize("tile", PLACES.values(), ids=PLACES)
@hypothesis.settings(max_examples=8)
@hypothesis.given(data=st.data(), tokens=st.integers(1, 12), batch=st.integers(1, 3), context=st.integers(0, 90),
                  norm=st.booleans(), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_attention_results_depend_on_no_schedule(
        tile: TileConfig, data: st.DataObject, tokens: int, batch: int, context: int, norm: bool, blocks: int,
        seed: int) -> None:
    unit = key_unit(tile)
    numerics = Numerics(softmax_block=blocks * unit)
    layer = AttentionLayer(hidden=72, heads=4, kv_heads=2, head_dim=2 * tile.cols if tile.cols > 8 else 16,
                           qk_norm="head" if norm else "none")
    workload = Workload(layer=layer, tokens=tokens, batch=batch, context=context)
    compiled, result = compile_and_play(workload, tile, seed=seed, numerics=numerics)
    base = compiled.schedule
    head_tiles = max(1, layer.head_dim // tile.cols)
    core = dataclasses.replace(base["core"], q_rows=data.draw(st.integers(1, tile.rows + 2)),
                               kv_tile=unit * data.draw(st.integers(1, blocks)),
                               q_tiles=data.draw(st.integers(1, base["core"].q_tiles)))
    groups = {"q": head_tiles, "k": head_tiles, "v": 1, "out": 1}
    schedule = base.replace({"core": core} | {
        name: data.draw(varied(base[name], tile, groups=count)) for name, count in groups.items()})
    order = data.draw(st.sampled_from([("k", "v", "q"), ("q", "k", "v"), ("v", "q", "k")]))
    schedule = dataclasses.replace(schedule, order=(*order, "core", "out"))
    other = other_result(workload, tile, schedule, seed, numerics)
    hypothesis.assume(other is not None)
    assert other is not None and same_bits(result, other)


def test_another_softmax_block_may_change_single_codes_of_p_only() -> None:
    """Stated: with other `Numerics` the result may differ, by far less than what E4M3 costs anyway."""
    workload = Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=40, mask="none")
    compiled, result = compile_and_play(workload, EDGE, numerics=Numerics(softmax_block=64))
    other = compile_and_play(workload, EDGE, numerics=Numerics(softmax_block=32))[1]
    assert compiled.expected is not None
    cost = np.linalg.norm(result - compiled.expected)
    assert 0 < np.linalg.norm(result - other) < cost / 2


# The lowerings' own rules ------------------------------------------------------------------------------

TINY_ATTENTION = Workload(layer=AttentionLayer(hidden=48, heads=4, kv_heads=2, head_dim=16), tokens=9)
TINY_MOE = Workload(layer=MoELayer(hidden=48, experts=9, top_k=2, intermediate=32, norm_topk=True), tokens=9)


def nano_schedule(path: str, value: int | bool) -> tuple[Workload, Schedule]:
    """The chosen schedule of a tiny layer on nano with one value changed, as ``q.m_tile``."""
    kernel, _, key = path.rpartition(".")
    workload = TINY_MOE if kernel.split(".")[0] in ("router", "experts", "combine") else TINY_ATTENTION
    routing = compile_layer(workload, NANO, data=False).routing
    values = {key: value}
    if key == "group_tiles":
        values["n_tiles"] = 1
    if key == "n_tiles" and kernel != "combine":
        values["group_tiles"] = value
    return workload, choose_schedule(workload, NANO, routing=routing).change(kernel, **values)


@pytest.mark.parametrize("path, value, message", [
    ("out.k_tile", 72, "out: k = 64 and k_tile = 72 must be multiples of 16 elements"),
    ("q.group_tiles", 6, "projection q: group_tiles = 6 must hold whole heads of 4 column tiles"),
    ("k.group_tiles", 2, "projection k: group_tiles = 2 must hold whole heads of 4 column tiles"),
    ("v.m_tile", 2000, None),
    ("v.group_tiles", 400, r"projection v: no room for staged results \(stage_banks\) in buffer A"),
    ("q.stage_banks", 40, r"projection q: no room for q A block .* in buffer A: 18 groups per slice, 0 free; would fit "
                          r"with q.m_tile of at most 8, not 9, or q.stage_banks of at most 39, not 40"),
    ("q.n_tiles", 64, r"q: no room for q B piece \(n_tiles, k_tile\) in buffer B: 384 groups per slice, 256 free"),
    ("core.kv_tile", 24, r"core: kv_tile must be a multiple of 16 \(bus, columns, lanes\), got 24"),
    ("core.kv_tile", 4096, None),
    ("core.q_tiles", 100, r"core: no room for queries \(q_rows, q_tiles times\) in buffer A: 400 groups per slice, "),
    ("core.q_rows", 1000, r"core: no room for outputs \(q_rows, q_tiles times\)"),
    ("out.m_tile", 1000, None),
    ("router.group_tiles", 1, "router: group_tiles must be at least 3, the softmax is over all experts, got 1"),
    ("router.group_tiles", 64, None),
    ("experts.gate_up.group_tiles", 2, "gate_up: group_tiles must be a multiple of 4, pairs of column tiles"),
    ("experts.gate_up.group_tiles", 7, "gate_up: group_tiles must be a multiple of 4, pairs of column tiles"),
    ("experts.gate_up.m_tile", 3, "down: m_tile must be that of gate_up, 3, got 5"),
    ("experts.gate_up.a_resident", False, None),
    ("experts.down.k_tile", 40, "down: k = 32 and k_tile = 40 must be multiples of 16 elements"),
    ("combine.n_tiles", 64, r"combine: no room for sums \(m_tile \* n_tiles\): 576 accumulator rows"),
    ("combine.m_tile", 1000, None),
])
def test_illegal_schedules_name_the_key_and_the_limit(path: str, value: object, message: str | None) -> None:
    """A size larger than the layer (message None) is legal: it means all of it."""
    workload, schedule = nano_schedule(path, value)
    if message is None:
        assert play(compile_layer(workload, NANO, schedule=schedule).program).shape == (9, 48)
        return
    with pytest.raises(CompileError, match=message) as caught:
        compile_layer(workload, NANO, schedule=schedule, data=False)
    assert "\n" not in str(caught.value)
