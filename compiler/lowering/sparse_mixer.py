"""The router of Phi-3.5-MoE: two softmaxes over sets of experts that are known before the program runs (`scoring`).

The sets are part of the choice (`routing.Routing.sets`), as which experts a token uses is. Tables of 0 and minus
infinity leave the others out, so that the second softmax is 0 for the first expert; a table of ones with a 0 for the
second expert takes it out of the first softmax before the two are added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..dispatch import chosen_pairs
from ..emitter import Emitter
from ..kernels.gemm import Group
from ..schedule import GemmSchedule
from ..tiles.buffers import Buffer
from ..tiles.expr import Assign, Elem, Reduction, Row, Shape, exp2, reciprocal
from .router import NEGATIVE_INFINITY, Load, ToWeights
from .steps import Job

FIRST, SECOND = "the router's bias", "the second softmax"
"""Regions of a group's softmaxes."""


@dataclass(kw_only=True, eq=False)
class ToMixedWeights(ToWeights):
    """Logits to combine weights of at most two experts per row."""

    def buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        found = super().buffers(schedule)
        first = next(buffer for buffer in found if buffer.name == FIRST)
        return [*found, replace(first, name=SECOND, beside=frozenset({FIRST, f"{self.problem.name} result group"}))]

    def tables(self, job: Job) -> dict[str, Callable[[], np.ndarray]]:
        return {"first set": lambda: self._set(0), "second set": lambda: self._set(1), "others": self._others}

    @property
    def _chosen(self) -> np.ndarray:
        """(rows, 2), -1 for none."""
        assert self.layer.routing is not None
        chosen = self.layer.routing.chosen
        if chosen.shape[1] > 2:
            raise CompileError(f"{self.name}: a sparse mixer weighs at most 2 experts per token, got a choice of "
                               f"{chosen.shape[1]}")
        return np.pad(chosen, ((0, 0), (0, 2 - chosen.shape[1])), constant_values=-1)

    def _set(self, number: int) -> np.ndarray:
        chosen, experts = self._chosen, self.layer.shape(self.linear.inputs[1])[0]
        assert self.layer.routing is not None
        sets, values = self.layer.routing.sets, np.full((self.problem.m, self.problem.n), NEGATIVE_INFINITY, np.float32)
        if sets is None or number >= sets.shape[1]:  # for timing, or of no expert: any that is not empty
            own = chosen_pairs(np.maximum(chosen[:, number:number + 1], 0), experts)
        else:
            own = sets[:, number]
        values[:, :experts] = np.where(own, np.float32(0), NEGATIVE_INFINITY)
        return values

    def _others(self) -> np.ndarray:
        """0 for the second expert of a row."""
        experts = self.layer.shape(self.linear.inputs[1])[0]
        values = np.ones((self.problem.m, self.problem.n), np.float32)
        values[:, :experts] -= chosen_pairs(self._chosen[:, 1:], experts)
        return values

    def weigh(self, emitter: Emitter, group: Group, factor: float, load: Load, regions: Mapping[str, list[int]],
              at: Mapping[str, int]) -> None:
        own, words = Elem(group.addr), Shape(rows=-(-group.rows // emitter.config.cols))
        scale = None if self.scoring.scale == 1 else self.scoring.scale
        parts = []
        for table, region in (("first set", FIRST), ("second set", SECOND)):
            part = load(table, regions[region][0])
            emitter.compute(group.shape, Assign(to=part, value=own * factor + part, label="logits",
                                                reduce=Reduction(Reduce.MAX, at["maxima"])))
            emitter.compute(group.shape, Assign(to=part, value=exp2(part - Row(at["maxima"])), label="exponentials",
                                                reduce=Reduction(Reduce.SUM, at["sums"])))
            emitter.compute(words, Assign(to=Elem(at["inverse sums"]), value=reciprocal(Elem(at["sums"])), scale=scale,
                                          label="1 / sum"))
            emitter.compute(group.shape, Assign(to=part, value=part * Row(at["inverse sums"]), label="softmax"))
            parts.append(part)
        others = load("others", group.addr)
        emitter.compute(group.shape, Assign(to=own, value=parts[0] * others + parts[1], label="combine weights"))
