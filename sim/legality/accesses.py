"""What one instruction touches, and the rules that one instruction alone must keep.

The verifier and the program builder both start from here. Everything is a pure function of the instruction's
fields and the `TileConfig`. Programs repeat a few shapes thousands of times, so `AccessTable` keeps the
answer per shape: a lookup costs about a microsecond where the computation costs fifty.

Banks of the buffers A, B and ACC (statistics banks included) are numbered through, in this order; a set of
banks is an int with bit n for bank n. The index and instruction memories have no banks: there the addresses
count.
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import INSTRUCTIONS, SPEC_BY_NAME, Dest, Func, Instruction, Reduce, ScaleLayout, Source, Space
from ...rtl.spec.scale_layout import SCALE_BLOCKS, built_layouts
from ..lib.strided import Strided, overlaps
from .dram_streams import check_dram_fields
from .matmul_rules import b_groups, check_elements
from .vector_rules import check_codes, code_groups


class Access(NamedTuple):
    """One operand or result: its role (a field's name), memory, addresses, and the set of banks they lie in.

    elementwise: a VECTOR walks these rows of ACC in the order of its elements.
    """

    role: str
    space: Space
    run: Strided
    banks: int
    elementwise: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Accesses:
    """On-chip accesses of an instruction.

    reads, writes: in A, B and ACC. A MATMUL with ``merge`` reads, and with ``raw`` writes, all planes.
    read_banks, write_banks: union of their banks.
    banks: (bank, until_wr) for every bank that is touched. A bank that is only read is free at the rd token, except
    that a MATMUL's rd token is for A and B: what it reads in ACC it reads while draining, so that is held until wr.
    index_read, index_write: entries of the index memory. program_write: instruction slots.
    serial: different for every shape, for tables keyed by pairs of shapes.
    """

    name: str
    serial: int
    reads: tuple[Access, ...] = ()
    writes: tuple[Access, ...] = ()
    read_banks: int = 0
    write_banks: int = 0
    banks: tuple[tuple[int, bool], ...] = ()
    index_read: Strided | None = None
    index_write: Strided | None = None
    program_write: Strided | None = None


_LIMITS = [field for field in SPEC_BY_NAME["MATMUL"].fields if field.name in ("mask_base", "mask_low_base")]
_NOT_SHAPE = {"dram_addr", "row_stride", "scale_addr", "scale_stride", *(field.name for field in _LIMITS)}
"""Fields that `Accesses` does not depend on; they are checked in every instruction."""

_KEYS = {spec.name: attrgetter(*(f.name for f in spec.fields if f.name not in _NOT_SHAPE))
         for spec in INSTRUCTIONS if spec.fields}


class AccessTable:
    """`Accesses` by the shape of an instruction, for one tile."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        c = config
        self._memories = {
            Space.A: (0, c.a_banks, c.a_offset_bits, lambda bank: c.a_bank_groups),
            Space.B: (c.a_banks, c.b_banks, c.b_offset_bits, lambda bank: c.b_bank_groups),
            Space.ACC: (c.a_banks + c.b_banks, c.acc_banks + c.stat_banks, c.acc_offset_bits, c.acc_bank_depth),
        }
        self._known: dict[str, dict[tuple, Accesses]] = {name: {} for name in _KEYS}
        self._serial = 0

    @property
    def bank_count(self) -> int:
        """Banks of A, B and ACC together."""
        return sum(count for _, count, _, _ in self._memories.values())

    def bank_name(self, bank: int) -> str:
        """``bank 3 of ACC`` for messages."""
        for space, (first, count, _, _) in self._memories.items():
            if bank < first + count:
                return f"bank {bank - first} of {space.name}"
        raise ValueError(f"bank must be below {self.bank_count}, not {bank}")

    def of(self, instruction: Instruction) -> Accesses:
        """The accesses of a LOAD, GATHER, STORE, SCATTER, MATMUL or VECTOR; its header is not looked at.

        Raises `ProgramError` when a field is out of range, or the instruction breaks a rule on its own.
        """
        name = instruction.spec.name
        key = _KEYS[name](instruction)
        found = self._known[name].get(key)
        if found is None:
            found = self._compute(instruction)
            self._known[name][key] = found
        if name == "MATMUL":
            for field in _LIMITS:
                if (value := getattr(instruction, field.name)) not in field.values:
                    raise ProgramError(f"{field.name} = {value}, allowed {field.allowed}")
        elif name != "VECTOR":
            check_dram_fields(instruction, self.config)
        return found

    def _compute(self, instruction: Instruction) -> Accesses:
        problems = instruction.range_errors()
        if problems:
            raise ProgramError("; ".join(problems))
        parts = {"MATMUL": self._matmul, "VECTOR": self._vector}.get(instruction.spec.name, self._dma)(instruction)
        reads, writes = tuple(parts.pop("reads", ())), tuple(parts.pop("writes", ()))
        read_banks, write_banks = _union(reads), _union(writes)
        held = write_banks
        if instruction.spec.name == "MATMUL":
            held |= _union(tuple(access for access in reads if access.space == Space.ACC))
        banks = tuple((bank, bool(held >> bank & 1)) for bank in range(self.bank_count)
                      if (read_banks | write_banks) >> bank & 1)
        self._serial += 1
        return Accesses(name=instruction.spec.name, serial=self._serial, reads=reads, writes=writes,
                        read_banks=read_banks, write_banks=write_banks, banks=banks, **parts)

    def _access(self, role: str, space: Space, run: Strided) -> Access:
        """Check that every block exists, and lies inside one bank unless banks are adjacent in address space."""
        first, count, offset_bits, depth = self._memories[space]
        run = run if run.blocks > 1 and run.pitch else Strided(run.addr, run.length)
        low_mask, banks = (1 << offset_bits) - 1, 0
        for block in range(run.blocks):
            low = run.addr + block * run.pitch
            high = low + run.length - 1
            for bank in range(low >> offset_bits, (high >> offset_bits) + 1):
                if bank >= count:
                    raise ProgramError(f"{role}: address {high} lies in bank {bank} of {space.name}, which has "
                                       f"banks 0..{count - 1}")
                last = high & low_mask if bank == high >> offset_bits else low_mask
                if last >= depth(bank):
                    raise ProgramError(f"{role}: addresses {low}..{high} run to offset {last} in bank {bank} of "
                                       f"{space.name}, which has offsets 0..{depth(bank) - 1}")
                banks |= 1 << (first + bank)
        return Access(role, space, run, banks)

    # DMA -------------------------------------------------------------------------------------------

    def _dma(self, i: Instruction) -> dict:
        c, name = self.config, i.spec.name
        _need(i.rows >= 1, "rows must be at least 1")
        _need(i.row_bytes >= 1, "row_bytes must be at least 1")
        is_load = name in ("LOAD", "GATHER")
        if i.scale != ScaleLayout.NONE:
            self._check_scales(i)
        parts: dict = {}
        if name in ("GATHER", "SCATTER"):
            _need(i.index_addr + i.rows <= c.index_entries,
                  f"index_addr: entries {i.index_addr}..{i.index_addr + i.rows - 1} are needed, the index memory has "
                  f"{c.index_entries}")
            parts["index_read"] = Strided(i.index_addr, i.rows)
        space = Space(i.space)
        if space in (Space.INDEX, Space.PROGRAM):
            _need(is_load, f"space: {name} cannot read {space.name}; allowed: A, ACC")
            return parts | self._dma_flat(i, space)
        if not is_load:
            _need(space in (Space.A, Space.ACC), f"space: {name} cannot read {space.name}; allowed: A, ACC")
            _need(i.src_byte == 0 or i.src_byte + i.row_bytes <= c.bus_bytes,
                  f"src_byte: rows of {i.row_bytes} bytes that start at byte {i.src_byte} of a beat must end in that "
                  f"beat of {c.bus_bytes} bytes")
        src_byte = 0 if is_load else i.src_byte
        run = self._acc_run(i, src_byte) if space == Space.ACC else self._slice_run(i, space, src_byte)
        parts["writes" if is_load else "reads"] = [self._access("addr", space, run)]
        return parts

    def _check_scales(self, i: Instruction) -> None:
        c, layout = self.config, ScaleLayout(i.scale)
        _need(layout in built_layouts(c), f"scale: tile {c.name} does not build {layout.name}")
        _need(i.space in (Space.A, Space.B), f"scale: {Space(i.space).name} has no scale bytes, expected NONE")
        block = SCALE_BLOCKS[layout].groups * c.lanes
        _need(i.row_bytes % block == 0,
              f"row_bytes must be a multiple of a block of {block} bytes with scale {layout.name}, got {i.row_bytes}")
        _need(getattr(i, "src_byte", 0) == 0, "src_byte must be 0 with scales")

    def _acc_run(self, i: Instruction, src_byte: int) -> Strided:
        c = self.config
        _need(i.row_bytes % 4 == 0 and src_byte % 4 == 0,
              f"row_bytes and src_byte must be multiples of 4 in ACC, got {i.row_bytes} and {src_byte}")
        _need(i.row_offset == 0, f"row_offset must be 0 in ACC, got {i.row_offset}")
        chunks = -(-(src_byte + i.row_bytes) // (4 * c.cols))
        _need(chunks == 1 or i.pitch >= i.rows,
              f"pitch: {chunks} chunks of {i.rows} ACC rows overlap, {i.pitch} rows apart")
        return Strided(i.addr, i.rows, i.pitch, chunks)

    def _slice_run(self, i: Instruction, space: Space, src_byte: int) -> Strided:
        c = self.config
        slices = c.rows if space == Space.A else c.cols
        _need(i.row_offset < slices, f"row_offset must be below {slices} in {space.name}, got {i.row_offset}")
        for field in ("addr", "pitch"):
            value = getattr(i, field)
            _need(value * c.lanes % c.bus_bytes == 0,
                  f"{field} must be a multiple of {c.bus_bytes // c.lanes} groups (a bus beat), got {value}")
        panels = -(-(i.row_offset + i.rows) // slices)
        groups = -(-(src_byte + i.row_bytes) // c.lanes)
        _need(panels == 1 or i.pitch >= groups,
              f"pitch: {panels} panels of {groups} groups overlap, {i.pitch} groups apart")
        return Strided(i.addr, groups, i.pitch, panels)

    def _dma_flat(self, i: Instruction, space: Space) -> dict:
        """LOAD or GATHER of one row to the index or instruction memory."""
        c = self.config
        _need(i.rows == 1 and i.row_offset == 0 and i.pitch == 0,
              f"rows must be 1, row_offset and pitch 0 in {space.name}, got {i.rows}, {i.row_offset}, {i.pitch}")
        if space == Space.INDEX:
            beat = c.bus_bytes // 4
            _need(i.addr % beat == 0, f"addr must be a multiple of {beat} entries (a bus beat), got {i.addr}")
            _need(i.row_bytes % 4 == 0, f"row_bytes must be a multiple of 4 in INDEX, got {i.row_bytes}")
            entries = -(-i.row_bytes // c.bus_bytes) * beat
            _need(i.addr + entries <= c.index_entries,
                  f"addr: entries {i.addr}..{i.addr + entries - 1}, the index memory has {c.index_entries}")
            return {"index_write": Strided(i.addr, entries)}
        _need(i.spec.name == "LOAD", "space: GATHER cannot write PROGRAM; allowed: A, B, ACC, INDEX")
        _need(i.addr in (0, c.imem_page), f"addr must be the start of a page, 0 or {c.imem_page}, got {i.addr}")
        _need(i.row_bytes == c.page_bytes, f"row_bytes must be a page of {c.page_bytes} bytes, got {i.row_bytes}")
        return {"program_write": Strided(i.addr, c.imem_page)}

    # Compute ---------------------------------------------------------------------------------------

    def _matmul(self, i: Instruction) -> dict:
        c = self.config
        for field in ("k_steps", "m_rows", "n_tiles"):
            _need(getattr(i, field) >= 1, f"{field} must be at least 1")
        check_elements(i, c)
        _need(i.n_tiles == 1 or i.acc_pitch >= i.m_rows,
              f"acc_pitch: column tiles of {i.m_rows} result rows overlap, {i.acc_pitch} ACC rows apart")
        reads = [
            self._access("a_addr", Space.A, Strided(i.a_addr, i.k_steps, i.a_pitch, -(-i.m_rows // c.rows))),
            self._access("b_addr", Space.B, Strided(i.b_addr, b_groups(i), i.b_pitch, i.n_tiles)),
        ]
        result = Strided(i.acc_addr, i.m_rows, i.acc_pitch, i.n_tiles)
        planes = [self._access("acc_addr", Space.ACC, result)]
        if i.merge or i.raw:
            _need(result.end - 1 < c.acc_addr(c.acc_plane_banks),
                  f"acc_addr: raw results reach ACC row {result.end - 1}, raw rows must start in the banks of plane 0, "
                  f"0..{c.acc_plane_banks - 1}")
            step = c.acc_addr(c.acc_plane_banks)
            planes += [self._access("acc_addr", Space.ACC, result._replace(addr=i.acc_addr + plane * step))
                       for plane in range(1, c.acc_planes)]
        writes = planes if i.raw else planes[:1]
        reads += planes if i.merge else []
        for field in ("mask", "mask_low", "rowmax"):
            _need(not (i.raw and getattr(i, field)), f"{field} needs FP32 results, but raw is 1")
        if i.rowmax:
            rowmax = self._access("rowmax_addr", Space.ACC, Strided(i.rowmax_addr, -(-i.m_rows // c.cols)))
            self._need_distinct(rowmax, planes)
            reads, writes = [*reads, rowmax], [*writes, rowmax]
        return {"reads": reads, "writes": writes}

    def _vector(self, i: Instruction) -> dict:
        c = self.config
        _need(i.rows >= 1, "rows must be at least 1")
        _need(i.tiles >= 1, "tiles must be at least 1")
        check_codes(i, c)
        _need(i.x_swap < c.cols.bit_length(), f"x_swap must be 0..{c.cols.bit_length() - 1}, got {i.x_swap}")
        _need(i.func != Func.SILU or i.w_kind == Source.IMM, "w_kind must be IMM when func is SILU")
        stats = -(-i.rows // c.cols)
        walk = Strided(i.x_addr, i.rows, i.pitch, i.tiles)
        reads = [self._access("x_addr", Space.ACC, walk)._replace(elementwise=True)]
        for role in "yzw":
            kind, addr = getattr(i, f"{role}_kind"), getattr(i, role)
            if kind == Source.IMM:
                continue
            run = {Source.ACC: walk._replace(addr=addr), Source.ROW: Strided(addr, stats),
                   Source.COLUMN: Strided(addr, 1, i.pitch, i.tiles)}[Source(kind)]
            access = self._access(role, Space.ACC, run)._replace(elementwise=kind == Source.ACC)
            if role == "y" and kind == Source.ACC and addr == i.x_addr:
                continue  # x squared: one read serves both
            self._need_distinct(access, reads)
            reads.append(access)
        writes = []
        if i.dest != Dest.NONE:
            writes.append(self._vector_dest(i))
            _check_in_place(reads, writes[0])
        if i.reduce != Reduce.NONE:
            result = self._access("reduce_addr", Space.ACC, Strided(i.reduce_addr, stats))
            self._need_distinct(result, writes)
            for access in reads:
                _need(not overlaps(access.run, result.run),
                      f"reduce_addr: rows {result.run.addr}..{result.run.end - 1} overlap operand {access.role}")
            writes.append(result)
        return {"reads": reads, "writes": writes}

    def _vector_dest(self, i: Instruction) -> Access:
        c = self.config
        if i.dest == Dest.ACC:
            _need(i.tiles == 1 or i.dst_pitch >= i.rows,
                  f"dst_pitch: column tiles of {i.rows} rows overlap, {i.dst_pitch} ACC rows apart")
            run = Strided(i.dst_addr, i.rows, i.dst_pitch, i.tiles)
            return self._access("dst_addr", Space.ACC, run)._replace(elementwise=True)
        groups, panels = code_groups(i, c), -(-i.rows // c.rows)
        for field in ("dst_addr", "dst_pitch"):
            value = getattr(i, field)
            _need(value * c.lanes % c.cols == 0,
                  f"{field} must be a multiple of {c.cols // c.lanes} groups (a row of codes) in A, got {value}")
        _need(panels == 1 or i.dst_pitch >= groups,
              f"dst_pitch: panels of {groups} groups overlap, {i.dst_pitch} groups apart")
        return self._access("dst_addr", Space.A, Strided(i.dst_addr, groups, i.dst_pitch, panels))

    def _need_distinct(self, access: Access, others: list[Access]) -> None:
        for other in others:
            shared = access.banks & other.banks
            if shared:
                name = self.bank_name(shared.bit_length() - 1)
                raise ProgramError(f"{access.role}: must not share a bank with {other.role}, both use {name}")


def accesses(instruction: Instruction, config: TileConfig) -> Accesses:
    """On-chip accesses of one instruction. Raises `ProgramError` as `AccessTable.of` does."""
    return AccessTable(config).of(instruction)


def _check_in_place(reads: list[Access], dest: Access) -> None:
    """A VECTOR's destination may be an operand's rows, element by element, or rows that no operand has."""
    for access in reads:
        if dest.space == access.space and overlaps(dest.run, access.run):
            _need(access.elementwise and dest.run == access.run,
                  f"dst_addr: the destination overlaps operand {access.role}, which is allowed only with the same "
                  "address and pitch and an operand of kind ACC")


def _need(ok: bool, message: str) -> None:
    if not ok:
        raise ProgramError(message)


def _union(accesses_: tuple[Access, ...]) -> int:
    banks = 0
    for access in accesses_:
        banks |= access.banks
    return banks
