"""Gated feed-forward nodes: gate and up in one GEMM, whose epilogue makes codes of their product.

Without a gate there is one matrix, and the product is its activation.

Rows of both weights alternate by column tile in DRAM, so that each group of results holds the operands of a product.
The product goes through DRAM: it may be too wide for buffer A, and the second GEMM then has row blocks of its own.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...rtl.spec.errors import CompileError, DoesNotFit
from ..auto_gemm import GROUP_BYTES, apart_or_packed, gemm_schedule
from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..graph.ir import Node
from ..graph.ops.gate import Activate, Gate
from ..kernels.bias import ColumnBias, column_bias_buffer
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..kernels.grouped import gated_product, product_tiles
from ..kernels.heads import stage_banks
from ..operands import k_unit, place_operand
from ..quantize import StoredTensor
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..stored_weight import first_columns, weight_tensor
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Codes, Imm
from .experts import alternate, padded, padded_width
from .steps import Job, Stage, Step


@dataclass(kw_only=True, eq=False)
class ToProduct(Step):
    """gate, up: the Linears, of one x; up: None without a gate. product: the node of their product."""

    gate: Node
    up: Node | None
    product: Node

    @property
    def sides(self) -> tuple[Node, ...]:
        return (self.gate,) if self.up is None else (self.gate, self.up)

    @property
    def _count(self) -> int:
        return len(self.sides)

    @property
    def biases(self) -> tuple[str, ...]:
        """Of each side; none if they have none."""
        return tuple(name for node in self.sides for name in node.inputs[2:])

    @property
    def x(self) -> str:
        return self.gate.inputs[0]

    @cached_property
    def problem(self) -> GemmProblem:
        rows, hidden = self.layer.shape(self.x)
        formats, width = self.layer.numerics.formats, padded_width(self.layer.shape(self.makes)[1], self.layer)
        return GemmProblem(name=self.name, m=rows, n=self._count * width, k=self.layer.padded(self.x, hidden),
                           layer_k=hidden, a=formats.activations, b=formats.weights)

    @property
    def _pair(self) -> int:
        """Column tiles whose products are whole blocks and bus beats."""
        config, x = self.layer.config, self.problem.a
        return self._count * max(product_tiles(config, x), config.bus_bytes * 8 // x.bits // config.cols)

    @property
    def _both(self) -> str:
        """The operand with the weights of gate and up."""
        return " and ".join(node.inputs[1] for node in self.sides)

    @property
    def _stored_k(self) -> int:
        """Elements of a row of products."""
        return self.layer.padded(self.makes, self.layer.shape(self.makes)[1])

    def _stage_pitch(self, tiles: int) -> int:
        config = self.layer.config
        row_bytes = self.problem.a.bytes_of(tiles // self._count * config.cols)
        return align(row_bytes, max(config.a_word_bytes, config.bus_bytes)) // config.lanes

    def buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        config, problem = self.layer.config, self.problem
        rows, tiles = problem.rows(schedule), min(schedule.group_tiles, problem.n // config.cols)
        keys, panels = "group_tiles of m_tile rows", -(-rows // config.rows)
        biases = [column_bias_buffer(config, problem, schedule)] if self.biases else []
        return problem.buffers(schedule, config, [
            *biases, Buffer(name="gated values", memory=Memory.ACC, sizes=(tiles * rows,), keys=keys,
                            beside=frozenset({f"{problem.name} result group"})),
            Buffer(name="staged products", memory=Memory.A, sizes=(panels * self._stage_pitch(schedule.group_tiles),),
                   most=2, keys=keys)])

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        return place(self.buffers(schedule[self.name]), self.layer.config, self.name)

    def unit(self, kernel: str, key: str) -> int:
        if key == "k_tile":
            return k_unit(self.layer.config, self.problem.a, self.problem.b)
        return self._pair if key == "group_tiles" else 1

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: GemmSchedule}

    def choose(self) -> dict[str, KernelSchedule]:
        config, pair, problem = self.layer.config, self._pair, self.problem
        wanted = align(self._count * GROUP_BYTES // (4 * config.cols), pair)
        size = max(pair, min(wanted, align(problem.n // config.cols, pair)))

        def chosen(packed: bool, size: int = size) -> GemmSchedule:
            while True:
                try:
                    return gemm_schedule(config, problem, self.name, self.buffers, group_tiles=size, packed=packed,
                                         stage=lambda rows, tiles: stage_banks(config, rows, tiles // self._count))
                except DoesNotFit:
                    if size == pair:
                        raise
                    size = max(pair, align(size // 2, pair))

        return {self.name: apart_or_packed(chosen)}

    def ask(self, job: Job) -> None:
        layer, problem, k_tile = self.layer, self.problem, job.schedule[self.name].k_tile
        layer.ask_input(job, self.x, problem.k)
        job.ask(Stage.WEIGHTS, self._both, lambda builder: place_operand(
            builder, self._both, problem.n, problem.k, problem.b, self._weights(job), chunk=k_tile, packed=True))
        if self.biases:
            job.ask(Stage.VECTORS, f"{self.name} biases", lambda builder: self._bias_matrix(builder, job))
        job.ask(Stage.RESULTS, self.makes, lambda builder: place_operand(
            builder, self.makes, problem.m, self._stored_k, problem.a, None))

    def _bias_matrix(self, builder: ProgramBuilder, job: Job) -> Matrix:
        """A row per column tile, those of gate and up in turn."""
        cols, width = self.layer.config.cols, self.problem.n // self._count

        def make() -> np.ndarray:
            vectors = [padded(getattr(job.tensors, name)[:, None], (width, 1)) for name in self.biases]
            return alternate(vectors, cols).reshape(-1, cols)

        return float_matrix(builder, f"{self.name} biases", self.problem.n // cols, cols,
                            make if job.tensors is not None else None)

    def _weights(self, job: Job):
        """What makes blocks of ``cols`` gate rows and ``cols`` up rows in turn; None without tensors."""
        problem, tensors = self.problem, job.tensors
        if tensors is None:
            return None

        def make() -> StoredTensor:
            names = [node.inputs[1] for node in self.sides]
            rows, columns = problem.n // len(names), first_columns(tensors.weight(names[0]).shape[1], problem.layer_k)
            sides = [weight_tensor(tensors, name, problem.b, job.scales[name], self.layer.numerics.scale_rule,
                                   rows=rows, columns=columns) for name in names]
            return StoredTensor(*(alternate([getattr(side, part) for side in sides], self.layer.config.cols)
                                  for part in ("codes", "scales")))

        return make

    def emit(self, job: Job) -> None:
        emitter, schedule, memory, scales = job.emitter, job.schedule[self.name], job.memory, job.scales
        config, regions, target = emitter.config, self.place(job.schedule), memory[self.makes]
        if schedule.group_tiles % self._pair:
            raise CompileError(f"{self.name}: group_tiles must be a multiple of {self._pair}, pairs of column tiles "
                               f"whose products fill bus beats, rows of buffer A and blocks of {target.format.name}, "
                               f"got {schedule.group_tiles}")
        assert isinstance(self.product.op, Gate | Activate)
        activation, count = self.product.op.activation, self._count
        stages, (gated,), own = regions["staged products"], regions["gated values"], scales[self.makes]
        factors = [scales[self.x] * scales[node.inputs[1]] for node in self.sides]
        bias = ColumnBias(emitter, regions, memory[f"{self.name} biases"], self.name) if self.biases else None
        gate, up = [*([1.0] * count if bias else factors), None][:2]
        assert gate is not None

        def finish(group: Group) -> None:
            if bias is not None:
                bias.add(group, *factors)
            stage, pitch = stages[group.index % len(stages)], self._stage_pitch(schedule.group_tiles)
            codes = Codes(addr=stage, pitch=pitch, quant=target.format.quant,
                          scale_rule=self.layer.numerics.scale_rule,
                          relative_to=Imm(own) if target.format.scaled else None)
            gated_product(emitter, group, gated, codes, gate=gate, up=up, product=own, activation=activation)
            k0 = group.n0 // count
            size = min(group.tiles // count * config.cols, target.k - k0)
            if size > 0:
                emitter.store_operand(target, first_row=group.m0, rows=group.rows, k0=k0, size=size, addr=stage,
                                      pitch=pitch, label="store products")

        def moves(group: Group) -> tuple[Hashable, list[int]]:
            k0 = group.n0 // 2
            return (group.index % len(stages), min(group.tiles // 2 * config.cols, target.k - k0)), target.anchors(
                group.m0, k0)

        emit_gemm(emitter, self.problem, schedule, memory[self.x], memory[self._both], regions, finish, moves)
