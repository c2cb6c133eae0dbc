"""What an attention op reads, whatever its kind: the parts of queries and keys, values, and the caches of both.

The parts of a head's queries lie side by side in one tensor of the tile, in the order of the op's inputs, and so do
those of its keys; the tensor has the name, and the scale, of its first part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...rtl.spec.errors import CompileError
from ..graph.ir import Graph, Node, Op
from ..graph.ops.attention import Attention
from ..graph.ops.rotary import Rotary
from ..graph.ops.split_attention import SplitAttention
from .head_sizes import head_order

if TYPE_CHECKING:
    from ..layers import Workload
    from ..masks import Sequences

CORES = (Attention, SplitAttention)


def is_core(op: Op) -> bool:
    return isinstance(op, CORES)


def workload_of(core: Node) -> Workload | Sequences:
    """Which tokens and keys an attention node is for."""
    assert isinstance(core.op, CORES)
    return core.op.workload


@dataclass(frozen=True)
class Ports:
    """Names of values. key_caches: of each part of the keys, or of none; ``values`` is the first part of the keys where
    these are the values too."""

    graph: Graph
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    values: str
    key_caches: tuple[str, ...]
    value_cache: str | None

    @classmethod
    def of(cls, graph: Graph, core: Node) -> Ports:
        """Those of an attention node."""
        names, op = core.inputs, core.op
        if isinstance(op, Attention):
            return cls(graph, names[:1], names[1:2], names[2], names[3:4], names[4])
        assert isinstance(op, SplitAttention)
        if op.shared:
            return cls(graph, names[:2], names[2:4], names[2], names[4:6], names[4])
        return cls(graph, names[:2], names[2:4], names[4], (), None)

    @property
    def shared(self) -> bool:
        """Are the values the first part of the keys?"""
        return self.values == self.keys[0]

    @property
    def old(self) -> int:
        """Cached keys of a sequence."""
        return self.graph.values[self.key_caches[0]].shape[2] if self.key_caches else 0

    def _size(self, name: str) -> int:
        return self.graph.values[name].shape[2]

    @property
    def width(self) -> int:
        """Features of a head's keys."""
        return sum(map(self._size, self.keys))

    @property
    def value_width(self) -> int:
        return self._size(self.values)

    @property
    def kv_heads(self) -> int:
        return self.graph.values[self.keys[0]].shape[1]

    def tensor(self, part: str) -> str:
        """The tensor that a part of queries or keys belongs to."""
        return (self.queries if part in self.queries else self.keys)[0]

    def offset(self, part: str) -> int:
        """Features of a head before a part's."""
        parts = self.queries if part in self.queries else self.keys
        return sum(map(self._size, parts[:parts.index(part)]))

    def order(self, part: str) -> np.ndarray:
        """The order of a part's features on the tile. Raises `CompileError` where that of queries and keys differs."""
        number = (self.queries if part in self.queries else self.keys).index(part)
        orders = [head_order(self._rotary(parts[number]), self._size(part)) for parts in (self.queries, self.keys)]
        if not np.array_equal(orders[0], orders[1]):
            raise CompileError(f"{self.queries[number]} and {self.keys[number]} are rotated in different pairs of "
                               "features")
        return orders[0]

    def _rotary(self, name: str) -> Rotary | None:
        op = next((node.op for node in self.graph.nodes if node.output == name), None)
        return op if isinstance(op, Rotary) else None
