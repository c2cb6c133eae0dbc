"""Steps that add gathered rows: what those of experts' results and of embeddings share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..auto import gather_add_schedule
from ..dram import float_matrix
from ..graph.ir import Node
from ..kernels.gather_add import GatherAdd
from ..schedule import GatherAddSchedule, KernelSchedule, Schedule
from ..tiles.buffers import place
from .steps import Job, Stage, Step


@dataclass(kw_only=True, eq=False)
class GatherAddStep(Step):
    """A `GatherAdd` whose result is FP32 rows."""

    node: Node

    @property
    def kernel(self) -> GatherAdd:
        raise NotImplementedError

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: GatherAddSchedule}

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        config = self.layer.config
        return place(self.kernel.buffers(config, schedule[self.name]), config, self.name)

    def choose(self) -> dict[str, KernelSchedule]:
        return {self.name: gather_add_schedule(self.kernel, self.layer.config)}

    def ask(self, job: Job) -> None:
        job.ask(Stage.RESULTS, self.layer.floats_key(self.makes), lambda builder: float_matrix(
            builder, self.layer.floats_key(self.makes), self.kernel.rows, self.layer.columns(self.makes)))
