"""softmax(Q K^T) V with online softmax: one pass over the keys per block of query sub-tiles.

A *sub-tile* is up to ``q_rows`` query rows of one head (for a single new token per sequence: the rows are the
heads of one group). A *softmax block* is ``Numerics.softmax_block`` keys, block j the absolute keys j * softmax_block
on; its keys and values are loaded and multiplied in *pieces* of ``kv_tile``. ``q_tiles`` sub-tiles share every loaded
block. A *step* is one sub-tile against one block; the steps of a pass follow each other with a lag of one between the
two matmuls:

    array    QK(s)   PV(s-1)   QK(s+1)   PV(s) ...
    vector           softmax(s) ...   merge(s-1) ...

so the array multiplies for one sub-tile while the vector unit exponentiates another; where buffer A holds one P only,
PV(s-1) comes before QK(s). What the vector unit computes per
step is in `softmax.py`; the merge comes one step later, so that there are two rescale factors in turn. The first step
of a sub-tile starts m, l and O without a merge. A pass visits blocks from the first that one of its rows sees a key of,
and loads keys from there on; a sub-tile leaves out the blocks before its own first. m is finite after a sub-tile's
first block, of a row that sees none of its keys too (`softmax.py`), so a key that a row may not see changes nothing:
its P is 0, and a block of such keys rescales by 1, or 0 by anything. So only the blocks decide the bits: no row depends
on which rows share its sub-tile, and the rows of a later chunk of a prefill are those of the whole.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from ...rtl.spec.isa import ScaleRule, Space
from ..dram import Matrix, code_matrix, float_matrix
from ..emitter import Emitter
from ..formats import matmul_mode
from ..masks import KeyMask
from ..operands import Operand
from ..schedule import FlashSchedule
from ..tiles.buffers import align
from ..tiles.expr import Codes, Elem, Imm, Shape
from .flash_place import FlashPlacement, FlashProblem
from .softmax import OnlineSoftmax, Over, Places, Statements


@dataclass(frozen=True, kw_only=True)
class SubTile:
    """Query rows that are processed together.

    q: matrix whose rows ``first_row`` .. are the sub-tile's (``byte``: first byte of the head); row, head: where its
    outputs go (with step 0, one row and a head per sub-tile row);
    position: position of its first row; step: 1 if positions rise by one per row, 0 if all rows are one token; sink:
    row of the matrix of sinks.
    """

    q: Matrix
    first_row: int
    byte: int
    row: int
    head: int
    rows: int
    position: int
    step: int
    sink: int


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Sub-tiles with the same keys and values. k: a row per key; v: a column per key, rows from ``v_row`` on."""

    tiles: list[SubTile]
    k: Matrix
    v: Matrix
    v_row: int


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where outputs go: head h to elements from h * ``step`` on of a row of ``target``, with block scales by ``rule``
    relative to ``relative_to``. sinks: FP32, in units of log2, a value per row of a sub-tile; None without."""

    target: Operand
    step: int
    rule: ScaleRule
    relative_to: Imm | None
    sinks: Matrix | None = None


class Flash:
    """The kernel of a whole layer on one tile: regions are placed once, passes are emitted one by one."""

    def __init__(self, emitter: Emitter, problem: FlashProblem, schedule: FlashSchedule, place: FlashPlacement,
                 mask: KeyMask, softmax: OnlineSoftmax, outputs: Outputs):
        config = emitter.config
        self.emitter, self.problem, self.schedule, self.config = emitter, problem, schedule, config
        self.place, self.mask, self.softmax, self.outputs = place, mask, softmax, outputs
        query, kv, name = problem.query, problem.kv, problem.name
        self.score_mode = matmul_mode(query, kv, self.place.head_bytes, config, f"{name} Q K^T").fields
        self.mix_mode = matmul_mode(query, kv, problem.keys, config, f"{name} P V").fields
        self._passes = self._steps = self.loaded_k = self.loaded_v = 0

    def emit(self, groups: Iterable[Shared]) -> None:
        """Every group, ``q_tiles`` sub-tiles at a time."""
        self._clear_padding()
        for shared in groups:
            for first in range(0, len(shared.tiles), self.schedule.q_tiles):
                self._pass(shared, shared.tiles[first:first + self.schedule.q_tiles])

    def _clear_padding(self) -> None:
        """Zeros where a head is stored with more elements than it has, to fill its last block.

        They are results of buffer B's slices behind the head's, which no block of values overwrites, and column tiles
        of the outputs that no matmul writes.
        """
        place, width, cols = self.place, self.problem.value_width, self.config.cols
        builder, emitter = self.emitter.builder, self.emitter
        behind = min(self.problem.stored, place.head_tiles * cols) - width
        if behind > 0:
            zeros = code_matrix(builder, "zero values", behind, place.v_groups * self.config.lanes)
            last = (place.head_tiles - 1) * place.v_pitch
            for addr in place.v_ring:
                emitter.load_operand(Space.B, zeros, first_row=0, rows=behind, addr=addr + last, pitch=place.v_pitch,
                                     from_row=width % cols, label="clear values behind a head")
        if place.out_tiles > place.head_tiles:
            zeros = float_matrix(builder, "zero outputs", place.rows, (place.out_tiles - place.head_tiles) * cols)
            for addr in place.outputs:
                emitter.load_rows(zeros, first_row=0, rows=place.rows, addr=addr + place.head_tiles * place.rows,
                                  pitch=place.rows, label="clear outputs behind a head")

    def visible(self, tile: SubTile) -> int:
        """Keys that the sub-tile's last row may see."""
        return self.mask.visible(tile.position + (tile.rows - 1) * tile.step)

    def _pass(self, shared: Shared, tiles: list[SubTile]) -> None:
        """As another one whose sub-tiles see as much, if the buffers that take turns are at the same one."""
        place, first, outputs = self.place, tiles[0], self.outputs
        q = place.q[self._passes % len(place.q)]
        self._passes += 1
        turns = (q, self._steps % math.lcm(2, len(place.scores), len(place.p), len(place.partial)),
                 self.loaded_k % len(place.k_ring), self.loaded_v % len(place.v_ring))
        position = first.position if self.mask.causal else 0
        relative = tuple((tile.rows, tile.step, tile.position - first.position, tile.head - first.head,
                          tile.q.at(tile.first_row, tile.byte) - first.q.at(first.first_row, first.byte),
                          tile.row - first.row, tile.sink - first.sink) for tile in tiles)
        strides = first.q.stride, shared.k.stride, shared.v.stride
        anchors = [first.q.at(first.first_row, first.byte), shared.k.addr, shared.v.at(shared.v_row),
                   *outputs.target.anchors(first.row, first.head * outputs.step)]
        if outputs.sinks is not None:
            anchors.append(outputs.sinks.at(first.sink))
        before = self._steps, self.loaded_k, self.loaded_v

        def body() -> tuple[int, ...]:
            self._emit_pass(shared, tiles, q)
            return tuple(now - then for now, then in zip((self._steps, self.loaded_k, self.loaded_v), before,
                                                         strict=True))

        key = self.problem.name, turns, position, relative, strides
        done = self.emitter.builder.repeat(key, anchors, body)
        self._steps, self.loaded_k, self.loaded_v = (then + more for then, more in zip(before, done, strict=True))

    def _emit_pass(self, shared: Shared, tiles: list[SubTile], q: int) -> None:
        place = self.place
        for i, tile in enumerate(tiles):
            self.emitter.load_operand(Space.A, tile.q, first_row=tile.first_row, rows=tile.rows, first_byte=tile.byte,
                                      row_bytes=place.head_bytes, addr=q + i * place.tile_groups, pitch=place.q_pitch,
                                      label="load q")
            if self.outputs.sinks is not None:
                self.emitter.load_rows(self.outputs.sinks, first_row=tile.sink, rows=1, row_bytes=4 * place.words *
                                       self.config.cols, addr=place.m[1] + i * place.words, pitch=1, label="load sinks")
        pending, block = None, self.problem.block
        longest = max(self.visible(tile) for tile in tiles)
        lowest = min(self.mask.lowest(tile.position) for tile in tiles)
        for number in range(lowest // block, -(-longest // block)):
            first = max(number * block, lowest // place.unit * place.unit)
            keys = _Keys(self, shared, first, min((number + 1) * block, longest) - first)
            for i, tile in enumerate(tiles):
                done = number - self.mask.lowest(tile.position) // block
                if first >= self.visible(tile) or done < 0:
                    continue
                step = _Step(self, q + i * place.tile_groups, tile, i, keys, done, self._steps)
                self._steps += 1
                if pending and len(place.p) == 1:  # P of the step before lies where this step's goes
                    pending.multiply_values()
                    pending = None
                step.multiply_keys()
                if pending:
                    pending.multiply_values()
                step.compute(self.softmax.sums(step.at, step.first))
                pending = step
        if pending:
            pending.multiply_values()


class _Keys:
    """A block of keys and values, or its end that is seen: ``count`` from key ``first`` on, in pieces.

    Pieces are loaded at once when buffer B has room for those that are still in use (of values, those of the block
    before: its last step is mixed later), else when they are first used.
    """

    def __init__(self, core: Flash, shared: Shared, first: int, count: int):
        self._core, self._shared = core, shared
        self.first, self.count = first, count
        self._k: dict[int, int] = {}
        self._v: dict[tuple[int, int], int] = {}
        place, starts = core.place, range(0, count, core.place.kv_tile)
        if len(place.k_ring) >= place.pieces:
            for start in starts:
                self.k(start)
        if len(place.v_ring) >= 2 * place.pieces * place.value_parts:
            for start in starts:
                for part in range(place.value_parts):
                    self.v(start, part)

    def k(self, start: int) -> int:
        """Address in B of the piece of keys from the block's key ``start`` on."""
        held, core, place = len(self._core.place.k_ring) >= self._core.place.pieces, self._core, self._core.place
        if start not in self._k or not held:
            self._k[start] = place.k_ring[core.loaded_k % len(place.k_ring)]
            core.loaded_k += 1
            first, rows, cols = self.first + start, min(place.kv_tile, self.count - start), core.config.cols
            core.emitter.load_operand(Space.B, self._shared.k, first_row=first, rows=rows, addr=self._k[start],
                                      pitch=place.k_pitch, label=f"load k {first}")
            tiles, padded = -(-rows // cols), align(rows, place.unit) // cols
            if padded > tiles:  # columns of S that are masked
                core.emitter.builder.padding(self._k[start] + tiles * place.k_pitch,
                                             (padded - tiles - 1) * place.k_pitch + place.k_groups)
        return self._k[start]

    def v(self, start: int, part: int) -> int:
        """Address in B of a part of the piece of values."""
        core, place = self._core, self._core.place
        if (start, part) not in self._v:
            addr = self._v[start, part] = place.v_ring[core.loaded_v % len(place.v_ring)]
            core.loaded_v += 1
            row, rows = part * place.value_tiles * core.config.cols, place.value_tiles * core.config.cols
            first, width = self.first + start, align(min(place.kv_tile, self.count - start), core.config.bus_bytes)
            core.emitter.load_operand(Space.B, self._shared.v, first_row=self._shared.v_row + row,
                                      rows=min(rows, core.problem.value_width - row), first_byte=first, row_bytes=width,
                                      addr=addr, pitch=place.v_pitch, label=f"load v {first}")
        return self._v[start, part]


@dataclass(frozen=True)
class _Step:
    """One sub-tile against one block of keys, its ``block``-th."""

    core: Flash
    q: int
    tile: SubTile
    slot: int
    keys: _Keys
    block: int
    number: int

    @property
    def first(self) -> bool:
        return self.block == 0

    @property
    def _count(self) -> int:
        """Keys of the block that some row of the sub-tile may see."""
        return min(self.keys.count, self.core.visible(self.tile) - self.keys.first)

    def _pieces(self) -> list[tuple[int, int]]:
        """(first key in the block, number of keys) of every piece that holds a visible key."""
        step = self.core.place.kv_tile
        return [(start, min(step, self._count - start)) for start in range(0, self._count, step)]

    @cached_property
    def at(self) -> Places:
        """Where the values lie; the rescale factors of two steps take turns, since a merge comes one step later."""
        core, place, stat = self.core, self.core.place, self.slot * self.core.place.words
        out = place.outputs[self.slot]
        part = out if self.first and len(self._pieces()) == 1 else place.partial[self.number % len(place.partial)]
        old, new = (Elem(place.m[(self.block + turn) % 2] + stat) for turn in (1, 0))
        return Places(
            scores=Elem(place.scores[self.number % len(place.scores)]), rowmax=Elem(place.rowmax[self.number % 2]),
            old=old, new=new, factor=Elem(place.alpha[self.number % 2]), sums=Elem(place.sums),
            total=Elem(place.l + stat), part=Elem(part), out=Elem(out), inverse=Elem(place.inverse),
            p=Codes(addr=place.p[self.number % len(place.p)], pitch=place.p_pitch, quant=core.problem.query.quant),
            gains=None if place.gains is None else Elem(place.gains, "gain"),
            result=Codes(addr=place.stage[self.slot % len(place.stage)], pitch=place.o_pitch,
                         quant=core.problem.out.quant, scale_rule=core.outputs.rule,
                         relative_to=core.outputs.relative_to))

    def compute(self, statements: Statements) -> None:
        place, cols, rows = self.core.place, self.core.config.cols, self.tile.rows
        columns = align(self._count, place.unit)  # of S and P: every byte that PV reads is written
        shapes = {Over.ROWS: Shape(rows=-(-rows // cols)),
                  Over.SCORES: Shape(rows=rows, tiles=columns // cols, pitch=rows),
                  Over.OUTPUTS: Shape(rows=rows, tiles=place.head_tiles, pitch=place.rows),
                  Over.STORED: Shape(rows=rows, tiles=place.out_tiles, pitch=place.rows)}
        for over, statement in statements:
            self.core.emitter.compute(shapes[over], statement)

    def multiply_keys(self) -> None:
        """S = Q K^T with its row maxima, then the new maximum, the rescale factor, P and its row sums."""
        core, place, rows, config = self.core, self.core.place, self.tile.rows, self.core.config
        masked = False
        for start, count in self._pieces():
            columns = align(count, place.unit)
            position, step, first = self.tile.position, self.tile.step, self.keys.first + start
            limit = core.mask.limit(position, step, first, count, columns)
            low = core.mask.lower_limit(position, step, rows, first)
            masked |= bool(limit.needed or low.needed)
            core.emitter.matmul(
                label="QK", a_addr=self.q, a_pitch=place.q_pitch, b_addr=self.keys.k(start), b_pitch=place.k_pitch,
                k_steps=place.head_bytes // config.lanes, m_rows=rows, n_tiles=columns // config.cols,
                acc_addr=self.at.scores.addr + start // config.cols * rows, acc_pitch=rows, mask=int(limit.needed),
                mask_base=limit.base, mask_step=limit.step, mask_low=int(low.needed), mask_low_base=low.base,
                mask_low_step=low.step, rowmax=1, rowmax_init=int(start == 0),
                rowmax_addr=self.at.rowmax.addr, **core.score_mode)
        self.compute(core.softmax.probabilities(self.at, self.first, masked))

    def multiply_values(self) -> None:
        """PV, the merge into O, and after the sub-tile's last block the output."""
        core, place, config, pieces = self.core, self.core.place, self.core.config, self._pieces()
        for (start, count), part in product(pieces, range(place.value_parts)):
            first = part * place.value_tiles
            core.emitter.matmul(
                label="PV", a_addr=self.at.p.addr + start // config.lanes, a_pitch=place.p_pitch,
                b_addr=self.keys.v(start, part), b_pitch=place.v_pitch,
                k_steps=align(count, config.bus_bytes) // config.lanes, m_rows=self.tile.rows,
                n_tiles=min(place.value_tiles, place.head_tiles - first),
                acc_addr=self.at.part.addr + first * place.rows, acc_pitch=place.rows, merge=int(start > 0),
                raw=int((start, count) != pieces[-1]), **core.mix_mode)
        self.compute(core.softmax.merge(self.at, self.first))
        if self.keys.first + self.keys.count >= core.visible(self.tile):
            self.compute(core.softmax.end(self.at))
            self._store()

    def _store(self) -> None:
        core, rows, outputs = self.core, self.tile.rows, self.core.outputs
        fields: dict[str, Any] = {"size": core.problem.stored, "addr": self.at.result.addr,
                                  "pitch": core.place.o_pitch, "label": "store output"}
        if self.tile.step:
            core.emitter.store_operand(outputs.target, first_row=self.tile.row, rows=rows,
                                       k0=self.tile.head * outputs.step, **fields)
            return
        for r in range(rows):
            core.emitter.store_operand(outputs.target, first_row=self.tile.row, rows=1, from_row=r,
                                       k0=(self.tile.head + r) * outputs.step, **fields)
