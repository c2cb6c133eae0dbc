"""Graphs of layers: values, ops, and the nodes that connect them.

A graph says what a layer computes, without a tile, a number format or a schedule. Everything that is known from that
alone is a walk over it: the float64 layer and the quantized one (`evaluate.py`), the ranges that calibrate scales
(`calibrate.py`), useful multiply-accumulates and what bounds count (`work.py`), and the tensors to load.

How an operand is held on the tile is not a property of a value but of its use, a *slot*: the router multiplies x in
other terms than the experts do. Numbers of an op's inputs are fixed by its ``slots``.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...rtl.spec.errors import WorkloadError
from .stored import Place

if TYPE_CHECKING:
    from .evaluate import Walk

Shape = tuple[int, ...]


class Role(enum.Enum):
    """Where a value comes from or goes to."""

    INPUT = "input"
    WEIGHT = "weight"
    CACHE = "cache"
    """Keys or values of earlier tokens."""
    ACTIVATION = "activation"
    OUTPUT = "output"


class Slot(enum.Enum):
    """How an operand is held on the tile."""

    FP32 = "FP32"
    ACTIVATIONS = "the format of activations"
    WEIGHTS = "the format of weights, square blocks where there are such"
    TURNED_WEIGHTS = "that of weights, where a MATMUL takes it as operand A"
    QUERY = "that of activations, if it has one scale per tensor"
    KV = "the format of the KV cache"
    TERMS = "a sum of E4M3 terms"


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the layer. parts: the factors of each axis where it has several, as (heads, head_dim); those of a
    smaller layer are cut out one by one. places: where a weight may stand in checkpoints, below the decoder layer's
    name (`stored.py`). one_by_one: weights of experts, the first axis, that are made one at a time."""

    name: str
    shape: Shape
    role: Role
    parts: tuple[Shape, ...] = ()
    places: tuple[Place, ...] = ()
    one_by_one: bool = False

    @property
    def factors(self) -> Shape:
        """The shape with every axis in its parts."""
        return tuple(size for part in self.parts for size in part) or self.shape


class Op:
    """Base of ops: frozen dataclasses with what they need to know beside the shapes of their inputs."""

    slots: tuple[Slot, ...]
    """How each input is held."""

    def shape(self, *inputs: Shape) -> Shape:
        """The output's shape. Raises `WorkloadError` for inputs that do not fit together."""
        raise NotImplementedError

    def evaluate(self, walk: Walk, *inputs: Any) -> np.ndarray:
        """The output, float64; ``walk`` rounds what the tile holds."""
        raise NotImplementedError

    def needed(self, number: int, *inputs: Shape) -> Shape:
        """The shape of what the result depends on of input ``number``: all of it, if it does not say otherwise."""
        return inputs[number]

    def macs(self, *inputs: Shape) -> dict[str, int]:
        """Multiply-accumulates that the result depends on, by matmul; the name of one is that of its node."""
        return {}

    def vector_elements(self, *inputs: Shape) -> int:
        """Elements that must pass the vector unit, beside those of a following op."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Node:
    """``output`` <- ``op`` (``inputs``); name: in reports and errors."""

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Values by name, and nodes in an order of execution. Checked when it is made: raises `WorkloadError`."""

    values: dict[str, Value]
    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        known = set(self.given())
        for node in self.nodes:
            _need(len(node.inputs) == len(node.op.slots),
                  f"{node.name}: expected {len(node.op.slots)} inputs, got {len(node.inputs)}")
            for name in node.inputs:
                _need(name in self.values, f"{node.name}: input {name} is no value of the graph")
                _need(name in known, f"{node.name}: input {name} is made by no node before it")
            _need(node.output in self.values, f"{node.name}: output {node.output} is no value of the graph")
            _need(node.output not in known, f"{node.name}: output {node.output} exists before it")
            shape = node.op.shape(*self.shapes(node))
            _need(shape == self.values[node.output].shape,
                  f"{node.name}: output {node.output}: expected shape {shape}, got {self.values[node.output].shape}")
            known.add(node.output)
        outputs = [name for name, value in self.values.items() if value.role is Role.OUTPUT]
        _need(len(outputs) == 1, f"expected one output, got {len(outputs)}: {', '.join(outputs)}")
        for name in self.values:
            _need(name in known, f"value {name} is made by no node")

    def shapes(self, node: Node) -> tuple[Shape, ...]:
        """Shapes of a node's inputs."""
        return tuple(self.values[name].shape for name in node.inputs)

    def given(self) -> dict[str, Value]:
        """Values that no node makes: input, weights and caches."""
        return {name: value for name, value in self.values.items()
                if value.role not in (Role.ACTIVATION, Role.OUTPUT)}

    def weights(self) -> dict[str, Value]:
        """Values of role WEIGHT."""
        return {name: value for name, value in self.values.items() if value.role is Role.WEIGHT}

    def uses(self) -> Iterator[tuple[Value, Slot, Node]]:
        """Every input of every node."""
        for node in self.nodes:
            for name, slot in zip(node.inputs, node.op.slots, strict=True):
                yield self.values[name], slot, node

    def consumers(self, name: str) -> list[Node]:
        """Nodes that have a value as input."""
        return [node for node in self.nodes if name in node.inputs]


def _need(ok: object, message: str) -> None:
    if not ok:
        raise WorkloadError(f"graph: {message}")


class GraphBuilder:
    """Makes a graph node by node; shapes of results follow."""

    def __init__(self) -> None:
        self._values: dict[str, Value] = {}
        self._nodes: list[Node] = []

    def value(self, name: str, shape: Sequence[int | Shape], role: Role, places: tuple[Place, ...] = (), *,
              one_by_one: bool = False) -> str:
        """Add a value that no node makes; returns its name. An axis may be given by its parts."""
        parts = tuple(axis if isinstance(axis, tuple) else (axis,) for axis in shape)
        self._values[name] = Value(name=name, shape=tuple(map(math.prod, parts)), role=role, parts=parts,
                                   places=places, one_by_one=one_by_one)
        return name

    def node(self, name: str, op: Op, *inputs: str, output: str, role: Role = Role.ACTIVATION) -> str:
        """Add a node and its output; returns the output's name."""
        shape = op.shape(*(self._values[value].shape for value in inputs))
        self._values[output] = Value(name=output, shape=shape, role=role)
        self._nodes.append(Node(name=name, op=op, inputs=inputs, output=output))
        return output

    def graph(self) -> Graph:
        return Graph(values=self._values, nodes=tuple(self._nodes))
