"""The instruction set, from one table.

`INSTRUCTIONS` is the only place where an opcode, a field, its width or its meaning is written down. The
256-bit layout, the Python instruction classes, the encoder and decoder (`encoding.py`), the assembler (`assembly.py`),
the RTL decoder (`layout_of`) and the reference page (`reference_page`) all derive from it.

Every instruction is one *macro*: a tile job of tens to thousands of cycles on one of four units (load, store,
matrix, vector), each with an in-order queue. `SYNC` and `HALT` are executed by the dispatcher itself.

**Order between units** is kept by counting semaphores, one for every (producer unit, kind, consumer unit).
The kinds are ``rd`` (the producer has read its last on-chip operand; the rows of ACC that a MATMUL merges with are
read later, until ``wr``) and ``wr`` (the producer has finished: its last write is visible). An instruction lists in
four masks which semaphores it takes one token from before it issues (``wait_rd``, ``wait_wr``: a bit per producer)
and which it gives one token to (``signal_rd``, ``signal_wr``: a bit per consumer). Because each semaphore has one
producer queue and one consumer queue, the n-th wait matches the n-th signal on every machine, whatever the delays:
that is what makes a program provable.
Numbered semaphores with one wait and one signal per instruction were rejected; see
``docs/decisions/0002-token-matrix.md``.
"""

import dataclasses
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ProgramError

INSTRUCTION_BYTES = 32
INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES

STRIDE_UNIT = 4
"""Bytes of the narrowest bus: strides between rows in DRAM are multiples of it."""

MASK_BASE_BITS = 20
"""Of a mask's limit for row 0: columns go up to 1,023 tiles of 256, and a limit rises by 1 in each of 2**14 rows."""


class Unit(enum.IntEnum):
    """Units with an instruction queue; also the bit numbers in wait masks. DISPATCH only consumes tokens."""

    LOAD = 0
    STORE = 1
    MATRIX = 2
    VECTOR = 3
    DISPATCH = 4


QUEUE_UNITS = (Unit.LOAD, Unit.STORE, Unit.MATRIX, Unit.VECTOR)


class Space(enum.IntEnum):
    """On-chip memories that a DMA instruction can name."""

    A = 0
    B = 1
    ACC = 2
    INDEX = 3
    PROGRAM = 4


class Source(enum.IntEnum):
    """Where a VECTOR operand comes from, for element (row i, column tile j, lane c)."""

    IMM = 0
    """The FP32 value in the field."""
    ACC = 1
    """Row ``addr + i + j*pitch``, lane c."""
    ROW = 2
    """One value per row: row ``addr + i // cols``, lane ``i % cols``, the same for every lane."""
    COLUMN = 3
    """One value per column: row ``addr + j*pitch``, lane c, the same for every row."""


class Combine(enum.IntEnum):
    """Second step of the vector pipe, with t = x*y."""

    NONE = 0
    ADD = 1
    SUB = 2
    """t - z"""
    RSUB = 3
    """z - t"""
    MAX = 4


class Func(enum.IntEnum):
    """Third step of the vector pipe."""

    NONE = 0
    EXP2 = 1
    RECIPROCAL = 2
    SIGMOID = 3
    SILU = 4
    """u * sigmoid(u); the pipe's second multiplier takes u, so operand w must be IMM (its value is not used)."""
    RSQRT = 5
    ANCHOR = 6
    """The power of two, by `scale_rule`, that block scales of a row whose largest magnitude is u are relative to, for
    the format in `quant` (one with anchors)."""


class Pair(enum.IntEnum):
    """Element formats of A and B in a MATMUL. E2M1 codes lie two per byte, the even k in the low nibble."""

    E4M3 = 0
    E5M2 = 1
    E4M3_E5M2 = 2
    E2M1 = 3
    """Both sides E2M1: twice the products per step."""
    E4M3_E2M1 = 4
    """B advances by one group every second step."""
    E5M2_E4M3 = 5


class Scale(enum.IntEnum):
    """What the scale bytes of a MATMUL's blocks are."""

    NONE = 0
    E4M3 = 1
    """NVFP4: an E4M3 code, sign ignored."""
    E8M0 = 2
    """MX: how many binary orders the block lies below its row's anchor; 255 is NaN."""
    FP32 = 3
    """DeepSeek: an FP32 value in the scale bytes of the block's first four groups, relative to the anchor."""


