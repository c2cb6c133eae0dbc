"""The programs that the goldens hold: bundled models on every preset, and odd shapes on small tiles.

Only what does not depend on tensors is compiled: instructions, addresses and immediates. Factors of tensors are made
up, each another root of a prime, so that an immediate that is the product of the wrong ones is another number. Routings
are made up too: they leave experts idle and load the others unevenly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS, parse_format
from tilescore.compiler.graph.calibrate import Scales
from tilescore.compiler.latent import LatentAttentionLayer
from tilescore.compiler.layers import AttentionLayer, Layer, Temperature, Workload
from tilescore.compiler.lowering.plan import choose_schedule, layer_plan
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.routing import Routing
from tilescore.compiler.schedule import FlashSchedule, GatherAddSchedule, GemmSchedule, Schedule
from tilescore.compiler.scoring import SOFTMAX, Scoring
from tilescore.rtl.spec.config import PRESETS as TILE_PRESETS
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import BUILD_NAMES, SCALE_NAMES
from tilescore.rtl.spec.isa import ScaleRule
from tilescore.sim.program import Program
from tilescore.tests.compiler.play import SQUAT, TALL, bundled_layers

NANO_HIDDEN = 1024
"""Largest ``hidden`` of a bundled layer on `nano`, whose programs of larger ones are long."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One program. group: the test that holds it."""

    group: str
    name: str
    workload: Workload
    tile: TileConfig
    numerics: Numerics = field(default_factory=Numerics)
    schedule: Schedule | None = None

    @property
    def key(self) -> str:
        return f"{self.group}/{self.name}"


