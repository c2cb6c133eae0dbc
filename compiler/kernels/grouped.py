"""Two GEMMs for each block of rows of one expert: gather, gate and up, product, down, weigh, store.

Gate and up rows alternate by column tile in DRAM, so that one GEMM makes both and each group holds the activation's
and the product's operands. Gathered rows and the product stay on chip: it is quantized straight into buffer A, where
the second GEMM reads it. Where buffer A is too small for that (``a_resident`` = false), rows are gathered again, a
chunk of k at a time, for every group of column tiles, and products go through DRAM. A row's weight for an expert comes
as one bus beat (its neighbours' weights with it); a one-hot row picks the lane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce, ScaleRule
from ...rtl.spec.tensor_formats import TensorFormat
from ..dram import Matrix, index_list
from ..emitter import Emitter
from ..operands import Operand
from ..schedule import GemmSchedule
from ..tiles import activations
from ..tiles.buffers import AS_MANY_AS_FIT, Buffer, Memory, align
from ..tiles.expr import Assign, Codes, Col, Elem, Imm, Reduction, Row, Shape
from .bias import ColumnBias, column_bias_buffer
from .gemm import Gemm, GemmProblem, Group, Resident, Stream


@dataclass(frozen=True, kw_only=True)
class Expert:
    """One member of the list. rows: those that it takes, ascending. gate_up: blocks of ``cols`` gate rows and ``cols``
    up rows in turn; down: the second GEMM's B. gate, up, product, weigh: factors of what the GEMMs make and of the
    product's codes; activation: of the gate; on_input: rows are weighted before it too; biases:
    of both GEMMs, a row per column tile."""

    number: int
    rows: np.ndarray
    gate_up: Operand
    down: Operand
    gate: float
    up: float
    product: float
    weigh: float
    activation: str = "silu"
    on_input: bool = False
    biases: tuple[Matrix, Matrix] | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows of one expert that are processed together; first: where their results go, from row ``first`` on."""

    expert: Expert
    first: int
    rows: np.ndarray


