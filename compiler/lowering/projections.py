"""Linear nodes: a GEMM, with the epilogue that the following nodes are, or the quantizer of the operand that is read.

Projections to heads of queries or keys write q, or the caches of the sequences whose rows these are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import lcm

import numpy as np

from ...rtl.spec.isa import Reduce
from ..auto_gemm import apart_or_packed, gemm_schedule
from ..builder import ProgramBuilder
from ..dram import Matrix, code_matrix, float_matrix
from ..emitter import Emitter
from ..graph.ir import Node, Role, Slot
from ..graph.ops.linear import Linear
from ..graph.ops.rms_norm import RmsNorm
from ..graph.ops.rotary import Rotary
from ..graph.ops.temperature import ScaleTokens
from ..kernels.bias import ColumnBias, column_bias_buffer, row_vectors
from ..kernels.gemm import GemmProblem, Group, emit_gemm
from ..kernels.heads import Heads, HeadsData, HeadsEpilogue, rotary_lanes, stage_banks, stage_buffer
from ..operands import WIDEST_BUS, k_unit, place_operand
from ..quantize import StoredTensor
from ..schedule import GemmSchedule, KernelSchedule, Schedule
from ..stored_weight import weight_tensor
from ..tiles.buffers import Buffer, Memory, align, place
from ..tiles.expr import Assign, Elem, Reduction, Row, Shape, sigmoid
from .head_sizes import mixed_head, rotated_head, spread_heads
from .kv_layout import ask_queries, key_caches, row_segments, rows_key
from .ports import Ports, workload_of
from .steps import Job, Stage, Step

FACTORS = "factors of queries"


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
    def held_weight(self) -> str:
        """The operand with the rows of the weight that are used."""
        part = self._linear.part
        return self.weight if part is None else f"{self.weight} rows {part[0]} to {part[1] - 1} of heads"

    @property
    def _linear(self) -> Linear:
        assert isinstance(self.node.op, Linear)
        return self.node.op

    def own(self, stored: StoredTensor) -> StoredTensor:
        """Of a stored weight the rows that are used."""
        return StoredTensor(self._linear.own(stored.codes), self._linear.own(stored.scales))

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
            wide = lay(self._linear.own(np.asarray(getattr(tensors, name), np.float32))[:, None])[:, 0]
            return np.pad(wide, (0, -len(wide) % cols)).reshape(-1, cols)

        job.ask(Stage.VECTORS, self._held_bias, lambda builder: float_matrix(
            builder, self._held_bias, -(-self.problem.n // cols), cols, fill if tensors else None))

    @property
    def _held_bias(self) -> str:
        """The operand with the bias."""
        return f"{self.bias} of {self.name}" if self._linear.part else str(self.bias)

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
        norm, rotary, scaled = (kinds.get(kind) for kind in (RmsNorm, Rotary, ScaleTokens))
        self._rotary = rotary.op if rotary is not None and isinstance(rotary.op, Rotary) else None
        self.ports = Ports.of(self.layer.graph, self.core)
        self._order = self.ports.order(self.makes)
        self._tokens = scaled.op if scaled is not None and isinstance(scaled.op, ScaleTokens) else None
        weights = norm.inputs[1:] if norm is not None else ()
        self._norm = None if norm is None else next(iter(weights), f"ones for heads of {size}")
        self._norm_op = norm.op if norm and isinstance(norm.op, RmsNorm) else RmsNorm(eps=0.0)
        every = all(self.layer.shape(weight) == (size,) for weight in weights)
        kind = "none" if norm is None else "head" if every else "full"
        width = rotated_head(size, self.layer.config, alone=self._norm is not None)
        self.heads = Heads(count=count, size=size, width=width, norm=kind, rotated=self._rotary is not None,
                           biased=self.bias is not None, scaled=self._tokens is not None)

    def _spread(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the projection's heads as they lie in its columns."""
        return spread_heads(rows, self._order, self.heads.width)

    @property
    def _queries(self) -> bool:
        return self.makes in self.ports.queries

    @property
    def _tensor(self) -> str:
        return self.ports.tensor(self.makes)

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
        if self._tokens is not None:
            job.ask(Stage.TABLES, FACTORS, lambda builder: self._factors(builder, job))
        self.ask_bias(job, self._spread)
        layer.ask_input(job, self.x, problem.k)
        make = layer.stored(job, self.weight, problem.b, square=True)

        def spread() -> StoredTensor:
            assert make is not None
            held = self.own(make())
            return StoredTensor(*map(self._spread, (held.codes, held.scales)))

        job.ask(Stage.WEIGHTS, self.held_weight, lambda builder: place_operand(
            builder, self.held_weight, problem.n, problem.k, problem.b, spread if make else None,
            chunk=job.schedule[self.name].k_tile, packed=True))
        if self._queries:
            ask_queries(job, self.layer, self.ports)
        else:
            job.ask(Stage.RESULTS, self._tensor, lambda builder: key_caches(builder, job, self.layer, self.core))
            if self._turned:
                job.ask(Stage.RESULTS, rows_key(self.makes), lambda builder: code_matrix(
                    builder, rows_key(self.makes), problem.m, heads.size))

    @property
    def _turned(self) -> bool:
        """Is what it makes read as values too?"""
        return self.makes == self.ports.values

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
            weights = np.ones(heads.size, np.float32) if not self._norm_op.weighted else \
                np.asarray(getattr(tensors, name), np.float32) + np.float32(self._norm_op.offset)
            return self._spread(weights[:, None]).reshape(-1, cols)

        count = heads.count if heads.norm == "full" else 1
        return float_matrix(builder, name, count * heads.width // cols, cols, fill if tensors else None)

    def _factors(self, builder: ProgramBuilder, job: Job) -> Matrix:
        """Factors of the rows of x, a row per block of rows of the GEMM."""
        op = self._tokens
        assert op is not None
        return row_vectors(builder, FACTORS, op.rows(), self.problem.rows(job.schedule[self.name]))

    def emit(self, job: Job) -> None:
        scales, memory, schedule, emitter = job.scales, job.memory, job.schedule[self.name], job.emitter
        regions, target, workload = self.place(job.schedule), memory[self._tensor], workload_of(self.core)
        old, offset = self.ports.old, self.ports.offset(self.makes)
        pitch, rows = align(self.ports.width, emitter.config.bus_bytes), memory.get(rows_key(self.makes))
        kind = Slot.QUERY if self._queries else Slot.KV
        data = HeadsData(
            dequant=scales[self.x] * scales[self.weight], out_scale=scales[self._tensor],
            quant=self.layer.format(kind).quant, eps=self._norm_op.eps,
            raw_amax=scales[self.node.output] if self._norm else 1.0,
            norm=memory[self._norm] if self._norm else None, bias=memory[self._held_bias] if self.bias else None,
            factors=memory[FACTORS] if self._tokens is not None else None,
            rotary=(memory[self._tables[0]], memory[self._tables[1]]) if self._rotary is not None else None)

        def store_query(group: Group, head: int, byte: int, fields: dict[str, int]) -> None:
            emitter.store_codes(target, first_row=group.m0, rows=group.rows, first_byte=head * pitch + offset + byte,
                                label="store q", **fields)

        def readers(first: int, count: int) -> range:
            """Heads of keys that have these, or all where one is that of all."""
            return range(self.ports.kv_heads) if self.heads.count == 1 else range(first, first + count)

        def store_key(group: Group, head: int, byte: int, fields: dict[str, int]) -> None:
            for sequence, token, at, count in row_segments(workload.keys - old, group.m0, group.rows):
                for reader in readers(head, 1):
                    emitter.store_codes(target[sequence][reader], first_row=old + token, rows=count,
                                        first_byte=offset + byte, from_row=at, label="store k", **fields)
            if rows is not None:
                emitter.store_codes(rows, first_row=group.m0, rows=group.rows, first_byte=byte, label="store rows",
                                    **fields)

        def query_at(group: Group, first: int, _: int) -> tuple[Hashable, list[int]]:
            return (), [target.at(group.m0, first * pitch)]

        def keys_at(group: Group, first: int, count: int) -> tuple[Hashable, list[int]]:
            segments = row_segments(workload.keys - old, group.m0, group.rows)
            return tuple(segment[2:] for segment in segments), [
                *(target[sequence][head].at(old + token) for sequence, token, _, _ in segments
                  for head in readers(first, count)), *([rows.at(group.m0)] if rows is not None else [])]

        epilogue = HeadsEpilogue(emitter, self.problem, schedule, self.heads, data, regions,
                                 store_query if self._queries else store_key)
        where = query_at if self._queries else keys_at
        emit_gemm(emitter, self.problem, schedule, memory[self.x], memory[self.held_weight], regions, epilogue,
                  lambda group: epilogue.moves(group, partial(where, group)))


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
        return GemmProblem(name=self.name, m=self.layer.shape(self.x)[0], n=self.layer.shape(self.node.output)[1],
                           k=self.layer.padded(self.x, self._k(self.layer.config.bus_bytes)), a=formats.activations,
                           b=formats.weights, layer_k=self._k(WIDEST_BUS))

    def ask(self, job: Job) -> None:
        problem, layer = self.problem, self.layer
        if layer.graph.values[self.x].role is Role.INPUT:
            layer.ask_input(job, self.x, problem.k)
        self.ask_bias(job)
        make = self._weights(job) if job.tensors is not None else None
        job.ask(Stage.WEIGHTS, self.held_weight, lambda builder: place_operand(
            builder, self.held_weight, problem.n, problem.k, problem.b, make, chunk=job.schedule[self.name].k_tile,
            packed=True))
        job.ask(Stage.RESULTS, layer.floats_key(self.makes), lambda builder: float_matrix(
            builder, layer.floats_key(self.makes), problem.m, layer.columns(self.makes)))

    def _weights(self, job: Job) -> Callable[[], StoredTensor]:
        _, *inner = self.layer.shape(self.x)

        def make() -> StoredTensor:
            assert job.tensors is not None
            pitch, size = self._k(self.layer.config.bus_bytes) // inner[0], inner[-1] if len(inner) > 1 else 1
            head = np.arange(pitch) + size * np.arange(inner[0])[:, None]
            columns = np.where(np.arange(pitch) < size, head, -1).reshape(-1)
            return self.own(weight_tensor(job.tensors, self.weight, self.problem.b, job.scales[self.weight],
                                          self.layer.numerics.scale_rule, columns=columns))

        return make

    def emit(self, job: Job) -> None:
        emitter, schedule, target = job.emitter, job.schedule[self.name], job.memory[self.layer.floats_key(self.makes)]
        assert isinstance(self.node.op, Linear)
        cap, factor = self.node.op.cap, job.scales[self.x] * job.scales[self.weight] * self.node.op.scale
        regions = self.place(job.schedule)
        bias = ColumnBias(emitter, regions, job.memory[self._held_bias], self.name) if self.bias else None
        weights = job.memory[self.weights] if self.weights else None

        def finish(group: Group) -> None:
            own, scale = Elem(group.addr), factor
            if bias is not None:
                bias.add(group, factor)
                scale = None
            if weights is not None:
                weight = self._row_weights(emitter, group, weights, regions)
                emitter.compute(group.shape, Assign(to=own, value=own * weight, scale=scale, label="weigh rows"))
            elif bias is None and cap is None:
                emitter.compute(group.shape, Assign(to=own, value=own, scale=scale, label="scale"))
            if cap is not None:  # cap tanh(z / cap) = 2 cap sigmoid(2 z / cap) - cap
                emitter.compute(
                    group.shape, Assign(to=own, value=sigmoid(own * (2 / cap * (scale or 1.0))), label="sigmoid"),
                    Assign(to=own, value=own * (2 * cap) - cap, label="cap"))
            width = min(group.tiles * emitter.config.cols, self.problem.n - group.n0)
            emitter.store_acc(target, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0,
                              row_bytes=4 * width, addr=group.addr, pitch=group.pitch, label="store out")

        def moves(group: Group) -> tuple[Hashable, list[int]]:
            turn, added = bias.moves(group) if bias is not None else ((), [])
            return turn, [target.at(group.m0, 4 * group.n0), *added, *([weights.at(group.m0)] if weights else [])]

        emit_gemm(emitter, self.problem, schedule, job.memory[self.x], job.memory[self.held_weight], regions, finish,
                  moves)

    def _row_weights(self, emitter: Emitter, group: Group, weights: Matrix, regions: Mapping[str, list[int]]) -> Row:
        """Of a group's rows. In DRAM a weight is the first column of a column tile whose other columns are 0."""
        (addr,), (to,) = regions["rows with weights"], regions["weights of rows"]
        emitter.load_rows(weights, first_row=group.m0, rows=group.rows, row_bytes=4 * emitter.config.cols, addr=addr,
                          label="load weights of rows")
        emitter.compute(Shape(rows=group.rows), Assign(value=Elem(addr), reduce=Reduction(Reduce.MAX, to),
                                                       label="weights of rows"))
        return Row(to)
