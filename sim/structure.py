"""What a tile consists of, in registers and transistors of its gates, from its parameters.

The energy model and the area model price these sizes; they are those of the RTL without loading it. Those of a
processing element (PE) follow its structure (`rtl/matrix/pe.py` and below): registers are exact up to what synthesis
finds to be constant or equal (2.6 % at most), gates are sizes of multipliers, adders and shifters times what such a bit
takes, fitted to the format sets of benchmarks/area.md (6 % at most), where each register but tags has 8 transistors
more for its enable: libraries have clock gates for that. Those of the other units are interpolated between the tiles of
benchmarks/sizes.md, which states the errors. Memories are not in them.
"""

from dataclasses import dataclass
from functools import cache

from ..rtl.spec.array_formats import FP32_SIGNIFICAND, TermShape, built_pairs
from ..rtl.spec.config import TileConfig
from ..rtl.spec.formats import E2M1, E4M3, PAIRS, carries_codes, side_specs, term_bits
from ..rtl.spec.isa import Pair

SECOND_BITS = 10
"""A second E2M1 product of a lane, with the sign's correction."""

GATED = 4
"""Registers with one enable from which on they are behind a clock gate in the netlists of benchmarks/gates."""

GATE_LOAD = 1.4
"""Registers whose clocking takes as much as a clock gate that is shut: 1.3 to 1.4 in the libraries of
benchmarks/gates."""


@dataclass(frozen=True, kw_only=True)
class PeStructure:
    """Bits of registers of one PE.

    operands: groups of A and B that pass through; tags; products: significands' products, shifts and signs of all
    lanes; terms: shifted products; tree: sums of lanes; block: sum of a block's steps; group: from there to its term,
    scales that pass included (block and group are 0 without block scales); accumulator, shadow: with flags. clocked:
    registers that are clocked while nothing valid comes, `GATE_LOAD` for each clock gate included.
    """

    operands: int
    tags: int
    products: int
    terms: int
    tree: int
    block: int
    group: int
    accumulator: int
    shadow: int
    clocked: float

    @property
    def registers(self) -> int:
        return (self.operands + self.tags + self.products + self.terms + self.tree + self.block + self.group
                + self.accumulator + self.shadow)


