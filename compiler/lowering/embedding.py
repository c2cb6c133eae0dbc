"""Embedding nodes: rows of a table in DRAM, FP32, gathered by an index list, times a factor.

The table stays FP32: a GATHER into the accumulator buffer moves rows as they are, and the residual stream is FP32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..dram import float_matrix
from ..graph.ops.embed import Embed, token_ids
from ..kernels.gather_add import GatherAdd
from .gathered import GatherAddStep
from .steps import Job, Stage


@dataclass(kw_only=True, eq=False)
class ToEmbedding(GatherAddStep):
    """node: the Embed."""

    @cached_property
    def kernel(self) -> GatherAdd:
        assert isinstance(self.node.op, Embed)
        rows, columns = self.layer.shape(self.makes)
        return GatherAdd(name=self.name, rows=rows, columns=columns, terms=1, scale=self.node.op.scale)

    def ask(self, job: Job) -> None:
        table, tensors, layer = self.node.inputs[1], job.tensors, self.layer
        entries, columns = layer.shape(table)
        job.ask(Stage.WEIGHTS, table, lambda builder: float_matrix(
            builder, table, entries, columns, (lambda: getattr(tensors, table)) if tensors else None))
        super().ask(job)

    def emit(self, job: Job) -> None:
        ids, table = self.node.inputs
        rows = np.zeros(self.kernel.rows, np.int64) if job.tensors is None else token_ids(
            getattr(job.tensors, ids), self.layer.shape(table)[0])
        self.kernel.emit(job.emitter, job.schedule[self.name], rows[:, None], job.memory[table],
                         job.memory[self.layer.floats_key(self.makes)], self.place(job.schedule))
