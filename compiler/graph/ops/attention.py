"""The attention core: softmax(q k^T) v of new tokens over cached and new keys.

It goes head by head: a score matrix of one head is 32 MB at 2,048 tokens in float64, that of 32 heads 1 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...layers import Workload
from ...masks import Sequences
from ..ir import Op, Shape, Slot
from .linear import soft_cap

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class Attention(Op):
    """q (rows, heads, d), k and v (new keys, kv_heads, d), caches (batch, kv_heads, old keys, d) -> (rows, heads, d).

    Query head h reads key and value head ``h // (heads // kv_heads)``. Mask and sizes are the workload's. sink: a sixth
    input (heads,), a score of each head that belongs to no key. cap: scores s become ``cap * tanh(s / cap)``.
    """

    workload: Workload | Sequences
    scale: float
    sink: bool = False
    cap: float | None = None

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot.QUERY, Slot.KV, Slot.KV, Slot.KV, Slot.KV, *([Slot.FP32] if self.sink else []))

    def shape(self, q: Shape, k: Shape, v: Shape, k_cache: Shape, v_cache: Shape, *sinks: Shape) -> Shape:
        workload, old = self.workload, k_cache[2]
        cache = (workload.batch, k[1], old, q[2])
        rows = workload.batch * workload.tokens, workload.batch * (workload.keys - old)
        if q[1] % k[1] or k != v or k != (rows[1], k[1], q[2]) or k_cache != cache or v_cache != cache \
                or q[0] != rows[0] or any(shape != (q[1],) for shape in sinks):
            raise WorkloadError(f"attention: q {q}, k {k}, v {v} and caches {k_cache}, {v_cache} do not fit together"
                                + "".join(f", with sinks {shape}" for shape in sinks))
        return q

    def evaluate(self, walk: Walk, q: np.ndarray, k: np.ndarray, v: np.ndarray, k_cache: np.ndarray,
                 v_cache: np.ndarray, *sinks: np.ndarray) -> np.ndarray:
        workload, (q_name, k_name, v_name, *_) = self.workload, walk.node.inputs
        q, k, v = (walk.hold(name, slot, x) for name, slot, x in (
            (q_name, Slot.QUERY, q), (k_name, Slot.KV, k), (v_name, Slot.KV, v)))
        # Old and new keys are one tensor of the tile, with one scale.
        k_cache, v_cache = walk.hold(k_name, Slot.KV, k_cache), walk.hold(v_name, Slot.KV, v_cache)
        group, out = q.shape[1] // k.shape[1], np.empty(q.shape)
        unseen = ~workload.key_mask.seen(workload.cached, workload.tokens)
        for sequence in range(workload.batch):
            rows, new = (slice(sequence * size, (sequence + 1) * size)
                         for size in (workload.tokens, workload.keys - k_cache.shape[2]))
            for head in range(q.shape[1]):
                keys = np.concatenate([k_cache[sequence, head // group], k[new, head // group]])
                values = np.concatenate([v_cache[sequence, head // group], v[new, head // group]])
                scores = (q[rows, head] * self.scale) @ keys.T
                if self.cap is not None:
                    scores = soft_cap(scores, self.cap)
                scores[unseen] = -np.inf
                out[rows, head] = walk.softmax(scores, values, float(sinks[0][head]) if sinks else -np.inf)
        return out

    def needed(self, number: int, *inputs: Shape) -> Shape:
        """Of the caches, the keys that some new token sees."""
        if number not in (3, 4):
            return inputs[number]
        batch, heads, old, size = inputs[number]
        return batch, heads, self.workload.key_mask.needed(old, self.workload.cached), size

    def macs(self, q: Shape, *others: Shape) -> dict[str, int]:
        pairs = self.workload.batch * q[1] * q[2] * self.workload.pairs
        return {"Q K^T": pairs, "P V": pairs}

    def vector_elements(self, q: Shape, *others: Shape) -> int:
        """Each probability is made, and before it a capped score; outputs are divided by their sums."""
        passes = 1 if self.cap is None else 2
        return passes * self.workload.batch * q[1] * self.workload.pairs + int(np.prod(q))
