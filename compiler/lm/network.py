"""A language model as a chain of layers: embedding, decoder layers, head, and who computes each.

What computes a layer is a function of its tensors and its input, so that the tile's programs, the float64 layers and
whatever else go through the same chain. Between layers stand the rows that the last one made, unchanged.

Sequences are prefilled: all tokens of all sequences at once, no cache. The head is computed for one sequence at a
time, since its logits are the largest thing there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..checkpoint import layer_tensors
from ..gguf_file import GgufFile
from ..graph.evaluate import Walk
from ..graph.ir import Role
from ..graph.layers import layer_graph
from ..layers import Layer, Workload
from ..model_layers import layer_of, model_layer_kinds
from ..tensors import LayerTensors


class Compute(Protocol):
    """Computes a layer. name: which of the model; tensors: with the input in float32; x: the input as it was made, None
    for tokens. Returns (rows, width)."""

    def __call__(self, name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray: ...


def float64(name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray:
    """The layer in float64, its input too."""
    given = {} if x is None else {"x": x}
    return Walk(graph=layer_graph(tensors.workload), tensors=tensors, values=given).run().out


@dataclass(frozen=True, eq=False)
class Network:
    """The layers of a model in a file."""

    file: GgufFile

    def hidden(self, ids: np.ndarray, compute: Compute) -> np.ndarray:
        """(sequences, tokens) ids to the rows behind the last decoder layer, (sequences, tokens, hidden)."""
        sequences, tokens = ids.shape
        flat = ids.reshape(-1).astype(np.float32)
        x = compute("embedding", self._tensors("embedding", None, sequences, tokens, ids=flat), None)
        for index in range(len(model_layer_kinds(self.file.config))):
            empty = {name: np.zeros(shape, np.float32) for name, shape in self._caches(index, sequences, tokens)}
            tensors = self._tensors("decoder", index, sequences, tokens, x=x.astype(np.float32), **empty)
            x = compute(f"layer {index}", tensors, x)
        return x.reshape(sequences, tokens, -1)

    def logits(self, hidden: np.ndarray, compute: Compute) -> np.ndarray:
        """(rows, hidden) of one pass to (rows, vocabulary)."""
        return compute("head", self._tensors("head", None, 1, len(hidden), x=hidden.astype(np.float32)), hidden)

    def _layer(self, kind: str, index: int | None) -> Layer:
        return layer_of(self.file.config, kind, index).layer

    def _caches(self, index: int, sequences: int, tokens: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of caches, which hold nothing."""
        workload = Workload(layer=self._layer("decoder", index), tokens=tokens, batch=sequences)
        for name, value in layer_graph(workload).given().items():
            if value.role is Role.CACHE:
                yield name, value.shape

    def _tensors(self, kind: str, index: int | None, sequences: int, tokens: int, **given: np.ndarray) -> LayerTensors:
        workload = Workload(layer=self._layer(kind, index), tokens=tokens, batch=sequences)
        return layer_tensors(self.file, workload, layer_index=index or 0, given=given)
