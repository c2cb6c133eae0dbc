"""The whole command line as an argument parser.

Only what the parser itself needs is imported here (no numpy, no Amaranth), so that `--help`, a wrong option and shell
completion answer at once. A command's module is imported when the command runs: `_runs` names it.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .options import energy_options, layer_options, simulation_options, tile_options, workload_options


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input: in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.splitlines())}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The parser; ``parse_args`` gives a namespace whose ``run`` takes it and returns the exit status."""
    top = Parser(prog="tilescore", description="Hardware-software co-design kit for AI accelerators.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_run, _compile, _simulate, _verilog, _export, _isa, _formats, _models, _doctor):
        add(commands)
    return top


def _runs(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """``function`` of ``module`` in this package, imported when it is called."""
    def call(arguments: argparse.Namespace) -> int:
        return getattr(importlib.import_module(f".{module}", __package__), function)(arguments)
    return call


def _run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="layer + tile -> cycles, utilization, energy; without arguments: the demo")
    workload_options(run)
    simulation_options(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="also write report.json and listings there")
    run.set_defaults(run=_runs("run", "run"))


def _compile(commands: argparse._SubParsersAction) -> None:
    compile_ = commands.add_parser("compile", help="layer + tile -> program file")
    workload_options(compile_)
    compile_.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="program file to write")
    compile_.add_argument("--listing", type=Path, metavar="FILE", help="also write the assembler listing")
    compile_.add_argument("--no-data", action="store_true", help="instructions only: for timing")
    compile_.set_defaults(run=_runs("program", "compile_"))


def _simulate(commands: argparse._SubParsersAction) -> None:
    simulate = commands.add_parser("simulate", help="program file -> report")
    simulate.add_argument("program", type=Path)
    simulation_options(simulate)
    simulate.set_defaults(run=_runs("program", "simulate"))


def _verilog(commands: argparse._SubParsersAction) -> None:
    verilog = commands.add_parser("verilog", help="tile -> Verilog")
    tile_options(verilog)
    verilog.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    verilog.set_defaults(run=_runs("hardware", "verilog"))


def _export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="tile behind AXI -> a folder of plain Verilog for FPGA tools")
    export.add_argument("folder", type=Path, metavar="DIR")
    tile_options(export)
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    export.set_defaults(run=_runs("hardware", "export"))


def _isa(commands: argparse._SubParsersAction) -> None:
    isa = commands.add_parser("isa", help="the instruction set")
    isa.add_argument("--markdown", action="store_true", help="the reference page instead of the summary")
    isa.add_argument("--json", action="store_true")
    isa.set_defaults(run=_runs("hardware", "isa"))


def _formats(commands: argparse._SubParsersAction) -> None:
    formats = commands.add_parser("formats", help="number formats: what they are, their error on a tensor, their cost "
                                  "on a layer")
    layer_options(formats)
    formats.add_argument("--acc-bits", type=int, default=64, choices=(64, 80, 96), help="accumulator width for the "
                         "exactness column")
    formats.add_argument("--k", type=int, default=4096, help="elements of the sum for the exactness column")
    formats.add_argument("--tensor", type=Path, metavar="FILE", help=".npy or safetensors: error of each format on it")
    formats.add_argument("--tensor-name", metavar="NAME", help="which tensor of a safetensors file")
    energy_options(formats)
    formats.add_argument("--json", action="store_true")
    formats.set_defaults(run=_runs("formats", "formats"))


def _models(commands: argparse._SubParsersAction) -> None:
    models = commands.add_parser("models", help="bundled models and what of them is built")
    models.add_argument("--json", action="store_true")
    models.set_defaults(run=_runs("inventory", "models"))


def _doctor(commands: argparse._SubParsersAction) -> None:
    doctor = commands.add_parser("doctor", help="which tools are here, and what is skipped without the others")
    doctor.add_argument("--json", action="store_true")
    doctor.set_defaults(run=_runs("inventory", "doctor"))
