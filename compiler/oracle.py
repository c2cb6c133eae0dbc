"""Float64 references of whole layers: what the layer means, before any number format.

Plain numpy, no tiles and no fusion, so that nothing is shared with what they judge; the tests compare them
with ``transformers``. Besides the output they return the intermediate tensors whose ranges calibrate
per-tensor activation scales (q, k, v, attention output, SwiGLU product).

Attention goes head by head: a score matrix of one head is 32 MB at 2,048 tokens in float64, that of 32 heads
1 GB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..rtl.spec.errors import WorkloadError
from ..sim.lib.threads import map_runs
from .layers import Workload
from .rotary_frequencies import frequencies
from .routing import Routing, combine_weights, topk_softmax_route
from .tensors import AttentionTensors, MoETensors


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionTrace:
    """Float64 results of an attention layer: ``out (rows, hidden)`` and what led to it.

    ``q (rows, heads, head_dim)`` and ``k (rows, kv_heads, head_dim)`` after QK-norm and rotation, ``v`` as k,
    and ``mixed (rows, heads * head_dim)``: the core's output, before the output projection.
    """

    out: np.ndarray
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mixed: np.ndarray

    def amax(self) -> dict[str, float]:
        """Largest magnitude of each tensor, by field name."""
        return {name: float(np.abs(value).max()) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class MoETrace:
    """Float64 results of an MoE layer: ``out (rows, hidden)``, ``logits (rows, experts)``, the routing used.

    ``product_amax (experts,)``: largest magnitude of silu(gate) * up of each expert, 0 for an expert without
    tokens. ``weight_amax``: of each expert with tokens, the largest magnitudes of gate, up and down by name; they are
    taken here because the weights are at hand, and making an expert again costs more than all the rest.
    """

    out: np.ndarray
    logits: np.ndarray
    routing: Routing
    product_amax: np.ndarray
    weight_amax: dict[int, dict[str, float]]


def rotary_tables(
    positions: np.ndarray, frequencies: np.ndarray, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """``cos, sin (len(positions), head_dim // 2) float64`` times ``scale``: angle i of position p is
    p * frequencies[i]."""
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    return scale * np.cos(angles), scale * np.sin(angles)


def rotary_rows(workload: Workload) -> tuple[np.ndarray, np.ndarray]:
    """The rotary tables of a workload, a row per row of x: new token i of each sequence stands at context + i."""
    layer = workload.attention
    positions = np.tile(workload.cached + np.arange(workload.tokens), workload.batch)
    return rotary_tables(
        positions,
        frequencies(layer.rope_theta, layer.head_dim, workload.keys, layer.rope_scaling),
        layer.rotary_scale,
    )


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotary embedding of ``x (rows, heads, head_dim)`` in the Hugging Face convention.

    Pair i is (x[i], x[i + head_dim / 2]): the halves are rotated, not even and odd neighbours.
    """
    low, high = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """``weight * x / sqrt(mean(x^2) + eps)`` over the last axis."""
    return weight * x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps)


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``, without overflow for large negative x."""
    return x * np.exp(-np.logaddexp(0.0, -x))


def project_qkv(tensors: AttentionTensors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v of the new tokens, float64 ``(rows, heads or kv_heads, head_dim)``, normed and rotated."""
    layer, rows = tensors.workload.attention, tensors.workload.rows
    x = tensors.x.astype(np.float64)
    q, k, v = (x @ weight.astype(np.float64).T for weight in (tensors.wq, tensors.wk, tensors.wv))
    if tensors.q_norm is None or tensors.k_norm is None:
        norms = (None, None)
    else:
        norms = (tensors.q_norm.astype(np.float64), tensors.k_norm.astype(np.float64))
    cos, sin = rotary_rows(tensors.workload)

    def finish(flat: np.ndarray, norm: np.ndarray | None) -> np.ndarray:
        if norm is not None and layer.qk_norm == "full":
            flat = rms_norm(flat, norm, layer.norm_eps)
        heads = flat.reshape(rows, -1, layer.head_dim)
        if norm is not None and layer.qk_norm == "head":
            heads = rms_norm(heads, norm, layer.norm_eps)
        return rotate(heads, cos, sin)

    return finish(q, norms[0]), finish(k, norms[1]), v.reshape(rows, -1, layer.head_dim)


