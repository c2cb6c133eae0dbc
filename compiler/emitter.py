"""Instructions in the vocabulary of lowerings: matrices, tiles and regions instead of fields.

`Emitter` wraps a `ProgramBuilder`. It knows the layouts of design: a matrix in DRAM is row-major with rows of
``stride`` bytes, a multiple of the bus; on chip, row r of an operand lies in slice r mod slices.
"""

from dataclasses import dataclass

from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import fp32_bits
from ..rtl.spec.errors import CompileError
from ..rtl.spec.isa import (
    SPEC_BY_NAME,
    Combine,
    Dest,
    Func,
    Gather,
    Load,
    Matmul,
    Quant,
    Reduce,
    ScaleRule,
    Source,
    Space,
    Store,
    Vector,
)
from .builder import ProgramBuilder
from .dram import Matrix
from .operands import Operand


@dataclass(frozen=True)
class Src:
    """A VECTOR operand: use `imm`, `acc`, `row` or `column`."""

    kind: Source
    value: int


def imm(value: float) -> Src:
    """The FP32 constant nearest to ``value``."""
    return Src(Source.IMM, fp32_bits(value))


def acc(addr: int) -> Src:
    """Elementwise, from accumulator row ``addr``."""
    return Src(Source.ACC, addr)


def row(addr: int) -> Src:
    """One scalar per row."""
    return Src(Source.ROW, addr)


def column(addr: int) -> Src:
    """One value per column."""
    return Src(Source.COLUMN, addr)


ONE = imm(1.0)

VECTOR_TILES = (1 << next(f.bits for f in SPEC_BY_NAME["VECTOR"].fields if f.name == "tiles")) - 1
"""Column tiles of one VECTOR, at the most: what its field holds."""


