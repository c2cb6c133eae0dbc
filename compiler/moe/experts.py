"""The experts: gather their tokens, gate and up, SwiGLU into buffer A, down, weight, store to slots.

Gate and up rows alternate by column tile in DRAM, so that one GEMM makes both and each group holds silu's and the
product's operands. The product stays on chip: it is quantized straight into buffer A, where the down projection
reads it. An expert's combine weights come as one bus beat per token (its neighbours' weights with it); a one-hot
row picks the lane.
"""

from dataclasses import dataclass, replace

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce
from ..dram import index_list
from ..emitter import Emitter
from ..gemm import Gemm, GemmProblem, Group, Resident
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import Numerics
from ..routing import Routing
from ..schedule import GemmSchedule, MoESchedule
from ..tiles.buffers import AS_MANY_AS_FIT, Buffer, Memory, align, place
from ..tiles.expr import Assign, Codes, Col, Elem, Imm, Reduction, Row, Shape, silu
from .inputs import MoEMemory
from .problems import expert_problems, operand_pitch, product_tiles


@dataclass(frozen=True)
class _Block:
    """Tokens of one expert that are processed together; first: their first slot."""

    expert: int
    first: int
    tokens: np.ndarray


def expert_blocks(routing: Routing, m_tile: int) -> list[_Block]:
    """Blocks of at most ``m_tile`` tokens, experts ascending, tokens ascending."""
    blocks, slot = [], 0
    for expert in routing.active:
        tokens = routing.tokens_of(expert)[0]
        for start in range(0, len(tokens), m_tile):
            part = tokens[start:start + m_tile]
            blocks.append(_Block(expert, slot, part))
            slot += len(part)
    return blocks


