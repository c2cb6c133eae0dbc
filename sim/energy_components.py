"""Picojoules of every component of the tile: what each event and each cycle costs in terms of a table's constants.

An event is priced *above* what its unit takes at rest: registers that no clock gate stops, and the gates, cost their
`*_idle` in every cycle of the run, whether anything happens or not, and a run of half the utilization pays for twice
the cycles. So the sum is linear in events and cycles, and what is charged to idling is not a matter of attribution.

Where the structure of the RTL decides what an event costs (`structure`), the formula names that structure.
"""

import math
from collections.abc import Mapping

from ..rtl.spec.config import TileConfig
from ..rtl.spec.events import PAIR_EVENTS, TERM_EVENTS
from ..rtl.spec.formats import PAIRS, SCALE_BYTES
from ..rtl.spec.isa import INSTRUCTION_BYTES, Pair
from .structure import pe_structure, tile_sizes

COMPONENTS = ("multipliers", "accumulators", "operand_registers", "a_buffer_reads", "a_buffer_writes",
              "b_buffer_reads", "b_buffer_writes", "acc_buffer_reads", "acc_buffer_writes", "vector_unit", "dma",
              "control", "array_clock", "vector_clock", "buffer_clock", "control_clock", "dram", "leakage")

STEP_PAIRS = {event: PAIRS[pair] for pair, event in PAIR_EVENTS.items()}
"""The element pair whose steps an event counts; the two orders of a mixed pair cost the same."""

_PAIR_CONSTANTS = {Pair.E4M3: "e4m3_bit", Pair.E5M2: "e5m2_bit", Pair.E2M1: "e2m1_bit", Pair.E4M3_E2M1: "e4m3_bit",
                   Pair.E4M3_E5M2: "e5m2_bit", Pair.E5M2_E4M3: "e5m2_bit"}
"""Mixed pairs move the bits of the wider format."""

CLOCKED = {"pe": ("array_clock", "pe_idle"), "vector": ("vector_clock", "vector_idle"),
           "acc": ("buffer_clock", "acc_idle"), "a_slice": ("buffer_clock", "slice_idle"),
           "b_slice": ("buffer_clock", "slice_idle"), "load": ("control_clock", "dma_idle"),
           "store": ("control_clock", "dma_idle"), "vector_control": ("control_clock", "control_idle"),
           "control": ("control_clock", "control_idle")}
"""By unit of `structure.tile_sizes`: component and constant of its clock at rest, per `UnitSize.clocked`."""


def components(n: Mapping[str, int], cycles: int, config: TileConfig, c: Mapping[str, float]) -> dict[str, float]:
    """pJ by component, in the order of `COMPONENTS`. Counts are multiplied by what the event passes through."""
    result: dict[str, float] = dict.fromkeys(COMPONENTS, 0.0)
    array_energy(result, n, config, c)
    _buffers(result, n, config, c)
    result["vector_unit"] = _vector_unit(n, config, c)
    beats = n["dram_read_beats"] + n["dram_write_beats"]
    result["dma"] = beats * config.bus_bytes * c["dma_byte"]
    result["control"] = _control(n, config, c)
    result["dram"] = beats * config.bus_bytes * c["dram_byte"]
    for unit, (component, constant) in CLOCKED.items():
        size = tile_sizes(config)[unit]
        result[component] += cycles * size.count * size.clocked * c[constant]
    result["leakage"] = leakage_mw(config, c) * time_ns(cycles, config)  # mW x ns = pJ
    return result


