"""Steps of latent attention: products with a matrix per head, and keys that are values too, transposed.

Values are read by the second matmul of the core with keys contiguous, keys by the first with features contiguous, and
no unit of the tile transposes. Latents that are both are therefore stored in both layouts, with the same codes: new
ones are turned by a product with the identity matrix, which is exact.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, product
from math import lcm

import numpy as np

from ...rtl.spec.errors import CompileError, DoesNotFit
from ...rtl.spec.isa import Space
from ...rtl.spec.tensor_formats import TensorFormat
from ..auto_gemm import gemm_schedule
from ..candidates import first_that
from ..graph.ir import Node, Slot
from ..graph.ops.head_linear import HeadLinear
from ..kernels.gemm import Epilogue, Gemm, GemmProblem, Group, Moves, Resident
from ..kernels.heads import stage_pitch
from ..operands import Operand, k_unit, place_operand
from ..quantize import StoredTensor, store
from ..schedule import GemmSchedule, KernelSchedule
from ..tiles.buffers import Buffer, align
from ..tiles.expr import Assign, Codes, Elem, Imm
from .head_sizes import mixed_head
from .kv_layout import ask_queries, rows_key
from .ports import Ports
from .projections import Projection
from .steps import Job, Stage
from .values import ToValues

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
    """A HeadLinear: a GEMM per head, of rows of x that are loaded for many heads at once. core: reads what it makes as
    a part of its queries, or None."""

    core: Node | None

    def __post_init__(self) -> None:
        assert isinstance(self.node.op, HeadLinear)
        self.op = self.node.op
        unit, block = k_unit(self.layer.config, self.problem.a, self.problem.b), self._to.block or 1
        if self._pitch % unit or self.problem.n % block:
            raise CompileError(f"{self.name}: heads of {self._k} features must be multiples of {unit} on tile "
                               f"{self.layer.config.name} in format {self.problem.a.name}, and results of "
                               f"{self.problem.n} of {block}")

    @property
    def _to(self) -> TensorFormat:
        """The format of the result."""
        return self.layer.format(Slot.QUERY) if self.core is not None else self.layer.numerics.formats.activations

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

    def _row_groups(self, heads: int) -> int:
        """Groups between panels of rows of so many heads."""
        config = self.layer.config
        return align(self.problem.a.bytes_of(heads * self._pitch), max(config.bus_bytes, config.a_word_bytes)
                     ) // config.lanes

    def _at_once(self, schedule: GemmSchedule) -> int:
        """Heads of x that are loaded together: whose scales fill bus beats, and as many as half of buffer A holds."""
        config, own = self.layer.config, max(1, self.problem.a.scale_bytes_of(self._pitch))
        unit = lcm(own, config.bus_bytes) // own if self.problem.a.scaled else 1
        panels, room = self._panels(schedule), config.a_banks * config.a_bank_groups // 2
        most = first_that(range(-(-self.op.heads // unit), 0, -1),
                          lambda count: panels * self._row_groups(count * unit) <= room)
        return min(self.op.heads, unit * (most or 1))

    def _panels(self, schedule: GemmSchedule) -> int:
        return -(-self.problem.rows(schedule) // self.layer.config.rows)

    def buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        size = self._panels(schedule) * self._row_groups(self._at_once(schedule))
        return [replace(buffer, sizes=(size,), most=2) if buffer.name == self._block else buffer
                for buffer in super().buffers(schedule)]

    @property
    def _block(self) -> str:
        return f"{self.name} A block"

    def choose(self) -> dict[str, KernelSchedule]:
        config, problem = self.layer.config, self.problem
        whole = -(-problem.n // config.cols) if self._to.scaled else None  # blocks of results lie in one group
        found = gemm_schedule(config, problem, self.purpose, self.buffers, stage=self._stage, group_tiles=whole)
        self._check(found)
        return {self.name: found}

    def _check(self, schedule: GemmSchedule) -> None:
        if not schedule.a_resident:
            raise DoesNotFit(f"{self.purpose}: buffer A of tile {self.layer.config.name} does not hold "
                             f"{schedule.m_tile} rows of {self.op.heads} heads of {self._k} features")

    def emit(self, job: Job) -> None:
        schedule, emitter, problem, x = job.schedule[self.name], job.emitter, self.problem, job.memory[self.x]
        self._check(schedule)
        regions, weight = self.place(job.schedule), job.memory[self.held_weight]
        gemm, rows, heads = Gemm(emitter, problem, schedule, regions), problem.rows(schedule), self._at_once(schedule)
        step, slots = problem.a.bytes_of(self._pitch) // emitter.config.lanes, cycle(regions[self._block])
        for m0, first in product(range(0, problem.m, rows), range(0, self.op.heads, heads)):
            addr, count, some = next(slots), min(rows, problem.m - m0), min(heads, self.op.heads - first)
            pitch = self._row_groups(some)
            emitter.load_piece(Space.A, self._heads(x, first, some), first_row=m0, rows=count, addr=addr, pitch=pitch,
                               label=f"{self.name} a m{m0} h{first}")
            for head in range(first, first + some):
                finish, moves = self._epilogue(job, regions["staged results"], head)
                gemm.block(m0=m0, rows=count, a=Resident(addr + (head - first) * step, pitch),
                           b=self._head(weight, head), epilogue=finish, moves=moves)

    def _heads(self, x: Operand, first: int, count: int) -> Operand:
        """x of some heads."""
        k0, k = first * self._pitch, count * self._pitch
        matrix = replace(x.matrix, addr=x.matrix.at(0, x.format.bytes_of(k0)), row_bytes=x.format.bytes_of(k))
        scales = x.scales and replace(x.scales, addr=x.scales.addr + x.format.scale_bytes_of(k0), chunk=k)
        return Operand(matrix, k, x.format, scales)

    def _epilogue(self, job: Job, stages: list[int], head: int) -> tuple[Epilogue, Moves]:
        """Quantizes and stores results of one head."""
        emitter, problem, scales, to, first = job.emitter, self.problem, job.scales, self._to, head * self._step
        name = self.makes
        if self.core is not None:
            ports = Ports.of(self.layer.graph, self.core)
            name = ports.tensor(self.makes)
            first += ports.offset(self.makes)
        held = job.memory[name]
        target = held if isinstance(held, Operand) else Operand(held, held.row_bytes, to)
        factor = scales[self.x] * scales[self.held_weight] / (1.0 if to.scaled else scales[name])
        relative = Imm(scales[name]) if to.scaled else None

        def finish(group: Group) -> None:
            stage, pitch = stages[group.index % len(stages)], stage_pitch(emitter.config, group.tiles)
            codes = Codes(addr=stage, pitch=pitch, quant=to.quant, scale_rule=self.layer.numerics.scale_rule,
                          relative_to=relative)
            emitter.compute(group.shape, Assign(to=codes, value=Elem(group.addr), scale=factor, label="quantize"))
            emitter.store_operand(target, first_row=group.m0, rows=group.rows, k0=first + group.n0,
                                  size=min(group.tiles * emitter.config.cols, problem.n - group.n0), addr=stage,
                                  pitch=pitch, label="store heads")

        def moves(group: Group) -> tuple[Hashable, list[int]]:
            return group.index % len(stages), target.anchors(group.m0, first + group.n0)

        return finish, moves

    def _head(self, weight: Operand, head: int) -> Operand:
        """The matrix of one head."""
        first, matrix = head * self._rows, weight.matrix
        scales = weight.scales and replace(weight.scales, addr=weight.scales.addr + first * weight.scales.stride)
        return Operand(replace(matrix, addr=matrix.at(first), rows=self._rows), weight.k, weight.format, scales)


