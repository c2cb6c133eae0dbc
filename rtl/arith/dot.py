"""Exact dot product of the lanes of an operand pair: product -> shift -> adder tree.

An E4M3 product is ``(ma * mb) << (sa + sb)`` in units of 2**-18 with its sign, 37 bits; nothing is aligned,
truncated or normalised. One adder level per stage: a dot product in a single stage limited a processing element to
31-45 MHz on an ECP5, five stages reached 107 MHz and toggled 2.4 times less. Shift and tree are shared by all element
pairs that are built, because a product is an integer in units that only the pair decides.

Two back ends, equal in bits and latency: ``fabric`` multiplies significands and shifts, ``dsp`` multiplies the
expanded integers (`lane_format`), 18 bits and a sign, with one unsigned 18 x 18 multiplier per product.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec.formats import E2M1, PAIRS, step_bits, term_bits
from ..spec.isa import Pair
from . import latency
from .decode import DecodedElement
from .lane_format import LaneFields, LaneFormat

E4M3_ONLY = (Pair.E4M3,)

_SECOND_BITS = 10
"""Signed width of a second E2M1 product and a sign."""


class DotProduct(wiring.Component):
    """Sum of the products of all lanes, exact, in units of 2**lsb_exponent of the operands' pair.

    Parameters
    ----------
    lanes : int
        Lanes L >= 1. Lane 0 is the low byte of both operands.
    pairs : tuple of Pair
        Element pairs that are built; which one it is, the operands' lanes say themselves.
    multiplier : str
        "fabric" or "dsp".

    Members
    -------
    a, b : In(LaneFormat.operand_shape(lanes))
    enable : In(LATENCY)
        Bit s: the registers of stage s, of operands that came s cycles before, take over. All ones if nothing
        drives it.
    sum : Out(signed(step_bits(lanes, pairs)))
        A lane with a NaN or infinity contributes 0.
    nan, pinf, ninf : Out(1)
        Some product was NaN (an operand is, or infinity times zero), or an infinity.

    LATENCY is 2 + ceil_log2(lanes) cycles, throughput one dot product per cycle.
    """

    a: Signal | data.View
    b: Signal | data.View
    enable: Signal
    sum: Signal
    nan: Signal
    pinf: Signal
    ninf: Signal

    def __init__(self, *, lanes: int, pairs: tuple[Pair, ...] = E4M3_ONLY, multiplier: str = "fabric") -> None:
        if not isinstance(lanes, int) or isinstance(lanes, bool):
            raise TypeError(f"lanes must be an integer, not {lanes!r}")
        if lanes < 1:
            raise ValueError(f"lanes must be at least 1, not {lanes}")
        self.lanes, self.pairs, self.multiplier = lanes, pairs, multiplier
        self.a_format, self.b_format = (LaneFormat(side, pairs, multiplier) for side in "ab")
        super().__init__({
            "a": In(self.a_format.operand_shape(lanes)), "b": In(self.b_format.operand_shape(lanes)),
            "enable": In(self.LATENCY, init=(1 << self.LATENCY) - 1),  # pyright: ignore[reportCallIssue]
            "sum": Out(signed(step_bits(lanes, pairs))), "nan": Out(1), "pinf": Out(1), "ninf": Out(1)})

    @property
    def LATENCY(self) -> int:
        return latency.dot_product(self.lanes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        terms: list[Signal] = []
        kinds = self.flag_kinds
        lane_flags = {name: Signal(self.lanes, name=f"lane_{name}", reset_less=True) for name in kinds}
        for lane in range(self.lanes):
            a = self.a_format.fields(self.a_format.lane(self.a, lane))
            b = self.b_format.fields(self.b_format.lane(self.b, lane))
            found = self.lane_flags(m, lane, a, b)
            with m.If(self.enable[0]):
                m.d.sync += [lane_flags[name][lane].eq(found[name]) for name in kinds]
            terms.append(self._term(m, lane, a, b))
        flags = {name: Signal(name=f"any_{name}", reset_less=True) for name in kinds}
        with m.If(self.enable[1]):
            m.d.sync += [flags[name].eq(lane_flags[name].any()) for name in kinds]
        level = 0
        while len(terms) > 1:
            with m.If(self.enable[2 + level]):
                terms, flags = self._add_level(m, terms, flags, level)
            level += 1
        m.d.comb += self.sum.eq(terms[0])
        m.d.comb += [getattr(self, name).eq(flag) for name, flag in flags.items()]
        return m

    @property
    def flag_kinds(self) -> tuple[str, ...]:
        """Flags that an operand of the built pairs can raise."""
        specs = self.a_format.specs + self.b_format.specs
        if any(spec.has_infinity for spec in specs):
            return ("nan", "pinf", "ninf")
        return ("nan",) if any(spec.nan_codes for spec in specs) else ()

    def lane_flags(self, m: Module, lane: int, a: LaneFields, b: LaneFields) -> dict[str, Value]:
        """Each of `flag_kinds` of a lane's product."""
        nan = Signal(name=f"nan_{lane}")
        infinite = Signal(name=f"infinite_{lane}")
        negative = a.sign ^ b.sign
        m.d.comb += nan.eq(a.nan | b.nan | (a.infinite & b.zero) | (b.infinite & a.zero))
        m.d.comb += infinite.eq((a.infinite | b.infinite) & ~nan)
        return {"nan": nan, "pinf": infinite & ~negative, "ninf": infinite & negative}

    def _term(self, m: Module, lane: int, a: LaneFields, b: LaneFields) -> Signal:
        """Two stages: product of significands or integers; shift and sign."""
        special = a.special | b.special
        sign = Signal(name=f"sign_{lane}", reset_less=True)
        specs = [PAIRS[pair] for pair in self.pairs]
        if self.multiplier == "dsp":
            product = Signal(max(spec.max_product for spec in specs).bit_length(), name=f"product_{lane}",
                             reset_less=True)
            taken = [product.eq(a.magnitude * b.magnitude)]
            shifted: Value = product
        else:
            product = Signal(max(s.a.significand_bits + s.b.significand_bits for s in specs),
                             name=f"product_{lane}", reset_less=True)
            shift = Signal(range(max(s.a.max_shift + s.b.max_shift for s in specs) + 1), name=f"shift_{lane}",
                           reset_less=True)
            taken = [product.eq(Mux(special, 0, a.significand * b.significand)), shift.eq(a.shift + b.shift)]
            shifted = Signal(max(s.product_bits for s in specs) - 1, name=f"shifted_{lane}")
            m.d.comb += shifted.eq(product << shift)
        taken.append(sign.eq(a.sign ^ b.sign))
        term = Signal(signed(term_bits(self.pairs)), name=f"term_{lane}", reset_less=True)
        signed_term: Value = Mux(sign, -shifted, shifted)
        if a.high is not None and b.high is not None:
            # The second product shares the adder that negates the first.
            second = Signal(signed(_SECOND_BITS), name=f"second_{lane}", reset_less=True)
            taken.append(second.eq(e2m1_product(m, lane, a.high, b.high) + (a.sign ^ b.sign)))
            extended = Signal(len(term), name=f"extended_{lane}")
            m.d.comb += extended.eq(shifted)
            signed_term = Mux(sign, ~extended, extended).as_signed() + second
        with m.If(self.enable[0]):
            m.d.sync += taken
        with m.If(self.enable[1]):
            m.d.sync += term.eq(signed_term)
        return term

    @staticmethod
    def _add_level(m: Module, terms: list[Signal], flags: dict[str, Signal],
                   level: int) -> tuple[list[Signal], dict[str, Signal]]:
        width = len(terms[0]) + 1
        sums: list[Signal] = []
        for index in range(0, len(terms), 2):
            total = Signal(signed(width), name=f"sum_{level}_{index // 2}", reset_less=True)
            other = terms[index + 1] if index + 1 < len(terms) else Const(0, signed(1))
            m.d.sync += total.eq(terms[index] + other)
            sums.append(total)
        later = {name: Signal(name=f"sum_{name}_{level}", reset_less=True) for name in flags}
        m.d.sync += [later[name].eq(flag) for name, flag in flags.items()]
        return sums, later


def e2m1_product(m: Module, lane: int, a: Value, b: Value) -> Signal:
    """Exact product of two E2M1 codes in units of 2**-2, signed, combinational."""
    x, y = DecodedElement(a, E2M1), DecodedElement(b, E2M1)
    magnitude = Signal(PAIRS[Pair.E2M1].product_bits - 1, name=f"second_magnitude_{lane}")
    product = Signal(signed(PAIRS[Pair.E2M1].product_bits), name=f"second_product_{lane}")
    m.d.comb += [
        magnitude.eq((x.significand * y.significand) << (x.shift + y.shift)),
        product.eq(Mux(x.sign ^ y.sign, -magnitude, magnitude)),
    ]
    return product
