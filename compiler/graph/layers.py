"""Graphs of the layers that are built. Names of inputs are those of the layer's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from ...rtl.spec.errors import WorkloadError
from ..feed_forward import MlpLayer, MoELayer
from ..latent import LatentAttentionLayer
from ..layers import AttentionLayer, DecoderLayer, EmbeddingLayer, HeadLayer, NormLayer, Workload
from .ir import Graph, GraphBuilder, Op, Role
from .latent import latent_attention
from .ops.add import Add
from .ops.attention import Attention
from .ops.embed import Embed
from .ops.experts import Experts
from .ops.gate import Activate, Gate
from .ops.layer_norm import LayerNorm
from .ops.linear import Linear
from .ops.rms_norm import RmsNorm
from .ops.rotary import Rotary
from .ops.router import Router
from .ops.share import ScaleRows, Sigmoid
from .ops.temperature import ScaleTokens
from .stored import (
    BLOCK_NORMS,
    CORRECTION,
    EXPERTS,
    GPT_OSS,
    GPT_OSS_BIASES,
    MLP,
    OUTPUT,
    ROUTER,
    ROUTER_BIAS,
    SHARED,
    SHARED_GATE,
    Place,
    module,
    outer_module,
    projection,
)

ATTENTION_INPUT, FEED_FORWARD_INPUT = "attention input", "feed-forward input"
"""Values of a decoder layer: what its norms make."""
ATTENTION_OUTPUT, FEED_FORWARD_OUTPUT, MIDDLE = "attention output", "feed-forward output", "middle"
"""What its parts add to the residual stream, and that stream between them."""


def layer_graph(workload: Workload) -> Graph:
    """The graph of a workload's layer."""
    g = GraphBuilder()
    if isinstance(workload.layer, EmbeddingLayer):
        _embedding(g, workload, workload.layer)
        return g.graph()
    x = g.value("x", (workload.rows, workload.layer.hidden), Role.INPUT)
    _add_layer(g, workload, x, "out", Role.OUTPUT)
    return g.graph()


def _add_layer(g: GraphBuilder, workload: Workload, x: str, out: str, role: Role = Role.ACTIVATION) -> str:
    """A layer from ``x`` to ``out``."""
    match workload.layer:
        case LatentAttentionLayer():
            return latent_attention(g, workload, workload.layer, x, out, role)
        case AttentionLayer():
            return _attention(g, workload, x, out, role)
        case MoELayer():
            return _moe(g, workload.layer, x, out, role)
        case MlpLayer():
            return _mlp(g, workload.layer, x, out, role)
        case NormLayer():
            return _norm(g, workload.layer, x, out, role, "norm", BLOCK_NORMS["pre"]["input_norm"])
        case HeadLayer():
            return _head(g, workload.layer, x, out, role)
        case EmbeddingLayer():
            raise WorkloadError("graph: an embedding reads tokens, not rows")
        case DecoderLayer():
            return _decoder(g, workload, workload.layer, x, out, role)