@cache
def pe_structure(config: TileConfig) -> PeStructure:
    pairs, lanes = built_pairs(config), config.lanes
    specs = [PAIRS[pair] for pair in pairs]
    elements = side_specs(pairs, "a") + side_specs(pairs, "b")
    flags = 3 if any(s.has_infinity for s in elements) else int(any(s.nan_codes for s in elements))
    second = Pair.E2M1 in pairs
    if config.multiplier == "dsp":
        product = max(spec.max_product for spec in specs).bit_length() + 1
    else:
        product = (max(s.a.significand_bits + s.b.significand_bits for s in specs)
                   + max(s.a.max_shift + s.b.max_shift for s in specs).bit_length() + 1)
    levels = (lanes - 1).bit_length()
    stages = 2 + levels + (2 + int(TermShape(config).factor_bits > 0) if config.scales else 0)
    tag_bits = 5 if config.scales else 3
    inexact = int(bool(config.scales) and TermShape(config).rounds)
    sums = sum(-(-lanes // 2**level) * (term_bits(pairs) + level) for level in range(1, levels + 1))
    return PeStructure(
        operands=lanes * (lane_bits(config, "a") + lane_bits(config, "b")),
        tags=tag_bits * (1 + stages), products=lanes * (product + second * SECOND_BITS + flags),
        terms=lanes * term_bits(pairs) + flags, tree=sums + flags * levels,
        block=TermShape(config).block_bits + flags if config.scales else 0, group=_group_bits(config, flags),
        accumulator=config.acc_bits + flags + inexact,
        shadow=config.acc_bits + flags + inexact + 2, clocked=_clocked(config, stages, 2 + levels))


def _clocked(config: TileConfig, stages: int, sum_stages: int) -> float:
    """See `PeStructure`. ``sum_stages``: of the dot product, through which tags say whether a block begins, where
    blocks have several steps."""
    loose, gates = 3, stages + 3  # valid at the edge, capture and held; edge, stages, accumulator, shadow
    if config.scales:
        gates += 2  # scales on their way, and their product
    for stage in range(2, stages + 1):  # tags of the first stage are those at the edge
        fields = 2 if not config.scales else 3 + (TermShape(config).adds_steps and stage <= sum_stages)
        loose += 1 + (0 if fields >= GATED else fields)
        gates += fields >= GATED
    return loose + GATE_LOAD * gates


def lane_bits(config: TileConfig, side: str) -> int:
    """Bits of a lane of side "a" or "b" on its way through the array (`arith.lane_format.LaneFormat.shape`)."""
    pairs = built_pairs(config)
    specs = side_specs(pairs, side)
    two_codes = Pair.E2M1 in pairs
    if carries_codes(pairs, side, config.multiplier):
        return 4 if specs == (E2M1,) and not two_codes else 8
    if config.multiplier == "dsp":
        size = max(spec.max_integer for spec in specs).bit_length()
    else:
        size = max(s.significand_bits for s in specs) + max(s.max_finite_shift for s in specs).bit_length()
    return (1 + size + any(bool(spec.nan_codes) for spec in specs) + any(spec.has_infinity for spec in specs)
            + 4 * two_codes)


def scale_bits(config: TileConfig, side: str) -> int:
    """Bits of a block's scale on its way (`scale_edge.scale_layout`)."""
    shape = TermShape(config)
    low, high = shape.exponent_range(side)
    exponent = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + int(low < 0)
    significand = (FP32_SIGNIFICAND if shape.fp32 else E4M3.significand_bits) if shape.factor_bits else 0
    return exponent + 1 + significand


def _group_bits(config: TileConfig, flags: int) -> int:
    if not config.scales:
        return 0
    shape = TermShape(config)
    low, high = (sum(shape.exponent_range(side)[end] for side in "ab") for end in (0, 1))
    exponent = max((high + 1).bit_length(), (-low - 1).bit_length() if low < 0 else 0) + int(low < 0)
    scales = scale_bits(config, "a") + scale_bits(config, "b")
    bits = scales + exponent + 1 + shape.factor_bits
    if shape.fp32:
        bits += 2 * FP32_SIGNIFICAND + exponent + 1
    if shape.factor_bits:
        bits += shape.product_bits + exponent + 1 + flags
    return bits + config.acc_bits + flags + 1 + 2 * int(shape.rounds)


UNIT_SIZES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "acc": ((286.5, 8.663, 3.152), (-382.8, 196.5, 3075.0)),
    "a_slice": ((83.52, 0.02977, 8.09, 277.2), (-911.1, 210.7, 168.4, 6914.0)),
    "b_slice": ((74.88, 0.01719, 228.2), (640.2, 112.0, 3393.0)),
    "load": ((746.5, 7.569, 14.22), (52080.0, -10.39, 588.5)),
    "store": ((684.5, 9.952, 14.82), (43660.0, 607.1, 541.4)),
    "vector": ((2415.0, 14.0), (169600.0, 616.0)),
    "vector_control": ((3241.0, 88.75, 1804.0), (13410.0, 5086.0, 71740.0)),
    "control": ((4145.0, 33.0), (157400.0, 1253.0)),  # nano measured; what a column adds, by registers in the RTL
}
"""By unit: coefficients of `unit_features`, for registers and for transistors of gates."""

CLOCKED_SHARE = {"acc": 0.044, "a_slice": 0.076, "b_slice": 0.089, "load": 0.27, "store": 0.65, "vector": 0.0006,
                 "vector_control": 0.12, "control": 0.17}
"""By unit, of `nano`: registers that no clock gate stops, and `GATE_LOAD` for each gate, per register. Counted in
netlists with enables, as `benchmarks/gates/mapping.py` places the gates; a vector lane is behind a single one."""

_PE_TRANSISTORS = {"multiplier": 20.9, "dsp": 37.7, "second": 47.4, "adder": 38.9, "scaling": 42.9, "shift": 6.54,
                   "group": 84.1}
"""Per bit of `_pe_gates`."""


def _pe_gates(config: TileConfig) -> dict[str, float]:
    """Bits of a PE's arithmetic: products of significands and decoders of codes; adders of second products; adders of
    terms, tree and accumulator; products with scales; levels of the shifter onto the grid; the block's sum."""
    pairs, lanes, pe = built_pairs(config), config.lanes, pe_structure(config)
    specs = [PAIRS[pair] for pair in pairs]
    if config.multiplier == "dsp":
        product = max(s.a.max_integer for s in specs).bit_length() * max(s.b.max_integer for s in specs).bit_length()
    else:
        product = (max(s.a.significand_bits for s in specs) * max(s.b.significand_bits for s in specs)
                   + 8 * sum(carries_codes(pairs, side, config.multiplier) for side in "ab"))
    term = lanes * term_bits(pairs)
    found: dict[str, float] = {"dsp" if config.multiplier == "dsp" else "multiplier": lanes * product,
             "second": term * (Pair.E2M1 in pairs), "adder": term + pe.tree + 2 * config.acc_bits}
    if config.scales:
        shape = TermShape(config)
        significands = FP32_SIGNIFICAND**2 if shape.fp32 else E4M3.significand_bits**2 if shape.factor_bits else 0
        width = shape.product_bits + shape.most_shift + 1
        levels = width.bit_length() if shape.rounds else shape.most_shift.bit_length()
        found |= {"scaling": shape.multiplied_bits * shape.factor_bits + significands, "shift": width * levels,
                  "group": shape.block_bits}
    return found


@dataclass(frozen=True, kw_only=True)
class UnitSize:
    """count: how many of it a tile has. registers, and transistors of the gates, of one. clocked: what the constant of
    its clock at rest is multiplied by: registers that are clocked then, clock gates included
    (`PeStructure.clocked`)."""

    count: int
    registers: float
    transistors: float
    clocked: float


def unit_features(unit: str, config: TileConfig) -> tuple[float, ...]:
    """What the size of a unit other than the PE is linear in; the first is 1."""
    cols, bus = config.cols, config.bus_bytes
    blocks = float(bool(config.scales))
    return {
        "vector": (1, blocks),
        "acc": (1, config.acc_bits, config.acc_banks + config.stat_banks),
        "a_slice": (1, config.a_banks * config.a_word_bytes, config.a_word_bytes, blocks),
        "b_slice": (1, config.b_banks * config.b_word_bytes, blocks),
        "load": (1, bus, blocks * bus),
        "store": (1, bus, blocks * bus),
        "vector_control": (1, cols, blocks * cols),
        "control": (1, cols),
    }[unit]


@cache
def tile_sizes(config: TileConfig) -> dict[str, UnitSize]:
    """By unit: "pe", and those of `UNIT_SIZES`."""
    counts = {"vector": config.cols, "acc": config.cols, "a_slice": config.rows, "b_slice": config.cols}
    gates = sum(bits * _PE_TRANSISTORS[name] for name, bits in _pe_gates(config).items())
    pe = pe_structure(config)
    result = {"pe": UnitSize(count=config.rows * config.cols, registers=pe.registers, transistors=gates,
                             clocked=pe.clocked)}
    for unit, coefficients in UNIT_SIZES.items():
        registers, transistors = (sum(x * y for x, y in zip(unit_features(unit, config), values, strict=True))
                                  for values in coefficients)
        result[unit] = UnitSize(count=counts.get(unit, 1), registers=registers, transistors=transistors,
                                clocked=registers * CLOCKED_SHARE[unit])
    return result
