"""Graphs of multi-head latent attention in both forms (`latent`)."""

from __future__ import annotations

from ..latent import LatentAttentionLayer, absorbs
from ..layers import Workload
from .ir import GraphBuilder, Role
from .ops.head_linear import HeadLinear
from .ops.joined import Joined
from .ops.linear import Linear
from .ops.rms_norm import RmsNorm
from .ops.rotary import Rotary
from .ops.split_attention import SplitAttention
from .stored import module


def latent_attention(g: GraphBuilder, workload: Workload, layer: LatentAttentionLayer, x: str, out: str,
                     role: Role) -> str:
    """The layer from ``x`` to ``out``, in the form of the workload."""
    heads, nope, rope, rank = layer.heads, layer.nope_dim, layer.rope_dim, layer.kv_rank
    rotary = Rotary(workload=workload, theta=layer.rope_theta, scaling=layer.rope_scaling, size=rope,
                    interleaved=layer.rope_interleaved)
    norm = RmsNorm(eps=layer.norm_eps)

    def weight(name: str, stored: str, *shape: int | tuple[int, ...]) -> str:
        return g.value(name, shape, Role.WEIGHT, module(f"self_attn.{stored}"))

    def bias(name: str, size: int, stored: str, there: bool) -> list[str]:
        return [g.value(name, (size,), Role.WEIGHT, module(f"self_attn.{stored}", "bias"))] if there else []

    caches = [g.value(name, (workload.batch, 1, workload.cached, size), Role.CACHE)
              for name, size in (("kv_a_cache", rank), ("k_rope_cache", rope))]
    if layer.q_rank is None:
        source, wq = x, weight("wq", "q_proj", (heads, layer.head_dim), layer.hidden)
    else:
        wq_a = weight("wq_a", "q_a_proj", layer.q_rank, layer.hidden)
        made = g.node("compression of q", Linear(bias=layer.qkv_bias), x, wq_a,
                      *bias("bq_a", layer.q_rank, "q_a_proj", layer.qkv_bias), output="q compressed")
        source = g.node("norm of q", norm, made, weight("q_a_norm", "q_a_layernorm", layer.q_rank),
                        output="q latent")
        wq = weight("wq", "q_b_proj", (heads, layer.head_dim), layer.q_rank)
    absorbed = absorbs(layer, workload)
    q_nope = g.node("projection q", Linear(heads=heads, part=(0, nope), flat=absorbed), source, wq, output="q nope")
    q_rope = g.node("projection of q to rotate", Linear(heads=heads, part=(nope, layer.head_dim)), source, wq,
                    output="q rope projected")
    q_rope = g.node("rotation of q", rotary, q_rope, output="q rope")

    wkv_a = weight("wkv_a", "kv_a_proj_with_mqa", rank + rope, layer.hidden)
    kv_bias = bias("bkv_a", rank + rope, "kv_a_proj_with_mqa", layer.qkv_bias)
    latent = g.node("projection of latents", Linear(heads=1, part=(0, rank), bias=layer.qkv_bias, flat=not absorbed),
                    x, wkv_a, *kv_bias, output="latent projected")
    latent = g.node("norm of latents", norm, latent, weight("kv_a_norm", "kv_a_layernorm", rank), output="latent")
    k_rope = g.node("projection of keys to rotate", Linear(heads=1, part=(rank, rank + rope), bias=layer.qkv_bias), x,
                    wkv_a, *kv_bias, output="k rope projected")
    k_rope = g.node("rotation of k", rotary, k_rope, output="k rope")
    wkv_b = weight("wkv_b", "kv_b_proj", (heads, nope + layer.value_dim), rank)
    wo = weight("wo", "o_proj", layer.hidden, (heads, layer.value_dim))

    values = (nope, nope + layer.value_dim)
    if absorbed:
        q_latent = g.node("absorption of keys", HeadLinear(heads=heads, part=(0, nope), transposed=True), q_nope, wkv_b,
                          output="q absorbed")
        mixed = g.node("core", SplitAttention(workload=workload, scale=layer.scale, shared=True), q_latent, q_rope,
                       latent, k_rope, *caches, output="mixed latents")
        mixed = g.node("absorption of values", HeadLinear(heads=heads, part=values), mixed, wkv_b, output="mixed")
    else:
        if workload.cached:
            latent, k_rope = (g.node(f"all {what}", Joined(), cache, new, output=f"{new} of all tokens")
                              for what, cache, new in zip(("latents", "rotated keys"), caches, (latent, k_rope),
                                                          strict=True))
        k_nope = g.node("expansion of keys", Linear(heads=heads, part=(0, nope)), latent, wkv_b, output="k nope")
        v = g.node("expansion of values", Linear(heads=heads, part=values, turned=True), latent, wkv_b, output="v")
        mixed = g.node("core", SplitAttention(workload=workload, scale=layer.scale), q_nope, q_rope, k_nope, k_rope, v,
                       output="mixed")
    return g.node("output projection", Linear(bias=layer.output_bias), mixed, wo,
                  *bias("bo", layer.hidden, "o_proj", layer.output_bias), output=out, role=role)
