"""Instructions in the vocabulary of lowerings: matrices, tiles and regions instead of fields.

`Emitter` wraps a `ProgramBuilder`. It knows the layouts of design: a matrix in DRAM is row-major with rows of
``stride`` bytes, a multiple of the bus; on chip, row r of an operand lies in slice r mod slices.
"""

from collections.abc import Sequence

from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import fp32_bits
from ..rtl.spec.errors import CompileError
from ..rtl.spec.isa import SPEC_BY_NAME, Combine, Dest, Gather, Instruction, Load, Matmul, Source, Space, Store, Vector
from .builder import ProgramBuilder
from .dram import Matrix
from .operands import Operand
from .tiles.expr import Assign, Codes, Col, Elem, Imm, Leaf, Row, Shape
from .tiles.select import Packed, select

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

    def gather_operand(self, source: Operand, *, index_addr: int, rows: int, addr: int, pitch: int, k0: int = 0,
                       size: int | None = None, label: str = "") -> None:
        """``size`` elements from element ``k0`` of rows of ``source`` chosen by the index memory, with their block
        scales, to A."""
        fields = source.dma_fields(0, k0, size or source.k, self.config)
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

    def compute(self, shape: Shape, *statements: Assign, temporaries: Sequence[Elem] = ()) -> None:
        """VECTORs for statements over one shape, in order; temporaries: as `select`."""
        for statement in statements:
            for packed in select(statement, temporaries):
                self.builder.emit(vector_instruction(shape, packed), packed.label)


def vector_instruction(shape: Shape, packed: Packed) -> Instruction:
    """The VECTOR of a packed expression over ``shape``."""
    (y_kind, y), (z_kind, z), (w_kind, w) = map(_source, (packed.y, packed.z or _ZERO, packed.w))
    fields: dict[str, int] = {}
    if isinstance(packed.to, Elem):
        fields = {"dest": Dest.ACC, "dst_addr": packed.to.addr, "dst_pitch": shape.pitch}
    elif isinstance(packed.to, Codes):
        codes = packed.to
        fields = {"dest": Dest.A, "dst_addr": codes.addr, "dst_pitch": codes.pitch, "quant": codes.quant,
                  "scale_rule": codes.scale_rule}
        if codes.relative_to is not None:
            if packed.combine != Combine.NONE:
                raise CompileError(f"{packed.label}: codes with block scales take operand z, so that they cannot be "
                                   f"made of a {packed.combine.name.lower()}")
            z_kind, z = _source(codes.relative_to)
    if packed.reduce is not None:
        fields |= {"reduce": packed.reduce.kind, "reduce_addr": packed.reduce.addr}
    return Vector(rows=shape.rows, tiles=shape.tiles, pitch=shape.pitch, x_addr=packed.x.addr, x_swap=packed.x.swap,
                  y_kind=y_kind, y=y, z_kind=z_kind, z=z, w_kind=w_kind, w=w, combine=packed.combine,
                  func=packed.func, **fields)


_KINDS = {Elem: Source.ACC, Row: Source.ROW, Col: Source.COLUMN}
_ZERO = Imm(0.0)


def _source(leaf: Leaf) -> tuple[Source, int]:
    """Kind and value of an operand y, z or w."""
    return (Source.IMM, fp32_bits(leaf.value)) if isinstance(leaf, Imm) else (_KINDS[type(leaf)], leaf.addr)
