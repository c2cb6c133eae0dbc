"""The command line says what it takes: defaults, examples, suggestions, what was given."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shlex

import pytest

from tilescore.cli.main import main
from tilescore.cli.parser import parser

COMMANDS = sorted(parser().commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_and_its_default_shown(name: str) -> None:
    command = parser().commands[name]
    text = " ".join(command.format_help().split())
    for action in command._actions:
        assert action.help, action.dest
        default = action.default
        shown = default is not None and default is not False and default is not argparse.SUPPRESS
        if action.option_strings and shown:
            value = ",".join(default) if isinstance(default, tuple) else str(default)
            assert re.search(rf"default(?: for decode)?: {re.escape(value)}\b", text), action.dest


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    epilog = parser().commands[name].epilog or ""
    examples = re.findall(rf"^  tilescore ({name}\b.*)$", epilog, re.MULTILINE)
    assert examples
    for line in examples:
        assert callable(parser().parse_args(shlex.split(line.partition(" > ")[0])).run)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"tilescore {importlib.metadata.version('tilescore')}\n"


@pytest.mark.parametrize(("line", "hint"), [
    ("runn", "did you mean run?"), ("simulat x", "did you mean simulate?"), ("formatz", "did you mean formats?"),
    ("run --tokns 5", "did you mean --tokens?"), ("run --tok 5", "did you mean --tokens"),
    ("export x --froce", "did you mean --force?"), ("run --level timming", "did you mean timing?"),
    ("run --layer atention", "did you mean attention?"), ("completion bsh", "did you mean bash"),
    ("tile eddge", "did you mean edge?"), ("tile edge --tile-set bus_byte=64", "did you mean bus_bytes"),
    ("formats --model qwen3-30b --layer moe --tokens 1", "qwen3-30b-a3b"),
    ("run --model olmoe-1b-7b --layer moe --tokens 1 --energy 7mn", "did you mean 7nm"),
    ("run --model olmoe-1b-7b --layer moe --tokens 1 --format nvpf4", "did you mean nvfp4"),
    ("run --model olmoe-1b-7b --layer moe --tokens 1 --format mxpf4:e4m3:e4m3", "did you mean mxfp4"),
])
def test_misspelt(line: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(shlex.split(line))
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and hint in error and error.count("\n") == 1


def test_what_was_given_is_known() -> None:
    given = parser().parse_args(["run", "--seed", "0", "--tile", "edge", "--json"]).given
    assert given == {"seed", "tile"}
    assert parser().parse_args(["run"]).given == frozenset()
