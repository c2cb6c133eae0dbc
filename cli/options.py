"""Options that several commands share, in groups. Names that are listed come from modules that import no numpy."""

import argparse
from pathlib import Path

from ..compiler.format_names import PRESET_NAMES, SCALE_RULE_NAMES, SOFTMAX_BLOCK
from ..compiler.layers import LAYER_KINDS
from ..rtl.spec.config import PRESETS
from ..rtl.spec.errors import did_you_mean
from ..rtl.spec.tile_settings import OPTION
from ..sim.names import LEVELS, TABLES

DEFAULT_TILE = "edge"


def tile_options(command: argparse.ArgumentParser) -> None:
    """Which tile."""
    command.add_argument("--tile", default=DEFAULT_TILE, metavar="NAME|FILE",
                         help=f"{', '.join(PRESETS)} or a TOML file (see `tilescore tile`)")
    tile_set_option(command)


def tile_set_option(command: argparse.ArgumentParser) -> None:
    """Changes to the tile."""
    command.add_argument(OPTION, action="append", dest="tile_set", metavar="KEY=VALUE[,KEY=VALUE...]",
                         help="change keys of the tile, such as formats=e4m3+e2m1,scales=e4m3; may be repeated")


def layer_options(command: argparse.ArgumentParser) -> None:
    """Which layer of which model, how many tokens, on which tile."""
    add = command.add_argument
    add("--model", metavar="NAME|PATH", help="bundled model (see `tilescore models`) or a config.json")
    add("--ignore-key", action="append", metavar="KEY", help="a key of the config.json that is not understood and does "
        "not change the layer; may be repeated")
    add("--layer", choices=LAYER_KINDS, help=", ".join(LAYER_KINDS))
    add("--layer-index", type=int, metavar="N", help="decoder layer of the model, from 0; default: the first that has "
        "the kind asked for")
    add("--phase", choices=("prefill", "decode"), default="prefill", help="prefill or decode")
    add("--tokens", type=int, metavar="N", help="new tokens per sequence; default for decode: 1")
    add("--context", type=int, metavar="T", help="cached tokens per sequence; default for prefill: 0, for decode "
        "with attention: 1024")
    add("--batch", type=int, default=1, metavar="B", help="sequences")
    add("--mask", choices=("causal", "none"), default="causal", help="of attention and decoder: causal or none")
    tile_options(command)
    add("--routing", metavar="LOAD[:MODE]|FILE", help="of moe and decoder, LOAD: router (default), balanced, "
        "correlated, zipf-S, power-A or FILE; MODE: capacity-G, round-M; default: dropless")
    numerics_options(command)


def numerics_options(command: argparse.ArgumentParser) -> None:
    """What decides bits, beside the formats."""
    command.add_argument("--softmax-block", type=int, metavar="N", help="keys per block of attention's softmax, part "
                         f"of its numerics; default: {SOFTMAX_BLOCK}")
    command.add_argument("--scale-rule", choices=SCALE_RULE_NAMES, help="of power-of-two block scales; default: "
                         "floor")


def workload_options(command: argparse.ArgumentParser) -> None:
    """`layer_options` and what a program is made of."""
    layer_options(command)
    add = command.add_argument
    add("--weights", type=Path, metavar="PATH", help="safetensors file, index or folder; default: seeded "
        "synthetic tensors")
    add("--schedule", type=Path, metavar="FILE", help="a schedule in TOML; default: chosen by rule")
    add("--format", default="e4m3", metavar="NAME|W:A:KV", help=f"{', '.join(PRESET_NAMES)}, or formats of weights, "
        "activations and KV cache")
    add("--seed", type=int, default=0, metavar="S", help="of synthetic tensors and of zipf routing")


def energy_options(command: argparse.ArgumentParser) -> None:
    """Which constants of energy."""
    command.add_argument("--energy", default=TABLES[-1], metavar="NAME|FILE",
                         help=f"{', '.join(TABLES)} or a TOML file")


def simulation_options(command: argparse.ArgumentParser) -> None:
    """Which levels run, and how they are reported."""
    command.add_argument("--level", type=_levels, default=("reference", "timing"), metavar="LEVEL[,LEVEL]",
                         help=f"of {', '.join(LEVELS)}; default: reference,timing")
    energy_options(command)
    json_option(command, "JSON on standard output instead of the table")


def json_option(command: argparse._ActionsContainer, meaning: str = "JSON instead of text") -> None:
    command.add_argument("--json", action="store_true", help=meaning)


def _levels(text: str) -> tuple[str, ...]:
    levels = tuple(dict.fromkeys(text.split(",")))
    for level in levels:
        if level not in LEVELS:
            raise argparse.ArgumentTypeError(f"unknown level {level!r}; allowed: {', '.join(LEVELS)}"
                                             f"{did_you_mean(level, LEVELS)}")
    return levels
