"""What all steps of a program share: a *step* is a kernel that some nodes of the graph become.

A step asks for its operands in DRAM (`Job.ask`), which are laid out by `Stage`, and within a stage in the order of the
graph, before any step emits: so addresses depend on no order of execution.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import Any, ClassVar

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.tensor_formats import TensorFormat
from ..builder import ProgramBuilder
from ..candidates import first_that
from ..emitter import Emitter
from ..graph.calibrate import Scales
from ..graph.ir import Graph, Node, Role, Slot
from ..graph.ops.add import Add
from ..graph.ops.experts import Experts
from ..graph.ops.layer_norm import Norm
from ..graph.ops.linear import Linear
from ..graph.ops.share import ScaleRows
from ..graph.slots import slot_format
from ..kept_codes import KeptCodes
from ..kernels.rowwise_place import padded_columns
from ..numerics import Numerics
from ..operands import MakeStored, padded_k, place_operand
from ..quantize import store
from ..routing import Routing
from ..schedule import KernelSchedule, Schedule
from ..stored_weight import weight_tensor
from ..tensors import GraphTensors


class Stage(enum.IntEnum):
    """Groups of operands, as they lie in DRAM one after another."""

    TABLES = 0
    VECTORS = 1
    INPUTS = 2
    OTHER_FORMS = 3
    """Of inputs: other block scales or formats."""
    WEIGHTS = 4
    RESULTS = 5


@dataclass(kw_only=True, eq=False)
class Job:
    """One program in the making. tensors: None for timing only; memory: operands by key, once they are laid out."""

    emitter: Emitter
    schedule: Schedule
    scales: Scales
    tensors: GraphTensors | None
    kept: KeptCodes | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    _asked: dict[str, tuple[Stage, Callable[[ProgramBuilder], object]]] = field(default_factory=dict)

    @property
    def builder(self) -> ProgramBuilder:
        return self.emitter.builder

    def ask(self, stage: Stage, key: str, make: Callable[[ProgramBuilder], object]) -> None:
        """Ask for an operand; of several steps that ask for one key the first decides."""
        self._asked.setdefault(key, (stage, make))

    def lay_out(self) -> None:
        """Allocate all that was asked for."""
        for key, (_, make) in sorted(self._asked.items(), key=lambda item: item[1][0]):
            self.memory[key] = make(self.builder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """What the steps of one layer are made for. routing: None where the graph has no router."""

    graph: Graph
    config: TileConfig
    numerics: Numerics
    routing: Routing | None = None

    def shape(self, value: str) -> tuple[int, ...]:
        return self.graph.values[value].shape

    def format(self, slot: Slot) -> TensorFormat:
        """Of operands that a slot takes. Raises `TypeError` for FP32."""
        found = slot_format(slot, self.numerics.formats)
        if found is None:
            raise TypeError(f"{slot} has no format")
        return found

    def padded(self, value: str, k: int) -> int:
        """Elements of k of a value's rows: whole bus beats and blocks of all that it is multiplied with."""
        formats = {self.numerics.formats.activations}
        for used, slot, node in self.graph.uses():
            if used.name == value and slot is Slot.ACTIVATIONS:
                formats |= {self.format(s) for s in node.op.slots if s in (Slot.WEIGHTS, Slot.TURNED_WEIGHTS)}
        return padded_k(k, self.config, *formats)

    def held(self, value: str, slot: Slot) -> bool:
        """Does some node take the value in that slot?"""
        return any(used.name == value and other is slot for used, other, _ in self.graph.uses())

    @property
    def shared_terms(self) -> bool:
        """One term is what the activations are: their codes serve a router too."""
        return self.numerics.router_terms == 1 and self.numerics.formats.activations == self.format(Slot.TERMS)

    def rowwise(self, node: Node) -> bool:
        """Is this a node over FP32 rows?"""
        return isinstance(node.op, Add | Norm) and len(self.shape(node.output)) == 2

    def quantized(self, value: str) -> bool:
        """Is the value read as codes, of activations or terms?"""
        return self.held(value, Slot.ACTIVATIONS) or self.held(value, Slot.TERMS)

    def requantized(self, value: str) -> bool:
        """Is the value read as codes, but made as FP32 rows by a kernel that quantizes nothing?"""
        return self.quantized(value) and any(isinstance(node.op, Linear | Experts | ScaleRows) and node.output == value
                                             for node in self.graph.nodes)

    def floats_key(self, value: str) -> str:
        """The operand with a value's FP32 rows: its own name, if it is not read as codes."""
        return f"{value} in FP32" if self.quantized(value) else value

    def columns(self, value: str) -> int:
        """Columns of a value's FP32 rows: whole column tiles, blocks and bus beats where rowwise kernels use them."""
        size, formats = self.shape(value)[-1], self.numerics.formats
        used = any(self.rowwise(node) and value in (*node.inputs, node.output) for node in self.graph.nodes)
        if not used and not self.requantized(value):
            return size
        return padded_columns(size, self.config, formats.activations, formats.weights, self.format(Slot.TERMS),
                              self.format(Slot.TURNED_WEIGHTS))

    def other_scales(self, value: str) -> list[str]:
        """Keys of the block scales of a value that are cut otherwise, for the Linears that take it as operand B."""
        return [scales_key(value, node.output) for node in self.graph.consumers(value)
                if Slot.TURNED_WEIGHTS in node.op.slots]

    def stored(self, job: Job, name: str, tensor_format: TensorFormat, *, square: bool = False) -> MakeStored | None:
        """What makes the codes of a tensor, of a weight if ``square``; None without tensors, and of what the tile
        makes."""
        tensors = job.tensors
        if tensors is None or self.graph.values[name].role is Role.ACTIVATION:
            return None
        if square:
            return lambda: weight_tensor(tensors, name, tensor_format, job.scales[name], self.numerics.scale_rule)
        return lambda: store(getattr(tensors, name), tensor_format, job.scales[name], self.numerics.scale_rule)

    def ask_input(self, job: Job, value: str, k: int) -> None:
        """Ask for rows in the format of activations, ``k`` elements each: the layer's input, or what is made of FP32
        rows."""
        x = self.numerics.formats.activations
        job.ask(Stage.INPUTS, value, lambda builder: place_operand(
            builder, value, self.shape(value)[0], k, x, self.stored(job, value, x)))


