"""A small layer cut out of a large one, for cross-checks at RTL level.

The slice is a real layer of its own: the first heads, features, experts and tokens of the full layer, with the
corresponding parts of its tensors. It is small enough for a cycle-by-cycle simulation of the hardware and takes
every path that the full layer takes.
"""

from dataclasses import replace

import numpy as np

from .graph.layers import layer_graph
from .layers import Workload
from .numerics import Numerics
from .tensors import EXPERT_WEIGHTS, AttentionTensors, ExpertWeights, LayerTensors, MoETensors

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
    """The parts of ``tensors`` that belong to ``workload``, a `slice_workload` of theirs: of every factor of every
    axis the first."""
    full, small = (layer_graph(which).given() for which in (tensors.workload, workload))

    def cut(name: str, values: np.ndarray, first: int = 0) -> np.ndarray:
        """A tensor, or with ``first`` what is left of one without its first axes."""
        few = tuple(map(slice, small[name].factors[first:]))
        return values.reshape(full[name].factors[first:])[few].reshape(small[name].shape[first:]).copy()

    if isinstance(tensors, MoETensors):
        def load_expert(index: int) -> ExpertWeights:
            held = tensors.expert(index)
            return ExpertWeights(**{name: cut(name, getattr(held, name), 1) for name in EXPERT_WEIGHTS})

        return MoETensors(workload=workload, x=cut("x", tensors.x), router=cut("router", tensors.router),
                          load_expert=load_expert)
    return AttentionTensors(workload=workload, **{name: cut(name, getattr(tensors, name)) for name in small})
