"""Attention nodes: the flash kernel over the caches of keys and values that the projections fill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..auto import flash_schedule
from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..graph.ir import Node, Slot
from ..graph.ops.attention import Attention
from ..graph.ops.split_attention import SplitAttention
from ..kernels.flash import Flash, Outputs, Shared, SubTile
from ..kernels.flash_place import FlashPlacement, FlashProblem, key_unit
from ..kernels.softmax import OnlineSoftmax, capped_scale
from ..operands import place_operand
from ..schedule import FlashSchedule, KernelSchedule, Schedule
from ..tiles.buffers import align
from ..tiles.expr import Imm
from .head_sizes import blocked_head, mixed_head
from .latent import turned_key
from .ports import CORES, Ports
from .steps import Job, Stage, Step

if TYPE_CHECKING:
    from ..layers import Workload
    from ..masks import Sequences


@dataclass(kw_only=True, eq=False)
class Core(Step):
    """softmax(q k^T) v of every sequence and head."""

    node: Node

    @property
    def _op(self) -> Attention | SplitAttention:
        assert isinstance(self.node.op, CORES)
        return self.node.op

    @cached_property
    def ports(self) -> Ports:
        return Ports.of(self.layer.graph, self.node)

    @property
    def _sink(self) -> str | None:
        return self.node.inputs[5] if isinstance(self._op, Attention) and self._op.sink else None

    @property
    def _cap(self) -> float | None:
        return self._op.cap if isinstance(self._op, Attention) else None

    @property
    def _heads(self) -> tuple[int, int, int]:
        """Heads of queries and of keys, features of an output's."""
        return self.layer.shape(self.ports.queries[0])[1], self.ports.kv_heads, self.ports.value_width

    @cached_property
    def problem(self) -> FlashProblem:
        workload, formats = self._op.workload, self.layer.numerics.formats
        heads, kv_heads, size = self._heads
        group, one_token = heads // kv_heads, workload.tokens == 1
        return FlashProblem(
            name=self.name, rows=group if one_token else workload.tokens, heads=1 if one_token else group,
            keys=workload.keys, width=self.ports.width, value_width=size, block=self.layer.numerics.softmax_block,
            stored=blocked_head(size, formats) if formats.activations.scaled else size,
            query=self.layer.format(Slot.QUERY), kv=formats.kv, out=formats.activations,
            capped=self._cap is not None)

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: FlashSchedule}

    def place(self, schedule: Schedule) -> FlashPlacement:
        return FlashPlacement(self.layer.config, self.problem, schedule[self.name])

    def unit(self, kernel: str, key: str) -> int:
        return key_unit(self.layer.config) if key == "kv_tile" else 1

    def choose(self) -> dict[str, KernelSchedule]:
        return {self.name: flash_schedule(self.problem, self.layer.config)}

    @property
    def _step(self) -> int:
        """Elements from head to head in a row of outputs."""
        return mixed_head(self._heads[2], self.layer.config.bus_bytes, self.layer.numerics.formats)

    def ask(self, job: Job) -> None:
        rows, heads, _ = self.layer.shape(self.makes)
        k = self.layer.padded(self.makes, heads * self._step)
        job.ask(Stage.RESULTS, self.makes, lambda builder: place_operand(
            builder, self.makes, rows, k, self.problem.out, None))
        if name := self._sink:
            job.ask(Stage.VECTORS, name, lambda builder: self._sinks(builder, job, name))

    def _sinks(self, builder: ProgramBuilder, job: Job, name: str) -> Matrix:
        """In units of log2, a row per sub-tile of other heads, a value per row of it."""
        heads, kv_heads, _ = self._heads
        rows, one_token = min(job.schedule[self.name].q_rows, self.problem.rows), self._op.workload.tokens == 1
        width = align(rows, builder.config.cols)

        def fill() -> np.ndarray:
            sinks = np.asarray(getattr(job.tensors, name), np.float64) * math.log2(math.e)
            if self._cap is not None:
                sinks += capped_scale(self._cap) / 2
            if not one_token:
                return np.tile(sinks[:, None], (1, width)).astype(np.float32)
            grouped = sinks.reshape(kv_heads, -1)
            padded = np.pad(grouped, ((0, 0), (0, -grouped.shape[1] % rows))).reshape(-1, rows)
            return np.pad(padded, ((0, 0), (0, width - rows))).astype(np.float32)

        count = kv_heads * -(-heads // kv_heads // rows) if one_token else heads
        return float_matrix(builder, name, count, width, fill if job.tensors else None)

    def emit(self, job: Job) -> None:
        scales, (q, k, v) = job.scales, (self.ports.queries[0], self.ports.keys[0], self.ports.values)
        scaled = self.problem.out.scaled
        softmax = OnlineSoftmax(scale=scales[q] * scales[k] * self._op.scale * math.log2(math.e),
                                result_scale=scales[v] if scaled else scales[v] / scales[self.makes],
                                sink=self._sink is not None, unseen=self._op.workload.key_mask.bounded, cap=self._cap)
        outputs = Outputs(target=job.memory[self.makes], step=self._step, rule=self.layer.numerics.scale_rule,
                          relative_to=Imm(scales[self.makes]) if scaled else None,
                          sinks=job.memory[self._sink] if self._sink else None)
        schedule, mask = job.schedule[self.name], self._op.workload.key_mask
        kernel = Flash(job.emitter, self.problem, schedule, self.place(job.schedule), mask, softmax, outputs)
        kernel.emit(self._shared(job, schedule.q_rows))

    def _shared(self, job: Job, q_rows: int) -> Iterator[Shared]:
        """Every sequence, every head of keys."""
        heads, kv_heads, size = self._heads
        q, k = (job.memory[names[0]] for names in (self.ports.queries, self.ports.keys))
        v = job.memory[turned_key(self.ports.values) if self.ports.shared else self.ports.values]
        pitch = align(self.ports.width, self.layer.config.bus_bytes)
        for sequence in range(self._op.workload.batch):
            for head in range(kv_heads):
                yield Shared(tiles=sub_tiles(self._op.workload, q, pitch, q_rows, sequence, head, heads // kv_heads),
                             k=k[sequence][head], v=v[sequence], v_row=head * size)


def sub_tiles(workload: Workload | Sequences, q: Matrix, head_bytes: int, q_rows: int, sequence: int, kv_head: int,
              group: int) -> list[SubTile]:
    """All sub-tiles of one sequence and of the ``group`` heads of one head of keys, early tokens first."""
    heads = range(kv_head * group, (kv_head + 1) * group)
    if workload.tokens == 1:
        byte = heads[0] * head_bytes
        rows = Matrix(q.at(sequence, byte), group, head_bytes, head_bytes)
        starts = range(0, group, q_rows)
        return [SubTile(q=rows, first_row=r, byte=0, row=sequence, head=heads[0] + r, rows=min(q_rows, group - r),
                        position=workload.cached, step=0, sink=kv_head * len(starts) + number)
                for number, r in enumerate(starts)]
    tiles, token = [], 0
    while token < workload.tokens:
        position = workload.cached + token
        rows = workload.key_mask.together(position, min(q_rows, workload.tokens - token))
        first = sequence * workload.tokens + token
        tiles += [SubTile(q=q, first_row=first, byte=head * head_bytes, row=first, head=head, rows=rows,
                          position=position, step=1, sink=head) for head in heads]
        token += rows
    return tiles
