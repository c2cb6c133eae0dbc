"""`tilescore run`: layer + tile -> cycles, utilization, energy; without a model the demo."""

import argparse
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..compiler.compile import CompiledLayer, compile_layer
from ..compiler.layers import LAYER_KINDS
from ..compiler.listing import listing
from ..compiler.report import describe, headline, phase_table, table
from ..compiler.schedule import to_text
from ..compiler.slices import SLICE_NUMERICS, slice_tensors, slice_workload
from ..rtl.spec.config import load_tile
from ..rtl.spec.errors import ConfigError, WorkloadError
from ..rtl.spec.tile_file import tile_toml
from ..sim.energy import EnergyTable, load_table
from ..sim.legality.verifier import verify
from ..sim.names import LEVELS
from ..sim.timeline import timeline_of
from .files import check_targets, output_folder, write_bytes, write_text
from .ignored import check_layer_options, refuse
from .layer import build, data_needed, report
from .saved_reports import saved_report
from .tiles import tile_of

if TYPE_CHECKING:
    from ..compiler.visual.run_page import LayerView

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

                text = run_page(done.views, baselines)
                for path in pages:
                    write_text(path, text)
            if arguments.trace:
                write_bytes(arguments.trace, b"".join(done.traces))
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


@dataclass(frozen=True)
class _Done:
    """What a run has made: per layer a report, a packed timeline, a view, a trace; per cross-check a report; texts."""

    reports: list[dict] = field(default_factory=list)
    timelines: list[dict] = field(default_factory=list)
    views: list["LayerView"] = field(default_factory=list)
    traces: list[bytes] = field(default_factory=list)
    checks: list[dict] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


def _play(arguments: argparse.Namespace, layers: tuple[str, ...], demo: bool) -> _Done:
    config, energy, data = tile_of(arguments), load_table(arguments.energy), data_needed(arguments)
    done = _Done()
    for layer in layers:
        built = build(arguments, layer, data, config, levels=arguments.level)
        compiled = built.layer
        made, timing = report(compiled.program, energy, expected=compiled.expected,
                              expected_routed=compiled.expected_routed, compile_s=built.seconds,
                              levels=arguments.level, command=arguments.words, filling=built.filling)
        done.reports.append(made)
        if demo and not arguments.json:
            _announce(made)
        if arguments.out or arguments.html:
            from ..compiler.visual.run_page import view_of  # as what draws a trace, loaded only where it is asked for

            done.views.append(view_of(made, compiled.program, timing))
        if arguments.trace:
            from ..sim.visual.trace import trace

            name = f"{made['model']} {layer} on {made['tile']}"
            done.traces.append(trace(compiled.program, timing, name, len(done.traces) + 1))
        if arguments.out:
            done.timelines.append(timeline_of(compiled.program, timing).to_dict())
            done.files[f"{layer}.txt"] = listing(compiled.program, timing)
            done.files[f"{layer}.schedule.toml"] = to_text(compiled.schedule)
        if demo and data:
            done.checks.append(_cross_check(compiled, energy, arguments))
    done.files["tile.toml"] = tile_toml(config)
    return done


def _announce(made: dict) -> None:
    """A layer's result before the next one is made. Output that is closed is no reason to end: `_show` will say so."""
    with contextlib.suppress(OSError):
        print(headline(made), flush=True)


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
    refuse(arguments, ("layer", "tokens", "context", "routing", "weights", "schedule", "ignore_key"),
           "--model is needed too")
    arguments.model = DEFAULT_MODEL
    arguments.tokens = DEFAULT_TOKENS if arguments.phase == "prefill" else None
    arguments.out = arguments.out or OUT


def _cross_check(compiled: CompiledLayer, energy: EnergyTable, arguments: argparse.Namespace) -> dict:
    """A slice of the same layer on `nano` at every level. `simulate` raises when two levels differ."""
    if compiled.tensors is None:
        raise ValueError("a cross-check needs a layer that was compiled with data")
    workload = slice_workload(compiled.workload)
    start = time.perf_counter()
    sliced = compile_layer(workload, load_tile("nano"), tensors=slice_tensors(compiled.tensors, workload),
                           numerics=SLICE_NUMERICS)
    sliced.program.meta.update(describe(sliced, load_tile("nano"), seed=arguments.seed))
    verify(sliced.program)
    return report(sliced.program, energy, expected=sliced.expected, expected_routed=sliced.expected_routed,
                  compile_s=time.perf_counter() - start,
                  levels=LEVELS, command=arguments.words)[0]


def _agreement(check: dict) -> str:
    levels = check["levels"]
    return (f"{check['cycles']:,} cycles, {check['instructions']} instructions, numerics "
            f"{check['numerics']['digest']}, result {next(iter(levels.values()))['result_sha256'][:12]}, equal at "
            f"{', '.join(levels)}")


def _write(folder: Path, done: _Done) -> None:
    layers = [made | {"timeline": timeline} for made, timeline in zip(done.reports, done.timelines, strict=True)]
    both = {"layers": layers, "cross_checks": done.checks}
    write_text(folder / "report.json", json.dumps(both, indent=2) + "\n")
    for name, text in done.files.items():
        write_text(folder / name, text)
