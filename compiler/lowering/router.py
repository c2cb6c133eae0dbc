"""The logits of a router and the softmax over the counted experts: a GEMM of terms, combine weights to DRAM.

The bias matrix is 0 for experts that the softmax counts (the chosen ones when the layer renormalizes, all of them
otherwise) and -inf elsewhere, so one softmax serves both rules and padding columns never count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..auto_gemm import apart_or_packed, gemm_schedule
from ..builder import ProgramBuilder
from ..dram import float_matrix
from ..graph.evaluate import terms_key
from ..graph.ir import Node, Role, Slot
from ..graph.ops.router import Router
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..logits import split_terms, term_products
from ..operands import Operand, k_unit, padded_k, place_operand
from ..quantize import StoredTensor
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Elem, Reduction, Row, Shape, exp2, reciprocal
from .steps import Job, Stage, Step

NEGATIVE_INFINITY = np.float32(-np.inf)


@dataclass(kw_only=True, eq=False)
class ToWeights(Step):
    """Logits to combine weights for every row. linear, router: the nodes."""

    linear: Node
    router: Node

    @cached_property
    def problem(self) -> GemmProblem:
        """Logits of all experts, in whole column tiles."""
        x, router = self.linear.inputs
        (rows, hidden), experts = self.layer.shape(x), self.layer.shape(router)[0]
        layer, config, numerics = self.layer, self.layer.config, self.layer.numerics
        plain = layer.format(Slot.TERMS)
        return GemmProblem(name=self.name, m=rows, n=align(experts, config.cols), layer_k=hidden, a=plain, b=plain,
                           k=layer.padded(x, hidden) if layer.shared_terms else padded_k(hidden, config, plain),
                           products=tuple(term_products(numerics.router_terms)))

    def buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        """The GEMM's, its bias, and three statistics per row."""
        config, problem = self.layer.config, self.problem
        rows = problem.rows(schedule)
        words = -(-rows // config.cols)
        bias = Buffer(name="the router's bias", memory=Memory.ACC, sizes=(problem.n // config.cols * rows,),
                      beside=frozenset({f"{problem.name} result group"}))
        statistics = [Buffer(name=name, memory=Memory.STATISTICS, sizes=(words,), beside=frozenset())
                      for name in ("maxima", "sums", "inverse sums")]
        return problem.buffers(schedule, config, [bias, *statistics])

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        return place(self.buffers(schedule[self.name]), self.layer.config, self.name)

    def unit(self, kernel: str, key: str) -> int:
        return k_unit(self.layer.config, self.problem.a, self.problem.b) if key == "k_tile" else 1

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: GemmSchedule}

    def choose(self) -> dict[str, KernelSchedule]:
        return {self.name: apart_or_packed(lambda packed: gemm_schedule(
            self.layer.config, self.problem, self.name, self.buffers, packed=packed,
            group_tiles=self.problem.n // self.layer.config.cols))}

    def ask(self, job: Job) -> None:
        (x, router), problem = self.linear.inputs, self.problem
        experts, cols = self.layer.shape(router)[0], self.layer.config.cols
        if self.layer.shared_terms:
            self.layer.ask_input(job, x, problem.k)
        else:
            job.ask(Stage.OTHER_FORMS, terms_key(x), lambda builder: self._terms(
                builder, job, x, f"{x} for the {self.name}", problem.m))
        job.ask(Stage.WEIGHTS, router, lambda builder: self._terms(builder, job, router, router, experts, cols))
        job.ask(Stage.WEIGHTS, f"{self.name} bias", lambda builder: float_matrix(
            builder, "bias", problem.m, problem.n, self._bias))
        job.ask(Stage.RESULTS, self.makes, lambda builder: float_matrix(builder, "weights", problem.m, problem.n))

    def _terms(self, builder: ProgramBuilder, job: Job, name: str, label: str, count: int,
               pad_rows: int = 1) -> Operand:
        """E4M3 terms of a tensor's rows side by side, ``problem.k`` elements each."""
        problem, terms = self.problem, self.layer.numerics.router_terms

        def make() -> StoredTensor:
            codes = np.zeros((count, terms, problem.k), np.uint8)
            for term, part in enumerate(split_terms(getattr(job.tensors, name), job.scales[terms_key(name)], terms)):
                codes[:, term, :problem.layer_k] = part
            return StoredTensor(codes.reshape(count, -1), np.zeros((count, 0), np.uint8))

        given = job.tensors is not None and self.layer.graph.values[name].role is not Role.ACTIVATION
        return place_operand(builder, label, count, terms * problem.k, problem.a, make if given else None,
                             pad_rows=pad_rows)

    def _bias(self) -> np.ndarray:
        routing, op = self.layer.routing, self.router.op
        assert routing is not None and isinstance(op, Router)
        values = np.full((self.problem.m, self.problem.n), NEGATIVE_INFINITY, np.float32)
        if op.norm_topk:
            np.put_along_axis(values, routing.chosen.astype(np.int64), np.float32(0), axis=1)
        else:
            values[:, :routing.experts] = 0
        return values

    def emit(self, job: Job) -> None:
        emitter, memory, schedule, problem = job.emitter, job.memory, job.schedule[self.name], self.problem
        config, tiles, (x, router) = emitter.config, problem.n // emitter.config.cols, self.linear.inputs
        if schedule.group_tiles < tiles:
            raise CompileError(f"{self.name}: group_tiles must be at least {tiles}, the softmax is over all experts, "
                               f"got {schedule.group_tiles}")
        regions = self.place(job.schedule)
        (bias,), (maxima,), (sums,), (inverse,) = (regions[name] for name in (
            "the router's bias", "maxima", "sums", "inverse sums"))
        factor = job.scales[terms_key(x)] * job.scales[terms_key(router)] * math.log2(math.e)
        target = memory[self.makes]

        def finish(group: Group) -> None:
            logits = Elem(group.addr)
            emitter.load_rows(memory[f"{self.name} bias"], first_row=group.m0, rows=group.rows, addr=bias,
                              pitch=group.pitch, label="router bias")
            emitter.compute(
                group.shape,
                Assign(to=logits, value=logits * factor + Elem(bias), reduce=Reduction(Reduce.MAX, maxima),
                       label="logits"),
                Assign(to=logits, value=exp2(logits - Row(maxima)), reduce=Reduction(Reduce.SUM, sums),
                       label="exponentials"))
            emitter.compute(Shape(rows=-(-group.rows // config.cols)),
                            Assign(to=Elem(inverse), value=reciprocal(Elem(sums)), label="1 / sum"))
            emitter.compute(group.shape, Assign(to=logits, value=logits * Row(inverse), label="combine weights"))
            emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=0, row_bytes=target.row_bytes,
                              addr=group.addr, pitch=group.pitch, label="store combine weights")

        rows = memory[x if self.layer.shared_terms else terms_key(x)]
        emit_gemm(emitter, problem, schedule, rows, memory[router], regions, finish)
