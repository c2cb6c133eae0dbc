"""Countable events, declared once: the energy model, the RTL counters and the reports derive from `EVENTS`.

`event_counts` is the model side: what one instruction causes, a pure function of its fields and the
`TileConfig`. The RTL increments one counter per event from its real enables; the totals must be equal.
"""

from dataclasses import dataclass

from .config import TileConfig
from .formats import PAIRS, SCALE_NAMES
from .isa import Combine, Dest, Func, Instruction, Pair, Quant, Reduce, Scale, Source, Space
from .scale_layout import scale_beats
from .tensor_formats import QUANT_FORMATS


@dataclass(frozen=True)
class Event:
    """name: counter; unit: what one count is; description: what causes it."""

    name: str
    unit: str
    description: str


PAIR_EVENTS = {pair: f"{spec.build_name}_row_steps" for pair, spec in PAIRS.items()}
"""Counts the k steps of each element pair."""

TERM_EVENTS = {Scale.NONE: "unscaled_terms"} | {scale: f"{name}_scaled_terms" for scale, name in SCALE_NAMES.items()}
"""Counts what is added to accumulators, by the kind of block scales. Without scales a step is a block."""

STEP_EVENTS = tuple(dict.fromkeys([*PAIR_EVENTS.values(), *TERM_EVENTS.values()]))
"""Both; a tile has those of the element pairs and scales that it builds."""

EVENTS = (
    Event("a_group_reads", "lanes bytes", "group read from an A slice by the array (rows in use only)"),
    Event("b_group_reads", "lanes bytes", "group read from a B slice by the array (all columns)"),
    *(Event(name, "cols PEs", f"k step of an array row in use on {name.removesuffix('_row_steps')} elements")
      for name in dict.fromkeys(PAIR_EVENTS.values())),
    *(Event(name, "cols PEs", f"block of an array row ended and added, {name.removesuffix('_terms').replace('_', ' ')}")
      for name in TERM_EVENTS.values()),
    Event("drain_rows", "cols values", "valid result row drained: merged, rounded, masked"),
    Event("statistic_reads", "32 bits", "running row maximum read from ACC by the drain"),
    Event("statistic_writes", "32 bits", "row maximum of the drain or row reduction of the vector unit written to ACC"),
    Event("acc_row_reads", "cols x 32 bits",
          "row read from ACC by the drain (a raw row: one per plane) or the vector unit (x squared: once)"),
    Event("acc_row_writes", "cols x 32 bits",
          "row written to ACC by the drain (a raw row: one per plane) or the vector unit"),
    Event("acc_beat_writes", "bus beat", "beat written to ACC by a load"),
    Event("acc_beat_reads", "bus beat", "beat read from ACC by a store"),
    Event("a_beat_writes", "bus beat", "beat written to A by a load"),
    Event("b_beat_writes", "bus beat", "beat written to B by a load"),
    Event("a_row_writes", "cols bytes", "row of codes written to A by the vector unit"),
    Event("a_beat_reads", "bus beat", "beat read from A by a store"),
    Event("vector_rows", "cols elements", "row through the vector pipe (both multipliers)"),
    Event("vector_adds", "cols elements", "row with a combine step"),
    Event("vector_functions", "cols elements", "row with a function"),
    Event("vector_reductions", "cols elements", "row that enters a reduction"),
    Event("vector_quantizations", "cols elements", "row quantized"),
    Event("block_quantizations", "cols elements", "row quantized with block scales"),
    Event("index_reads", "entry", "index read by a gather or scatter"),
    Event("index_beat_writes", "bus beat", "beat written to the index memory"),
    Event("program_beat_writes", "bus beat", "beat written to the instruction memory"),
    Event("instructions", "instruction", "instruction dispatched (SYNC and HALT included)"),
    Event("scale_beats", "bus beat", "beat of scale bytes read or written by a DMA unit"),
    Event("dram_read_beats", "bus beat", "beat read from DRAM, scale bytes included"),
    Event("dram_write_beats", "bus beat", "beat written to DRAM, scale bytes included"),
)

