"""Nodes of experts: the grouped kernel over the rows that chose each, then the sum of each row's weighted results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..auto import grouped_schedules
from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..graph.ir import Node
from ..graph.ops.experts import Experts
from ..kernels.gather_add import GatherAdd
from ..kernels.gemm import GemmProblem
from ..kernels.grouped import Expert, Grouped, GroupedData, check_schedules, grouped_buffers, pair_tiles
from ..operands import Operand, k_unit, place_operand
from ..quantize import StoredTensor
from ..routing import Routing
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..stored_weight import first_columns, weight_tensor
from ..tiles.buffers import align, place
from .gathered import GatherAddStep
from .steps import Job, Layer, Stage, Step


def slots_key(node: Node) -> str:
    """The operand that holds the weighted results: FP32 (rows * top_k, hidden), by expert, then row."""
    return f"{node.name} slots"


def routing_of(layer: Layer) -> Routing:
    """The layer's choice of experts. Raises `TypeError` where it has none."""
    if layer.routing is None:
        raise TypeError("experts need a routing")
    return layer.routing


def padded_width(intermediate: int, layer: Layer) -> int:
    """``intermediate`` in whole column tiles, bus beats and blocks."""
    formats, config = layer.numerics.formats, layer.config
    return align(intermediate, max(config.cols, k_unit(config, formats.activations, formats.weights)))


@dataclass(kw_only=True, eq=False)
class ToSlots(Step):
    """Gate and up together, and down, for blocks of rows that chose one expert; weighted results to slots."""

    node: Node

    @property
    def _parts(self) -> tuple[str, str]:
        return f"{self.name}.gate_up", f"{self.name}.down"

    @property
    def op(self) -> Experts:
        assert isinstance(self.node.op, Experts)
        return self.node.op

    @cached_property
    def problems(self) -> tuple[GemmProblem, GemmProblem]:
        """Gate and up, and down, for blocks of at most as many rows as one expert has."""
        x, _, gate, *_ = self.node.inputs
        (rows, hidden), (_, intermediate, _) = self.layer.shape(x), self.layer.shape(gate)
        formats, width = self.layer.numerics.formats, padded_width(intermediate, self.layer)
        rows = max(1, int(routing_of(self.layer).counts.max()))
        return (GemmProblem(name="gate_up", m=rows, n=2 * width, k=self.layer.padded(x, hidden), layer_k=hidden,
                            a=formats.activations, b=formats.weights, biased=self.op.biases),
                GemmProblem(name="down", m=rows, n=hidden, k=width, layer_k=intermediate, a=formats.activations,
                            b=formats.weights, biased=self.op.biases))

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return dict.fromkeys(self._parts, GemmSchedule)

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        gate_up, down = (schedule[part] for part in self._parts)
        check_schedules(self.layer.config, self.problems[0].a, gate_up, down)
        return place(grouped_buffers(self.layer.config, *self.problems, gate_up, down), self.layer.config, self.name)

    def unit(self, kernel: str, key: str) -> int:
        config, (gate_up, _) = self.layer.config, self.problems
        if key == "k_tile":
            return k_unit(config, gate_up.a, gate_up.b)
        return pair_tiles(config, gate_up.a, True) if (kernel, key) == (self._parts[0], "group_tiles") else 1

    def choose(self) -> dict[str, KernelSchedule]:
        return dict(zip(self._parts, grouped_schedules(self.layer.config, *self.problems), strict=True))

    def ask(self, job: Job) -> None:
        layer, config, (gate_up, down) = self.layer, self.layer.config, self.problems
        routing, lanes, rows = routing_of(layer), layer.config.bus_bytes // 4, layer.shape(self.node.inputs[0])[0]
        layer.ask_input(job, self.node.inputs[0], gate_up.k)
        job.ask(Stage.WEIGHTS, f"{self.name} one-hot", lambda builder: float_matrix(
            builder, "one_hot", lanes, config.cols, lambda: np.eye(lanes, config.cols, dtype=np.float32)))
        zeros = min(job.schedule[self._parts[0]].m_tile, rows)
        job.ask(Stage.WEIGHTS, f"{self.name} zeros",
                lambda builder: float_matrix(builder, "zeros", zeros, config.cols))
        for expert in routing.active:
            job.ask(Stage.WEIGHTS, f"{self.name} {expert}",
                    lambda builder, expert=expert: self._weights(builder, job, expert))
            if self.op.biases:
                job.ask(Stage.WEIGHTS, f"{self.name} {expert} biases",
                        lambda builder, expert=expert: self._biases(builder, job, expert))
        job.ask(Stage.RESULTS, slots_key(self.node), lambda builder: float_matrix(
            builder, "slots", routing.pairs + ragged(routing), down.n))
        if not job.schedule[self._parts[1]].a_resident:
            job.ask(Stage.RESULTS, f"{self.name} products", lambda builder: place_operand(
                builder, "products", down.rows(job.schedule[self._parts[1]]), down.k, down.a, None))

    def _weights(self, builder: ProgramBuilder, job: Job, expert: int) -> tuple[Operand, Operand]:
        """Of one expert: blocks of ``cols`` gate rows and ``cols`` up rows in turn, and down."""
        problems, formats, rule = self.problems, self.layer.numerics.formats, self.layer.numerics.scale_rule
        hidden, width, tensors = problems[0].layer_k, problems[1].k, job.tensors

        def stored(name: str, shape: tuple[int, int]) -> StoredTensor:
            assert tensors is not None
            if job.kept and self.layer.shape(self.node.inputs[2])[1:] == (width, hidden):
                if (codes := job.kept.take((expert, name))) is not None:
                    return codes
            columns = first_columns(tensors.weight((expert, name)).shape[1], shape[1])
            return weight_tensor(tensors, (expert, name), formats.weights, job.scales[expert, name], rule,
                                 rows=shape[0], columns=columns)

        def gate_up() -> StoredTensor:
            sides = [stored(name, (width, hidden)) for name in ("gate", "up")]
            return StoredTensor(*(alternate([getattr(side, part) for side in sides], builder.config.cols)
                                  for part in ("codes", "scales")))

        made = (gate_up, lambda: stored("down", (hidden, width)))
        first, second = (place_operand(
            builder, f"expert{expert}.{problem.name}", problem.n, problem.k, formats.weights,
            make if tensors else None, chunk=job.schedule[part].k_tile, packed=True)
            for part, problem, make in zip(self._parts, problems, made, strict=True))
        return first, second

    def _biases(self, builder: ProgramBuilder, job: Job, expert: int) -> tuple[Matrix, Matrix]:
        """Of one expert, a row per column tile: those of gate and up in turn, and of down."""
        (_, down), cols, tensors = self.problems, builder.config.cols, job.tensors

        def column(name: str, width: int) -> np.ndarray:
            assert tensors is not None
            return padded(getattr(tensors.expert(expert), f"{name}_bias")[:, None], (width, 1))

        def made(names: tuple[str, ...], width: int) -> Matrix:
            def make() -> np.ndarray:
                return alternate([column(name, width) for name in names], cols).reshape(-1, cols)
            return float_matrix(builder, f"expert{expert}.{'_'.join(names)} biases", len(names) * width // cols, cols,
                                make if tensors is not None else None)

        return made(("gate", "up"), down.k), made(("down",), align(down.n, cols))

    def emit(self, job: Job) -> None:
        memory, scales = job.memory, job.scales
        x, weights, *_ = self.node.inputs
        routing, op = routing_of(self.layer), self.op

        def expert(number: int) -> Expert:
            gate_up, down = memory[f"{self.name} {number}"]
            product = scales[number, "product"]
            return Expert(number=number, rows=routing.tokens_of(number)[0], gate_up=gate_up, down=down,
                          gate=scales[x] * scales[number, "gate"], up=scales[x] * scales[number, "up"],
                          product=product, weigh=product * scales[number, "down"],
                          activation=op.activation(number), on_input=op.on_input,
                          biases=memory[f"{self.name} {number} biases"] if op.biases else None)

        data = GroupedData(x=memory[x], weights=memory[weights], one_hot=memory[f"{self.name} one-hot"],
                           zeros=memory[f"{self.name} zeros"], slots=memory[slots_key(self.node)],
                           columns=self.problems[1].n, rule=self.layer.numerics.scale_rule,
                           products=memory.get(f"{self.name} products"))
        first, second = (job.schedule[part] for part in self._parts)
        Grouped(job.emitter, self.problems, (first, second), [expert(e) for e in routing.active], data,
                self.place(job.schedule)).emit()


