"""The DRAM side of the DMA instructions: which bytes they touch, and the rules for them.

A LOAD, GATHER, STORE or SCATTER moves one stream of rows, and a second one when scale bytes come with the rows. Loads
read whole beats, stores write only their bytes.
"""

from typing import NamedTuple

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, ScaleLayout
from ...rtl.spec.scale_layout import scale_row_bytes
from ..lib.strided import Strided, overlaps

_ADDRESS_LIMIT = 1 << 40


class DramStream(NamedTuple):
    """Rows in DRAM.

    field: the field that holds the first row's address, for messages. addr, row_bytes, row_stride, rows: as the fields;
    for packed scale rows those of the whole.
    region: the bytes touched, or None for rows that the index memory chooses.
    """

    field: str
    addr: int
    row_bytes: int
    row_stride: int
    rows: int
    region: Strided | None

    @property
    def end(self) -> int:
        """First address after the last row's bytes; after row 0's when the index memory chooses the rows."""
        rows = self.rows if self.region is not None else 1
        return self.addr + (rows - 1) * self.row_stride + self.row_bytes


def dram_streams(instruction: Instruction, config: TileConfig) -> tuple[DramStream, ...]:
    """The stream of the rows, and that of their scale bytes if there are any."""
    i, bus = instruction, config.bus_bytes
    load = i.spec.name in ("LOAD", "GATHER")
    indexed = i.spec.name in ("GATHER", "SCATTER")

    def stream(field: str, addr: int, size: int, stride: int, rows: int) -> DramStream:
        touched = -(-size // bus) * bus if load else size
        return DramStream(field, addr, size, stride, rows, None if indexed else Strided(addr, touched, stride, rows))

    data = stream("dram_addr", i.dram_addr, i.row_bytes, i.row_stride, i.rows)
    if i.scale == ScaleLayout.NONE:
        return (data,)
    size = scale_row_bytes(i, config)
    if load and i.scale_stride < bus:
        return data, stream("scale_addr", i.scale_addr, (i.rows - 1) * i.scale_stride + size, 0, 1)
    return data, stream("scale_addr", i.scale_addr, size, i.scale_stride, i.rows)


def check_dram_fields(instruction: Instruction, config: TileConfig) -> None:
    """Raise `ProgramError` when an address or stride in DRAM breaks a rule."""
    i, bus = instruction, config.bus_bytes
    if i.scale != ScaleLayout.NONE:
        _check_scales(i, config)
    elif i.scale_addr or i.scale_stride:
        raise ProgramError("scale_addr and scale_stride must be 0 without scales, "
                           f"got {i.scale_addr} and {i.scale_stride}")
    if not 0 <= i.dram_addr < _ADDRESS_LIMIT:
        raise ProgramError(f"dram_addr = {i.dram_addr}, allowed 0..{_ADDRESS_LIMIT - 1}")
    if not 0 <= i.row_stride < 1 << 32 or i.row_stride % bus:
        raise ProgramError(f"row_stride must be a multiple of bus_bytes ({bus}) below 2**32, got {i.row_stride}")
    if i.spec.name in ("LOAD", "GATHER"):
        if i.dram_addr % bus:
            raise ProgramError(f"dram_addr must be a multiple of bus_bytes ({bus}), got {i.dram_addr}")
        return
    start = i.dram_addr % bus
    if start and start + i.row_bytes > bus:
        raise ProgramError(f"dram_addr: rows of {i.row_bytes} bytes that start at byte {start} of a beat must "
                           f"end in that beat of {bus} bytes")
    if i.rows > 1 and i.row_stride < i.row_bytes:
        raise ProgramError(f"row_stride: rows of {i.row_bytes} bytes overlap in DRAM, {i.row_stride} bytes apart")
    _check_stored_scales(i, config)


def _check_scales(i: Instruction, config: TileConfig) -> None:
    bus, size, stride, name = config.bus_bytes, scale_row_bytes(i, config), i.scale_stride, i.spec.name
    if not 0 <= i.scale_addr < _ADDRESS_LIMIT:
        raise ProgramError(f"scale_addr = {i.scale_addr}, allowed 0..{_ADDRESS_LIMIT - 1}")
    shared = stride == 0 and name == "LOAD" and size <= bus
    packed = stride > 0 and bus % stride == 0 and name != "GATHER"
    if not (shared or packed or stride % bus == 0 < stride < 1 << 12):
        allowed = {"LOAD": f"0 for at most {bus} scale bytes, a divisor of bus_bytes ({bus}), or a multiple of it",
                   "GATHER": f"a multiple of bus_bytes ({bus})"}
        text = allowed.get(name, f"a divisor of bus_bytes ({bus}) or a multiple")
        raise ProgramError(f"scale_stride must be {text}, got {stride} for rows of {size} scale bytes")
    if not shared and stride < size:
        raise ProgramError(f"scale_stride: rows of {size} scale bytes overlap in DRAM, {stride} bytes apart")
    if name in ("LOAD", "GATHER") and i.scale_addr % bus:
        raise ProgramError(f"scale_addr must be a multiple of bus_bytes ({bus}), got {i.scale_addr}")


def _check_stored_scales(i: Instruction, config: TileConfig) -> None:
    """No row's scale bytes cross a beat, and they are apart from the rows: the order of the two is not defined."""
    if i.scale == ScaleLayout.NONE:
        return
    bus, size = config.bus_bytes, scale_row_bytes(i, config)
    cell = min(i.scale_stride, bus)
    start = i.scale_addr % cell
    if start and start + size > cell:
        raise ProgramError(f"scale_addr: rows of {size} scale bytes, {i.scale_stride} apart, that start at byte "
                           f"{i.scale_addr % bus} of a beat must not cross a multiple of {cell} bytes")
    data, scales = (stream.region for stream in dram_streams(i, config))
    if data is not None and scales is not None and overlaps(data, scales):
        raise ProgramError(f"scale_addr: the scale bytes {scales.addr}..{scales.end - 1} lie among the rows, bytes "
                           f"{data.addr}..{data.end - 1}")
