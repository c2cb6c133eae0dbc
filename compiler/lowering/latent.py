"""Steps of latent attention: products with a matrix per head, and keys that are values too, transposed.

Values are read by the second matmul of the core with keys contiguous, keys by the first with features contiguous, and
no unit of the tile transposes. Latents that are both are therefore stored in both layouts, with the same codes: new
ones are turned by a product with the identity matrix, which is exact.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...rtl.spec.errors import CompileError
from ..dram import Matrix
from ..graph.ir import Node, Slot
from ..graph.ops.head_linear import HeadLinear
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..kernels.heads import stage_pitch
from ..operands import Operand, k_unit, place_operand
from ..quantize import StoredTensor, store
from ..tiles.buffers import align
from ..tiles.expr import Assign, Codes, Elem
from .head_sizes import mixed_head
from .ports import Ports
from .projections import Projection, ToValues, ask_queries, rows_key
from .steps import Job, Stage

IDENTITY = "identity of latents"


def turned_key(part: str) -> str:
    """The operand with a part of the keys as values."""
    return f"{part} turned"


@dataclass(kw_only=True, eq=False)
class Turned(ToValues):
    """Values of new tokens that are keys already: node is the one that makes these."""

    cache_suffix = " turned"

    @property
    def bias(self) -> str | None:
        return None

    @cached_property
    def problem(self) -> GemmProblem:
        rows, _, size = self.layer.shape(self.ports.values)
        query, kv = self.layer.format(Slot.QUERY), self.layer.format(Slot.KV)
        k = align(size, k_unit(self.layer.config, query, kv))
        return GemmProblem(name=self.name, m=size, n=rows, k=k, layer_k=size, a=query, b=kv)

    def ask(self, job: Job) -> None:
        problem = self.problem
        job.ask(Stage.TABLES, IDENTITY, lambda builder: place_operand(
            builder, IDENTITY, problem.m, problem.k, problem.a,
            lambda: store(np.eye(problem.m, dtype=np.float32), problem.a, 1.0)))
        self.ask_caches(job)

    def operands(self, job: Job) -> tuple[Operand, Operand]:
        return job.memory[IDENTITY], Operand(job.memory[rows_key(self.ports.values)], self.problem.k, self.problem.b)

    def factors(self, job: Job) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(kw_only=True, eq=False)
class PerHead(Projection):
    """A HeadLinear: a GEMM per head. core: reads what it makes as a part of its queries, or None."""

    core: Node | None

    def __post_init__(self) -> None:
        config, formats = self.layer.config, self.layer.numerics.formats
        assert isinstance(self.node.op, HeadLinear)
        self.op = self.node.op
        if formats.activations.scaled:
            raise CompileError(f"{self.name}: a product per head needs activations with one scale per tensor, got "
                               f"{formats.activations.name}")
        if self._pitch * self.op.heads != self.layer.padded(self.x, self._pitch * self.op.heads) or (
                self._pitch % config.bus_bytes):
            raise CompileError(f"{self.name}: heads of {self._k} features do not start on bus beats of "
                               f"{config.bus_bytes} bytes")

    @property
    def _k(self) -> int:
        return int(np.prod(self.layer.shape(self.x)[1:])) // self.op.heads

    @property
    def _pitch(self) -> int:
        """Elements from head to head of x: apart where the core makes them."""
        apart = len(self.layer.shape(self.x)) == 3
        return mixed_head(self._k, self.layer.config.bus_bytes, self.layer.numerics.formats) if apart else self._k

    @cached_property
    def problem(self) -> GemmProblem:
        formats, (rows, _, n) = self.layer.numerics.formats, self.layer.shape(self.makes)
        k = align(self._k, k_unit(self.layer.config, formats.activations, formats.weights))
        return GemmProblem(name=self.name, m=rows, n=n, k=k, layer_k=self._k, a=formats.activations, b=formats.weights)

    @property
    def _rows(self) -> int:
        """Rows of one head's matrix in DRAM."""
        return align(self.problem.n, self.layer.config.cols)

    @property
    def held_weight(self) -> str:
        return self.op.held(self.weight)

    def ask(self, job: Job) -> None:
        problem, layer, op = self.problem, self.layer, self.op

        def make() -> StoredTensor:
            matrices = op.matrices(np.asarray(getattr(job.tensors, self.weight), np.float32))
            flat = np.ascontiguousarray(matrices).reshape(-1, matrices.shape[2])
            held = store(flat, problem.b, job.scales[self.held_weight], layer.numerics.scale_rule, square=True)
            return StoredTensor(*(self._apart(part) for part in (held.codes, held.scales)))

        job.ask(Stage.WEIGHTS, self.held_weight, lambda builder: place_operand(
            builder, self.held_weight, op.heads * self._rows, problem.k, problem.b, make if job.tensors else None,
            chunk=job.schedule[self.name].k_tile, packed=True))
        if self.core is not None:
            ask_queries(job, layer, Ports.of(layer.graph, self.core))
        else:
            k = layer.padded(self.makes, op.heads * self._step)
            job.ask(Stage.RESULTS, self.makes, lambda builder: place_operand(
                builder, self.makes, problem.m, k, problem.a, None))

    def _apart(self, part: np.ndarray) -> np.ndarray:
        heads = part.reshape(self.op.heads, len(part) // self.op.heads, part.shape[1])
        apart = np.pad(heads, ((0, 0), (0, self._rows - heads.shape[1]), (0, 0)))
        return apart.reshape(self.op.heads * self._rows, part.shape[1])

    @property
    def _step(self) -> int:
        """Elements from head to head of the result."""
        if self.core is not None:
            return align(Ports.of(self.layer.graph, self.core).width, self.layer.config.bus_bytes)
        return mixed_head(self.problem.n, self.layer.config.bus_bytes, self.layer.numerics.formats)

    def emit(self, job: Job) -> None:
        memory, schedule, emitter, problem = job.memory, job.schedule[self.name], job.emitter, self.problem
        config, regions, scales = emitter.config, self.place(job.schedule), job.scales
        if self.core is not None:
            ports, quant = Ports.of(self.layer.graph, self.core), self.layer.format(Slot.QUERY).quant
            name, offset = ports.tensor(self.makes), ports.offset(self.makes)
            target: Matrix = memory[name]
        else:
            name, offset, quant, target = self.makes, 0, problem.a.quant, memory[self.makes].matrix
        factor = scales[self.x] * scales[self.held_weight] / scales[name]
        x, weight, stages = memory[self.x], memory[self.held_weight], regions["staged results"]
        for head in range(self.op.heads):
            def finish(group: Group, head: int = head) -> None:
                stage, pitch = stages[group.index % len(stages)], stage_pitch(config, group.tiles)
                emitter.compute(group.shape, Assign(to=Codes(addr=stage, pitch=pitch, quant=quant),
                                                    value=Elem(group.addr), scale=factor, label="quantize"))
                emitter.store_codes(target, first_row=group.m0, rows=group.rows,
                                    first_byte=head * self._step + offset + group.n0, addr=stage, pitch=pitch,
                                    row_bytes=min(group.tiles * config.cols, problem.n - group.n0), label="store heads")

            def moves(group: Group, head: int = head) -> tuple[Hashable, list[int]]:
                return group.index % len(stages), [target.at(group.m0, head * self._step + offset + group.n0)]

            a = Operand(replace(x.matrix, addr=x.matrix.at(0, head * self._pitch), row_bytes=problem.k), problem.k,
                        problem.a)
            emit_gemm(emitter, problem, schedule, a, self._head(weight, head), regions, finish, moves)

    def _head(self, weight: Operand, head: int) -> Operand:
        """The matrix of one head."""
        first, matrix = head * self._rows, weight.matrix
        scales = weight.scales and replace(weight.scales, addr=weight.scales.addr + first * weight.scales.stride)
        return Operand(replace(matrix, addr=matrix.at(first), rows=self._rows), weight.k, weight.format, scales)