def every_format(tile: TileConfig) -> TileConfig:
    """``tile`` with all formats, which need accumulators of three planes."""
    return dataclasses.replace(tile, name=f"{tile.name}+formats", acc_bits=80, acc_banks=-(-tile.acc_banks // 3) * 3,
                               formats=BUILD_NAMES, scales=tuple(SCALE_NAMES.values()))


@cache
def _tile(name: str, preset: str) -> TileConfig:
    """The preset tile, with all formats where it lacks those of the layer."""
    tile = load_tile(name)
    built = preset == "e4m3" if name == "nano" else preset not in ("e5m2", "deepseek")
    return tile if built else every_format(tile)


def bundled_cases() -> Iterator[Case]:
    """Every layer, preset tile, phase and format: 16 tokens, or one token after 256 for two sequences."""
    for layer in bundled_layers("attention", "moe"):
        if isinstance(layer, LatentAttentionLayer):
            continue  # a hundred heads with two products each: these are among the odd cases
        if isinstance(layer, MoELayer) and (layer.scoring != SOFTMAX or layer.shared):
            continue  # hundreds of experts each: these kinds are among the odd cases
        if isinstance(layer, AttentionLayer) and (layer.norm_offset or layer.qk_norm == "unweighted"):
            continue  # Gemma's norms differ in weights only; Llama 4's are among the odd cases
        decode = Workload(layer=layer, phase="decode", tokens=1, batch=2, context=256)
        for tile in TILE_PRESETS:
            if tile == "nano" and layer.hidden > NANO_HIDDEN:
                continue
            for phase, workload in (("prefill", Workload(layer=layer, tokens=16)), ("decode", decode)):
                for preset, formats in PRESETS.items():
                    yield Case(group=f"{layer.model}/{layer.kind}/{tile}", name=f"{phase}/{preset}", workload=workload,
                               tile=_tile(tile, preset), numerics=Numerics(formats=formats))


def _attention(**changes) -> AttentionLayer:
    return AttentionLayer(**({"model": "odd", "hidden": 40, "heads": 4, "kv_heads": 2, "head_dim": 16} | changes))


def _moe(**changes) -> MoELayer:
    return MoELayer(**({"model": "odd", "hidden": 40, "experts": 6, "top_k": 2, "intermediate": 24,
                        "norm_topk": True} | changes))


NANO, EDGE = load_tile("nano"), load_tile("edge")

PHASES = {
    "prefill": {"tokens": 40}, "unmasked": {"tokens": 21, "mask": "none"}, "chunk": {"tokens": 9, "context": 40},
    "batch": {"tokens": 11, "batch": 3}, "decode": {"phase": "decode", "tokens": 1, "context": 70, "batch": 3},
    "speculative": {"phase": "decode", "tokens": 3, "context": 17, "batch": 2},
}

ATTENTIONS = {
    "plain": _attention(),
    **{f"head of {size}": _attention(head_dim=size, heads=2, kv_heads=1) for size in (2, 6, 10, 24, 40, 80)},
    "one kv head": _attention(heads=8, kv_heads=1, head_dim=8), "all kv heads": _attention(heads=3, kv_heads=3),
    "head norm": _attention(qk_norm="head"), "head norm of 24": _attention(qk_norm="head", head_dim=24),
    "full norm": _attention(qk_norm="full"), "full norm of 40": _attention(qk_norm="full", head_dim=40, hidden=72),
    "wide": _attention(hidden=200, heads=6, kv_heads=2, head_dim=32),
    "biases": _attention(qkv_bias=True, output_bias=True),
    "biases and sinks": _attention(qkv_bias=True, output_bias=True, sinks=True, rotary_dim=8),
    "latent": LatentAttentionLayer(model="odd", hidden=40, heads=2, kv_heads=2, head_dim=80, rope_dim=16, value_dim=32,
                                   kv_rank=64, q_rank=24, rope_interleaved=True),
}

MOES = {
    "plain": _moe(), "weights of all": _moe(norm_topk=False), "one of one": _moe(experts=1, top_k=1),
    "all of five": _moe(experts=5, top_k=5), "many": _moe(experts=37, top_k=3, hidden=24, intermediate=10),
    "wide": _moe(hidden=200, intermediate=130),
    "grouped": _moe(experts=12, top_k=3, shared=40, scoring=Scoring(
        score="sigmoid", correction=True, groups=4, kept_groups=2, group_score="top2", epsilon=1e-20, scale=2.5)),
    "gated shared": _moe(shared=40, shared_gated=True, norm_topk=False),
    "on the input": _moe(top_k=1, norm_topk=False, scoring=Scoring(score="sigmoid", on_input=True)),
}

NUMERICS = {
    "one router term": Numerics(router_terms=1), "two router terms": Numerics(router_terms=2),
    "e5m2 cache": Numerics(formats=parse_format("e4m3:e4m3:e5m2")),
    "mxfp4 with an e5m2 cache": Numerics(formats=parse_format("mxfp4:mxfp4:e5m2")),
    "rceil": Numerics(formats=PRESETS["mxfp8"], scale_rule=ScaleRule.RCEIL),
    "softmax blocks of 32": Numerics(softmax_block=32),
}

GEMMS = {
    "few rows": GemmSchedule(m_tile=5, k_tile=224, n_tiles=1, group_tiles=4),
    "streamed": GemmSchedule(m_tile=12, k_tile=32, n_tiles=2, group_tiles=2, a_resident=False),
    "streamed, k outside": GemmSchedule(m_tile=20, k_tile=64, n_tiles=1, group_tiles=4, a_resident=False, k_outer=True),
}
CORES = {
    "pieces": FlashSchedule(q_rows=8, kv_tile=16, q_tiles=1), "one row": FlashSchedule(q_rows=1, kv_tile=32, q_tiles=2),
    "many sub-tiles": FlashSchedule(q_rows=4, kv_tile=64, q_tiles=3),
}


def odd_cases() -> Iterator[Case]:
    """Shapes, formats and schedules that no bundled model has, on small tiles."""
    tiles = (NANO, EDGE, SQUAT, TALL)
    for shape, layer in {**{f"attention/{k}": v for k, v in ATTENTIONS.items()},
                         **{f"moe/{k}": v for k, v in MOES.items()}}.items():
        for number, (phase, request) in enumerate(PHASES.items()):
            tile = tiles[number % len(tiles)] if "norm" not in shape else tiles[(number + 1) % len(tiles)]
            yield Case(group=f"odd/{shape}", name=f"{tile.name}/{phase}", tile=tile, workload=_workload(layer, request))
    for label, numerics in NUMERICS.items():
        for layer in (ATTENTIONS["wide"], MOES["wide"]):
            for tile in (every_format(NANO), every_format(EDGE)):
                yield Case(group=f"odd/numerics/{label}", name=f"{layer.kind}/{tile.name}", tile=tile,
                           workload=_workload(layer, PHASES["prefill"]), numerics=numerics)
    for formats in PRESETS:
        for layer in (ATTENTIONS["head of 40"], MOES["wide"]):
            for phase in ("chunk", "decode"):
                tile = every_format(TALL if phase == "chunk" else NANO)
                yield Case(group=f"odd/formats/{formats}", name=f"{layer.kind}/{tile.name}/{phase}", tile=tile,
                           workload=_workload(layer, PHASES[phase]), numerics=Numerics(formats=PRESETS[formats]))
    yield from _scheduled_cases()
    yield from _reach_cases()


def _workload(layer: Layer, request: dict) -> Workload:
    if layer.kind == "moe":
        request = {key: value for key, value in request.items() if key != "context"}
    return Workload(layer=layer, **request)


def _scheduled_cases() -> Iterator[Case]:
    """Schedules that `auto` does not choose for these layers."""
    workload, numerics = _workload(ATTENTIONS["wide"], PHASES["prefill"]), Numerics(softmax_block=32)
    for label, gemm in GEMMS.items():
        schedule = choose_schedule(workload, EDGE, numerics).replace(dict.fromkeys(("q", "k", "v", "out"), gemm))
        yield Case(group="odd/schedules", name=f"attention/gemm/{label}", workload=workload, tile=EDGE,
                   numerics=numerics, schedule=schedule)
    for label, core in CORES.items():
        for phase in ("prefill", "chunk", "decode", "unmasked"):
            workload = _workload(ATTENTIONS["wide"], PHASES[phase])
            schedule = choose_schedule(workload, NANO, numerics).replace({"core": core})
            yield Case(group="odd/schedules", name=f"attention/core/{label}/{phase}", workload=workload, tile=NANO,
                       numerics=numerics, schedule=schedule)
    workload = _workload(MOES["plain"], PHASES["prefill"])
    schedule = choose_schedule(workload, NANO, routing=routing_of(workload))
    schedule = schedule.change("router", m_tile=3, a_resident=False)
    small = {"m_tile": 4, "k_tile": 16, "group_tiles": 4, "n_tiles": 2, "stage_banks": 0}
    schedule = schedule.replace({
        "experts.gate_up": GemmSchedule(**small), "experts.down": GemmSchedule(**small, k_outer=True),
        "combine": GatherAddSchedule(m_tile=5, n_tiles=3)})
    yield Case(group="odd/schedules", name="moe", workload=workload, tile=NANO, schedule=schedule)


def _reach_cases() -> Iterator[Case]:
    """Windows and chunks, shorter than a softmax block and longer; capped scores, norms without weights, temperatures.
    """
    for label, reach in (("window of 13", {"window": 13}), ("window of 45", {"window": 45}), ("chunk", {"chunk": 24}),
                         ("cap", {"logit_cap": 3.0, "window": 45}),
                         ("temperature", {"qk_norm": "unweighted", "rotary_dim": 0,
                                          "temperature": Temperature(0.5, 4)})):
        for tile, phase in ((NANO, "prefill"), (TALL, "chunk"), (EDGE, "decode")):
            yield Case(group=f"odd/reach/{label}", name=f"{tile.name}/{phase}", tile=tile,
                       numerics=Numerics(softmax_block=32), workload=_workload(_attention(**reach), PHASES[phase]))


def all_cases() -> dict[str, Case]:
    """By key, in a fixed order."""
    return {case.key: case for case in (*bundled_cases(), *odd_cases())}


LISTED = ("odd/attention/plain/nano/prefill", "odd/attention/head norm/edge/decode", "odd/numerics/e5m2 cache/"
          "attention/edge+formats", "odd/moe/plain/nano/prefill", "odd/formats/mxfp4/moe/nano+formats/decode",
          "odd/schedules/attention/core/pieces/decode")
"""Cases of which the whole listing is kept."""


def routing_of(workload: Workload) -> Routing:
    """Experts ``top_k`` + 2 (if there are so many), spread over all, of which each token leaves some out."""
    moe = workload.moe
    pool = [i * moe.experts // min(moe.experts, moe.top_k + 2) for i in range(min(moe.experts, moe.top_k + 2))]
    chosen = np.empty((workload.rows, moe.top_k), np.int32)
    for token in range(workload.rows):
        first = token * token % len(pool)
        chosen[token] = [pool[(first + rank) % len(pool)] for rank in range(moe.top_k)]
    return Routing(experts=moe.experts, chosen=chosen, weights=np.full(chosen.shape, 1 / moe.top_k, np.float32))


ATTENTION_KEYS = ("x", "wq", "wk", "wv", "wo", "q", "k", "v", "mixed", "q projected", "k projected")
LATENT_KEYS = ("wkv_a", "wkv_b", "wq_a", "q latent", "q nope", "k nope", "latent", "latent projected")
ABSORBED_KEYS = ("q compressed", "q absorbed", "mixed latents", "wkv_b rows 0 to 63 of heads, turned",
                 "wkv_b rows 64 to 95 of heads, kept")
MOE_KEYS, EXPERT_KEYS = ("x", "x terms", "router terms"), ("gate", "up", "down", "product")
SHARED_KEYS = ("shared_router terms", "shared_gate", "shared_up", "shared_down", "shared product")


def made_up_factors(keys: tuple[str, ...]) -> dict[str, float]:
    """The 8th root of another prime for each."""
    return {key: prime**0.125 for key, prime in zip(keys, (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31), strict=False)}


def made_up_scales(active: tuple[int, ...]) -> Scales:
    """Of an MoE layer with these experts in use."""
    return Scales(made_up_factors(MOE_KEYS) | made_up_factors(SHARED_KEYS) | {
        (expert, name): factor * (1 + expert / 256) for expert in active
        for name, factor in made_up_factors(EXPERT_KEYS).items()})


def compile_case(case: Case) -> Program:
    """The program without data."""
    workload, routing = case.workload, None
    scales = Scales({key: factor * (1 + number / 8) for number, keys in enumerate((
        ATTENTION_KEYS, LATENT_KEYS, ABSORBED_KEYS)) for key, factor in made_up_factors(keys).items()})
    if workload.layer.kind == "moe":
        routing = routing_of(workload)
        scales = made_up_scales(routing.active)
    steps = layer_plan(workload, case.tile, case.numerics, routing)
    return steps.program(case.schedule or steps.schedule(), scales)