def gated_product(emitter: Emitter, group: Group, gated: int, to: Codes, *, gate: float, up: float | None,
                  product: float, activation: str = "silu", weight: Row | None = None) -> None:
    """Codes of activation(gate) * up of a group whose column tiles are gate and up in turn, or, without an up, of
    activation(gate). gated: a region of its size; gate, up, product: factors of both, and of the codes; weight: of what
    the activation takes, row by row."""
    sides = 1 if up is None else 2
    left, own = Elem(group.addr), Elem(gated)
    shape = Shape(rows=group.rows, tiles=group.tiles // sides, pitch=sides * group.pitch)
    if weight is not None:
        emitter.compute(shape, Assign(to=left, value=left * weight, scale=gate, label="weigh input"))
        gate = 1.0
    right = {} if up is None else {"up": Elem(group.addr + group.pitch), "up_factor": up}
    made = activations.product(activation, left, own, gate, **right)
    scale = made.scale if to.relative_to is not None else made.scale / product
    emitter.compute(shape, *made.statements, Assign(to=to, value=made.value, scale=scale, label="product"))


def expert_blocks(experts: Sequence[Expert], m_tile: int) -> list[Block]:
    """Blocks of at most ``m_tile`` rows, in the order of the experts."""
    blocks, slot = [], 0
    for expert in experts:
        for start in range(0, len(expert.rows), m_tile):
            part = expert.rows[start:start + m_tile]
            blocks.append(Block(expert=expert, first=slot, rows=part))
            slot += len(part)
    return blocks


def operand_pitch(config: TileConfig, problem: GemmProblem) -> int:
    """Groups between panels of the A operand of a problem."""
    return align(problem.a.bytes_of(problem.k), config.a_word_bytes) // config.lanes


def product_tiles(config: TileConfig, activations: TensorFormat) -> int:
    """Column tiles of products between two places in buffer A where a VECTOR may start to write them.

    Such a place is a multiple of ``cols`` bytes (a row of codes), of a group of ``lanes`` bytes and of a block.
    """
    row_bytes = max(config.lanes, config.cols)
    return max(1, row_bytes * 8 // activations.bits // config.cols, activations.block // config.cols)


def biases_of(problem: GemmProblem) -> str:
    """The buffer with biases of a problem."""
    return f"{problem.name} biases"


def pair_tiles(config: TileConfig, activations: TensorFormat, resident: bool) -> int:
    """Column tiles of gate and up whose products fill places of buffer A, and bus beats where they go through DRAM."""
    beats = 1 if resident else config.bus_bytes * 8 // activations.bits // config.cols
    return 2 * max(product_tiles(config, activations), beats)


def staged_pitch(config: TileConfig, activations: TensorFormat, tiles: int) -> int:
    """Groups between panels of the staged products of ``tiles`` column tiles of gate and up."""
    return align(activations.bytes_of(tiles // 2 * config.cols), config.a_word_bytes) // config.lanes


def grouped_buffers(config: TileConfig, gate_up: GemmProblem, down: GemmProblem, gate_up_schedule: GemmSchedule,
                    down_schedule: GemmSchedule) -> list[Buffer]:
    """Everything that blocks of rows need. Two copies of what belongs to one block, so that the next block can be
    fetched; of rows and products, one where buffer A holds no more. The weights of both problems share buffer B."""
    rows, beat = gate_up.rows(gate_up_schedule), config.bus_bytes // 4
    tiles = min(gate_up_schedule.group_tiles, gate_up.n // config.cols)
    words, panels = -(-rows // config.cols), -(-rows // config.rows)
    keys = "m_tile rows"

    def resident(name: str, problem: GemmProblem) -> list[Buffer]:
        sizes = (panels * operand_pitch(config, problem),)
        return [Buffer(name=name, memory=Memory.A, sizes=sizes, keys=keys),
                Buffer(name=f"more {name}", memory=Memory.A, sizes=sizes, least=0)]

    tokens = resident("gathered tokens", gate_up)
    if not gate_up_schedule.a_resident:
        tokens = [replace(gate_up.a_blocks(gate_up_schedule, config), name="gathered tokens")]
    products = resident("expert products", down)
    if not down_schedule.a_resident:
        staged = panels * staged_pitch(config, down.a, gate_up_schedule.group_tiles)
        products = [replace(down.a_blocks(down_schedule, config), name="expert products"),
                    Buffer(name="staged products", memory=Memory.A, sizes=(staged,), most=2, keys="group_tiles")]
    b = [replace(problem.b_pieces(schedule, config), alive=frozenset({problem.name}))
         for problem, schedule in ((gate_up, gate_up_schedule), (down, down_schedule))]
    biases = [column_bias_buffer(config, problem, schedule, biases_of(problem))
              for problem, schedule in ((gate_up, gate_up_schedule), (down, down_schedule)) if problem.biased]
    return [
        gate_up.results(gate_up_schedule, config), down.results(down_schedule, config), *biases,
        Buffer(name="gated values", memory=Memory.ACC, sizes=(tiles * rows,), keys="group_tiles of m_tile rows",
               beside=frozenset({f"{gate_up.name} result group"})),
        Buffer(name="gathered combine weights", memory=Memory.ACC, sizes=(rows,), keys="m_tile rows",
               beside=frozenset({"one-hot rows"})),
        Buffer(name="one-hot rows", memory=Memory.STATISTICS if beat <= config.stat_bank_rows else Memory.ACC,
               sizes=(beat,) if beat <= max(config.acc_bank_rows, config.stat_bank_rows) else (1,) * beat,
               beside=frozenset()),
        Buffer(name="combine weights", memory=Memory.STATISTICS, sizes=(words,), least=2, most=2, few=1,
               beside=frozenset()),
        tokens[0], products[0], *tokens[1:], *products[1:],
        Buffer(name="token lists", memory=Memory.INDEX, sizes=(align(rows, beat),), least=2, most=AS_MANY_AS_FIT,
               keys="m_tile rows", few=1), *b]


def check_schedules(config: TileConfig, activations: TensorFormat, gate_up: GemmSchedule, down: GemmSchedule) -> None:
    """Rules beyond those of a `Gemm`: both share the blocks of rows, and products have whole places."""
    unit = pair_tiles(config, activations, down.a_resident)
    if gate_up.group_tiles % unit:
        beats = "" if down.a_resident else f"bus beats of {config.bus_bytes} bytes, "
        raise CompileError(f"gate_up: group_tiles must be a multiple of {unit}, pairs of column tiles whose "
                           f"products fill {beats}rows of {max(config.lanes, config.cols)} bytes of buffer A and "
                           f"blocks of {activations.name}, got {gate_up.group_tiles} tiles of {config.cols}")
    if down.m_tile != gate_up.m_tile:
        raise CompileError(f"down: m_tile must be that of gate_up, {gate_up.m_tile}, got {down.m_tile}")


@dataclass(frozen=True, kw_only=True)
class GroupedData:
    """Matrices of one program. x: rows that are gathered; weights: FP32, a column per expert; one_hot: FP32, a row per
    lane of a bus beat; zeros: FP32 rows. slots: FP32, where weighted results go, in the order of the blocks. rule: of
    products with block scales. products: of one block, where they go through DRAM."""

    x: Operand
    weights: Matrix
    one_hot: Matrix
    zeros: Matrix
    slots: Matrix
    columns: int
    rule: ScaleRule
    products: Operand | None = None


class Grouped:
    """Places what all experts share and emits them one block after another."""

    def __init__(self, emitter: Emitter, problems: tuple[GemmProblem, GemmProblem],
                 schedules: tuple[GemmSchedule, GemmSchedule], experts: Sequence[Expert], data: GroupedData,
                 regions: Mapping[str, list[int]]):
        config = emitter.config
        self.emitter, self.data, self.config, self.activations = emitter, data, config, problems[1].a
        self.blocks = expert_blocks(experts, schedules[0].m_tile)
        gate_up, down = problems
        (self.gated,), (self.weight_rows,) = regions["gated values"], regions["gathered combine weights"]
        self.one_hot = regions["one-hot rows"]
        self.row_weights, self.index_slots = regions["combine weights"], regions["token lists"]
        self.x_slots, self.h_slots = ([*regions[name], *regions.get(f"more {name}", [])]
                                      for name in ("gathered tokens", "expert products"))
        self.stages, self.schedules = regions.get("staged products", []), schedules
        self.rows = gate_up.rows(schedules[0])
        self.x_pitch, self.h_pitch = operand_pitch(config, gate_up), operand_pitch(config, down)
        self.regions, self.problems = regions, problems
        self.gemm_gate_up = Gemm(emitter, gate_up, schedules[0], regions)
        self.gemm_down = Gemm(emitter, down, schedules[1], regions)

    def emit(self) -> None:
        """All blocks; gathers of a block are emitted before the matmuls of the previous one if there is room."""
        emitter, data = self.emitter, self.data
        if not self.blocks:  # all tokens were dropped
            return
        each = data.one_hot.rows // len(self.one_hot)
        for first, addr in enumerate(self.one_hot):
            emitter.load_rows(data.one_hot, first_row=first * each, rows=each, addr=addr, label="one-hot")
        emitter.load_rows(data.zeros, first_row=0, rows=self.rows, addr=self.weight_rows, label="clear")
        fetched: tuple[int, Block] | None = None
        lists = self._index_lists()
        ahead = len(self.x_slots) > 1 and self.schedules[0].a_resident
        for number, block in enumerate(self.blocks):
            if ahead:
                self._fetch(number, block, lists[number])
            if fetched is not None:
                self._compute(*fetched)
            if not ahead:
                self._fetch(number, block, lists[number])
            fetched = (number, block)
        if fetched is not None:
            self._compute(*fetched)

    def _index_lists(self) -> list[tuple[Matrix, int]]:
        """One DRAM list of row numbers per block, in one segment."""
        step = self.config.bus_bytes // 4
        sizes = [align(len(block.rows), step) for block in self.blocks]
        values = np.zeros(sum(sizes), np.uint32)
        starts = np.cumsum([0, *sizes[:-1]])
        for start, block in zip(starts, self.blocks, strict=True):
            values[start:start + len(block.rows)] = block.rows
        matrix = index_list(self.emitter.builder, "expert_tokens", values)
        return [(matrix, int(start)) for start in starts]

    def _fetch(self, number: int, block: Block, where: tuple[Matrix, int]) -> None:
        """The list, the rows and the weights of a block."""
        emitter, config, data, rows = self.emitter, self.config, self.data, len(block.rows)
        index, expert = self.index_slots[number % len(self.index_slots)], block.expert.number
        label = f"expert {expert}"
        emitter.load_index(where[0], first=where[1], count=rows, addr=index, label=f"{label} tokens")
        if self.schedules[0].a_resident:
            emitter.gather_operand(data.x, index_addr=index, rows=rows, addr=self.x_slots[number % len(self.x_slots)],
                                   pitch=self.x_pitch, label=f"{label} gather x")
        lanes = config.bus_bytes // 4
        part, row = divmod(expert % lanes, lanes // len(self.one_hot))
        emitter.load_rows(data.weights, first_row=0, rows=rows, first_byte=expert // lanes * config.bus_bytes,
                          row_bytes=config.bus_bytes, addr=self.weight_rows, index_addr=index,
                          label=f"{label} gather weights")
        emitter.compute(Shape(rows=rows), Assign(
            value=Elem(self.weight_rows) * Col(self.one_hot[part] + row),
            reduce=Reduction(Reduce.MAX, self.row_weights[number % len(self.row_weights)]), label=f"{label} weights"))

    def _compute(self, number: int, block: Block) -> None:
        rows, h = len(block.rows), self.h_slots[number % len(self.h_slots)]
        weights = self.row_weights[number % len(self.row_weights)]
        x = (Resident(self.x_slots[number % len(self.x_slots)], self.x_pitch) if self.schedules[0].a_resident
             else Stream(self.data.x, tuple(self.x_slots), 0, rows, self.index_slots[number % len(self.index_slots)]))
        self.gemm_gate_up.block(m0=0, rows=rows, a=x, b=block.expert.gate_up,
                                epilogue=lambda group: self._gate(group, block.expert, h, weights))
        products = (Resident(h, self.h_pitch) if self.data.products is None
                    else Stream(self.data.products, tuple(self.h_slots), 0, rows))
        self.gemm_down.block(m0=0, rows=rows, a=products, b=block.expert.down,
                             epilogue=lambda group: self._weigh(group, block, weights))

    def _bias(self, expert: Expert, part: int) -> ColumnBias | None:
        if expert.biases is None:
            return None
        name = self.problems[part].name
        return ColumnBias(self.emitter, self.regions, expert.biases[part], f"expert {expert.number} {name}",
                          biases_of(self.problems[part]))

    def _gate(self, group: Group, expert: Expert, h: int, weights: int) -> None:
        """product = activation(gate) * up, quantized into A; from there to DRAM, where it goes through that."""
        scaled, gate, up = self.activations.scaled, expert.gate, expert.up
        if (bias := self._bias(expert, 0)) is not None:
            bias.add(group, gate, up)
            gate = up = 1.0
        stored, k0, config = self.data.products, group.n0 // 2, self.config
        addr, pitch = h + self.activations.bytes_of(k0) // config.lanes, self.h_pitch
        if stored is not None:
            addr = self.stages[group.index % len(self.stages)]
            pitch = staged_pitch(config, self.activations, self.schedules[0].group_tiles)
        codes = Codes(addr=addr, pitch=pitch, quant=self.activations.quant, scale_rule=self.data.rule,
                      relative_to=Imm(expert.product) if scaled else None)
        gated_product(self.emitter, group, self.gated, codes, gate=gate, up=up, product=expert.product,
                      activation=expert.activation, weight=Row(weights) if expert.on_input else None)
        if stored is not None:
            size = min(group.tiles // 2 * config.cols, stored.k - k0)
            self.emitter.store_operand(stored, first_row=0, rows=group.rows, k0=k0, size=size, addr=addr, pitch=pitch,
                                       label="store products")

    def _weigh(self, group: Group, block: Block, weights: int) -> None:
        data, scale = self.data, block.expert.weigh
        if (bias := self._bias(block.expert, 1)) is not None:
            bias.add(group, scale)
            scale = None
        self.emitter.compute(group.shape, Assign(to=Elem(group.addr), value=Elem(group.addr) * Row(weights),
                                                 scale=scale, label="weigh"))
        width = min(group.tiles * self.config.cols, data.columns - group.n0)
        self.emitter.store_acc(data.slots, first_row=block.first, rows=group.rows, first_byte=4 * group.n0,
                               row_bytes=4 * width, addr=group.addr, pitch=group.pitch, label="store slots")
