"""Where the core's regions lie on chip, and whether they fit: what the lowering follows and `auto` asks.

A softmax block needs its scores whole, since its maximum comes before its first exponential; keys and values may come
in pieces of ``kv_tile`` keys. Scores, probabilities and so on have two copies, so that array and vector unit work on
different steps; where the tile has room for one copy only, the units take turns.
"""

from itertools import product

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.tensor_formats import TensorFormat
from ..emitter import VECTOR_TILES
from ..layers import Workload
from ..numerics import Numerics
from ..placement import AccPlacer, OperandPlacer, StatPlacer, align
from ..schedule import CoreSchedule
from .heads import blocked_head


def key_unit(config: TileConfig) -> int:
    """Keys that are whole column tiles of scores, whole groups of probabilities and whole bus beats of values."""
    return max(config.bus_bytes, config.cols, config.lanes)


def check_block(workload: Workload, config: TileConfig, numerics: Numerics) -> None:
    """Raise `CompileError` unless the tile can start every softmax block at a column tile and a bus beat."""
    unit, block = key_unit(config), numerics.softmax_block
    if workload.keys > block and block % unit:
        raise CompileError(f"core: softmax_block (--softmax-block) must be a multiple of {unit} on tile {config.name} "
                           f"(bus, columns, lanes), or hold all {workload.keys} keys, got {block}")


class CorePlacement:
    """The regions of one core. Raises `CompileError` naming what has no room.

    stored_head, out_tiles: elements of a head's outputs in whole blocks, and their column tiles.
    columns: of a block's scores; kv_tile: keys per piece, ``pieces`` of which make a block. scores, partial, p, q,
    stage: addresses of the copies. partial holds raw accumulators when there are several pieces.
    k_ring, v_ring: addresses of pieces in buffer B, as many as fit.
    """

    def __init__(self, config: TileConfig, workload: Workload, schedule: CoreSchedule, numerics: Numerics):
        layer, self.unit = workload.attention, key_unit(config)
        self._config, self._schedule = config, schedule
        check_block(workload, config, numerics)
        if schedule.kv_tile % self.unit:
            raise CompileError(f"core: kv_tile must be a multiple of {self.unit} (bus, columns, lanes), "
                               f"got {schedule.kv_tile}")
        most = layer.group if workload.tokens == 1 else workload.tokens
        self.rows = min(schedule.q_rows, most)
        self.columns = align(min(numerics.softmax_block, workload.keys), self.unit)
        if self.columns // config.cols > VECTOR_TILES:
            raise CompileError(f"core: softmax_block (--softmax-block) must be at most {VECTOR_TILES * config.cols} "
                               f"on tile {config.name}, {VECTOR_TILES} column tiles of a VECTOR, got "
                               f"{numerics.softmax_block}")
        self.kv_tile = min(schedule.kv_tile, self.columns)
        self.pieces = -(-self.columns // self.kv_tile)
        self.head_tiles = -(-layer.head_dim // config.cols)
        self.head_bytes = align(layer.head_dim, config.bus_bytes)
        formats = numerics.formats
        self.stored_head = blocked_head(layer.head_dim, formats) if formats.activations.scaled else layer.head_dim
        self.out_tiles = -(-self.stored_head // config.cols)
        self._place_results()
        self._place_statistics()
        self._place_operands(numerics.formats.activations)
        self._place_keys()

    @property
    def copies(self) -> int:
        """Regions that are double, of scores and partial outputs: 0 to 2."""
        return len(self.scores) + len(self.partial) - 2

    def _place_statistics(self) -> None:
        stats, tiles = StatPlacer(self._config, "core"), self._schedule.q_tiles
        self.words = -(-self.rows // self._config.cols)
        every = tiles * self.words
        self.rowmax = [stats.take(self.words, "row maxima (q_rows)") for _ in range(2)]
        self.m = [stats.take(every, "running maxima (q_rows * q_tiles)") for _ in range(2)]
        self.alpha = stats.take(2 * self.words, "rescale factors (q_rows)")
        self.sums = stats.take(self.words, "row sums (q_rows)")
        self.l = stats.take(every, "running sums")
        self.inverse = stats.take(self.words, "inverse sums")

    def _place_results(self) -> None:
        """Raw regions first: they need the banks of both planes."""
        for scores, partial in ((2, 2), (2, 1), (1, 2), (1, 1)):
            placer = AccPlacer(self._config, "core")
            try:
                self.partial = [placer.take(self.rows * self.head_tiles, raw=self.pieces > 1,
                                            what="partial outputs (q_rows)").addr for _ in range(partial)]
                self.scores = [placer.take(self.rows * (self.columns // self._config.cols),
                                           what="scores (q_rows * softmax_block)").addr for _ in range(scores)]
                self.outputs = [placer.take(self.rows * self.out_tiles, what="outputs (q_rows, q_tiles times)").addr
                                for _ in range(self._schedule.q_tiles)]
                return
            except CompileError:
                if (scores, partial) == (1, 1):
                    raise

    def _place_operands(self, out_format: TensorFormat) -> None:
        config = self._config
        panels = -(-self.rows // config.rows)

        def pitch(row_bytes: int) -> int:
            return align(row_bytes, config.a_word_bytes) // config.lanes

        self.q_pitch, self.p_pitch = pitch(self.head_bytes), pitch(self.columns)
        self.o_pitch = pitch(out_format.bytes_of(self.out_tiles * config.cols))
        self.tile_groups = panels * self.q_pitch
        for copies in product((2, 1), repeat=3):
            placer = OperandPlacer(config, "A", "core")
            try:
                self.p = [placer.take(panels * self.p_pitch, "probabilities (q_rows * softmax_block)")
                          for _ in range(copies[0])]
                self.q = [placer.take(self._schedule.q_tiles * self.tile_groups, "queries (q_rows, q_tiles times)")
                          for _ in range(copies[1])]
                self.stage = [placer.take(panels * self.o_pitch, "staged outputs (q_rows)") for _ in range(copies[2])]
                return
            except CompileError:
                if copies == (1, 1, 1):
                    raise

    def _place_keys(self) -> None:
        config, tiles = self._config, self._schedule.q_tiles
        b = OperandPlacer(config, "B", "core")
        self.k_groups, self.v_groups = self.head_bytes // config.lanes, self.kv_tile // config.lanes
        sizes = (self.kv_tile // config.cols * self.k_groups, self.head_tiles * self.v_groups)
        banks = sum(-(-size // b.bank_groups) for size in sizes)
        self.k_ring, self.v_ring = [], []
        while not self.k_ring or banks * b.bank_groups <= b.free_groups:
            self.k_ring.append(b.take(sizes[0], "keys (kv_tile)"))
            self.v_ring.append(b.take(sizes[1], "values (kv_tile)"))
        if tiles > 1 and len(self.k_ring) < self.pieces:
            raise CompileError(f"core: q_tiles must be 1 where buffer B does not hold all {self.pieces} pieces "
                               f"(kv_tile) of a softmax block, {len(self.k_ring)} on tile {config.name}, got {tiles}")
