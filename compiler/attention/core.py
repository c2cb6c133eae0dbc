"""softmax(Q K^T) V with online softmax: one pass over the keys per block of query sub-tiles.

A *sub-tile* is up to ``q_rows`` query rows of one head (for a single new token per sequence: the rows are the
heads of one group). A *softmax block* is ``Numerics.softmax_block`` keys, block j the absolute keys j * softmax_block
on; its keys and values are loaded and multiplied in *pieces* of ``kv_tile``. ``q_tiles`` sub-tiles share every loaded
block. A *step* is one sub-tile against one block; the steps of a pass follow each other with a lag of one between the
two matmuls:

    array    QK(s)   PV(s-1)   QK(s+1)   PV(s) ...
    vector           softmax(s) ...   merge(s-1) ...

so the array multiplies for one sub-tile while the vector unit exponentiates another. What the vector unit computes per
step is in `softmax.py`; the merge comes one step later, so that there are two rescale factors in turn. The first step
of a sub-tile starts m, l and O without a merge. The first block holds a visible key for every row, so m is finite from
then on and a key that a row may not see changes nothing: its P is 0, and a block of such keys rescales by 1. So only
the blocks decide the bits: no row depends on which rows share its sub-tile, and the rows of a later chunk of a prefill
are those of the whole.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...rtl.spec.isa import Space
from ..dram import Matrix, code_matrix, float_matrix
from ..emitter import Emitter
from ..formats import matmul_mode, query_format
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import Numerics
from ..schedule import CoreSchedule
from ..tiles.buffers import align
from ..tiles.expr import Codes, Elem, Imm, Row, Shape
from . import softmax
from .inputs import AttentionMemory
from .place import CorePlacement


@dataclass(frozen=True, kw_only=True)
class SubTile:
    """Query rows that are processed together.

    q: matrix whose rows ``first_row`` .. are the sub-tile's (``byte``: first byte of the head); row, head: where its
    outputs go (with step 0, one row and a head per sub-tile row);
    position: position of its first row; step: 1 if positions rise by one per row, 0 if all rows are one token.
    """

    q: Matrix
    first_row: int
    byte: int
    row: int
    head: int
    rows: int
    position: int
    step: int


def sub_tiles(workload: Workload, memory: AttentionMemory, schedule: CoreSchedule, sequence: int,
              kv_head: int) -> list[SubTile]:
    """All sub-tiles of one sequence and one kv head, early tokens first."""
    layer = workload.attention
    heads = range(kv_head * layer.group, (kv_head + 1) * layer.group)
    if workload.tokens == 1:
        byte = heads[0] * memory.head_bytes
        q = Matrix(memory.q.at(sequence, byte), layer.group, memory.head_bytes, memory.head_bytes)
        return [SubTile(q=q, first_row=r, byte=0, row=sequence, head=heads[0] + r,
                        rows=min(schedule.q_rows, layer.group - r), position=workload.cached, step=0)
                for r in range(0, layer.group, schedule.q_rows)]
    tiles = []
    for token in range(0, workload.tokens, schedule.q_rows):
        rows = min(schedule.q_rows, workload.tokens - token)
        first = sequence * workload.tokens + token
        tiles += [SubTile(q=memory.q, first_row=first, byte=head * memory.head_bytes, row=first, head=head, rows=rows,
                          position=workload.cached + token, step=1) for head in heads]
    return tiles


class AttentionCore:
    """The core of a whole layer on one tile: regions are placed once, passes are emitted one by one."""

    def __init__(self, emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: Scales,
                 schedule: CoreSchedule, numerics: Numerics):
        config, layer, formats = emitter.config, workload.attention, numerics.formats
        self.emitter, self.workload, self.memory, self.schedule = emitter, workload, memory, schedule
        self.config, self.head_dim, self.block = config, layer.head_dim, numerics.softmax_block
        self.place = CorePlacement(config, workload, schedule, numerics)
        self.score_scale = scales["q"] * scales["k"] * layer.scale * math.log2(math.e)
        query, kv, self.out_format = query_format(formats), formats.kv, formats.activations
        self.p_quant, self.scale_rule = query.quant, numerics.scale_rule
        self.score_mode = matmul_mode(query, kv, memory.head_bytes, config, "core Q K^T").fields
        self.mix_mode = matmul_mode(query, kv, workload.keys, config, "core P V").fields
        scaled = self.out_format.scaled
        self.out_factor = scales["v"] if scaled else scales["v"] / scales["mixed"]
        self.relative_to = Imm(scales["mixed"]) if scaled else None
        self._passes = self._steps = self.loaded_k = self.loaded_v = 0

    def emit(self) -> None:
        """Every sequence, every kv head, every group of sub-tiles."""
        self._clear_padding()
        for sequence in range(self.workload.batch):
            for kv_head in range(self.workload.attention.kv_heads):
                tiles = sub_tiles(self.workload, self.memory, self.schedule, sequence, kv_head)
                for first in range(0, len(tiles), self.schedule.q_tiles):
                    self._pass(sequence, kv_head, tiles[first:first + self.schedule.q_tiles])

    def _clear_padding(self) -> None:
        """Zeros where a head is stored with more elements than it has, to fill its last block.

        They are results of buffer B's slices behind the head's, which no block of values overwrites, and column tiles
        of the outputs that no matmul writes.
        """
        place, head_dim, cols = self.place, self.head_dim, self.config.cols
        builder, emitter = self.emitter.builder, self.emitter
        behind = min(place.stored_head, place.head_tiles * cols) - head_dim
        if behind > 0:
            zeros = code_matrix(builder, "zero values", behind, place.v_groups * self.config.lanes)
            last = (place.head_tiles - 1) * place.v_groups
            for addr in place.v_ring:
                emitter.load_operand(Space.B, zeros, first_row=0, rows=behind, addr=addr + last, pitch=place.v_groups,
                                     from_row=head_dim % cols, label="clear values behind a head")
        if place.out_tiles > place.head_tiles:
            zeros = float_matrix(builder, "zero outputs", place.rows, (place.out_tiles - place.head_tiles) * cols)
            for addr in place.outputs:
                emitter.load_rows(zeros, first_row=0, rows=place.rows, addr=addr + place.head_tiles * place.rows,
                                  pitch=place.rows, label="clear outputs behind a head")

    def visible(self, tile: SubTile) -> int:
        """Keys that the sub-tile's last row may see."""
        return self.workload.key_mask.visible(tile.position + (tile.rows - 1) * tile.step)

    def _pass(self, sequence: int, kv_head: int, tiles: list[SubTile]) -> None:
        """As another one whose sub-tiles see as much, if the buffers that take turns are at the same one."""
        place, first, mixed = self.place, tiles[0], self.memory.mixed
        q = place.q[self._passes % len(place.q)]
        self._passes += 1
        turns = (q, self._steps % math.lcm(2, len(place.scores), len(place.p), len(place.partial)),
                 self.loaded_k % len(place.k_ring), self.loaded_v % len(place.v_ring))
        position = 0 if self.workload.mask == "none" else first.position
        relative = tuple((tile.rows, tile.step, tile.position - first.position, tile.head - first.head,
                          tile.q.at(tile.first_row, tile.byte) - first.q.at(first.first_row, first.byte),
                          tile.row - first.row) for tile in tiles)
        anchors = [first.q.at(first.first_row, first.byte), self.memory.k[sequence][kv_head].addr,
                   self.memory.v[sequence].at(kv_head * self.head_dim)]
        anchors += mixed.anchors(first.row, first.head * self.memory.mixed_head)
        before = self._steps, self.loaded_k, self.loaded_v

        def body() -> tuple[int, ...]:
            self._emit_pass(sequence, kv_head, tiles, q)
            return tuple(now - then for now, then in zip((self._steps, self.loaded_k, self.loaded_v), before,
                                                         strict=True))

        done = self.emitter.builder.repeat(("pass", turns, position, relative), anchors, body)
        self._steps, self.loaded_k, self.loaded_v = (then + more for then, more in zip(before, done, strict=True))

    def _emit_pass(self, sequence: int, kv_head: int, tiles: list[SubTile], q: int) -> None:
        place = self.place
        for i, tile in enumerate(tiles):
            self.emitter.load_operand(Space.A, tile.q, first_row=tile.first_row, rows=tile.rows, first_byte=tile.byte,
                                      row_bytes=place.head_bytes, addr=q + i * place.tile_groups, pitch=place.q_pitch,
                                      label="load q")
        pending = None
        longest = max(self.visible(tile) for tile in tiles)
        for block, first in enumerate(range(0, longest, self.block)):
            keys = _Keys(self, sequence, kv_head, first, min(self.block, longest - first))
            for i, tile in enumerate(tiles):
                if first >= self.visible(tile):
                    continue
                step = _Step(self, q + i * place.tile_groups, tile, i, keys, block, self._steps)
                self._steps += 1
                step.scores_and_softmax()
                if pending:
                    pending.mix()
                step.add_sum()
                pending = step
        if pending:
            pending.mix()


