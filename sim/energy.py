"""Energy of a run: counted events times constants from a TOML table, by component.

The counts are those of `rtl/spec/events.py`, equal in the timing model and in the hardware. A table in
`energy_tables/` gives every constant with unit, source, status and range. What an event costs in terms of
the constants stands here, once, in `_components`; where the structure of the RTL decides it (how many
registers a value passes), the formula names that structure.

Leakage is the one component that is power times time: it follows from the cycles and the tile's clock, and from no
event. At half the clock a program leaks twice the energy and everything else stays as it is.

The totals with every constant at its low and at its high end bound the result. They are wide on purpose: a
figure without its range would claim more than anybody knows about a chip that does not exist. Ratios
between two programs on one table are far more certain than their absolute values.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..rtl.spec.array_formats import FP32_SIGNIFICAND, TermShape
from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import ConfigError, did_you_mean
from ..rtl.spec.events import EVENT_NAMES, PAIR_EVENTS, TERM_EVENTS
from ..rtl.spec.formats import FORMATS_BY_NAME, PAIRS, SCALE_BYTES, SCALE_NAMES, PairSpec
from ..rtl.spec.isa import INSTRUCTION_BYTES, Pair, Scale
from .names import TABLES

CONSTANTS = {
    "int32_add": "pJ", "int32_mul": "pJ", "fp32_add": "pJ", "fp32_mul": "pJ", "sram_byte_8kib": "pJ/byte",
    "sram_capacity_exponent": "1", "sram_write_ratio": "1", "adder_bit": "pJ/bit", "register_bit": "pJ/bit",
    "e4m3_product": "pJ", "special_function": "pJ", "quantize": "pJ", "dram_byte": "pJ/byte",
    "leakage": "mW/pJ",
}
"""Every constant that a table must have, and its unit."""

COMPONENTS = ("multipliers", "accumulators", "operand_registers", "a_buffer_reads", "a_buffer_writes",
              "b_buffer_reads", "b_buffer_writes", "acc_buffer_reads", "acc_buffer_writes", "vector_unit",
              "control", "dram", "leakage")

STATUSES = ("confirmed", "derived", "assumed")

_SHIFT_BIT = 0.2
"""A multiplexer of a shifter, in adder bits."""

_FP32_PIPE_REGISTERS = 12
_BLOCK_ADDS = 9
"""32-bit additions' worth of a block quantizer per element: amax 1, five quotient bits and their ties 7, rounding 1."""