class ScaleLayout(enum.IntEnum):
    """Which groups of a row have a scale byte in DRAM; byte i belongs to group i times this many."""

    NONE = 0
    G1 = 1
    G2 = 2
    G4 = 3
    G16 = 4
    FP32 = 5
    """Four bytes per 16 groups, for the first four of them."""


class Quant(enum.IntEnum):
    """How VECTOR writes to A. Blocks take their anchor (MX, BLOCK128) or tensor scale (NVFP4) from operand z."""

    E4M3 = 0
    E5M2 = 1
    MXFP8 = 2
    MXFP8_E5M2 = 3
    MXFP4 = 4
    NVFP4 = 5
    NVFP4_46 = 6
    """NVFP4 with the better of two block scales, for maxima of 6 and of 4."""
    BLOCK128 = 7
    BLOCK128_E8M0 = 8


class ScaleRule(enum.IntEnum):
    """How a power-of-two block scale follows from the block's largest magnitude."""

    FLOOR = 0
    RCEIL = 1
    EVEN = 2


class Dest(enum.IntEnum):
    """Where the vector pipe writes."""

    NONE = 0
    ACC = 1
    """FP32 to row ``dst_addr + i + j*dst_pitch``."""
    A = 2
    """Codes to operand buffer A: row i of the slices, group ``dst_addr + (i//rows)*dst_pitch`` + j*cols codes."""


class Reduce(enum.IntEnum):
    """Row reduction over all lanes and column tiles of what the pipe wrote."""

    NONE = 0
    MAX = 1
    SUM = 2
    ABSMAX = 3


@dataclass(frozen=True)
class Field:
    """One field of an instruction: ``kind`` is "uint", "int" (two's complement), "fp32" (raw bits), or an enum.

    unit: every value is a multiple of it; the bits hold the value divided by it.
    """

    name: str
    bits: int
    meaning: str
    kind: str | type[enum.IntEnum] = "uint"
    unit: int = 1

    @property
    def values(self) -> range | list[int]:
        """Every value that it may hold."""
        if isinstance(self.kind, type):
            return [int(member) for member in self.kind]
        low = -(1 << (self.bits - 1)) if self.kind == "int" else 0
        return range(low * self.unit, (low + (1 << self.bits)) * self.unit, self.unit)

    @property
    def allowed(self) -> str:
        """`values` for messages."""
        if isinstance(self.kind, type):
            return str(self.values)
        of = f", multiples of {self.unit}" if self.unit > 1 else ""
        return f"{self.values[0]}..{self.values[-1]}{of}"


HEADER = (
    Field("wait_rd", 4, "take one rd token from each of these units before issue (bit = unit number)"),
    Field("wait_wr", 4, "take one wr token from each of these units before issue"),
    Field("signal_rd", 5, "give one rd token to each of these units when the last on-chip read is done"),
    Field("signal_wr", 5, "give one wr token to each of these units when the last write is visible"),
)

_DMA = (
    Field("space", 3, "on-chip memory", Space),
    Field("dram_addr", 40, "DRAM byte address of row 0"),
    Field("row_stride", 30, "bytes between rows in DRAM; a multiple of bus_bytes", unit=STRIDE_UNIT),
    Field("rows", 16, "number of rows, at least 1"),
    Field("row_bytes", 20, "bytes per row, at least 1"),
    Field("addr", 20, "on-chip address: A, B: group; ACC: row; INDEX: entry; PROGRAM: instruction slot"),
    Field("row_offset", 8, "A, B: slice of row 0; row i is in slice (row_offset + i) mod slices"),
    Field("pitch", 20, "A, B: groups between panels of rows; ACC: rows between 4*cols-byte chunks of a row"),
    Field("scale", 3, "A, B: scale bytes that come with the rows", ScaleLayout),
    Field("scale_addr", 40, "DRAM byte address of row 0's scale bytes"),
    Field("scale_stride", 12, "bytes between rows' scale bytes: 0, a divisor of bus_bytes, or a multiple of it"),
)

_INDEXED = (
    Field("index_addr", 13, "entry of the index memory that holds the DRAM row number of row 0"),
)

_STORE = (
    Field("src_byte", 6, "byte in the first beat where a row starts (rows of one beat only, else 0)"),
)


@dataclass(frozen=True)
class InstructionSpec:
    """One row of the table."""

    name: str
    opcode: int
    unit: Unit
    meaning: str
    fields: tuple[Field, ...]


