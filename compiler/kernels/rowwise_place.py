"""What the rowwise kernel works on and what it needs on chip, and the schedule by rule that follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import DoesNotFit
from ...rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from ..candidates import first_that, row_counts
from ..dram import Matrix
from ..operands import Operand, k_unit
from ..schedule import RowwiseSchedule
from ..tiles.buffers import Buffer, Memory, align, fits, pitch, place, why_not

SUM_BLOCK = 256
"""Squares per row sum: the columns of the widest tile, in which no fewer can be added."""

TERM = TENSOR_FORMATS["e4m3"]
IDENTITY_CODE = 0x38
"""1.0 in E4M3."""


def padded_columns(columns: int, config: TileConfig, *formats: TensorFormat) -> int:
    """``columns`` in whole column tiles, and in whole blocks and bus beats of codes."""
    return align(columns, max(config.cols, config.bus_bytes, k_unit(config, *formats) if formats else 1))


COPIES = 4
"""Blocks that take turns: one is loaded, one has its squares taken, one is normalized, one is stored."""


MATMUL_CYCLES = 64
"""Of a MATMUL by an identity matrix, per panel of rows."""


def sum_unit(config: TileConfig) -> int:
    """Column tiles of `SUM_BLOCK` columns."""
    return max(1, SUM_BLOCK // config.cols)


@dataclass(frozen=True, kw_only=True)
class NormKind:
    """centered: of x - mean(x), a LayerNorm; biased: a vector is added. masked: columns behind a row's features must
    stay 0 where the mean is subtracted."""

    centered: bool = False
    biased: bool = False
    masked: bool = False


@dataclass(frozen=True, kw_only=True)
class NormRows:
    """weights, and bias of a norm that has one: (1, columns) FP32. amax: largest magnitude of the rows; features:
    elements of a row; ones: of a masked norm, (1, columns) with a 1 for each feature."""

    weights: Matrix
    eps: float
    amax: float
    features: int
    bias: Matrix | None = None
    ones: Matrix | None = None


@dataclass(frozen=True, kw_only=True)
class CodesTarget:
    """Codes of the result to ``to``, and their block scales to every further table of ``also``: the same codes with
    other tables. terms: E4M3 terms per value, side by side along k (0: not terms)."""

    to: Operand
    factor: float
    terms: int = 0
    also: tuple[Operand, ...] = ()

    @property
    def format(self) -> TensorFormat:
        return self.to.format


@dataclass(frozen=True, kw_only=True)
class RowwiseProblem:
    """What one kernel does, without matrices: enough to choose a schedule.

    rows, columns: of every matrix. inputs: 1, or 2 that are added. norm: its kind, None without one. formats: of codes
    that are written, TERM for terms. terms: of a target of terms, 0 without one. floats: is the result written in FP32
    too? """

    name: str
    rows: int
    columns: int
    inputs: int = 1
    norm: NormKind | None = None
    formats: tuple[TensorFormat, ...] = ()
    terms: int = 0
    floats: bool = False

    def tiles(self, config: TileConfig) -> int:
        return -(-self.columns // config.cols)

    def unit(self, config: TileConfig) -> int:
        """Column tiles of a piece are a multiple of this, but for the last."""
        return min(self.tiles(config), sum_unit(config))

    def block(self, schedule: RowwiseSchedule) -> int:
        """Rows of a block."""
        return min(schedule.m_tile, self.rows)

    def pitch(self, schedule: RowwiseSchedule, config: TileConfig) -> int:
        """Rows of the accumulator buffer between column tiles of a block."""
        return pitch(Memory.ACC, config, min(schedule.n_tiles, self.tiles(config)), self.block(schedule))

    def stage_pitch(self, config: TileConfig, tensor_format: TensorFormat, tiles: int) -> int:
        """Groups between panels of staged codes."""
        return align(tensor_format.bytes_of(tiles * config.cols), max(config.a_word_bytes, config.bus_bytes)
                     ) // config.lanes

    def buffers(self, schedule: RowwiseSchedule, config: TileConfig, copies: int = 1) -> list[Buffer]:
        """Everything on chip. copies: of rows, and at most two of addends, that there must be. A piece is fetched, then
        written, and what only one of the two needs may lie where the other's is."""
        rows, all_tiles = self.block(schedule), self.tiles(config)
        tiles = min(schedule.n_tiles, all_tiles)
        size = ((tiles - 1) * self.pitch(schedule, config) + rows,)
        words, panels = (-(-rows // config.cols),), -(-rows // config.rows)
        keys = "m_tile * n_tiles"

        def values(name: str, *alive: str, least: int = 1, most: int = 1,
                   beside: tuple[str, ...] = ("rows",)) -> Buffer:
            return Buffer(name=name, memory=Memory.ACC, sizes=size, least=least, most=most, keys=keys,
                          alive=frozenset(alive), beside=frozenset(beside), pitched=rows <= config.acc_bank_rows)

        def statistics(name: str, most: int, *beside: str) -> Buffer:
            return Buffer(name=name, memory=Memory.STATISTICS, sizes=words, most=most, keys="m_tile",
                          beside=frozenset(beside))

        found = [values("rows", least=copies, most=COPIES, beside=("addends",))]
        if self.inputs == 2:
            found.append(values("addends", "fetch", least=min(copies, 2), most=2))
        if self.norm is not None:
            resident = tiles == all_tiles
            found.append(values("norm weights") if resident else values("norm weights", "write", most=2))
            if self.norm.biased:
                found.append(values("norm bias", beside=("rows", "norm weights")) if resident else
                             values("norm bias", "write", most=2, beside=("rows", "norm weights")))
            if self.norm.masked:
                found.append(values("ones for features"))
            found += [statistics("row sums", COPIES, "sums of rows"), statistics("sums of rows", 2),
                      statistics("norms", 2), *([statistics("means", 2)] if self.norm.centered else [])]
        if self.terms > 1:
            found += [values("what terms leave", "write", beside=("decoded terms",)), values("decoded terms", "write")]
            width = identity_width(config)
            found.append(Buffer(name="identity matrix", memory=Memory.B,
                                sizes=(width // config.cols * (width // config.lanes),)))
        for tensor_format in self.formats:
            found.append(Buffer(name=f"staged {tensor_format.name} codes", memory=Memory.A, keys=keys, most=2,
                                sizes=(panels * self.stage_pitch(config, tensor_format, tiles),)))
        return found


    def place(self, schedule: RowwiseSchedule, config: TileConfig) -> dict[str, list[int]]:
        """Addresses of `buffers`, apart where there is room. Raises `DoesNotFit`."""
        buffers = self.buffers(schedule, config)
        apart = [replace(buffer, alive=frozenset()) for buffer in buffers]
        return place(apart if fits(apart, config) else buffers, config, self.name)


def identity_width(config: TileConfig) -> int:
    """Rows and columns of the identity matrix: whole column tiles, groups and bus beats. Wide enough that a MATMUL,
    which takes (width / lanes) * (width / cols) cycles per panel, is not mostly its start."""
    width = max(config.cols, config.lanes, config.bus_bytes)
    while (2 * width) ** 2 <= MATMUL_CYCLES * config.lanes * config.cols:
        width *= 2
    return width


def rowwise_schedule(config: TileConfig, problem: RowwiseProblem) -> RowwiseSchedule:
    """Whole rows if some fit, as many blocks of them as take turns; then the largest pieces; then packed ones. Raises
    `DoesNotFit`."""
    unit = problem.unit(config)
    sizes = [problem.tiles(config)]
    while sizes[-1] > unit:
        sizes.append(max(unit, align(sizes[-1] // 2, unit)))
    counts = list(row_counts(config, problem.rows))
    for packed, (tiles, copies) in product((False, True), product(sizes, range(COPIES, 0, -1))):
        def works(rows: int, tiles: int = tiles, copies: int = copies, packed: bool = packed) -> bool:
            return fits(problem.buffers(RowwiseSchedule(m_tile=rows, n_tiles=tiles), config, copies), config, packed)

        rows = first_that(counts, works)
        if rows is not None:
            return RowwiseSchedule(m_tile=rows, n_tiles=tiles)
    raise DoesNotFit(f"{problem.name}: one row of {unit} column tiles does not fit tile {config.name}: the accumulator "
                     f"buffer has {config.acc_banks} banks of {config.acc_bank_rows} rows, stat_banks = "
                     f"{config.stat_banks}, buffer A {config.a_banks} banks of {config.a_bank_groups} groups"
                     + why_not(problem.buffers(RowwiseSchedule(m_tile=1, n_tiles=unit), config), config, problem.name))