def expert_buffers(config: TileConfig, gate_up: GemmProblem, down: GemmProblem, gate_up_schedule: GemmSchedule,
                   down_schedule: GemmSchedule) -> list[Buffer]:
    """Everything that blocks of tokens need. Two copies of what belongs to one block, so that the next block can be
    fetched; of tokens and products, one where buffer A holds no more. The weights of both problems share buffer B."""
    rows, beat = gate_up.rows(gate_up_schedule), config.bus_bytes // 4
    tiles = min(gate_up_schedule.group_tiles, gate_up.n // config.cols)
    words, panels = -(-rows // config.cols), -(-rows // config.rows)
    tokens, products = ((panels * operand_pitch(config, problem),) for problem in (gate_up, down))
    b = [replace(problem.b_pieces(schedule, config), alive=frozenset({problem.name}))
         for problem, schedule in ((gate_up, gate_up_schedule), (down, down_schedule))]
    return [
        gate_up.results(gate_up_schedule, config), down.results(down_schedule, config),
        Buffer(name="gated values", memory=Memory.ACC, sizes=(tiles * rows,), keys="group_tiles of m_tile rows"),
        Buffer(name="gathered combine weights", memory=Memory.ACC, sizes=(rows,), keys="m_tile rows"),
        Buffer(name="one-hot rows", memory=Memory.STATISTICS, sizes=(beat,)),
        Buffer(name="combine weights", memory=Memory.STATISTICS, sizes=(words,), least=2, most=2),
        Buffer(name="gathered tokens", memory=Memory.A, sizes=tokens, keys="m_tile rows"),
        Buffer(name="expert products", memory=Memory.A, sizes=products, keys="m_tile rows"),
        Buffer(name="more gathered tokens", memory=Memory.A, sizes=tokens, least=0),
        Buffer(name="more expert products", memory=Memory.A, sizes=products, least=0),
        Buffer(name="token lists", memory=Memory.INDEX, sizes=(align(rows, beat),), least=2, most=AS_MANY_AS_FIT,
               keys="m_tile rows"), *b]


class Experts:
    """Places what all experts share and emits them one block after another."""

    def __init__(self, emitter: Emitter, workload: Workload, routing: Routing, memory: MoEMemory, scales: Scales,
                 schedule: MoESchedule, numerics: Numerics):
        config = emitter.config
        self.emitter, self.workload, self.memory, self.scales = emitter, workload, memory, scales
        self.schedule, self.config, self.activations = schedule, config, numerics.formats.activations
        self.scale_rule = numerics.scale_rule
        self.blocks = expert_blocks(routing, schedule.gate_up.m_tile)
        self._check_schedule()
        gate_up, down = expert_problems(workload, config, numerics, max(len(block.tokens) for block in self.blocks))
        regions = place(expert_buffers(config, gate_up, down, schedule.gate_up, schedule.down), config, "experts")
        (self.gated,), (self.weight_rows,), (self.one_hot,) = (regions[name] for name in (
            "gated values", "gathered combine weights", "one-hot rows"))
        self.row_weights, self.index_slots = regions["combine weights"], regions["token lists"]
        self.x_slots, self.h_slots = ([*regions[name], *regions[f"more {name}"]]
                                      for name in ("gathered tokens", "expert products"))
        self.rows, self.x_pitch, self.h_pitch = gate_up.m, operand_pitch(config, gate_up), operand_pitch(config, down)
        self.gemm_gate_up = Gemm(emitter, gate_up, schedule.gate_up, regions)
        self.gemm_down = Gemm(emitter, down, schedule.down, regions)

    def _check_schedule(self) -> None:
        """Rules beyond those of a `Gemm`: both share the token blocks, and products stay in buffer A."""
        gate_up, down, config = self.schedule.gate_up, self.schedule.down, self.config
        unit = 2 * product_tiles(config, self.activations)
        if gate_up.group_tiles % unit:
            raise CompileError(f"gate_up: group_tiles must be a multiple of {unit}, pairs of column tiles whose "
                               f"products fill rows of {max(config.lanes, config.cols)} bytes of buffer A and blocks "
                               f"of {self.activations.name}, got {gate_up.group_tiles} tiles of {config.cols}")
        for name, gemm in (("gate_up", gate_up), ("down", down)):
            if not gemm.a_resident:
                raise CompileError(f"{name}: a_resident must be true, tokens and products of a block stay in buffer A")
        if down.m_tile != gate_up.m_tile:
            raise CompileError(f"down: m_tile must be that of gate_up, {gate_up.m_tile}, got {down.m_tile}")

    def emit(self) -> None:
        """All blocks; gathers of a block are emitted before the matmuls of the previous one if there is room."""
        emitter, memory = self.emitter, self.memory
        emitter.load_rows(memory.one_hot, first_row=0, rows=memory.one_hot.rows, addr=self.one_hot, label="one-hot")
        emitter.load_rows(memory.zeros, first_row=0, rows=self.rows, addr=self.weight_rows, label="clear")
        fetched: tuple[int, _Block] | None = None
        lists = self._index_lists()
        ahead = len(self.x_slots) > 1
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

    def _index_lists(self) -> list:
        """One DRAM list of token numbers per block, in one segment."""
        step = self.config.bus_bytes // 4
        sizes = [align(len(block.tokens), step) for block in self.blocks]
        values = np.zeros(sum(sizes), np.uint32)
        starts = np.cumsum([0, *sizes[:-1]])
        for start, block in zip(starts, self.blocks, strict=True):
            values[start:start + len(block.tokens)] = block.tokens
        matrix = index_list(self.emitter.builder, "expert_tokens", values)
        return [(matrix, int(start)) for start in starts]

    def _fetch(self, number: int, block: _Block, where: tuple) -> None:
        """Token list, tokens and combine weights of a block."""
        emitter, config, memory, rows = self.emitter, self.config, self.memory, len(block.tokens)
        index = self.index_slots[number % len(self.index_slots)]
        label = f"expert {block.expert}"
        emitter.load_index(where[0], first=where[1], count=rows, addr=index, label=f"{label} tokens")
        emitter.gather_operand(memory.x, index_addr=index, rows=rows, addr=self.x_slots[number % len(self.x_slots)],
                               pitch=self.x_pitch, label=f"{label} gather x")
        lanes = config.bus_bytes // 4
        emitter.load_rows(memory.weights, first_row=0, rows=rows, first_byte=block.expert // lanes * config.bus_bytes,
                          row_bytes=config.bus_bytes, addr=self.weight_rows, index_addr=index,
                          label=f"{label} gather weights")
        emitter.compute(Shape(rows=rows), Assign(
            value=Elem(self.weight_rows) * Col(self.one_hot + block.expert % lanes),
            reduce=Reduction(Reduce.MAX, self.row_weights[number % len(self.row_weights)]), label=f"{label} weights"))

    def _compute(self, number: int, block: _Block) -> None:
        memory = self.memory.experts[block.expert]
        rows, h = len(block.tokens), self.h_slots[number % len(self.h_slots)]

        def gate(group: Group) -> None:
            self._gate(group, block.expert, h)

        def weigh(group: Group) -> None:
            self._weigh(group, block,  self.row_weights[number % len(self.row_weights)])

        self.gemm_gate_up.block(m0=0, rows=rows, a=Resident(self.x_slots[number % len(self.x_slots)], self.x_pitch),
                                b=memory.gate_up, epilogue=gate)
        self.gemm_down.block(m0=0, rows=rows, a=Resident(h, self.h_pitch), b=memory.down, epilogue=weigh)

    def _gate(self, group: Group, expert: int, h: int) -> None:
        """product = silu(gate) * up, quantized into A."""
        gate, up, gated = Elem(group.addr), Elem(group.addr + group.pitch), Elem(self.gated)
        x, own = self.scales["x"], self.scales[expert, "product"]
        scaled, factor = self.activations.scaled, x * self.scales[expert, "up"]
        product = Codes(addr=h + self.activations.bytes_of(group.n0 // 2) // self.config.lanes, pitch=self.h_pitch,
                        quant=self.activations.quant, scale_rule=self.scale_rule,
                        relative_to=Imm(own) if scaled else None)
        self.emitter.compute(
            Shape(rows=group.rows, tiles=group.tiles // 2, pitch=2 * group.pitch),
            Assign(to=gated, value=silu(gate * (x * self.scales[expert, "gate"])), label="silu"),
            Assign(to=product, value=gated * up, scale=factor if scaled else factor / own, label="product"))

    def _weigh(self, group: Group, block: _Block, weights: int) -> None:
        emitter, hidden = self.emitter, self.workload.moe.hidden
        scale = self.scales[block.expert, "product"] * self.scales[block.expert, "down"]
        emitter.compute(group.shape, Assign(to=Elem(group.addr), value=Elem(group.addr) * Row(weights),
                                            scale=scale, label="weigh"))
        width = min(group.tiles * self.config.cols, hidden - group.n0)
        emitter.store_acc(self.memory.slots, first_row=block.first, rows=group.rows, first_byte=4 * group.n0,
                          row_bytes=4 * width, addr=group.addr, pitch=group.pitch, label="store slots")
