"""Plans: which points a sweep has, in which order, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilescore.compiler.sweep.plan import SweepPlan, plan_of_file, plan_of_settings
from tilescore.rtl.spec.errors import ConfigError

BASE = "model=qwen3-30b-a3b"


def test_points_are_every_combination_in_order_with_defaults() -> None:
    points = plan_of_settings([BASE, "layer=attention", "tokens=4,2", "rows=8,16"]).points()
    assert [(p["tokens"], p["rows"]) for p in points] == [(4, 8), (4, 16), (2, 8), (2, 16)]
    assert points[0] == {"model": "qwen3-30b-a3b", "layer": "attention", "phase": "prefill", "tokens": 4, "batch": 1,
                         "mask": "causal", "format": "e4m3", "schedule": "auto", "energy": "7nm", "tile": "edge",
                         "rows": 8}


def test_a_file_has_cases_and_settings_replace_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text('model = "qwen3-30b-a3b"\nlayer = "moe"\ntokens = [1, 2]\n[[case]]\ntile = "edge"\n'
                    'formats = ["e4m3", "e2m1"]\n[[case]]\ntile = "server"\na_buffer_bytes = "512 KiB"\n')
    points = plan_of_file(file).points()
    assert [(p["tile"], p["tokens"]) for p in points] == [("edge", 1), ("edge", 2), ("server", 1), ("server", 2)]
    assert points[0]["formats"] == ("e4m3", "e2m1") and points[2]["a_buffer_bytes"] == 512 << 10
    changed = plan_of_file(file, ["tile=nano", "tokens=3"]).points()
    assert {(p["tile"], p["tokens"], p.get("formats")) for p in changed} == {
        ("nano", 3, ("e4m3", "e2m1")), ("nano", 3, None)}


def test_keys_that_a_layer_does_not_have_are_left_out_and_nothing_is_doubled() -> None:
    points = plan_of_settings([BASE, "layer=attention,moe", "phase=decode", "context=1,2", "routing=balanced,router",
                               "format=e4m3,mxfp8", "scale_rule=floor,even", "seed=0,1"]).points()
    attention = [p for p in points if p["layer"] == "attention"]
    assert len(attention) == 2 * 3 and not any("routing" in p or "seed" in p for p in attention)
    assert len(points) - len(attention) == 2 * 3 * 2 and not any("context" in p for p in points if p["layer"] == "moe")
    assert len({tuple(p.items()) for p in points}) == len(points)
    assert [p["tokens"] for p in plan_of_settings([BASE, "layer=moe", "tokens=2,2,1"]).points()] == [2, 1]


@pytest.mark.parametrize(("settings", "message"), [
    (["modle=x"], "--set modle=x: unknown key 'modle'; did you mean model"),
    (["colls=8"], "unknown key 'colls'; did you mean cols"),
    (["name=x"], "unknown key 'name'; "),
    (["model"], "--set model: expected KEY=VALUE"),
    ([BASE, BASE], "model is set twice"),
    (["layer=atention"],
     "--set layer=atention: layer: expected attention, moe, mlp, norm, decoder, embedding, head, got "),
    ([BASE, "layer=moe"], "--set: missing key 'tokens', which prefill needs"),
    (["layer=moe", "tokens=1"], "--set: missing key 'model'"),
    (["tokens=0"], "tokens: expected an integer from 1 to "),
    (["tokens=1,x"], "tokens: expected an integer from 1 to "),
    (["model=qwen4"], "--set model=qwen4: model: "),
    (["model_set=hidden_act"], "model_set: 'hidden_act': expected KEY=VALUE, several with +"),
    (["model_set=a=1+a=2"], "model_set: a is set twice"),
    (["tile=egde"], "tile: tile 'egde': neither a preset"),
    (["rows=3"], "--set rows=3: rows must be 4..256, got 3"),
    (["rows=8,12"], "rows must be a power of two, got 12"),
    (["formats=e4m3+e9m9"], "formats must be any of "),
    (["bus_bytes=wide"], "--set bus_bytes=wide: bus_bytes: expected an integer of bytes"),
    (["format=fp7"], "format: format 'fp7': expected one of "),
    (["energy=6nm"], "energy: "),
    (["schedule=none.toml"], "schedule: schedule file none.toml: cannot be read"),
    ([BASE, "layer=moe", "tokens=1", "mask=none"],
     "mask: no point has a use for it (only these layers have one: attention, decoder)"),
    ([BASE, "layer=moe", "tokens=1", "scale_rule=even"], "no format has power-of-two block scales"),
])
def test_wrong_settings(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_of_settings(settings).points()
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [
    ("model = ", "not valid TOML: "),
    ("tokns = 3", "unknown key 'tokns'; did you mean tokens"),
    ("tokens = []", "tokens: expected at least one value"),
    ("tokens = [true]", "tokens: expected an integer from 1 to 16777216, got True"),
    ("tokens = [1.5]", "got 1.5"),
    ("model = 3", "model: expected a text, got 3"),
    ("case = 3", "case: expected tables [[case]], got 3"),
    ("[[case]]\nrosw = 4", "case: unknown key 'rosw'; did you mean rows"),
    ("rows = 4\n[[case]]\nrows = 4", "rows is set in a case and for all of them"),
])
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        plan_of_file(file)
    assert str(error.value).startswith(str(file)) and message in str(error.value)


def test_too_many_points_are_refused() -> None:
    plan = SweepPlan(axes={"model": ["llama-3-8b"], "layer": ["attention"], "tokens": list(range(1, 1002)),
                           "batch": list(range(1, 1002))})
    with pytest.raises(ConfigError, match="1,002,001 points, expected at most 1,000,000"):
        plan.points()
