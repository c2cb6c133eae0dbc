"""The logits of a router and the scores of the counted experts: a GEMM of terms, combine weights to DRAM.

The bias matrix is the router's bias for experts that count (the chosen ones when the layer normalizes, all of them
otherwise) and -inf elsewhere, so that the rest scores 0 and padding columns never count.

A row sum of the vector unit has a grid of 2**-24. The largest term of a softmax is 1; sigmoids may all be small, and
are divided by their largest before they are summed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..auto_gemm import apart_or_packed, gemm_schedule
from ..builder import ProgramBuilder
from ..dispatch import chosen_pairs
from ..dram import float_matrix
from ..emitter import Emitter
from ..graph.evaluate import terms_key
from ..graph.ir import Node, Role, Slot
from ..graph.ops.router import Router
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..logits import split_terms, term_products
from ..operands import Operand, k_unit, padded_k, place_operand
from ..quantize import StoredTensor
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..scoring import Scoring
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Elem, Expr, Reduction, Row, Shape, exp2, maximum, reciprocal, sigmoid
from .steps import Job, Stage, Step

NEGATIVE_INFINITY = np.float32(-np.inf)
SMALLEST = 2.0**-100
"""What the largest sigmoid of a row is taken to be at least: its reciprocal, and the epsilon of a sum times that, are
finite."""


Load = Callable[[str, int], Elem]
"""(table, address) -> where a group's part of it then lies."""


@dataclass(kw_only=True, eq=False)
class ToWeights(Step):
    """Logits to combine weights for every row. linear, router: the nodes; the latter may be a `Sigmoid`, whose rows are
    weights for one expert that all use."""

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
        together = {"inverse maxima": {"sums"}} if self.scoring.epsilon else {}
        statistics = [Buffer(name=name, memory=Memory.STATISTICS, sizes=(words,),
                             beside=frozenset(together.get(name, ()))) for name in self._statistics]
        return problem.buffers(schedule, config, [bias, *statistics])

    @property
    def scoring(self) -> Scoring:
        return self.router.op.scoring if isinstance(self.router.op, Router) else Scoring(score="sigmoid")

    @property
    def _normalizes(self) -> bool:
        return isinstance(self.router.op, Router) and self.router.op.norm_topk

    @property
    def _statistics(self) -> tuple[str, ...]:
        if self.scoring.score != "sigmoid":
            return "maxima", "sums", "inverse sums"
        return ("maxima", "inverse maxima", "sums", "inverse sums") if self._normalizes else ()

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
        for name, fill in self.tables(job).items():
            job.ask(Stage.WEIGHTS, f"{self.name} {name}", lambda builder, name=name, fill=fill: float_matrix(
                builder, self._segment(name), problem.m, problem.n, fill))
        job.ask(Stage.RESULTS, self.makes, lambda builder: float_matrix(
            builder, self._segment("weights"), problem.m, problem.n))

    def tables(self, job: Job) -> dict[str, Callable[[], np.ndarray]]:
        """Given matrices beside the logits, of as many values."""
        return {"bias": lambda: self._bias(job)}

    def _segment(self, name: str) -> str:
        return name if isinstance(self.router.op, Router) else f"{self.name} {name}"

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

    def _bias(self, job: Job) -> np.ndarray:
        experts = self.layer.shape(self.linear.inputs[1])[0]
        values = np.full((self.problem.m, self.problem.n), NEGATIVE_INFINITY, np.float32)
        own = np.zeros((1, experts))
        if self.scoring.bias and job.tensors is not None:
            own = getattr(job.tensors, self.router.inputs[1]).astype(np.float64)[None] * self._unit
        if self._normalizes:
            assert self.layer.routing is not None
            counted = chosen_pairs(self.layer.routing.chosen, experts)
            values[:, :experts] = np.where(counted, own.astype(np.float32), NEGATIVE_INFINITY)
        else:
            values[:, :experts] = own
        return values

    @property
    def _unit(self) -> float:
        """Of the logits on the tile: a softmax has exponentials of base 2."""
        return 1.0 if self.scoring.score == "sigmoid" else math.log2(math.e)

    def emit(self, job: Job) -> None:
        emitter, memory, schedule, problem = job.emitter, job.memory, job.schedule[self.name], self.problem
        tiles, (x, router) = problem.n // emitter.config.cols, self.linear.inputs
        if schedule.group_tiles < tiles:
            raise CompileError(f"{self.name}: group_tiles must be at least {tiles}, the softmax is over all experts, "
                               f"got {schedule.group_tiles}")
        regions = self.place(job.schedule)
        statistics = {name: regions[name][0] for name in self._statistics}
        factor = job.scales[terms_key(x)] * job.scales[terms_key(router)] * self._unit
        target = memory[self.makes]

        def finish(group: Group) -> None:
            def load(name: str, addr: int) -> Elem:
                emitter.load_rows(memory[f"{self.name} {name}"], first_row=group.m0, rows=group.rows, addr=addr,
                                  pitch=group.pitch, label=f"router {name}")
                return Elem(addr)

            self.weigh(emitter, group, factor, load, regions, statistics)
            emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=0, row_bytes=target.row_bytes,
                              addr=group.addr, pitch=group.pitch, label="store combine weights")

        rows = memory[x if self.layer.shared_terms else terms_key(x)]
        emit_gemm(emitter, problem, schedule, rows, memory[router], regions, finish)

    def weigh(self, emitter: Emitter, group: Group, factor: float, load: Load, regions: Mapping[str, list[int]],
              at: Mapping[str, int]) -> None:
        """Combine weights in place of a group's logits. load: of a table; at: addresses of statistics."""
        bias = load("bias", regions["the router's bias"][0])
        self._score(emitter, group, Elem(group.addr) * factor + bias, at)

    def _score(self, emitter: Emitter, group: Group, logits: Expr, at: Mapping[str, int]) -> None:
        """Combine weights in place of a group's logits; at: addresses of statistics."""
        scoring, own, words = self.scoring, Elem(group.addr), Shape(rows=-(-group.rows // emitter.config.cols))
        scale = None if scoring.scale == 1 else scoring.scale

        def of_rows(name: str, value: Expr, label: str, scale: float | None = None) -> None:
            emitter.compute(words, Assign(to=Elem(at[name]), value=value, scale=scale, label=label))

        def of_all(value: Expr, label: str, reduce: Reduction | None = None, scale: float | None = None) -> None:
            emitter.compute(group.shape, Assign(to=own, value=value, reduce=reduce, scale=scale, label=label))

        if scoring.score == "sigmoid" and not self._normalizes:
            of_all(sigmoid(logits), "combine weights", scale=scale)
            return
        if scoring.score == "softmax":
            of_all(logits, "logits", Reduction(Reduce.MAX, at["maxima"]))
            of_all(exp2(own - Row(at["maxima"])), "exponentials", Reduction(Reduce.SUM, at["sums"]))
            total = Elem(at["sums"])
        else:
            of_all(sigmoid(logits), "sigmoids", Reduction(Reduce.MAX, at["maxima"]))
            of_rows("inverse maxima", reciprocal(maximum(Elem(at["maxima"]), SMALLEST)), "1 / maximum")
            of_all(own * Row(at["inverse maxima"]), "shares", Reduction(Reduce.SUM, at["sums"]))
            total = Elem(at["sums"])
            if scoring.epsilon:
                total = Elem(at["inverse maxima"]) * scoring.epsilon + total
        of_rows("inverse sums", reciprocal(total), "1 / sum", scale)
        of_all(own * Row(at["inverse sums"]), "combine weights")
