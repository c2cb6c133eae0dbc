"""`tilescore completion`: what each shell offers; bash is asked, zsh and fish are when they are here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tilescore.cli.completion import SHELLS
from tilescore.cli.main import main
from tilescore.cli.parser import parser
from tilescore.compiler.models import list_models


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]):
    def make(shell: str) -> str:
        assert main(["completion", shell]) == 0
        return capsys.readouterr().out
    return make


@pytest.mark.parametrize(("typed", "offers"), [
    ("", ["completion", "run", "--version"]),
    ("ru", ["run"]),
    ("run --ti", ["--tile"]),
    ("run --tile ", ["nano", "edge", "server", "my file.toml", "folder"]),
    ("run --tile n", ["nano"]),
    ("run --tile my", ["my file.toml"]),
    ("compile --model llama-3-8", ["llama-3-8b"]),
    ("run --layer ", ["attention", "moe"]),
    ("run --out ", ["folder"]),
    ("formats --acc-bits ", ["64", "80", "96"]),
    ("tile ", ["nano", "edge", "--json"]),
    ("simulate my", ["my file.toml"]),
    ("completion f", ["fish"]),
    ("nonsense --x", []),
])
def test_bash(typed: str, offers: list[str], script, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    (tmp_path / "my file.toml").touch()
    (tmp_path / "folder").mkdir()
    words = ["tilescore", *typed.split(" ")]
    code = (script("bash") + f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
            '_tilescore; printf "%s\\n" "${COMPREPLY[@]}"')
    done = subprocess.run([bash, "--norc", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = done.stdout.splitlines()
    assert done.stderr == "" and set(offers) <= set(found)
    last = words[-1]
    assert all(word.startswith(last) for word in found if word)
    if not offers:
        assert [word for word in found if word] == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_the_script(shell: str, script, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script(shell))
    subprocess.run([shell, "-n", "script"], cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.parametrize("shell", SHELLS)
def test_every_command_option_and_model_is_there(shell: str, script) -> None:
    text = script(shell)
    for name, command in parser().commands.items():
        assert name in text
        for action in command._actions:
            for option in action.option_strings:
                assert (option if shell != "fish" else option.lstrip("-")) in text, (name, option)
    assert all(model in text for model in list_models())
    assert all(line.isascii() for line in text.splitlines())
