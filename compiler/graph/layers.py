"""Graphs of the layers that are built: attention and mixtures of experts."""

from __future__ import annotations

from ..layers import Workload
from .ir import Graph, GraphBuilder, Role
from .ops.attention import Attention
from .ops.experts import Experts
from .ops.linear import Linear
from .ops.rms_norm import RmsNorm
from .ops.rotary import Rotary
from .ops.router import Router


def layer_graph(workload: Workload) -> Graph:
    """The graph of a workload's layer. Names of inputs are those of its tensors."""
    return _attention(workload) if workload.layer.kind == "attention" else _moe(workload)


def _attention(workload: Workload) -> Graph:
    layer, g = workload.attention, GraphBuilder()
    x = g.value("x", (workload.rows, layer.hidden), Role.INPUT)
    cache = (workload.batch, layer.kv_heads, workload.cached, layer.head_dim)
    caches = [g.value(name, cache, Role.CACHE) for name in ("k_cache", "v_cache")]
    widths = {"q": (layer.heads, layer.head_dim), "k": (layer.kv_heads, layer.head_dim)}
    widths["v"] = widths["k"]
    weights = {name: g.value(f"w{name}", (width, layer.hidden), Role.WEIGHT, f"self_attn.{name}_proj.weight")
               for name, width in widths.items()}
    wo = g.value("wo", (layer.hidden, widths["q"]), Role.WEIGHT, "self_attn.o_proj.weight")

    def rotated(name: str) -> str:
        made = g.node(f"projection {name}", Linear(heads=widths[name][0]), x, weights[name],
                      output=f"{name} projected")
        if layer.qk_norm != "none":
            size = widths[name] if layer.qk_norm == "full" else (layer.head_dim,)
            weight = g.value(f"{name}_norm", (size,), Role.WEIGHT, f"self_attn.{name}_norm.weight")
            made = g.node(f"norm of {name}", RmsNorm(eps=layer.norm_eps), made, weight, output=f"{name} normed")
        return g.node(f"rotation of {name}", Rotary(workload=workload), made, output=name)

    q, k = rotated("q"), rotated("k")
    v = g.node("projection v", Linear(heads=layer.kv_heads, turned=True), x, weights["v"], output="v")
    mixed = g.node("core", Attention(workload=workload, scale=layer.scale), q, k, v, *caches, output="mixed")
    g.node("output projection", Linear(), mixed, wo, output="out", role=Role.OUTPUT)
    return g.graph()


def _moe(workload: Workload) -> Graph:
    moe, g = workload.moe, GraphBuilder()
    x = g.value("x", (workload.rows, moe.hidden), Role.INPUT)
    router = g.value("router", (moe.experts, moe.hidden), Role.WEIGHT)
    wide, narrow = (moe.experts, moe.intermediate, moe.hidden), (moe.experts, moe.hidden, moe.intermediate)
    experts = [g.value(name, shape, Role.WEIGHT) for name, shape in (("gate", wide), ("up", wide), ("down", narrow))]
    logits = g.node("router", Linear(terms=True), x, router, output="logits")
    weights = g.node("choice of experts", Router(top_k=moe.top_k, norm_topk=moe.norm_topk), logits,
                     output="combine weights")
    g.node("experts", Experts(), x, weights, *experts, output="out", role=Role.OUTPUT)
    return g.graph()