INSTRUCTIONS = (
    InstructionSpec("LOAD", 1, Unit.LOAD, "DRAM rows to an on-chip memory, 2-D strided", _DMA),
    InstructionSpec("GATHER", 2, Unit.LOAD, "as LOAD, but row i is DRAM row index[index_addr + i]",
                    _DMA + _INDEXED),
    InstructionSpec("STORE", 3, Unit.STORE, "rows of A (bytes) or ACC (FP32) to DRAM, 2-D strided",
                    _DMA + _STORE),
    InstructionSpec("SCATTER", 4, Unit.STORE,
                    "as STORE, but row i is DRAM row index[index_addr + i]; of rows with one index the last one stays",
                    _DMA + _STORE + _INDEXED),
    InstructionSpec("MATMUL", 5, Unit.MATRIX, "C[m, n] (+)= sum over k of A[m, k] * B[n, k], exact", (
        Field("a_addr", 20, "group address in A of row panel 0, k = 0"),
        Field("b_addr", 20, "group address in B of column tile 0, k = 0"),
        Field("k_steps", 14, "groups along k, at least 1"),
        Field("m_rows", 14, "rows of A, at least 1; a panel is `rows` of them"),
        Field("n_tiles", 10, "column tiles of `cols` columns, at least 1"),
        Field("a_pitch", 20, "groups between row panels in A"),
        Field("b_pitch", 20, "groups between column tiles in B"),
        Field("acc_addr", 16, "ACC row of result row 0, column tile 0"),
        Field("acc_pitch", 16, "ACC rows between column tiles"),
        Field("merge", 1, "1: add the raw partial accumulators already in ACC"),
        Field("raw", 1, "1: write raw accumulators (all planes), 0: round once to FP32"),
        Field("mask", 1, "1: values with column > mask_base + mask_step*row become -inf (FP32 results only)"),
        Field("mask_step", 1, "see mask: 1 causal, 0 a constant limit"),
        Field("mask_base", MASK_BASE_BITS, "see mask", "int"),
        Field("mask_low", 1, "1: so do values with column < mask_low_base + mask_low_step*row"),
        Field("mask_low_step", 1, "see mask_low: 1 a window, 0 a constant limit"),
        Field("mask_low_base", MASK_BASE_BITS, "see mask_low", "int"),
        Field("rowmax", 1, "1: keep the running maximum of each row while draining (FP32 results only)"),
        Field("rowmax_init", 1, "1: the first column tile starts the maximum, 0: it continues from memory"),
        Field("rowmax_addr", 16, "row r's maximum is at ACC row rowmax_addr + r // cols, lane r % cols"),
        Field("pair", 3, "element formats", Pair),
        Field("scale", 2, "block scales", Scale),
        Field("a_scaled", 1, "1: A has block scales"),
        Field("b_scaled", 1, "1: B has block scales"),
        Field("block", 3, "k steps per block, as a power of two"),
        Field("headroom", 7, "E8M0, FP32: binary orders that the anchors' block sum is shifted up"),
    )),
    InstructionSpec("VECTOR", 6, Unit.VECTOR,
                    "out = func(combine(x*y, z)) * w over rows x tiles x cols elements, then write and reduce", (
        Field("rows", 14, "rows, at least 1"),
        Field("tiles", 8, "column tiles per row, at least 1"),
        Field("x_addr", 16, "ACC row of operand x (row i, tile j: x_addr + i + j*pitch)"),
        Field("pitch", 16, "ACC rows between column tiles, for x and every ACC or COLUMN operand"),
        Field("y_kind", 2, "source of y", Source),
        Field("y", 32, "FP32 immediate or ACC row of y (x_addr itself is allowed: x squared; else a bank of its own)"),
        Field("z_kind", 2, "source of z", Source),
        Field("z", 32, "FP32 immediate or ACC row of z"),
        Field("w_kind", 2, "source of w", Source),
        Field("w", 32, "FP32 immediate or ACC row of w"),
        Field("combine", 3, "second step", Combine),
        Field("func", 4, "third step", Func),
        Field("dest", 2, "destination", Dest),
        Field("dst_addr", 20, "destination address: ACC row or A group"),
        Field("dst_pitch", 20, "ACC: rows between column tiles; A: groups between row panels"),
        Field("reduce", 2, "row reduction", Reduce),
        Field("reduce_addr", 16, "row r's result goes to ACC row reduce_addr + r // cols, lane r % cols"),
        Field("x_swap", 4, "0: none; s: lane c of x is read from lane c XOR 2**(s-1), a swap of halves (rotary)"),
        Field("quant", 4, "codes written to A, or the format that ANCHOR is for", Quant),
        Field("scale_rule", 2, "power-of-two block scales and ANCHOR", ScaleRule),
    )),
    InstructionSpec("SYNC", 7, Unit.DISPATCH, "the dispatcher takes tokens, then fetches afresh", ()),
    InstructionSpec("HALT", 8, Unit.DISPATCH, "wait until every unit has finished, then end the program", ()),
)