def array_energy(result: dict[str, float], n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> None:
    """Adds what the PEs and the drain do.

    A step moves the registers up to the sum of its products, and with block scales that of the block; a block's end
    those from there to the accumulator. A drained row is captured in all columns and shifts down them.
    """
    pe = pe_structure(config)
    for event, pair in STEP_PAIRS.items():
        bits = n[event] * config.cols * c[_PAIR_CONSTANTS[pair.pair]]
        result["operand_registers"] += bits * (pe.operands + pe.tags)
        result["multipliers"] += bits * (pe.products + pe.terms)
        result["accumulators"] += bits * (pe.tree + pe.block)
    terms = config.cols * sum(n[event] for event in TERM_EVENTS.values())
    result["accumulators"] += terms * (pe.group + pe.accumulator) * c["term_bit"]
    values = config.cols * n["drain_rows"]
    result["accumulators"] += values * ((1 + config.rows) * pe.shadow * c["shadow_bit"] + c["drain_value"])


def _buffers(result: dict[str, float], n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> None:
    """SRAM by bank, and the slices' and lanes' own logic. A row's scale is read once per block, a column's once per
    block and panel; a beat of scale bytes is written to, or read from, a slice of A or B a few bytes at a time."""
    scaled = sum(n[event] * SCALE_BYTES[scale] for scale, event in TERM_EVENTS.items())
    bus, lanes = config.bus_bytes, config.lanes
    a, b = (sram_byte(groups * lanes, c) + c["slice_byte"] for groups in (config.a_bank_groups, config.b_bank_groups))
    a_write, b_write = (sram_byte(groups * lanes, c) * c["sram_write_ratio"] + c["slice_byte"]
                        for groups in (config.a_bank_groups, config.b_bank_groups))
    acc = sram_byte(4 * config.acc_bank_rows, c) + c["acc_byte"]
    acc_write = sram_byte(4 * config.acc_bank_rows, c) * c["sram_write_ratio"] + c["acc_byte"]
    statistics = sram_byte(4 * config.stat_bank_rows, c)
    row = 4 * config.cols
    result["a_buffer_reads"] = (n["a_group_reads"] * lanes + scaled + n["a_beat_reads"] * bus) * a
    result["a_buffer_writes"] = a_write * (
        (n["a_beat_writes"] + n["scale_beats"]) * bus + n["a_row_writes"] * config.cols)
    result["b_buffer_reads"] = (n["b_group_reads"] * lanes + scaled * config.cols / config.rows) * b
    result["b_buffer_writes"] = n["b_beat_writes"] * bus * b_write
    result["acc_buffer_reads"] = ((n["acc_row_reads"] * row + n["acc_beat_reads"] * bus) * acc
                                  + 4 * n["statistic_reads"] * (statistics + c["acc_byte"]))
    result["acc_buffer_writes"] = ((n["acc_row_writes"] * row + n["acc_beat_writes"] * bus) * acc_write
                                   + 4 * n["statistic_writes"] * (statistics * c["sram_write_ratio"] + c["acc_byte"]))


def _vector_unit(n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> float:
    """pJ of the lanes, and of the unit's control and row reduction, of which a row moves all registers alike."""
    control = n["vector_rows"] * tile_sizes(config)["vector_control"].registers * c["vector_control"]
    return control + config.cols * (
        n["vector_rows"] * c["vector_element"] + n["vector_adds"] * c["vector_add"]
        + n["vector_functions"] * c["vector_function"] + n["vector_reductions"] * c["vector_reduction"]
        + n["vector_quantizations"] * c["vector_code"] + n["block_quantizations"] * c["block_code"])


def _control(n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> float:
    """pJ of instruction and index memories, of dispatch and issue, and of the matrix unit's sequencer."""
    program = sram_byte(2 * config.page_bytes, c)
    index = sram_byte(4 * config.index_entries, c)
    steps = sum(n[event] for event in STEP_PAIRS) / config.rows
    return (n["instructions"] * (INSTRUCTION_BYTES * program + c["instruction"]) + steps * c["sequencer_step"]
            + n["index_reads"] * 4 * index + config.bus_bytes * c["sram_write_ratio"]
            * (n["index_beat_writes"] * index + n["program_beat_writes"] * program))


def sram_byte(bank_bytes: int, c: Mapping[str, float]) -> float:
    """pJ to read a byte of a memory of ``bank_bytes``, not less than that of the registers that would take its
    place."""
    scaled = c["sram_byte_8kib"] * (bank_bytes / 8192) ** c["sram_capacity_exponent"]
    return max(scaled, 8 * c["shadow_bit"])


def leakage_mw(config: TileConfig, c: Mapping[str, float]) -> float:
    """mW that the tile's logic leaks, whatever it runs."""
    area = math.fsum(size.count * (size.registers * c["register_area"] + size.transistors * c["transistor_area"])
                     for size in tile_sizes(config).values())
    return area * c["leakage"] * 1e-6


def time_ns(cycles: int, config: TileConfig) -> float:
    return cycles * 1e3 / config.clock_mhz


def macs_of(events: Mapping[str, int], config: TileConfig) -> int:
    """Multiply-accumulates that the array executed."""
    return config.cols * sum(events[name] * pair.products_per_step(config.lanes) for name, pair in STEP_PAIRS.items())


def idle_of(n: Mapping[str, int], cycles: int, config: TileConfig, c: Mapping[str, float]) -> dict[str, float]:
    """pJ of the clock of PEs and of vector lanes in the cycles in which they had no step and no row. Part of the
    components `array_clock` and `vector_clock`. Never below 0: the steps of a phase may lie in the cycles of
    another."""
    sizes = tile_sizes(config)
    steps = sum(n[event] for event in STEP_PAIRS) / config.rows
    return {name: max(0.0, cycles - busy) * sizes[unit].count * sizes[unit].clocked * c[constant]
            for name, unit, constant, busy in (("array", "pe", "pe_idle", steps),
                                               ("vector", "vector", "vector_idle", n["vector_rows"]))}


def total(result: Mapping[str, float]) -> float:
    return math.fsum(result.values())