def _softmax_rows(scores: np.ndarray) -> np.ndarray:
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def attention(tensors: AttentionTensors) -> AttentionTrace:
    """The attention layer in float64."""
    workload, layer = tensors.workload, tensors.workload.attention
    q, k, v = project_qkv(tensors)
    mixed = np.empty((workload.rows, layer.heads, layer.head_dim))
    hidden_keys = np.arange(workload.keys) > workload.cached + np.arange(workload.tokens)[:, None]
    for sequence in range(workload.batch):
        new = slice(sequence * workload.tokens, (sequence + 1) * workload.tokens)
        for head in range(layer.heads):
            group = head // layer.group
            keys = np.concatenate([tensors.k_cache[sequence, group], k[new, group]])
            values = np.concatenate([tensors.v_cache[sequence, group], v[new, group]])
            scores = (q[new, head] * layer.scale) @ keys.T
            if workload.mask == "causal":
                scores[hidden_keys] = -np.inf
            mixed[new, head] = _softmax_rows(scores) @ values
    flat = mixed.reshape(workload.rows, layer.q_width)
    return AttentionTrace(out=flat @ tensors.wo.astype(np.float64).T, q=q, k=k, v=v, mixed=flat)


_FEW_ROWS, _ONE_THREAD_MACS = 16, 1 << 17
_EXPERTS_AT_ONCE = 32
"""Experts whose results are held before they are added."""


def _linear(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``x @ weight.T`` in float64, for (rows, k) float64 and (n, k) float32.

    For a few rows it is made in pieces of n that stay in the cache as float64, and that are too small for threads of
    BLAS: two that wait for each other on a busy machine took ten times as long (`exact_matmul.float_matmul`).
    """
    rows, k = x.shape
    if rows > _FEW_ROWS:
        return x @ weight.astype(np.float64).T
    step = max(8, _ONE_THREAD_MACS // (rows * k))
    out = np.empty((rows, len(weight)))
    for start in range(0, len(weight), step):
        out[:, start:start + step] = x @ weight[start:start + step].astype(np.float64).T
    return out


def _largest_magnitude(values: np.ndarray) -> float:
    return float(max(values.max(initial=0.0), -values.min(initial=0.0)))


def router_logits(tensors: MoETensors) -> np.ndarray:
    """``(rows, experts)`` float64."""
    return tensors.x.astype(np.float64) @ tensors.router.astype(np.float64).T


def moe(tensors: MoETensors, routing: Routing | None = None) -> MoETrace:
    """The MoE layer in float64.

    With ``routing``, its choice of experts is used (a tile's own logits may order a near tie otherwise) and
    the weights are still computed here, in float64; without, the router chooses.
    """
    workload, layer = tensors.workload, tensors.workload.moe
    logits = router_logits(tensors)
    if routing is None:
        routing = topk_softmax_route(logits, layer.top_k, norm_topk=layer.norm_topk)
    elif routing.chosen.shape != (workload.rows, layer.top_k) or routing.experts != layer.experts:
        raise WorkloadError(
            f"routing: expected a choice of {(workload.rows, layer.top_k)} among {layer.experts} experts, "
            f"got {routing.chosen.shape} among {routing.experts}"
        )
    weights = combine_weights(logits, routing.chosen, norm_topk=layer.norm_topk)
    out = np.zeros((workload.rows, layer.hidden))
    product_amax = np.zeros(layer.experts)
    weight_amax = {}

    def compute(expert: int) -> tuple[np.ndarray, float, dict[str, float]]:
        tokens, ranks = routing.tokens_of(expert)
        held = tensors.expert(expert)
        x = tensors.x[tokens].astype(np.float64)
        product = silu(_linear(x, held.gate)) * _linear(x, held.up)
        amax = {name: _largest_magnitude(getattr(held, name)) for name in ("gate", "up", "down")}
        return weights[tokens, ranks][:, None] * _linear(product, held.down), float(np.abs(product).max()), amax

    for start in range(0, len(routing.active), _EXPERTS_AT_ONCE):
        experts = routing.active[start:start + _EXPERTS_AT_ONCE]
        for expert, result in zip(experts, map_runs(compute, experts), strict=True):
            part, product_amax[expert], weight_amax[expert] = result
            out[routing.tokens_of(expert)[0]] += part
    return MoETrace(out=out, logits=logits, routing=routing, product_amax=product_amax, weight_amax=weight_amax)