def _attention(g: GraphBuilder, workload: Workload, x: str, out: str, role: Role) -> str:
    layer = workload.attention
    cache = (workload.batch, layer.kv_heads, workload.cached, layer.head_dim)
    caches = [g.value(name, cache, Role.CACHE) for name in ("k_cache", "v_cache")]
    widths = {"q": (layer.heads, layer.head_dim), "k": (layer.kv_heads, layer.head_dim)}
    widths["v"] = widths["k"]
    places = {name: projection(name, layer.heads, layer.kv_heads) for name in widths} | {"o": OUTPUT}
    weights = {name: g.value(f"w{name}", (width, layer.hidden), Role.WEIGHT, places[name])
               for name, width in widths.items()}
    wo = g.value("wo", (layer.hidden, widths["q"]), Role.WEIGHT, places["o"])
    added = {name: [g.value(f"b{name}", (width,), Role.WEIGHT, tuple(place.bias() for place in places[name]))]
             if biased else [] for name, width, biased in (
                 *((name, width, layer.qkv_bias) for name, width in widths.items()),
                 ("o", layer.hidden, layer.output_bias))}

    def rotated(name: str) -> str:
        projection = Linear(heads=widths[name][0], bias=layer.qkv_bias)
        steps: list[tuple[str, str, Op, list[str]]] = [
            (f"projection {name}", "projected", projection, [weights[name], *added[name]])]
        if layer.qk_norm == "unweighted":
            steps.append((f"norm of {name}", "normed", RmsNorm(eps=layer.norm_eps, weighted=False), []))
        elif layer.qk_norm != "none":
            size = widths[name] if layer.qk_norm == "full" else (layer.head_dim,)
            weight = g.value(f"{name}_norm", (size,), Role.WEIGHT, module(f"self_attn.{name}_norm"))
            steps.append((f"norm of {name}", "normed", RmsNorm(eps=layer.norm_eps, offset=layer.norm_offset), [weight]))
        if layer.rotated:
            steps.append((f"rotation of {name}", "rotated", Rotary(
                workload=workload, theta=layer.rope_theta, scaling=layer.rope_scaling, size=layer.rotated,
                interleaved=layer.rope_interleaved), []))
        if layer.temperature is not None and name == "q":
            steps.append(("temperature", "scaled", ScaleTokens(workload=workload, temperature=layer.temperature), []))
        made = x
        for title, after, op, others in steps:
            output = name if title == steps[-1][0] else f"{name} {after}"
            made = g.node(title, op, made, *others, output=output)
        return made

    q, k = rotated("q"), rotated("k")
    v = g.node("projection v", Linear(heads=layer.kv_heads, turned=True, bias=layer.qkv_bias), x, weights["v"],
               *added["v"], output="v")
    sinks = [g.value("sinks", (layer.heads,), Role.WEIGHT, (Place("self_attn.sinks"),))] if layer.sinks else []
    core = Attention(workload=workload, scale=layer.scale, sink=layer.sinks, cap=layer.logit_cap)
    mixed = g.node("core", core, q, k, v, *caches, *sinks, output="mixed")
    return g.node("output projection", Linear(bias=layer.output_bias), mixed, wo, *added["o"], output=out, role=role)


def _moe(g: GraphBuilder, moe: MoELayer, x: str, out: str, role: Role) -> str:
    router = g.value("router", (moe.experts, moe.hidden), Role.WEIGHT, ROUTER)
    wide, narrow = (moe.experts, moe.intermediate, moe.hidden), (moe.experts, moe.hidden, moe.intermediate)
    stored, shapes = GPT_OSS if moe.biases else EXPERTS, {"gate": wide, "up": wide, "down": narrow}
    experts = [g.value(name, shape, Role.WEIGHT, stored[name], one_by_one=True) for name, shape in shapes.items()]
    if moe.biases:
        experts += [g.value(f"{name}_bias", shape[:2], Role.WEIGHT, GPT_OSS_BIASES[name], one_by_one=True)
                    for name, shape in shapes.items()]
    logits = g.node("router", Linear(terms=True), x, router, output="logits")
    rule, vectors = moe.scoring, {"router_bias": ROUTER_BIAS, "correction": CORRECTION}
    used = [g.value(name, (moe.experts,), Role.WEIGHT, places)
            for (name, places), wanted in zip(vectors.items(), (rule.bias, rule.correction), strict=True) if wanted]
    weights = g.node("choice of experts", Router(top_k=moe.top_k, norm_topk=moe.norm_topk, scoring=rule), logits, *used,
                     output="combine weights")
    op = Experts(on_input=rule.on_input, biases=moe.biases,
                 activations=() if moe.activation == "silu" else (moe.activation,) * moe.experts)
    if not moe.shared:
        return g.node("experts", op, x, weights, *experts, output=out, role=role)
    shared = _shared(g, moe, x)
    routed = g.node("experts", op, x, weights, *experts, output="routed")
    return g.node("shared and routed", Add(), shared, routed, output=out, role=role)


def _shared(g: GraphBuilder, moe: MoELayer, x: str) -> str:
    """What the expert that all tokens use makes, weighted."""
    branch = MlpLayer(hidden=moe.hidden, intermediate=moe.shared, activation=moe.activation)
    if not moe.shared_gated:
        return _mlp(g, branch, x, "shared", Role.ACTIVATION, "shared_", SHARED)
    router = g.value("shared_router", (1, moe.hidden), Role.WEIGHT, SHARED_GATE)
    logit = g.node("shared gate", Linear(terms=True), x, router, output="shared logit")
    weight = g.node("share", Sigmoid(), logit, output="shared weight")
    made = _mlp(g, branch, x, "shared unweighted", Role.ACTIVATION, "shared_", SHARED)
    return g.node("weigh shared", ScaleRows(), made, weight, output="shared")


