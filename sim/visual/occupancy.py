"""How much of each on-chip memory holds a value that is still to be read, cycle by cycle.

An address is occupied from the issue of the instruction that writes it to the end of the last one that reads that
value: its rd token, but for what a MATMUL reads in ACC its retirement; at least to the retirement of the writer. An
address of A or B is a group in every slice, of ACC a row of FP32 values, of INDEX an entry, so rows that a panel leaves
empty count as occupied.

Programs touch a few hundred runs of addresses again and again. Their ends cut each memory into *atoms* that every run
covers whole or not at all, so the exact answer costs a few array operations over (instruction, atom) pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.isa import HEADER, SPEC_BY_NAME, Space, Unit
from ..legality.accesses import Accesses, AccessTable
from ..lib.strided import Strided
from ..program import Program
from ..timing import Timing
from .fields import FieldColumns, alike

MEMORIES = (Space.A, Space.B, Space.ACC, Space.INDEX)
NOT_TOUCHING = {"dram_addr", "row_stride", "scale_addr", "scale_stride", "mask_base", "mask_low_base",
                *(f.name for f in HEADER)}
"""Fields on which on-chip accesses do not depend."""

_READ, _READ_UNTIL_RETIRE, _WRITE = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Occupancy:
    """Bytes in use of one memory: ``used[i]`` from cycle ``times[i]`` to ``times[i + 1]``, the last for ever.

    capacity: bytes of the memory.
    """

    times: np.ndarray
    used: np.ndarray
    capacity: int

    @property
    def peak(self) -> int:
        return int(self.used.max(initial=0))

    def mean(self, cycles: int) -> float:
        """Bytes, averaged over a run's cycles."""
        return float(np.diff(np.append(self.times, cycles)) @ self.used) / cycles

    def peaks(self, edges: np.ndarray) -> np.ndarray:
        """int64 (len(edges) - 1,): the largest value between neighbouring edges, which ascend."""
        first = np.maximum(np.searchsorted(self.times, edges[:-1], side="right") - 1, 0)
        until = np.maximum(np.searchsorted(self.times, edges[1:], side="left"), first + 1)
        return np.array([self.used[a:b].max(initial=0) for a, b in zip(first.tolist(), until.tolist(), strict=True)],
                        np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Values:
    """Every value that a program writes to one memory, in int64 arrays of equal length, by address and then time.

    address, length: addresses, all in one bank; start: cycle; end: first cycle in which it is not needed any more;
    writer: index of the instruction.
    """

    address: np.ndarray
    length: np.ndarray
    start: np.ndarray
    end: np.ndarray
    writer: np.ndarray


def values_of(program: Program, timing: Timing, fields: list[FieldColumns]) -> dict[Space, Values]:
    """The values in A, B, ACC and INDEX; ``fields`` is of `field_columns`."""
    table = AccessTable(program.config)
    shapes: list[Accesses] = []
    rows, shape_of = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for columns in fields:
        if SPEC_BY_NAME[columns.name].unit != Unit.DISPATCH:
            number, first = alike(columns, NOT_TOUCHING)
            rows.append(columns.index)
            shape_of.append(number + len(shapes))
            shapes += [table.of(program.instructions[i]) for i in columns.index[first].tolist()]
    index, shape = np.concatenate(rows), np.concatenate(shape_of)
    order = np.argsort(index)
    return {space: _values(space, index[order], shape[order], shapes, program.config, timing) for space in MEMORIES}


def occupancy_of(values: dict[Space, Values], config: TileConfig) -> dict[str, Occupancy]:
    """{memory: `Occupancy`} of what `values_of` gives."""
    found = {}
    for space, v in values.items():
        size, capacity = sizes(space, config)
        times, changes = np.concatenate([v.start, v.end]), np.concatenate([v.length, -v.length]) * size
        order = np.argsort(times, kind="stable")
        times, used = times[order], np.cumsum(changes[order])
        last = np.append(np.diff(times) > 0, True)[:times.size]
        found[space.name] = Occupancy(times=np.insert(times[last], 0, 0), used=np.insert(used[last], 0, 0),
                                      capacity=capacity)
    return found


def bank_bits(space: Space, config: TileConfig) -> int:
    """Address bits below the number of the bank; a memory without banks is one."""
    return {Space.A: config.a_offset_bits, Space.B: config.b_offset_bits, Space.ACC: config.acc_offset_bits,
            Space.INDEX: config.index_entries.bit_length()}[space]


def sizes(space: Space, config: TileConfig) -> tuple[int, int]:
    """(bytes of an address, bytes of the memory)."""
    if space == Space.ACC:
        rows = sum(config.acc_bank_depth(bank) for bank in range(config.acc_banks + config.stat_banks))
        return 4 * config.cols, 4 * config.cols * rows
    return {Space.A: (config.lanes * config.rows, config.a_buffer_bytes),
            Space.B: (config.lanes * config.cols, config.b_buffer_bytes),
            Space.INDEX: (4, 4 * config.index_entries)}[space]


def _touches(found: Accesses, space: Space) -> Iterator[tuple[Strided, int]]:
    """(run, kind) of what an instruction touches in a memory, reads first."""
    if space == Space.INDEX:
        for run, kind in ((found.index_read, _READ), (found.index_write, _WRITE)):
            if run is not None:
                yield run, kind
        return
    late = found.name == "MATMUL" and space == Space.ACC
    for access in found.reads:
        if access.space == space:
            yield access.run, _READ_UNTIL_RETIRE if late else _READ
    for access in found.writes:
        if access.space == space:
            yield access.run, _WRITE


def _values(space: Space, rows: np.ndarray, shape_of: np.ndarray, shapes: list[Accesses], config: TileConfig,
            timing: Timing) -> Values:
    touches = [list(_touches(found, space)) for found in shapes]
    runs = {run for found in touches for run, _ in found}
    if not runs:
        none = np.zeros(0, np.int64)
        return Values(address=none, length=none, start=none, end=none, writer=none)
    blocks = {run: run.addr + np.arange(run.blocks, dtype=np.int64) * run.pitch for run in runs}
    ends = np.concatenate([edge for run, low in blocks.items() for edge in (low, low + run.length)])
    bits = bank_bits(space, config)
    cuts = np.union1d(ends, np.arange((int(ends.max()) >> bits) + 1) << bits)
    atoms = {run: np.concatenate([np.arange(a, b) for a, b in zip(
        np.searchsorted(cuts, low).tolist(), np.searchsorted(cuts, low + run.length).tolist(), strict=True)])
        for run, low in blocks.items()}
    none = [np.zeros(0, np.int64)]
    atom_of = [np.concatenate([atoms[run] for run, _ in found] or none) for found in touches]
    kind_of = [np.concatenate([np.full(len(atoms[run]), kind) for run, kind in found] or none) for found in touches]
    counts = np.array([len(a) for a in atom_of], np.int64)
    lengths = counts[shape_of]
    until = np.cumsum(lengths)
    pick = np.arange(until[-1]) + np.repeat((np.cumsum(counts) - counts)[shape_of] - (until - lengths), lengths)
    atom, start, end, writer = _spans(np.concatenate(atom_of)[pick], np.concatenate(kind_of)[pick],
                                      np.repeat(rows, lengths), timing)
    return Values(address=cuts[atom], length=np.diff(cuts)[atom], start=start, end=end, writer=writer)


def _spans(atom: np.ndarray, kind: np.ndarray, instruction: np.ndarray,
           timing: Timing) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(atom, first cycle, end cycle, writer) of every value that is written, from touches in program order."""
    order = np.argsort(atom.astype(np.uint16) if atom.max() < 1 << 16 else atom, kind="stable")
    atom, kind, instruction = atom[order], kind[order], instruction[order]
    end = np.where(kind == _READ, timing.rd[instruction], timing.retire[instruction]) + 1
    write = kind == _WRITE
    new = np.append(True, atom[1:] != atom[:-1])
    begins = np.flatnonzero(write | new)
    latest = np.maximum.reduceat(end, begins)
    chosen = write[begins]
    begins, latest = begins[chosen], latest[chosen]
    value_atom, writer = atom[begins], instruction[begins]
    start = timing.issue[writer]
    follows = value_atom[1:] == value_atom[:-1]
    latest[:-1] = np.where(follows, np.minimum(latest[:-1], start[1:]), latest[:-1])
    return value_atom, start, latest, writer
