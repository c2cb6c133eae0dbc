"""C[m, n] = sum over k of A[m, k] * B[n, k]: the loop nest that every projection and expert uses.

For each block of ``m_tile`` rows of A, for each group of column tiles, for each ``n_tiles`` of them, for each
chunk of k (with ``k_outer``, the last two exchanged): load a piece of B, multiply. B pieces rotate through buffer
B, so that loads run ahead as far as it holds; when k has more than one chunk, raw accumulators stay in the
accumulator buffer between the chunks. An epilogue gets every finished group.

An operand may be a sum of *terms* (`moe/logits.py`), which lie side by side along k in its rows. C is then the sum
over some pairs of terms, in one accumulator: each piece of each term of B is loaded once and multiplied by the terms of
A that it is paired with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..rtl.spec.errors import CompileError, DoesNotFit
from ..rtl.spec.isa import Space
from ..rtl.spec.tensor_formats import TensorFormat
from .emitter import VECTOR_TILES, Emitter
from .formats import MatmulMode, matmul_mode
from .operands import Operand, k_unit, widest_k
from .placement import AccPlacer, AccRegion, OperandPlacer, align
from .schedule import GemmSchedule


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


Epilogue = Callable[[Group], None]

Products = Sequence[tuple[int, int]]
"""Pairs (term of A, term of B) whose products C sums."""

SINGLE: Products = ((0, 0),)
"""Operands of one term."""


class BRing:
    """Buffer B as a ring of equal pieces, each of whole banks."""

    def __init__(self, emitter: Emitter, piece_groups: int, purpose: str):
        placer = OperandPlacer(emitter.config, "B", purpose)
        piece_banks = -(-piece_groups // placer.bank_groups)
        count = placer.banks // piece_banks
        if count < 1:
            raise DoesNotFit(f"{purpose}: one piece of B (n_tiles, k_tile) needs {piece_groups} groups per slice, "
                             f"buffer B has {placer.banks * placer.bank_groups}")
        self._addresses = [i * piece_banks * placer.bank_groups for i in range(count)]
        self._next = 0

    def take(self) -> int:
        """Address of the next piece."""
        self._next += 1
        return self._addresses[(self._next - 1) % len(self._addresses)]


@dataclass(frozen=True)
class Resident:
    """An A block that is already on chip: panels ``pitch`` groups apart from ``addr``, all of k and all terms."""

    addr: int
    pitch: int


Stream = Callable[[int, int], int]
"""(k0, size) -> address: loads a chunk of ``size`` elements of A that is not resident, its terms one after another."""


class Gemm:
    """One GEMM on one tile: shapes, formats and regions fixed, blocks emitted one by one. k counts elements of one
    term; layer_k: those of the layer, unpadded, from which the headroom follows."""

    def __init__(self, emitter: Emitter, schedule: GemmSchedule, *, name: str, k: int, n: int, layer_k: int,
                 a: TensorFormat, b: TensorFormat, acc_regions: Sequence[AccRegion], products: Products = SINGLE):
        config = emitter.config
        unit = k_unit(config, a, b)
        if k % unit or schedule.k_tile % unit:
            raise CompileError(f"{name}: k = {k} and k_tile = {schedule.k_tile} must be multiples of {unit} elements "
                               f"(bus_bytes = {config.bus_bytes}; {a.name} x {b.name})")
        self.emitter, self.schedule, self.name, self.k, self.n = emitter, schedule, name, k, n
        self.a_format, self.b_format = a, b
        self.mode: MatmulMode = matmul_mode(a, b, widest_k(layer_k) * len(products), config, name)
        self.products = sorted(products, key=lambda pair: pair[1])
        self.chunks = [(k0, min(schedule.k_tile, k - k0)) for k0 in range(0, k, schedule.k_tile)]
        self.acc_regions = acc_regions
        self.ring = BRing(emitter, schedule.n_tiles * self._groups_of(b, min(schedule.k_tile, k)), name)
        self._groups = self._a_addr = 0

    def _groups_of(self, tensor_format: TensorFormat, elements: int) -> int:
        return tensor_format.bytes_of(elements) // self.emitter.config.lanes

    @property
    def raw(self) -> bool:
        """True when partial accumulators are kept between chunks of k or products."""
        return len(self.chunks) * len(self.products) > 1

    def block(self, *, m0: int, rows: int, a: Resident | Stream, b: Operand, epilogue: Epilogue) -> None:
        """Emit all columns of one block of rows."""
        cols, step = self.emitter.config.cols, self.schedule.group_tiles
        total = -(-self.n // cols)
        for first in range(0, total, step):
            tiles = min(step, total - first)
            region = self.acc_regions[self._groups % len(self.acc_regions)]
            group = Group(self._groups, m0, rows, first * cols, tiles, region.addr, self._pitch(rows, region, tiles))
            self._groups += 1
            for tile, chunk in self._order(tiles):
                self._piece(group, tile, chunk, a, b)
            epilogue(group)

    def _order(self, tiles: int) -> list[tuple[int, int]]:
        """(first column tile, number of the chunk of k) of every piece of a group, in the order of execution."""
        starts, chunks = range(0, tiles, self.schedule.n_tiles), range(len(self.chunks))
        if self.schedule.k_outer:
            return [(tile, chunk) for chunk in chunks for tile in starts]
        return [(tile, chunk) for tile in starts for chunk in chunks]

    def _pitch(self, rows: int, region: AccRegion, tiles: int) -> int:
        if rows * tiles > region.rows:
            raise DoesNotFit(f"{self.name}: a group of {tiles} tiles of {rows} rows does not fit its "
                             f"{region.rows} accumulator rows")
        return rows

    def _piece(self, group: Group, tile: int, chunk: int, a: Resident | Stream, b: Operand) -> None:
        config = self.emitter.config
        count = min(self.schedule.n_tiles, group.tiles - tile)
        n0, (k0, size) = group.n0 + tile * config.cols, self.chunks[chunk]
        b_groups = self._groups_of(self.b_format, size)
        a_addr, a_pitch, a_step = self._a(a, tile, k0, size, group.rows)
        b_addr, loaded, last = 0, -1, len(self.chunks) * len(self.products) - 1
        for number, (a_term, b_term) in enumerate(self.products, chunk * len(self.products)):
            terms = f" terms {a_term} {b_term}" if len(self.products) > 1 else ""
            if b_term != loaded:
                b_addr, loaded = self.ring.take(), b_term
                self.emitter.load_piece(Space.B, b, first_row=n0, rows=min(count * config.cols, b.rows - n0),
                                        k0=b_term * self.k + k0, size=size, addr=b_addr, pitch=b_groups,
                                        label=f"{self.name} b n{n0} k{k0}{terms and f' term {b_term}'}")
            self.emitter.matmul(
                label=f"{self.name} m{group.m0} n{n0} k{k0}{terms}", a_addr=a_addr + a_term * a_step, a_pitch=a_pitch,
                b_addr=b_addr, b_pitch=b_groups, k_steps=size // self.mode.k_per_step, m_rows=group.rows,
                n_tiles=count, acc_addr=group.addr + tile * group.pitch, acc_pitch=group.pitch, merge=int(number > 0),
                raw=int(number < last), **self.mode.fields)

    def _a(self, a: Resident | Stream, tile: int, k0: int, size: int, rows: int) -> tuple[int, int, int]:
        """Address and pitch of a chunk of A, and groups from term to term; a streamed one is loaded unless it is the
        one on chip."""
        if isinstance(a, Resident):
            return a.addr + self._groups_of(self.a_format, k0), a.pitch, self._groups_of(self.a_format, self.k)
        if tile == 0 or not self.schedule.k_outer:
            self._a_addr = a(k0, size)
        groups = self._groups_of(self.a_format, size)
        return self._a_addr, groups, -(-rows // self.emitter.config.rows) * groups


def acc_regions(placer: AccPlacer, schedule: GemmSchedule, k: int, rows: int, n: int, cols: int,
                count: int = 2, products: Products = SINGLE) -> list[AccRegion]:
    """``count`` regions for the groups of a GEMM with blocks of ``rows`` rows (fewer if there are fewer groups)."""
    tiles = -(-n // cols)
    if min(schedule.group_tiles, tiles) > VECTOR_TILES:
        raise CompileError(f"{placer.purpose}: group_tiles must be at most {VECTOR_TILES}, got {schedule.group_tiles}")
    size = min(schedule.group_tiles, tiles) * rows
    groups = -(-tiles // schedule.group_tiles)
    what = "a result group (group_tiles of m_tile rows)"
    raw = k > schedule.k_tile or len(products) > 1
    return [placer.take(size, raw=raw, what=what) for _ in range(min(count, groups))]


def emit_gemm(emitter: Emitter, schedule: GemmSchedule, *, name: str, a: Operand, b: Operand, m: int, n: int,
              layer_k: int, epilogue: Epilogue, regions: Sequence[AccRegion], a_placer: OperandPlacer,
              products: Products = SINGLE) -> None:
    """A whole GEMM with A from DRAM: blocks of ``m_tile`` rows, resident or streamed. layer_k: as `Gemm`."""
    config = emitter.config
    terms = 1 + max(a_term for a_term, _ in products)
    k = a.k // terms
    gemm = Gemm(emitter, schedule, name=name, k=k, n=n, layer_k=layer_k, a=a.format, b=b.format, acc_regions=regions,
                products=products)
    rows_max = min(schedule.m_tile, m)
    panels = -(-rows_max // config.rows)
    if schedule.a_resident:
        pitch = align(a.format.bytes_of(a.k), max(config.bus_bytes, config.a_word_bytes)) // config.lanes
        slots = _slots(a_placer, panels * pitch, "a block of A (m_tile rows)")
        for number, m0 in enumerate(range(0, m, rows_max)):
            rows = min(rows_max, m - m0)
            addr = slots[number % len(slots)]
            emitter.load_piece(Space.A, a, first_row=m0, rows=rows, addr=addr, pitch=pitch, label=f"{name} a m{m0}")
            gemm.block(m0=m0, rows=rows, a=Resident(addr, pitch), b=b, epilogue=epilogue)
        return
    chunk_groups = a.format.bytes_of(min(schedule.k_tile, k)) // config.lanes
    slots = _slots(a_placer, terms * panels * chunk_groups, "a chunk of A (m_tile rows, k_tile)", limit=4)
    calls = 0
    for m0 in range(0, m, rows_max):
        rows = min(rows_max, m - m0)

        def stream(k0: int, size: int, m0: int = m0, rows: int = rows) -> int:
            nonlocal calls
            addr, calls = slots[calls % len(slots)], calls + 1
            groups = a.format.bytes_of(size) // config.lanes
            for term in range(terms):
                emitter.load_piece(Space.A, a, first_row=m0, rows=rows, k0=term * k + k0, size=size,
                                   addr=addr + term * -(-rows // config.rows) * groups, pitch=groups,
                                   label=f"{name} a m{m0} k{k0}{f' term {term}' if terms > 1 else ''}")
            return addr

        gemm.block(m0=m0, rows=rows, a=stream, b=b, epilogue=epilogue)


def _slots(placer: OperandPlacer, groups: int, what: str, limit: int = 2) -> list[int]:
    """As many equal regions of ``groups`` groups as fit, at least one, at most ``limit``."""
    slots = [placer.take(groups, what)]
    banks = -(-groups // placer.bank_groups)
    while len(slots) < limit and placer.free_groups >= banks * placer.bank_groups:
        slots.append(placer.take(groups, what))
    return slots