_STEP_PAIRS = {event: PAIRS[pair] for pair, event in PAIR_EVENTS.items()}
"""The element pair whose steps an event counts; the two orders of a mixed pair cost the same."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """value, low, high in ``unit``; status is one of `STATUSES`; source says where it comes from."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    status: str
    source: str


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Constants of one technology."""

    name: str
    node_nm: float
    constants: dict[str, Constant]

    def at(self, end: str) -> dict[str, float]:
        """{name: number} with every constant at its "value", "low" or "high".

        The exponent stays at its value: whether a larger one costs more depends on the memory's size, and
        the range of ``sram_byte_8kib`` covers it.
        """
        numbers = {name: getattr(constant, end) for name, constant in self.constants.items()}
        return numbers | {"sram_capacity_exponent": self.constants["sram_capacity_exponent"].value}


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """Picojoules of one run.

    components: pJ by `COMPONENTS`; they sum to total_pj. low_pj, high_pj: totals with all constants at an
    end.
    pj_per_mac: per multiply-accumulate that the array executed; pj_per_op: per useful operation, two per
    useful MAC. Both are None when there was none. average_watt: total over the time at the tile's clock.
    leakage_watt: what the tile leaks, whatever it runs and at any clock.
    """

    table: str
    total_pj: float
    low_pj: float
    high_pj: float
    components: dict[str, float]
    macs: int
    pj_per_mac: float | None
    pj_per_op: float | None
    average_watt: float
    leakage_watt: float

    def to_dict(self) -> dict:
        return {"total_pj": self.total_pj, "low_pj": self.low_pj, "high_pj": self.high_pj,
                "pj_per_mac": self.pj_per_mac, "pj_per_op": self.pj_per_op,
                "components": dict(self.components), "table": self.table, "average_watt": self.average_watt,
                "leakage_watt": self.leakage_watt}


def energy_of(events: Mapping[str, int], cycles: int, config: TileConfig, table: EnergyTable,
              useful_macs: int | None = None) -> EnergyReport:
    """Energy of a run with these event counts. ``useful_macs`` defaults to what the array executed."""
    missing = [name for name in EVENT_NAMES if name not in events]
    if missing:
        raise ValueError(f"event counts are missing: {', '.join(missing)}")
    ends = {end: _components(events, cycles, config, table.at(end)) for end in ("value", "low", "high")}
    components = ends["value"]
    time_ns = _time_ns(cycles, config)
    total = math.fsum(components.values())
    macs = config.cols * sum(events[name] * pair.products_per_step(config.lanes) for name, pair in _STEP_PAIRS.items())
    useful = macs if useful_macs is None else useful_macs
    return EnergyReport(
        table=table.name, total_pj=total, low_pj=math.fsum(ends["low"].values()),
        high_pj=math.fsum(ends["high"].values()), components=components, macs=macs,
        pj_per_mac=total / macs if macs else None, pj_per_op=total / (2 * useful) if useful else None,
        average_watt=total / time_ns * 1e-3 if cycles else 0.0,
        leakage_watt=_leakage_mw(config, table.at("value")) * 1e-3)


def _time_ns(cycles: int, config: TileConfig) -> float:
    return cycles * 1e3 / config.clock_mhz


def _components(n: Mapping[str, int], cycles: int, config: TileConfig,
                c: Mapping[str, float]) -> dict[str, float]:
    """pJ by component. Counts are multiplied by the structure that the event passes through."""
    steps = {name: _array_step(config, pair, c) for name, pair in _STEP_PAIRS.items()}
    terms = {name: _term(config, scale, c) for scale, name in TERM_EVENTS.items()}
    scaled = sum(n[name] * SCALE_BYTES[scale] for scale, name in TERM_EVENTS.items())
    a_bank = config.a_bank_groups * config.lanes
    b_bank = config.b_bank_groups * config.lanes
    acc_bank = config.acc_bank_rows * 4
    acc_row, bus, code_row = 4 * config.cols, config.bus_bytes, config.cols

    def read(count: int, size: int, bank: int) -> float:
        return count * size * _sram_byte(bank, c)

    def write(count: int, size: int, bank: int) -> float:
        return read(count, size, bank) * c["sram_write_ratio"]

    result = {
        "multipliers": config.cols * math.fsum(n[name] * step.multipliers for name, step in steps.items()),
        "accumulators": config.cols * (
            math.fsum(n[name] * step.adders for name, step in steps.items())
            + math.fsum(n[name] * term for name, term in terms.items()))
        + n["drain_rows"] * _drain_row(config, c) + n["rowmax_rows"] * config.cols * c["int32_add"],
        "operand_registers": (n["a_group_reads"] * config.cols + n["b_group_reads"] * config.rows)
        * config.lanes * 8 * c["register_bit"],
        # A row's scale is read once per block, a column's once per block and panel.
        "a_buffer_reads": read(n["a_group_reads"], config.lanes, a_bank) + read(scaled, 1, a_bank)
        + read(n["a_beat_reads"], bus, a_bank),
        # A beat of scale bytes is written to, or read from, a slice of A or B a few bytes at a time.
        "a_buffer_writes": write(n["a_beat_writes"] + n["scale_beats"], bus, a_bank)
        + write(n["a_row_writes"], code_row, a_bank),
        "b_buffer_reads": read(n["b_group_reads"], config.lanes, b_bank)
        + read(scaled, 1, b_bank) * config.cols / config.rows,
        "b_buffer_writes": write(n["b_beat_writes"], bus, b_bank),
        "acc_buffer_reads": read(n["acc_row_reads"], acc_row, acc_bank)
        + read(n["acc_beat_reads"], bus, acc_bank),
        "acc_buffer_writes": write(n["acc_row_writes"], acc_row, acc_bank)
        + write(n["acc_beat_writes"], bus, acc_bank),
        "vector_unit": _vector_unit(n, config, c),
        "control": _control(n, config, c),
        "dram": (n["dram_read_beats"] + n["dram_write_beats"]) * bus * c["dram_byte"],
    }
    result["leakage"] = _leakage_mw(config, c) * _time_ns(cycles, config)  # mW x ns = pJ
    return {name: result[name] for name in COMPONENTS}


def _leakage_mw(config: TileConfig, c: Mapping[str, float]) -> float:
    """mW that the array leaks: its size, told by the pJ of an E4M3 step of all PEs, times the leakage of that much."""
    step = _array_step(config, PAIRS[Pair.E4M3], c)
    step_pj = config.rows * config.cols * (step.multipliers + step.adders + _term(config, Scale.NONE, c))
    return step_pj * c["leakage"]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """pJ of one k step in one PE: its products; their adder tree and, with block scales, the sum of the block."""

    multipliers: float
    adders: float


def _array_step(config: TileConfig, pair: PairSpec, c: Mapping[str, float]) -> _Step:
    """What the operands do not use of a multiplier, shifter or adder stands still and is not priced."""
    products = pair.products_per_step(config.lanes)
    tree_bits = products * (pair.product_bits + products.bit_length() / 2)
    product = c["e4m3_product"] * _product_adder_bits(pair) / _product_adder_bits(PAIRS[Pair.E4M3])
    block_bits = TermShape(config).block_bits if config.scales else 0
    return _Step(
        multipliers=products * (product + pair.product_bits * c["register_bit"]),
        adders=(tree_bits + block_bits) * c["adder_bit"] + (tree_bits / products + block_bits) * c["register_bit"])


def _product_adder_bits(pair: PairSpec) -> float:
    """Size of a product in adder bits: significands multiplied, exponents added, shift to the product's place."""
    a, b = pair.a, pair.b
    shift = a.max_finite_shift + b.max_finite_shift
    levels = shift.bit_length()
    width = a.significand_bits + b.significand_bits + shift / 2
    return a.significand_bits * b.significand_bits + levels + levels * width * _SHIFT_BIT