def scales_key(value: str, reader: str) -> str:
    """The operand with block scales of ``value`` as the step that makes ``reader`` loads them."""
    return f"{value} for {reader}"


@dataclass(kw_only=True, eq=False)
class Step:
    """Base of steps. name: the phase of the program; reads, makes, also: values of the graph."""

    layer: Layer
    name: str
    reads: tuple[str, ...]
    makes: str
    also: tuple[str, ...] = ()
    """Further values that it makes."""
    unquantized: ClassVar[bool] = False
    """It makes FP32 rows, and another step their codes where these are read."""
    early: bool = False
    """Run before others that could run too: what it makes is read by many, or late."""

    @property
    def provides(self) -> tuple[str, ...]:
        """Operands that other steps read."""
        makes = self.layer.floats_key(self.makes) if self.unquantized else self.makes
        return makes, *self.also

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        """Entries of a schedule, and what each is."""
        raise NotImplementedError

    def place(self, schedule: Schedule) -> object:
        """Where everything lies on chip. Raises `CompileError`, `DoesNotFit` where the tile is too small."""
        raise NotImplementedError

    def unit(self, kernel: str, key: str) -> int:
        """Of what a value of the schedule must be a multiple."""
        return 1

    def smaller(self, schedule: Schedule) -> str:
        """For an error: values of single keys that would fit, the largest of each; empty where there are none."""
        found = []
        for name in self.kernels():
            for key, value in schedule[name].values().items():
                if type(value) is int and (best := self._largest(schedule, name, key, value)) is not None:
                    found.append(f"{name}.{key} of at most {best}, not {value},")
        return f"; would fit with {' or '.join(found).rstrip(',')}" if found else ""

    def _largest(self, schedule: Schedule, kernel: str, key: str, value: int) -> int | None:
        def works(smaller: int) -> bool:
            try:
                self.place(schedule.change(kernel, **{key: smaller}))
            except CompileError:
                return False
            return True

        unit, values = self.unit(kernel, key), schedule[kernel].values()
        if key == "group_tiles":
            unit = lcm(unit, int(values["n_tiles"]))
        smaller = [v for v in range((value - 1) // unit * unit, 0, -unit)
                   if key != "n_tiles" or int(values.get("group_tiles", v)) % v == 0]
        return first_that(smaller, works)

    def choose(self) -> dict[str, KernelSchedule]:
        """A schedule by rule. Raises `DoesNotFit`."""
        raise NotImplementedError

    def ask(self, job: Job) -> None:
        """Ask for operands in DRAM."""
        raise NotImplementedError

    def emit(self, job: Job) -> None:
        """The instructions."""
        raise NotImplementedError
