"""softmax(Q K^T) V with online softmax: one pass over the keys per block of query sub-tiles.

A *sub-tile* is up to ``q_rows`` query rows of one head (for a single new token per sequence: the rows are the
heads of one group). ``q_tiles`` sub-tiles share every loaded block of keys and values. A *step* is one sub-tile
against one key block; the steps of a pass follow each other with a lag of one between the two matmuls:

    array    QK(s)   PV(s-1)   QK(s+1)   PV(s) ...
    vector           softmax(s) ...   merge(s-1) ...

so the array multiplies for one sub-tile while the vector unit exponentiates another. Per step, with c =
scale_q * scale_k * softmax_scale * log2(e) and everything in units of log2:

    m'  = max(m, c * rowmax(S))          rowmax comes free from the drain
    a   = exp2(m - m')
    P   = e4m3(256 * exp2(c * S - m'))   256 uses the codes' range; it cancels in the end
    l   = l * a + rowsum(P)              the sum of what P's codes mean, exact
    O   = O * a + P V                    the merge, one step later: so there are two a in turn

and at the end O / l * scale_v. The first step of a sub-tile starts m, l and O without a merge. The first key
block holds a visible key for every row, so m is finite from then on and a wholly masked block changes nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

from ...rtl.errors import CompileError
from ...rtl.isa import Combine, Func, Reduce, Space
from ..emitter import Emitter, Matrix, acc, imm, row
from ..formats import matmul_mode, query_format
from ..layers import Workload
from ..numerics import Numerics
from ..placement import AccPlacer, OperandPlacer, StatPlacer, align
from ..schedule import CoreSchedule
from .inputs import AttentionMemory, AttentionScales

P_GAIN = 256.0
"""P <= 1 is stored as 256 * P: up to E4M3's 448, clear of its subnormals (FlashAttention-4 scales by 2**8 too)."""


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

    def __init__(self, emitter: Emitter, workload: Workload, memory: AttentionMemory, scales: AttentionScales,
                 schedule: CoreSchedule, numerics: Numerics):
        config, layer, formats = emitter.config, workload.attention, numerics.formats
        self.emitter, self.workload, self.memory, self.schedule = emitter, workload, memory, schedule
        self.config, self.head_dim, self.head_bytes = config, layer.head_dim, memory.head_bytes
        self.score_scale = scales.q * scales.k * layer.scale * math.log2(math.e)
        query, kv, self.out_format = query_format(formats), formats.kv, formats.activations
        self.p_quant, self.scale_rule = query.quant, numerics.scale_rule
        self.score_mode = matmul_mode(query, kv, memory.head_bytes, config, "core Q K^T").fields
        self.mix_mode = matmul_mode(query, kv, workload.keys, config, "core P V").fields
        scaled = self.out_format.scaled
        self.out_factor, self.out_z = (scales.v, imm(scales.mixed)) if scaled else (scales.v / scales.mixed, None)
        unit = max(config.bus_bytes, config.cols, config.lanes)
        if schedule.kv_cols % unit:
            raise CompileError(f"core: kv_cols must be a multiple of {unit} (bus, columns, lanes), "
                               f"got {schedule.kv_cols}")
        self.unit = unit
        most = workload.attention.group if workload.tokens == 1 else workload.tokens
        self.rows = min(schedule.q_rows, most)
        self.head_tiles = -(-layer.head_dim // config.cols)
        self._place()
        self._passes = self._steps = 0

    def _place(self) -> None:
        config, schedule, rows = self.config, self.schedule, self.rows
        placer, stats = AccPlacer(config, "core"), StatPlacer(config, "core")
        score_rows, out_rows = rows * (schedule.kv_cols // config.cols), rows * self.head_tiles
        self.scores = [placer.take(score_rows, what="scores (q_rows * kv_cols)").addr for _ in range(2)]
        self.partial = [placer.take(out_rows, what="partial outputs (q_rows)").addr for _ in range(2)]
        self.outputs = [placer.take(out_rows, what="outputs (q_rows, q_tiles times)").addr
                        for _ in range(schedule.q_tiles)]
        self.words = -(-rows // config.cols)
        every = schedule.q_tiles * self.words
        self.rowmax = [stats.take(self.words, "row maxima (q_rows)") for _ in range(2)]
        self.m = [stats.take(every, "running maxima (q_rows * q_tiles)") for _ in range(2)]
        self.alpha = stats.take(2 * self.words, "rescale factors (q_rows)")
        self.sums = stats.take(self.words, "row sums (q_rows)")
        self.l = stats.take(every, "running sums")
        self.inverse = stats.take(self.words, "inverse sums")
        a, panels = OperandPlacer(config, "A", "core"), -(-rows // config.rows)
        self.q_pitch = align(self.head_bytes, config.a_word_bytes) // config.lanes
        self.p_pitch = align(schedule.kv_cols, config.a_word_bytes) // config.lanes
        out_bytes = self.out_format.bytes_of(self.head_tiles * config.cols)
        self.o_pitch = align(out_bytes, config.a_word_bytes) // config.lanes
        q_groups = schedule.q_tiles * panels * self.q_pitch
        self.tile_groups = panels * self.q_pitch
        self.q = [a.take(q_groups, "queries (q_rows, q_tiles times)") for _ in range(2)]
        self.p = [a.take(panels * self.p_pitch, "probabilities (q_rows * kv_cols)") for _ in range(2)]
        self.stage = [a.take(panels * self.o_pitch, "staged outputs (q_rows)") for _ in range(2)]
        self._place_keys()

    def _place_keys(self) -> None:
        config, schedule = self.config, self.schedule
        b = OperandPlacer(config, "B", "core")
        self.k_groups = self.head_bytes // config.lanes
        self.v_groups = schedule.kv_cols // config.lanes
        k_size, v_size = schedule.kv_cols // config.cols * self.k_groups, self.head_tiles * self.v_groups
        self.k_ring, self.v_ring = [], []
        while len(self.k_ring) < 2 or self._room(b, k_size, v_size):
            self.k_ring.append(b.take(k_size, "keys (kv_cols)"))
            self.v_ring.append(b.take(v_size, "values (kv_cols)"))

    @staticmethod
    def _room(placer: OperandPlacer, *sizes: int) -> bool:
        banks = sum(-(-size // placer.bank_groups) for size in sizes)
        return banks * placer.bank_groups <= placer.free_groups

    def emit(self) -> None:
        """Every sequence, every kv head, every group of sub-tiles."""
        for sequence in range(self.workload.batch):
            for kv_head in range(self.workload.attention.kv_heads):
                tiles = sub_tiles(self.workload, self.memory, self.schedule, sequence, kv_head)
                for first in range(0, len(tiles), self.schedule.q_tiles):
                    self._pass(sequence, kv_head, tiles[first:first + self.schedule.q_tiles])

    def _visible(self, tile: SubTile) -> int:
        """Keys that the sub-tile's last row may see."""
        if self.workload.mask == "none":
            return self.workload.keys
        return min(self.workload.keys, tile.position + (tile.rows - 1) * tile.step + 1)

    def _pass(self, sequence: int, kv_head: int, tiles: list[SubTile]) -> None:
        q = self.q[self._passes % 2]
        self._passes += 1
        for i, tile in enumerate(tiles):
            self.emitter.load_operand(Space.A, tile.q, first_row=tile.first_row, rows=tile.rows, first_byte=tile.byte,
                                      row_bytes=self.head_bytes, addr=q + i * self.tile_groups, pitch=self.q_pitch,
                                      label="load q")
        pending = None
        longest = max(self._visible(tile) for tile in tiles)
        for block, first in enumerate(range(0, longest, self.schedule.kv_cols)):
            keys = self._load_block(sequence, kv_head, block, first, min(self.schedule.kv_cols, longest - first))
            for i, tile in enumerate(tiles):
                if first >= self._visible(tile):
                    continue
                step = _Step(self, q + i * self.tile_groups, tile, i, keys, block, self._steps)
                self._steps += 1
                step.scores_and_softmax()
                if pending:
                    pending.mix()
                step.add_sum()
                pending = step
        if pending:
            pending.mix()

    def _load_block(self, sequence: int, kv_head: int, block: int, first: int, count: int) -> "_Keys":
        slot = block % len(self.k_ring)
        k, v = self.k_ring[slot], self.v_ring[slot]
        self.emitter.load_operand(Space.B, self.memory.k[sequence][kv_head], first_row=first, rows=count, addr=k,
                                  pitch=self.k_groups, label=f"load k {first}")
        tiles, padded = -(-count // self.config.cols), align(count, self.unit) // self.config.cols
        if padded > tiles:  # columns of S that are masked
            self.emitter.builder.padding(k + tiles * self.k_groups, (padded - tiles) * self.k_groups)
        width = align(count, self.config.bus_bytes)
        self.emitter.load_operand(Space.B, self.memory.v[sequence], first_row=kv_head * self.head_dim,
                                  rows=self.head_dim, first_byte=first, row_bytes=width, addr=v, pitch=self.v_groups,
                                  label=f"load v {first}")
        return _Keys(first, count, width, k, v)


@dataclass(frozen=True)
class _Keys:
    """A loaded block: keys first .. first+count-1; width: count rounded up to the bus; B addresses."""

    first: int
    count: int
    width: int
    k: int
    v: int


@dataclass(frozen=True)
class _Step:
    """One sub-tile against one key block."""

    core: AttentionCore
    q: int
    tile: SubTile
    slot: int
    keys: _Keys
    block: int
    number: int

    @property
    def _stat(self) -> int:
        return self.slot * self.core.words

    @property
    def _alpha(self) -> int:
        """The rescale factors of this step, which its merge reads after the next step has made its own."""
        return self.core.alpha + self.number % 2 * self.core.words

    @property
    def _words(self) -> int:
        return -(-self.tile.rows // self.core.config.cols)

    @property
    def _columns(self) -> int:
        """Columns of S and P: the block's, rounded up so that every byte that PV reads has been written."""
        return align(self.keys.count, self.core.unit)

    def scores_and_softmax(self) -> None:
        """S = Q K^T with its row maxima, then the new maximum, the rescale factor, P and its row sums."""
        core, rows = self.core, self.tile.rows
        emitter, config = core.emitter, core.config
        parity, tiles = self.number % 2, self._columns // config.cols
        scores, rowmax = core.scores[parity], core.rowmax[parity]
        base, step, masked = self._mask()
        emitter.matmul(label="QK", a_addr=self.q, a_pitch=core.q_pitch, b_addr=self.keys.k, b_pitch=core.k_groups,
                       k_steps=core.head_bytes // config.lanes, m_rows=rows, n_tiles=tiles, acc_addr=scores,
                       acc_pitch=rows, mask=int(masked), mask_base=base, mask_step=step, rowmax=1, rowmax_init=1,
                       rowmax_addr=rowmax, **core.score_mode)
        old = core.m[(self.block + 1) % 2] + self._stat
        new = core.m[self.block % 2] + self._stat
        first = self.block == 0
        emitter.vector(rows=self._words, x=rowmax, y=imm(core.score_scale),
                       combine=Combine.NONE if first else Combine.MAX, z=None if first else acc(old), to_acc=new,
                       label="running max")
        if not first:
            emitter.vector(rows=self._words, x=old, combine=Combine.SUB, z=acc(new), func=Func.EXP2,
                           to_acc=self._alpha, label="rescale factor")
        emitter.vector(rows=rows, tiles=tiles, pitch=rows, x=scores, y=imm(core.score_scale), combine=Combine.SUB,
                       z=row(new), func=Func.EXP2, w=imm(P_GAIN), to_a=core.p[parity], dst_pitch=core.p_pitch,
                       quant=core.p_quant,
                       reduce=Reduce.SUM, reduce_addr=core.l + self._stat if first else core.sums, label="P")

    def add_sum(self) -> None:
        """The new row sums into l; after another step's work, since they are ready late."""
        core, running = self.core, self.core.l + self._stat
        if self.block:
            core.emitter.vector(rows=self._words, x=running, y=acc(self._alpha), combine=Combine.ADD, z=acc(core.sums),
                                to_acc=running, label="running sum")

    def _mask(self) -> tuple[int, int, bool]:
        """mask_base, mask_step, needed: column <= base + step * row stays."""
        tile, keys, core = self.tile, self.keys, self.core
        last = keys.count - 1
        padded = self._columns > keys.count
        if core.workload.mask == "none" or tile.step == 0:  # a single new token is the last key
            return last, 0, padded
        base = tile.position - keys.first
        # Rows past the last key do not exist, so the causal limit also hides the padding.
        return base, 1, base < self._columns - 1

    def mix(self) -> None:
        """PV, the merge into O, and after the sub-tile's last block the output."""
        core, rows = self.core, self.tile.rows
        emitter, config = core.emitter, core.config
        first, out = self.block == 0, core.outputs[self.slot]
        target = out if first else core.partial[self.number % 2]
        emitter.matmul(label="PV", a_addr=core.p[self.number % 2], a_pitch=core.p_pitch, b_addr=self.keys.v,
                       b_pitch=core.v_groups, k_steps=self.keys.width // config.lanes, m_rows=rows,
                       n_tiles=core.head_tiles, acc_addr=target, acc_pitch=rows, **core.mix_mode)
        if not first:
            emitter.vector(rows=rows, tiles=core.head_tiles, pitch=rows, x=out, y=row(self._alpha), combine=Combine.ADD,
                           z=acc(target), to_acc=out, dst_pitch=rows, label="merge")
        if self.keys.first + self.keys.count >= core._visible(self.tile):
            self._finish(out)

    def _finish(self, out: int) -> None:
        core, rows = self.core, self.tile.rows
        stage = core.stage[self.slot % 2]
        core.emitter.vector(rows=self._words, x=core.l + self._stat, func=Func.RECIPROCAL, to_acc=core.inverse,
                            label="1 / sum")
        core.emitter.vector(rows=rows, tiles=core.head_tiles, pitch=rows, x=out, y=row(core.inverse), z=core.out_z,
                            w=imm(core.out_factor), to_a=stage, dst_pitch=core.o_pitch, quant=core.out_format.quant,
                            scale_rule=core.scale_rule, label="normalize output")
        fields: dict[str, Any] = {"k0": self.tile.head * core.head_bytes, "size": core.head_dim, "addr": stage,
                                  "pitch": core.o_pitch, "label": "store output"}
        if self.tile.step:
            core.emitter.store_operand(core.memory.mixed, first_row=self.tile.row, rows=rows, **fields)
            return
        for r in range(rows):
            core.emitter.store_operand(core.memory.mixed, first_row=self.tile.row, rows=1, from_row=r,
                                       **{**fields, "k0": (self.tile.head + r) * core.head_bytes})
