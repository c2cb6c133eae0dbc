"""C[m, n] = sum over k of A[m, k] * B[n, k]: the loop nest that every projection and expert uses.

For each block of ``m_tile`` rows of A, for each group of column tiles, for each ``n_tiles`` of them, for each
chunk of k (with ``k_outer``, the last two exchanged): load a piece of B, multiply. B pieces rotate through buffer
B, so that loads run ahead as far as it holds; when k has more than one chunk, raw accumulators stay in the
accumulator buffer between the chunks. An epilogue gets every finished group.

An operand may be a sum of *terms* (`logits.py`), which lie side by side along k in its rows. C is then the sum
over some pairs of terms, in one accumulator: each piece of each term of B is loaded once and multiplied by the terms of
A that it is paired with.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import lcm

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Space
from ...rtl.spec.tensor_formats import TensorFormat
from ..emitter import VECTOR_TILES, Emitter
from ..formats import MatmulMode, matmul_mode
from ..operands import Operand, k_unit, stream_unit, widest_k
from ..schedule import GemmSchedule
from ..tiles.buffers import AS_MANY_AS_FIT, Buffer, Memory, align
from ..tiles.expr import Shape


@dataclass(frozen=True)
class Group:
    """A finished group of column tiles, as the epilogue sees it.

    index: running number (for double buffering); m0, rows: rows of C; n0: first column; tiles: column tiles;
    addr, pitch: its accumulator rows (row i, tile j at addr + i + j*pitch).
    """

    index: int
    m0: int
    rows: int
    n0: int
    tiles: int
    addr: int
    pitch: int

    @property
    def shape(self) -> Shape:
        """Of statements over the whole group."""
        return Shape(rows=self.rows, tiles=self.tiles, pitch=self.pitch)


Epilogue = Callable[[Group], None]

Moves = Callable[[Group], tuple[Hashable, list[int]] | None]
"""What else than the group's shape and addresses on chip decides the epilogue's instructions, and an address in each
segment of DRAM in which it moves with the group (`ProgramBuilder.repeat`); None for a group of its own kind."""

Products = Sequence[tuple[int, int]]
"""Pairs (term of A, term of B) whose products C sums."""

SINGLE: Products = ((0, 0),)
"""Operands of one term."""


@dataclass(frozen=True, kw_only=True)
class GemmProblem:
    """What one GEMM multiplies: C (m, n) from A (m, k) in format ``a`` and B (n, k) in ``b``.

    k: elements of one term, padded; layer_k: those of the layer, from which the headroom follows. cut: are block scales
    of A cut by ``k_tile`` in DRAM, as those of B are? biased: does a grouped kernel's epilogue add a bias to C?
    """

    name: str
    m: int
    n: int
    k: int
    layer_k: int
    a: TensorFormat
    b: TensorFormat
    products: Products = SINGLE
    cut: bool = False
    biased: bool = False

    @property
    def terms(self) -> int:
        """Terms of A, side by side along its rows."""
        return 1 + max(a_term for a_term, _ in self.products)

    def k_unit(self, config: TileConfig, resident: bool) -> int:
        """Of what chunks of k are a multiple."""
        own = k_unit(config, self.a, self.b)
        return own if resident or self.cut else lcm(own, stream_unit(config, self.a))

    def rows(self, schedule: GemmSchedule) -> int:
        """Rows of A in one block, at the most."""
        return min(schedule.m_tile, self.m)

    def buffers(self, schedule: GemmSchedule, config: TileConfig, epilogue: Sequence[Buffer] = ()) -> list[Buffer]:
        """Everything on chip: ``NAME result group``, the epilogue's buffers, ``NAME A block`` and ``NAME B piece``."""
        return [self.results(schedule, config), *epilogue, self.a_blocks(schedule, config),
                self.b_pieces(schedule, config)]

    def results(self, schedule: GemmSchedule, config: TileConfig) -> Buffer:
        """Two groups of column tiles (one if there is but one), ``rows`` rows each."""
        tiles = -(-self.n // config.cols)
        size = min(schedule.group_tiles, tiles)
        if size > VECTOR_TILES:
            raise CompileError(f"{self.name}: group_tiles must be at most {VECTOR_TILES}, got {schedule.group_tiles}")
        copies = min(2, -(-tiles // schedule.group_tiles))
        raw = self.k > schedule.k_tile or len(self.products) > 1
        return Buffer(name=f"{self.name} result group", memory=Memory.ACC, sizes=(size * self.rows(schedule),),
                      least=copies, most=copies, few=1, raw=raw, keys="group_tiles of m_tile rows",
                      beside=frozenset())

    def a_blocks(self, schedule: GemmSchedule, config: TileConfig) -> Buffer:
        """Blocks of A with all of k, or, streamed, chunks of it."""
        panels = -(-self.rows(schedule) // config.rows)
        if schedule.a_resident:
            return Buffer(name=f"{self.name} A block", memory=Memory.A, sizes=(panels * self.a_pitch(config),), most=2,
                          keys="m_tile rows")
        groups = self.a.bytes_of(min(schedule.k_tile, self.k)) // config.lanes
        return Buffer(name=f"{self.name} A block", memory=Memory.A, sizes=(self.terms * panels * groups,), most=4,
                      keys="m_tile rows, k_tile")

    def a_pitch(self, config: TileConfig) -> int:
        """Groups between panels of a resident block."""
        row_bytes = self.a.bytes_of(self.terms * self.k)
        return align(row_bytes, max(config.bus_bytes, config.a_word_bytes)) // config.lanes

    def b_pieces(self, schedule: GemmSchedule, config: TileConfig) -> Buffer:
        """Pieces of B, which rotate: as many as fit, so that loads run ahead."""
        groups = self.b.bytes_of(min(schedule.k_tile, self.k)) // config.lanes
        return Buffer(name=f"{self.name} B piece", memory=Memory.B, sizes=(schedule.n_tiles * groups,),
                      most=AS_MANY_AS_FIT, keys="n_tiles, k_tile")


@dataclass(frozen=True)
class Resident:
    """An A block that is already on chip: panels ``pitch`` groups apart from ``addr``, all of k and all terms."""

    addr: int
    pitch: int


@dataclass(frozen=True)
class Stream:
    """A block of A that is not resident: rows ``m0`` to m0 + rows - 1 of ``operand``, a chunk of k in each of ``slots``
    in turn, its terms one after another. index_addr: the rows are those that the index memory names from there on, and
    there is one term."""

    operand: Operand
    slots: tuple[int, ...]
    m0: int
    rows: int
    index_addr: int | None = None


class Gemm:
    """One GEMM on one tile: the problem and its regions are fixed, blocks are emitted one by one.

    place: addresses of the problem's results and of its pieces of B.
    """

    def __init__(self, emitter: Emitter, problem: GemmProblem, schedule: GemmSchedule, place: Mapping[str, list[int]]):
        config, a, b, name, k = emitter.config, problem.a, problem.b, problem.name, problem.k
        unit, chunk = k_unit(config, a, b), problem.k_unit(config, schedule.a_resident)
        if k % unit or schedule.k_tile % unit or (schedule.k_tile < k and schedule.k_tile % chunk):
            raise CompileError(f"{name}: k = {k} and k_tile = {schedule.k_tile} must be multiples of {unit} elements"
                               f"{f', k_tile of {chunk},' if chunk > unit else ''} "
                               f"(bus_bytes = {config.bus_bytes}; {a.name} x {b.name})")
        self.emitter, self.problem, self.schedule = emitter, problem, schedule
        self.mode: MatmulMode = matmul_mode(a, b, widest_k(problem.layer_k) * len(problem.products), config, name)
        self.products = sorted(problem.products, key=lambda pair: pair[1])
        self.chunks = [(k0, min(schedule.k_tile, k - k0)) for k0 in range(0, k, schedule.k_tile)]
        self.results, self.pieces = place[f"{name} result group"], place[f"{name} B piece"]
        self._groups = self._a_addr = self._loaded = self._streamed = 0

    def _groups_of(self, tensor_format: TensorFormat, elements: int) -> int:
        return tensor_format.bytes_of(elements) // self.emitter.config.lanes

    def block(self, *, m0: int, rows: int, a: Resident | Stream, b: Operand, epilogue: Epilogue,
              moves: Moves | None = None) -> None:
        """Emit all columns of one block of rows. moves: of the epilogue, whose groups may then be repeated."""
        cols, step = self.emitter.config.cols, self.schedule.group_tiles
        total = -(-self.problem.n // cols)
        for first in range(0, total, step):
            tiles = min(step, total - first)
            addr = self.results[self._groups % len(self.results)]
            group = Group(self._groups, m0, rows, first * cols, tiles, addr, pitch=rows)
            self._groups += 1
            moved = moves(group) if moves else None
            if moved is None:
                self._group(group, a, b, epilogue)
            else:
                self._repeated(group, a, b, epilogue, *moved)

    def _group(self, group: Group, a: Resident | Stream, b: Operand, epilogue: Epilogue) -> tuple[int, int]:
        """Returns the pieces of B and the chunks of A that were loaded."""
        before, streamed = self._loaded, self._streamed
        for tile, chunk in self._order(group.tiles):
            self._piece(group, tile, chunk, a, b)
        epilogue(group)
        return self._loaded - before, self._streamed - streamed

    def _repeated(self, group: Group, a: Resident | Stream, b: Operand, epilogue: Epilogue, key: Hashable,
                  anchors: list[int]) -> None:
        """As another group with the same shape, if the buffers that take turns are at the same one."""
        cols, before, streamed = self.emitter.config.cols, self._loaded, self._streamed
        turn, own = a, []
        if isinstance(a, Stream):
            turn, own = (streamed % len(a.slots), a.index_addr), a.operand.anchors(a.m0, 0)
        columns = [min(group.tiles * cols, limit - group.n0) for limit in (b.rows, self.problem.n)]
        words = [f"m{group.m0}", *(f"n{group.n0 + tile * cols}" for tile in range(group.tiles))]
        pieces, chunks = self.emitter.builder.repeat(
            (self.problem.name, turn, group.rows, group.tiles, group.addr, before % len(self.pieces), *columns, key),
            [*own, *b.anchors(group.n0, 0), *anchors], lambda: self._group(group, a, b, epilogue), words)
        self._loaded, self._streamed = before + pieces, streamed + chunks

    def _order(self, tiles: int) -> list[tuple[int, int]]:
        """(first column tile, number of the chunk of k) of every piece of a group, in the order of execution."""
        starts, chunks = range(0, tiles, self.schedule.n_tiles), range(len(self.chunks))
        if self.schedule.k_outer:
            return [(tile, chunk) for chunk in chunks for tile in starts]
        return [(tile, chunk) for tile in starts for chunk in chunks]

    def _piece(self, group: Group, tile: int, chunk: int, a: Resident | Stream, b: Operand) -> None:
        config, problem, name = self.emitter.config, self.problem, self.problem.name
        count = min(self.schedule.n_tiles, group.tiles - tile)
        n0, (k0, size) = group.n0 + tile * config.cols, self.chunks[chunk]
        b_groups = self._groups_of(problem.b, size)
        a_addr, a_pitch, a_step = self._a(a, tile, k0, size, group.rows)
        b_addr, loaded, last = 0, -1, len(self.chunks) * len(self.products) - 1
        for number, (a_term, b_term) in enumerate(self.products, chunk * len(self.products)):
            terms = f" terms {a_term} {b_term}" if len(self.products) > 1 else ""
            if b_term != loaded:
                b_addr, loaded = self.pieces[self._loaded % len(self.pieces)], b_term
                self._loaded += 1
                self.emitter.load_piece(Space.B, b, first_row=n0, rows=min(count * config.cols, b.rows - n0),
                                        k0=b_term * problem.k + k0, size=size, addr=b_addr, pitch=b_groups,
                                        label=f"{name} b n{n0} k{k0}{terms and f' term {b_term}'}")
            self.emitter.matmul(
                label=f"{name} m{group.m0} n{n0} k{k0}{terms}", a_addr=a_addr + a_term * a_step, a_pitch=a_pitch,
                b_addr=b_addr, b_pitch=b_groups, k_steps=size // self.mode.k_per_step, m_rows=group.rows,
                n_tiles=count, acc_addr=group.addr + tile * group.pitch, acc_pitch=group.pitch, merge=int(number > 0),
                raw=int(number < last), **self.mode.fields)

    def _a(self, a: Resident | Stream, tile: int, k0: int, size: int, rows: int) -> tuple[int, int, int]:
        """Address and pitch of a chunk of A, and groups from term to term; a streamed one is loaded unless it is the
        one on chip."""
        problem = self.problem
        if isinstance(a, Resident):
            return a.addr + self._groups_of(problem.a, k0), a.pitch, self._groups_of(problem.a, problem.k)
        if tile == 0 or not self.schedule.k_outer:
            self._a_addr = self._stream(a, k0, size)
        groups = self._groups_of(problem.a, size)
        return self._a_addr, groups, -(-rows // self.emitter.config.rows) * groups

    def _stream(self, a: Stream, k0: int, size: int) -> int:
        """Load a chunk of A; its address."""
        config, problem = self.emitter.config, self.problem
        addr, groups = a.slots[self._streamed % len(a.slots)], self._groups_of(problem.a, size)
        self._streamed += 1
        if a.index_addr is not None:
            self.emitter.gather_operand(a.operand, index_addr=a.index_addr, rows=a.rows, k0=k0, size=size, addr=addr,
                                        pitch=groups, label=f"{problem.name} a gather k{k0}")
            return addr
        for term in range(problem.terms):
            named = f" term {term}" if problem.terms > 1 else ""
            self.emitter.load_piece(Space.A, a.operand, first_row=a.m0, rows=a.rows, k0=term * problem.k + k0,
                                    size=size, addr=addr + term * -(-a.rows // config.rows) * groups, pitch=groups,
                                    label=f"{problem.name} a m{a.m0} k{k0}{named}")
        return addr


def emit_gemm(emitter: Emitter, problem: GemmProblem, schedule: GemmSchedule, a: Operand, b: Operand,
              place: Mapping[str, list[int]], epilogue: Epilogue, moves: Moves | None = None) -> None:
    """A whole GEMM with A from DRAM: blocks of ``m_tile`` rows, resident or streamed. moves: of the epilogue."""
    config, name, blocks = emitter.config, problem.name, place[f"{problem.name} A block"]
    gemm = Gemm(emitter, problem, schedule, place)
    slots, rows_max = cycle(blocks), problem.rows(schedule)
    for m0 in range(0, problem.m, rows_max):
        rows = min(rows_max, problem.m - m0)
        if schedule.a_resident:
            addr, pitch = next(slots), problem.a_pitch(config)
            emitter.load_piece(Space.A, a, first_row=m0, rows=rows, addr=addr, pitch=pitch, label=f"{name} a m{m0}")
            gemm.block(m0=m0, rows=rows, a=Resident(addr, pitch), b=b, epilogue=epilogue, moves=moves)
        else:
            gemm.block(m0=m0, rows=rows, a=Stream(a, tuple(blocks), m0, rows), b=b, epilogue=epilogue, moves=moves)
