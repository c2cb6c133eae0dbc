"""How often the tile's router sends a token to other experts than float64 would, and what a better router costs.

    python benchmarks/router.py [--write]

Synthetic tensors of every bundled model whose MoE layer is built. ``--write`` puts the tables into
benchmarks/router.md.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.flips import flipped_tokens, float64_logits, margins
from tilescore.compiler.layer_readers import moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.logits import input_scales, split_terms, term_products, tile_logits
from tilescore.compiler.models import list_models, load_model
from tilescore.compiler.numerics import DEFAULT, ROUTER_TERMS, Numerics
from tilescore.compiler.quantize import stored_values, tensor_factor
from tilescore.compiler.routing import route
from tilescore.compiler.tensors import LayerTensors, synthetic
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.rtl.spec.events import event_counts
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.timing import time_program

TOKENS, SEEDS = 1024, range(4)
TILE = "server"
WORKLOADS = (("prefill", 512), ("decode", 1))

Logits = Callable[[LayerTensors], np.ndarray]


def layers() -> Iterator[MoELayer]:
    """MoE layers of the bundled models that are built."""
    for name in list_models():
        try:
            yield moe_layer(load_model(name))
        except WorkloadError:
            continue


def tensors_of(layer: MoELayer, seed: int) -> LayerTensors:
    held = synthetic(Workload(layer=layer, tokens=TOKENS), seed)
    return held


def finer_terms(x: np.ndarray, scale: float, terms: int) -> list[np.ndarray]:
    """Values of terms each of which has 1/16 of the scale of the one before."""
    parts, rest = [], x
    for term in range(terms):
        step = np.float32(scale / 16**term)
        parts.append(decode_e4m3_float(split_terms(rest, float(step), 1)[0]) * float(step))
        rest = (rest - parts[-1]).astype(np.float32)
    return parts


def summed(split: Callable[[np.ndarray, float, int], list[np.ndarray]], terms: int,
           pairs: list[tuple[int, int]]) -> Logits:
    """Logits of operands split by ``split``: the products of ``pairs``, in float64."""
    def make(held: LayerTensors) -> np.ndarray:
        x, router = (split(a, s, terms) for a, s in zip((held.x, held.router), input_scales(held), strict=True))
        return np.sum([x[i] @ router[j].T for i, j in pairs], axis=0)
    return make


def shared_terms(x: np.ndarray, scale: float, terms: int) -> list[np.ndarray]:
    """Values of the terms that the tile multiplies."""
    return [decode_e4m3_float(codes) * scale for codes in split_terms(x, scale, terms)]


def block_terms(name: str) -> Callable[[np.ndarray, float, int], list[np.ndarray]]:
    """Values of terms in a stored format, each with scales of its own."""
    def split(x: np.ndarray, scale: float, terms: int) -> list[np.ndarray]:
        parts, rest = [], x
        for _ in range(terms):
            stored = TENSOR_FORMATS[name]
            parts.append(stored_values(rest, stored, tensor_factor(stored, float(np.abs(rest).max()))))
            rest = (rest - parts[-1]).astype(np.float32)
        return parts
    return split


def variants() -> dict[str, Logits]:
    """What was tried besides the terms of one scale."""
    two, three = [(0, 0), (0, 1), (1, 0)], [(i, j) for i in range(3) for j in range(3)]
    return {
        "1 term, E5M2": summed(block_terms("e5m2"), 1, [(0, 0)]),
        "1 term, MXFP8": summed(block_terms("mxfp8"), 1, [(0, 0)]),
        "x in 2 terms, router in 1": summed(shared_terms, 2, [(0, 0), (1, 0)]),
        "2 terms, 3 products": summed(shared_terms, 2, two),
        "**2 terms, 4 products**": lambda held: tile_logits(held, 2),
        "2 terms, 4 products, second scale 1/16": summed(finer_terms, 2, term_products(2)),
        "2 terms, 4 products, MXFP8": summed(block_terms("mxfp8"), 2, term_products(2)),
        "**3 terms, 6 products**": lambda held: tile_logits(held, 3),
        "3 terms, 9 products": summed(shared_terms, 3, three),
        "3 terms, 6 products, scales 1, 1/16, 1/256": summed(finer_terms, 3, term_products(3)),
    }


def flips(held: LayerTensors, exact: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(tokens,) bool."""
    top_k = held.workload.moe.top_k
    return flipped_tokens(route(exact, top_k, norm_topk=True).chosen, route(logits, top_k, norm_topk=True).chosen)


