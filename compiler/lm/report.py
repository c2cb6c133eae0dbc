"""What number formats cost a language model on a text, and what the tile spends on it: an object of JSON types."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import WorkloadError
from ...sim.energy import EnergyTable
from ..formats import preset_name
from ..gguf_file import GgufFile
from ..layers import Workload
from ..model_layers import layer_of
from ..numerics import Numerics
from ..products import check_built
from ..provenance import table_digest
from .network import Compute, Network, float64
from .score import Mean, continued, losses, windows
from .text import Text
from .tile import TileCompute
from .tokenizer import Tokenizer

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is scored: so many tokens of a text, in windows; batch: windows of one pass; prompts: to be continued by
    ``generate`` tokens each."""

    text: Text
    tokens: int
    window: int
    batch: int
    prompts: tuple[str, ...] = ()
    generate: int = 0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 2), ("window", 1), ("batch", 1), ("generate", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise WorkloadError(f"lm: --{name}: expected an integer from {least}, got {value!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What one way to compute a model gives. nats: (windows, window); made: continuations, as tokens."""

    nats: np.ndarray
    made: list[list[int]]


class Scorer:
    """A model and a task, read once. Raises `WorkloadError` for a text that is too short."""

    def __init__(self, file: GgufFile, task: Task) -> None:
        self.network, self.tokenizer, self.task = Network(file), Tokenizer(file), task
        self.ids, self.targets = windows(self.tokenizer.encode(task.text.content), task.tokens, task.window)
        self.prompts = [self.tokenizer.encode(prompt) for prompt in task.prompts]

    def score(self, compute: Compute, done: Callable[[], object] = bool) -> np.ndarray:
        """Nats of every target, (windows, window). done: called after each window."""
        return losses(self.network, self.ids, self.targets, compute, batch=self.task.batch, done=done)

    def make(self, compute: Compute, drafts: list[list[int]] | None = None) -> list[list[int]]:
        """Continuations of the prompts, as tokens."""
        if not self.prompts or not self.task.generate:
            return []
        return continued(self.network, self.prompts, self.task.generate, compute, drafts)


def lm_report(file: GgufFile, task: Task, config: TileConfig, numerics: Sequence[Numerics], table: EnergyTable,
              progress: Progress | None = None) -> dict:
    """The figures of a model on a text in each of the ``numerics``, beside float64 (docs/lm.md).

    Raises `WorkloadError` for a text that is too short, `CompileError` for formats that the tile does not build.
    """
    scorer = Scorer(file, task)
    for one in numerics:
        for layer in (layer_of(file.config, "decoder").layer, layer_of(file.config, "head").layer):
            check_built(Workload(layer=layer, tokens=1), config, one)
    done = count()

    def step() -> None:
        if progress:
            progress(next(done), len(scorer.ids) * (1 + len(numerics)))

    exact = Scored(nats=scorer.score(float64, step), made=scorer.make(float64))
    formats = [format_report(scorer, exact, TileCompute(config=config, numerics=one, table=table), step)[0]
               for one in numerics]
    return {
        "model": file.config.name, "file": file.path.name, "layers": file.config.num_hidden_layers,
        "text": {"source": task.text.source, "sha256": task.text.sha256,
                 "of_benchmark": task.text.of_benchmark}, "tokens": task.tokens, "window": task.window,
        "batch": task.batch, "tile": config.name, "clock_mhz": config.clock_mhz, "energy_table": table.name,
        "energy_digest": table_digest(table), "prompts": list(task.prompts), "generated": task.generate,
        "float64": quality(exact, scorer), "formats": formats,
    }


def format_report(scorer: Scorer, exact: Scored, tile: TileCompute, done: Callable[[], object] = bool
                  ) -> tuple[dict, Scored]:
    """The figures of one format, and what they are made from. tile: one that has computed nothing yet."""
    nats, spent = scorer.score(tile, done), _spent(tile, scorer.task.tokens)
    found = Scored(nats=nats, made=scorer.make(tile, exact.made))
    return {"format": preset_name(tile.numerics.formats), "numerics": tile.numerics.to_dict(),
            **quality(found, scorer), "nats_lost": asdict(Mean.of(found.nats - exact.nats)), **spent}, found


def perplexity(nats: np.ndarray) -> dict:
    """Mean loss and its exponential, with standard errors."""
    mean = Mean.of(nats)
    value = math.exp(mean.mean)
    return {"nats": asdict(mean), "perplexity": {"mean": value, "standard_error": value * mean.standard_error}}


def quality(scored: Scored, scorer: Scorer) -> dict:
    """Loss, perplexity and continuations."""
    return perplexity(scored.nats) | continuations(scored.made, scorer)


def continuations(made: list[list[int]], scorer: Scorer) -> dict:
    """Of each prompt, as tokens and text."""
    return {"continuations": [{"prompt": prompt, "tokens": tokens, "text": scorer.tokenizer.decode(tokens)}
                              for prompt, tokens in zip(scorer.task.prompts, made, strict=False)]}


def _spent(tile: TileCompute, tokens: int) -> dict:
    """Of the programs so far, per token of the text."""
    cycles = tile.total_cycles()
    return {"cycles": cycles, "cycles_per_token": cycles / tokens,
            "tokens_per_s": tokens / (cycles / (tile.config.clock_mhz * 1e6)),
            "joules_per_token": tile.joules() / tokens, "joules_per_token_low": tile.joules("low") / tokens,
            "joules_per_token_high": tile.joules("high") / tokens}
