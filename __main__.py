"""The command line: ``tilescore COMMAND`` or ``python -m tilescore COMMAND``.

Exit status: 0 success; 1 levels that should agree do not, or a check failed; 2 wrong input (one line on standard
error names it, nothing is written).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from tilescore.compiler.checkpoint import from_safetensors
from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.format_table import describe_formats, layer_costs, read_tensor, tensor_errors, text_table
from tilescore.compiler.formats import PRESETS as FORMAT_PRESETS
from tilescore.compiler.formats import parse_format
from tilescore.compiler.layers import Workload
from tilescore.compiler.listing import listing
from tilescore.compiler.models import attention_layer, list_models, load_model, moe_layer
from tilescore.compiler.report import check_description, describe, layer_report, table
from tilescore.compiler.schedule import load as load_schedule
from tilescore.compiler.schedule import to_dict
from tilescore.compiler.slices import slice_tensors, slice_workload
from tilescore.compiler.store import embed_expected, expected_of
from tilescore.rtl.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.errors import CompileError, ConfigError, ProgramError, SimulationError, TilescoreError, WorkloadError
from tilescore.sim.energy import TABLES, EnergyTable, load_table
from tilescore.sim.program import Program
from tilescore.sim.progress import Progress
from tilescore.sim.simulate import LEVELS, simulate
from tilescore.sim.toolchain import doctor_report, missing_for_verilator
from tilescore.sim.verifier import verify

DEFAULT_MODEL, DEFAULT_TOKENS, DEFAULT_TILE = "qwen3-30b-a3b", 128, "edge"
OUT = Path("out")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    arguments = parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except TilescoreError as error:
        print(f"tilescore: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1 if isinstance(error, SimulationError) else 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: drop what is left
        return 1
    except MemoryError:
        print("tilescore: out of memory: expected a workload that fits, such as fewer --tokens, --context or --batch",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input: in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.splitlines())}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="tilescore", description="Hardware-software co-design kit for AI accelerators.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="layer + tile -> cycles, utilization, energy; without arguments: the demo")
    _workload_arguments(run)
    _simulation_arguments(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="also write report.json and listings there")
    run.set_defaults(run=_run)

    compile_ = commands.add_parser("compile", help="layer + tile -> program file")
    _workload_arguments(compile_)
    compile_.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="program file to write")
    compile_.add_argument("--listing", type=Path, metavar="FILE", help="also write the assembler listing")
    compile_.add_argument("--no-data", action="store_true", help="instructions only: for timing")
    compile_.set_defaults(run=_compile)

    simulate_ = commands.add_parser("simulate", help="program file -> report")
    simulate_.add_argument("program", type=Path)
    _simulation_arguments(simulate_)
    simulate_.set_defaults(run=_simulate)

    verilog = commands.add_parser("verilog", help="tile -> Verilog")
    verilog.add_argument("--tile", default=DEFAULT_TILE, metavar="NAME|FILE")
    verilog.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    verilog.set_defaults(run=_verilog)

    export = commands.add_parser("export", help="tile behind AXI -> a folder of plain Verilog for FPGA tools")
    export.add_argument("folder", type=Path, metavar="DIR")
    export.add_argument("--tile", default=DEFAULT_TILE, metavar="NAME|FILE")
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    export.set_defaults(run=_export)

    isa = commands.add_parser("isa", help="the instruction set")
    isa.add_argument("--markdown", action="store_true", help="the reference page instead of the summary")
    isa.add_argument("--json", action="store_true")
    isa.set_defaults(run=_isa)

    formats = commands.add_parser("formats", help="number formats: what they are, their error on a tensor, their cost "
                                  "on a layer")
    _layer_arguments(formats)
    formats.add_argument("--acc-bits", type=int, default=64, choices=(64, 80, 96), help="accumulator width for the "
                         "exactness column")
    formats.add_argument("--k", type=int, default=4096, help="elements of the sum for the exactness column")
    formats.add_argument("--tensor", type=Path, metavar="FILE", help=".npy or safetensors: error of each format on it")
    formats.add_argument("--tensor-name", metavar="NAME", help="which tensor of a safetensors file")
    formats.add_argument("--energy", default=TABLES[-1], metavar="NAME|FILE")
    formats.add_argument("--json", action="store_true")
    formats.set_defaults(run=_formats)

    models = commands.add_parser("models", help="bundled models and what of them is built")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_models)

    doctor = commands.add_parser("doctor", help="which tools are here, and what is skipped without the others")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_doctor)
    return top


def _layer_arguments(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", metavar="NAME|PATH", help="bundled model (see `tilescore models`) or a config.json")
    add("--layer", choices=("attention", "moe"))
    add("--phase", choices=("prefill", "decode"), default="prefill")
    add("--tokens", type=int, metavar="N", help="new tokens per sequence")
    add("--context", type=int, metavar="T", help="cached tokens per sequence")
    add("--batch", type=int, default=1, metavar="B", help="sequences")
    add("--mask", choices=("causal", "none"), default="causal")
    add("--tile", default=DEFAULT_TILE, metavar="NAME|FILE", help=f"{', '.join(PRESETS)} or a TOML file")
    add("--routing", metavar="balanced|zipf-S|FILE", help="default: the router's own top k")


def _workload_arguments(command: argparse.ArgumentParser) -> None:
    _layer_arguments(command)
    add = command.add_argument
    add("--weights", type=Path, metavar="FILE", help="safetensors; default: seeded synthetic tensors")
    add("--layer-index", type=int, default=0, metavar="I", help="layer in the safetensors file")
    add("--schedule", type=Path, metavar="FILE", help="a schedule in JSON; default: chosen by rule")
    add("--format", default="e4m3", metavar="NAME|W:A:KV", help=f"{', '.join(FORMAT_PRESETS)}, or formats of weights, "
        "activations and KV cache")
    add("--seed", type=int, default=0, metavar="S")


def _simulation_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--level", type=_levels, default=("reference", "timing"), metavar="LEVEL[,LEVEL]",
                         help=f"of {', '.join(LEVELS)}; default: reference,timing")
    command.add_argument("--energy", default=TABLES[-1], metavar="NAME|FILE",
                         help=f"{', '.join(TABLES)} or a TOML file")
    command.add_argument("--json", action="store_true", help="JSON on standard output instead of the table")


def _levels(text: str) -> tuple[str, ...]:
    levels = tuple(dict.fromkeys(text.split(",")))
    for level in levels:
        if level not in LEVELS:
            raise argparse.ArgumentTypeError(f"unknown level {level!r}; allowed: {', '.join(LEVELS)}")
    return levels


def _workload(arguments: argparse.Namespace, layer: str) -> Workload:
    model = load_model(arguments.model)
    description = attention_layer(model) if layer == "attention" else moe_layer(model)
    tokens = arguments.tokens
    if tokens is None:
        if arguments.phase != "decode":
            raise WorkloadError("--tokens is needed for prefill")
        tokens = 1
    return Workload(layer=description, phase=arguments.phase, tokens=tokens, context=arguments.context,
                    batch=arguments.batch, mask=arguments.mask)


def _build(arguments: argparse.Namespace, layer: str, data: bool, config: TileConfig) -> tuple[CompiledLayer, float]:
    """Compile and verify one layer; the layer and the seconds that took."""
    start = time.perf_counter()
    workload = _workload(arguments, layer)
    schedule = load_schedule(arguments.schedule) if arguments.schedule else None
    if schedule is not None and (kind := to_dict(schedule)["kind"]) != layer:
        raise CompileError(f"schedule file {arguments.schedule}: expected kind {layer}, got {kind}")
    tensors = None
    if arguments.weights:
        tensors = from_safetensors(arguments.weights, workload, layer_index=arguments.layer_index, seed=arguments.seed)
    elif arguments.layer_index:
        raise WorkloadError(f"--layer-index {arguments.layer_index}: --weights is needed too")
    compiled = compile_layer(workload, config, tensors=tensors, schedule=schedule, routing=arguments.routing,
                             seed=arguments.seed, data=data, formats=parse_format(arguments.format))
    compiled.program.meta.update(describe(compiled, config, seed=arguments.seed))
    compiled.program.meta["data"] = data
    verify(compiled.program)
    return compiled, time.perf_counter() - start


def _report(program: Program, energy: EnergyTable, *, expected: np.ndarray | None, compile_s: float,
            levels: tuple[str, ...]) -> dict:
    if "rtl" in levels and (missing := missing_for_verilator()):
        print("tilescore: the rtl level runs in Amaranth's simulator, some 1000 times slower than under Verilator, "
              f"which lacks: {', '.join(missing)}", file=sys.stderr)
    start = time.perf_counter()
    with Progress(f"simulate {program.meta['layer']}") as progress:
        result = simulate(program, levels, energy_table=energy, progress=progress)
    return layer_report(program.meta, program, result, expected=expected, compile_s=compile_s,
                        simulate_s=time.perf_counter() - start)


def _run(arguments: argparse.Namespace) -> int:
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
        compiled, seconds = _build(arguments, layer, data, config)
        reports.append(_report(compiled.program, energy, expected=compiled.expected, compile_s=seconds,
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


def _needs_model(arguments: argparse.Namespace, *names: str) -> None:
    """An option that would be ignored is an error."""
    for name in names:
        if getattr(arguments, name) is not None:
            raise WorkloadError(f"--{name} {getattr(arguments, name)}: --model is needed too")


def _fill_in_demo(arguments: argparse.Namespace) -> None:
    """The workload of `tilescore run` without a model."""
    _needs_model(arguments, "layer", "tokens", "context", "routing", "weights", "schedule")
    arguments.model, arguments.tokens = DEFAULT_MODEL, DEFAULT_TOKENS
    arguments.out = arguments.out or OUT


def _cross_check(compiled: CompiledLayer, energy: EnergyTable, seed: int) -> dict:
    """A slice of the same layer on `nano` at every level. `simulate` raises when two levels differ."""
    workload = slice_workload(compiled.workload)
    start = time.perf_counter()
    sliced = compile_layer(workload, load_tile("nano"), tensors=slice_tensors(compiled.tensors, workload))
    sliced.program.meta.update(describe(sliced, load_tile("nano"), seed=seed))
    verify(sliced.program)
    return _report(sliced.program, energy, expected=sliced.expected, compile_s=time.perf_counter() - start,
                   levels=LEVELS)


def _agreement(check: dict) -> str:
    levels = check["levels"]
    return (f"{check['cycles']:,} cycles, {check['instructions']} instructions, result "
            f"{next(iter(levels.values()))['result_sha256'][:12]}, equal at {', '.join(levels)}")


def _compile(arguments: argparse.Namespace) -> int:
    if arguments.model is None or arguments.layer is None:
        raise WorkloadError("compile needs --model (see `tilescore models`) and --layer (attention, moe)")
    config = load_tile(arguments.tile)
    _check_targets([arguments.output] if arguments.listing is None else [arguments.output, arguments.listing])
    compiled, seconds = _build(arguments, arguments.layer, not arguments.no_data, config)
    program = compiled.program
    if compiled.expected is not None:
        program = embed_expected(program, compiled.expected)
    try:
        program.save(arguments.output)
    except OSError as error:
        raise ConfigError(f"{arguments.output}: cannot be written: {error.strerror}") from None
    if arguments.listing:
        _write_text(arguments.listing, listing(program))
    print(f"{arguments.output}: {len(program.instructions)} instructions for tile {config.name}, "
          f"{program.dram_bytes:,} bytes of DRAM, {seconds:.2f} s")
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    energy = load_table(arguments.energy)
    program = Program.load(arguments.program)
    try:
        check_description(program)
        if not program.meta.get("data", True) and arguments.level != ("timing",):
            raise ProgramError("compiled with --no-data; allowed: --level timing")
        verify(program)
        expected = expected_of(program)
    except ProgramError as error:
        raise ProgramError(f"program file {arguments.program}: {error}") from None
    report = _report(program, energy, expected=expected, compile_s=0.0, levels=arguments.level)
    print(json.dumps(report, indent=2) if arguments.json else table([report]))
    return 0


def _verilog(arguments: argparse.Namespace) -> int:
    from tilescore.rtl.verilog import tile_verilog

    config = load_tile(arguments.tile)
    if arguments.output is None:
        sys.stdout.write(tile_verilog(config))
    else:
        _check_targets([arguments.output])
        _write_text(arguments.output, tile_verilog(config))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from tilescore.rtl.export import export_tile

    config = load_tile(arguments.tile)
    folder = export_tile(config, arguments.folder, force=arguments.force)
    print(f"{folder}: tile {config.name}, configuration {config.digest}")
    return 0


def _isa(arguments: argparse.Namespace) -> int:
    from tilescore.rtl.isa import INSTRUCTIONS, layout_of, reference_page

    if arguments.markdown:
        sys.stdout.write(reference_page())
    elif arguments.json:
        print(json.dumps([{"name": s.name, "opcode": s.opcode, "unit": s.unit.name.lower(), "meaning": s.meaning,
                           "fields": [{"name": n, "low": low, "bits": bits} for n, low, bits in layout_of(s)]}
                          for s in INSTRUCTIONS], indent=2))
    else:
        for spec in INSTRUCTIONS:
            print(f"{spec.opcode:2d} {spec.name:8} {spec.unit.name.lower():9} {spec.meaning}")
    return 0


def _formats(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.k <= 1 << 24:
        raise WorkloadError(f"--k: expected an integer from 1 to {1 << 24}, got {arguments.k}")
    if not arguments.model:
        _needs_model(arguments, "layer", "tokens", "context", "routing")
    if arguments.tensor_name is not None and not arguments.tensor:
        raise WorkloadError(f"--tensor-name {arguments.tensor_name}: --tensor is needed too")
    parts = {"formats": describe_formats(arguments.acc_bits, arguments.k)}
    if arguments.tensor:
        parts["tensor"] = tensor_errors(read_tensor(arguments.tensor, arguments.tensor_name))
    if arguments.model:
        if arguments.layer is None:
            raise WorkloadError("--layer is needed with --model; allowed: attention, moe")
        workload, config = _workload(arguments, arguments.layer), load_tile(arguments.tile)
        parts["layer"] = layer_costs(workload, config, load_table(arguments.energy), arguments.routing)
    if arguments.json:
        print(json.dumps(parts, indent=2))
    else:
        print("\n\n".join(text_table(rows) for rows in parts.values()))
    return 0


def _models(arguments: argparse.Namespace) -> int:
    rows = []
    for name in list_models():
        model, built = load_model(name), {}
        for layer, make in (("attention", attention_layer), ("moe", moe_layer)):
            try:
                make(model)
                built[layer] = None
            except TilescoreError as error:
                built[layer] = str(error)
        rows.append({"model": name, "attention": built["attention"], "moe": built["moe"]})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['model']:24} attention: {'built' if row['attention'] is None else 'not built'}"
              f"   moe: {'built' if row['moe'] is None else 'not built'}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    checks = doctor_report()
    if arguments.json:
        print(json.dumps([vars(check) for check in checks], indent=2))
        return 0
    for check in checks:
        print(f"{'ok     ' if check.found else 'missing'} {check.name:14} {check.detail}")
        if not check.found:
            print(f"        skipped without it: {check.skipped_without}; to get it: {check.how_to_get}")
    return 0


def _check_targets(paths: Sequence[Path]) -> None:
    """Refuse, before any work, names that cannot be replaced by a file (a device or pipe would be lost)."""
    for path in paths:
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder, expected a file name")
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: folder {path.parent} does not exist")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a regular file, expected a file or a new name")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError(f"{paths[0]}: is named twice, expected a different file for each output")


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _write(folder: Path, reports: list[dict], checks: list[dict], listings: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
    _write_text(folder / "report.json", json.dumps({"layers": reports, "cross_checks": checks}, indent=2) + "\n")
    for name, text in listings.items():
        _write_text(folder / name, text)


if __name__ == "__main__":
    sys.exit(main())