def flip_rows() -> Iterator[str]:
    """One row per model and number of terms: share of flips (all seeds, worst seed), margin, error."""
    for layer in layers():
        found = {terms: [] for terms in ROUTER_TERMS}
        for seed in SEEDS:
            held = tensors_of(layer, seed)
            exact = float64_logits(held)
            margin = margins(exact, layer.top_k) / exact.std()
            for terms in ROUTER_TERMS:
                logits = tile_logits(held, terms)
                flipped = flips(held, exact, logits)
                error = np.sqrt(np.mean((logits - exact) ** 2)) / exact.std()
                found[terms].append((flipped.mean(), margin[flipped], error, np.median(margin)))
        for terms, parts in found.items():
            shares, flipped = [share for share, *_ in parts], np.concatenate([margin for _, margin, *_ in parts])
            of_flipped = f"{np.median(flipped):.1e} | {flipped.max():.1e}" if flipped.size else "- | -"
            yield (f"| {layer.model} | {layer.hidden}, {layer.top_k} of {layer.experts} | {terms} | "
                   f"{100 * np.mean(shares):.2f} % | {100 * max(shares):.2f} % | "
                   f"{np.mean([error for *_, error, _ in parts]):.1e} | {of_flipped} | "
                   f"{np.mean([middle for *_, middle in parts]):.1e} |")


def variant_rows() -> Iterator[str]:
    """One row per variant: the share of flips of each model, first seed."""
    held = [tensors_of(layer, 0) for layer in layers()]
    exact = [float64_logits(one) for one in held]
    for name, make in variants().items():
        cells = [f"{100 * flips(one, right, make(one)).mean():.2f} %" for one, right in zip(held, exact, strict=True)]
        yield f"| {name} | {' | '.join(cells)} |"


def cost_rows() -> Iterator[str]:
    """One row per model and workload: cycles and bytes read of the whole layer, with one term and by default."""
    tile = load_tile(TILE)
    for layer in layers():
        for phase, tokens in WORKLOADS:
            found = []
            for terms in (1, DEFAULT.router_terms):
                compiled = compile_layer(Workload(layer=layer, tokens=tokens, phase=phase), tile, routing="balanced",
                                         data=False, numerics=Numerics(router_terms=terms))
                beats = sum(event_counts(i, tile).get("dram_read_beats", 0) for i in compiled.program.instructions)
                found.append((time_program(compiled.program).cycles, beats * tile.bus_bytes))
            (cycles, size), (more_cycles, more_size) = found
            yield (f"| {layer.model} | {phase}, {tokens} | {cycles:,} | {more_cycles:,} | "
                   f"{100 * (more_cycles / cycles - 1):+.2f} % | {size:,} | {more_size:,} | "
                   f"{100 * (more_size / size - 1):+.2f} % |")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true")
    write = options.parse_args().write
    names = [layer.model for layer in layers()]
    lines = [
        "# Router", "",
        f"Made by `python benchmarks/router.py --write`: synthetic tensors, {TOKENS} tokens, seeds {SEEDS[0]} to "
        f"{SEEDS[-1]}. A token *flips* when its set of experts is not that of the float64 logits. By default the "
        f"router multiplies {DEFAULT.router_terms} E4M3 terms per operand "
        "([decision](../docs/decisions/0012-router-terms.md)).", "",
        "## Flips", "",
        "Errors and margins in units of the standard deviation of the logits. The margin of a token is the float64 "
        "logit of its last chosen expert less that of the first expert not chosen.", "",
        "| model | hidden, experts | terms | flips | worst seed | RMS error | median margin of flipped | largest | "
        "median margin of all |", "|---|---|---|---|---|---|---|---|---|", *flip_rows(), "",
        "## Alternatives", "",
        f"Flips of seed {SEEDS[0]}. Bold: what `Numerics.router_terms` = 2 and 3 build. The others are sums in "
        "float64; those with several scales would be rounded once per scale and added in the vector unit. No preset "
        "builds E5M2, and `nano` builds no block scales.", "",
        f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *variant_rows(), "",
        "## Cost", "",
        f"The whole MoE layer on `{TILE}`, timing level, balanced routing: one term against {DEFAULT.router_terms}.",
        "",
        f"| model | tokens | cycles, 1 term | cycles, {DEFAULT.router_terms} terms | | bytes read, 1 term | "
        f"bytes read, {DEFAULT.router_terms} terms | |", "|---" * 8 + "|", *cost_rows()]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if write:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
