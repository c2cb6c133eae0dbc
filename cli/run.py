"""`tilescore run`: layer + tile -> cycles, utilization, energy; without a model the demo."""

import argparse
import json
import time
from pathlib import Path

from ..compiler.compile import CompiledLayer, compile_layer
from ..compiler.listing import listing
from ..compiler.report import describe, table
from ..compiler.slices import slice_tensors, slice_workload
from ..rtl.config import load_tile
from ..rtl.errors import ConfigError, WorkloadError
from ..sim.energy import EnergyTable, load_table
from ..sim.names import LEVELS
from ..sim.verifier import verify
from .files import write_text
from .layer import build, needs_model, report

DEFAULT_MODEL, DEFAULT_TOKENS = "qwen3-30b-a3b", 128
OUT = Path("out")


def run(arguments: argparse.Namespace) -> int:
    demo = arguments.model is None
    if demo:
        _fill_in_demo(arguments)
    elif arguments.layer is None:
        raise WorkloadError("--layer is needed with --model; allowed: attention, moe")
    config, energy = load_tile(arguments.tile), load_table(arguments.energy)
    if arguments.out and arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out}: is a file, expected a folder or a new name")
    data = arguments.level != ("timing",)
    reports, checks, listings = [], [], {}
    for layer in ("attention", "moe") if demo else (arguments.layer,):
        compiled, seconds = build(arguments, layer, data, config)
        reports.append(report(compiled.program, energy, expected=compiled.expected, compile_s=seconds,
                               levels=arguments.level))
        if arguments.out:
            listings[f"{layer}.txt"] = listing(compiled.program)
        if demo and data:
            checks.append(_cross_check(compiled, energy, arguments.seed))
    if arguments.out:
        _write(arguments.out, reports, checks, listings)
    if arguments.json:
        print(json.dumps(reports if demo else reports[0], indent=2))
    else:
        print(table(reports))
        for check in checks:
            print(f"\nCross-check on nano, a slice of the {check['layer']} layer: {_agreement(check)}")
        if demo and not data:
            print("\nNo cross-check of the levels: only timing was asked for")
        if arguments.out:
            print(f"\nWritten to {arguments.out}/: report.json, {', '.join(listings)}")
    return 0


def _fill_in_demo(arguments: argparse.Namespace) -> None:
    """The workload of `tilescore run` without a model."""
    needs_model(arguments, "layer", "tokens", "context", "routing", "weights", "schedule")
    arguments.model, arguments.tokens = DEFAULT_MODEL, DEFAULT_TOKENS
    arguments.out = arguments.out or OUT


def _cross_check(compiled: CompiledLayer, energy: EnergyTable, seed: int) -> dict:
    """A slice of the same layer on `nano` at every level. `simulate` raises when two levels differ."""
    workload = slice_workload(compiled.workload)
    start = time.perf_counter()
    sliced = compile_layer(workload, load_tile("nano"), tensors=slice_tensors(compiled.tensors, workload))
    sliced.program.meta.update(describe(sliced, load_tile("nano"), seed=seed))
    verify(sliced.program)
    return report(sliced.program, energy, expected=sliced.expected, compile_s=time.perf_counter() - start,
                   levels=LEVELS)


def _agreement(check: dict) -> str:
    levels = check["levels"]
    return (f"{check['cycles']:,} cycles, {check['instructions']} instructions, result "
            f"{next(iter(levels.values()))['result_sha256'][:12]}, equal at {', '.join(levels)}")


def _write(folder: Path, reports: list[dict], checks: list[dict], listings: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
    write_text(folder / "report.json", json.dumps({"layers": reports, "cross_checks": checks}, indent=2) + "\n")
    for name, text in listings.items():
        write_text(folder / name, text)
