"""Float64 references of whole layers: what a graph means, before any number format.

Plain numpy, no tiles and no fusion, so that nothing is shared with what they judge; the tests compare them with
``transformers``. On the way the largest magnitude of every operand is noted, from which `calibrate.py` makes scales.
`quantized.py` walks the same graph with the tile's quantizers put in.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .ir import Graph, Node, Op, Role, Slot
from .layers import layer_graph
from .ops.router import Router
from .slots import SQUARE

if TYPE_CHECKING:
    from ..kept_codes import KeptCodes
    from ..routing import Routing
    from ..stored_weight import StoredWeight
    from ..tensors import GraphTensors, LayerTensors

Key = Hashable
"""An operand: the name of a value, or (expert, name)."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Largest magnitude of an operand, how it is held, and whether the tile makes it itself."""

    amax: float
    slot: Slot
    made: bool
    stored: StoredWeight | None = None
    """The operand as a checkpoint holds it, if in a format of the tile."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """What a walk leaves. values: of every node, float64, by name; ranges: by operand; routing: the one used."""

    values: Mapping[str, np.ndarray]
    out: np.ndarray
    ranges: Mapping[Key, Range]
    routing: Routing | None


@dataclass(kw_only=True, eq=False)
class Walk:
    """One evaluation of a graph in float64. Ops call `hold` for every operand of a matmul before they use it."""

    graph: Graph
    tensors: GraphTensors
    routing: Routing | None = None
    kept: KeptCodes | None = None
    """Where the codes of experts' weights go."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    ranges: dict[Key, Range] = field(default_factory=dict)
    node: Node = field(init=False)

    def evaluate(self, until: type[Op] | None = None) -> None:
        """All nodes, or those up to the first with such an op."""
        for node in self.graph.nodes:
            self.node = node
            self.values[node.output] = node.op.evaluate(self, *map(self._read, node.inputs))
            if until is not None and isinstance(node.op, until):
                return

    def run(self) -> Trace:
        """All nodes."""
        self.evaluate()
        out = next(name for name, value in self.graph.values.items() if value.role is Role.OUTPUT)
        return Trace(values=self.values, out=self.values[out], ranges=self.ranges, routing=self.routing)

    def _read(self, name: str) -> np.ndarray | None:
        """A value; None for the weights of experts, which are made one by one."""
        return self.values[name] if name in self.values else self.tensors.arrays.get(name)

    def expert(self, number: int) -> dict[str, np.ndarray]:
        """Weights of one expert by name, float32."""
        held = vars(self.tensors.expert(number))  # type: ignore[union-attr]
        return {name: part for name, part in held.items() if isinstance(part, np.ndarray)}

    def stored(self, key: Key, slot: Slot) -> StoredWeight | None:
        """A weight as a checkpoint holds it, if in a format of the tile."""
        return self.tensors.stored(key) if slot in SQUARE else None

    def hold(self, key: Key, slot: Slot, x: np.ndarray) -> np.ndarray:
        """``x`` as the tile holds it; here unchanged, and its range is noted."""
        amax = float(max(x.max(initial=0.0), -x.min(initial=0.0)))
        value = self.graph.values.get(key) if isinstance(key, str) else None
        made = value.role is Role.ACTIVATION if value else slot is Slot.ACTIVATIONS
        old = self.ranges.get(key)
        stored = self.stored(key, slot)
        self.ranges[key] = Range(amax=amax if old is None else max(amax, old.amax), slot=slot, made=made, stored=stored)
        if self.kept is not None and slot is Slot.WEIGHTS and not isinstance(key, str):
            self.kept.keep(key, x, amax, stored)
        return x

    def multiply_terms(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """x weight^T of operands that the tile holds as sums of terms."""
        for name, part in zip(self.node.inputs[:2], (x, weight), strict=True):
            self.hold(terms_key(name), Slot.TERMS, part)
        return x.astype(np.float64) @ weight.astype(np.float64).T

    def softmax(self, scores: np.ndarray, values: np.ndarray, sink: float) -> np.ndarray:
        """softmax(scores (rows, keys)) values, with a further score ``sink`` of a value that is 0, -inf for none;
        ``scores`` may be overwritten."""
        largest = np.maximum(scores.max(axis=-1, keepdims=True), sink)
        scores -= largest
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True) + np.exp(sink - largest)
        return scores @ values


def terms_key(name: str) -> str:
    """The operand that a value is where it is held as terms."""
    return f"{name} terms"


def float64_routing(tensors: LayerTensors) -> tuple[Routing, np.ndarray]:
    """The float64 router's own choice, and its logits (rows, experts)."""
    walk = Walk(graph=layer_graph(tensors.workload), tensors=tensors)
    walk.evaluate(until=Router)
    assert walk.routing is not None, "the layer has a router"
    return walk.routing, walk.values[walk.node.inputs[0]]


def float64_layer(tensors: LayerTensors, routing: Routing | None = None, kept: KeptCodes | None = None) -> Trace:
    """The layer in float64. kept: where the codes of experts' weights go.

    With ``routing``, its choice of experts is used (a tile's own logits may order a near tie otherwise) and the weights
    are still computed here, in float64; without, the router chooses.
    """
    return Walk(graph=layer_graph(tensors.workload), tensors=tensors, routing=routing, kept=kept).run()
