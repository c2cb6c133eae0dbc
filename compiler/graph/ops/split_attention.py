"""The attention core whose queries and keys come in two parts, as those of latent attention do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...layers import Workload
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class SplitAttention(Op):
    """Scores are the sums of both parts' products: q0 and q1 (rows, heads, .), k0 and k1 (keys, kv heads, .), where k1
    may have one head for all.

    shared: values are k0, of which there is one head; further inputs are the caches of k0 and k1, (batch, 1, old keys,
    .). Else v (keys, heads, .), and keys are those of all tokens. On the tile the parts are one tensor, with one scale.
    """

    workload: Workload
    scale: float
    shared: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        return (Slot.QUERY, Slot.QUERY, *([Slot.KV] * (4 if self.shared else 3)))

    def shape(self, q0: Shape, q1: Shape, k0: Shape, k1: Shape, *others: Shape) -> Shape:
        old = others[0][2] if self.shared else 0
        rows, keys = q0[0], self.workload.batch * (self.workload.keys - old)
        v = k0 if self.shared else others[0]
        caches = [(self.workload.batch, 1, old, part[2]) for part in (k0, k1)] if self.shared else []
        heads = 1 if self.shared else q0[1]
        if rows != self.workload.rows or q1[:2] != q0[:2] or k0 != (keys, heads, q0[2]) or k1 != (keys, 1, q1[2]) or \
                v[:2] != k0[:2] or (self.shared and list(others) != caches):
            raise WorkloadError(f"attention: q {q0} and {q1}, k {k0} and {k1} and {', '.join(map(str, others))} do not "
                                "fit together")
        return (*q0[:2], v[2])

    def evaluate(self, walk: Walk, q0: np.ndarray, q1: np.ndarray, k0: np.ndarray, k1: np.ndarray,
                 *others: np.ndarray) -> np.ndarray:
        workload, names = self.workload, walk.node.inputs
        q = walk.hold(names[0], Slot.QUERY, np.concatenate([q0, q1], axis=2))
        k = walk.hold(names[2], Slot.KV, _joined(k0, k1))
        k = k.reshape(workload.batch, -1, *k.shape[1:]).swapaxes(1, 2)
        if self.shared:
            old = walk.hold(names[2], Slot.KV, np.concatenate(others, axis=3))
            k = np.concatenate([old, k], axis=2)
            v = k[..., :k0.shape[2]]
        else:
            v = walk.hold(names[4], Slot.KV, others[0])
            v = v.reshape(workload.batch, -1, *v.shape[1:]).swapaxes(1, 2)
        out, group = np.empty((*q.shape[:2], v.shape[3])), q.shape[1] // k.shape[1]
        unseen = ~workload.key_mask.seen(workload.cached, workload.tokens)
        for sequence in range(workload.batch):
            rows = slice(sequence * workload.tokens, (sequence + 1) * workload.tokens)
            for head in range(q.shape[1]):
                scores = (q[rows, head] * self.scale) @ k[sequence, head // group].T
                scores[unseen] = -np.inf
                out[rows, head] = walk.softmax(scores, v[sequence, head // group], -np.inf)
        return out

    def needed(self, number: int, *inputs: Shape) -> Shape:
        """Of the caches, the keys that some new token sees."""
        if not self.shared or number < 4:
            return inputs[number]
        batch, heads, old, size = inputs[number]
        return batch, heads, self.workload.key_mask.needed(old, self.workload.cached), size

    def macs(self, q0: Shape, q1: Shape, k0: Shape, k1: Shape, *others: Shape) -> dict[str, int]:
        pairs = self.workload.batch * q0[1] * self.workload.pairs
        return {"Q K^T": pairs * (q0[2] + q1[2]), "P V": pairs * (k0 if self.shared else others[0])[2]}

    def vector_elements(self, q0: Shape, q1: Shape, k0: Shape, k1: Shape, *others: Shape) -> int:
        """Each probability is made, outputs are divided by their sums."""
        width = (k0 if self.shared else others[0])[2]
        return self.workload.batch * q0[1] * self.workload.pairs + q0[0] * q0[1] * width


def _joined(k0: np.ndarray, k1: np.ndarray) -> np.ndarray:
    return np.concatenate([k0, np.broadcast_to(k1, (*k0.shape[:2], k1.shape[2]))], axis=2)
