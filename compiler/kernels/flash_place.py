"""Where the regions of `flash.py` lie on chip, and whether they fit: what the lowering follows and `auto` asks.

A softmax block needs its scores whole, since its maximum comes before its first exponential; keys and values may come
in pieces of ``kv_tile`` keys. Scores, probabilities and so on have two copies, so that array and vector unit work on
different steps; where the tile has room for one copy only, the units take turns.
"""

from dataclasses import dataclass, replace

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.tensor_formats import TensorFormat
from ..emitter import VECTOR_TILES
from ..schedule import FlashSchedule
from ..tiles.buffers import AS_MANY_AS_FIT, Buffer, Memory, align, pitch, place


def key_unit(config: TileConfig) -> int:
    """Keys that are whole column tiles of scores, whole groups of probabilities and whole bus beats of values."""
    return max(config.bus_bytes, config.cols, config.lanes)


@dataclass(frozen=True, kw_only=True)
class FlashProblem:
    """What is multiplied: sub-tiles of queries that share ``keys`` keys and values.

    rows: of queries, the most that one sub-tile may have; heads: how often there are so many for the same keys.
    width, value_width: elements of a row of q and k, and of v. stored: those of an output in whole blocks. block: keys
    of a softmax block. query, kv, out: formats. capped: are scores?
    """

    name: str
    rows: int
    heads: int
    keys: int
    width: int
    value_width: int
    stored: int
    block: int
    query: TensorFormat
    kv: TensorFormat
    out: TensorFormat
    capped: bool = False

    def check(self, config: TileConfig) -> None:
        """Raise `CompileError` unless the tile can start every softmax block at a column tile and a bus beat."""
        unit = key_unit(config)
        if self.keys > self.block and self.block % unit:
            raise CompileError(f"{self.name}: softmax_block (--softmax-block) must be a multiple of {unit} on tile "
                               f"{config.name} (bus, columns, lanes), or hold all {self.keys} keys, got {self.block}")


