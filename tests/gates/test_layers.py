"""The project holds its own figures: layers of README, docs/comparison.md and the published table of `server`.

A change that costs one cycle, one byte or a percent of energy fails here, with where it comes from. Renew the baselines
with `pytest tests/gates --slow --tilescore-update` in the commit that changes the figures, and say why there.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tilescore import Workload, compile_layer, load_model, load_tile
from tilescore.compiler.layer_readers import LAYERS


class Held(NamedTuple):
    """One layer. request: fields of its workload; routing: for an MoE layer that is forced."""

    model: str
    kind: str
    request: dict
    tile: str = "server"
    routing: str | None = None


QUICK = {
    "llama-3-8b-attention-2048-none": Held("llama-3-8b", "attention", {"tokens": 2048, "mask": "none"}),
    "llama-3-8b-attention-decode-16-8192": Held("llama-3-8b", "attention",
                                                {"phase": "decode", "tokens": 1, "context": 8192, "batch": 16}),
    "olmoe-moe-512-balanced": Held("olmoe-1b-7b", "moe", {"tokens": 512}, routing="balanced"),
    "qwen3-30b-attention-decode-16-4096": Held("qwen3-30b-a3b", "attention",
                                               {"phase": "decode", "tokens": 1, "context": 4096, "batch": 16}),
    "qwen3-30b-moe-decode-4": Held("qwen3-30b-a3b", "moe", {"phase": "decode", "tokens": 1, "batch": 4}),
    "qwen3-30b-moe-decode-16": Held("qwen3-30b-a3b", "moe", {"phase": "decode", "tokens": 1, "batch": 16}),
    "llama-3-8b-decoder-16": Held("llama-3-8b", "decoder", {"tokens": 16}),
    "main-job-attention": Held("qwen3-30b-a3b", "attention", {"tokens": 128}, tile="edge"),
    "main-job-moe": Held("qwen3-30b-a3b", "moe", {"tokens": 128}, tile="edge"),
}
SLOW = {
    "llama-3-8b-attention-2048-causal": Held("llama-3-8b", "attention", {"tokens": 2048}),
    "qwen3-30b-moe-decode-64": Held("qwen3-30b-a3b", "moe", {"phase": "decode", "tokens": 1, "batch": 64}),
    "qwen3-30b-moe-2048": Held("qwen3-30b-a3b", "moe", {"tokens": 2048}),
    "qwen3-30b-attention-2048": Held("qwen3-30b-a3b", "attention", {"tokens": 2048}),
    "mixtral-moe-512": Held("mixtral-8x7b", "moe", {"tokens": 512}),
    "mixtral-moe-decode-16": Held("mixtral-8x7b", "moe", {"phase": "decode", "tokens": 1, "batch": 16}),
    "granite-3b-attention-2048": Held("granite-3.0-3b-a800m", "attention", {"tokens": 2048}),
    "granite-3b-moe-2048": Held("granite-3.0-3b-a800m", "moe", {"tokens": 2048}),
    "qwen3-235b-attention-1024": Held("qwen3-235b-a22b", "attention", {"tokens": 1024}),
    "qwen3-235b-moe-512": Held("qwen3-235b-a22b", "moe", {"tokens": 512}),
    "llama-3-70b-attention-1024": Held("llama-3-70b", "attention", {"tokens": 1024}),
}


def hold(name: str, held: Held, gate) -> None:
    layer = LAYERS[held.kind](load_model(held.model))
    workload = Workload(layer=layer, **held.request)
    gate(name, compile_layer(workload, load_tile(held.tile), data=False, routing=held.routing))


@pytest.mark.parametrize("name", QUICK)
def test_layer(name: str, tilescore_gate) -> None:
    hold(name, QUICK[name], tilescore_gate)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_long_layer(name: str, tilescore_gate) -> None:
    hold(name, SLOW[name], tilescore_gate)
