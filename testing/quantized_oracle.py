"""Float64 layers with the tile's quantizers put in: what the number formats alone cost.

The same mathematics as `oracle.py`, but every tensor that the tile holds in a narrow format is rounded to it with the
same static factor: inputs, weights, q, k, v, the probabilities, the mixed values, the expert products. Everything else
stays float64. The distance from `oracle.py` is the quantization error of the layer. The tile's own result differs
from this one by FP32 rounding only, which now and then moves a code to its neighbour.
"""

import numpy as np

from ..compiler.attention.core import P_GAIN
from ..compiler.attention.heads import blocked_head
from ..compiler.attention.inputs import AttentionScales
from ..compiler.formats import E4M3, LayerFormat, query_format, value_weights
from ..compiler.moe.inputs import MoEScales
from ..compiler.moe.logits import term_logits
from ..compiler.numerics import DEFAULT, Numerics
from ..compiler.oracle import rms_norm, rotary_rows, rotate, silu
from ..compiler.quantize import stored_values
from ..compiler.routing import Routing, combine_weights
from ..compiler.tensors import AttentionTensors, MoETensors
from ..rtl.spec.isa import ScaleRule
from ..rtl.spec.tensor_formats import TensorFormat


def fake_quantize(x: np.ndarray, scale: float, tensor_format: TensorFormat = E4M3.weights,
                  square: bool = False, rule: ScaleRule = ScaleRule.FLOOR) -> np.ndarray:
    """``x`` rounded to ``tensor_format`` with the factor ``scale``, blocks along the last axis; float64."""
    flat = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    return stored_values(flat, tensor_format, scale, rule, square).reshape(x.shape)


def rounded_probabilities(scores: np.ndarray, key_block: int,
                          tensor_format: TensorFormat = E4M3.weights) -> np.ndarray:
    """exp(scores - row maximum), (rows, keys), as the codes of P mean it: not normalized.

    P_GAIN * exp(scores - m) is rounded to E4M3 block by block, with m the row maximum of the blocks so far. The
    first block must have a finite score in every row.
    """
    parts, maxima = [], []
    m = np.full((len(scores), 1), -np.inf)
    for first in range(0, scores.shape[1], key_block):
        block = scores[:, first:first + key_block]
        m = np.maximum(m, block.max(axis=1, keepdims=True))
        parts.append(fake_quantize(np.exp(block - m) * P_GAIN, 1.0, tensor_format) / P_GAIN)
        maxima.append(m)
    return np.concatenate([p * np.exp(at - m) for p, at in zip(parts, maxima, strict=True)], axis=1)


def attention(tensors: AttentionTensors, scales: AttentionScales, numerics: Numerics = DEFAULT) -> np.ndarray:
    """(rows, hidden) float64."""
    workload, layer, formats = tensors.workload, tensors.workload.attention, numerics.formats
    rule = numerics.scale_rule
    query, kv, weights = query_format(formats), formats.kv, formats.weights
    x = fake_quantize(tensors.x, scales.x, formats.activations, rule=rule)
    q, k, v = (x @ fake_quantize(getattr(tensors, name), getattr(scales, name), stored_as, square=True, rule=rule).T
               for name, stored_as in (("wq", weights), ("wk", weights), ("wv", value_weights(formats))))
    cos, sin = rotary_rows(workload)

    def finish(flat: np.ndarray, norm: np.ndarray | None, scale: float, stored_as: TensorFormat) -> np.ndarray:
        if norm is not None and layer.qk_norm == "full":
            flat = rms_norm(flat, norm.astype(np.float64), layer.norm_eps)
        heads = flat.reshape(workload.rows, -1, layer.head_dim)
        if norm is not None and layer.qk_norm == "head":
            heads = rms_norm(heads, norm.astype(np.float64), layer.norm_eps)
        return fake_quantize(rotate(heads, cos, sin), scale, stored_as)

    q, k = finish(q, tensors.q_norm, scales.q, query), finish(k, tensors.k_norm, scales.k, kv)
    v = fake_quantize(v, scales.v, kv).reshape(workload.rows, -1, layer.head_dim)
    k_cache, v_cache = fake_quantize(tensors.k_cache, scales.k, kv), fake_quantize(tensors.v_cache, scales.v, kv)
    hidden_keys = np.arange(workload.keys) > workload.cached + np.arange(workload.tokens)[:, None]
    mixed = np.empty((workload.rows, layer.heads, layer.head_dim))
    for sequence in range(workload.batch):
        new = slice(sequence * workload.tokens, (sequence + 1) * workload.tokens)
        for head in range(layer.heads):
            group = head // layer.group
            keys = np.concatenate([k_cache[sequence, group], k[new, group]])
            values = np.concatenate([v_cache[sequence, group], v[new, group]])
            scores = (q[new, head] * layer.scale) @ keys.T
            if workload.mask == "causal":
                scores[hidden_keys] = -np.inf
            p = rounded_probabilities(scores, numerics.softmax_block, query)
            mixed[new, head] = p @ values / p.sum(axis=-1, keepdims=True)
    flat = fake_quantize(whole_blocks(mixed, formats), scales.mixed, formats.activations, rule=rule)
    wo = tensors.wo.reshape(layer.hidden, layer.heads, layer.head_dim)
    return flat @ fake_quantize(whole_blocks(wo, formats), scales.wo, weights, square=True, rule=rule).T


def whole_blocks(x: np.ndarray, formats: LayerFormat) -> np.ndarray:
    """(rows, heads, head_dim) as (rows, heads * d): each head padded with zeros to whole blocks, as on the tile."""
    padding = blocked_head(x.shape[2], formats) - x.shape[2]
    return np.pad(x, ((0, 0), (0, 0), (0, padding))).reshape(len(x), -1)


def moe(tensors: MoETensors, routing: Routing, scales: MoEScales, numerics: Numerics = DEFAULT) -> np.ndarray:
    """(rows, hidden) float64, with the experts that ``routing`` chooses."""
    workload, layer, formats, rule = tensors.workload, tensors.workload.moe, numerics.formats, numerics.scale_rule
    x = fake_quantize(tensors.x, scales.x, formats.activations, rule=rule)
    logits = term_logits(tensors, scales.x_router, scales.router, numerics.router_terms)
    weights = combine_weights(logits, routing.chosen, norm_topk=layer.norm_topk)
    out = np.zeros((workload.rows, layer.hidden))
    for expert in routing.active:
        tokens, ranks = routing.tokens_of(expert)
        held, scale = tensors.expert(expert), scales.experts[expert]
        gate, up, down = (fake_quantize(getattr(held, name), getattr(scale, name), formats.weights, square=True,
                                        rule=rule)
                          for name in ("gate", "up", "down"))
        product = fake_quantize(silu(x[tokens] @ gate.T) * (x[tokens] @ up.T), scale.product, formats.activations,
                                rule=rule)
        out[tokens] += weights[tokens, ranks][:, None] * (product @ down.T)
    return out
