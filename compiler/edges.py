"""Ragged edges: clearing, at a program's start, what instructions read beside the program's data.

A MATMUL reads every slice of B, a VECTOR every lane, also where a matrix has fewer columns than the array or
statistics fewer rows than a word has lanes. What lies there reaches no stored result, but it reaches the status flags
and, unwritten, it would be another program's data. So LOADs of zeros come first, for just those places that would
otherwise be read unwritten.

Only *edges* are cleared: places of an address whose slice (or lane) 0 the program has written before, and groups of B
that a lowering names as padding (whole column tiles without data). Anything else that is read unwritten is a mistake
of the compiler, and is left for the verifier to refuse.

Rejected: padding every matrix with zero rows in DRAM. A projection of one token would read 128 rows for one, in every
piece; an edge is cleared once, and most are overwritten by other pieces of the program anyway.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..rtl.spec.config import TileConfig
from ..rtl.spec.isa import Instruction, Load, Space
from ..rtl.spec.scale_layout import SCALE_BLOCKS, built_layouts
from ..sim.legality.accesses import AccessTable
from ..sim.legality.initialized import A_SCALES, ACC, B_SCALES, A, B, Initialized, Memory, nothing, view_of, writes

_ROW_BYTES_LIMIT = 1 << 16
"""Longest row of zeros that is loaded at once."""

Bits = NDArray[np.bool_]


def clear_edges(config: TileConfig, instructions: Sequence[Instruction], table: AccessTable,
                padding: Iterable[tuple[int, int]], zeros: Callable[[int], int]) -> list[Instruction]:
    """LOADs to be put before ``instructions``; none when no edge is read unwritten.

    padding: (address, groups) of B that count as edges in every slice. zeros: allocates so many zero bytes of DRAM and
    returns their address. Raises `ProgramError` as `AccessTable.of`.
    """
    edges = _edges(config, instructions, table, padding)
    rows = [fields for space, fields in ((Space.A, (A, A_SCALES)), (Space.B, (B, B_SCALES)))
            for fields in _operand_rows(config, space, edges[fields[0]], edges[fields[1]])]
    rows += _acc_rows(config, edges[ACC])
    if not rows:
        return []
    addr = zeros(max(fields["row_bytes"] for fields in rows))
    return [Load(dram_addr=addr, **({"scale_addr": addr} if "scale" in fields else {}), **fields) for fields in rows]


def _edges(config: TileConfig, instructions: Sequence[Instruction], table: AccessTable,
           padding: Iterable[tuple[int, int]]) -> dict[Memory, Bits]:
    """Places of edges that are read unwritten."""
    run, edges, named, known = Initialized(config), nothing(config), nothing(config), set()
    for addr, groups in padding:
        named[B][0, addr * config.lanes:(addr + groups) * config.lanes] = True
        named[B_SCALES][0, addr:addr + groups] = True
    for instruction in instructions:
        serial = table.of(instruction).serial
        if serial in known:
            continue
        known.add(serial)
        for places, missing in run.missing(instruction):
            column = places._replace(first=0, count=1)
            edge = missing & (run.written(column) | view_of(named[places.memory], column))
            view_of(edges[places.memory], places)[...] |= edge
            run.written(places)[...] |= edge
        for places in writes(instruction, config):
            run.mark(places)
    return edges


def _runs(keys: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int, int]]:
    """(start, length, key) of the runs of equal keys that are not negative, of ``limit`` entries at most."""
    cuts = np.flatnonzero(np.diff(keys)) + 1
    for start, end in zip([0, *cuts], [*cuts, len(keys)], strict=True):
        if keys[start] >= 0:
            for low in range(start, end, limit):
                yield int(low), int(min(limit, end - low)), int(keys[start])


def _first_slices(edge: Bits) -> NDArray[np.int64]:
    """The lowest slice with an edge at each address, or -1."""
    return np.where(edge.any(axis=0), edge.argmax(axis=0), -1)


def _operand_rows(config: TileConfig, space: Space, codes: Bits, scales: Bits) -> Iterator[dict]:
    """Fields of LOADs to A or B: whole beats, from the lowest slice of an edge to the last."""
    lanes, bus, slices = config.lanes, config.bus_bytes, len(codes)
    bits = config.a_offset_bits if space == Space.A else config.b_offset_bits
    base = {"space": space, "row_stride": 0}
    in_bank = (lanes << bits) // bus
    beats = _first_slices(np.logical_or.reduce(codes.reshape(slices, -1, bus), axis=2))
    for start, count, first in _runs_in_banks(beats, in_bank, _ROW_BYTES_LIMIT // bus):
        yield base | {"rows": slices - first, "row_offset": first, "addr": start * bus // lanes,
                      "row_bytes": count * bus}
    if scales.any():
        yield from _scale_rows(config, base, scales, 1 << bits)


def _scale_rows(config: TileConfig, base: dict, scales: Bits, bank: int) -> Iterator[dict]:
    """Fields of LOADs that clear scale bytes, and the codes that come with them; one beat of them serves all rows."""
    layout, slices, bus = built_layouts(config)[0], len(scales), config.bus_bytes
    block = SCALE_BLOCKS[layout]
    if block.groups == 1:
        unit = bus // config.lanes  # LOADs start on beats
        units = _first_slices(np.logical_or.reduce(scales.reshape(slices, -1, unit), axis=2))
        runs = ((start * unit, count * unit, first)
                for start, count, first in _runs_in_banks(units, max(1, bank // unit), max(1, bus // unit)))
    else:  # the bytes of a block lie side by side in its first groups
        firsts = _first_slices(scales)
        starts = np.flatnonzero(np.diff(firsts >= 0, prepend=False) & (firsts >= 0))
        runs = ((int(start), block.groups, int(firsts[start])) for start in starts)
    for addr, groups, first in runs:
        yield base | {"rows": slices - first, "row_offset": first, "addr": addr, "row_bytes": groups * config.lanes,
                      "scale": layout}


def _runs_in_banks(keys: NDArray[np.int64], bank: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """As `_runs`, none across a multiple of ``bank``."""
    for low in range(0, len(keys), bank):
        for start, count, key in _runs(keys[low:low + bank], limit):
            yield low + start, count, key


def _acc_rows(config: TileConfig, edge: Bits) -> Iterator[dict]:
    """Fields of LOADs of whole ACC rows."""
    keys = np.where(edge.any(axis=0), 0, -1)
    for start, count, _ in _runs_in_banks(keys, 1 << config.acc_offset_bits, 1 << 15):
        yield {"space": Space.ACC, "row_stride": 0, "rows": count, "row_bytes": 4 * config.cols, "addr": start}
