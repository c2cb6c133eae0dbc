"""`tilescore completion`: completion scripts, made from the parser.

Static scripts: nothing is started when a key is pressed. shtab does the same, but not for fish; argcomplete starts
Python at every key. Two levels (a command, then its options) are all that is needed here.
"""

import argparse
import shlex
from collections.abc import Iterator
from typing import NamedTuple

SHELLS = ("bash", "zsh", "fish")


class _Word(NamedTuple):
    """An option or argument: its spellings (none for an argument), what it takes and what it means.

    values: names to offer; paths: "files", "folders" or "" when no path is taken. takes_value is False for a switch.
    """

    spellings: tuple[str, ...]
    values: tuple[str, ...]
    paths: str
    takes_value: bool
    meaning: str


def completion(arguments: argparse.Namespace) -> int:
    """Print the script for a shell."""
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[arguments.shell](), end="")
    return 0


def _commands() -> dict[str, tuple[str, list[_Word]]]:
    """{command: (meaning, its words)}."""
    from .parser import parser

    top = parser()
    return {name: (command.description or "", list(_words(command))) for name, command in top.commands.items()}


def _words(command: argparse.ArgumentParser) -> Iterator[_Word]:
    from ..compiler.format_names import PRESET_NAMES
    from ..compiler.models import list_models
    from ..rtl.spec.config import PRESETS
    from ..sim.names import LEVELS, TABLES

    names = {"model": tuple(list_models()), "tile": PRESETS, "energy": TABLES, "format": tuple(PRESET_NAMES),
             "level": LEVELS, "routing": ("balanced", "correlated", "router")}
    for action in command._actions:
        metavar = str(action.metavar or "")
        paths = "files" if "FILE" in metavar or "PATH" in metavar or action.dest == "program" else ""
        paths = "folders" if metavar == "DIR" else paths
        values = tuple(str(c) for c in action.choices) if action.choices else names.get(action.dest, ())
        yield _Word(tuple(action.option_strings), values, paths, action.nargs != 0, action.help or "")


def _bash() -> str:
    top = " ".join([*_commands(), "--help", "--version"])
    lines = ["_tilescore() {", '    local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
             '    local words="" paths=""', '    case "${COMP_WORDS[1]}" in']
    for name, (_, words) in _commands().items():
        options = " ".join(spelling for word in words for spelling in word.spellings)
        lines += [f"    {name})", '        case "$previous" in']
        for word in words:
            if word.spellings and word.takes_value:
                values = " ".join(word.values)
                lines.append(f'        {"|".join(word.spellings)}) words="{values}" '
                             f'paths="{word.paths}";;')
        rest = [word for word in words if not word.spellings]
        values = " ".join(value for word in rest for value in word.values)
        paths = next((word.paths for word in rest if word.paths), "")
        lines += [f'        *) words="{options} {values}" paths="{paths}";;', "        esac;;"]
    lines += ["    esac", f'    [ "$COMP_CWORD" -gt 1 ] || {{ words="{top}"; paths=""; }}',
              '    COMPREPLY=($(compgen -W "$words" -- "$cur"))', "    local IFS=$'\\n'",
              '    case "$paths" in', '    files) COMPREPLY+=($(compgen -f -- "$cur"));;',
              '    folders) COMPREPLY+=($(compgen -d -- "$cur"));;', "    esac", "}",
              "complete -o filenames -F _tilescore tilescore", ""]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """``text`` for zsh's _arguments, whose specifications give : [ ] a meaning."""
    return "".join(f"\\{c}" if c in ":[]" else c for c in text)


def _zsh() -> str:
    lines = ["#compdef tilescore", "_tilescore() {", "    if (( CURRENT == 2 )); then", "        local -a commands=("]
    lines += [f"            {shlex.quote(f'{name}:{_quoted(meaning)}')}" for name, (meaning, _) in _commands().items()]
    lines += ["        )", "        _describe command commands", "        return", "    fi",
              "    local command=$words[2]", "    shift words", "    (( CURRENT-- ))", '    case "$command" in']
    for name, (_, words) in _commands().items():
        specs = []
        for word in words:
            action = ""
            if word.takes_value:
                offers = [f"_values value {' '.join(word.values)}"] if word.values else []
                offers += {"files": ["_files"], "folders": ["_files -/"], "": []}[word.paths]
                action = ":value:" + (f"{{{'; '.join(offers)}}}" if len(offers) > 1 else "".join(
                    f"({' '.join(word.values)})" if offer.startswith("_values") else offer for offer in offers))
            specs += [f"{spelling}[{_quoted(word.meaning)}]{action}" for spelling in word.spellings] or [f"1{action}"]
        lines.append(f"    {name}) _arguments {' '.join(shlex.quote(spec) for spec in specs)};;")
    return "\n".join([*lines, "    esac", "}", '_tilescore "$@"', ""])


def _fish() -> str:
    none = "__fish_use_subcommand"
    lines = ["complete -c tilescore -f"]
    for name, (meaning, words) in _commands().items():
        lines.append(f"complete -c tilescore -n {none} -a {name} -d {shlex.quote(meaning)}")
        seen = shlex.quote(f"__fish_seen_subcommand_from {name}")
        for word in words:
            spelt = "".join(f" -l {s[2:]}" if s.startswith("--") else f" -s {s[1:]}" for s in word.spellings)
            takes = " -r" if word.spellings and word.takes_value else ""
            paths = {"files": " -F", "folders": " -a '(__fish_complete_directories)'", "": ""}[word.paths]
            values = f" -a {shlex.quote(' '.join(word.values))}" if word.values else ""
            lines.append(f"complete -c tilescore -n {seen}{spelt}{takes}{paths}{values} -d {shlex.quote(word.meaning)}")
    lines += [f"complete -c tilescore -n {none} -l version -d 'show the version'", ""]
    return "\n".join(lines)