class FlashPlacement:
    """The regions of one kernel. Raises `CompileError` naming what has no room.

    head_tiles, out_tiles: column tiles of an output, and of one in whole blocks.
    columns: of a block's scores; kv_tile: keys per piece, ``pieces`` of which make a block. scores, partial, p, q,
    stage: addresses of the copies. packed: may banks be shared? partial holds raw accumulators when there are several
    pieces. k_ring, v_ring: addresses of pieces in buffer B, as many as fit, and k_pitch, v_pitch groups between their
    column tiles; those of values come in ``value_parts`` parts of ``value_tiles`` column tiles.
    """

    def __init__(self, config: TileConfig, problem: FlashProblem, schedule: FlashSchedule, packed: bool = True):
        self.unit, self.name = key_unit(config), problem.name
        self._config, self._schedule = config, schedule
        problem.check(config)
        if schedule.kv_tile % self.unit:
            raise CompileError(f"{self.name}: kv_tile must be a multiple of {self.unit} (bus, columns, lanes), "
                               f"got {schedule.kv_tile}")
        self.rows = min(schedule.q_rows, problem.rows)
        self.columns = align(min(problem.block, problem.keys), self.unit)
        if self.columns // config.cols > VECTOR_TILES:
            raise CompileError(f"{self.name}: softmax_block (--softmax-block) must be at most "
                               f"{VECTOR_TILES * config.cols} on tile {config.name}, {VECTOR_TILES} column tiles of a "
                               f"VECTOR, got {problem.block}")
        self.kv_tile = min(schedule.kv_tile, self.columns)
        self.pieces = -(-self.columns // self.kv_tile)
        self.head_tiles, self.out_tiles = -(-problem.value_width // config.cols), -(-problem.stored // config.cols)
        self.head_bytes = align(problem.width, config.bus_bytes)
        self.words = -(-self.rows // config.cols)
        self.q_pitch, self.p_pitch = self._pitch(self.head_bytes), self._pitch(self.columns)
        self.o_pitch = self._pitch(problem.out.bytes_of(self.out_tiles * config.cols))
        self.tile_groups = -(-self.rows // config.rows) * self.q_pitch
        self.k_groups, self.v_groups = self.head_bytes // config.lanes, self.kv_tile // config.lanes
        self.value_tiles, self._beside = self._value_parts(problem)
        self.value_parts = -(-self.head_tiles // self.value_tiles)
        self.k_pitch = self._pitch_in_b(self.kv_tile // config.cols, self.k_groups)
        self.v_pitch = self._pitch_in_b(self.value_tiles, self.v_groups)
        self._place(problem, packed)

    def _value_parts(self, problem: FlashProblem) -> tuple[int, int]:
        """Column tiles of a part of the values of a piece, and parts beside each piece of keys: all in one, unless
        buffer B does not hold it beside the keys; then so large that there is room for two, if they can be."""
        config = self._config
        keys, values = self.kv_tile // config.cols * self.k_groups, self.head_tiles * self.v_groups
        room = config.b_banks - -(-keys // config.b_bank_groups)
        if keys + values <= config.b_banks * config.b_bank_groups or problem.value_width % config.cols or room < 1:
            return self.head_tiles, 1
        tiles = min(self.head_tiles, max(1, max(1, room // 2) * config.b_bank_groups // self.v_groups))
        banks = -(-tiles * self.v_groups // config.b_bank_groups)
        return tiles, max(1, min(-(-self.head_tiles // tiles), room // banks))

    def _place(self, problem: FlashProblem, packed: bool) -> None:
        tiles, config = self._schedule.q_tiles, self._config
        found = place(self.buffers(problem.capped), config, self.name, packed)
        (self.gains,) = found.get("gains of P", [None])
        self.partial, self.scores, self.outputs = found["partial outputs"], found["scores"], found["outputs"]
        self.rowmax, self.m, (self.sums,) = found["row maxima"], found["running maxima"], found["row sums"]
        (self.l,), (self.inverse,) = found["running sums"], found["inverse sums"]
        factors = found["rescale factors"]
        self.alpha = factors if len(factors) == 2 else [factors[0], factors[0] + self.words]
        self.p, self.q, self.stage = found["probabilities"], found["queries"], found["staged outputs"]
        step, ring = 1 + self._beside, found["keys and values"]
        self.k_ring, self.v_ring = ring[::step], [addr for number, addr in enumerate(ring) if number % step]
        if tiles > 1 and (len(self.k_ring) < self.pieces or len(self.v_ring) < self.pieces * self.value_parts):
            raise CompileError(f"{self.name}: q_tiles must be 1 where buffer B does not hold all {self.pieces} pieces "
                               f"(kv_tile) of a softmax block, {len(self.k_ring)} on tile {config.name}, got {tiles}")

    @property
    def copies(self) -> int:
        """Regions that are double, of scores and partial outputs: 0 to 2."""
        return len(self.scores) + len(self.partial) - 2

    def _pitch(self, row_bytes: int) -> int:
        """Groups between panels of rows in buffer A."""
        return align(row_bytes, self._config.a_word_bytes) // self._config.lanes

    def _pitch_in_b(self, tiles: int, groups: int) -> int:
        """Groups between column tiles of keys or values, which start on bus beats."""
        return align(pitch(Memory.B, self._config, tiles, groups), self._config.b_word_bytes // self._config.lanes)

    def buffers(self, capped: bool) -> list[Buffer]:
        """Raw results come first: they need the banks of both planes."""
        config, rows, tiles = self._config, self.rows, self._schedule.q_tiles
        panels, every = -(-rows // config.rows), tiles * self.words

        def statistics(name: str, words: int, *beside: str, keys: str = "", copies: int = 1) -> Buffer:
            return Buffer(name=name, memory=Memory.STATISTICS, sizes=(words,), keys=keys, least=copies, most=copies,
                          beside=frozenset(beside))

        pair = 2 * self.words <= config.stat_bank_rows
        scores = Buffer(name="scores", memory=Memory.ACC, sizes=(rows * (self.columns // config.cols),), most=2,
                        keys="q_rows * softmax_block", beside=frozenset())
        gains = [replace(scores, name="gains of P", most=1, beside=frozenset({"scores"}))] if capped else []
        return [
            Buffer(name="partial outputs", memory=Memory.ACC, sizes=(rows * self.head_tiles,), most=2, rank=1,
                   raw=self.pieces > 1, keys="q_rows", beside=frozenset({"outputs"})),
            scores, *gains,
            Buffer(name="outputs", memory=Memory.ACC, sizes=(rows * self.out_tiles,), least=tiles, most=tiles,
                   keys="q_rows, q_tiles times", beside=frozenset()),
            statistics("row maxima", self.words, "running maxima", keys="q_rows", copies=2),
            statistics("running maxima", every, "running maxima", keys="q_rows * q_tiles", copies=2),
            statistics("rescale factors", (1 + pair) * self.words, "row sums", "running sums", keys="q_rows",
                       copies=2 - pair),
            statistics("row sums", self.words, "running sums", keys="q_rows"),
            statistics("running sums", every), statistics("inverse sums", self.words),
            Buffer(name="probabilities", memory=Memory.A, sizes=(panels * self.p_pitch,), most=2,
                   keys="q_rows * softmax_block"),
            Buffer(name="queries", memory=Memory.A, sizes=(tiles * self.tile_groups,), most=2,
                   keys="q_rows, q_tiles times"),
            Buffer(name="staged outputs", memory=Memory.A, sizes=(panels * self.o_pitch,), most=2, keys="q_rows"),
            Buffer(name="keys and values", memory=Memory.B, most=AS_MANY_AS_FIT, keys="kv_tile",
                   sizes=((self.kv_tile // config.cols - 1) * self.k_pitch + self.k_groups,
                          *[(self.value_tiles - 1) * self.v_pitch + self.v_groups] * self._beside),
                   pitched=max(self.k_groups, self.v_groups) <= config.b_bank_groups)]