class Emitter:
    """Emits instructions for one tile into one builder."""

    def __init__(self, builder: ProgramBuilder):
        self.builder = builder
        self.config: TileConfig = builder.config

    # DMA ---------------------------------------------------------------------------------------------

    def load_operand(self, space: Space, source: Matrix, *, first_row: int, rows: int, addr: int, pitch: int,
                     first_byte: int = 0, row_bytes: int | None = None, from_row: int = 0, label: str = "") -> None:
        """Rows of ``source`` to slices from ``from_row`` on; panels ``pitch`` groups apart."""
        self.builder.emit(Load(space=space, dram_addr=source.at(first_row, first_byte), row_stride=source.stride,
                               rows=rows, row_bytes=row_bytes or source.row_bytes, addr=addr, pitch=pitch,
                               row_offset=from_row), label)

    def load_piece(self, space: Space, source: Operand, *, first_row: int, rows: int, addr: int, pitch: int,
                   k0: int = 0, size: int | None = None, label: str = "") -> None:
        """``size`` elements from element ``k0`` of rows of ``source``, with their block scales."""
        fields = source.dma_fields(first_row, k0, size or source.k, self.config)
        self.builder.emit(Load(space=space, rows=rows, addr=addr, pitch=pitch, **fields), label)

    def gather_operand(self, source: Operand, *, index_addr: int, rows: int, addr: int, pitch: int,
                       label: str = "") -> None:
        """Rows of ``source`` chosen by the index memory, with their block scales, to A."""
        fields = source.dma_fields(0, 0, source.k, self.config)
        self.builder.emit(Gather(space=Space.A, rows=rows, addr=addr, pitch=pitch, index_addr=index_addr, **fields),
                          label)

    def load_rows(self, source: Matrix, *, first_row: int, rows: int, addr: int, pitch: int = 0, first_byte: int = 0,
                  row_bytes: int | None = None, index_addr: int | None = None, label: str = "") -> None:
        """FP32 rows to the accumulator buffer; a row longer than 4*cols bytes goes on ``pitch`` rows later."""
        fields = {"space": Space.ACC, "dram_addr": source.at(first_row, first_byte), "row_stride": source.stride,
                  "rows": rows, "row_bytes": row_bytes or source.row_bytes, "addr": addr, "pitch": pitch}
        if index_addr is None:
            self.builder.emit(Load(**fields), label)
        else:
            self.builder.emit(Gather(**fields, index_addr=index_addr), label)

    def load_index(self, source: Matrix, *, first: int, count: int, addr: int, label: str = "") -> None:
        """``count`` 4-byte indices, from entry ``first`` (bus-aligned) of ``source``."""
        self.builder.emit(Load(space=Space.INDEX, dram_addr=source.addr + 4 * first,
                               row_stride=self.config.bus_bytes, rows=1, row_bytes=4 * count, addr=addr), label)

    def store_acc(self, target: Matrix, *, first_row: int, rows: int, first_byte: int, row_bytes: int, addr: int,
                  pitch: int, label: str = "") -> None:
        """FP32 rows from the accumulator buffer."""
        self.builder.emit(Store(space=Space.ACC, dram_addr=target.at(first_row, first_byte),
                                row_stride=target.stride, rows=rows, row_bytes=row_bytes, addr=addr, pitch=pitch),
                          label)

    def store_codes(self, target: Matrix, *, first_row: int, rows: int, first_byte: int, row_bytes: int, addr: int,
                    pitch: int, src_byte: int = 0, from_row: int = 0, label: str = "") -> None:
        """Rows of codes from buffer A: row ``from_row`` on, byte ``src_byte`` on of the region at ``addr``.

        A row that does not start at a bus beat on both sides is cut into pieces of one beat.
        """
        bus, lanes = self.config.bus_bytes, self.config.lanes
        start = target.at(first_row, first_byte)
        panel, offset = divmod(from_row, self.config.rows)
        addr += panel * pitch
        done = 0
        while done < row_bytes:
            source, destination, left = src_byte + done, start + done, row_bytes - done
            if source % bus == 0 and destination % bus == 0:
                size = left
            else:
                size = min(left, bus - source % bus, bus - destination % bus)
            self.builder.emit(Store(space=Space.A, dram_addr=destination, row_stride=target.stride, rows=rows,
                                    row_bytes=size, addr=addr + source // bus * (bus // lanes), pitch=pitch,
                                    row_offset=offset, src_byte=source % bus), label)
            done += size

    def store_operand(self, target: Operand, *, first_row: int, rows: int, k0: int, size: int, addr: int, pitch: int,
                      from_row: int = 0, label: str = "") -> None:
        """``size`` elements of row ``from_row`` on of A's region at ``addr``, with their block scales, to element
        ``k0`` on of rows of ``target``."""
        tensor_format, table = target.format, target.scales
        first_byte, row_bytes = tensor_format.bytes_of(k0), tensor_format.bytes_of(size)
        if table is None:
            self.store_codes(target.matrix, first_row=first_row, rows=rows, first_byte=first_byte, row_bytes=row_bytes,
                             addr=addr, pitch=pitch, from_row=from_row, label=label)
            return
        start, bus = target.matrix.at(first_row, first_byte), self.config.bus_bytes
        if size % tensor_format.block or (start % bus and start % bus + row_bytes > bus):
            raise CompileError(f"{label}: {size} elements from element {k0} are no whole blocks of "
                               f"{tensor_format.block} elements in whole bus beats")
        panel, offset = divmod(from_row, self.config.rows)
        self.builder.emit(Store(space=Space.A, dram_addr=start, row_stride=target.matrix.stride, rows=rows,
                                row_bytes=row_bytes, addr=addr + panel * pitch, pitch=pitch, row_offset=offset,
                                scale=tensor_format.layout(self.config.lanes),
                                scale_addr=table.at(first_row, 0) + tensor_format.scale_bytes_of(k0),
                                scale_stride=table.stride), label)

    # Matrix and vector -------------------------------------------------------------------------------

    def matmul(self, label: str = "", **fields: int) -> None:
        """A MATMUL with the fields of the instruction table."""
        self.builder.emit(Matmul(**fields), label)

    def vector(self, *, rows: int, x: int, tiles: int = 1, pitch: int = 0, y: Src = ONE, z: Src | None = None,
               combine: Combine = Combine.NONE, func: Func = Func.NONE, w: Src = ONE, to_acc: int | None = None,
               to_a: int | None = None, dst_pitch: int = 0, reduce: Reduce = Reduce.NONE, reduce_addr: int = 0,
               x_swap: int = 0, quant: Quant = Quant.E4M3, scale_rule: ScaleRule = ScaleRule.FLOOR,
               label: str = "") -> None:
        """out = func(combine(x*y, z)) * w, written to accumulator rows or, quantized, to buffer A.

        Block formats (``quant``) take their anchor or tensor scale from z; combine must be NONE then. scale_rule: of
        power-of-two block scales.
        """
        if to_acc is not None and to_a is not None:
            raise CompileError("a VECTOR has one destination")
        dest = Dest.ACC if to_acc is not None else Dest.A if to_a is not None else Dest.NONE
        z = z or imm(0.0)
        self.builder.emit(Vector(
            rows=rows, tiles=tiles, x_addr=x, pitch=pitch, y_kind=y.kind, y=y.value, z_kind=z.kind, z=z.value,
            w_kind=w.kind, w=w.value, combine=combine, func=func, dest=dest,
            dst_addr=(to_acc if to_acc is not None else to_a or 0), dst_pitch=dst_pitch, reduce=reduce,
            reduce_addr=reduce_addr, x_swap=x_swap, quant=quant,
            scale_rule=scale_rule), label)