SPEC_BY_NAME = {spec.name: spec for spec in INSTRUCTIONS}
SPEC_BY_OPCODE = {spec.opcode: spec for spec in INSTRUCTIONS}
OPCODE_BITS = 4


def layout_of(spec: InstructionSpec) -> tuple[tuple[str, int, int], ...]:
    """(field name, lowest bit, width) of the opcode, the header and the fields, from bit 0 up."""
    entries, low = [("opcode", 0, OPCODE_BITS)], OPCODE_BITS
    for field in HEADER + spec.fields:
        entries.append((field.name, low, field.bits))
        low += field.bits
    if low > INSTRUCTION_BITS:
        raise ProgramError(f"{spec.name} needs {low} bits, an instruction has {INSTRUCTION_BITS}")
    return tuple(entries)


class Instruction:
    """Base of the generated classes: header fields and comparison; ``spec`` is the row of the table."""

    __slots__ = ()
    spec: InstructionSpec

    if TYPE_CHECKING:
        def __getattr__(self, name: str) -> int:
            """The fields, which the generated classes add."""
            ...

    def range_errors(self) -> list[str]:
        """One text per field whose value does not fit its width or its enumeration."""
        values = ((field, int(getattr(self, field.name))) for field in HEADER + self.spec.fields)
        return [f"{field.name} = {value}, allowed {field.allowed}" for field, value in values
                if value not in field.values]


def _make_class(spec: InstructionSpec) -> type:
    names = [(f.name, int, dataclasses.field(default=0)) for f in spec.fields + HEADER]
    cls = dataclasses.make_dataclass(spec.name.capitalize(), names, bases=(Instruction,), slots=True, kw_only=True,
                                     namespace={"spec": spec, "__doc__": spec.meaning})
    cls.__module__ = __name__
    return cls


INSTRUCTION_CLASSES = {spec.name: _make_class(spec) for spec in INSTRUCTIONS}
Load = INSTRUCTION_CLASSES["LOAD"]
Gather = INSTRUCTION_CLASSES["GATHER"]
Store = INSTRUCTION_CLASSES["STORE"]
Scatter = INSTRUCTION_CLASSES["SCATTER"]
Matmul = INSTRUCTION_CLASSES["MATMUL"]
Vector = INSTRUCTION_CLASSES["VECTOR"]
Sync = INSTRUCTION_CLASSES["SYNC"]
Halt = INSTRUCTION_CLASSES["HALT"]


def reference_page() -> str:
    """The instruction reference in Markdown, generated from the table."""
    lines = ["# Instruction reference", "",
             f"Generated by `tilescore isa --markdown` from `rtl/spec/isa.py`. Every instruction is {INSTRUCTION_BITS} "
             "bits, little-endian in memory. Bits above the last field are zero.", "",
             "Units (bit numbers in the masks): "
             + ", ".join(f"{u.value} {u.name.lower()}" for u in Unit) + ".", ""]
    for spec in INSTRUCTIONS:
        lines += [f"## {spec.name} (opcode {spec.opcode}, unit {spec.unit.name.lower()})", "",
                  spec.meaning[0].upper() + spec.meaning[1:] + ".", "",
                  "| field | bits | kind | meaning |", "|---|---|---|---|"]
        fields = {f.name: f for f in HEADER + spec.fields}
        for name, low, bits in layout_of(spec):
            field = fields.get(name)
            kind, meaning = "uint", "operation code"
            if field is not None:
                kind, meaning = field.kind, field.meaning
                if isinstance(kind, type):
                    kind = ", ".join(f"{int(m)} {m.name}" for m in kind)
                elif field.unit > 1:
                    kind = f"{kind}, times {field.unit}"
            lines.append(f"| `{name}` | {low + bits - 1}:{low} | {kind} | {meaning} |")
        lines.append("")
    return "\n".join(lines)