EVENT_NAMES = tuple(event.name for event in EVENTS)

_LOAD_SPACE_EVENT = {Space.A: "a_beat_writes", Space.B: "b_beat_writes", Space.ACC: "acc_beat_writes",
                     Space.INDEX: "index_beat_writes", Space.PROGRAM: "program_beat_writes"}
_STORE_SPACE_EVENT = {Space.A: "a_beat_reads", Space.ACC: "acc_beat_reads"}


def dma_beats(instruction: Instruction, config: TileConfig) -> int:
    """Data beats of a LOAD, GATHER, STORE or SCATTER: every row starts a new beat. Scale bytes come on top."""
    return instruction.rows * -(-instruction.row_bytes // config.bus_bytes)


def event_counts(instruction: Instruction, config: TileConfig) -> dict[str, int]:
    """Events caused by one instruction; names absent from the result count zero."""
    name = instruction.spec.name
    counts = {"instructions": 1}
    if name in ("LOAD", "GATHER", "STORE", "SCATTER"):
        counts.update(_dma_counts(instruction, config))
    elif name == "MATMUL":
        counts.update(_matmul_counts(instruction, config))
    elif name == "VECTOR":
        counts.update(_vector_counts(instruction))
    return counts


def _dma_counts(i: Instruction, config: TileConfig) -> dict[str, int]:
    beats, scales = dma_beats(i, config), scale_beats(i, config)
    load = i.spec.name in ("LOAD", "GATHER")
    return {
        (_LOAD_SPACE_EVENT if load else _STORE_SPACE_EVENT)[Space(i.space)]: beats,
        "dram_read_beats" if load else "dram_write_beats": beats + scales,
        "scale_beats": scales,
        "index_reads": i.rows if i.spec.name in ("GATHER", "SCATTER") else 0,
    }


def _matmul_counts(i: Instruction, config: TileConfig) -> dict[str, int]:
    panels = -(-i.m_rows // config.rows)
    result_rows = i.m_rows * i.n_tiles
    planes = config.acc_planes
    counts = {
        "a_group_reads": i.m_rows * i.k_steps * i.n_tiles,
        "b_group_reads": panels * -(-i.k_steps // PAIRS[Pair(i.pair)].b_steps) * i.n_tiles * config.cols,
        "drain_rows": result_rows,
        "statistic_reads": result_rows - (i.m_rows if i.rowmax_init else 0) if i.rowmax else 0,
        "statistic_writes": result_rows if i.rowmax else 0,
        "acc_row_reads": result_rows * planes if i.merge else 0,
        "acc_row_writes": result_rows * (planes if i.raw else 1),
    }
    counts[PAIR_EVENTS[Pair(i.pair)]] = counts["a_group_reads"]
    counts[TERM_EVENTS[Scale(i.scale)]] = result_rows * -(-i.k_steps >> i.block)
    return counts


def _vector_counts(i: Instruction) -> dict[str, int]:
    beats = i.rows * i.tiles
    operands = 1 + sum(kind != Source.IMM for kind in (i.y_kind, i.z_kind, i.w_kind)) - squares(i)
    return {
        "vector_rows": beats,
        "acc_row_reads": beats * operands,
        "acc_row_writes": beats if i.dest == Dest.ACC else 0,
        "statistic_writes": i.rows if i.reduce != Reduce.NONE else 0,
        "a_row_writes": beats if i.dest == Dest.A else 0,
        "vector_adds": beats if i.combine != Combine.NONE else 0,
        "vector_functions": beats if i.func != Func.NONE else 0,
        "vector_reductions": beats if i.reduce != Reduce.NONE else 0,
        "vector_quantizations": beats if i.dest == Dest.A else 0,
        "block_quantizations": beats if i.dest == Dest.A and QUANT_FORMATS[Quant(i.quant)].block else 0,
    }


def squares(i: Instruction) -> bool:
    """A VECTOR's y is the very rows of x, which are read once."""
    return i.y_kind == Source.ACC and i.y == i.x_addr