def _term(config: TileConfig, scale: Scale, c: Mapping[str, float]) -> float:
    """pJ of one block's sum in one PE: times its scales, shift to the grid, added to the accumulator."""
    result = config.acc_bits * (c["adder_bit"] + c["register_bit"])
    if scale == Scale.NONE:
        return result
    significand = FP32_SIGNIFICAND if scale == Scale.FP32 else FORMATS_BY_NAME[SCALE_NAMES[scale]].significand_bits
    factor = {Scale.E4M3: 2 * significand, Scale.E8M0: 0, Scale.FP32: significand}[scale]
    block_bits = TermShape(config).block_bits
    exponent, levels = 8, config.acc_bits.bit_length()
    shift = levels * (block_bits + factor + config.acc_bits) / 2 * _SHIFT_BIT
    adder_bits = (significand**2 if factor else 0) + block_bits * factor + exponent + shift
    return result + adder_bits * c["adder_bit"] + (block_bits + factor + config.acc_bits) * c["register_bit"]


def _drain_row(config: TileConfig, c: Mapping[str, float]) -> float:
    """pJ of one result row: capture, ``rows`` shifts of the column chains, merge, rounding (an FP32 add)."""
    per_value = (1 + config.rows) * config.acc_bits * c["register_bit"] + config.acc_bits * c["adder_bit"]
    return config.cols * (per_value + c["fp32_add"])


