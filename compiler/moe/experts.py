"""The experts: gather their tokens, gate and up, SwiGLU into buffer A, down, weight, store to slots.

Gate and up rows alternate by column tile in DRAM, so that one GEMM makes both and each group holds silu's and the
product's operands. The product stays on chip: it is quantized straight into buffer A, where the down projection
reads it. An expert's combine weights come as one bus beat per token (its neighbours' weights with it); a one-hot
row picks the lane.
"""

from dataclasses import dataclass

import numpy as np

from ...rtl.spec.errors import CompileError, DoesNotFit
from ...rtl.spec.isa import Func, Reduce
from ..dram import index_list
from ..emitter import Emitter, acc, column, imm, row
from ..gemm import Gemm, Group, Resident, acc_regions
from ..layers import Workload
from ..numerics import Numerics
from ..placement import AccPlacer, OperandPlacer, StatPlacer, align
from ..routing import Routing
from ..schedule import MoESchedule
from .inputs import ExpertScales, MoEMemory, MoEScales, product_tiles

BUFFERS = 2
"""Copies of what belongs to one block of tokens, so that the next block can be fetched; of tokens and products, one
when buffer A holds no more."""


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


class Experts:
    """Places what all experts share and emits them one block after another."""

    def __init__(self, emitter: Emitter, workload: Workload, routing: Routing, memory: MoEMemory, scales: MoEScales,
                 schedule: MoESchedule, numerics: Numerics):
        config, moe = emitter.config, workload.moe
        self.emitter, self.workload, self.memory, self.scales = emitter, workload, memory, scales
        self.schedule, self.config, self.activations = schedule, config, numerics.formats.activations
        self.scale_rule = numerics.scale_rule
        self.blocks = expert_blocks(routing, schedule.gate_up.m_tile)
        self.rows = max(len(block.tokens) for block in self.blocks)
        self._check_schedule()
        acc_placer, stats = AccPlacer(config, "experts"), StatPlacer(config, "experts")
        k, width = memory.x.k, memory.width
        self.gate_up_regions = acc_regions(acc_placer, schedule.gate_up, k, self.rows, 2 * width, config.cols)
        self.down_regions = acc_regions(acc_placer, schedule.down, width, self.rows, moe.hidden, config.cols)
        tiles = min(schedule.gate_up.group_tiles, 2 * width // config.cols)
        self.gated = acc_placer.take(tiles * self.rows, what="gated values (group_tiles of m_tile rows)").addr
        self.weight_rows = acc_placer.take(self.rows, what="combine weights (m_tile rows)").addr
        self.one_hot = stats.take(config.bus_bytes // 4, "one-hot rows")
        self.row_weights = [stats.take(-(-self.rows // config.cols), "combine weights") for _ in range(BUFFERS)]
        self._place_operands(k, width)
        entries = align(self.rows, config.bus_bytes // 4)
        if BUFFERS * entries > config.index_entries:
            raise DoesNotFit(f"experts: {BUFFERS} lists of {entries} indices do not fit index_entries = "
                             f"{config.index_entries}")
        self.index_slots = [i * entries for i in range(config.index_entries // entries)]
        self.gemm_gate_up = Gemm(emitter, schedule.gate_up, name="gate_up", k=k, n=2 * width, layer_k=moe.hidden,
                                 a=self.activations, b=numerics.formats.weights, acc_regions=self.gate_up_regions)
        self.gemm_down = Gemm(emitter, schedule.down, name="down", k=width, n=moe.hidden, layer_k=moe.intermediate,
                              a=self.activations, b=numerics.formats.weights, acc_regions=self.down_regions)

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

    def _place_operands(self, k: int, width: int) -> None:
        config = self.config
        placer, panels = OperandPlacer(config, "A", "experts"), -(-self.rows // config.rows)
        size = self.activations.bytes_of
        self.x_pitch = align(size(k), config.a_word_bytes) // config.lanes
        self.h_pitch = align(size(width), config.a_word_bytes) // config.lanes
        wanted = ((panels * self.x_pitch, "gathered tokens (m_tile rows)"),
                  (panels * self.h_pitch, "expert products (m_tile rows)"))
        self.x_slots, self.h_slots = ([placer.take(groups, what)] for groups, what in wanted)
        for slots, (groups, what) in zip((self.x_slots, self.h_slots), wanted, strict=True):
            if align(groups, placer.bank_groups) <= placer.free_groups:
                slots.append(placer.take(groups, what))

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
        emitter.vector(rows=rows, x=self.weight_rows, y=column(self.one_hot + block.expert % lanes),
                       reduce=Reduce.MAX, reduce_addr=self.row_weights[number % BUFFERS], label=f"{label} weights")

    def _compute(self, number: int, block: _Block) -> None:
        memory, scales = self.memory.experts[block.expert], self.scales.experts[block.expert]
        rows, h = len(block.tokens), self.h_slots[number % len(self.h_slots)]

        def gate(group: Group) -> None:
            self._gate(group, scales, h)

        def weigh(group: Group) -> None:
            self._weigh(group, scales, block.first, self.row_weights[number % BUFFERS])

        self.gemm_gate_up.block(m0=0, rows=rows, a=Resident(self.x_slots[number % len(self.x_slots)], self.x_pitch),
                                b=memory.gate_up, epilogue=gate)
        self.gemm_down.block(m0=0, rows=rows, a=Resident(h, self.h_pitch), b=memory.down, epilogue=weigh)

    def _gate(self, group: Group, scales: ExpertScales, h: int) -> None:
        """product = silu(gate) * up, quantized into A."""
        emitter, config = self.emitter, self.config
        pairs, pitch = group.tiles // 2, 2 * group.pitch
        scaled, factor = self.activations.scaled, self.scales.x * scales.up
        emitter.vector(rows=group.rows, tiles=pairs, pitch=pitch, x=group.addr, y=imm(self.scales.x * scales.gate),
                       func=Func.SILU, to_acc=self.gated, dst_pitch=pitch, label="silu")
        emitter.vector(rows=group.rows, tiles=pairs, pitch=pitch, x=self.gated, y=acc(group.addr + group.pitch),
                       z=imm(scales.product) if scaled else None, w=imm(factor if scaled else factor / scales.product),
                       to_a=h + self.activations.bytes_of(group.n0 // 2) // config.lanes, dst_pitch=self.h_pitch,
                       quant=self.activations.quant, scale_rule=self.scale_rule, label="product")

    def _weigh(self, group: Group, scales: ExpertScales, first_slot: int, weights: int) -> None:
        emitter, hidden = self.emitter, self.workload.moe.hidden
        emitter.vector(rows=group.rows, tiles=group.tiles, pitch=group.pitch, x=group.addr, y=row(weights),
                       w=imm(scales.product * scales.down), to_acc=group.addr, dst_pitch=group.pitch, label="weigh")
        width = min(group.tiles * self.config.cols, hidden - group.n0)
        emitter.store_acc(self.memory.slots, first_row=first_slot, rows=group.rows, first_byte=4 * group.n0,
                          row_bytes=4 * width, addr=group.addr, pitch=group.pitch, label="store slots")
