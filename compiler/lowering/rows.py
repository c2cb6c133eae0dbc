"""Nodes over FP32 rows, residual sums and norms, and codes of rows that matmuls make, as rowwise kernels.

A sum and the norm that reads it are one step. What a step makes is written as its readers hold it: codes of
activations, E4M3 terms for a router, FP32 values for sums and norms, or as the layer's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..graph.evaluate import terms_key
from ..graph.ir import Node, Role, Slot
from ..graph.ops.add import Add
from ..graph.ops.layer_norm import LayerNorm, Norm
from ..kernels.rowwise import Rowwise, place_identity
from ..kernels.rowwise_place import TERM, CodesTarget, NormKind, NormRows, RowwiseProblem, rowwise_schedule, sum_unit
from ..schedule import KernelSchedule, RowwiseSchedule, Schedule
from .steps import Job, Stage, Step

IDENTITY, FEATURES = "identity matrix", "ones for features"


@dataclass(kw_only=True, eq=False)
class ToFormats(Step):
    """add, norm: the nodes; of both the norm reads the sum, which is in ``also``. Of neither: codes of FP32 rows."""

    add: Node | None = None
    norm: Node | None = None

    @property
    def _inputs(self) -> tuple[str, ...]:
        """Values that are loaded."""
        if self.add is not None:
            return self.add.inputs
        return (self.makes,) if self.norm is None else self.norm.inputs[:1]

    @cached_property
    def problem(self) -> RowwiseProblem:
        layer = self.layer
        rows, _ = layer.shape(self.makes)
        formats = [layer.numerics.formats.activations] if self._codes else []
        formats += [TERM] if self._terms and TERM not in formats else []
        return RowwiseProblem(name=self.name, rows=rows, columns=layer.columns(self.makes), inputs=len(self._inputs),
                              norm=self._kind, formats=tuple(formats), terms=self._terms, floats=self._floats)

    @property
    def _kind(self) -> NormKind | None:
        """Of the norm, None without one."""
        if self.norm is None:
            return None
        centered = isinstance(self.norm.op, LayerNorm)
        size = self.layer.shape(self.makes)[-1]
        return NormKind(centered=centered, biased=len(self.norm.inputs) > 2,
                        masked=centered and self.layer.columns(self.makes) != size)

    @property
    def _codes(self) -> bool:
        return self.layer.held(self.makes, Slot.ACTIVATIONS)

    @property
    def _terms(self) -> int:
        """Terms that are written; none where a router reads the codes of activations."""
        shared = self.layer.shared_terms or not self.layer.held(self.makes, Slot.TERMS)
        return 0 if shared else self.layer.numerics.router_terms

    @property
    def _floats(self) -> bool:
        """Is the result itself written in FP32? A sum without a norm is, by the sum."""
        wanted = self.layer.held(self.makes, Slot.FP32) or self.layer.graph.values[self.makes].role is Role.OUTPUT
        return wanted and self.norm is not None

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: RowwiseSchedule}

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        return self.problem.place(schedule[self.name], self.layer.config)

    def unit(self, kernel: str, key: str) -> int:
        return sum_unit(self.layer.config) if key == "n_tiles" else 1

    def choose(self) -> dict[str, KernelSchedule]:
        return {self.name: rowwise_schedule(self.layer.config, self.problem)}

    def ask(self, job: Job) -> None:
        layer, columns = self.layer, self.problem.columns
        for name in self._inputs:
            if layer.graph.values[name].role is Role.INPUT:
                job.ask(Stage.INPUTS, layer.floats_key(name), lambda builder, name=name: self._given(
                    builder, job, name, self.problem.rows))
        if self._codes:
            layer.ask_input(job, self.makes, layer.padded(self.makes, layer.shape(self.makes)[1]))
        if self.norm is not None:
            assert isinstance(self.norm.op, Norm)
            for name, offset in zip(self.norm.inputs[1:], (self.norm.op.offset, 0.0), strict=False):
                job.ask(Stage.VECTORS, name, lambda builder, name=name, offset=offset: self._given(
                    builder, job, name, 1, offset))
        if self.problem.norm is not None and self.problem.norm.masked:
            job.ask(Stage.TABLES, self._ones, self._features)
        if self._terms > 1:
            job.ask(Stage.TABLES, IDENTITY, place_identity)
        for name in self._stored:
            job.ask(Stage.RESULTS, layer.floats_key(name), lambda builder, name=name: float_matrix(
                builder, layer.floats_key(name), self.problem.rows, columns))

    @property
    def _stored(self) -> tuple[str, ...]:
        """Values that are written in FP32."""
        total = (self.add.output,) if self.add is not None else ()
        return (*total, self.makes) if self._floats else total

    def _given(self, builder: ProgramBuilder, job: Job, name: str, rows: int, offset: float = 0.0) -> Matrix:
        """A given value in FP32, plus ``offset``, with zeros behind its columns."""
        columns, tensors = self.problem.columns, job.tensors

        def fill() -> np.ndarray:
            values = np.asarray(getattr(tensors, name), np.float32).reshape(rows, -1) + np.float32(offset)
            return np.pad(values, ((0, 0), (0, columns - values.shape[1])))

        return float_matrix(builder, self.layer.floats_key(name), rows, columns, fill if tensors else None)

    @property
    def _ones(self) -> str:
        """The operand with a 1 for each feature."""
        return f"{FEATURES} of {self.layer.shape(self.makes)[-1]}"

    def _features(self, builder: ProgramBuilder) -> Matrix:
        columns, size = self.problem.columns, self.layer.shape(self.makes)[-1]
        ones = (np.arange(columns) < size).astype(np.float32)
        return float_matrix(builder, self._ones, 1, columns, lambda: ones[None])

    def emit(self, job: Job) -> None:
        layer, memory, add, norm = self.layer, job.memory, self.add, self.norm
        told = None
        if norm is not None:
            assert isinstance(norm.op, Norm)
            told = NormRows(weights=memory[norm.inputs[1]], eps=norm.op.eps, amax=job.scales[norm.inputs[0]],
                            features=layer.shape(self.makes)[-1], ones=memory.get(self._ones),
                            bias=memory[norm.inputs[2]] if len(norm.inputs) > 2 else None)
        scale = add.op.scale if add is not None and isinstance(add.op, Add) else 1.0
        Rowwise(job.emitter, self.problem, job.schedule[self.name], scale=scale, norm=told,
                inputs=[memory[layer.floats_key(name)] for name in self._inputs],
                total=memory[layer.floats_key(add.output)] if add is not None else None,
                floats=memory[layer.floats_key(self.makes)] if self._floats else None, codes=self._targets(job),
                identity=memory.get(IDENTITY), scale_rule=layer.numerics.scale_rule).emit()

    def _targets(self, job: Job) -> list[CodesTarget]:
        """Codes and terms of the result."""
        layer, memory, targets = self.layer, job.memory, []
        if self._codes:
            to = memory[self.makes]
            tables = [memory[key] for key in layer.other_scales(self.makes) if key in memory]
            targets.append(CodesTarget(to=to, factor=job.scales[self.makes],
                                       also=tuple(replace(to, scales=table) for table in tables)))
        if self._terms:
            key = terms_key(self.makes)
            targets.append(CodesTarget(to=memory[key], factor=job.scales[key], terms=self._terms))
        return targets
