"""Whole models: each distinct layer timed once, exactly, times how often it occurs.

A model is an embedding, its decoder layers and a head, each a program of its own, one after another: the sum of their
cycles and energies is the model's. Layers of one kind have equal programs, so that one of each kind is timed. What a
sum leaves out is the overlap of one layer's end with the next one's begin (two layers as one program: a test). Nothing
is computed, so the choice of experts is a stated load (`routing_loads`), not a router's.

Prefill is one pass over ``prefill`` tokens of each of ``prefill_batch`` requests, with logits of their last tokens; a
decode step makes one token for each of ``batch`` requests with ``decode_context`` cached ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import TilescoreError, WorkloadError
from ..sim.energy import EnergyReport, EnergyTable, load_table
from ..sim.legality.verifier import verify
from ..sim.phases import phase_cycles
from ..sim.simulate import simulate
from .bounds import bounds, stored_bytes, weight_bytes
from .compile import compile_layer
from .graph.ir import Role, Slot
from .graph.layers import layer_graph
from .graph.slots import SQUARE, slot_format
from .layers import ATTENDING, OUTER, ROUTED, HeadLayer, Layer, Workload
from .model_layers import distinct_layers, layer_of, ranges
from .models import ModelConfig
from .numerics import DEFAULT, Numerics
from .products import useful_macs
from .provenance import table_digest

BALANCED = "balanced"

_LONG = 1 << 16
"""Keys of a cache that is long for any rule that chooses by its length."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """A distinct layer of a model. name: its kind in words; indices: of the decoder layers that are like it; count: how
    often it occurs; layer: its description."""

    name: str
    layer: Layer
    count: int
    indices: str = ""


def model_parts(model: ModelConfig) -> tuple[ModelPart, ...]:
    """Embedding, distinct decoder layers, head. Raises `WorkloadError` with every reason why one is not built."""
    found, problems = [], []

    def read(name: str, index: int | None = None) -> Layer | None:
        try:
            return layer_of(model, name, index).layer
        except TilescoreError as error:
            problems.append(str(error).removeprefix(f"{model.source}: "))
            return None

    found.append(("embedding", read("embedding"), 1, ""))
    try:
        kinds = distinct_layers(model)
    except TilescoreError as error:
        kinds = ()
        read("decoder")
        problems.append(str(error).removeprefix(f"{model.source}: "))
    for distinct in kinds:
        kind, first = distinct.kind, distinct.indices[0]
        parts = [read("attention", first), read("moe" if kind.feed_forward != "dense" else "mlp", first)]
        layer = None if None in parts else read("decoder", first)
        found.append((str(kind), layer, distinct.count, ranges(distinct.indices)))
    found.append(("head", read("head"), 1, ""))
    if problems:
        raise WorkloadError(f"{model.source}: {'; '.join(dict.fromkeys(problems))}")
    return tuple(ModelPart(name=name, layer=layer, count=count, indices=indices)
                 for name, layer, count, indices in found if layer is not None)


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """A part in one phase, of one occurrence."""

    part: ModelPart
    cycles: int
    bound_cycles: int
    energy: EnergyReport
    macs: int
    read_bytes: int
    write_bytes: int
    instructions: int
    phases: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class _Setting:
    """What all layers of a report share."""

    config: TileConfig
    numerics: Numerics
    table: EnergyTable
    routing: str
    seed: int

    def time(self, part: ModelPart, workload: Workload) -> _Timed:
        """One occurrence. Raises as `compile_layer` and `verify`, naming the part."""
        routing = self.routing if _routed(part.layer) else None
        try:
            compiled = compile_layer(workload, self.config, data=False, routing=routing, seed=self.seed,
                                     numerics=self.numerics)
        except TilescoreError as error:
            raise type(error)(f"{part.name}, {workload.phase}: {error}") from None
        program = compiled.program
        program.meta["useful_macs"] = macs = useful_macs(workload)
        verify(program)
        result = simulate(program, ("timing",), energy_table=self.table)
        bus = self.config.bus_bytes
        return _Timed(
            part=part, cycles=result.cycles, phases=phase_cycles(program, result.timing), macs=macs,
            energy=result.energy, instructions=len(program.instructions),
            bound_cycles=bounds(workload, self.config, compiled.routing, self.numerics).cycles,
            read_bytes=result.events["dram_read_beats"] * bus, write_bytes=result.events["dram_write_beats"] * bus)


def _routed(layer: Layer) -> bool:
    """Has the layer experts?"""
    return layer.kind in ROUTED and any(value.one_by_one for value in layer_graph(
        Workload(layer=layer, tokens=1)).weights().values())


def model_report(model: ModelConfig, config: TileConfig, *, prefill: int, decode_context: int,
                 batch: int | Sequence[int] = 1, prefill_batch: int = 1, numerics: Numerics = DEFAULT,
                 energy: str | EnergyTable = "7nm", routing: str = BALANCED, seed: int = 0,
                 dram_bytes: int | None = None, progress: Progress | None = None) -> dict:
    """The figures of a model on a tile, as an object of JSON types (`docs/reference/model.md`).

    prefill, decode_context: tokens per request; batch: requests of a decode step, one or several numbers; routing:
    ``balanced`` or ``zipf-S``; dram_bytes: a size of DRAM that weights and KV cache are compared with. Raises
    `WorkloadError` naming every layer that is not built, `CompileError` where one does not fit the tile.
    """
    if routing != BALANCED and not routing.startswith("zipf-"):
        raise WorkloadError(f"routing {routing!r}: expected balanced or zipf-S, since prefill and decode choose for "
                            "other tokens")
    batches = [batch] if isinstance(batch, int) else list(dict.fromkeys(batch))
    if not batches:
        raise WorkloadError("batch: expected at least one number of requests, got none")
    parts = model_parts(model)
    table = energy if isinstance(energy, EnergyTable) else load_table(energy)
    setting = _Setting(config=config, numerics=numerics, table=table, routing=routing, seed=seed)
    passes = [("prefill", prefill, 0, prefill_batch), *(("decode", 1, decode_context, size) for size in batches)]
    done, found = 0, []
    for phase, tokens, context, size in passes:
        timed = []
        for part in parts:
            if progress:
                progress(done, len(passes) * len(parts))
            timed.append(setting.time(part, _workload(part, phase, tokens, context, size)))
            done += 1
        found.append(_phase(timed, config, phase, tokens, context, size))
    weights = {part.name: part.count * layer_weight_bytes(part.layer, numerics) for part in parts}
    for entry, (_, tokens, context, size) in zip(found, passes, strict=True):
        entry["kv_bytes"] = model_kv_bytes(parts, numerics, tokens=tokens, context=context, batch=size)
        total = entry["kv_bytes"] + sum(weights.values())
        entry |= {"memory_bytes": total, "fits_dram": None if dram_bytes is None else total <= dram_bytes}
    return {
        "model": model.name, "tile": config.name, "clock_mhz": config.clock_mhz, "format": numerics.formats.name,
        "numerics": numerics.to_dict(), "seed": seed,
        "routing": routing if any(_routed(part.layer) for part in parts) else None,
        "parameters": model_parameters(parts),
        "layers": [{"layer": part.name, "count": part.count, "indices": part.indices,
                    "weight_bytes": weights[part.name]} for part in parts],
        "weight_bytes": sum(weights.values()), "kv_bytes_per_token": model_kv_bytes(parts, numerics),
        "dram_bytes": dram_bytes,
        "energy_table": table.name, "energy_digest": table_digest(table),
        "prefill": found[0], "decode": found[1:],
    }


def _workload(part: ModelPart, phase: str, tokens: int, context: int, batch: int) -> Workload:
    """What a pass asks of a part. The head has a row per request."""
    if part.layer.kind in OUTER:
        return Workload(layer=part.layer, phase=phase, batch=batch,  # type: ignore[arg-type]
                        tokens=1 if part.layer.kind == "head" else tokens)
    return Workload(layer=part.layer, phase=phase, tokens=tokens, context=context, batch=batch)  # type: ignore[arg-type]


def _phase(timed: list[_Timed], config: TileConfig, phase: str, tokens: int, context: int, batch: int) -> dict:
    """Sums over the layers of one pass."""
    cycles = sum(one.part.count * one.cycles for one in timed)
    bound = sum(one.part.count * one.bound_cycles for one in timed)
    energy = {end: math.fsum(one.part.count * getattr(one.energy, f"{end}_pj") for one in timed)
              for end in ("total", "low", "high")}
    seconds, made = cycles / (config.clock_mhz * 1e6), batch * tokens
    entry = {
        "tokens": tokens, "context": context, "batch": batch, "cycles": cycles, "seconds": seconds,
        "tokens_per_s": made / seconds, "joules_per_token": energy["total"] * 1e-12 / made,
        "joules_per_token_low": energy["low"] * 1e-12 / made, "joules_per_token_high": energy["high"] * 1e-12 / made,
        "bound_cycles": bound, "gap": cycles / bound,
        "useful_macs": sum(one.part.count * one.macs for one in timed),
        "dram_read_bytes": sum(one.part.count * one.read_bytes for one in timed),
        "dram_write_bytes": sum(one.part.count * one.write_bytes for one in timed),
        "layers": [{
            "layer": one.part.name, "count": one.part.count, "cycles": one.cycles, "bound_cycles": one.bound_cycles,
            "gap": one.cycles / one.bound_cycles, "share": one.part.count * one.cycles / cycles,
            "energy_pj": one.energy.total_pj, "useful_macs": one.macs, "dram_read_bytes": one.read_bytes,
            "dram_write_bytes": one.write_bytes, "instructions": one.instructions, "phases": one.phases}
            for one in timed],
    }
    if phase == "prefill":
        return entry | {"time_to_first_token_s": seconds}
    return entry | {"time_per_output_token_s": seconds, "tokens_per_s_per_request": 1 / seconds}


def layer_weight_bytes(layer: Layer, numerics: Numerics = DEFAULT) -> int:
    """Stored bytes of all weights of a layer, experts that no token chooses included; vectors of norms, biases and
    embeddings are FP32, a router has its terms."""
    graph, sizes = layer_graph(Workload(layer=layer, tokens=1)), dict[str, Fraction]()
    for value, slot, _ in graph.uses():
        if value.role is not Role.WEIGHT:
            continue
        held, count = slot_format(slot, numerics.formats), math.prod(value.shape)
        terms = numerics.router_terms if slot is Slot.TERMS else 1
        sizes[value.name] = Fraction(4 * count) if held is None else terms * (
            weight_bytes(count, held) if slot in SQUARE else stored_bytes(value.shape, held))
    return math.ceil(sum(sizes.values()))


def model_parameters(parts: Sequence[ModelPart]) -> int:
    """Elements of all weights; those of a tied head are the embedding's."""
    total = 0
    for part in parts:
        weights = layer_graph(Workload(layer=part.layer, tokens=1)).weights()
        tied = isinstance(part.layer, HeadLayer) and part.layer.tied
        total += part.count * sum(math.prod(value.shape) for name, value in weights.items()
                                  if not (tied and name == "head"))
    return total


def model_kv_bytes(parts: Sequence[ModelPart], numerics: Numerics = DEFAULT, *, tokens: int = 1, context: int = 0,
                   batch: int = 1) -> int:
    """Bytes of keys and values of all layers behind a step: those cached before and the new ones, in the form in which
    a decode step reads a long cache (MLA: the latent, once). Default: of one token."""
    tensor_format, total = slot_format(Slot.KV, numerics.formats), Fraction(0)
    assert tensor_format is not None
    for part in parts:
        if part.layer.kind in ATTENDING:
            graph = layer_graph(Workload(layer=part.layer, phase="decode", tokens=1, context=_LONG - 1))
            held = {value.name: value.shape for value, slot, _ in graph.uses() if slot is Slot.KV}
            total += part.count * sum(stored_bytes(shape, tensor_format) for shape in held.values())
    return math.ceil(total * batch * (context + tokens) / _LONG)
