"""Models on the command line as users have them: unknown keys, parts of larger files, quantized checkpoints, and text
files that begin with a byte order mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilescore.cli.main import main
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.schedule import to_text
from tilescore.rtl.spec.config import load_tile
from tilescore.tests.compiler.tiny import tiny_config, write_config, write_model

Run = Callable[..., tuple[str, str]]
LAYER = ("--layer", "attention", "--tokens", 3, "--tile", "nano")
TIMED = ("--level", "timing")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command that must succeed, in ``tmp_path``; its standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[str, str]:
        assert main([str(a) for a in argv]) == 0
        printed = capsys.readouterr()
        return printed.out, printed.err
    return call


def test_ignored_keys(run: Run) -> None:
    """On every command that takes a model."""
    write_config(Path("m"), tiny_config("llama", a_key=1, rope_scaling={"type": "linear", "factor": 2.0, "b_key": 1}))
    keys = ("--ignore-key", "a_key", "--ignore-key", "rope_scaling.b_key")
    for command in (("run", *TIMED), ("compile", "-o", "p.tsp", "--no-data"), ("formats",)):
        out, err = run(*command, "--model", "m", *LAYER, *keys)
        assert out and not err


def test_the_part_of_the_file_that_was_read_is_said(run: Run) -> None:
    write_config(Path("m"), {"model_type": "omni", "thinker_config": {"text_config": tiny_config("llama")}})
    for command in (("run", *TIMED), ("compile", "-o", "p.tsp", "--no-data"), ("formats",)):
        _, err = run(*command, "--model", "m", *LAYER)
        assert err == "tilescore: m/config.json: thinker_config.text_config: this part of the configuration is read\n"


def test_a_quantized_checkpoint_is_said_with_weights_only(run: Run) -> None:
    write_model(Path("m"), "llama", quantization_config={"quant_method": "awq", "bits": 4})
    assert run("run", *TIMED, "--model", "m", *LAYER)[1] == ""
    _, err = run("run", "--model", "m", *LAYER, "--weights", "m")
    assert "m/config.json says that its checkpoint is quantized (awq)" in err and err.count("\n") == 1


def test_the_report_names_the_model_of_the_cache(run: Run) -> None:
    folder = Path("models--org--Tiny-1B/snapshots/0a1b")
    write_config(folder, tiny_config("llama"))
    for path in (folder, folder / "config.json", "models--org--Tiny-1B"):
        out, _ = run("run", *TIMED, "--json", "--model", path, *LAYER)
        assert json.loads(out)["model"] == "Tiny-1B"


def test_byte_order_marks(run: Run) -> None:
    """Editors on Windows put one in front: every text file that is read may have it."""
    write_config(Path("m"), tiny_config("qwen3_moe"))
    nano = load_tile("nano")
    compiled = compile_layer(Workload(layer=moe_layer(load_model("m")), tokens=3), nano, data=False)
    energy = Path(__file__).resolve().parent.parent / "sim" / "energy_tables" / "7nm.toml"
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in nano.to_dict().items() if value is not None)
    files: dict[str, Any] = {
        "m/config.json": Path("m/config.json").read_text(), "tile.toml": "".join(lines),
        "energy.toml": energy.read_text(encoding="utf-8"), "schedule.toml": to_text(compiled.schedule),
        "routing.json": json.dumps([[0, 1], [2, 3], [4, 5]])}  # fmt: skip
    options = ("--layer", "moe", "--tokens", 3, "--model", "m", "--tile", "tile.toml", "--energy", "energy.toml",
               "--schedule", "schedule.toml", "--routing", "routing.json", "--json", *TIMED)
    reports = []
    for encoding in ("utf-8", "utf-8-sig"):
        for name, text in files.items():
            Path(name).write_text(text, encoding=encoding)
        reports.append(json.loads(run("run", *options)[0]) | {"wall_s": None})
    assert Path("tile.toml").read_bytes().startswith(b"\xef\xbb\xbf")
    assert reports[0] == reports[1]
