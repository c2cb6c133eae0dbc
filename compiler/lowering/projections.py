"""Linear nodes: a GEMM, with the epilogue that the following nodes are, or the quantizer of the operand that is read.

Projections to heads of queries, keys or values write q, or the caches of the sequences whose rows these are. Values
are produced transposed by exchanging the operands: the weight's rows are the result's rows, so that the second matmul
of the core finds its k (the keys) contiguous and no transposer is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import lcm
from typing import TYPE_CHECKING

import numpy as np

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..auto_gemm import apart_or_packed, gemm_schedule
from ..builder import ProgramBuilder
from ..dram import Matrix, code_matrix, float_matrix
from ..emitter import Emitter
from ..graph.ir import Node, Role, Slot
from ..graph.ops.attention import Attention
from ..graph.ops.linear import Linear
from ..graph.ops.rms_norm import RmsNorm
from ..graph.ops.rotary import Rotary
from ..kernels.bias import ColumnBias, RowBias, column_bias_buffer, row_bias_buffer
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..kernels.heads import Heads, HeadsData, HeadsEpilogue, rotary_lanes, stage_banks, stage_buffer, stage_pitch
from ..operands import WIDEST_BUS, k_unit, place_operand, place_scales
from ..quantize import StoredTensor, store
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Codes, Elem, Reduction, Row, Shape
from .head_sizes import head_order, mixed_head, rotated_head, spread_heads
from .steps import Job, Stage, Step, scales_key

if TYPE_CHECKING:
    from ..layers import Workload
    from ..masks import Sequences


@dataclass(kw_only=True, eq=False)
class Projection(Step):
    """Base: node is the Linear; x, weight: its inputs."""

    node: Node

    @property
    def x(self) -> str:
        return self.node.inputs[0]

    @property
    def weight(self) -> str:
        return self.node.inputs[1]

    @property
    def purpose(self) -> str:
        """In errors."""
        return f"projection {self.name}"

    @cached_property
    def problem(self) -> GemmProblem:
        raise NotImplementedError

    @property
    def bias(self) -> str | None:
        """The third input, where there is one."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None

    def ask_bias(self, job: Job, lay: Callable[[np.ndarray], np.ndarray] = lambda values: values) -> None:
        """Ask for the bias, a row per column tile; lay: (n, 1) values as they lie in columns."""
        name, tensors, cols = self.bias, job.tensors, self.layer.config.cols
        if name is None:
            return

        def fill() -> np.ndarray:
            wide = lay(np.asarray(getattr(tensors, name), np.float32)[:, None])[:, 0]
            return np.pad(wide, (0, -len(wide) % cols)).reshape(-1, cols)

        job.ask(Stage.VECTORS, name, lambda builder: float_matrix(
            builder, name, -(-self.problem.n // cols), cols, fill if tensors else None))

    def epilogue_buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        """What the epilogue needs on chip."""
        return [stage_buffer(self.layer.config, self.problem, schedule)]

    def buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        return self.problem.buffers(schedule, self.layer.config, self.epilogue_buffers(schedule))

    def place(self, schedule: Schedule) -> dict[str, list[int]]:
        return place(self.buffers(schedule[self.name]), self.layer.config, self.purpose)

    def unit(self, kernel: str, key: str) -> int:
        return k_unit(self.layer.config, self.problem.a, self.problem.b) if key == "k_tile" else 1

    def kernels(self) -> Mapping[str, type[KernelSchedule]]:
        return {self.name: GemmSchedule}

    def _stage(self, rows: int, tiles: int) -> int:
        return stage_banks(self.layer.config, rows, tiles)

    def choose(self) -> dict[str, KernelSchedule]:
        return {self.name: apart_or_packed(lambda packed: gemm_schedule(
            self.layer.config, self.problem, self.purpose, self.buffers, stage=self._stage, by_bytes=True,
            packed=packed))}


@dataclass(kw_only=True, eq=False)
class ToHeads(Projection):
    """Heads of queries or keys. following: nodes that are its epilogue; core: reads what it makes, as queries or keys.
    """

    following: tuple[Node, ...]
    core: Node
    heads: Heads = field(init=False)

    def __post_init__(self) -> None:
        _, count, size = self.layer.shape(self.node.output)
        kinds = {type(node.op): node for node in self.following}
        norm, rotary = kinds.get(RmsNorm), kinds.get(Rotary)
        self._rotary = rotary.op if rotary is not None and isinstance(rotary.op, Rotary) else None
        self._order = head_order(self._rotary, size)
        self._check_order()
        self._norm = norm.inputs[1] if norm else None
        self._norm_op = norm.op if norm and isinstance(norm.op, RmsNorm) else RmsNorm(eps=0.0)
        kind = "none" if self._norm is None else "head" if self.layer.shape(self._norm) == (size,) else "full"
        width = rotated_head(size, self.layer.config, alone=self._norm is not None)
        self.heads = Heads(count=count, size=size, width=width, norm=kind, rotated=self._rotary is not None,
                           biased=self.bias is not None)

    def _check_order(self) -> None:
        """Queries and keys are multiplied as they lie."""
        for node in self.layer.graph.nodes:
            if node.output in self.core.inputs[:2]:
                rotary = node.op if isinstance(node.op, Rotary) else None
                if not np.array_equal(head_order(rotary, len(self._order)), self._order):
                    raise CompileError(f"{self.core.name}: {' and '.join(self.core.inputs[:2])} are rotated in "
                                       "different pairs of features")

    def _spread(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the projection's heads as they lie in its columns."""
        return spread_heads(rows, self._order, self.heads.width)

    @property
    def _queries(self) -> bool:
        return self.core.inputs[0] == self.makes

    @property
    def _workload(self) -> Workload | Sequences:
        assert isinstance(self.core.op, Attention)
        return self.core.op.workload

    @cached_property
    def problem(self) -> GemmProblem:
        rows, hidden = self.layer.shape(self.x)
        formats, k = self.layer.numerics.formats, self.layer.padded(self.x, hidden)
        return GemmProblem(name=self.name, m=rows, n=self.heads.count * self.heads.width, k=k, layer_k=hidden,
                           a=formats.activations, b=formats.weights)

    def unit(self, kernel: str, key: str) -> int:
        return self.heads.tiles(self.layer.config) if key == "group_tiles" else super().unit(kernel, key)

    def epilogue_buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        return self.heads.buffers(self.layer.config, self.problem, schedule)

    def choose(self) -> dict[str, KernelSchedule]:
        config = self.layer.config
        group = lcm(self.heads.tiles(config), max(1, config.bus_bytes // config.cols))
        return {self.name: apart_or_packed(lambda packed: gemm_schedule(
            config, self.problem, self.purpose, self.buffers, group_tiles=group, stage=self._stage, by_bytes=True,
            packed=packed))}

    def ask(self, job: Job) -> None:
        heads, problem, layer = self.heads, self.problem, self.layer
        if self._rotary is not None:
            for name, table in zip(("cos", "sin"), self._tables, strict=True):
                job.ask(Stage.TABLES, table, lambda builder, name=name: self._table(builder, name))
        if self._norm is not None:
            job.ask(Stage.VECTORS, self._norm, lambda builder: self._norm_matrix(builder, job))
        self.ask_bias(job, self._spread)
        layer.ask_input(job, self.x, problem.k)
        make = layer.stored(job, self.weight, problem.b, square=True)

        def spread() -> StoredTensor:
            assert make is not None
            held = make()
            return StoredTensor(*map(self._spread, (held.codes, held.scales)))

        job.ask(Stage.WEIGHTS, self.weight, lambda builder: place_operand(
            builder, self.weight, problem.n, problem.k, problem.b, spread if make else None,
            chunk=job.schedule[self.name].k_tile, packed=True))
        if self._queries:
            job.ask(Stage.RESULTS, self.makes, lambda builder: code_matrix(
                builder, self.makes, problem.m, heads.count * align(heads.size, layer.config.bus_bytes)))
        else:
            job.ask(Stage.RESULTS, self.makes, lambda builder: self._caches(builder, job))

    @property
    def _tables(self) -> tuple[str, str]:
        """Operands with cosines and sines: of heads that are rotated alike the same ones."""
        assert self._rotary is not None
        size = self.heads.size
        part = "" if self._rotary.size == size else f" of {self._rotary.size} in {size}"
        return f"cos{part}", f"sin{part}"

    def _table(self, builder: ProgramBuilder, name: str) -> Matrix:
        """Cosines or sines, a row per row of x, as the epilogue reads them; 1 and 0 for features that are kept."""
        heads, cols = self.heads, self.layer.config.cols

        def fill() -> np.ndarray:
            assert self._rotary is not None
            kept = ((0, 0), (0, (heads.size - self._rotary.size) // 2))
            padding = ((0, 0), (0, (heads.width - heads.size) // 2))
            cos, sin = (np.pad(np.pad(part, kept, constant_values=value), padding)
                        for part, value in zip(self._rotary.rows(), (1, 0), strict=True))
            if heads.width > cols:
                return cos if name == "cos" else sin
            both = [cos, cos] if name == "cos" else [-sin, sin]
            return np.tile(np.concatenate(both, axis=1), (1, cols // heads.width))

        table = self._tables[name == "sin"]
        return float_matrix(builder, table, self.problem.m, rotary_lanes(heads.width, cols), fill)

    def _norm_matrix(self, builder: ProgramBuilder, job: Job) -> Matrix:
        """The norm's weights, one row per column tile."""
        heads, cols, tensors, name = self.heads, self.layer.config.cols, job.tensors, self._norm
        assert name is not None

        def fill() -> np.ndarray:
            weights = np.asarray(getattr(tensors, name), np.float32) + np.float32(self._norm_op.offset)
            return self._spread(weights[:, None]).reshape(-1, cols)

        count = heads.count if heads.norm == "full" else 1
        return float_matrix(builder, name, count * heads.width // cols, cols, fill if tensors else None)

    def _caches(self, builder: ProgramBuilder, job: Job) -> tuple[tuple[Matrix, ...], ...]:
        """Keys of each sequence and head, a row each; old ones from the cache."""
        workload, size, name, tensors = self._workload, self.heads.size, self.core.inputs[3], job.tensors
        kv = self.layer.format(Slot.KV)

        def cache(sequence: int, head: int) -> Matrix:
            def fill() -> np.ndarray:
                rows = np.zeros((workload.keys, size), np.uint8)
                held = getattr(tensors, name)[sequence, head][:, self._order]
                rows[:old] = store(held, kv, job.scales[self.makes]).codes
                return rows
            return code_matrix(builder, f"{name}.{sequence}.{head}", workload.keys, size,
                               fill if tensors and old else None)

        old = self.layer.shape(name)[2]
        return tuple(tuple(cache(s, h) for h in range(self.heads.count)) for s in range(workload.batch))

    def emit(self, job: Job) -> None:
        scales, memory, schedule, emitter = job.scales, job.memory, job.schedule[self.name], job.emitter
        regions, target, workload = self.place(job.schedule), memory[self.makes], self._workload
        old = self.layer.shape(self.core.inputs[3])[2]
        kind = Slot.QUERY if self._queries else Slot.KV
        data = HeadsData(
            dequant=scales[self.x] * scales[self.weight], out_scale=scales[self.makes],
            quant=self.layer.format(kind).quant, eps=self._norm_op.eps,
            raw_amax=scales[self.node.output] if self._norm else 1.0,
            norm=memory[self._norm] if self._norm else None, bias=memory[self.bias] if self.bias else None,
            rotary=(memory[self._tables[0]], memory[self._tables[1]]) if self._rotary is not None else None)

        def store_query(group: Group, head: int, byte: int, fields: dict[str, int]) -> None:
            emitter.store_codes(target, first_row=group.m0, rows=group.rows,
                                first_byte=head * align(self.heads.size, emitter.config.bus_bytes) + byte,
                                label="store q", **fields)

        def store_key(group: Group, head: int, byte: int, fields: dict[str, int]) -> None:
            for sequence, token, at, count in row_segments(workload.keys - old, group.m0, group.rows):
                emitter.store_codes(target[sequence][head], first_row=old + token, rows=count,
                                    first_byte=byte, from_row=at, label="store k", **fields)

        def query_at(group: Group, first: int, _: int) -> tuple[Hashable, list[int]]:
            return (), [target.at(group.m0, first * align(self.heads.size, emitter.config.bus_bytes))]

        def keys_at(group: Group, first: int, count: int) -> tuple[Hashable, list[int]]:
            segments = row_segments(workload.keys - old, group.m0, group.rows)
            return tuple(segment[2:] for segment in segments), [
                target[sequence][head].at(old + token) for sequence, token, _, _ in segments
                for head in range(first, first + count)]

        epilogue = HeadsEpilogue(emitter, self.problem, schedule, self.heads, data, regions,
                                 store_query if self._queries else store_key)
        where = query_at if self._queries else keys_at
        emit_gemm(emitter, self.problem, schedule, memory[self.x], memory[self.weight], regions, epilogue,
                  lambda group: epilogue.moves(group, partial(where, group)))


def row_segments(tokens: int, first: int, count: int) -> list[tuple[int, int, int, int]]:
    """Cut rows first .. first+count-1 by sequences of ``tokens``: (sequence, first token, offset, number)."""
    segments, at = [], 0
    while at < count:
        sequence, token = divmod(first + at, tokens)
        size = min(count - at, tokens - token)
        segments.append((sequence, token, at, size))
        at += size
    return segments


@dataclass(kw_only=True, eq=False)
class ToValues(Projection):
    """Values, transposed: rows are features, columns are tokens. core: reads them."""

    core: Node

    @property
    def _workload(self) -> Workload | Sequences:
        assert isinstance(self.core.op, Attention)
        return self.core.op.workload

    @cached_property
    def problem(self) -> GemmProblem:
        rows, hidden = self.layer.shape(self.x)
        return GemmProblem(name=self.name, m=self.layer.shape(self.weight)[0], n=rows,
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
        job.ask(Stage.WEIGHTS, self.weight, lambda builder: place_operand(
            builder, self.weight, problem.m, problem.k, problem.a,
            layer.stored(job, self.weight, problem.a, square=True),
            chunk=problem.k if schedule.a_resident else schedule.k_tile))
        job.ask(Stage.RESULTS, self.makes, lambda builder: self._caches(builder, job))

    def epilogue_buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        added = [row_bias_buffer(self.layer.config, self.problem.rows(schedule))] if self.bias else []
        return [*super().epilogue_buffers(schedule), *added]

    def _bias_matrix(self, builder: ProgramBuilder, job: Job) -> Matrix:
        """The bias, a row per block of rows of the result."""
        name, rows, tensors = self.bias, self.problem.rows(job.schedule[self.name]), job.tensors
        assert name is not None
        blocks, width = -(-self.problem.m // rows), align(rows, builder.config.cols)

        def fill() -> np.ndarray:
            values = np.asarray(getattr(tensors, name), np.float32)
            return np.pad(np.pad(values, (0, blocks * rows - len(values))).reshape(blocks, rows),
                          ((0, 0), (0, width - rows)))

        return float_matrix(builder, name, blocks, width, fill if tensors else None)

    @property
    def _scales(self) -> str:
        """The block scales of x, cut as this GEMM loads them."""
        return scales_key(self.x, self.node.output)

    def _caches(self, builder: ProgramBuilder, job: Job) -> tuple[Matrix, ...]:
        """(heads * head_dim, keys) of each sequence, keys padded with zero codes; old ones from the cache."""
        workload, name, tensors, kv = self._workload, self.core.inputs[4], job.tensors, self.layer.format(Slot.KV)
        _, heads, size = self.layer.shape(self.makes)

        def cache(sequence: int) -> Matrix:
            def fill() -> np.ndarray:
                rows = np.zeros((heads, size, workload.keys), np.uint8)
                flat = getattr(tensors, name)[sequence].reshape(-1, size)
                rows[:, :, :old] = store(flat, kv, job.scales[self.makes]).codes.reshape(heads, old, size).transpose(
                    0, 2, 1)
                return rows.reshape(heads * size, workload.keys)
            return code_matrix(builder, f"{name}.{sequence}", heads * size, workload.keys,
                               fill if tensors and old else None)

        old = self.layer.shape(name)[2]
        return tuple(cache(s) for s in range(workload.batch))

    def emit(self, job: Job) -> None:
        memory, schedule, workload, emitter = job.memory, job.schedule[self.name], self._workload, job.emitter
        config, regions, caches = emitter.config, self.place(job.schedule), memory[self.makes]
        stages, quant = regions["staged results"], self.layer.format(Slot.KV).quant
        old = self.layer.shape(self.core.inputs[4])[2]
        dequant, out = job.scales[self.x] * job.scales[self.weight], job.scales[self.makes]
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

        x = replace(memory[self.x], scales=memory.get(self._scales))
        emit_gemm(emitter, self.problem, schedule, memory[self.weight], x, regions, finish, moves)


@dataclass(kw_only=True, eq=False)
class ToRows(Projection):
    """FP32 rows. heads: of its input, where that has any; these lie apart in a row, so that no block of a scale holds
    values of two. weights: the value with a weight for each row, none of them negative, None for 1."""

    unquantized = True

    weights: str | None = None

    @property
    def purpose(self) -> str:
        return "output projection"

    def epilogue_buffers(self, schedule: GemmSchedule) -> list[Buffer]:
        buffers = [column_bias_buffer(self.layer.config, self.problem, schedule)] if self.bias else []
        if self.weights is not None:
            rows = self.problem.rows(schedule)
            words = -(-rows // self.layer.config.cols)
            buffers += [Buffer(name="rows with weights", memory=Memory.ACC, sizes=(rows,), keys="m_tile rows"),
                        Buffer(name="weights of rows", memory=Memory.STATISTICS, sizes=(words,))]
        return buffers

    def _stage(self, rows: int, tiles: int) -> int:
        return 0

    def _k(self, bus_bytes: int) -> int:
        """Elements of a row of x with heads as far apart as on a bus of this width."""
        _, *inner = self.layer.shape(self.x)
        if len(inner) == 1:
            return inner[0]
        return inner[0] * mixed_head(inner[1], bus_bytes, self.layer.numerics.formats)

    @cached_property
    def problem(self) -> GemmProblem:
        """The headroom of the output's block scales is made for heads as far apart as on any tile."""
        formats = self.layer.numerics.formats
        return GemmProblem(name=self.name, m=self.layer.shape(self.x)[0], n=self.layer.shape(self.weight)[0],
                           k=self.layer.padded(self.x, self._k(self.layer.config.bus_bytes)), a=formats.activations,
                           b=formats.weights, layer_k=self._k(WIDEST_BUS))

    def ask(self, job: Job) -> None:
        problem, layer = self.problem, self.layer
        if layer.graph.values[self.x].role is Role.INPUT:
            layer.ask_input(job, self.x, problem.k)
        self.ask_bias(job)
        make = self._weights(job) if job.tensors is not None else None
        job.ask(Stage.WEIGHTS, self.weight, lambda builder: place_operand(
            builder, self.weight, problem.n, problem.k, problem.b, make, chunk=job.schedule[self.name].k_tile,
            packed=True))
        job.ask(Stage.RESULTS, layer.floats_key(self.makes), lambda builder: float_matrix(
            builder, layer.floats_key(self.makes), problem.m, layer.columns(self.makes)))

    def _weights(self, job: Job) -> Callable[[], StoredTensor]:
        _, *inner = self.layer.shape(self.x)

        def make() -> StoredTensor:
            values = getattr(job.tensors, self.weight)
            wide = np.zeros((self.problem.n, inner[0], self._k(self.layer.config.bus_bytes) // inner[0]), np.float32)
            wide[:, :, :inner[-1] if len(inner) > 1 else 1] = values.reshape(self.problem.n, inner[0], -1)
            return store(wide.reshape(self.problem.n, -1), self.problem.b, job.scales[self.weight],
                         self.layer.numerics.scale_rule, square=True)

        return make

    def emit(self, job: Job) -> None:
        emitter, schedule, target = job.emitter, job.schedule[self.name], job.memory[self.layer.floats_key(self.makes)]
        assert isinstance(self.node.op, Linear)
        factor = job.scales[self.x] * job.scales[self.weight] * self.node.op.scale
        regions = self.place(job.schedule)
        bias = ColumnBias(emitter, regions, job.memory[self.bias], self.name) if self.bias else None
        weights = job.memory[self.weights] if self.weights else None

        def finish(group: Group) -> None:
            own, scale = Elem(group.addr), factor
            if bias is not None:
                bias.add(group, factor)
                scale = None
            if weights is not None:
                weight = self._row_weights(emitter, group, weights, regions)
                emitter.compute(group.shape, Assign(to=own, value=own * weight, scale=scale, label="weigh rows"))
            elif bias is None:
                emitter.compute(group.shape, Assign(to=own, value=own, scale=scale, label="scale"))
            width = min(group.tiles * emitter.config.cols, self.problem.n - group.n0)
            emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0,
                              row_bytes=4 * width, addr=group.addr, pitch=group.pitch, label="store out")

        def moves(group: Group) -> tuple[Hashable, list[int]]:
            turn, added = bias.moves(group) if bias is not None else ((), [])
            return turn, [target.at(group.m0, 4 * group.n0), *added, *([weights.at(group.m0)] if weights else [])]

        emit_gemm(emitter, self.problem, schedule, job.memory[self.x], job.memory[self.weight], regions, finish, moves)

    def _row_weights(self, emitter: Emitter, group: Group, weights: Matrix, regions: Mapping[str, list[int]]) -> Row:
        """Of a group's rows. In DRAM a weight is the first column of a column tile whose other columns are 0."""
        (addr,), (to,) = regions["rows with weights"], regions["weights of rows"]
        emitter.load_rows(weights, first_row=group.m0, rows=group.rows, row_bytes=4 * emitter.config.cols, addr=addr,
                          label="load weights of rows")
        emitter.compute(Shape(rows=group.rows), Assign(value=Elem(addr), reduce=Reduction(Reduce.MAX, to),
                                                       label="weights of rows"))
        return Row(to)
