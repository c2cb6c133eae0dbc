"""Linear nodes that make values, transposed.

The operands are exchanged: the weight's rows are the result's rows, so that the second matmul of the core finds its k
(the keys) contiguous and no transposer is needed.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..builder import ProgramBuilder
from ..dram import Matrix, code_matrix
from ..graph.ir import Node, Role, Slot
from ..kernels.bias import RowBias, row_bias_buffer, row_vectors
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..kernels.heads import stage_pitch
from ..operands import MakeStored, Operand, place_operand, place_scales
from ..quantize import store
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer
from ..tiles.expr import Assign, Codes, Elem
from .kv_layout import row_segments
from .ports import Ports, workload_of
from .projections import Projection
from .steps import Job, Stage, scales_key


@dataclass(kw_only=True, eq=False)
class ToValues(Projection):
    """Values, transposed: rows are features, columns are tokens. core: reads them."""

    cache_suffix: ClassVar[str] = ""

    core: Node

    @property
    def ports(self) -> Ports:
        return Ports.of(self.layer.graph, self.core)

    @cached_property
    def problem(self) -> GemmProblem:
        rows, hidden = self.layer.shape(self.x)
        _, heads, size = self.layer.shape(self.makes)
        return GemmProblem(name=self.name, m=heads * size, n=rows,
                           k=self.layer.padded(self.x, hidden), layer_k=hidden, cut=True,
                           a=self.layer.format(Slot.TURNED_WEIGHTS), b=self.layer.numerics.formats.activations)

    def ask(self, job: Job) -> None:
        problem, layer, schedule = self.problem, self.layer, job.schedule[self.name]
        if self.bias is not None:
            job.ask(Stage.VECTORS, self.bias, lambda builder: self._bias_matrix(builder, job))
        layer.ask_input(job, self.x, problem.k)
        if problem.b.scaled:
            make = layer.stored(job, self.x, problem.b)
            scales = (lambda: make().scales) if make else None
            job.ask(Stage.OTHER_FORMS, self._scales, lambda builder: place_scales(
                builder, self._scales, problem.n, problem.k, problem.b, scales,
                chunk=schedule.k_tile, packed=layer.graph.values[self.x].role is Role.INPUT))
        job.ask(Stage.WEIGHTS, self.held_weight, lambda builder: place_operand(
            builder, self.held_weight, problem.m, problem.k, problem.a, self._weights(job),
            chunk=problem.k if schedule.a_resident else schedule.k_tile))
        self.ask_caches(job)

    def _weights(self, job: Job) -> MakeStored | None:
        weight = self.layer.stored(job, self.weight, self.problem.a, square=True)
        return (lambda: self.own(weight())) if weight is not None else None

    def epilogue_buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        added = [row_bias_buffer(self.layer.config, self.problem.rows(schedule))] if self.bias else []
        return [*super().epilogue_buffers(schedule), *added]

    def _bias_matrix(self, builder: ProgramBuilder, job: Job) -> Matrix:
        """The bias, a row per block of rows of the result."""
        name, tensors = self.bias, job.tensors
        assert name is not None
        return row_vectors(builder, name, getattr(tensors, name) if tensors else self.problem.m,
                           self.problem.rows(job.schedule[self.name]))

    @property
    def _scales(self) -> str:
        """The block scales of x, cut as this GEMM loads them."""
        return scales_key(self.x, self.node.output)

    def ask_caches(self, job: Job) -> None:
        """Ask for the values of all sequences."""
        job.ask(Stage.RESULTS, self.makes, lambda builder: self._caches(builder, job))

    def _caches(self, builder: ProgramBuilder, job: Job) -> tuple[Matrix, ...]:
        """(heads * head_dim, keys) of each sequence, keys padded with zero codes; old ones from the cache."""
        workload, tensors, kv = workload_of(self.core), job.tensors, self.layer.format(Slot.KV)
        name, (_, heads, size) = self.ports.value_cache, self.layer.shape(self.ports.values)

        def cache(sequence: int) -> Matrix:
            def fill() -> np.ndarray:
                rows = np.zeros((heads, size, workload.keys), np.uint8)
                assert name is not None
                flat = getattr(tensors, name)[sequence].reshape(-1, size)
                codes = store(flat, kv, job.scales[self.ports.values]).codes
                rows[:, :, :old] = codes.reshape(heads, old, size).transpose(0, 2, 1)
                return rows.reshape(heads * size, workload.keys)
            return code_matrix(builder, f"{name or self.makes}.{sequence}{self.cache_suffix}", heads * size,
                               workload.keys, fill if tensors and old else None)

        old = self.ports.old
        return tuple(cache(s) for s in range(workload.batch))

    def emit(self, job: Job) -> None:
        memory, schedule, workload, emitter = job.memory, job.schedule[self.name], workload_of(self.core), job.emitter
        config, regions, caches = emitter.config, self.place(job.schedule), memory[self.makes]
        stages, quant = regions["staged results"], self.layer.format(Slot.KV).quant
        old, (dequant, out) = self.ports.old, self.factors(job)
        bias = RowBias(emitter, regions, memory[self.bias], self.name, self.problem.rows(schedule)) \
            if self.bias else None

        def finish(group: Group) -> None:
            stage, pitch = stages[group.index % len(stages)], stage_pitch(config, group.tiles)
            codes = Codes(addr=stage, pitch=pitch, quant=quant)
            statement = Assign(to=codes, value=Elem(group.addr), scale=dequant / out, label="quantize v")
            if bias is not None:
                statement = Assign(to=codes, value=Elem(group.addr) * dequant + bias.load(group), scale=1 / out,
                                   label="add bias, quantize v")
            emitter.compute(group.shape, statement)
            columns = min(group.tiles * config.cols, self.problem.n - group.n0)
            for sequence, token, at, count in row_segments(workload.keys - old, group.n0, columns):
                emitter.store_codes(caches[sequence], first_row=group.m0, rows=group.rows,
                                    first_byte=old + token, row_bytes=count, addr=stage, pitch=pitch,
                                    src_byte=at, label="store v")

        def moves(group: Group) -> tuple[Hashable, list[int]]:
            columns = min(group.tiles * config.cols, self.problem.n - group.n0)
            segments = row_segments(workload.keys - old, group.n0, columns)
            turn, added = bias.moves(group) if bias is not None else ((), [])
            return (group.index % len(stages), turn, *(segment[2:] for segment in segments)), [
                *(caches[sequence].at(group.m0, old + token) for sequence, token, _, _ in segments), *added]

        emit_gemm(emitter, self.problem, schedule, *self.operands(job), regions, finish, moves)

    def operands(self, job: Job) -> tuple[Operand, Operand]:
        """The weight and x."""
        return job.memory[self.held_weight], replace(job.memory[self.x], scales=job.memory.get(self._scales))

    def factors(self, job: Job) -> tuple[float, float]:
        """What a result is multiplied with, and the factor of the codes it becomes."""
        return job.scales[self.x] * job.scales[self.weight], job.scales[self.makes]
