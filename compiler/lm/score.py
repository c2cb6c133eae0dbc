"""Perplexity, what it loses against another model of the same text, and greedy continuation.

A text is cut into windows of equal length; each starts anew. Every token of a window is scored on the one that follows
it in the text, so a window sees its first token only. Standard errors take tokens as independent; of a difference it is
that of the paired differences, which are far smaller than either loss varies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...rtl.spec.errors import WorkloadError
from .network import Compute, Network

_ROWS = 256
"""Logits whose exponentials are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Of a sample, with its standard error."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: np.ndarray) -> Mean:
        error = float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.inf
        return cls(mean=float(values.mean()), standard_error=error)


def windows(ids: Sequence[int], tokens: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows, window) ids, and those that follow each. Raises `WorkloadError` where a text has too few."""
    if tokens % window:
        raise WorkloadError(f"--tokens {tokens}: expected a multiple of the window, {window}")
    if len(ids) <= tokens:
        raise WorkloadError(f"--tokens {tokens}: the text has {len(ids)} tokens; expected at most {len(ids) - 1}")
    flat = np.asarray(ids[:tokens + 1], np.int64)
    return flat[:-1].reshape(-1, window), flat[1:].reshape(-1, window)


def losses(network: Network, ids: np.ndarray, targets: np.ndarray, compute: Compute, *, batch: int,
           done: Callable[[], object] = bool) -> np.ndarray:
    """Nats of every target, (windows, window). batch: windows of one pass; done: called after each window."""
    found = []
    for first in range(0, len(ids), batch):
        hidden = network.hidden(ids[first:first + batch], compute)
        for rows, wanted in zip(hidden, targets[first:first + batch], strict=True):
            found.append(nats(network.logits(rows, compute), wanted))
            done()
    return np.stack(found)


def nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target], (rows,) float64."""
    found = np.empty(len(targets))
    for first in range(0, len(targets), _ROWS):
        part = slice(first, first + _ROWS)
        rows = logits[part].astype(np.float64)
        own = rows[np.arange(len(rows)), targets[part]]
        largest = rows.max(axis=1, keepdims=True)
        found[part] = np.log(np.exp(rows - largest).sum(axis=1)) + largest[:, 0] - own
    return found


def continued(network: Network, prompts: Sequence[Sequence[int]], tokens: int, compute: Compute,
              drafts: Sequence[Sequence[int]] | None = None) -> list[list[int]]:
    """The likeliest ``tokens`` tokens after each prompt, each given those before it, the lowest of equal ones.

    A pass prefills prompts and drafts of what follows, all together, shorter texts with padding behind. What a pass
    predicts is right as far as its draft was, and for one token more; the rest of it is the next draft. So there are as
    many passes as a draft has wrong tokens, and one more. Of what stands behind a token only its tensor-wide scales
    depend. drafts: default, nothing likely.
    """
    texts = [[*prompt, *(draft or [0] * tokens)][:len(prompt) + tokens]
             for prompt, draft in zip(prompts, drafts or [[]] * len(prompts), strict=True)]
    right = [0] * len(texts)
    while tokens and min(right) < tokens:
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        for row, text in zip(ids, texts, strict=True):
            row[:len(text)] = text
        hidden = network.hidden(ids, compute)
        rows = [made[len(text) - tokens - 1:len(text) - 1] for made, text in zip(hidden, texts, strict=True)]
        likeliest = network.logits(np.concatenate(rows), compute).argmax(axis=1).reshape(len(texts), tokens)
        for number, (text, found) in enumerate(zip(texts, likeliest.tolist(), strict=True)):
            while right[number] < tokens:
                at, token = right[number], found[right[number]]
                right[number] += 1
                if token != text[at - tokens]:
                    text[at - tokens:] = found[at:]
                    break
    return [text[-tokens:] if tokens else [] for text in texts]
