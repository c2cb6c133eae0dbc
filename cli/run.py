"""`tilescore run`: layer + tile -> cycles, utilization, energy; without a model the demo."""

import argparse
import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ..compiler.layers import LAYER_KINDS
from ..compiler.report import phase_table, table
from ..rtl.spec.errors import ConfigError, WorkloadError
from ..rtl.spec.tile_file import tile_toml
from .files import check_targets, output_folder, write_bytes, write_text
from .ignored import check_layer_options, refuse
from .layer import data_needed
from .play import Played, cross_check, play_beside, play_in_turn, print_headline
from .saved_reports import saved_report
from .tiles import tile_of

DEFAULT_MODEL, DEFAULT_TOKENS = "qwen3-30b-a3b", 128
OUT = Path("out")


def run(arguments: argparse.Namespace) -> int:
    """Compile, simulate and report one layer, or both of the demo.

    The folder for files is there before any work; the report is printed before they are written; and they are written
    even if it cannot be printed.
    """
    demo = arguments.model is None
    if demo:
        _fill_in_demo(arguments)
    elif arguments.layer is None:
        raise WorkloadError(f"--layer is needed with --model; allowed: {', '.join(LAYER_KINDS)}")
    layers = ("attention", "moe") if demo else (arguments.layer,)
    check_layer_options(arguments, layers, data_needed(arguments))
    baselines = _baselines(arguments, layers)
    pages = [path for path in (arguments.html, arguments.out and arguments.out / "report.html") if path]
    check_targets([path for path in (arguments.html, arguments.trace) if path])
    with output_folder(arguments.out) if arguments.out else contextlib.nullcontext():
        done = _play(arguments, layers, demo)
        try:
            _show(arguments, done, demo)
        finally:
            if arguments.out:
                _write(arguments.out, done)
            if pages:
                from ..compiler.visual.run_page import run_page

                views = [layer.drawn.view for layer in done.layers if layer.drawn.view]
                text = run_page(done.reports, views, baselines)
                for path in pages:
                    write_text(path, text)
            if arguments.trace:
                write_bytes(arguments.trace, b"".join(layer.drawn.trace for layer in done.layers))
        if arguments.out and not arguments.json:
            print(f"\nWritten to {arguments.out}/: report.json, {', '.join(done.files)}")
        if arguments.trace and not arguments.json:
            print(f"Trace for ui.perfetto.dev: {arguments.trace}")
        if pages and not arguments.json:
            print(f"Page to look at: {', '.join(map(str, pages))}")
    return 0


def _baselines(arguments: argparse.Namespace, layers: tuple[str, ...]) -> dict[str, dict]:
    """{layer: report} of ``--baseline``, empty without."""
    path = arguments.baseline
    if path is None:
        return {}
    if not (arguments.html or arguments.out):
        refuse(arguments, ("baseline",), "--html or --out is needed too")
    found = {layer: saved_report(path, layer) for layer in layers}
    if None in found.values():
        raise ConfigError(f"--baseline {path}: is a schedule, expected a report.json or a folder of `run --out`")
    return {layer: report for layer, report in found.items() if report is not None}


@dataclass(frozen=True, kw_only=True)
class _Done:
    """What a run has made: its layers, per cross-check a report, texts by file."""

    layers: list[Played]
    checks: list[dict]
    files: dict[str, str]

    @property
    def reports(self) -> list[dict]:
        return [layer.report for layer in self.layers]


def _play(arguments: argparse.Namespace, layers: tuple[str, ...], demo: bool) -> _Done:
    if demo:
        made = play_beside(arguments, layers, (lambda _: None) if arguments.json else print_headline)
    else:
        made = play_in_turn(arguments, layers, lambda _: None)
    checks = [cross_check(layer, arguments) for layer in layers] if demo and data_needed(arguments) else []
    files = {name: text for layer in made for name, text in layer.drawn.files.items()}
    return _Done(layers=made, checks=checks, files=files | {"tile.toml": tile_toml(tile_of(arguments))})


def _show(arguments: argparse.Namespace, done: _Done, demo: bool) -> None:
    if arguments.json:
        print(json.dumps(done.reports if demo else done.reports[0], indent=2), flush=True)
        return
    if demo:
        print()
    print(table(done.reports))
    for made in done.reports:
        print(f"\n{phase_table(made)}")
    for check in done.checks:
        print(f"\nCross-check on nano, a slice of the {check['layer']} layer: {_agreement(check)}")
    if demo and not data_needed(arguments):
        print("\nNo cross-check of the levels: only timing was asked for")
    sys.stdout.flush()


def _fill_in_demo(arguments: argparse.Namespace) -> None:
    """The workload of `tilescore run` without a model."""
    refuse(arguments, ("layer", "tokens", "context", "routing", "weights", "schedule", "ignore_key",
                       "layer_index"),
           "--model is needed too")
    arguments.model = DEFAULT_MODEL
    arguments.tokens = DEFAULT_TOKENS if arguments.phase == "prefill" else None
    arguments.out = arguments.out or OUT


def _agreement(check: dict) -> str:
    levels = check["levels"]
    return (f"{check['cycles']:,} cycles, {check['instructions']} instructions, numerics "
            f"{check['numerics']['digest']}, result {next(iter(levels.values()))['result_sha256'][:12]}, equal at "
            f"{', '.join(levels)}")


def _write(folder: Path, done: _Done) -> None:
    layers = [layer.report | {"timeline": layer.drawn.timeline} for layer in done.layers]
    both = {"layers": layers, "cross_checks": done.checks}
    write_text(folder / "report.json", json.dumps(both, indent=2) + "\n")
    for name, text in done.files.items():
        write_text(folder / name, text)
