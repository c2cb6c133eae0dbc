"""`tilescore compare`: schedules, formats, tiles, models or saved reports side by side."""

import argparse
import json
from pathlib import Path

from ..compiler.comparison import compare, exceeded, parse_limits
from ..compiler.comparison_text import markdown, text
from ..compiler.report import report_compiled
from ..rtl.spec.errors import ConfigError, WorkloadError
from ..sim.energy import load_table
from .files import check_targets, write_text
from .ignored import check_layer_options, refuse
from .layer import build
from .parser import parser
from .saved_reports import saved_report
from .tiles import tile_of

BASE = "base"
_OF_ANY_SIDE = {"sides", "layer", "fail", "json", "markdown", "html"}


def run(arguments: argparse.Namespace) -> int:
    limits = parse_limits(arguments.fail) if arguments.fail else {}
    if len(arguments.sides) < 2:
        raise ConfigError(f"compare: expected at least two sides, got {len(arguments.sides)}")
    if arguments.html:
        check_targets([arguments.html])
    saved = [_saved(arguments, side) for side in arguments.sides]
    if all(saved):
        refuse(arguments, tuple(sorted(arguments.given - _OF_ANY_SIDE)),
               "only saved reports are compared, each with the options that made it")
    reports = [report or _compiled(arguments, side) for side, report in zip(arguments.sides, saved, strict=True)]
    comparison = compare(reports, arguments.sides)
    if arguments.html:
        from ..compiler.visual.comparison_page import comparison_page  # not loaded where no page is asked for

        write_text(arguments.html, comparison_page(comparison, reports))
    excess = {name: exceeded(comparison, limits, i) for i, name in enumerate(comparison.names) if i}
    if arguments.json:
        failed = {name: [found.name for found in parts] for name, parts in excess.items() if parts}
        print(json.dumps({**comparison.to_dict(), "failed": failed}, indent=2))
    else:
        print((markdown if arguments.markdown else text)(comparison), end="")
        for name, parts in excess.items():
            for found in parts:
                print(f"\n{name}: {found.name} {found.old:,.0f} -> {found.new:,.0f}, limit +{100 * found.limit:g} %")
    return int(any(excess.values()))


def _is_file(side: str) -> bool:
    return Path(side).is_dir() or (Path(side).suffix in (".json", ".toml") and Path(side).is_file())


def _saved(arguments: argparse.Namespace, side: str) -> dict | None:
    """The saved report that a word of the command line names."""
    return saved_report(Path(side), arguments.layer) if _is_file(side) else None


def _compiled(arguments: argparse.Namespace, side: str) -> dict:
    """The report of the layer that a word of the command line stands for."""
    if _is_file(side):
        return _run(arguments, side, [f"--schedule={side}"])
    if side == BASE:
        return _run(arguments, side, [])
    options = []
    for part in side.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ConfigError(f"compare {side!r}: expected a saved report or its folder, a schedule file, {BASE}, or "
                              "OPTION=VALUE[,OPTION=VALUE] as in tile=server,format=nvfp4; no such file")
        options.append(f"--{key}={value}")
    return _run(arguments, side, options)


def _run(arguments: argparse.Namespace, side: str, options: list[str]) -> dict:
    """Compile and time the layer of the command line with further options, which override those that are there."""
    own = parser().parse_args([*arguments.words, *options])
    for name in ("model", "layer"):
        if getattr(own, name) is None:
            raise WorkloadError(f"compare {side!r}: --{name} is needed (or {name}=... in it), unless it is a saved "
                                "report")
    check_layer_options(own, (own.layer,), data=False)
    compiled = build(own, own.layer, False, tile_of(own)).layer
    return report_compiled(compiled, energy=load_table(own.energy), seed=own.seed)