class _Keys:
    """A block of keys and values, ``count`` from key ``first`` on, in pieces.

    Pieces are loaded at once when buffer B has room for those that are still in use (of values, those of the block
    before: its last step is mixed later), else when they are first used.
    """

    def __init__(self, core: AttentionCore, sequence: int, kv_head: int, first: int, count: int):
        self._core, self._sequence, self._kv_head = core, sequence, kv_head
        self.first, self.count = first, count
        self._k: dict[int, int] = {}
        self._v: dict[int, int] = {}
        place, starts = core.place, range(0, count, core.place.kv_tile)
        if len(place.k_ring) >= place.pieces:
            for start in starts:
                self.k(start)
        if len(place.v_ring) >= 2 * place.pieces:
            for start in starts:
                self.v(start)

    def k(self, start: int) -> int:
        """Address in B of the piece of keys from the block's key ``start`` on."""
        held, core, place = len(self._core.place.k_ring) >= self._core.place.pieces, self._core, self._core.place
        if start not in self._k or not held:
            self._k[start] = place.k_ring[core.loaded_k % len(place.k_ring)]
            core.loaded_k += 1
            first, rows, cols = self.first + start, min(place.kv_tile, self.count - start), core.config.cols
            core.emitter.load_operand(Space.B, core.memory.k[self._sequence][self._kv_head], first_row=first, rows=rows,
                                      addr=self._k[start], pitch=place.k_groups, label=f"load k {first}")
            tiles, padded = -(-rows // cols), align(rows, place.unit) // cols
            if padded > tiles:  # columns of S that are masked
                core.emitter.builder.padding(self._k[start] + tiles * place.k_groups,
                                             (padded - tiles) * place.k_groups)
        return self._k[start]

    def v(self, start: int) -> int:
        """Address in B of the piece of values."""
        core, place = self._core, self._core.place
        if start not in self._v:
            self._v[start] = place.v_ring[core.loaded_v % len(place.v_ring)]
            core.loaded_v += 1
            first, width = self.first + start, align(min(place.kv_tile, self.count - start), core.config.bus_bytes)
            core.emitter.load_operand(Space.B, core.memory.v[self._sequence], first_row=self._kv_head * core.head_dim,
                                      rows=core.head_dim, first_byte=first, row_bytes=width, addr=self._v[start],
                                      pitch=place.v_groups, label=f"load v {first}")
        return self._v[start]


@dataclass(frozen=True)
class _Step:
    """One sub-tile against one block of keys."""

    core: AttentionCore
    q: int
    tile: SubTile
    slot: int
    keys: _Keys
    block: int
    number: int

    @property
    def _stat(self) -> int:
        return self.slot * self.core.place.words

    @property
    def _alpha(self) -> int:
        """The rescale factors of this step, which its merge reads after the next step has made its own."""
        return self.core.place.alpha + self.number % 2 * self.core.place.words

    @property
    def _words(self) -> Shape:
        return Shape(rows=-(-self.tile.rows // self.core.config.cols))

    @property
    def _count(self) -> int:
        """Keys of the block that some row of the sub-tile may see."""
        return min(self.keys.count, self.core.visible(self.tile) - self.keys.first)

    @property
    def _columns(self) -> int:
        """Columns of S and P: `_count` rounded up so that every byte that PV reads has been written."""
        return align(self._count, self.core.place.unit)

    @property
    def _p(self) -> int:
        return self.core.place.p[self.number % len(self.core.place.p)]

    def _pieces(self) -> list[tuple[int, int]]:
        """(first key in the block, number of keys) of every piece that holds a visible key."""
        step = self.core.place.kv_tile
        return [(start, min(step, self._count - start)) for start in range(0, self._count, step)]

    def scores_and_softmax(self) -> None:
        """S = Q K^T with its row maxima, then the new maximum, the rescale factor, P and its row sums."""
        core, place, rows = self.core, self.core.place, self.tile.rows
        emitter, config = core.emitter, core.config
        scores, rowmax = place.scores[self.number % len(place.scores)], place.rowmax[self.number % 2]
        for start, count in self._pieces():
            columns = align(count, place.unit)
            limit = core.workload.key_mask.limit(self.tile.position, self.tile.step, self.keys.first + start, count,
                                                 columns)
            emitter.matmul(label="QK", a_addr=self.q, a_pitch=place.q_pitch, b_addr=self.keys.k(start),
                           b_pitch=place.k_groups, k_steps=place.head_bytes // config.lanes, m_rows=rows,
                           n_tiles=columns // config.cols, acc_addr=scores + start // config.cols * rows,
                           acc_pitch=rows, mask=int(limit.needed), mask_base=limit.base, mask_step=limit.step, rowmax=1,
                           rowmax_init=int(start == 0), rowmax_addr=rowmax, **core.score_mode)
        old, new = (Elem(place.m[(self.block + turn) % 2] + self._stat) for turn in (1, 0))
        scale, later = core.score_scale, self.block > 0
        emitter.compute(self._words, softmax.new_maximum(new, Elem(rowmax), scale, old if later else None))
        if later:
            emitter.compute(self._words, softmax.rescale(Elem(self._alpha), old, new))
        codes = Codes(addr=self._p, pitch=place.p_pitch, quant=core.p_quant)
        emitter.compute(Shape(rows=rows, tiles=self._columns // config.cols, pitch=rows), softmax.probabilities(
            codes, Elem(scores), scale, Row(new.addr), place.sums if later else place.l + self._stat))

    def add_sum(self) -> None:
        """The new row sums into l; after another step's work, since they are ready late."""
        running = Elem(self.core.place.l + self._stat)
        if self.block:
            self.core.emitter.compute(self._words, softmax.running_sum(running, Elem(self._alpha),
                                                                       Elem(self.core.place.sums)))

    def mix(self) -> None:
        """PV, the merge into O, and after the sub-tile's last block the output."""
        core, place, rows = self.core, self.core.place, self.tile.rows
        emitter, config, pieces = core.emitter, core.config, self._pieces()
        first, out = self.block == 0, place.outputs[self.slot]
        target = out if first and len(pieces) == 1 else place.partial[self.number % len(place.partial)]
        for start, count in pieces:
            emitter.matmul(label="PV", a_addr=self._p + start // config.lanes, a_pitch=place.p_pitch,
                           b_addr=self.keys.v(start), b_pitch=place.v_groups,
                           k_steps=align(count, config.bus_bytes) // config.lanes, m_rows=rows,
                           n_tiles=place.head_tiles, acc_addr=target, acc_pitch=place.rows, merge=int(start > 0),
                           raw=int((start, count) != pieces[-1]), **core.mix_mode)
        shape = Shape(rows=rows, tiles=place.head_tiles, pitch=place.rows)
        if not first:
            emitter.compute(shape, softmax.merge(Elem(out), Row(self._alpha), Elem(target)))
        elif target != out:
            emitter.compute(shape, softmax.start(Elem(out), Elem(target)))
        if self.keys.first + self.keys.count >= core.visible(self.tile):
            self._finish(out)

    def _finish(self, out: int) -> None:
        core, place, rows = self.core, self.core.place, self.tile.rows
        stage = place.stage[self.slot % len(place.stage)]
        core.emitter.compute(self._words, softmax.inverse_sum(Elem(place.inverse), Elem(place.l + self._stat)))
        codes = Codes(addr=stage, pitch=place.o_pitch, quant=core.out_format.quant, scale_rule=core.scale_rule,
                      relative_to=core.relative_to)
        core.emitter.compute(Shape(rows=rows, tiles=place.out_tiles, pitch=place.rows), softmax.normalized(
            codes, Elem(out), Row(place.inverse), core.out_factor))
        step = core.memory.mixed_head
        fields: dict[str, Any] = {"k0": self.tile.head * step, "size": place.stored_head, "addr": stage,
                                  "pitch": place.o_pitch, "label": "store output"}
        if self.tile.step:
            core.emitter.store_operand(core.memory.mixed, first_row=self.tile.row, rows=rows, **fields)
            return
        for r in range(rows):
            core.emitter.store_operand(core.memory.mixed, first_row=self.tile.row, rows=1, from_row=r,
                                       **{**fields, "k0": (self.tile.head + r) * step})