def _mlp(g: GraphBuilder, mlp: MlpLayer, x: str, out: str, role: Role, prefix: str = "",
         places: Mapping[str, tuple[Place, ...]] = MLP) -> str:
    """prefix: of the names of its weights."""
    wide, narrow = (mlp.intermediate, mlp.hidden), (mlp.hidden, mlp.intermediate)
    shapes = ({"gate": wide} if mlp.gated else {}) | {"up": wide, "down": narrow}
    weights = {name: [g.value(prefix + name, shape, Role.WEIGHT, places[prefix + name])]
               for name, shape in shapes.items()}
    if mlp.biases:
        for name, shape in shapes.items():
            places_of_bias = tuple(place.bias() for place in places[prefix + name])
            weights[name].append(g.value(f"{prefix}{name}_bias", shape[:1], Role.WEIGHT, places_of_bias))
    linear, kind = Linear(bias=mlp.biases), prefix.replace("_", " ")
    *sides, down = weights.values()
    made = [g.node(held[0], linear, x, *held, output=f"{held[0]} projected") for held in sides]
    op = Gate(activation=mlp.activation) if mlp.gated else Activate(activation=mlp.activation)
    product = g.node(f"{kind}activation", op, *made, output=f"{kind}product")
    return g.node(f"{kind}down", linear, product, *down, output=out, role=role)


def _norm(g: GraphBuilder, norm: NormLayer, x: str, out: str, role: Role, name: str, places: tuple[Place, ...]) -> str:
    weights, op = [g.value(name, (norm.hidden,), Role.WEIGHT, places)], RmsNorm(eps=norm.eps, offset=norm.offset)
    if norm.centered:
        op = LayerNorm(eps=norm.eps, offset=norm.offset, biased=norm.bias)
    if norm.bias:
        weights.append(g.value(f"{name}_bias", (norm.hidden,), Role.WEIGHT, tuple(place.bias() for place in places)))
    return g.node(name.replace("_", " "), op, x, *weights, output=out, role=role)


def _embedding(g: GraphBuilder, workload: Workload, layer: EmbeddingLayer) -> None:
    ids = g.value("ids", (workload.rows,), Role.INPUT)
    table = g.value("table", (layer.vocab, layer.hidden), Role.WEIGHT, outer_module("embed_tokens", "tok_embeddings"))
    g.node("embedding", Embed(scale=layer.scale), ids, table, output="out", role=Role.OUTPUT)


def _head(g: GraphBuilder, layer: HeadLayer, x: str, out: str, role: Role) -> str:
    normed = _norm(g, layer.norm, x, "head input", Role.ACTIVATION, "final_norm", outer_module("norm"))
    head = g.value("head", (layer.vocab, layer.hidden), Role.WEIGHT,
                   outer_module(*(("embed_tokens", "tok_embeddings") if layer.tied else ("lm_head", "output"))))
    added = [g.value("head_bias", (layer.vocab,), Role.WEIGHT, (outer_module("lm_head")[0].bias(),))] if layer.bias \
        else []
    op = Linear(scale=layer.scale, cap=layer.logit_cap, bias=layer.bias)
    return g.node("logits", op, normed, head, *added, output=out, role=role)


def _decoder(g: GraphBuilder, workload: Workload, layer: DecoderLayer, x: str, out: str, role: Role) -> str:
    add, (attention, feed_forward) = Add(scale=layer.residual_scale), map(workload.part, (
        layer.attention, layer.feed_forward))

    def norm(name: str, value: str, made: str) -> str:
        return _norm(g, layer.norm, value, made, Role.ACTIVATION, name, BLOCK_NORMS[layer.block][name])

    def part(own: Workload, value: str, made: str, before: str, read: str, behind: str) -> str:
        """What a part adds, with a norm ``before`` it (which makes ``read``) and one ``behind`` it where the block has
        those."""
        names = BLOCK_NORMS[layer.block]
        source = norm(before, value, read) if before in names else value
        if behind not in names:
            return _add_layer(g, own, source, made)
        return norm(behind, _add_layer(g, own, source, f"{made} before norm"), made)

    if layer.block == "parallel":
        normed = norm("input_norm", x, ATTENTION_INPUT)
        made = [_add_layer(g, own, normed, name) for own, name in (
            (attention, ATTENTION_OUTPUT), (feed_forward, FEED_FORWARD_OUTPUT))]
    else:
        made = [part(attention, x, ATTENTION_OUTPUT, "input_norm", ATTENTION_INPUT, "attention_norm")]
    middle = g.node("attention residual", add, x, made[0], output=MIDDLE)
    if layer.block != "parallel":
        made.append(part(feed_forward, middle, FEED_FORWARD_OUTPUT, "post_norm", FEED_FORWARD_INPUT,
                         "feed_forward_norm"))
    return g.node("feed-forward residual", add, middle, made[1], output=out, role=role)