def _vector_unit(n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> float:
    """pJ of the vector lanes: two multipliers and the pipe's registers per element, then what is used.

    A block quantizer also writes and reads its delay line, priced as registers; its scale is one for many elements.
    """
    per_row = 2 * c["fp32_mul"] + _FP32_PIPE_REGISTERS * 32 * c["register_bit"]
    return config.cols * (
        n["vector_rows"] * per_row + n["vector_adds"] * c["fp32_add"]
        + n["vector_functions"] * c["special_function"] + n["vector_reductions"] * 1.5 * c["int32_add"]
        + n["vector_quantizations"] * c["quantize"]
        + n["block_quantizations"] * (_BLOCK_ADDS * c["int32_add"] + 2 * 32 * c["register_bit"]))


def _control(n: Mapping[str, int], config: TileConfig, c: Mapping[str, float]) -> float:
    """pJ of instruction and index memories, and of three registers that an instruction passes."""
    program = _sram_byte(2 * config.page_bytes, c)
    index = _sram_byte(4 * config.index_entries, c)
    per_instruction = INSTRUCTION_BYTES * (program + 3 * 8 * c["register_bit"])
    return (n["instructions"] * per_instruction + n["index_reads"] * 4 * index
            + config.bus_bytes * c["sram_write_ratio"]
            * (n["index_beat_writes"] * index + n["program_beat_writes"] * program))


def _sram_byte(bank_bytes: int, c: Mapping[str, float]) -> float:
    """pJ to read a byte of a memory of ``bank_bytes``, not less than that of a register."""
    scaled = c["sram_byte_8kib"] * (bank_bytes / 8192) ** c["sram_capacity_exponent"]
    return max(scaled, 8 * c["register_bit"])


def load_table(name_or_path: str | Path) -> EnergyTable:
    """The built-in table of that name, or the TOML file at that path.

    Raises `ConfigError` naming the file, the constant, the key and what is allowed.
    """
    text = str(name_or_path)
    if text in TABLES:
        raw, source = _builtin(text), text
    else:
        source = f"energy table {text}"
        try:
            raw = Path(text).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{source}: neither a built-in table ({', '.join(TABLES)}) nor a readable "
                              f"file{did_you_mean(text, TABLES)}") from None
    try:
        return _parse(tomllib.loads(raw), source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None


def _builtin(name: str) -> str:
    package = __name__.rpartition(".")[0]
    return resources.files(package).joinpath("energy_tables", f"{name}.toml").read_text("utf-8")


def _parse(values: dict, source: str) -> EnergyTable:
    for key in ("name", "node_nm", "constants"):
        if key not in values:
            raise ConfigError(f"{source}: missing key {key!r}")
    if not isinstance(values["constants"], dict):
        raise ConfigError(f"{source}: constants must be tables, got {values['constants']!r}")
    for name in values["constants"]:
        if name not in CONSTANTS:
            raise ConfigError(f"{source}: unknown constant {name!r}; allowed: {', '.join(CONSTANTS)}")
    constants = {}
    for name, unit in CONSTANTS.items():
        if name not in values["constants"]:
            raise ConfigError(f"{source}: missing constant {name!r}")
        constants[name] = _constant(name, unit, values["constants"][name], f"{source}: {name}")
    return EnergyTable(name=str(values["name"]), node_nm=values["node_nm"], constants=constants)


def _constant(name: str, unit: str, entry: dict, where: str) -> Constant:
    keys = {"value", "low", "high", "unit", "status", "source"}
    if not isinstance(entry, dict) or set(entry) != keys:
        found = ", ".join(sorted(entry)) if isinstance(entry, dict) else repr(entry)
        raise ConfigError(f"{where}: expected the keys {', '.join(sorted(keys))}, got {found}")
    for key in ("value", "low", "high"):
        if not isinstance(entry[key], (int, float)) or isinstance(entry[key], bool) or not entry[key] >= 0:
            raise ConfigError(f"{where}: {key} must be a number >= 0, got {entry[key]!r}")
    if not entry["low"] <= entry["value"] <= entry["high"]:
        raise ConfigError(f"{where}: expected low <= value <= high, got {entry['low']}, {entry['value']}, "
                          f"{entry['high']}")
    if entry["unit"] != unit:
        raise ConfigError(f"{where}: unit must be {unit!r}, got {entry['unit']!r}")
    if entry["status"] not in STATUSES:
        raise ConfigError(f"{where}: status must be one of {', '.join(STATUSES)}, got {entry['status']!r}")
    if not entry["source"] or not isinstance(entry["source"], str):
        raise ConfigError(f"{where}: source must say where the value comes from")
    return Constant(name=name, **entry)
