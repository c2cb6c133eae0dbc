"""A small layer cut out of a large one, for cross-checks at RTL level.

The slice is a real layer of its own: the first heads, features, experts and tokens of the full layer, with the
corresponding parts of its tensors. It is small enough for a cycle-by-cycle simulation of the hardware and takes
every path that the full layer takes.
"""

from dataclasses import replace

from .layers import Workload
from .numerics import Numerics
from .tensors import AttentionTensors, ExpertWeights, LayerTensors, MoETensors

SLICE_HIDDEN, SLICE_HEAD_DIM, SLICE_INTERMEDIATE = 32, 16, 32
SLICE_GROUP, SLICE_KV_HEADS, SLICE_EXPERTS, SLICE_TOP_K = 2, 1, 4, 2
SLICE_TOKENS = {"attention": 18, "moe": 6}

SLICE_NUMERICS = Numerics(softmax_block=16)
"""Of a slice: its few keys make more than one softmax block, so that blocks are merged as in the full layer."""


def slice_workload(workload: Workload) -> Workload:
    """The same phase and mask with every size cut to the slice's."""
    most = SLICE_TOKENS[workload.layer.kind]
    small = {"tokens": min(workload.tokens, most), "batch": min(workload.batch, 2),
             "context": min(workload.cached, most)}
    if workload.layer.kind == "moe":
        moe = workload.moe
        layer = replace(moe, hidden=min(moe.hidden, SLICE_HIDDEN), experts=min(moe.experts, SLICE_EXPERTS),
                        top_k=min(moe.top_k, SLICE_TOP_K), intermediate=min(moe.intermediate, SLICE_INTERMEDIATE))
    else:
        attention = workload.attention
        kv_heads, head_dim = min(attention.kv_heads, SLICE_KV_HEADS), min(attention.head_dim, SLICE_HEAD_DIM)
        scaling = attention.rope_scaling
        layer = replace(attention, hidden=min(attention.hidden, SLICE_HIDDEN), kv_heads=kv_heads,
                        heads=kv_heads * min(attention.group, SLICE_GROUP), softmax_scale=None,
                        head_dim=head_dim, rope_scaling=scaling and scaling.cut(head_dim))
    return replace(workload, layer=layer, **small)


def slice_tensors(tensors: LayerTensors, workload: Workload) -> LayerTensors:
    """The parts of ``tensors`` that belong to ``workload``, a `slice_workload` of theirs."""
    x = tensors.x[:workload.rows, :workload.layer.hidden].copy()
    hidden = workload.layer.hidden
    if isinstance(tensors, MoETensors):
        f = workload.moe.intermediate

        def load_expert(index: int) -> ExpertWeights:
            held = tensors.expert(index)
            return ExpertWeights(gate=held.gate[:f, :hidden].copy(), up=held.up[:f, :hidden].copy(),
                                 down=held.down[:hidden, :f].copy())

        return MoETensors(workload=workload, x=x, router=tensors.router[:workload.moe.experts, :hidden].copy(),
                          load_expert=load_expert)
    return _slice_attention(tensors, workload, x)


def _slice_attention(tensors: AttentionTensors, workload: Workload, x) -> AttentionTensors:
    full, layer = tensors.workload.attention, workload.attention

    def heads(weight, count: int):
        """The first features of the first ``count`` heads of a projection."""
        parts = weight.reshape(-1, full.head_dim, weight.shape[1])
        return parts[:count, :layer.head_dim, :layer.hidden].reshape(-1, layer.hidden).copy()

    wo = tensors.wo.reshape(full.hidden, -1, full.head_dim)
    norms = {}
    for name, count in (("q_norm", layer.heads), ("k_norm", layer.kv_heads)):
        norm = getattr(tensors, name)
        if norm is not None:
            parts = norm.reshape(-1, full.head_dim)[:count, :layer.head_dim]
            norms[name] = parts.reshape(-1).copy()
    caches = {name: getattr(tensors, name)[:workload.batch, :layer.kv_heads, :workload.cached, :layer.head_dim].copy()
              for name in ("k_cache", "v_cache")}
    return AttentionTensors(
        workload=workload, x=x, wq=heads(tensors.wq, layer.heads), wk=heads(tensors.wk, layer.kv_heads),
        wv=heads(tensors.wv, layer.kv_heads),
        wo=wo[:layer.hidden, :layer.heads, :layer.head_dim].reshape(layer.hidden, -1).copy(), **norms, **caches)
