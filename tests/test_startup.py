"""What an answer loads: nothing for help and errors, no hardware for times. Seconds are in `benchmarks/startup.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tilescore.tests.compiler.tiny import tiny_config, write_config

HEAVY = {"numpy", "amaranth"}
TIMES = "run --model m --layer {} --tokens 2 --tile nano --level timing"


def loaded(code: str, folder: Path) -> set[str]:
    """Which packages of `HEAVY` a process that ran ``code`` has loaded."""
    ended = f"\nimport sys\nprint('loaded', *({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + ended], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()[1:])


def command(line: str) -> str:
    return ("from tilescore.cli.main import main\ntry:\n    main(" + repr(line.split()) + ")\n"
            "except SystemExit:\n    pass")


@pytest.mark.parametrize("code", [
    "import tilescore; dir(tilescore); tilescore.TileConfig, tilescore.load_tile('edge'), tilescore.TilescoreError",
    "import tilescore; tilescore.list_models(); tilescore.load_model('qwen3-30b-a3b')",
    "import tilescore.rtl.spec.config, tilescore.rtl.spec.errors, tilescore.rtl.spec.tile_file, tilescore.sim.names",
    *map(command, ("--help", "--version", "run --help", "formats --help", "sing", "run --tokns 5", "run --level spice",
                   "tile edge", "tile ege", "completion bash", "completion fish")),
])
def test_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert loaded(code, tmp_path) == set()


@pytest.mark.parametrize("code", [
    "import tilescore.rtl.spec.isa, tilescore.rtl.plan, tilescore.rtl.spec.events, tilescore.sim.timing",
    "import tilescore.sim.reference.run, tilescore.sim.legality.verifier, tilescore.compiler.compile",
    "import tilescore; tilescore.compile_layer, tilescore.simulate, tilescore.verify, tilescore.bounds",
    *map(command, (TIMES.format("attention"), TIMES.format("moe"), "isa --markdown", "formats", "formats --help")),
])
def test_no_hardware(code: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_config(tmp_path / "m", tiny_config("qwen3_moe"))
    assert "amaranth" not in loaded(code, tmp_path)


def test_the_hardware_loads_amaranth(tmp_path: Path) -> None:
    """The check above can fail."""
    assert loaded("import tilescore.rtl.tile", tmp_path) == HEAVY
