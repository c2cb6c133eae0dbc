"""Processing elements that accumulate in FP32: what the exact one is compared with. For benchmarks only.

They have the ports of `rtl.matrix.pe.ProcessingElement`, its lanes, tags, enables and shadow chain, and as many stages
or fewer; only what makes and accumulates terms differs. Where there was a choice they got the smaller one:

* The adder has no subnormals, infinities or overflow. None can occur: terms are multiples of 2**-20 and below 2**40.
  NaN is a sticky flag, as in the exact element, not a code to be recognised in every cycle.
* Sum, normalisation and rounding take one cycle, because a term comes every cycle and the next one needs the sum. A
  pipelined adder would need as many accumulators as it has stages, and additions of those at the end.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from tilescore.rtl.arith import latency
from tilescore.rtl.arith.decode import DecodedElement
from tilescore.rtl.arith.dot import DotProduct
from tilescore.rtl.arith.pack import count_leading_zeros, delay
from tilescore.rtl.lib.tree import tree
from tilescore.rtl.matrix.pe import (
    ProcessingElement,
    a_operand_layout,
    b_operand_shape,
    pass_tags,
    scale_ports,
    tags_layout,
)
from tilescore.rtl.spec.array_formats import built_pairs
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.formats import E4M3, PAIRS
from tilescore.rtl.spec.isa import Pair

SIGNIFICAND = 24
BIAS = 127

Fp32 = data.StructLayout({"fraction": SIGNIFICAND - 1, "exponent": 8, "sign": 1})
"""An FP32 word that is zero or normal."""

Flags = data.StructLayout({"nan": 1})

Partial = data.StructLayout({"value": 32, "flags": Flags})
"""What the shadow chain carries."""

PLAIN_E4M3 = ((Pair.E4M3,), ())
NVFP4 = ((Pair.E2M1,), ("e4m3",))


class Fp32ProcessingElement(ProcessingElement):
    """What the two kinds below share. Members as in `ProcessingElement`, with `Partial` in the shadow chain.

    ``config`` builds one of ``FORMATS``: pairs and scales.
    """

    FORMATS: tuple[tuple, ...]

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.pairs = built_pairs(config)
        if (self.pairs, config.scales) not in self.FORMATS:
            raise ValueError(f"{type(self).__name__} is not made for formats {config.formats} with scales "
                             f"{config.scales}")
        self.a_layout = a_operand_layout(config)
        self.partial_layout = Partial
        wiring.Component.__init__(self, {
            "a_in": In(self.a_layout), "a_out": Out(self.a_layout),
            "b_in": In(b_operand_shape(config)), "b_out": Out(b_operand_shape(config)),
            "drain_in": In(Partial), "drain_out": Out(Partial),
            "start": In(1), "shift": In(1), **scale_ports(config, "a"), **scale_ports(config, "b"),
        })

    @property
    @abstractmethod
    def term_latency(self) -> int:
        """Operands to the term at the accumulator."""

    @property
    def latency(self) -> int:
        """Operands to the value in the shadow register."""
        return self.term_latency + 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.a_in.tags.valid):
            m.d.sync += [self.a_out.data.eq(self.a_in.data), self.b_out.eq(self.b_in)]
        stages = [self.a_in.tags]
        for stage in range(1, self.term_latency + 1):
            stages.append(Signal(tags_layout(self.config), name=f"tags_{stage}"))
        for later in (self.a_out.tags, stages[1]):
            pass_tags(m, stages[0], later)
        for before, later in pairwise(stages[1:]):
            pass_tags(m, before, later)
        self.valid = [stage.valid for stage in stages]
        tags = stages[-1]
        value = Signal(Fp32, reset_less=True)
        flags = Signal(Flags, reset_less=True)
        old = Signal(Fp32)
        m.d.comb += old.eq(Mux(tags.first, 0, value))
        new, nan = self._accumulate(m, old)
        with m.If(self.valid[-1]):
            m.d.sync += [value.eq(new), flags.nan.eq(Mux(tags.first, 0, flags.nan) | nan)]
        self._shadow(m, tags.valid & tags.last, value.as_value(), flags)
        return m

    @abstractmethod
    def _accumulate(self, m: Module, old: data.View) -> tuple[Value, Value]:
        """The next accumulator, an FP32 word, and whether the term is NaN."""


class RoundedProcessingElement(Fp32ProcessingElement):
    """``acc = RNE32(acc + RNE32(exact dot product * scales))``, for E4M3 and for NVFP4 (both sides scaled)."""

    FORMATS = (PLAIN_E4M3, NVFP4)

    @property
    def term_latency(self) -> int:
        return latency.dot_product(self.config.lanes) + (3 if self.config.scales else 2)

    def _accumulate(self, m: Module, old: data.View) -> tuple[Value, Value]:
        m.submodules.dot = dot = DotProduct(lanes=self.config.lanes, pairs=self.pairs)
        m.d.comb += [dot.a.eq(self.a_in.data), dot.b.eq(self.b_in), dot.enable.eq(Cat(self.valid))]
        term, nan = self._scaled_term(m, dot) if self.config.scales else self._plain_term(m, dot)
        return add_fp32(m, old, term), nan

    def _plain_term(self, m: Module, dot: DotProduct) -> tuple[data.View, Value]:
        """Two stages: magnitude; normalise and round."""
        magnitude = Signal(len(dot.sum) - 1, reset_less=True)
        sign = Signal(reset_less=True)
        with m.If(self.valid[dot.LATENCY]):
            m.d.sync += [magnitude.eq(Mux(dot.sum < 0, -dot.sum, dot.sum)), sign.eq(dot.sum < 0)]
        term = Signal(Fp32, reset_less=True)
        rounded = normalise(m, magnitude, Const(PAIRS[Pair.E4M3].lsb_exponent + BIAS), sign, name="term")
        with m.If(self.valid[dot.LATENCY + 1]):
            m.d.sync += term.eq(rounded)
        return term, delay(m, dot.nan, 2, name="nan")

    def _scaled_term(self, m: Module, dot: DotProduct) -> tuple[data.View, Value]:
        """As in `rtl.matrix.block_term` the block's sum and the scales' product, then their product; normalise."""
        a, b = self.a_scale_in, self.b_scale_in
        now = self.valid[dot.LATENCY:]
        with m.If(now[0]):
            m.d.sync += [self.a_scale_out.eq(a), self.b_scale_out.eq(b)]
        block = Signal(dot.sum.shape(), reset_less=True)
        factor = Signal(2 * E4M3.significand_bits, reset_less=True)
        exponent = Signal(range(2 * E4M3.max_shift + 1), reset_less=True)
        product = Signal(signed(len(block) + len(factor)), reset_less=True)
        product_exponent = Signal(8, reset_less=True)
        magnitude = Signal(len(product) - 1)
        lsb = PAIRS[Pair.E2M1].lsb_exponent + 2 * E4M3.lsb_exponent
        with m.If(now[0]):
            m.d.sync += [block.eq(dot.sum), factor.eq(a.significand * b.significand),
                         exponent.eq(a.exponent + b.exponent)]
        with m.If(now[1]):
            m.d.sync += [product.eq(block * factor), product_exponent.eq(exponent + (lsb + BIAS))]
        m.d.comb += magnitude.eq(Mux(product < 0, -product, product))
        term = Signal(Fp32, reset_less=True)
        rounded = normalise(m, magnitude, product_exponent, product < 0, name="term")
        with m.If(now[2]):
            m.d.sync += term.eq(rounded)
        return term, delay(m, a.nan | b.nan, 3, name="nan")


class AlignedProcessingElement(Fp32ProcessingElement):
    """Products and accumulator aligned to the largest exponent and cut off: the usual tensor core, for E4M3.

    ``window`` bits are kept of each product, counted from the top of 8 bits with the largest exponent among the lanes;
    the rest is cut off (towards zero). The sum of these is added to the accumulator: both are aligned to the larger
    of their top bits' places, in a frame of ``frame`` bits; what lies below, and below the 24 bits of the
    result, is cut off (downwards before the addition, towards zero after).
    """

    FORMATS = (PLAIN_E4M3,)

    def __init__(self, config: TileConfig, *, window: int) -> None:
        super().__init__(config)
        self.window = window
        self.sum_bits = window + (config.lanes - 1).bit_length()  # of the magnitude
        self.frame = max(self.sum_bits, SIGNIFICAND + 1)

    @property
    def term_latency(self) -> int:
        return latency.dot_product(self.config.lanes)

    def _accumulate(self, m: Module, old: data.View) -> tuple[Value, Value]:
        total, exponent, nan = self._aligned_sum(m)
        frame = self.frame
        significand = Cat(old.fraction, old.exponent.any())
        acc = Signal(signed(frame + 1))
        term = Signal(signed(frame + 1))
        ahead = Signal(signed(10))  # how much higher the term's top bit is
        amount = Signal(range(frame + 2))
        behind = Signal(9)
        fixed = Signal(signed(frame + 1))
        moved = Signal(signed(frame + 1))
        m.d.comb += [
            acc.eq(Mux(old.sign, -significand, significand) << (frame - SIGNIFICAND)),
            term.eq(total << (frame - self.sum_bits)),
            ahead.eq(exponent - old.exponent),
            behind.eq(Mux(ahead < 0, -ahead, ahead)), amount.eq(Mux(behind > frame, frame + 1, behind)),
            fixed.eq(Mux(ahead < 0, acc, term)), moved.eq(Mux(ahead < 0, term, acc))]
        result = Signal(signed(frame + 2))
        magnitude = Signal(frame + 1)
        m.d.comb += [
            result.eq(fixed + (moved >> amount)), magnitude.eq(Mux(result < 0, -result, result))]
        top = Mux(ahead < 0, old.exponent, exponent)
        return normalise(m, magnitude, top - (frame - 1), result < 0, name="sum", rounding=False), nan

    def _aligned_sum(self, m: Module) -> tuple[Signal, Signal, Signal]:
        """Sum in units of its top bit's place, the (biased) exponent of that place, NaN."""
        lanes = self.config.lanes
        exponent_bits = (2 * E4M3.max_shift).bit_length()
        product_bits = 2 * E4M3.significand_bits
        pairs = [[DecodedElement(side.word_select(i, 8), E4M3) for side in (self.a_in.data, self.b_in)]
                 for i in range(lanes)]
        lane_exponents = [Signal(exponent_bits, name=f"sum_exponent_{i}") for i in range(lanes)]
        m.d.comb += [e.eq(a.shift + b.shift) for e, (a, b) in zip(lane_exponents, pairs, strict=True)]
        largest = Signal(exponent_bits, reset_less=True)
        found = tree(lambda x, y: Mux(x > y, x, y), lane_exponents)
        with m.If(self.valid[0]):
            m.d.sync += largest.eq(found)
        terms: list[Value] = []
        for i, (a, b) in enumerate(pairs):
            product = Signal(product_bits, name=f"product_{i}", reset_less=True)
            exponent = Signal(exponent_bits, name=f"exponent_{i}", reset_less=True)
            sign = Signal(name=f"sign_{i}", reset_less=True)
            with m.If(self.valid[0]):
                m.d.sync += [product.eq(Mux(a.nan | b.nan, 0, a.significand * b.significand)),
                             exponent.eq(lane_exponents[i]), sign.eq(a.sign ^ b.sign)]
            cut = Signal(self.window, name=f"cut_{i}")
            m.d.comb += cut.eq(Cat(Const(0, self.window - product_bits), product) >> (largest - exponent).as_unsigned())
            term = Signal(signed(self.window + 1), name=f"term_{i}", reset_less=True)
            with m.If(self.valid[1]):
                m.d.sync += term.eq(Mux(sign, -cut, cut))
            terms.append(term)
        levels = 0
        while len(terms) > 1:
            sums = [Signal(signed(len(terms[0]) + 1), name=f"sum_{levels}_{i}", reset_less=True)
                    for i in range(len(terms) // 2)]
            with m.If(self.valid[2 + levels]):
                m.d.sync += [s.eq(x + y) for s, x, y in zip(sums, terms[::2], terms[1::2], strict=True)]
            terms, levels = sums, levels + 1
        nans = Signal(lanes, reset_less=True)
        m.d.sync += nans.eq(Cat(a.nan | b.nan for a, b in pairs))
        # The top bit of a sum with exponent 0 has the weight 2**(lsb + product_bits + levels - 1).
        top = BIAS + PAIRS[Pair.E4M3].lsb_exponent + product_bits + levels - 1
        exponent = Signal(8, name="term_exponent")
        m.d.comb += exponent.eq(Value.cast(delay(m, largest, 1 + levels, name="largest")) + top)
        return terms[0], exponent, delay(m, nans.any(), 1 + levels, name="nan")


def normalise(m: Module, magnitude: Value, exponent: Value, sign: Value, *, name: str, rounding: bool = True) -> Value:
    """FP32 word of ``magnitude * 2**(exponent - 127)``, whose result is zero or normal; combinational.

    Rounded to nearest even, or without ``rounding`` cut off. Zero is +0.
    """
    width = len(magnitude)
    zeros = count_leading_zeros(m, magnitude, name=f"{name}_lzc")
    shifted = Signal(width, name=f"{name}_shifted")
    field = Signal(8, name=f"{name}_field")
    m.d.comb += [shifted.eq(magnitude << zeros), field.eq(exponent + (width - 1) - zeros)]
    low = width - SIGNIFICAND
    kept = Cat(Const(0, max(0, -low)), shifted[max(0, low):])
    word: Value = Cat(kept[:-1], field)
    if rounding and low > 0:
        word = (word + (shifted[low - 1] & (kept[0] | shifted[:low - 1].any())))[:31]
    some = shifted[-1]
    return Cat(Mux(some, word, 0), sign & some)


def add_fp32(m: Module, a: data.View, b: data.View) -> Value:
    """RNE32(a + b) of FP32 words that are zero or normal, as the result is; combinational."""
    large_first = Signal()
    large = Signal(Fp32)
    small = Signal(Fp32)
    distance = Signal(8)
    m.d.comb += [
        large_first.eq(a.as_value()[:31] >= b.as_value()[:31]),
        large.eq(Mux(large_first, a, b)), small.eq(Mux(large_first, b, a)),
        distance.eq(large.exponent - small.exponent),
    ]
    # Guard, round and sticky bit suffice (see `rtl.arith.fp32_add`); aligned by 27, an operand is in its sticky bit.
    most = SIGNIFICAND + 3
    amount = Signal(range(most + 1))
    far = Signal(SIGNIFICAND + most)
    subtract = large.sign ^ small.sign
    low, high, total = (Signal(SIGNIFICAND + 4, name=name) for name in ("addend", "larger", "total"))
    m.d.comb += [
        amount.eq(Mux(distance > most, most, distance)),
        far.eq(Cat(Const(0, most), small.fraction, small.exponent.any()) >> amount),
        low.eq(Cat(far[:most - 2].any(), far[most - 2:])),
        high.eq(Cat(Const(0, 3), large.fraction, large.exponent.any())),
        # One adder: what is subtracted is inverted, and the carry enters below the lowest bit.
        total.eq((Cat(Const(1, 1), high) + Cat(subtract, low ^ subtract.replicate(len(low))))[1:]),
    ]
    return normalise(m, total, large.exponent - (SIGNIFICAND + 2), large.sign, name="sum")
