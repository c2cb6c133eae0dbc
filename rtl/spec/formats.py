"""Number formats, from one table each: element formats, what a MATMUL makes of two of them, and block scales.

The keys of a tile, the rules for instructions, the hardware and the compiler take names and limits from here; formats
of whole tensors are in `tensor_formats.py`.

A code decodes to (sign, significand, shift, nan); its value is ``(-1)**sign * significand * 2**(shift +
lsb_exponent)`` with a small unsigned integer significand, so that a product of two codes is an exact integer:
multiply the significands, add the shifts. Subnormals need no special case (shift 0, leading bit absent).
`element_values.py` decodes arrays of codes.

The widths of products, blocks and accumulators, and with them the limits of exactness, follow from these
constants alone (`PairSpec`, `headroom`, `exact_elements`).

Source: OCP 8-bit Floating Point Specification (OFP8) revision 1.0, table 1, for E4M3 (ml_dtypes
``float8_e4m3fn``) and E5M2; OCP Microscaling Formats (MX) specification 1.0, table 5, for E2M1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from .isa import Pair, Scale

FP32_NAN = 0x7FC00000
"""The one NaN that any unit produces (design: numeric contract, rule 8)."""

FP32_INF = 0x7F800000
"""Positive infinity; bit 31 makes it negative."""


@dataclass(frozen=True, kw_only=True)
class FormatSpec:
    """Description of an operand format of at most eight bits.

    ``lsb_exponent`` is the weight of the least significand bit at shift 0, ``emax`` the exponent of the
    largest finite value, ``nan_codes`` every code that means NaN. A format without a sign bit has ``signed``
    False.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    signed: bool
    max_finite: float
    lsb_exponent: int
    emax: int
    has_infinity: bool
    nan_codes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.exponent_bits < 1 or self.mantissa_bits < 0:
            raise ValueError(f"{self.name}: expected exponent_bits >= 1 and mantissa_bits >= 0, got "
                             f"{self.exponent_bits} and {self.mantissa_bits}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"{self.name}: expected a code of 1 to 8 bits, got {self.bits}")
        for code in self.nan_codes:
            if not 0 <= code < 2**self.bits:
                raise ValueError(f"{self.name}: expected NaN codes below {2**self.bits}, got {code:#x}")

    @property
    def bits(self) -> int:
        """Width of a code."""
        return self.exponent_bits + self.mantissa_bits + int(self.signed)

    @property
    def significand_bits(self) -> int:
        """Width of the decoded integer significand."""
        return self.mantissa_bits + 1

    @property
    def max_shift(self) -> int:
        """Largest decoded shift: the codes with an all-ones exponent."""
        return 2**self.exponent_bits - 2

    @property
    def max_finite_shift(self) -> int:
        """Largest shift of a finite code; where there are infinities they have the all-ones exponent alone."""
        return self.max_shift - int(self.has_infinity)

    @property
    def max_integer(self) -> int:
        """Largest finite magnitude in units of 2**lsb_exponent."""
        return int(self.max_finite * 2.0**-self.lsb_exponent)


E4M3 = FormatSpec(name="e4m3", exponent_bits=4, mantissa_bits=3, bias=7, signed=True, max_finite=448.0,
                  lsb_exponent=-9, emax=8, has_infinity=False, nan_codes=(0x7F, 0xFF))
"""OCP e4m3fn: no infinities, one NaN magnitude, subnormals down to 2^-9."""

E5M2 = FormatSpec(name="e5m2", exponent_bits=5, mantissa_bits=2, bias=15, signed=True, max_finite=57344.0,
                  lsb_exponent=-16, emax=15, has_infinity=True, nan_codes=(0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF))
"""OCP e5m2: IEEE-like, infinities 0x7C and 0xFC, three NaN magnitudes, subnormals down to 2^-16."""

E2M1 = FormatSpec(name="e2m1", exponent_bits=2, mantissa_bits=1, bias=1, signed=True, max_finite=6.0,
                  lsb_exponent=-1, emax=2, has_infinity=False, nan_codes=())
"""OCP MX E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6; no infinities, no NaN."""

E8M0 = FormatSpec(name="e8m0", exponent_bits=8, mantissa_bits=0, bias=127, signed=False, max_finite=2.0**127,
                  lsb_exponent=-127, emax=127, has_infinity=False, nan_codes=(0xFF,))
"""OCP MX scale: 2^(code - 127), no zero. The tile stores how far a scale lies below its row's anchor instead."""

ELEMENTS = (E4M3, E5M2, E2M1)
"""Formats of elements, as the hardware numbers them."""

E4M3_MAX_CODE = 0x7E
"""Magnitude code of 448."""

E4M3_NAN_CODE = 0x7F
"""The NaN that the quantizer produces."""

PRODUCT_LSB_EXPONENT = 2 * E4M3.lsb_exponent
"""Exact E4M3 dot products are integers in units of 2^-18."""


@dataclass(frozen=True, kw_only=True)
class PairSpec:
    """What a MATMUL's operands are: the format of A's and B's elements, and where they lie.

    build_name: the entry of `TileConfig.formats` that builds it. products_per_lane: products of a byte lane in
    one step. b_steps: steps that one group of B lasts.
    """

    pair: Pair
    build_name: str
    a: FormatSpec
    b: FormatSpec
    products_per_lane: int = 1
    b_steps: int = 1

    @property
    def lsb_exponent(self) -> int:
        """Weight of the lowest bit of a product: products are integers in units of 2**lsb_exponent."""
        return self.a.lsb_exponent + self.b.lsb_exponent

    @property
    def product_bits(self) -> int:
        """Signed width of a product: the significands' product, the shifts, the sign."""
        return (self.a.significand_bits + self.b.significand_bits + self.a.max_finite_shift
                + self.b.max_finite_shift + 1)

    @property
    def max_product(self) -> int:
        """Largest magnitude of a product, in its units."""
        return self.a.max_integer * self.b.max_integer

    def sum_bits(self, elements: int) -> int:
        """Signed width of the sum of ``elements`` products."""
        return self.product_bits + (elements - 1).bit_length()

    def products_per_step(self, lanes: int) -> int:
        """Products of a PE in one k step."""
        return lanes * self.products_per_lane


PAIRS = {spec.pair: spec for spec in (
    PairSpec(pair=Pair.E4M3, build_name="e4m3", a=E4M3, b=E4M3),
    PairSpec(pair=Pair.E5M2, build_name="e5m2", a=E5M2, b=E5M2),
    PairSpec(pair=Pair.E4M3_E5M2, build_name="e4m3xe5m2", a=E4M3, b=E5M2),
    PairSpec(pair=Pair.E2M1, build_name="e2m1", a=E2M1, b=E2M1, products_per_lane=2),
    PairSpec(pair=Pair.E4M3_E2M1, build_name="e4m3xe2m1", a=E4M3, b=E2M1, b_steps=2),
    PairSpec(pair=Pair.E5M2_E4M3, build_name="e4m3xe5m2", a=E5M2, b=E4M3),
)}

ELEMENT_PAIRS = {(spec.a.name, spec.b.name): pair for pair, spec in PAIRS.items()}
"""The pair that multiplies elements of these names, A's first."""

BUILD_NAMES = tuple(dict.fromkeys(spec.build_name for spec in PAIRS.values()))
"""What `TileConfig.formats` may hold."""

_DSP_BITS = 18
"""Width of the multipliers of FPGAs."""


def built_with(build_names: Collection[str]) -> tuple[PairSpec, ...]:
    """The pairs that tiles with these names in `TileConfig.formats` multiply."""
    return tuple(spec for spec in PAIRS.values() if spec.build_name in build_names)


def fits_dsp(build_name: str) -> bool:
    """Whether one multiplier of an FPGA takes a product of these elements, expanded to integers."""
    return all(side.max_integer.bit_length() <= _DSP_BITS for spec in built_with((build_name,))
               for side in (spec.a, spec.b))


def term_bits(pairs: tuple[Pair, ...]) -> int:
    """Signed width of what a byte lane contributes to a dot product of one of these pairs."""
    return max(PAIRS[pair].sum_bits(PAIRS[pair].products_per_lane) for pair in pairs)


def step_bits(lanes: int, pairs: tuple[Pair, ...]) -> int:
    """Signed width of the dot product of ``lanes`` byte lanes: of one k step."""
    return term_bits(pairs) + (lanes - 1).bit_length()


def side_specs(pairs: tuple[Pair, ...], side: str) -> tuple[FormatSpec, ...]:
    """Element formats of side "a" or "b" of these pairs."""
    return tuple(dict.fromkeys(getattr(PAIRS[pair], side) for pair in pairs))


def carries_codes(pairs: tuple[Pair, ...], side: str, multiplier: str) -> bool:
    """Lanes of that side carry codes as they are in the buffer; else they are expanded at the edge of the array."""
    return len(side_specs(pairs, side)) == 1 and multiplier == "fabric"


SCALE_NAMES = {Scale.E4M3: "e4m3", Scale.E8M0: "e8m0", Scale.FP32: "fp32"}
"""Entries of `TileConfig.scales` that build each kind of block scale."""

SCALE_BYTES = {Scale.NONE: 0, Scale.E4M3: 1, Scale.E8M0: 1, Scale.FP32: 4}
"""Stored bytes of a block's scale."""

BLOCK_ELEMENTS = {Scale.E4M3: (16,), Scale.E8M0: (32, 128), Scale.FP32: (128,)}
"""Elements per block: NVFP4; MX and DeepSeek's UE8M0; DeepSeek."""

SCALE_PAIRS = {Scale.E4M3: (Pair.E2M1, Pair.E4M3_E2M1), Scale.E8M0: tuple(PAIRS), Scale.FP32: (Pair.E4M3,)}
"""Element pairs that each kind of block scale works with. E4M3 and FP32 scales are multiplied with a block's
sum; the sums of the other pairs are too wide for that to be worth its gates."""

FP32_SCALE_ORDERS = 2
"""FP32 block scales are below 2 (relative to their anchors), so a product of two is below 2**2."""


def block_magnitude_bits(pair: Pair, block_elements: int) -> int:
    """w: the sum of a block's products is below 2**w."""
    return PAIRS[pair].sum_bits(block_elements) - 1


def headroom(pair: Pair, scale: Scale, block_elements: int, blocks: int, acc_bits: int) -> int:
    """How many binary orders terms are shifted up so that ``blocks`` of them just fit the accumulator.

    The weight of the accumulator's lowest bit is that of a product, times the anchors, times 2**-headroom.
    ``blocks`` are all blocks of the whole sum over k, never those of one instruction. 0 for scales that need
    no grid. Raises ValueError if the accumulator is too narrow even without headroom.
    """
    if scale not in (Scale.E8M0, Scale.FP32):
        return 0
    used = block_magnitude_bits(pair, block_elements) + (blocks - 1).bit_length() + 1
    if scale == Scale.FP32:
        used += FP32_SCALE_ORDERS
    if used > acc_bits:
        raise ValueError(f"{blocks} blocks of {block_elements} {PAIRS[pair].build_name} products with "
                         f"{scale.name} scales need {used} accumulator bits, got {acc_bits}")
    return acc_bits - used


def result_lsb(pair: Pair, scale: Scale, a_scaled: int, b_scaled: int, shift: int) -> int:
    """Weight of an accumulator's lowest bit as a power of two; ``shift`` is the instruction's headroom."""
    scaled = a_scaled + b_scaled if scale == Scale.E4M3 else 0
    return PAIRS[pair].lsb_exponent + scaled * E4M3.lsb_exponent - shift


def exact_elements(pair: Pair, scale: Scale, acc_bits: int) -> int:
    """How many elements a sum can have without ever leaving the accumulator, whatever they are.

    For scales NONE and E4M3 (both sides scaled), whose terms are always exact. Sums with E8M0 scales are
    exact up to a spread of the scales of `headroom` binary orders. Raises ValueError for those and FP32.
    """
    if scale not in (Scale.NONE, Scale.E4M3):
        raise ValueError(f"scale must be NONE or E4M3, not {scale.name}: its terms may be rounded")
    largest = PAIRS[pair].max_product * (E4M3.max_integer**2 if scale == Scale.E4M3 else 1)
    return ((1 << (acc_bits - 1)) - 1) // largest
