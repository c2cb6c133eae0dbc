"""Float64 layers with the tile's quantizers put in: what the number formats alone cost.

The same walk as `evaluate.py`, but every operand that the tile holds in a narrow format is rounded to it with the same
static factor: inputs, weights, q, k, v, the probabilities, the core's and the experts' products. Everything else stays
float64. The distance from the float64 layer is the quantization error. The tile's own result differs from this one by
FP32 rounding only, which now and then moves a code to its neighbour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..compiler.formats import E4M3, query_format
from ..compiler.graph.calibrate import Scales
from ..compiler.graph.evaluate import Key, Walk, terms_key
from ..compiler.graph.ir import Slot
from ..compiler.graph.layers import layer_graph
from ..compiler.graph.slots import SQUARE, slot_format
from ..compiler.kernels.softmax import LEAST, P_GAIN
from ..compiler.logits import kept_products, term_values
from ..compiler.numerics import DEFAULT, Numerics
from ..compiler.quantize import stored_values
from ..compiler.routing import Routing
from ..compiler.tensors import LayerTensors
from ..rtl.spec.isa import ScaleRule
from ..rtl.spec.tensor_formats import TensorFormat


def fake_quantize(x: np.ndarray, scale: float, tensor_format: TensorFormat = E4M3.weights,
                  square: bool = False, rule: ScaleRule = ScaleRule.FLOOR) -> np.ndarray:
    """``x`` rounded to ``tensor_format`` with the factor ``scale``, blocks along the last axis; float64.

    square: of (n, k), or of (n, heads, d), where no block has parts of two heads.
    """
    block, size = tensor_format.block or 1, x.shape[-1]
    padding = -size % block if x.ndim == 3 else 0
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padding)]) if padding else x
    rows = padded.shape[0] if x.ndim == 3 else -1
    flat = np.asarray(padded, np.float32).reshape(rows, -1 if x.ndim == 3 else padded.shape[-1])
    return stored_values(flat, tensor_format, scale, rule, square).reshape(padded.shape)[..., :size]


def rounded_probabilities(scores: np.ndarray, key_block: int,
                          tensor_format: TensorFormat = E4M3.weights, sink: float = -np.inf) -> np.ndarray:
    """exp(scores - row maximum), (rows, keys), as the codes of P mean it: not normalized.

    P_GAIN * exp(scores - m) is rounded to E4M3 block by block, with m the row maximum of the blocks so far and of
    ``sink``. Scores of -inf are of keys that a row does not see; every row must have a finite score, or the sink be
    finite.
    """
    parts, maxima = [], []
    m = np.full((len(scores), 1), max(sink, LEAST))
    for first in range(0, scores.shape[1], key_block):
        block = scores[:, first:first + key_block]
        m = np.maximum(m, block.max(axis=1, keepdims=True))
        parts.append(fake_quantize(np.exp(block - m) * P_GAIN, 1.0, tensor_format) / P_GAIN)
        maxima.append(m)
    return np.concatenate([p * np.exp(at - m) for p, at in zip(parts, maxima, strict=True)], axis=1)


@dataclass(kw_only=True, eq=False)
class QuantizedWalk(Walk):
    """A walk that rounds what the tile holds."""

    scales: Mapping[Key, float]
    numerics: Numerics
    _held: dict[tuple, np.ndarray] = field(default_factory=dict)

    def hold(self, key: Key, slot: Slot, x: np.ndarray) -> np.ndarray:
        tensor_format = slot_format(slot, self.numerics.formats)
        if tensor_format is None:
            return x
        where = (key, slot, x.shape)
        if where in self._held:  # x, which several projections use
            return self._held[where]
        stored = self.stored(key, slot)
        if stored is not None and stored.format == tensor_format:
            return x  # its values
        held = fake_quantize(x, self.scales[key], tensor_format, slot in SQUARE, self.numerics.scale_rule)
        if isinstance(key, str):
            self._held[where] = held
        return held

    def multiply_terms(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        scales = [self.scales[terms_key(name)] for name in self.node.inputs[:2]]
        left, right = (term_values(np.asarray(part, np.float32), scale, self.numerics.router_terms)
                       for part, scale in zip((x, weight), scales, strict=True))
        return kept_products(left, right) * (scales[0] * scales[1])

    def softmax(self, scores: np.ndarray, values: np.ndarray, sink: float) -> np.ndarray:
        largest = np.maximum(scores.max(axis=1, keepdims=True), sink)
        p = rounded_probabilities(scores, self.numerics.softmax_block, query_format(self.numerics.formats), sink)
        return p @ values / (p.sum(axis=-1, keepdims=True) + np.exp(sink - largest))


def quantized_layer(tensors: LayerTensors, scales: Mapping[Key, float], numerics: Numerics = DEFAULT,
                    routing: Routing | None = None) -> np.ndarray:
    """(rows, hidden) float64, with the experts that ``routing`` chooses."""
    return QuantizedWalk(graph=layer_graph(tensors.workload), tensors=tensors, routing=routing, scales=scales,
                         numerics=numerics).run().out


@dataclass(kw_only=True, eq=False)
class QuantizedCompute:
    """A `compiler.lm.network.Compute`. scales: by layer, those of its programs in their order, which are used up."""

    numerics: Numerics
    scales: dict[str, list[Scales]]

    def __call__(self, name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray:
        """The layer in float64 with the tile's quantizers, its input in float64."""
        return QuantizedWalk(graph=layer_graph(tensors.workload), tensors=tensors, scales=self.scales[name].pop(0),
                             numerics=self.numerics, values={} if x is None else {"x": x}).run().out