@dataclass(kw_only=True, eq=False)
class FromSlots(GatherAddStep):
    """out[row] = the sum of the row's slots, in the order of their experts, after a row of ``base`` where there is one:
    a value in FP32."""

    unquantized = True

    base: str | None = None

    @cached_property
    def kernel(self) -> GatherAdd:
        rows, hidden = self.layer.shape(self.makes)
        return GatherAdd(name=self.name, rows=rows, columns=hidden, terms=routing_of(self.layer).chosen.shape[1])

    def emit(self, job: Job) -> None:
        memory, layer = job.memory, self.layer
        self.kernel.emit(job.emitter, job.schedule[self.name], row_slots(routing_of(layer)),
                         memory[slots_key(self.node)], memory[layer.floats_key(self.makes)], self.place(job.schedule),
                         None if self.base is None else memory[layer.floats_key(self.base)])


def ragged(routing: Routing) -> bool:
    """Have some rows fewer experts than others, so that there is a further slot, with zeros?"""
    return bool((routing.chosen < 0).any())


def row_slots(routing: Routing) -> np.ndarray:
    """(T, k) slot numbers of every row, in ascending order of its experts, then that of the slot with zeros."""
    slot_of = np.full(routing.chosen.shape, routing.pairs, np.int64)
    first = 0
    for expert in routing.active:
        tokens, ranks = routing.tokens_of(expert)
        slot_of[tokens, ranks] = first + np.arange(len(tokens))
        first += len(tokens)
    return np.sort(slot_of, axis=1)


def padded(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``values`` with zeros behind its rows and columns, itself if it has the shape."""
    return values if values.shape == shape else np.pad(values, [(0, n - m) for m, n in zip(values.shape, shape,
                                                                                         strict=True)])


def alternate(sides: list[np.ndarray], cols: int) -> np.ndarray:
    """Blocks of ``cols`` rows of each array in turn."""
    width, size = sides[0].shape
    tiles = [side.reshape(width // cols, cols, size) for side in sides]
    return np.stack(tiles, axis=1).reshape(len(sides) * width, size)
