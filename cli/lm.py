"""`tilescore lm`: a language model with its own weights, every layer through the bit-exact reference."""

import argparse
import json

from ..compiler.gguf_file import GgufFile
from ..compiler.lm.report import Task, lm_report
from ..compiler.lm.report_text import lm_text
from ..compiler.lm.text import PROMPTS, bundled_model, default_text, read_text
from ..compiler.numerics import from_options
from ..sim.energy import load_table
from ..sim.lib.progress import Progress
from .tiles import tile_of


def run(arguments: argparse.Namespace) -> int:
    """Score a text in float64 and in each format, continue prompts, print the figures."""
    config, table = tile_of(arguments), load_table(arguments.energy)
    numerics = [from_options(name.strip(), softmax_block=arguments.softmax_block, scale_rule=arguments.scale_rule)
                for name in dict.fromkeys(arguments.format.split(","))]
    task = Task(text=read_text(arguments.text) if arguments.text else default_text(), tokens=arguments.tokens,
                window=min(arguments.window, arguments.tokens), batch=arguments.batch,
                prompts=tuple(arguments.prompt or PROMPTS), generate=arguments.generate)
    file = GgufFile(arguments.gguf or bundled_model())
    with Progress(f"lm {file.config.name}") as progress:
        found = lm_report(file, task, config, numerics, table, progress)
    print(json.dumps(found, indent=2) if arguments.json else lm_text(found))
    return 0
